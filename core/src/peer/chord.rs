//! The messages and timers of the ring; the conversation itself is in [`crate::chord`], its steps in [`crate::ring`].

use super::{Done, Peer, Timer};
use crate::chord::{Action, State};
use crate::key::Slot;
use crate::member::{Liveness, Member, PeerId};
use crate::message::Message;
use crate::ring::{Point, View};
use crate::slot::{SlotConfig, SlotRecord};
use crate::store::Store;

/// Full knowledge of the members is a hint to the ring: the list of successors is empty when alone or when all of it
/// failed, and two rings that were apart would never find each other by it.
impl View for super::gossip::Gossip {
    fn members(&self) -> impl Iterator<Item = Point> {
        self.present().map(|m| m.ring_key())
    }

    fn point(&self, id: PeerId) -> Option<Point> {
        self.get(id)
            .filter(|m| !is_gone(m.liveness))
            .map(|m| m.ring_key())
    }

    fn member(&self, id: PeerId) -> Option<Point> {
        self.get(id)
            .filter(|m| m.is_present())
            .map(|m| m.ring_key())
    }

    fn is_gone(&self, id: PeerId) -> bool {
        self.get(id).is_some_and(|m| is_gone(m.liveness))
    }
}

fn is_gone(liveness: Liveness) -> bool {
    liveness == Liveness::Down || liveness.is_gone()
}

impl<S: Store> Peer<S> {
    /// Founds the ring: this peer alone holds every slot.
    pub(super) fn found(&mut self) -> Done {
        for slot in Slot::all() {
            let config = SlotConfig {
                epoch: 1,
                replicas: vec![self.me],
                next: None,
            };
            self.put_record(slot, SlotRecord::of(config))?;
        }
        self.chord.found(self.here(), &self.gossip);
        self.set_active()
    }

    /// Founds the ring, unless there is one or may be: this peer must know of no slot, and of nobody who is or was in a
    /// ring. Somebody who joins and was never started before is neither.
    pub(super) fn found_if_alone(&mut self) -> Done {
        let beginner = |m: &Member| m.liveness == Liveness::Joining && m.incarnation == 1;
        let slotless = self.slots.epochs().iter().all(|epoch| *epoch == 0);
        let joins = self.myself().liveness == Liveness::Joining;
        if joins && slotless && self.gossip.others().all(beginner) {
            self.found()?;
        }
        Ok(())
    }

    /// Joins when somebody of the ring is known. A peer that was a member before (it remembers others) is one again as
    /// soon as it has heard of any of them: what it was trusted with lies in the slots it holds.
    pub(super) fn try_join(&mut self) -> Done {
        if self.myself().liveness != Liveness::Joining {
            return Ok(());
        }
        if self.slots.holds_any() {
            self.set_active()?;
        }
        self.tick();
        Ok(())
    }

    pub(super) fn on_stabilise_timer(&mut self) -> Done {
        self.schedule(self.settings.stabilise_period, Timer::Stabilise);
        let patience = 2 * self.settings.stabilise_period;
        if self.chord.open().is_some() && self.chord_asked.after(patience) <= self.now {
            let (me, returning) = (self.here(), self.is_member());
            self.chord.expire(me, returning, &self.gossip);
        }
        if !self.slots.holds_any() {
            self.try_join()?;
        }
        if self.is_member() {
            self.tick();
        }
        Ok(())
    }

    pub(super) fn on_ring_query(&mut self, from: PeerId, seq: u64) {
        let state = self.chord.state();
        if let Some(State {
            predecessor,
            successors,
        }) = state
        {
            self.send(
                from,
                Message::RingState {
                    seq,
                    predecessor,
                    successors,
                },
            );
        }
    }

    pub(super) fn on_ring_state(
        &mut self,
        from: PeerId,
        answered: u64,
        predecessor: Option<PeerId>,
        successors: Vec<PeerId>,
    ) -> Done {
        let state = State {
            predecessor,
            successors,
        };
        let (me, seq) = (self.here(), self.fresh_op());
        let action = self
            .chord
            .on_state(me, from, answered, &state, seq, &self.gossip);
        self.perform(action);
        if self.chord.ring().joined {
            self.set_active()?;
        }
        Ok(())
    }

    pub(super) fn on_ring_notify(&mut self, from: PeerId) {
        let me = self.here();
        self.chord.on_notify(me, from, &self.gossip);
    }

    fn tick(&mut self) {
        let (me, returning, seq) = (self.here(), self.is_member(), self.fresh_op());
        let action = self.chord.tick(me, returning, seq, &self.gossip);
        self.perform(action);
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::Ask { to, seq } => {
                self.chord_asked = self.now;
                self.send(to, Message::RingQuery { seq });
            }
            Action::Notify { to } => self.send(to, Message::RingNotify),
        }
    }

    fn is_member(&self) -> bool {
        self.myself().liveness == Liveness::Active
    }

    fn here(&self) -> Point {
        self.myself().ring_key()
    }
}
