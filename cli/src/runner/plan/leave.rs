//! How far leaves are: which processes may end.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::leave::{Verdict, verdict};
use peernet_core::member::{Liveness, Member, PeerId};
use peernet_core::recover::{is_named, newest};

use super::{Decided, Leaving, Observed, Peer, Volume, leavers, unwanted};

/// How far the leaves are, and below which number peers have to stay.
pub(super) fn leave(decided: &Decided, observed: &Observed) -> (Vec<Leaving>, u32) {
    let leavers = leavers(decided, observed);
    let members = known(observed);
    let leaves = |m: &Member| leavers.contains(&m.id) || unwanted(decided, observed, m);
    let remaining: BTreeSet<PeerId> = members
        .values()
        .filter(|m| m.liveness != Liveness::Left && !leaves(m))
        .map(|m| m.id)
        .collect();
    let mut leaving = Vec::new();
    let mut stay = decided.running.min(decided.wanted);
    for ordinal in decided.wanted..decided.running {
        let name = decided.peer_name(ordinal);
        let verdict = judge(decided, ordinal, &members, &remaining, observed);
        let (slots_left, bytes_left, blocker) = match verdict {
            Verdict::Proved => (0, 0, String::new()),
            Verdict::Stay {
                slots_left,
                bytes_left,
                blocker,
            } => {
                stay = ordinal + 1;
                (slots_left, bytes_left, named(blocker, observed))
            }
        };
        leaving.push(Leaving {
            name,
            slots_left,
            bytes_left,
            blocker,
        });
    }
    (leaving, stay)
}

/// Members by the lists and by the reports: that nobody knows of a peer has to be the word of those who report, whose lists may
/// be missing.
fn known(observed: &Observed) -> BTreeMap<PeerId, Member> {
    let mut members = observed.members.clone();
    for member in observed.reports.values().flat_map(|r| &r.members) {
        let known = members.entry(member.id);
        known.or_insert_with(|| member.clone()).merge(member);
    }
    members
}

/// May this process end? Only if every identity it may be is proved to be dispensable.
fn judge(
    decided: &Decided,
    ordinal: u32,
    members: &BTreeMap<PeerId, Member>,
    remaining: &BTreeSet<PeerId>,
    observed: &Observed,
) -> Verdict {
    let Decided { wanted, .. } = *decided;
    let (name, peer) = (
        decided.peer_name(ordinal),
        observed.peers.get(ordinal as usize),
    );
    let wait = |blocker: String| Verdict::Stay {
        slots_left: 0,
        bytes_left: 0,
        blocker,
    };
    let volume = peer.and_then(|p| p.volume.as_ref());
    let newest = newest(&observed.reports);
    let mut ids: BTreeSet<PeerId> = members
        .values()
        .filter(|m| m.name == name && (m.liveness != Liveness::Left || is_named(&newest, m.id)))
        .map(|m| m.id)
        .collect();
    match volume {
        Some(Volume::Peer { id, .. }) => drop(ids.insert(*id)),
        Some(Volume::Blank) => {}
        None if ids.is_empty() && !all_tell(observed, wanted) => {
            return wait(
                "it does not answer, and not all others can say that they do not know it"
                    .to_owned(),
            );
        }
        None => {}
    }
    let alive = peer.is_some_and(|p| p.alive);
    let mut worst = Verdict::Proved;
    for id in ids {
        // Silence is no proof: a process that runs has to speak for the identity it may have, until its volume says that
        // this one has left.
        let speaks = match volume {
            Some(Volume::Peer { id: own, left, .. }) => *own == id && !left,
            Some(Volume::Blank) => false,
            None => true,
        };
        if alive && speaks && !observed.reports.contains_key(&id) {
            worst = heavier(worst, wait("it does not answer".to_owned()));
        }
        worst = heavier(worst, verdict(id, remaining, &observed.reports));
    }
    worst
}

/// Every wanted peer has reported.
fn all_tell(observed: &Observed, wanted: u32) -> bool {
    let tells = |p: &Peer| matches!(p.volume, Some(Volume::Peer { id, .. }) if observed.reports.contains_key(&id));
    observed.peers.len() >= wanted as usize
        && observed.peers.iter().take(wanted as usize).all(tells)
}

fn heavier(a: Verdict, b: Verdict) -> Verdict {
    let weight = |v: &Verdict| match v {
        Verdict::Proved => None,
        Verdict::Stay { slots_left, .. } => Some(*slots_left),
    };
    if weight(&b) > weight(&a) { b } else { a }
}

/// The sentence with names for identities.
pub(super) fn named(sentence: String, observed: &Observed) -> String {
    let known = observed.members.values();
    known.fold(sentence, |sentence, m| {
        sentence.replace(&m.id.to_string(), &m.name)
    })
}
