//! Effects of writes: offered to consumers by the slot's owner, settled at all replicas. See [`crate::outbox`].
//!
//! A consumer asks for a batch ([`crate::io::Request::Effects`]), performs it and reports what is done
//! ([`crate::io::Request::Settle`]). Only what is decided is offered: a write that this peer carried out is, and of any
//! other the name is read first, which decides it. Telling the other replicas may fail, so they ask now and then about
//! the marks they keep; an owner that holds the same write without a mark answers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Done, Peer};
use crate::io::{Answer, RequestId, Time};
use crate::key::{Key, Slot};
use crate::member::PeerId;
use crate::message::{Message, Outcome};
use crate::outbox::{Consumer, Consumers, Effect, Pending};
use crate::register::{Register, WriteId};
use crate::store::{Store, StoreError};

/// Most effects in a batch (guess: some ten milliseconds of work).
pub(super) const BATCH: u32 = 256;
/// Marks in one message.
const MARKS: usize = 512;
/// Names read at once to find out whether their writes are decided (guess).
const READS: usize = 64;
/// Decided writes remembered; a name that is forgotten is read. Guess: about 5 MiB.
const DECIDED: usize = 65_536;
/// Marks and slots looked at before others have their turn (guess: a millisecond or two).
const LOOKS: usize = 1_024;
/// How often a replica asks owners about marks that it keeps, in milliseconds. Guess: seldom, as it only tidies up.
const ASK_OWNERS: u64 = 5_000;

/// A consumer that waits for effects.
struct Waiter {
    request: RequestId,
    limit: usize,
    deadline: Time,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Outbox {
    /// Slots in which there may be marks here, by consumer: a backlog of one does not slow the other down.
    slots: BTreeMap<Consumer, BTreeSet<Slot>>,
    /// Writes with marks that are known to be decided, by name.
    decided: BTreeMap<Key, WriteId>,
    /// Names being read to that end.
    pub(super) reading: BTreeSet<Key>,
    waiters: BTreeMap<Consumer, Waiter>,
    /// The last name offered, so that one whose effects fail does not hold up the others.
    cursors: BTreeMap<Consumer, Key>,
    ask_owners: Time,
    /// The last slot whose owner was asked.
    asked: Option<Slot>,
}

impl Outbox {
    /// Notes a decided write, in the place of the first at or after `some` key when there are `most` already: not of a
    /// certain one, which a backlog of another consumer could make the newest each time.
    fn remember(&mut self, key: Key, write: WriteId, most: usize, some: Key) {
        if self.decided.len() >= most && !self.decided.contains_key(&key) {
            let mut later = self.decided.range(some..);
            let found = later.next().or_else(|| self.decided.first_key_value());
            if let Some(victim) = found.map(|(key, _)| *key) {
                self.decided.remove(&victim);
            }
        }
        self.decided.insert(key, write);
    }
}

impl<S: Store> Peer<S> {
    /// After a start: which slots have marks.
    pub(super) fn resume_outbox(&mut self) -> Done {
        for slot in self.slots.held().clone() {
            self.look_for_marks(slot)?;
        }
        Ok(())
    }

    /// A slot is held (again), of which there may be an old copy here.
    pub(super) fn look_for_marks(&mut self, slot: Slot) -> Done {
        for consumer in Consumer::ALL {
            if !self.store.marks(slot, Some(consumer), None, 1)?.is_empty() {
                self.outbox.slots.entry(consumer).or_default().insert(slot);
            }
        }
        Ok(())
    }

    /// Marks a write that was just stored here, in the place of the mark of the one before.
    pub(super) fn mark(&mut self, register: &Register, consumers: Consumers) -> Done {
        if register.name.is_internal() {
            return Ok(());
        }
        let key = Key::of_name(&register.name);
        let mark = Pending {
            write: register.write,
            consumers,
        };
        let mark = (!consumers.is_empty()).then_some(mark);
        for consumer in Consumer::ALL.into_iter().filter(|c| consumers.has(*c)) {
            let slots = self.outbox.slots.entry(consumer).or_default();
            slots.insert(key.slot());
        }
        self.store.put_mark(&key, mark.as_ref())
    }

    /// Whether the effects of what this replica holds of a name are known to be done, `current` being what is to be
    /// replaced.
    pub(super) fn is_settled(
        &self,
        key: &Key,
        current: Option<&Register>,
    ) -> Result<bool, StoreError> {
        let Some(current) = current else {
            return Ok(true);
        };
        let held = self.store.register(key)?;
        Ok(held.is_some_and(|r| r.write == current.write) && self.store.mark(key)?.is_none())
    }

    fn owns(&self, slot: Slot) -> bool {
        let config = self.slots.config(slot);
        config.is_some_and(|c| c.owner() == Some(self.me))
    }

    /// An operation of this peer is over: what it wrote or found is decided.
    pub(super) fn note_decided(&mut self, key: Key, outcome: &Outcome) -> Done {
        let write = match outcome {
            Outcome::Written { write, .. } => *write,
            Outcome::Found(Some(register)) => register.write,
            _ => return Ok(()),
        };
        let slot = key.slot();
        if !self.owns(slot) || !self.outbox.slots.values().any(|s| s.contains(&slot)) {
            return Ok(());
        }
        match self.store.mark(&key)? {
            Some(mark) if mark.write == write => {
                let some = Key(self
                    .rng
                    .u128(..)
                    .to_be_bytes()
                    .repeat(2)
                    .try_into()
                    .expect("32 bytes"));
                self.outbox.remember(key, write, DECIDED, some);
            }
            Some(mark) if mark.write != write && self.outbox.reading.contains(&key) => {
                // Our copy is not what was decided.
                self.doubt(slot);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn start_effects(
        &mut self,
        request: RequestId,
        consumer: Consumer,
        limit: u32,
    ) -> Done {
        let waiter = Waiter {
            request,
            limit: limit.clamp(1, BATCH) as usize,
            deadline: self.now.after(self.settings.operation),
        };
        if let Some(before) = self.outbox.waiters.insert(consumer, waiter) {
            self.answer(before.request, Answer::Effects(Vec::new()));
        }
        self.drive_outbox()
    }

    /// Answers consumers for which there is something to do, or whose patience is over.
    pub(super) fn drive_outbox(&mut self) -> Done {
        let waiting: Vec<_> = self
            .outbox
            .waiters
            .iter()
            .map(|(c, w)| (*c, w.limit))
            .collect();
        for (consumer, limit) in waiting {
            let effects = self.effects(consumer, limit)?;
            let late = self.outbox.waiters[&consumer].deadline <= self.now;
            if (!effects.is_empty() || late)
                && let Some(waiter) = self.outbox.waiters.remove(&consumer)
            {
                self.answer(waiter.request, Answer::Effects(effects));
            }
        }
        Ok(())
    }

    /// Nothing will be offered any more.
    pub(super) fn give_up_effects(&mut self) -> Vec<RequestId> {
        let waiters = std::mem::take(&mut self.outbox.waiters);
        waiters.into_values().map(|w| w.request).collect()
    }

    /// Up to `limit` effects of decided writes in slots that this peer owns, after those offered last. Begins to find out
    /// whether others are decided. Looks at so many only, whatever the backlog; where none of them can be offered nor read,
    /// those behind have the next turn.
    pub(super) fn effects(
        &mut self,
        consumer: Consumer,
        limit: usize,
    ) -> Result<Vec<Effect>, StoreError> {
        let cursor = self.outbox.cursors.get(&consumer).copied();
        let first = cursor.map(|key| key.slot());
        let dirty = |range: &dyn Fn(Slot) -> bool| -> Vec<Slot> {
            let slots = self.outbox.slots.get(&consumer).into_iter().flatten();
            slots
                .copied()
                .filter(|s| range(*s) && self.owns(*s))
                .collect()
        };
        // Round the ring, and the cursor's slot twice: after the cursor first, all of it last.
        let mut turns: Vec<(Slot, Option<Key>)> = Vec::new();
        let after = |slot: Slot| cursor.filter(|key| key.slot() == slot);
        turns.extend(
            dirty(&|s| Some(s) >= first)
                .into_iter()
                .map(|s| (s, after(s))),
        );
        turns.extend(dirty(&|s| Some(s) <= first).into_iter().map(|s| (s, None)));
        let mut effects: Vec<Effect> = Vec::new();
        let (mut looks, mut reads, mut last) = (0, false, cursor);
        for (slot, after) in turns {
            looks += 1;
            let marks = self
                .store
                .marks(slot, Some(consumer), after.as_ref(), MARKS)?;
            if marks.is_empty() && after.is_none() {
                self.forget_slot(consumer, slot);
            }
            for (key, mark) in marks {
                if effects.len() == limit {
                    return Ok(effects);
                }
                if looks >= LOOKS {
                    if effects.is_empty()
                        && !reads
                        && let Some(last) = last
                    {
                        self.outbox.cursors.insert(consumer, last);
                    }
                    return Ok(effects);
                }
                looks += 1;
                last = Some(key);
                if self.outbox.decided.get(&key) != Some(&mark.write) {
                    reads |= self.find_out(key)?;
                } else if let Some(register) = self.store.register(&key)?
                    && effects.iter().all(|e| e.key != key)
                {
                    self.outbox.cursors.insert(consumer, key);
                    effects.push(Effect::of(&register));
                }
            }
        }
        Ok(effects)
    }

    fn forget_slot(&mut self, consumer: Consumer, slot: Slot) {
        if let Some(slots) = self.outbox.slots.get_mut(&consumer) {
            slots.remove(&slot);
        }
    }

    /// Reads a name, unless an operation that decides it is under way; whether it does.
    fn find_out(&mut self, key: Key) -> Result<bool, StoreError> {
        let reading = &self.outbox.reading;
        if self.is_led(&key) || reading.contains(&key) || reading.len() >= READS {
            return Ok(false);
        }
        let Some(register) = self.store.register(&key)? else {
            return Ok(false);
        };
        self.outbox.reading.insert(key);
        self.start_decide(register.name)?;
        Ok(true)
    }

    /// A consumer has performed the effects of these writes.
    pub(super) fn settle_effects(
        &mut self,
        consumer: Consumer,
        writes: Vec<(Key, WriteId)>,
    ) -> Done {
        let mut told: BTreeMap<PeerId, Vec<(Key, Pending)>> = BTreeMap::new();
        for (key, write) in writes {
            let done = Pending {
                write,
                consumers: consumer.into(),
            };
            self.clear_mark(&key, done)?;
            let config = self.slots.config(key.slot());
            for id in config.iter().flat_map(|c| c.participants()) {
                if id != self.me {
                    told.entry(id).or_default().push((key, done));
                }
            }
        }
        self.tell_settled(told);
        Ok(())
    }

    fn tell_settled(&mut self, told: BTreeMap<PeerId, Vec<(Key, Pending)>>) {
        for (id, marks) in told {
            for marks in marks.chunks(MARKS) {
                let marks = marks.to_vec();
                self.send(id, Message::Settled { marks });
            }
        }
    }

    fn clear_mark(&mut self, key: &Key, done: Pending) -> Done {
        let Some(mark) = self.store.mark(key)? else {
            return Ok(());
        };
        let left = mark.after(done);
        if left != Some(mark) {
            self.store.put_mark(key, left.as_ref())?;
        }
        if left.is_none() {
            self.outbox.decided.remove(key);
        }
        Ok(())
    }

    /// The owner says what is done.
    pub(super) fn on_settled(&mut self, marks: Vec<(Key, Pending)>) -> Done {
        let mut marks = marks.into_iter();
        marks.try_for_each(|(key, done)| self.clear_mark(&key, done))
    }

    /// A replica asks what of this is done: where we hold the same write, all that our own mark does not name.
    pub(super) fn on_unsettled(&mut self, from: PeerId, marks: Vec<(Key, Pending)>) -> Done {
        let mut done = Vec::new();
        for (key, theirs) in marks {
            let held = self.store.register(&key)?;
            if !self.owns(key.slot()) || held.is_none_or(|r| r.write != theirs.write) {
                continue;
            }
            let ours = self
                .store
                .mark(&key)?
                .map_or(Consumers::NONE, |m| m.consumers);
            let consumers = theirs.consumers.without(ours);
            if !consumers.is_empty() {
                done.push((
                    key,
                    Pending {
                        consumers,
                        ..theirs
                    },
                ));
            }
        }
        self.tell_settled(BTreeMap::from([(from, done)]));
        Ok(())
    }

    /// Asks owners about marks that are kept here, some slots at a time.
    pub(super) fn ask_owners(&mut self) -> Done {
        if self.outbox.ask_owners > self.now {
            return Ok(());
        }
        self.outbox.ask_owners = self.now.after(ASK_OWNERS);
        let asked = self.outbox.asked.take();
        let slots: BTreeSet<Slot> = self.outbox.slots.values().flatten().copied().collect();
        let mut questions: BTreeMap<PeerId, Vec<(Key, Pending)>> = BTreeMap::new();
        let mut count = 0;
        for slot in slots.into_iter().filter(|s| Some(*s) > asked) {
            let owner = self.slots.config(slot).and_then(|c| c.owner());
            let Some(owner) = owner.filter(|id| *id != self.me) else {
                continue;
            };
            let marks = self.store.marks(slot, None, None, MARKS)?;
            if marks.is_empty() {
                Consumer::ALL
                    .iter()
                    .for_each(|c| self.forget_slot(*c, slot));
            }
            count += marks.len();
            questions.entry(owner).or_default().extend(marks);
            if count >= MARKS {
                self.outbox.asked = Some(slot);
                break;
            }
        }
        for (owner, marks) in questions {
            for marks in marks.chunks(MARKS) {
                let marks = marks.to_vec();
                self.send(owner, Message::Unsettled { marks });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Name;
    use crate::outbox::Trail;
    use crate::peer::names::tests::alone;
    use crate::register::{Value, Version};
    use crate::store::memory::MemoryStore;

    /// A network of one peer, with so many marks in its store of which it does not know whether they are decided.
    fn with_backlog(marks: u64) -> Peer<MemoryStore> {
        let mut peer = alone();
        for op in 0..marks {
            let register = Register {
                name: Name::new(format!("f{op}")).unwrap(),
                version: Version::least_of(1),
                write: WriteId {
                    peer: PeerId(1),
                    op,
                },
                value: Value::Deleted,
                trail: Trail::default().into(),
            };
            peer.store.put_register(&register).unwrap();
            peer.mark(&register, Consumer::Events.into()).unwrap();
        }
        peer
    }

    #[test]
    fn a_backlog_is_looked_at_some_at_a_time_and_all_of_it_is_offered() {
        let marks = 3 * LOOKS as u64;
        let mut peer = with_backlog(marks);
        let mut offered = BTreeSet::new();
        for _ in 0..marks {
            // Those read first are still being read: others have their turn.
            for effect in peer.effects(Consumer::Events, 64).unwrap() {
                let write = WriteId {
                    peer: PeerId(1),
                    op: effect.state.write.op,
                };
                offered.insert(effect.key);
                peer.settle_effects(Consumer::Events, vec![(effect.key, write)])
                    .unwrap();
            }
            while let Some(message) = peer.loopback.pop_front() {
                peer.on_message(PeerId(1), message).unwrap();
            }
            if offered.len() as u64 == marks {
                return;
            }
        }
        panic!("{} of {marks} were offered", offered.len());
    }

    #[test]
    fn what_cannot_be_decided_holds_up_nothing_behind_it() {
        let mut peer = with_backlog(3 * LOOKS as u64);
        let keys: Vec<Key> = Slot::all()
            .flat_map(|slot| peer.store.marks(slot, None, None, MARKS).unwrap())
            .map(|(key, _)| key)
            .collect();
        // Reads that never end.
        peer.outbox.reading.extend(&keys[..READS]);
        let last = *keys.last().unwrap();
        let write = peer.store.mark(&last).unwrap().unwrap().write;
        peer.outbox.decided.insert(last, write);
        let offers = (0..8).find_map(|_| peer.effects(Consumer::Events, 64).unwrap().pop());
        assert_eq!(offers.map(|effect| effect.key), Some(last));
    }

    #[test]
    fn what_is_decided_last_is_remembered_however_many_there_are() {
        let key = |n: u8| Key([n; 32]);
        let write = |op| WriteId {
            peer: PeerId(1),
            op,
        };
        let mut outbox = Outbox::default();
        for n in 0..4 {
            outbox.remember(key(n), write(1), 4, key(0));
        }
        outbox.remember(key(2), write(2), 4, key(0));
        assert_eq!(outbox.decided.len(), 4, "in its own place");
        outbox.remember(key(9), write(1), 4, key(2));
        assert_eq!(
            outbox.decided.keys().collect::<Vec<_>>(),
            [&key(0), &key(1), &key(3), &key(9)]
        );
        outbox.remember(key(8), write(1), 4, key(200));
        assert!(outbox.decided.contains_key(&key(8)) && !outbox.decided.contains_key(&key(0)));
    }
}
