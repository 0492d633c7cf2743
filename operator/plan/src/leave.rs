//! How many pods there have to be: all that are wanted, and all that may not go yet.
//!
//! The StatefulSet removes its highest ordinals, so one pod that has to stay keeps all below it. A pod may go only on
//! evidence: the verdict on the identity its volume carries, or, for a pod of which no member is known, the word of all
//! members that they are a whole ring without it. A question without an answer is never evidence.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::leave::{Verdict, verdict};
use peernet_core::member::{Liveness, PeerId};
use peernet_core::recover::{is_named, newest};

use crate::names;
use crate::observed::Observed;

use super::{Identity, leavers};

/// The schema's limit; a name beyond it is not one that we gave.
const ORDINALS: u32 = 1_000;

/// The leave under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leave {
    /// Pods that should go and have to stay for now.
    pub leaving: u32,
    /// Slots that still name a leaver, are moving or lack proof, summed over the leavers.
    pub slots_left: u64,
    /// Bytes that leavers still have to hand over, by their own account.
    pub bytes_left: u64,
    /// What the highest pod that has to stay waits for, a sentence.
    pub blocker: String,
}

/// What the StatefulSet is to ask for, and why it is more than wanted.
pub(crate) struct Size {
    pub(crate) replicas: u32,
    pub(crate) leave: Option<Leave>,
}

/// Why a pod has to stay.
struct Stay {
    slots_left: u32,
    bytes_left: u64,
    blocker: String,
}

impl Stay {
    fn because(blocker: impl Into<String>) -> Self {
        Stay {
            slots_left: 0,
            bytes_left: 0,
            blocker: blocker.into(),
        }
    }
}

/// Decides how many pods there have to be.
pub(crate) fn size(observed: &Observed, identity: &Identity) -> Size {
    let desired = observed.network.desired();
    let last = observed.current().max(observed.last());
    if observed.network.status.founded && observed.members.is_empty() && last > desired {
        // Whoever has lowered the set by hand meanwhile has proved nothing; what it was is not to be forgotten.
        return Size {
            replicas: last,
            leave: Some(Leave {
                leaving: last - desired,
                slots_left: 0,
                bytes_left: 0,
                blocker: "no peer answers, so that nobody knows who may go".into(),
            }),
        };
    }
    let stays = if observed.network.status.founded {
        stays(observed)
    } else {
        unfounded(observed, identity)
    };
    let Some((highest, stay)) = stays.last_key_value() else {
        return Size {
            replicas: desired,
            leave: None,
        };
    };
    let replicas = highest + 1;
    let leave = Leave {
        leaving: replicas - desired,
        slots_left: stays.values().map(|stay| u64::from(stay.slots_left)).sum(),
        bytes_left: stays.values().map(|stay| stay.bytes_left).sum(),
        blocker: format!(
            "{}: {}",
            names::pod(&observed.network.name, *highest),
            named(observed, &stay.blocker)
        ),
    };
    Size {
        replicas,
        leave: Some(leave),
    }
}

/// Names members instead of their identities, which users do not know.
pub(crate) fn named(observed: &Observed, sentence: &str) -> String {
    let members = observed.members.values();
    members.fold(sentence.to_owned(), |text, member| {
        text.replace(&member.id.to_string(), &member.name)
    })
}

/// Before the ring exists nobody but ordinal 0, which is always wanted, was told to run. Only what old volumes remember
/// has to be heard, for which their pods have to be there.
fn unfounded(observed: &Observed, identity: &Identity) -> BTreeMap<u32, Stay> {
    if identity.founded {
        // About to be adopted: who may go is decided once the members can be asked.
        let unwanted = observed.network.desired()..observed.current();
        return unwanted
            .map(|o| (o, Stay::because("its ring is only just found")))
            .collect();
    }
    let old = observed
        .old_volumes
        .iter()
        .copied()
        .filter(|_| identity.network.is_none());
    let unwanted = old.filter(|o| *o >= observed.network.desired() && *o < ORDINALS);
    unwanted
        .map(|o| (o, Stay::because("its old volume has to be read first")))
        .collect()
}

/// All unwanted pods that have to stay, or to come back.
fn stays(observed: &Observed) -> BTreeMap<u32, Stay> {
    let (desired, current) = (observed.network.desired(), observed.current());
    let leavers = leavers(observed);
    let remaining: BTreeSet<PeerId> = observed
        .members
        .values()
        .filter(|m| m.liveness != Liveness::Left && !leavers.contains_key(&m.id))
        .map(|m| m.id)
        .collect();
    let newest = newest(&observed.reports);
    let mut stays = BTreeMap::new();
    for (leaver, ordinal) in leavers.iter().filter(|(_, ordinal)| **ordinal < ORDINALS) {
        // A pod that is gone already, and was let go, comes back only if the ring still counts on it; that the ring is busy,
        // which a verdict also has to refuse, is no reason. One that somebody else took away was never judged.
        let counts = || is_named(&newest, *leaver);
        if *ordinal >= current.max(observed.last()) && !counts() {
            continue;
        }
        if let Some(stay) = judge(observed, *leaver, *ordinal, &remaining) {
            stays.insert(*ordinal, stay);
        }
    }
    for ordinal in (desired..current).filter(|o| !leavers.values().any(|known| known == o)) {
        if let Some(stay) = judge_stranger(observed, ordinal, &remaining) {
            stays.insert(ordinal, stay);
        }
    }
    stays
}

/// The verdict on a leaver, and one thing more: while its pod lives, it has to speak for itself, because only it knows
/// whether its leave is on its volume.
fn judge(
    observed: &Observed,
    leaver: PeerId,
    ordinal: u32,
    remaining: &BTreeSet<PeerId>,
) -> Option<Stay> {
    if let Some(pod) = observed.pods.get(&ordinal) {
        let alive = match &pod.answer {
            Some(answer) => answer.volume.living() == Some(leaver),
            None => pod.ready,
        };
        let own = observed.reports.get(&leaver).map(|report| &report.leavers);
        let spoke = own.is_some_and(|l| l.iter().any(|l| l.leaver == leaver && l.own.is_some()));
        if alive && !spoke {
            return Some(Stay::because("waiting for its own report"));
        }
    }
    stay(verdict(leaver, remaining, &observed.reports))
}

/// Stands for the identity that a pod's volume may have, which nobody knows; no peer has it.
const UNKNOWN: PeerId = PeerId(0);

/// On a pod that no member knows: it may go when it says that it never was one, or, if it says nothing, when all members
/// that there are agree. That the members which answer know of nobody is not enough, as they may be new themselves, or
/// have missed who joined: together they have to hold every slot without it.
fn judge_stranger(observed: &Observed, ordinal: u32, remaining: &BTreeSet<PeerId>) -> Option<Stay> {
    let answer = observed
        .pods
        .get(&ordinal)
        .and_then(|pod| pod.answer.as_ref());
    if answer.is_some_and(|answer| answer.volume.peer.is_none() && !answer.volume.running) {
        return None;
    }
    let silent = remaining
        .iter()
        .filter(|id| !observed.reports.contains_key(id));
    let mut silent = silent
        .filter_map(|id| observed.members.get(id))
        .filter(|m| m.is_present());
    if let Some(member) = silent.next() {
        return Some(Stay::because(format!("{} does not answer", member.name)));
    }
    if observed.reports.is_empty() {
        return Some(Stay::because("no member answers"));
    }
    stay(verdict(UNKNOWN, remaining, &observed.reports))
}

fn stay(verdict: Verdict) -> Option<Stay> {
    match verdict {
        Verdict::Proved => None,
        Verdict::Stay {
            slots_left,
            bytes_left,
            blocker,
        } => Some(Stay {
            slots_left,
            bytes_left,
            blocker,
        }),
    }
}
