//! Catching up and anti-entropy: one mechanism for a newcomer that takes over a slot, a peer that was away, a replica
//! that missed a write, and a receiver that has to prove that it holds a leaver's copy.
//!
//! A slot is compared with one other replica at a time: roots first, entries where they differ, then registers and chunks
//! that are missing here are pulled. A slot with many entries is listed in pages, in the order of their keys. What the
//! other's copy gains between two of them may be overlooked, like what it gains after a list of one page; all that it had
//! at the first is listed. (It proves nothing for a receipt, as there is no root of what was compared.) Comparing with
//! everybody who matters makes the slot *synced* within its epoch. How the other answers is in `answers`.
//!
//! So many slots are compared at once as the others can answer: fewer by half when an answer does not come in time, one
//! more for each comparison that ends (the additive increase and multiplicative decrease of Chiu and Jain, 1989).

use std::collections::{BTreeMap, BTreeSet};

use super::chunks::Wanted;
use super::{Done, Peer};
use crate::config::SYNC_BATCH;
use crate::io::Time;
use crate::key::{Key, Slot};
use crate::member::PeerId;
use crate::message::{Message, Root};
use crate::outbox::{Consumers, Pending};
use crate::quorum::{catch_up_quorum, count};
use crate::register::Register;
use crate::store::{Entry, Store};

mod answers;

pub(super) use answers::Page;

/// Comparisons under way at once: at most, and when nobody answers in time.
const WINDOW: (usize, usize) = (2 * SYNC_BATCH, 8);

/// How far a held slot is compared with its other replicas.
#[derive(Default)]
struct Progress {
    /// Compared with these since the epoch began or a doubt arose.
    done: Vec<PeerId>,
    /// Compared with all that matter, once within this epoch.
    synced: bool,
    /// The epoch was learned since this peer started.
    fresh: bool,
}

/// A comparison under way.
pub(super) struct Exchange {
    /// Epoch under which it began.
    epoch: u64,
    names: BTreeSet<Key>,
    pub(super) chunks: BTreeSet<Key>,
    /// The other's root, once it has listed all its entries.
    root: Option<Root>,
    /// How far it has listed them, and the root it had then.
    listed: Option<(Entry, Root)>,
    /// Its copy has changed between two pages.
    changed: bool,
    /// Given up then, and begun anew: the other may have found out that it lacks what we wait for.
    deadline: Time,
}

/// How long a comparison waits for the next of its chunks, in milliseconds. Guess: many tries, of many fetches at once.
const CHUNK_PATIENCE: u64 = 120_000;

impl Exchange {
    /// Something has come: waits for what is next, `retry` being how long for a message.
    pub(super) fn go_on(&mut self, now: Time, retry: u64) {
        self.deadline = now.after(if self.chunks.is_empty() {
            retry
        } else {
            CHUNK_PATIENCE
        });
    }
}

/// See the module's documentation.
pub(super) struct Sync {
    progress: BTreeMap<Slot, Progress>,
    /// Slots with somebody left to compare with.
    todo: BTreeSet<Slot>,
    pub(super) exchanges: BTreeMap<(Slot, PeerId), Exchange>,
    /// How many of them there may be.
    window: usize,
    questions: answers::Questions,
    pub(super) wanted: BTreeMap<Key, Wanted>,
    /// Chunks the driver is bringing; bounded by the settings.
    pub(super) fetching: BTreeSet<Key>,
    /// When all slots are compared again.
    next_round: Time,
    /// Slots whose replicas are to hear that we, the newcomer, have everything.
    caught_up: BTreeSet<Slot>,
    /// Those that have heard; they hear again while the configuration does not move on.
    told: BTreeSet<Slot>,
    tell_again: Time,
}

impl Sync {
    pub(super) fn new() -> Self {
        Sync {
            progress: BTreeMap::new(),
            todo: BTreeSet::new(),
            exchanges: BTreeMap::new(),
            window: WINDOW.0,
            questions: answers::Questions::default(),
            wanted: BTreeMap::new(),
            fetching: BTreeSet::new(),
            next_round: Time(0),
            caught_up: BTreeSet::new(),
            told: BTreeSet::new(),
            tell_again: Time(0),
        }
    }

    /// Forgets comparisons that wait for too long.
    fn give_up(&mut self, now: Time) {
        let late = |e: &Exchange| e.deadline <= now;
        if self
            .exchanges
            .values()
            .any(|e| late(e) && e.chunks.is_empty())
        {
            self.window = (self.window / 2).max(WINDOW.1);
        }
        self.exchanges.retain(|_, e| !late(e));
    }

    pub(super) fn is_synced(&self, slot: Slot) -> bool {
        self.progress.get(&slot).is_some_and(|p| p.synced)
    }

    /// Whether the slot's epoch was learned since this peer started.
    pub(super) fn is_fresh(&self, slot: Slot) -> bool {
        self.progress.get(&slot).is_some_and(|p| p.fresh)
    }

    pub(super) fn missing(&self) -> usize {
        self.wanted.len()
    }
}

impl<S: Store> Peer<S> {
    /// After a start: every held slot may have missed something.
    pub(super) fn resume_sync(&mut self) {
        let held: Vec<Slot> = self.slots.held().iter().copied().collect();
        held.into_iter()
            .for_each(|slot| self.restart_sync(slot, false));
        self.sync.next_round = self.now.after(self.settings.anti_entropy);
    }

    /// The slot's configuration is new here (`fresh`), or this peer has just started: nothing said before counts.
    pub(super) fn restart_sync(&mut self, slot: Slot, fresh: bool) {
        self.sync.exchanges.retain(|(s, _), _| *s != slot);
        if self.slots.held().contains(&slot) {
            let progress = Progress {
                fresh,
                ..Progress::default()
            };
            self.sync.progress.insert(slot, progress);
            self.sync.todo.insert(slot);
        } else if self.sync.progress.remove(&slot).is_some() {
            self.sync.todo.remove(&slot);
            self.sync.wanted.retain(|key, _| key.slot() != slot);
        }
    }

    /// Compares the slot with everybody again, though it stays synced meanwhile.
    pub(super) fn doubt(&mut self, slot: Slot) {
        if let Some(progress) = self.sync.progress.get_mut(&slot) {
            progress.done.clear();
            self.sync.todo.insert(slot);
        }
    }

    /// A peer has come (back): what it holds may differ from ours.
    pub(super) fn on_peer_back(&mut self, id: PeerId) {
        let slots: Vec<Slot> = self.slots.held().iter().copied().collect();
        for slot in slots {
            if self.slots.config(slot).is_some_and(|c| c.involves(id)) {
                if let Some(progress) = self.sync.progress.get_mut(&slot) {
                    progress.done.retain(|p| *p != id);
                }
                self.sync.todo.insert(slot);
            }
        }
    }

    pub(super) fn on_sync_hint(&mut self, slots: Vec<Slot>) {
        slots.into_iter().for_each(|slot| self.doubt(slot));
    }

    pub(super) fn schedule_anti_entropy(&mut self) {
        if self.sync.next_round <= self.now {
            let held: Vec<Slot> = self.slots.held().iter().copied().collect();
            held.into_iter().for_each(|slot| self.doubt(slot));
            // Spread, so that peers that started together do not compare together for ever.
            let spread = self.rng.u64(0..=self.settings.anti_entropy / 4);
            self.sync.next_round = self.now.after(self.settings.anti_entropy + spread);
        }
    }

    pub(super) fn drive_sync(&mut self) -> Done {
        let now = self.now;
        self.sync.give_up(now);
        self.answer_more()?;
        let mut requests: BTreeMap<PeerId, Vec<(Slot, u64, Root)>> = BTreeMap::new();
        let todo: Vec<Slot> = self.sync.todo.iter().copied().collect();
        for slot in todo {
            if self.sync.exchanges.len() >= self.sync.window {
                break;
            }
            match self.next_partner(slot) {
                Some(partner) => {
                    let Some(epoch) = self.slots.config(slot).map(|c| c.epoch) else {
                        continue;
                    };
                    if self.begin_exchange(slot, partner, epoch) {
                        let root = self.root(slot)?;
                        requests
                            .entry(partner)
                            .or_default()
                            .push((slot, epoch, root));
                    }
                }
                None => self.settle_sync(slot),
            }
        }
        for (partner, items) in requests {
            for batch in items.chunks(SYNC_BATCH) {
                self.send(
                    partner,
                    Message::SyncRequest {
                        items: batch.to_vec(),
                    },
                );
            }
        }
        self.tell_caught_up();
        self.fetch_wanted();
        Ok(())
    }

    /// Opens a comparison; false when one is open already.
    pub(super) fn begin_exchange(&mut self, slot: Slot, partner: PeerId, epoch: u64) -> bool {
        let deadline = self.now.after(self.settings.retry);
        let mut fresh = false;
        self.sync
            .exchanges
            .entry((slot, partner))
            .or_insert_with(|| {
                fresh = true;
                Exchange {
                    epoch,
                    names: BTreeSet::new(),
                    chunks: BTreeSet::new(),
                    root: None,
                    listed: None,
                    changed: false,
                    deadline,
                }
            });
        fresh
    }

    /// Whom to compare the slot with next: a replica that answers and was not yet compared with.
    fn next_partner(&self, slot: Slot) -> Option<PeerId> {
        let config = self.slots.config(slot)?;
        let progress = self.sync.progress.get(&slot)?;
        let open =
            |id: &PeerId| *id != self.me && !progress.done.contains(id) && self.gossip.is_up(*id);
        config.replicas.iter().copied().find(open)
    }

    /// Nobody is left to compare with (now): does it suffice?
    fn settle_sync(&mut self, slot: Slot) {
        let Some(config) = self.slots.config(slot) else {
            return;
        };
        let Some(progress) = self.sync.progress.get_mut(&slot) else {
            return;
        };
        let mut met = progress.done.clone();
        met.push(self.me);
        let enough = count(&config.replicas, &met)
            >= catch_up_quorum(config.replicas.len(), self.settings.replication.write);
        if enough {
            progress.synced = true;
            self.sync.todo.remove(&slot);
            if config.newcomer() == Some(self.me) {
                self.sync.caught_up.insert(slot);
            }
        }
    }

    /// A newcomer tells the slot's replicas that it has everything, until the configuration moves on.
    fn tell_caught_up(&mut self) {
        if self.sync.tell_again <= self.now {
            self.sync.tell_again = self.now.after(self.settings.retry);
            let told = std::mem::take(&mut self.sync.told);
            self.sync.caught_up.extend(told);
        }
        let mut told: BTreeMap<PeerId, Vec<(Slot, u64)>> = BTreeMap::new();
        for slot in std::mem::take(&mut self.sync.caught_up) {
            let Some(config) = self.slots.config(slot) else {
                continue;
            };
            if config.newcomer() == Some(self.me) && self.sync.is_synced(slot) {
                for id in &config.replicas {
                    told.entry(*id).or_default().push((slot, config.epoch));
                }
                self.sync.told.insert(slot);
            }
        }
        for (id, slots) in told {
            self.send(id, Message::CaughtUp { slots });
        }
    }

    pub(super) fn on_sync_reply(
        &mut self,
        from: PeerId,
        slot: Slot,
        epoch: u64,
        root: Root,
        page: Page,
    ) -> Done {
        let Some(exchange) = self.sync.exchanges.get(&(slot, from)) else {
            return Ok(());
        };
        if exchange.root.is_some()
            || exchange.listed.as_ref().map(|(last, _)| last) != page.after.as_ref()
        {
            return Ok(());
        }
        if epoch < exchange.epoch {
            if let Some(config) = self.slots.config(slot).cloned() {
                let (epoch, root) = (config.epoch, self.root(slot)?);
                self.send(
                    from,
                    Message::Commit {
                        configs: vec![(slot, config)],
                    },
                );
                self.send(
                    from,
                    Message::SyncRequest {
                        items: vec![(slot, epoch, root)],
                    },
                );
            }
            return Ok(());
        }
        if epoch > exchange.epoch {
            return Ok(());
        }
        let before = exchange.listed.as_ref().map(|(_, before)| *before);
        let last = page.last();
        let mut names = BTreeSet::new();
        let mut chunks = BTreeMap::new();
        for entry in page.entries.into_iter().flatten() {
            match entry {
                Entry::Name { key, version } => {
                    let known = self.store.register(&key)?;
                    if key.slot() == slot && known.is_none_or(|r| r.version < version) {
                        names.insert(key);
                    }
                }
                // It comes with its references, or is not needed.
                Entry::Chunk { .. } => {}
                Entry::Reference { key, len, by } => {
                    if key.slot() == slot && !self.collect.is_dead(&by) {
                        self.store.put_reference(&key, len, &by)?;
                        self.slots.touch(slot);
                        if self.store.chunk(&key)?.is_none() {
                            chunks.insert(key, len);
                        }
                    }
                }
            }
        }
        for (key, len) in &chunks {
            self.want(*key, *len, from);
        }
        let exchange = self
            .sync
            .exchanges
            .get_mut(&(slot, from))
            .expect("looked up above");
        exchange.changed |= before.is_some_and(|before| before != root);
        exchange.chunks.extend(chunks.into_keys());
        exchange.names.extend(names);
        exchange.go_on(self.now, self.settings.retry);
        if let Some(after) = last {
            exchange.listed = Some((after.clone(), root));
            let epoch = exchange.epoch;
            self.send(from, Message::SyncMore { slot, epoch, after });
            return Ok(());
        }
        exchange.root = Some(root);
        self.continue_exchange(slot, from)
    }

    /// Asks for what is missing, or closes the comparison.
    pub(super) fn continue_exchange(&mut self, slot: Slot, partner: PeerId) -> Done {
        let Some(exchange) = self.sync.exchanges.get(&(slot, partner)) else {
            return Ok(());
        };
        if !exchange.names.is_empty() {
            let keys = exchange.names.iter().copied().take(SYNC_BATCH).collect();
            self.send(partner, Message::FetchNames { slot, keys });
        } else if exchange.chunks.is_empty() && exchange.root.is_some() {
            let exchange = self
                .sync
                .exchanges
                .remove(&(slot, partner))
                .expect("looked up above");
            if let Some(progress) = self.sync.progress.get_mut(&slot)
                && !progress.done.contains(&partner)
            {
                progress.done.push(partner);
            }
            if self.next_partner(slot).is_none() {
                self.settle_sync(slot);
            }
            self.sync.window = (self.sync.window + 1).min(WINDOW.0);
            if !exchange.changed {
                self.on_exchange_done(slot, partner, exchange.root.expect("checked above"))?;
            }
        } else {
            self.fetch_wanted();
        }
        Ok(())
    }

    pub(super) fn on_names(
        &mut self,
        from: PeerId,
        slot: Slot,
        registers: Vec<Register>,
        marks: Vec<(Key, Pending)>,
    ) -> Done {
        let Some(exchange) = self.sync.exchanges.get_mut(&(slot, from)) else {
            return Ok(());
        };
        let before = exchange.names.len();
        for register in &registers {
            exchange.names.remove(&Key::of_name(&register.name));
        }
        if exchange.names.len() == before {
            // Nothing of what was asked: the other's copy has changed meanwhile. Compare again.
            self.sync.exchanges.remove(&(slot, from));
            return Ok(());
        }
        exchange.go_on(self.now, self.settings.retry);
        let mut kept = true;
        let marks: BTreeMap<Key, Pending> = marks.into_iter().collect();
        for register in &registers {
            let key = Key::of_name(&register.name);
            if key.slot() == slot {
                let mark = marks.get(&key).filter(|m| m.write == register.write);
                let consumers = mark.map_or(Consumers::NONE, |m| m.consumers);
                kept &= self.keep_register(slot, register, consumers)?;
            }
        }
        if kept {
            self.continue_exchange(slot, from)
        } else {
            // Not equal before that name is decided again: compare again then.
            self.sync.exchanges.remove(&(slot, from));
            Ok(())
        }
    }
}
