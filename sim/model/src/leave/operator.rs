//! The operator's questions, and its judgement on what it has heard.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::leave::{
    LeaverProgress, LeaverReport, Report, SlotReport, Verdict, verdict_over,
};
use peernet_core::member::{Member, PeerId};
use peernet_core::slot::SlotConfig;

use super::copy::slot;
use super::{Leave, State, Variant, at, id};

/// What one pod has said, or that it did not answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Heard {
    Silence,
    Said {
        /// In which of its lives.
        life: u8,
        /// The slot, if it takes part in it.
        held: Option<SlotConfig>,
        synced: bool,
        frozen: bool,
        left: bool,
        /// Lives and states of those that are not wanted, as it sees them: they run, they have left.
        others: Vec<(u8, bool, bool)>,
    },
}

impl Leave {
    /// What the operator hears when it asks now.
    pub(super) fn ask(&self, state: &State, pod: u8) -> Heard {
        let peer = state.peer(pod);
        if !peer.up {
            return Heard::Silence;
        }
        let involved = |c: &&SlotConfig| !peer.left && c.involves(peer.id(pod));
        Heard::Said {
            life: peer.life,
            held: peer.config().filter(involved).cloned(),
            synced: peer.synced,
            frozen: peer.record.as_ref().is_some_and(|r| r.frozen.is_some()),
            left: peer.left,
            others: state.peers.iter().map(|p| (p.life, p.up, p.left)).collect(),
        }
    }

    /// Whether an answer keeps every unwanted pod where it is.
    pub(super) fn is_hopeless(&self, state: &State, pod: u8, heard: &Heard) -> bool {
        let Heard::Said {
            held,
            synced,
            frozen,
            left,
            ..
        } = heard
        else {
            return false;
        };
        let last = state.set - 1;
        if pod == last {
            let done = held.is_none() && !frozen;
            return !(left | (done && self.variant == Variant::LeftAfterwards));
        }
        let names_it =
            |c: &SlotConfig| c.next.is_some() || c.replicas.iter().any(|id| at(*id) == last);
        held.as_ref().is_some_and(|c| names_it(c) || !synced)
            && self.variant != Variant::SilenceCounts
    }

    /// Lowers the StatefulSet to what is proved.
    pub(super) fn judge(&self, state: &mut State) -> Option<()> {
        let wanted = self.wanted(state);
        let mut keep = state.set;
        while keep > wanted && self.may_go(state, keep - 1) {
            keep -= 1;
        }
        if state.heard.len() < state.set.into() && self.variant != Variant::EmptyReport {
            return None;
        }
        let heard = std::mem::take(&mut state.heard);
        for pod in keep..state.set {
            state.pods_went_with_proof &= is_dispensable(state, pod, &heard);
            let peer = state.peer_mut(pod);
            peer.up = false;
            peer.met.clear();
            peer.synced = false;
            peer.retired = 0;
        }
        state.set = keep;
        Some(())
    }

    fn may_go(&self, state: &State, pod: u8) -> bool {
        // Silence is no answer while the pod may be alive: then it has to be asked first.
        let Some(heard) = state.heard.get(usize::from(pod)) else {
            return self.variant == Variant::EmptyReport;
        };
        let leaver = match heard {
            Heard::Silence => state.peer(pod).id(pod),
            Heard::Said { life, .. } => id(pod, *life),
        };
        let mut reports = reports(state, leaver);
        if reports.is_empty() && self.variant == Variant::EmptyReport {
            return true;
        }
        let wanted = self.wanted(state);
        let mut remaining: BTreeSet<PeerId> = (0..wanted)
            .map(|pod| state.peer(pod))
            .zip(0..)
            .filter(|(peer, _)| !peer.left)
            .map(|(peer, pod)| peer.id(pod))
            .collect();
        self.distort(leaver, &mut remaining, &mut reports);
        verdict_over([slot()], leaver, &remaining, &reports) == Verdict::Proved
    }

    /// What wrong variants make of reports.
    fn distort(
        &self,
        leaver: PeerId,
        remaining: &mut BTreeSet<PeerId>,
        reports: &mut BTreeMap<PeerId, Report>,
    ) {
        let answered: BTreeSet<PeerId> = reports.keys().copied().collect();
        match self.variant {
            Variant::SilenceCounts => {
                remaining.retain(|id| answered.contains(id));
                let slots = reports.values_mut().flat_map(|r| &mut r.slots);
                slots.for_each(|s| s.replicas.retain(|id| answered.contains(id)));
            }
            Variant::LeftAfterwards => {
                let own = reports.get_mut(&leaver).map(|r| &mut r.leavers);
                for own in own.into_iter().flatten().filter_map(|l| l.own.as_mut()) {
                    own.left |= own.held + own.frozen == 0;
                }
            }
            _ => {}
        }
    }
}

/// Nothing is lost with this pod: nobody counts on it, and its leave is on its volume, or it was dead when it was asked.
fn is_dispensable(state: &State, pod: u8, heard: &[Heard]) -> bool {
    let peer = state.peer(pod);
    let dead = heard.get(usize::from(pod)) == Some(&Heard::Silence);
    !state.newest.involves(peer.id(pod)) && (peer.left || dead)
}

/// All answers, as towards this leaver.
fn reports(state: &State, leaver: PeerId) -> BTreeMap<PeerId, Report> {
    let report = |(heard, pod): (&Heard, u8)| {
        let Heard::Said {
            life,
            held,
            synced,
            frozen,
            left,
            others,
        } = heard
        else {
            return None;
        };
        let me = id(pod, *life);
        let own = LeaverProgress {
            held: held.is_some().into(),
            frozen: (*frozen).into(),
            left: *left,
            ..LeaverProgress::default()
        };
        let slots = held.iter().map(|config| SlotReport {
            slot: slot(),
            epoch: config.epoch,
            replicas: config.replicas.clone(),
            next: config.next.clone(),
            synced: *synced,
        });
        let report = Report {
            peer: me,
            slots: slots.collect(),
            leavers: vec![LeaverReport {
                leaver,
                drain_epoch: 0,
                own: (me == leaver).then_some(own),
                receipts: (0, 0, 0),
            }],
            members: seen(state, state.peers.len() - others.len(), others, leaver)
                .into_iter()
                .collect(),
            greatest_epoch: 0,
        };
        Some((me, report))
    };
    state.heard.iter().zip(0..).filter_map(report).collect()
}

/// The leaver as somebody saw it.
fn seen(
    state: &State,
    first: usize,
    others: &[(u8, bool, bool)],
    leaver: PeerId,
) -> Option<Member> {
    let pod = at(leaver);
    let (life, up, left) = others[usize::from(pod) - first];
    let mut peer = state.peer(pod).clone();
    (peer.life, peer.up, peer.left) = (life, up, left);
    (id(pod, life) == leaver).then(|| peer.member(pod))
}
