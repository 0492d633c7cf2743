//! Names by prefix, in byte order, by asking every peer and merging their answers.
//!
//! A page is complete when a majority of the replicas of every slot has answered: whatever was acknowledged is at one of
//! them. The newest version of a name decides, so a tombstone hides what an outdated replica still lists.

use std::collections::BTreeMap;

use super::{Done, Peer, Timer};
use crate::io::{Answer, RequestError, RequestId, Time};
use crate::key::{Name, Slot};
use crate::member::PeerId;
use crate::message::{Listed, Message};
use crate::quorum::{count, has_majority, majority};
use crate::register::{Register, Value};
use crate::store::Store;

/// Most names in a page.
const PAGE_MAX: u32 = 1_000;
/// How long to wait for all peers before a majority of each slot is enough, in milliseconds. Guess.
const PATIENCE: u64 = 500;

/// A page being collected.
pub(super) struct Listing {
    pub(super) request: RequestId,
    prefix: String,
    after: Option<Name>,
    limit: u32,
    asked: Vec<PeerId>,
    answers: BTreeMap<PeerId, (Vec<Listed>, bool)>,
    deadline: Time,
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
            let limit = limit.clamp(1, PAGE_MAX);
            let deadline = self.now.after(self.settings.operation);
            self.ask_page(Listing {
                request: id,
                prefix,
                after,
                limit,
                asked: Vec::new(),
                answers: BTreeMap::new(),
                deadline,
            });
        }
        Ok(())
    }

    fn ask_page(&mut self, mut listing: Listing) {
        let op = self.fresh_op();
        listing.asked = self.gossip.present().map(|m| m.id).collect();
        if !listing.asked.contains(&self.me) {
            listing.asked.push(self.me);
        }
        listing.answers.clear();
        let (prefix, after, limit) = (listing.prefix.clone(), listing.after.clone(), listing.limit);
        self.send_all(
            &listing.asked,
            &Message::List {
                op,
                prefix,
                after,
                limit,
            },
        );
        self.lists.insert(op, listing);
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
        self.send(from, Message::ListReply { op, items, done });
        Ok(())
    }

    pub(super) fn on_list_reply(&mut self, from: PeerId, op: u64, items: Vec<Listed>, done: bool) {
        let Some(listing) = self.lists.get_mut(&op) else {
            return;
        };
        if listing.asked.contains(&from) {
            listing.answers.insert(from, (items, done));
            if listing.answers.len() == listing.asked.len() {
                self.finish_page(op);
            }
        }
    }

    pub(super) fn on_list_timer(&mut self, op: u64) -> Done {
        self.finish_page(op);
        let Some(listing) = self.lists.get(&op) else {
            return Ok(());
        };
        if listing.deadline <= self.now {
            let listing = self.lists.remove(&op).expect("looked up above");
            let answered: Vec<PeerId> = listing.answers.keys().copied().collect();
            let lacking = Slot::all().find_map(|slot| {
                let config = self.slots.config(slot)?;
                (!has_majority(config, &answered)).then(|| {
                    (
                        slot,
                        count(&config.replicas, &answered),
                        config.replicas.len(),
                    )
                })
            });
            let (slot, answered, replicas) =
                lacking.unwrap_or((Slot::all().next().expect("there are slots"), 0, 1));
            let needed = majority(replicas) as u32;
            let error = RequestError::NoQuorum {
                slot,
                answered: answered as u32,
                needed,
            };
            self.answer(listing.request, Answer::Failed(error));
        } else {
            let (prefix, after, limit) =
                (listing.prefix.clone(), listing.after.clone(), listing.limit);
            let silent: Vec<PeerId> = listing
                .asked
                .iter()
                .filter(|id| !listing.answers.contains_key(id))
                .copied()
                .collect();
            self.send_all(
                &silent,
                &Message::List {
                    op,
                    prefix,
                    after,
                    limit,
                },
            );
            self.schedule(PATIENCE, Timer::Operation(op));
        }
        Ok(())
    }

    /// Answers, if enough peers have.
    fn finish_page(&mut self, op: u64) {
        let Some(listing) = self.lists.get(&op) else {
            return;
        };
        let answered: Vec<PeerId> = listing.answers.keys().copied().collect();
        let covered = Slot::all().all(|s| {
            self.slots
                .config(s)
                .is_some_and(|c| has_majority(c, &answered))
        });
        if !covered {
            return;
        }
        let mut listing = self.lists.remove(&op).expect("looked up above");
        let (items, next) = merge(std::mem::take(&mut listing.answers), listing.limit as usize);
        if items.is_empty() && next.is_some() && listing.deadline > self.now {
            // A page of tombstones only: look further.
            listing.after = next;
            self.ask_page(listing);
        } else {
            self.answer(listing.request, Answer::Names { items, next });
        }
    }
}

/// Merges sorted answers; what lies beyond the end of an unfinished answer is left for the next page.
fn merge(
    answers: BTreeMap<PeerId, (Vec<Listed>, bool)>,
    limit: usize,
) -> (Vec<Listed>, Option<Name>) {
    let unfinished = answers.values().filter(|(_, done)| !done);
    let mut horizon = unfinished
        .filter_map(|(items, _)| items.last().map(|l| l.name.clone()))
        .min();
    let mut newest: BTreeMap<Name, Listed> = BTreeMap::new();
    for item in answers.into_values().flat_map(|(items, _)| items) {
        if horizon.as_ref().is_some_and(|h| item.name > *h) {
            continue;
        }
        match newest.get(&item.name) {
            Some(known) if known.version >= item.version => {}
            _ => {
                newest.insert(item.name.clone(), item);
            }
        }
    }
    let mut items: Vec<Listed> = newest.into_values().filter(|l| l.head.is_some()).collect();
    if items.len() > limit {
        items.truncate(limit);
        horizon = items.last().map(|l| l.name.clone());
    }
    (items, horizon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::Version;
    use bytes::Bytes;

    fn listed(name: &str, counter: u64, live: bool) -> Listed {
        let version = Version {
            epoch: counter,
            round: 0,
            writer: PeerId(1),
            op: 0,
        };
        Listed {
            name: Name::new(name).unwrap(),
            version,
            head: live.then(|| Bytes::from_static(b"h").into()),
        }
    }

    fn names(items: &[Listed]) -> Vec<&str> {
        items.iter().map(|l| l.name.as_str()).collect()
    }

    #[test]
    fn newest_version_decides_and_tombstones_hide() {
        let answers = BTreeMap::from([
            (
                PeerId(1),
                (vec![listed("a", 1, true), listed("b", 1, true)], true),
            ),
            (
                PeerId(2),
                (vec![listed("a", 2, false), listed("c", 1, true)], true),
            ),
        ]);
        let (items, next) = merge(answers, 10);
        assert_eq!(names(&items), ["b", "c"]);
        assert_eq!(next, None);
    }

    #[test]
    fn nothing_beyond_the_shortest_answer_is_returned() {
        let answers = BTreeMap::from([
            (
                PeerId(1),
                (vec![listed("a", 1, true), listed("b", 1, true)], false),
            ),
            (PeerId(2), (vec![listed("c", 1, true)], true)),
        ]);
        let (items, next) = merge(answers, 10);
        assert_eq!(names(&items), ["a", "b"]);
        assert_eq!(next.unwrap().as_str(), "b");
    }
}
