//! Failure detection: SWIM's probes (Das, Gupta, Motivala, 2002).
//!
//! Every protocol period one member is pinged, in shuffled round robin (section 4.3). Without an answer others are asked
//! to ping it (section 3.1); without an answer to those either it is suspected, and unless it refutes with a greater
//! incarnation it is down (section 4.2). A deviation: the down stay probed now and then, so that networks that were
//! apart find each other.

use super::{Done, Peer, Timer};
use crate::member::{Liveness, Member, PeerId};
use crate::message::{Digest, Message};
use crate::store::Store;

/// A ping that waits for its answer.
pub(super) struct Probe {
    target: PeerId,
    /// Whom to relay the answer to, and under which number.
    relay: Option<(PeerId, u64)>,
    /// Somebody who watches the processes said before that it is gone.
    hinted: bool,
}

impl<S: Store> Peer<S> {
    pub(super) fn on_ping_timer(&mut self) {
        self.schedule(self.settings.ping_period, Timer::Ping);
        if let Some(target) = self.next_target() {
            self.ping(target, None);
        }
        // Now and then one that is down: it may be back, or the network whole again.
        let down: Vec<PeerId> = self
            .gossip
            .others()
            .filter(|m| m.liveness == Liveness::Down)
            .map(|m| m.id)
            .collect();
        if !down.is_empty() && self.rng.u8(0..4) == 0 {
            let target = down[self.rng.usize(0..down.len())];
            self.ping(target, None);
        }
    }

    fn next_target(&mut self) -> Option<PeerId> {
        let alive = |m: &&Member| m.liveness != Liveness::Down && !m.is_gone();
        loop {
            if self.gossip.order.is_empty() {
                self.gossip.order = self.gossip.others().filter(alive).map(|m| m.id).collect();
                self.rng.shuffle(&mut self.gossip.order);
            }
            let id = self.gossip.order.pop()?;
            if self.gossip.get(id).is_some_and(|m| alive(&m)) {
                return Some(id);
            }
        }
    }

    /// Pings a member because of a hint. When it is said to be gone and nobody hears an answer, it needs no longer
    /// suspicion: two who know of each other's word only by us agree.
    pub(super) fn ping_hinted(&mut self, target: PeerId, gone: bool) {
        self.ping(target, None);
        if let Some(probe) = self.gossip.probes.get_mut(&self.gossip.seq) {
            probe.hinted = gone;
        }
    }

    /// Whether a probe that a hint began still waits for its answer.
    pub(super) fn is_hinted(&self, target: PeerId) -> bool {
        let mut probes = self.gossip.probes.values();
        probes.any(|p| p.hinted && p.target == target)
    }

    fn ping(&mut self, target: PeerId, relay: Option<(PeerId, u64)>) {
        self.gossip.seq += 1;
        let seq = self.gossip.seq;
        let probe = Probe {
            target,
            relay,
            hinted: false,
        };
        self.gossip.probes.insert(seq, probe);
        let message = Message::Ping {
            seq,
            target,
            rumors: self.gossip.take_rumors(),
            digest: self.digest(),
        };
        self.send(target, message);
        if relay.is_none() {
            self.schedule(self.settings.ping_timeout, Timer::PingTimeout(seq));
        }
        self.schedule(3 * self.settings.ping_timeout, Timer::PingFailed(seq));
    }

    pub(super) fn on_ping(
        &mut self,
        from: PeerId,
        seq: u64,
        target: PeerId,
        rumors: Vec<Member>,
        digest: Digest,
    ) -> Done {
        if target != self.me {
            // Meant for whoever had this address before us.
            return Ok(());
        }
        self.learn(rumors)?;
        let message = Message::Ack {
            seq,
            rumors: self.gossip.take_rumors(),
            digest: self.digest(),
        };
        self.send(from, message);
        self.compare(from, digest);
        Ok(())
    }

    pub(super) fn on_ack(
        &mut self,
        from: PeerId,
        seq: u64,
        rumors: Vec<Member>,
        digest: Digest,
    ) -> Done {
        self.learn(rumors)?;
        // A peer that has come back may have missed every table: an answer is enough to know that it is not alone.
        self.try_join()?;
        let Some(probe) = self.gossip.probes.remove(&seq) else {
            return Ok(());
        };
        if let Some((asker, theirs)) = probe.relay {
            let digest = self.digest();
            self.send(
                asker,
                Message::Ack {
                    seq: theirs,
                    rumors: Vec::new(),
                    digest,
                },
            );
        }
        if from == probe.target {
            self.compare(from, digest);
            // It answers though it is thought to be away: it hears so, and refutes.
            if let Some(m) = self
                .gossip
                .get(from)
                .filter(|m| matches!(m.liveness, Liveness::Suspect | Liveness::Down))
            {
                let message = Message::Members {
                    members: vec![m.clone()],
                    reply: true,
                };
                self.send(from, message);
            }
        }
        Ok(())
    }

    pub(super) fn on_ping_req(&mut self, from: PeerId, seq: u64, target: PeerId) {
        // Bounded: helpers are asked by few at a time.
        if self.gossip.probes.len() < 1_024 {
            self.ping(target, Some((from, seq)));
        }
    }

    pub(super) fn on_ping_timeout(&mut self, seq: u64) {
        let Some(target) = self.gossip.probes.get(&seq).map(|p| p.target) else {
            return;
        };
        let mut helpers: Vec<PeerId> = self
            .gossip
            .present()
            .map(|m| m.id)
            .filter(|id| *id != self.me && *id != target)
            .collect();
        self.rng.shuffle(&mut helpers);
        helpers.truncate(self.settings.ping_helpers);
        self.send_all(&helpers, &Message::PingReq { seq, target });
    }

    pub(super) fn on_ping_failed(&mut self, seq: u64) -> Done {
        let Some(probe) = self.gossip.probes.remove(&seq) else {
            return Ok(());
        };
        if probe.relay.is_some() {
            return Ok(());
        }
        let worse = match self.gossip.get(probe.target).map(|m| m.liveness) {
            Some(Liveness::Active) => Liveness::Suspect,
            // Before there is a ring: whoever is said to be down refutes it, and would look as if it had been in one.
            Some(Liveness::Joining) if self.myself().liveness == Liveness::Joining => return Ok(()),
            // Not in the ring: nobody relies on it, no need to wait.
            Some(Liveness::Joining) => Liveness::Down,
            Some(Liveness::Suspect) if probe.hinted => Liveness::Down,
            _ => return Ok(()),
        };
        self.believe(probe.target, worse)
    }

    pub(super) fn on_suspicion(&mut self, id: PeerId, incarnation: u64) -> Done {
        let still = self
            .gossip
            .get(id)
            .is_some_and(|m| m.liveness == Liveness::Suspect && m.incarnation == incarnation);
        if still {
            self.believe(id, Liveness::Down)
        } else {
            Ok(())
        }
    }

    fn digest(&self) -> Digest {
        Digest {
            members: self.gossip.digest,
            slots: self.slots.digest(),
        }
    }

    fn compare(&mut self, from: PeerId, theirs: Digest) {
        let mine = self.digest();
        if mine.members != theirs.members {
            let members = self.gossip.members.values().cloned().collect();
            self.send(
                from,
                Message::Members {
                    members,
                    reply: true,
                },
            );
        }
        if mine.slots != theirs.slots {
            self.offer_slots(from);
        }
    }

    /// Tells what is known of the slots, so that the other tells what is newer. A table of epochs is some kilobytes: at
    /// most twice a second.
    pub(super) fn offer_slots(&mut self, to: PeerId) {
        if self.gossip.offered.after(500) <= self.now {
            self.gossip.offered = self.now;
            let epochs = self.slots.epochs().to_vec();
            self.send(to, Message::SlotEpochs { epochs });
        }
    }
}
