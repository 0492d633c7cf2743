//! The messages and timers of the ring; the steps themselves are in [`crate::ring`].

use super::{Done, Peer, Timer};
use crate::io::Time;
use crate::key::Slot;
use crate::member::{Liveness, PeerId};
use crate::message::Message;
use crate::ring::Point;
use crate::slot::{SlotConfig, SlotRecord};
use crate::store::Store;

/// A query that waits for its answer.
pub(super) struct Query {
    seq: u64,
    target: PeerId,
    purpose: Purpose,
    sent: Time,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Asked of the member before our position.
    Join,
    /// Asked of the first successor, or of the predecessor it named.
    Stabilise,
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
        self.set_active()
    }

    /// Joins when somebody of the ring is known. A peer that was a member before (it remembers others) is one again as
    /// soon as it has heard of any of them: the ring's state lives in the slots it holds.
    pub(super) fn try_join(&mut self) -> Done {
        if self.myself().liveness != Liveness::Joining || self.chord_query.is_some() {
            return Ok(());
        }
        if self.slots.holds_any() {
            return self.set_active();
        }
        let me = self.point(self.me);
        let before = self
            .gossip
            .present()
            .map(|m| m.ring_key())
            .max_by_key(|p| p.0.distance_to(me.0).wrapping_neg());
        if let Some(before) = before {
            self.query(before.1, Purpose::Join);
        }
        Ok(())
    }

    pub(super) fn on_stabilise_timer(&mut self) -> Done {
        self.schedule(self.settings.stabilise_period, Timer::Stabilise);
        if self
            .chord_query
            .as_ref()
            .is_some_and(|q| q.sent.after(2 * self.settings.stabilise_period) <= self.now)
        {
            self.chord_query = None;
        }
        if !self.slots.holds_any() {
            self.try_join()?;
        }
        if self.myself().liveness != Liveness::Active || self.chord_query.is_some() {
            return Ok(());
        }
        let gossip = &self.gossip;
        self.chord.fail(|id| !gossip.is_up(id));
        // Full knowledge of the members beats the list: the list is empty when alone or when every successor failed, and
        // two rings that were apart would never find each other by it. It stays a hint: whoever is nearest is queried
        // before it is adopted.
        let me = self.point(self.me);
        let others = gossip
            .present()
            .filter(|m| m.id != self.me)
            .map(|m| m.ring_key());
        let nearest = others
            .min_by_key(|p| (me.0.distance_to(p.0), p.1))
            .map(|p| p.1);
        if let Some(head) = nearest.or_else(|| self.chord.successors.first().copied()) {
            self.query(head, Purpose::Stabilise);
        }
        Ok(())
    }

    pub(super) fn on_ring_query(&mut self, from: PeerId, seq: u64) {
        // A peer that has not joined has no state to give.
        if self.myself().liveness == Liveness::Active {
            let state = &self.chord;
            let (predecessor, successors) = (state.predecessor, state.successors.clone());
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
        seq: u64,
        predecessor: Option<PeerId>,
        mut successors: Vec<PeerId>,
    ) -> Done {
        let Some(query) = self
            .chord_query
            .take_if(|q| q.seq == seq && q.target == from)
        else {
            return Ok(());
        };
        successors.retain(|id| self.gossip.is_up(*id) || *id == self.me);
        if query.purpose == Purpose::Join {
            self.chord.join(self.me, from, &successors);
            return self.set_active();
        }
        let known = |id: PeerId| self.gossip.is_up(id).then(|| self.point(id));
        let (me, head, predecessor) = (
            self.point(self.me),
            self.point(from),
            predecessor.and_then(known),
        );
        match self.chord.stabilise(me, head, predecessor, &successors) {
            Some(nearer) => self.query(nearer, Purpose::Stabilise),
            None => self.send(from, Message::RingNotify),
        }
        Ok(())
    }

    pub(super) fn on_ring_notify(&mut self, from: PeerId) {
        if self.gossip.is_up(from) {
            let current = self
                .chord
                .predecessor
                .filter(|id| self.gossip.is_up(*id))
                .map(|id| self.point(id));
            let (me, notifier) = (self.point(self.me), self.point(from));
            self.chord.rectify(me, notifier, current);
        }
    }

    fn query(&mut self, target: PeerId, purpose: Purpose) {
        let seq = self.fresh_op();
        self.chord_query = Some(Query {
            seq,
            target,
            purpose,
            sent: self.now,
        });
        self.send(target, Message::RingQuery { seq });
    }

    fn point(&self, id: PeerId) -> Point {
        self.gossip
            .get(id)
            .map_or((Default::default(), id), |m| m.ring_key())
    }
}
