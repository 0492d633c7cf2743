//! What a peer says of itself: its status, and its report towards leaves.

use super::{Done, Peer};
use crate::io::{Answer, Input, Request, RequestError, Status};
use crate::key::Slot;
use crate::leave::{LeaverProgress, LeaverReport, Report, SlotReport};
use crate::member::{Liveness, PeerId};
use crate::message::Message;
use crate::quorum::{has_majority, majority};
use crate::store::{Store, StoreError};

impl<S: Store> Peer<S> {
    /// Ready stays, once reached: a slot that moves here later does not take the peer out of service.
    pub(super) fn note_caught_up(&mut self) {
        if !self.caught_up {
            self.caught_up = self.why_behind().is_none();
        }
    }

    fn why_behind(&self) -> Option<String> {
        let me = self.myself();
        if me.liveness == Liveness::Left {
            return Some("it has left the network".into());
        }
        if me.liveness != Liveness::Active {
            return Some("it has not joined the ring yet".into());
        }
        if !self.slots.all_known() {
            return Some("it does not know yet who holds which slot".into());
        }
        let behind = self.slots_behind();
        if behind > 0 {
            return Some(format!(
                "{behind} of its {} slots have not caught up",
                self.slots.held().len()
            ));
        }
        let copies = majority(self.settings.replication.factor as usize)
            .max(self.settings.replication.write as usize);
        if self.slots.held().iter().any(|s| {
            self.slots
                .config(*s)
                .is_some_and(|c| c.replicas.len() < copies)
        }) {
            return Some(format!(
                "it waits for more peers: nothing is acknowledged before {copies} copies exist"
            ));
        }
        if !self.slots.has_targets()
            || self
                .gossip
                .changed
                .after(self.settings.settle + self.settings.drive_period)
                > self.now
        {
            return Some("the ring has changed a moment ago".into());
        }
        if !me.drain.leaving && self.expects_slots() {
            return Some("it has not taken over its slots yet".into());
        }
        None
    }

    /// It sees a majority of the replicas of less than half of its slots, as on the smaller side of a partition: whoever
    /// asks it had better ask another peer, which Services do when it is not ready.
    fn is_cut_off(&self) -> bool {
        let present: Vec<PeerId> = self.gossip.present().map(|m| m.id).collect();
        let held = self.slots.held();
        let configs = held.iter().filter_map(|slot| self.slots.config(*slot));
        let served = configs.filter(|c| has_majority(c, &present)).count();
        2 * served < held.len()
    }

    fn slots_behind(&self) -> usize {
        self.slots
            .held()
            .iter()
            .filter(|s| !self.sync.is_synced(**s))
            .count()
    }

    /// How many entries its tables have, by concern: to be shown, and to show that they are bounded.
    pub fn tables(&self) -> [(&'static str, usize); 11] {
        [
            ("members", self.gossip.all().count()),
            ("probes", self.gossip.probes.len()),
            ("timers", self.timers.len()),
            ("operations", self.names.len() + self.lists.len()),
            ("moves", self.moves.entries()),
            ("exchanges", self.sync.exchanges.len()),
            ("missing chunks", self.sync.missing()),
            ("fetches", self.sync.fetching.len()),
            ("handover", self.handover.entries()),
            ("shares", self.flood.entries()),
            ("collection", self.collect.entries()),
        ]
    }

    pub(super) fn status(&self) -> Result<Status, StoreError> {
        let member = self.myself().clone();
        let active = member.liveness == Liveness::Active;
        let cut_off = self.is_cut_off();
        let ready = active && self.caught_up && !cut_off;
        let reason = match self.why_behind() {
            _ if ready => String::new(),
            _ if cut_off => {
                "it does not reach enough other peers to serve most of its slots".into()
            }
            Some(reason) => reason,
            None => "it is about to be ready".into(),
        };
        let moving =
            |slot: &&crate::key::Slot| self.slots.config(**slot).is_some_and(|c| c.next.is_some());
        Ok(Status {
            network: self.network.clone(),
            ready,
            reason,
            slots_held: self.slots.held().len() as u32,
            slots_behind: self.slots_behind() as u32,
            slots_moving: self.slots.held().iter().filter(moving).count() as u32,
            chunks: self.store.usage()?,
            chunks_missing: self.sync.missing() as u64,
            predecessor: self.chord.ring().predecessor,
            successors: self.chord.ring().successors.clone(),
            member,
        })
    }

    pub(super) fn leave_report(&self, leavers: &[PeerId]) -> Result<Report, StoreError> {
        let slots = self.slots.held().iter().filter_map(|slot| {
            let config = self.slots.config(*slot)?;
            let (replicas, next) = (config.replicas.clone(), config.next.clone());
            Some(SlotReport {
                slot: *slot,
                epoch: config.epoch,
                replicas,
                next,
                synced: self.sync.is_synced(*slot),
            })
        });
        Ok(Report {
            peer: self.me,
            slots: slots.collect(),
            leavers: leavers
                .iter()
                .map(|id| self.leaver_report(*id))
                .collect::<Result<_, _>>()?,
            members: self.gossip.in_ring_order(),
            greatest_epoch: Slot::all()
                .map(|slot| self.slots.epoch(slot))
                .max()
                .unwrap_or(0),
        })
    }

    fn leaver_report(&self, leaver: PeerId) -> Result<LeaverReport, StoreError> {
        let receipts = self.store.receipts(leaver)?;
        let sums = receipts
            .iter()
            .fold((0, 0, 0), |(n, c, b), r| (n + 1, c + r.chunks, b + r.bytes));
        Ok(LeaverReport {
            leaver,
            drain_epoch: self.gossip.get(leaver).map_or(0, |m| m.drain.epoch),
            own: if leaver == self.me {
                Some(self.leaver_progress()?)
            } else {
                None
            },
            receipts: sums,
        })
    }

    fn leaver_progress(&self) -> Result<LeaverProgress, StoreError> {
        let mut bytes_left = 0;
        for slot in self.slots.held().iter().chain(self.slots.frozen()) {
            bytes_left += self.count_chunks(*slot)?.1;
        }
        let left = self.has_left();
        let name = |id: &PeerId| {
            self.gossip
                .get(*id)
                .map_or_else(|| id.to_string(), |m| m.name.clone())
        };
        let blocker = if left {
            String::new()
        } else if let Some(slot) = self.slots.held().first() {
            let to = self.slots.config(*slot).and_then(|c| c.newcomer());
            match to {
                Some(to) => format!("{} is catching up with slot {slot}", name(&to)),
                None => format!("slot {slot} waits for its turn to move"),
            }
        } else if let Some(slot) = self.slots.frozen().first() {
            let frozen = self.slots.get(*slot).and_then(|r| r.frozen.as_ref());
            let to = frozen
                .and_then(|f| f.awaiting.first())
                .map_or_else(|| "a receiver".into(), name);
            format!("{to} has not yet proved that it holds slot {slot}")
        } else {
            "about to leave".into()
        };
        Ok(LeaverProgress {
            held: self.slots.held().len() as u32,
            frozen: self.slots.frozen().len() as u32,
            receipted: self.handover.receipted,
            bytes_left,
            left,
            blocker,
        })
    }

    /// A peer that has left answers what it is asked about itself, passes on that it has left, and does nothing else.
    pub(super) fn handle_after_left(&mut self, input: Input) -> Done {
        match input {
            // Who already knows answers in turn with what it knows of us: that must not go on for ever.
            Input::Message {
                message: Message::Members { .. },
                ..
            } => Ok(()),
            Input::Message { from, .. } => {
                self.tell_left(from);
                Ok(())
            }
            Input::Request {
                id,
                request:
                    request @ (Request::Status
                    | Request::Members
                    | Request::Registry
                    | Request::LeaveReport(_)
                    // Downloads that began here go on from those that hold the chunks now.
                    | Request::Routes(_)),
            } => self.on_request(id, request),
            Input::Request { id, .. } => {
                self.answer(id, Answer::Failed(RequestError::Left));
                Ok(())
            }
            Input::Timer => {
                self.timers.clear();
                Ok(())
            }
            Input::Seeds(_) | Input::DiskFull(_) | Input::FoundIfAlone | Input::ChunkFetched { .. } | Input::ChunkMissed { .. } => Ok(()),
        }
    }

    fn tell_left(&mut self, from: PeerId) {
        let members = vec![self.myself().clone()];
        self.send(
            from,
            Message::Members {
                members,
                reply: false,
            },
        );
    }
}
