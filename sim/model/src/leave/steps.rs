//! What may happen, and what becomes of it.

use peernet_core::leave::Receipt;
use peernet_core::member::{Drain, PeerId};
use peernet_core::quorum::{catch_up_quorum, chunk_acknowledged, count, majority};
use peernet_core::reconfigure::{Standing, next_config};
use peernet_core::slot::handover::{may_leave, may_prove};
use peernet_core::slot::{Frozen, SlotConfig, SlotRecord};

use super::copy::{FACTOR, WRITE, slot};
use super::{Action, Leave, Peer, Sent, State, Variant, at};

impl Leave {
    /// Everything that may happen; some of it changes nothing.
    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Scale, Action::Decide, Action::Judge]);
        for pod in 0..state.peers.len() as u8 {
            if !state.peer(pod).up {
                actions.push(Action::Start(pod));
                actions.push(Action::Ask(pod));
                continue;
            }
            actions.extend([
                Action::Order(pod),
                Action::Adopt(pod),
                Action::Release(pod),
                Action::Leave(pod),
                Action::Ask(pod),
                Action::Start(pod),
            ]);
            if self.stale {
                let orders = 1..=state.peer(pod).drain.epoch;
                actions.extend(orders.map(|epoch| Action::Retire(pod, epoch)));
            }
            if self.write {
                actions.push(Action::Store(pod));
            }
            if self.crashes.contains(&pod) && !state.crashed.contains(&pod) {
                actions.push(Action::Crash(pod));
            }
            for other in (0..state.peers.len() as u8).filter(|other| *other != pod) {
                actions.push(Action::Compare(pod, other));
                actions.push(Action::Prove(pod, other));
            }
        }
        let receipts = state.receipts.iter();
        actions.extend(receipts.map(|r| Action::Receipt(r.to, r.from)));
    }

    pub(super) fn step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Scale => self.scale(state),
            Action::Order(pod) => self.order(state, pod),
            Action::Decide => self.decide(state),
            Action::Adopt(pod) => self.adopt(state, pod),
            Action::Compare(pod, other) => compare(state, pod, other),
            Action::Prove(pod, other) => self.prove(state, pod, other),
            Action::Receipt(pod, from) => self.receipts(state, pod, from),
            Action::Release(pod) => self.release(state, pod),
            Action::Leave(pod) => self.leave(state, pod),
            Action::Retire(pod, epoch) => self.retire(state, pod, epoch),
            Action::Store(pod) => store(state, pod),
            Action::Ask(pod) => {
                // One after the other: what it hears of the first is the oldest.
                let next = state.heard.len() == usize::from(pod);
                let unwanted = self.wanted(state) < state.set;
                let heard = (unwanted && next && pod < state.set).then(|| self.ask(state, pod))?;
                if self.is_hopeless(state, pod, &heard) {
                    // It ends in no proof, whatever others say: the operator begins anew.
                    state.heard.clear();
                } else {
                    state.heard.push(heard);
                }
                Some(())
            }
            Action::Judge => self.judge(state),
            Action::Crash(pod) => {
                let peer = state.peer_mut(pod);
                peer.up = false;
                peer.met.clear();
                peer.synced = false;
                peer.retired = 0;
                state.crashed.push(pod);
                state.crashed.sort_unstable();
                Some(())
            }
            Action::Start(pod) => self.start(state, pod),
        }
    }

    fn scale(&self, state: &mut State) -> Option<()> {
        if usize::from(state.wanted) + 1 == self.sizes.len() {
            return None;
        }
        state.wanted += 1;
        state.set = state.set.max(self.wanted(state));
        state.heard.clear();
        Some(())
    }

    fn order(&self, state: &mut State, pod: u8) -> Option<()> {
        let leaving = pod >= self.wanted(state);
        let peer = state.peer_mut(pod);
        let settled = peer.drain.leaving == leaving
            || (self.variant == Variant::DrainForgotten && peer.drain.epoch > 0);
        if !peer.runs() || settled {
            return None;
        }
        let epoch = peer.drain.epoch + 1;
        peer.drain = Drain { epoch, leaving };
        Some(())
    }

    /// Where the slot should live: the highest ordinals that stay.
    fn target(&self, state: &State) -> Vec<PeerId> {
        let stays = |pod: &u8| {
            let peer = state.peer(*pod);
            *pod < state.set && !peer.left && !peer.drain.leaving
        };
        let all = (0..state.peers.len() as u8).rev().filter(stays);
        all.map(|pod| state.peer(pod).id(pod))
            .take(FACTOR)
            .collect()
    }

    fn decide(&self, state: &mut State) -> Option<()> {
        let base = &state.newest;
        let runs = |id: &&PeerId| state.alive(**id) && state.peer(at(**id)).up;
        let knows = |id: &&PeerId| state.peer(at(**id)).epoch() == base.epoch;
        let running: Vec<&PeerId> = base.replicas.iter().filter(runs).collect();
        if running.len() < majority(base.replicas.len()) || !running.iter().any(knows) {
            return None;
        }
        let standing = |id: PeerId| match state.peer(at(id)) {
            _ if !state.alive(id) => Standing::Gone,
            peer if !peer.up && peer.drain.leaving => Standing::Lost,
            peer if !peer.up => Standing::Absent,
            peer if peer.drain.leaving => Standing::Leaving,
            _ => Standing::Eligible,
        };
        let caught_up = state.caught_up || self.variant == Variant::NotCaughtUp;
        let next = next_config(base, &self.target(state), FACTOR, standing, caught_up)?;
        state.newest = next;
        state.caught_up = false;
        Some(())
    }

    fn adopt(&self, state: &mut State, pod: u8) -> Option<()> {
        let newest = state.newest.clone();
        let peer = state.peer_mut(pod);
        if !peer.runs() || peer.epoch() >= newest.epoch {
            return None;
        }
        let (me, variant) = (peer.id(pod), self.variant);
        let has_copy = peer.drain.leaving || !peer.copy.is_empty();
        let old = peer.record.as_ref();
        let mut record = SlotRecord::succeed(old, me, newest.clone(), has_copy);
        let next = newest.next.iter().flatten();
        if variant == Variant::FrozenEarly
            && newest.replicas.contains(&me)
            && newest.next.is_some()
            && !next.clone().any(|id| *id == me)
        {
            record.frozen = Some(Frozen {
                epoch: newest.epoch,
                awaiting: next.copied().collect(),
            });
        }
        peer.record = Some(record);
        peer.met.clear();
        peer.synced = false;
        Some(())
    }

    /// The leaver asks, the receiver takes over what it lacks and answers.
    fn prove(&self, state: &mut State, pod: u8, other: u8) -> Option<()> {
        let (peer, receiver) = (state.peer(pod), state.peer(other));
        let frozen = peer.record.as_ref()?.frozen.as_ref()?;
        let asked = peer.runs() && receiver.runs() && frozen.awaiting.contains(&receiver.id(other));
        if !asked || !may_prove(receiver.config()?, receiver.id(other), frozen.epoch) {
            return None;
        }
        let sent = Sent {
            from: other,
            to: pod,
            epoch: frozen.epoch,
            of: peer.copy,
        };
        if self.variant != Variant::Uncompared {
            let copy = receiver.copy.merge(peer.copy);
            state.peer_mut(other).copy = copy;
        }
        state.receipts.insert(sent);
        Some(())
    }

    fn receipts(&self, state: &mut State, pod: u8, from: u8) -> Option<()> {
        let sent: Vec<Sent> = state.receipts.iter().copied().collect();
        let sender = state.peer(from).id(from);
        let peer = state.peer_mut(pod);
        if !peer.runs() {
            return None;
        }
        let (me, root) = (peer.id(pod), peer.copy.root());
        let frozen = peer.record.as_mut()?.frozen.as_mut()?;
        let mut counted = false;
        for sent in sent.into_iter().filter(|r| (r.to, r.from) == (pod, from)) {
            let receipt = Receipt {
                leaver: me,
                drain_epoch: 0,
                slot: slot(),
                epoch: sent.epoch,
                root: sent.of.root(),
                receiver: sender,
                chunks: 0,
                bytes: 0,
            };
            counted |= frozen.on_receipt(me, sender, &receipt, root);
        }
        counted.then_some(())
    }

    fn release(&self, state: &mut State, pod: u8) -> Option<()> {
        let peer = state.peer(pod);
        let record = peer.record.as_ref().filter(|_| peer.runs())?;
        let waits = !record.frozen.as_ref()?.awaiting.is_empty();
        if waits && self.variant != Variant::OwnReceipt {
            return None;
        }
        let has_all = |id: &PeerId| {
            let replaced = !state.newest.replicas.contains(id) || !state.alive(*id);
            replaced || state.peer(at(*id)).copy.has(peer.copy)
        };
        let everywhere = record.config.replicas.iter().all(has_all);
        let needed = state.newest.replicas.contains(&peer.id(pod));
        state.copies_went_with_receipts &= everywhere && !needed;
        let peer = state.peer_mut(pod);
        peer.copy = Default::default();
        peer.record.as_mut()?.frozen = None;
        Some(())
    }

    /// Somebody who knows of no configuration with this peer, nor of any order after that one, says that it is gone.
    fn retire(&self, state: &mut State, pod: u8, epoch: u64) -> Option<()> {
        let id = state.peer(pod).id(pod);
        // Orders and their ends take turns.
        let leaving = epoch % 2 == 1;
        let knows_nothing = |p: &Peer| p.runs() && p.config().is_some_and(|c| !c.involves(id));
        let mut others = state.peers.iter().enumerate();
        let said = others.any(|(at, p)| at != usize::from(pod) && knows_nothing(p));
        let peer = state.peer_mut(pod);
        if !leaving || !said || !peer.runs() {
            return None;
        }
        peer.retired = epoch;
        let obeys = match self.variant {
            Variant::RetiredAtOnce => true,
            Variant::RetiredWithSlots => peer.is_retired(),
            _ => false,
        };
        if obeys {
            peer.left = true;
            peer.departed = peer.life + 1;
        }
        Some(())
    }

    fn leave(&self, state: &mut State, pod: u8) -> Option<()> {
        let peer = state.peer_mut(pod);
        let me = peer.id(pod);
        let held = peer.config().is_some_and(|c| c.involves(me));
        let frozen = peer.record.as_ref().is_some_and(|r| r.frozen.is_some());
        let (leaving, known) = (peer.drain.leaving, peer.record.is_some());
        let (held, frozen) = (held.into(), frozen.into());
        if !peer.runs() || !may_leave(leaving, known, held, frozen, peer.is_retired()) {
            return None;
        }
        peer.left = true;
        peer.departed = peer.life + 1;
        Some(())
    }

    /// A process comes back; one whose peer has left only when it is wanted again.
    fn start(&self, state: &mut State, pod: u8) -> Option<()> {
        let wanted = pod < self.wanted(state);
        let peer = state.peer(pod);
        let comes = if peer.left { wanted } else { !peer.up };
        if pod >= state.set || !comes {
            return None;
        }
        *state.peer_mut(pod) = peer.started(pod, self.variant);
        state
            .receipts
            .retain(|r| r.to != pod && r.from != pod || !wanted);
        Some(())
    }
}

fn compare(state: &mut State, pod: u8, other: u8) -> Option<()> {
    let (peer, partner) = (state.peer(pod), state.peer(other));
    let config = peer.config()?.clone();
    let (me, with) = (peer.id(pod), partner.id(other));
    let may = peer.runs() && partner.runs() && partner.epoch() == config.epoch;
    let known = peer.synced || peer.met.contains(&other);
    if !may
        || (known && peer.copy.has(partner.copy))
        || !config.involves(me)
        || !config.replicas.contains(&with)
    {
        return None;
    }
    let copy = peer.copy.merge(partner.copy);
    let peer = state.peer_mut(pod);
    peer.copy = copy;
    if peer.synced {
        return Some(());
    }
    peer.met.push(other);
    peer.met.sort_unstable();
    peer.met.dedup();
    let met: Vec<PeerId> = config
        .replicas
        .iter()
        .copied()
        .filter(|id| *id == me || peer.met.contains(&at(*id)))
        .collect();
    peer.synced |= count(&config.replicas, &met) >= catch_up_quorum(config.replicas.len(), WRITE);
    if peer.synced {
        peer.met.clear();
    }
    let told = peer.synced && state.newest == config && config.newcomer() == Some(me);
    state.caught_up |= told;
    Some(())
}

fn store(state: &mut State, pod: u8) -> Option<()> {
    let peer: &Peer = state.peer(pod);
    let config: SlotConfig = peer.config()?.clone();
    let fits = state.writing.as_ref().is_none_or(|(c, _)| *c == config);
    if !peer.runs() || !fits || !config.involves(peer.id(pod)) {
        return None;
    }
    let copy = peer.copy.with_new();
    state.peer_mut(pod).copy = copy;
    let (_, stored) = state.writing.get_or_insert((config.clone(), Vec::new()));
    if stored.contains(&pod) {
        return None;
    }
    stored.push(pod);
    stored.sort_unstable();
    let stored = stored.clone();
    let stored: Vec<PeerId> = stored.iter().map(|p| state.peer(*p).id(*p)).collect();
    if chunk_acknowledged(&config, &stored, WRITE) {
        state.acknowledged = state.acknowledged.with_new();
    }
    Some(())
}
