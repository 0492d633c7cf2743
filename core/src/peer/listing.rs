//! Names by prefix, in byte order, by asking every peer and merging their answers.
//!
//! Each answer tells under which epochs of its slots the peer gave it. A page is complete when, of every slot, a majority of
//! the replicas has answered under the configuration that is known here: as with a read of one name, whatever was
//! acknowledged is then at one of them, whichever slots move meanwhile. Of slots of which that is not so, the replicas are
//! asked again once who was behind has been told. What was heard before counts on: the newest version of a name decides, so
//! a tombstone hides what an outdated replica still lists.
//!
//! Tables of epochs are mostly equal. So a question carries the fingerprint of the coordinator's, and only a replica whose
//! table differs sends its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::slots::Slots;
use super::{Done, Peer, Timer};
use crate::io::{Answer, RequestError, RequestId, Time};
use crate::key::{Name, Slot};
use crate::member::PeerId;
use crate::message::{Listed, Message};
use crate::quorum::{count, has_majority, majority};
use crate::register::{Register, Value};
use crate::slot::SlotConfig;
use crate::store::Store;

/// Most names in a page.
const PAGE_MAX: u32 = 1_000;
/// Most pages of tombstones that are passed over; then an empty page tells where to go on (guess).
const EMPTY_MAX: u32 = 16;
/// How long to wait for all peers before a majority of each slot is enough, in milliseconds. Guess.
const PATIENCE: u64 = 500;
/// How long to wait, once all have answered, before the replicas of slots that are moving are asked again, in milliseconds.
/// Guess: about as long as a configuration takes to become known.
const ASK_AGAIN: u64 = 50;

/// A page being collected.
pub(super) struct Listing {
    pub(super) request: RequestId,
    prefix: String,
    after: Option<Name>,
    limit: u32,
    /// Who is to answer still.
    waiting: BTreeSet<PeerId>,
    /// The table that was named to them, and its fingerprint.
    table: (u64, Arc<[u64]>),
    /// Under which epochs each has answered last.
    heard: BTreeMap<PeerId, Heard>,
    /// Slots of which no majority is known to have answered under one configuration.
    open: Vec<Slot>,
    /// Some have been silent for [`PATIENCE`]: nobody is waited for who is not needed.
    late: bool,
    /// Pages that had nothing but tombstones.
    empty: u32,
    found: Found,
    deadline: Time,
}

/// The epochs under which a peer has answered.
enum Heard {
    /// Of all slots: those of the table that the question named.
    Same(Arc<[u64]>),
    /// Of the slots that it may hold, in order; what we knew better is left out.
    Other(Vec<(Slot, u64)>),
}

impl Heard {
    /// 0: an older one than ours.
    fn epoch(&self, slot: Slot) -> u64 {
        match self {
            Heard::Same(table) => table.get(slot.index()).copied().unwrap_or(0),
            Heard::Other(some) => {
                let at = some.binary_search_by_key(&slot, |(slot, _)| *slot);
                at.map_or(0, |at| some[at].1)
            }
        }
    }
}

impl Listing {
    /// The epoch of that slot under which a peer has answered.
    fn epoch(&self, id: PeerId, slot: Slot) -> Option<u64> {
        self.heard.get(&id).map(|heard| heard.epoch(slot))
    }

    /// Those that have answered under that configuration of the slot.
    fn answered(&self, slot: Slot, config: &SlotConfig) -> Vec<PeerId> {
        let mut answered = config.participants();
        answered.retain(|id| self.epoch(*id, slot) == Some(config.epoch));
        answered
    }

    /// Keeps open the slots of which no majority has answered under the configuration known here.
    fn close(&mut self, slots: &Slots) {
        let same = |heard: &Heard| matches!(heard, Heard::Same(t) if Arc::ptr_eq(t, &self.table.1));
        let mut open = std::mem::take(&mut self.open);
        if self.table.0 == slots.digest() && self.heard.values().all(same) {
            // As mostly: then an answer counts for all slots.
            let answered: Vec<PeerId> = self.heard.keys().copied().collect();
            let lacks = |c: &SlotConfig| !has_majority(c, &answered);
            open.retain(|slot| slots.config(*slot).is_none_or(lacks));
        } else {
            let lacks = |slot, c| !has_majority(c, &self.answered(slot, c));
            open.retain(|slot| slots.config(*slot).is_none_or(|c| lacks(*slot, c)));
        }
        self.open = open;
    }
}

/// What a replica lists: some names in byte order, and whether those are all.
pub(super) struct Part {
    pub(super) items: Vec<Listed>,
    pub(super) done: bool,
}

/// The newest of what was listed so far.
#[derive(Default)]
struct Found {
    newest: BTreeMap<Name, Listed>,
    /// The end of the shortest part that goes on: what lies beyond is left for the next page.
    horizon: Option<Name>,
}

impl Found {
    fn add(&mut self, part: Part) {
        let end = part.items.last().filter(|_| !part.done);
        if let Some(end) = end.map(|l| l.name.clone())
            && self.horizon.as_ref().is_none_or(|h| end < *h)
        {
            self.newest.retain(|name, _| *name <= end);
            self.horizon = Some(end);
        }
        for item in part.items {
            let beyond = self.horizon.as_ref().is_some_and(|h| item.name > *h);
            let known = self.newest.get(&item.name).map(|l| l.version);
            if !beyond && known.is_none_or(|v| v < item.version) {
                self.newest.insert(item.name.clone(), item);
            }
        }
    }

    /// The names that exist, and after which one the next page begins, if there is one.
    fn page(self, limit: usize) -> (Vec<Listed>, Option<Name>) {
        let live = self.newest.into_values().filter(|l| l.head.is_some());
        let mut items: Vec<Listed> = live.collect();
        if items.len() <= limit {
            return (items, self.horizon);
        }
        items.truncate(limit);
        let end = items.last().map(|l| l.name.clone());
        (items, end)
    }
}

impl<S: Store> Peer<S> {
    pub(super) fn start_list(
        &mut self,
        id: RequestId,
        prefix: String,
        after: Option<Name>,
        limit: u32,
    ) -> Done {
        if !self.slots.all_known() {
            self.answer(id, Answer::Failed(RequestError::NotReady));
        } else if self.lists.len() >= self.settings.operations {
            self.answer(id, Answer::Failed(RequestError::Busy));
        } else {
            let deadline = self.now.after(self.settings.operation);
            self.ask_page(Listing {
                request: id,
                prefix,
                after,
                limit: limit.clamp(1, PAGE_MAX),
                waiting: BTreeSet::new(),
                table: (0, Arc::default()),
                heard: BTreeMap::new(),
                open: Vec::new(),
                late: false,
                empty: 0,
                found: Found::default(),
                deadline,
            });
        }
        Ok(())
    }

    /// Begins a page.
    fn ask_page(&mut self, mut listing: Listing) {
        let op = self.fresh_op();
        listing.waiting = self.gossip.present().map(|m| m.id).collect();
        listing.waiting.insert(self.me);
        listing.heard.clear();
        listing.open = Slot::all().collect();
        listing.found = Found::default();
        self.lists.insert(op, listing);
        self.ask_waiting(op);
    }

    /// Asks those that are to answer still.
    fn ask_waiting(&mut self, op: u64) {
        let print = self.slots.digest();
        let Some(listing) = self.lists.get_mut(&op) else {
            return;
        };
        listing.table = (print, self.slots.epochs());
        let to: Vec<PeerId> = listing.waiting.iter().copied().collect();
        let message = Message::List {
            op,
            prefix: listing.prefix.clone(),
            after: listing.after.clone(),
            limit: if listing.empty > 0 {
                PAGE_MAX
            } else {
                listing.limit
            },
            table: print,
        };
        self.send_all(&to, &message);
        self.schedule(PATIENCE, Timer::Operation(op));
    }

    /// Replica: our names.
    pub(super) fn on_list(
        &mut self,
        from: PeerId,
        op: u64,
        prefix: &str,
        after: Option<Name>,
        limit: u32,
        table: u64,
    ) -> Done {
        let limit = limit.clamp(1, PAGE_MAX) as usize;
        let registers = self.store.names(prefix, after.as_ref(), limit)?;
        let done = registers.len() < limit;
        let items = registers.into_iter().map(
            |Register {
                 name,
                 version,
                 value,
                 write: _,
                 trail: _,
             }| {
                let head = match value {
                    Value::Present { head, .. } => Some(head),
                    Value::Deleted => None,
                };
                Listed {
                    name,
                    version,
                    head,
                }
            },
        );
        let items = items.collect();
        let ours = self.slots.digest();
        let epochs = if ours == table {
            Vec::new()
        } else {
            self.slots.epochs().to_vec()
        };
        let message = Message::ListReply {
            op,
            items,
            done,
            table: ours,
            epochs,
        };
        self.send(from, message);
        Ok(())
    }

    pub(super) fn on_list_reply(
        &mut self,
        from: PeerId,
        op: u64,
        part: Part,
        table: u64,
        epochs: &[u64],
    ) {
        let Some(listing) = self.lists.get_mut(&op) else {
            return;
        };
        let heard = if !epochs.is_empty() {
            let involved = |slot: &Slot, epoch: u64| match self.slots.config(*slot) {
                Some(ours) => epoch > ours.epoch || (epoch == ours.epoch && ours.involves(from)),
                None => true,
            };
            let table = Slot::all().zip(epochs.iter().copied());
            Heard::Other(
                table
                    .filter(|(slot, epoch)| involved(slot, *epoch))
                    .collect(),
            )
        } else if table == listing.table.0 || table == 0 {
            // Programs from before there were tables say nothing.
            Heard::Same(Arc::clone(&listing.table.1))
        } else {
            // An answer to an earlier question, which named another table. It will be asked again.
            return;
        };
        let endless = !part.done && part.items.is_empty();
        if endless || !listing.waiting.remove(&from) {
            return;
        }
        listing.found.add(part);
        listing.heard.insert(from, heard);
        let is_last = listing.waiting.is_empty();
        let is_over = (is_last || listing.late) && self.finish_page(op);
        if is_last && !is_over {
            // Under a number of its own, as the timer that runs is one for questions without an answer.
            let Some(listing) = self.lists.remove(&op) else {
                return;
            };
            let op = self.fresh_op();
            self.lists.insert(op, listing);
            self.schedule(ASK_AGAIN, Timer::Operation(op));
        }
    }

    pub(super) fn on_list_timer(&mut self, op: u64) -> Done {
        if self.finish_page(op) {
            return Ok(());
        }
        let Some(listing) = self.lists.get(&op) else {
            return Ok(());
        };
        if listing.deadline <= self.now {
            let listing = self.lists.remove(&op).expect("looked up above");
            let error = self.lacks(&listing);
            self.answer(listing.request, Answer::Failed(error));
            return Ok(());
        }
        let waits = !listing.waiting.is_empty();
        let mut behind: BTreeMap<PeerId, Vec<(Slot, SlotConfig)>> = BTreeMap::new();
        let mut ahead = None;
        let mut again = BTreeSet::new();
        for slot in &listing.open {
            let Some(config) = self.slots.config(*slot) else {
                continue;
            };
            for id in config.participants() {
                if id != self.me && !self.gossip.is_up(id) {
                    continue;
                }
                match listing.epoch(id, *slot) {
                    Some(epoch) if epoch == config.epoch => continue,
                    Some(epoch) if epoch > config.epoch => ahead = Some(id),
                    Some(_) => {
                        let configs = behind.entry(id).or_default();
                        configs.push((*slot, config.clone()));
                    }
                    None => {}
                }
                again.insert(id);
            }
        }
        for (id, configs) in behind {
            self.tell_configs(id, configs);
        }
        if let Some(id) = ahead {
            self.offer_slots(id);
        }
        if let Some(listing) = self.lists.get_mut(&op) {
            listing.waiting.extend(again);
            listing.late |= waits;
        }
        self.ask_waiting(op);
        Ok(())
    }

    /// Why a page was not complete in time.
    fn lacks(&self, listing: &Listing) -> RequestError {
        let slot = listing.open.first().copied();
        let slot = slot.unwrap_or_else(|| Slot::all().next().expect("there are slots"));
        let (answered, replicas) = self.slots.config(slot).map_or((0, 1), |config| {
            let answered = listing.answered(slot, config);
            (count(&config.replicas, &answered), config.replicas.len())
        });
        RequestError::NoQuorum {
            slot,
            answered: answered as u32,
            needed: majority(replicas) as u32,
        }
    }

    /// Answers, if enough peers have; true when this page is over.
    fn finish_page(&mut self, op: u64) -> bool {
        let Some(mut listing) = self.lists.remove(&op) else {
            return true;
        };
        listing.close(&self.slots);
        if !listing.open.is_empty() {
            self.lists.insert(op, listing);
            return false;
        }
        let found = std::mem::take(&mut listing.found);
        let (items, next) = found.page(listing.limit as usize);
        let goes_on = listing.deadline > self.now && listing.empty < EMPTY_MAX;
        if items.is_empty() && next.is_some() && goes_on {
            // A page of tombstones only: look further, and farther.
            listing.after = next;
            listing.empty += 1;
            self.ask_page(listing);
        } else {
            self.answer(listing.request, Answer::Names { items, next });
        }
        true
    }
}

#[cfg(test)]
mod tests;
