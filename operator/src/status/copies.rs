//! What the status says of copies: whether they can be written, and how far apart they stand. Both come from what peers
//! say, so where none says anything both are unknown: to call it well would be wrong exactly when everything is down.

use peernet_core::key::SLOTS;
use peernet_core::member::{Liveness, Member};
use peernet_core::recover::{Stuck, newest};
use peernet_plan::names::{self, GRPC_PORT};
use peernet_plan::observed::{NO_ZONE, Observed};
use peernet_plan::{Plan, Spread};

use super::{Holds, Verdict};

/// The reason while nobody has founded the ring.
pub(crate) const NO_RING: &str = "NoRing";
/// The reason when no peer can be asked.
const NO_PEER_ANSWERS: &str = "NoPeerAnswers";

/// Writes go on where a majority of the replicas answers.
pub(super) fn writable(observed: &Observed, plan: &Plan) -> Verdict {
    let untold = untold(observed);
    let (holds, reason, message) = if !observed.network.status.founded {
        let sentence = "there is no ring yet".to_owned();
        (Holds::Unknown, NO_RING, sentence)
    } else if !plan.stuck.is_empty() {
        let sentence = stuck_sentence(observed, &plan.stuck);
        (Holds::False, "MajorityLost", sentence)
    } else if observed.members.is_empty() {
        let sentence = format!(
            "no peer answers, so nobody knows whether files can be written; {}",
            way_out(observed)
        );
        (Holds::Unknown, NO_PEER_ANSWERS, sentence)
    } else if untold > 0 {
        let sentence = untold_sentence(observed, untold);
        (Holds::Unknown, "SlotsNotReported", sentence)
    } else {
        let sentence = "no slot has lost its majority".to_owned();
        (Holds::True, "MajoritiesAnswer", sentence)
    };
    Verdict {
        type_: "Writable",
        holds,
        reason,
        message,
    }
}

/// Slots that nobody who answers knows the holders of. Of no interest while all members are up.
fn untold(observed: &Observed) -> usize {
    if down(observed).next().is_none() {
        return 0;
    }
    usize::from(SLOTS) - newest(&observed.reports).len()
}

fn down(observed: &Observed) -> impl Iterator<Item = &Member> {
    let members = observed.members.values();
    members.filter(|m| m.liveness == Liveness::Down)
}

fn sorted<'a>(members: impl Iterator<Item = &'a Member>) -> String {
    let mut names: Vec<&str> = members.map(|m| m.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn untold_sentence(observed: &Observed, untold: usize) -> String {
    let members = observed.members.values();
    let silent = members.filter(|m| m.is_present() && !observed.reports.contains_key(&m.id));
    format!(
        "of {untold} of {SLOTS} slots nobody has said who holds them, while {} do not answer the others: wait for {}, \
         and if that lasts, look at their logs",
        sorted(down(observed)),
        sorted(silent),
    )
}

/// Where to look when no peer answers the operator.
fn way_out(observed: &Observed) -> String {
    let name = &observed.network.name;
    match observed.pods.values().filter(|pod| pod.ready).count() {
        0 => format!(
            "see why none of its pods is ready: kubectl describe pods -n {} -l app.kubernetes.io/instance={name}",
            observed.network.namespace
        ),
        ready => format!(
            "but {ready} of its pods are ready, and most likely serve: see what keeps the operator from their port \
             {GRPC_PORT} (a NetworkPolicy, the network between nodes; its log says more)"
        ),
    }
}

fn stuck_sentence(observed: &Observed, stuck: &Stuck) -> String {
    let members = observed.members.values();
    let missing = sorted(members.filter(|m| {
        stuck.missing.contains(&m.id) || (!stuck.nobody.is_empty() && m.liveness == Liveness::Down)
    }));
    let name = &observed.network.name;
    format!(
        "{} of {SLOTS} slots cannot be written, because {missing} hold a majority of their copies and do not answer; they \
         can again when those are back. Only if they are gone for good, give up what nobody else holds: kubectl annotate \
         pn/{name} {}={}",
        stuck.len(),
        names::RECOVER,
        missing.replace(", ", ","),
    )
}

/// Whether copies stand as far apart as they can. That it is so is no praise: with a single zone all of them are in it.
pub(super) fn spread(observed: &Observed, plan: &Plan) -> Verdict {
    let Spread { zones, possible } = plan.spread;
    let copies = usize::try_from(observed.network.spec.replication.factor).unwrap_or(0);
    let count = |n: usize| format!("{n} {}", if n == 1 { "zone" } else { "zones" });
    let (holds, reason, message) = if !observed.network.status.founded {
        let sentence = "there are no copies yet".to_owned();
        (Holds::Unknown, NO_RING, sentence)
    } else if observed.members.is_empty() {
        let sentence = format!(
            "no peer answers, so nobody knows where copies stand; {}",
            way_out(observed)
        );
        (Holds::Unknown, NO_PEER_ANSWERS, sentence)
    } else if plan.spread.is_narrow() {
        let sentence = format!(
            "copies now stand in {zones} of {}: the loss of one takes more of them; see whether peers of the others are \
             down, or raise spec.replicas",
            count(possible)
        );
        (Holds::False, "FewerZones", sentence)
    } else if zones == 1 && copies > 1 {
        (Holds::True, "OneZone", one_zone_sentence(observed, copies))
    } else if zones < copies {
        let sentence = format!(
            "copies stand in {}, which are all that the nodes have: of {copies} copies some share a zone",
            count(zones)
        );
        (Holds::True, "AllZones", sentence)
    } else {
        let sentence = format!("copies stand in {}", count(possible));
        (Holds::True, "AllZones", sentence)
    };
    Verdict {
        type_: "Spread",
        holds,
        reason,
        message,
    }
}

fn one_zone_sentence(observed: &Observed, copies: usize) -> String {
    let key = &observed.network.spec.zones.topology_key;
    let unlabelled = observed.zone_of.values().all(|zone| zone == NO_ZONE);
    let why = if unlabelled {
        format!("no node has the label {key}")
    } else {
        format!("all nodes have the same label {key}")
    };
    format!(
        "all {copies} copies stand in one zone, as {why}: what takes that zone takes them all, and two may lie on one \
         node; where nodes do not share a fate, label them, or make the next network with another \
         spec.zones.topologyKey"
    )
}
