//! Looking after the references that chunks have here; what makes it safe is in [`crate::collect`].
//!
//! Names are looked at one after another, a few each second, round after round, and at once when a replica of the name
//! says that it has changed. A look is a read of the name without a claim: where replicas disagree nothing follows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use super::names::Checked;
use super::{Done, Peer};
use crate::collect::{Referrer, Upload, Verdict, judge, upload_of};
use crate::io::{ChunkOutcome, Given, Output, Time};
use crate::key::{Key, Name, Slot};
use crate::member::PeerId;
use crate::message::Message;
use crate::register::{Condition, Register, Value, WriteId};
use crate::slot::SlotConfig;
use crate::store::{Store, StoreError};

/// References dropped in one step, so that a file of any size does not keep the peer from its messages (guess).
const DROPS: usize = 512;
/// Uploads whose references are being dropped, pins watched, readers: more are found again, watched later, or taken for
/// there. Guess: a few megabytes.
const TABLE: usize = 16_384;
/// Names in one message about changes: at most 1 KiB each, so well below the transport's limit.
pub(super) const RELEASED: usize = 512;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Collect {
    /// How far this round has come.
    cursor: Option<Referrer>,
    /// When the next one begins.
    next_round: Time,
    /// To be looked at out of turn.
    due: BTreeSet<Name>,
    /// The last of these that was, so that some which cannot be judged do not hold up the others.
    last_due: Option<Name>,
    /// Being looked at.
    checking: BTreeMap<u64, Referrer>,
    next_check: u64,
    /// Uploads that may be on their way.
    pins: BTreeMap<Referrer, Pin>,
    /// Counts rounds.
    round: u64,
    /// Over for good: not to be taken over again from a replica that has not found out yet.
    dead: Dead,
    /// Over, with chunks left to go through, after this one.
    dropping: VecDeque<(Referrer, Option<Key>)>,
    /// Until when somebody reads an upload of a name.
    readers: BTreeMap<(Key, Upload), Time>,
    /// Until when all readers that this peer does not know of have ended, by slot.
    blind: BTreeMap<Slot, Time>,
    /// The same for all slots.
    started: Time,
    /// Names whose file was replaced or deleted here, to be told to all.
    released: BTreeSet<Name>,
    /// Names of which an upload was found to be over, to be told to the others that hold its chunks: what this peer
    /// forgets before they have found out, it would take over from them again.
    over: BTreeSet<(PeerId, Name)>,
}

/// An upload that may be on its way.
struct Pin {
    /// Since when that is known.
    since: Time,
    /// The round in which its name was looked at last. What a whole round has not met refers to nothing here any more.
    met: u64,
}

/// The uploads found to be over last, as hashes, oldest first.
#[derive(Default)]
struct Dead {
    known: BTreeSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

impl Dead {
    fn remember(&mut self, by: &Referrer, most: usize) {
        if self.known.insert(fingerprint(by)) {
            self.order.push_back(fingerprint(by));
        }
        if self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// 128 bits of BLAKE3: no two referrers have the same.
fn fingerprint(by: &Referrer) -> [u8; 16] {
    let Referrer { name, upload, base } = by;
    let mut h = blake3::Hasher::new();
    h.update(&upload.0.to_be_bytes());
    if let Some(WriteId { peer, op }) = base {
        h.update(&peer.0.to_be_bytes()).update(&op.to_be_bytes());
    }
    h.update(&[base.is_some().into()])
        .update(name.as_str().as_bytes());
    h.finalize().as_bytes()[..16]
        .try_into()
        .expect("sixteen bytes")
}

impl Collect {
    pub(super) fn new(started: Time) -> Self {
        Collect {
            started,
            ..Collect::default()
        }
    }

    /// Entries of all its tables.
    pub(super) fn entries(&self) -> usize {
        let sets = self.due.len() + self.released.len() + self.over.len();
        let maps = self.pins.len() + self.readers.len() + self.blind.len();
        let lists = self.dead.order.len() + self.dropping.len();
        sets + maps + self.checking.len() + lists
    }

    /// Whether this referrer is known to be over.
    pub(super) fn is_dead(&self, by: &Referrer) -> bool {
        self.dead.known.contains(&fingerprint(by))
    }

    /// Takes out the name that follows on the last one.
    fn next_due(&mut self) -> Option<Name> {
        let after = self.last_due.take().map_or(Unbounded, Excluded);
        let mut later = self.due.range::<Name, _>((after, Unbounded));
        let next = later.next().or_else(|| self.due.first()).cloned()?;
        self.due.remove(&next);
        self.last_due = Some(next.clone());
        Some(next)
    }

    /// Whether a later upload is on its way that would replace the same write.
    fn has_younger(&self, by: &Referrer, since: Time) -> bool {
        let of_name = self.pins.range(before_all_of(by.name.clone())..);
        let mut of_name = of_name.take_while(|(other, _)| other.name == by.name);
        of_name.any(|(other, pin)| other.base == by.base && pin.since > since)
    }

    fn end_round(&mut self) {
        let round = self.round;
        self.pins.retain(|_, pin| pin.met >= round);
        self.round += 1;
    }

    /// Its references are to be dropped, and not to be taken over again. What there is no room for is found again.
    fn bury(&mut self, by: &Referrer, most: usize) {
        self.dead.remember(by, most);
        if self.dropping.len() < TABLE {
            self.dropping.push_back((by.clone(), None));
        }
    }
}

impl<S: Store> Peer<S> {
    /// A writer's chunk is here, or is to be pinned if it is: one step with its reference.
    pub(super) fn on_chunk_pinned(
        &mut self,
        key: Key,
        given: Given,
        epoch: u64,
        by: &Referrer,
    ) -> Result<ChunkOutcome, StoreError> {
        let slot = key.slot();
        let config = self.slots.config(slot);
        let known = config.map_or(0, |c| c.epoch);
        let involved = config.is_some_and(|c| c.involves(self.me));
        let held = self.store.chunk(&key)?;
        if known != epoch || !involved {
            if held.is_none() && matches!(given, Given::Bytes(_)) {
                self.out.push(Output::DropChunks(vec![key]));
            }
            return Ok(ChunkOutcome::Stale(known));
        }
        let len = match (held, given) {
            (Some(held), Given::Reference(Some(said))) if held != said => {
                return Ok(ChunkOutcome::OtherLength(held));
            }
            (Some(len), _) | (None, Given::Bytes(len)) => len,
            (None, Given::Reference(_)) => return Ok(ChunkOutcome::Missing),
        };
        if held.is_none() {
            self.store.put_chunk(&key, len)?;
        }
        self.store.put_reference(&key, len, by)?;
        self.slots.touch(slot);
        if let Some(pin) = self.collect.pins.get_mut(by) {
            pin.since = self.now;
        }
        self.sync.wanted.remove(&key);
        self.chunk_is_settled(key)?;
        Ok(ChunkOutcome::Stored)
    }

    /// The name's register changes here from `old`.
    pub(super) fn note_released(&mut self, old: Option<&Register>, new: &Register) {
        let upload = old.and_then(|r| upload_of(&r.value));
        if upload.is_some() && upload != upload_of(&new.value) {
            self.look_at(new.name.clone());
            let owner = self.slots.config(Key::of_name(&new.name).slot());
            let ours = owner.is_some_and(|c| c.owner() == Some(self.me));
            if ours && self.collect.released.len() < TABLE {
                self.collect.released.insert(new.name.clone());
            }
        }
    }

    fn look_at(&mut self, name: Name) {
        // Those that follow from what is found each second, many times over.
        if self.collect.due.len() < self.settings.remembered / 8 {
            self.collect.due.insert(name);
        }
    }

    /// Names that nothing refers to here need no look.
    pub(super) fn on_released(&mut self, names: Vec<Name>) -> Done {
        for name in names {
            let next = self
                .store
                .next_referrer(Some(&before_all_of(name.clone())))?;
            if next.is_some_and(|by| by.name == name) {
                self.look_at(name);
            }
        }
        Ok(())
    }

    /// Tells everybody which names' files were replaced or deleted, and those that hold their chunks of which it was found
    /// out. Lost messages only cost time.
    pub(super) fn tell_released(&mut self) {
        let names: Vec<Name> = std::mem::take(&mut self.collect.released)
            .into_iter()
            .collect();
        let others = self.gossip.present().map(|m| m.id);
        let others: Vec<PeerId> = others.filter(|id| *id != self.me).collect();
        for batch in names.chunks(RELEASED) {
            self.send_all(
                &others,
                &Message::Released {
                    names: batch.to_vec(),
                },
            );
        }
        let over: Vec<(PeerId, Name)> =
            std::mem::take(&mut self.collect.over).into_iter().collect();
        for of_one in over.chunk_by(|a, b| a.0 == b.0) {
            for batch in of_one.chunks(RELEASED) {
                let names = batch.iter().map(|(_, name)| name.clone()).collect();
                self.send(of_one[0].0, Message::Released { names });
            }
        }
    }

    /// The fetched bytes of a chunk never came: perhaps nobody needs them any more.
    pub(super) fn doubt_references(&mut self, key: &Key) -> Done {
        for by in self.store.referrers(key, self.settings.checks)? {
            self.look_at(by.name);
        }
        Ok(())
    }

    /// Once a second: forgets what is over and looks at the next names.
    pub(super) fn drive_collection(&mut self) -> Done {
        let now = self.now;
        self.collect.readers.retain(|_, until| *until > now);
        self.collect.blind.retain(|_, until| *until > now);
        self.drop_references()?;
        let free = |peer: &Self| {
            let checking = peer.collect.checking.len();
            peer.settings.checks.saturating_sub(checking)
        };
        // The other half is for the round, which must come to an end whatever is due.
        let half = free(self).div_ceil(2);
        let most = self.collect.checking.len() + half;
        // So often at most: what is answered at once may be due again at once.
        for _ in 0..half {
            if self.collect.checking.len() >= most {
                break;
            }
            let Some(name) = self.collect.next_due() else {
                break;
            };
            self.check_all_of(name, most)?;
        }
        if self.collect.next_round > now {
            return Ok(());
        }
        for _ in 0..free(self) {
            let next = self.store.next_referrer(self.collect.cursor.as_ref())?;
            let ended = next.is_none();
            self.collect.cursor = next.clone();
            if let Some(by) = next {
                self.check(by)?;
            }
            if ended {
                self.collect.end_round();
                self.collect.next_round = now.after(self.settings.collect);
                break;
            }
        }
        Ok(())
    }

    /// While fewer than `most` are being checked; the round comes to the others.
    fn check_all_of(&mut self, name: Name, most: usize) -> Done {
        let mut last = before_all_of(name);
        for _ in 0..self.settings.checks {
            match self.store.next_referrer(Some(&last))? {
                Some(by) if by.name == last.name && self.collect.checking.len() < most => {
                    self.check(by.clone())?;
                    last = by;
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Reads the referrer's name.
    fn check(&mut self, by: Referrer) -> Done {
        if let Some(pin) = self.collect.pins.get_mut(&by) {
            pin.met = self.collect.round;
        }
        if self.collect.checking.values().any(|c| *c == by) {
            return Ok(());
        }
        self.collect.next_check += 1;
        let (id, name, upload) = (self.collect.next_check, by.name.clone(), by.upload);
        self.collect.checking.insert(id, by);
        self.start_check(id, name, upload)
    }

    /// The name was read; `None`: nobody could say what it holds.
    pub(super) fn on_checked(&mut self, id: u64, checked: Option<Checked>) -> Done {
        let Some(by) = self.collect.checking.remove(&id) else {
            return Ok(());
        };
        let Some(Checked { found, read }) = checked else {
            self.look_at(by.name);
            return Ok(());
        };
        match judge(&by, found.as_ref(), read) {
            Verdict::Live => {
                self.collect.pins.remove(&by);
            }
            Verdict::Read => self.look_at(by.name),
            Verdict::Pinned => self.on_pinned(by, found)?,
            Verdict::Dead => {
                self.collect.pins.remove(&by);
                self.collect.bury(&by, self.settings.remembered);
                self.drop_references()?;
            }
        }
        Ok(())
    }

    /// The upload may be on its way; ends it when that takes too long.
    fn on_pinned(&mut self, by: Referrer, found: Option<Register>) -> Done {
        if self.collect.pins.len() >= TABLE && !self.collect.pins.contains_key(&by) {
            return Ok(());
        }
        let now = self.now;
        let met = self.collect.round;
        let pin = Pin { since: now, met };
        let since = self.collect.pins.entry(by.clone()).or_insert(pin).since;
        if since.after(self.settings.pin) > now {
            return Ok(());
        }
        // A fence would end a younger upload in the same place too: one that goes on where this one broke off.
        if self.collect.has_younger(&by, since) {
            return Ok(());
        }
        // Not at once again, if it should not work out.
        self.collect
            .pins
            .insert(by.clone(), Pin { since: now, met });
        let value = found.map_or(Value::Deleted, |r| r.value);
        self.look_at(by.name.clone());
        self.start_fence(by.name, value, Condition::still(by.base))
    }

    /// Drops references of uploads that are over, and the chunks of which none is left.
    fn drop_references(&mut self) -> Done {
        let Some((by, after)) = self.collect.dropping.pop_front() else {
            return Ok(());
        };
        let keys = self.store.referred(&by, after.as_ref(), DROPS)?;
        if keys.len() == DROPS {
            self.collect
                .dropping
                .push_back((by.clone(), keys.last().copied()));
        }
        let mut gone = Vec::new();
        for key in keys {
            let slot = key.slot();
            // A frozen copy stays as it is until it is proved to live elsewhere.
            if !self.slots.held().contains(&slot) {
                continue;
            }
            self.tell_holders(slot, &by.name);
            self.store.remove_reference(&key, &by)?;
            self.slots.touch(slot);
            if self.store.referrers(&key, 1)?.is_empty() {
                self.store.remove_chunk(&key)?;
                self.sync.wanted.remove(&key);
                self.chunk_is_settled(key)?;
                gone.push(key);
            }
        }
        if !gone.is_empty() {
            self.out.push(Output::DropChunks(gone));
        }
        Ok(())
    }

    /// The others that hold the slot are to look at the name.
    fn tell_holders(&mut self, slot: Slot, name: &Name) {
        let config = self.slots.config(slot);
        for id in config.into_iter().flat_map(SlotConfig::participants) {
            if id != self.me && self.collect.over.len() < TABLE {
                self.collect.over.insert((id, name.clone()));
            }
        }
    }

    /// Somebody reads this upload of a name.
    pub(super) fn note_reader(&mut self, key: Key, upload: Upload) {
        let until = self.now.after(self.settings.hold);
        let readers = &mut self.collect.readers;
        if readers.len() < TABLE || readers.contains_key(&(key, upload)) {
            readers.insert((key, upload), until);
        } else {
            // Not remembered by name: anybody may be reading anything of the slot.
            self.forget_readers(key.slot());
        }
    }

    /// Whether somebody reads, or may read, this upload of a name.
    pub(super) fn has_reader(&self, key: Key, upload: Upload) -> bool {
        let blind = self.collect.blind.get(&key.slot());
        let ends = [
            self.collect.readers.get(&(key, upload)).copied(),
            blind.copied(),
            Some(self.collect.started.after(self.settings.hold)),
        ];
        self.collect.readers.len() >= TABLE || ends.into_iter().flatten().any(|t| t > self.now)
    }

    /// The slot's configuration is new: readers may have been told to others.
    pub(super) fn forget_readers(&mut self, slot: Slot) {
        let until = self.now.after(self.settings.hold);
        self.collect.blind.insert(slot, until);
    }
}

/// No upload has the number zero.
fn before_all_of(name: Name) -> Referrer {
    Referrer {
        name,
        upload: Upload(0),
        base: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(upload: u128) -> Referrer {
        Referrer {
            name: Name::new("a").unwrap(),
            upload: Upload(upload),
            base: None,
        }
    }

    #[test]
    fn a_name_that_cannot_be_judged_does_not_hold_up_others() {
        let mut collect = Collect::default();
        let names = ["a", "b", "c"].map(|name| Name::new(name).unwrap());
        collect.due.extend(names.clone());
        for name in names.iter().chain(&names) {
            assert_eq!(collect.next_due().as_ref(), Some(name));
            collect.due.insert(name.clone());
        }
        collect.due.clear();
        assert_eq!(collect.next_due(), None);
    }

    #[test]
    fn a_pin_that_a_whole_round_did_not_meet_is_forgotten() {
        let mut collect = Collect::default();
        for (n, met) in [(1, 0), (2, 1)] {
            let since = Time(0);
            collect.pins.insert(by(n), Pin { since, met });
        }
        collect.end_round();
        assert_eq!(collect.pins.len(), 2);
        collect.end_round();
        assert_eq!(collect.pins.keys().collect::<Vec<_>>(), [&by(2)]);
    }

    #[test]
    fn an_upload_that_goes_on_where_another_broke_off_is_the_younger_one() {
        let mut collect = Collect::default();
        let mut note = |by: Referrer, since| {
            let since = Time(since);
            collect.pins.insert(by, Pin { since, met: 0 });
        };
        note(by(5), 10);
        note(by(3), 20);
        let elsewhere = Name::new("b").unwrap();
        note(
            Referrer {
                name: elsewhere,
                ..by(6)
            },
            30,
        );
        let base = Some(WriteId {
            peer: PeerId(1),
            op: 1,
        });
        note(Referrer { base, ..by(7) }, 30);
        assert!(collect.has_younger(&by(5), Time(10)));
        assert!(!collect.has_younger(&by(3), Time(20)));
    }

    #[test]
    fn so_many_uploads_are_remembered_as_over_and_no_more() {
        let mut collect = Collect::default();
        for n in 1..=5 {
            collect.bury(&by(n), 3);
        }
        let dead: Vec<bool> = (1..=5).map(|n| collect.is_dead(&by(n))).collect();
        assert_eq!(dead, [false, false, true, true, true]);
    }
}
