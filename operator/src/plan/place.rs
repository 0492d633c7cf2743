//! Who stands where: places for pods that wait for one.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::key::Position;
use peernet_core::member::Liveness;
use peernet_core::placement;

use crate::names;
use crate::observe::{Observed, PeerPod};
use crate::peers::Volume;

use super::{Assignment, Identity};

/// Places for all pods that wait for one and may have one, and sentences on those that may not.
pub(super) fn assignments(
    observed: &Observed,
    identity: &Identity,
) -> (Vec<Assignment>, Vec<String>) {
    let (mut assignments, mut problems) = (Vec::new(), Vec::new());
    let Some(network) = identity.network.as_ref().filter(|_| identity.written) else {
        return (assignments, problems);
    };
    let zones: BTreeSet<&String> = observed.zone_of.values().collect();
    let mut taken = taken(observed);
    for (ordinal, pod) in observed
        .pods
        .iter()
        .filter(|(_, pod)| pod.awaits_assignment())
    {
        let (Some(answer), Some(address)) = (&pod.answer, &pod.address) else {
            continue;
        };
        let volume = &answer.volume;
        if !may_run(observed, *ordinal, volume) {
            continue;
        }
        if let Some(other) = volume.network.as_ref().filter(|other| *other != network) {
            let name = names::pod(&observed.network.name, *ordinal);
            problems.push(format!(
                "{name} has a volume of another network ({other}); delete claim {}-{name} and the pod to give it an \
                 empty one",
                names::VOLUME
            ));
            continue;
        }
        // A pod on a node that was just added or removed gets its place in a later cycle.
        let Some(zone) = zone(pod, &observed.zone_of) else {
            continue;
        };
        let position = match volume.living() {
            Some(_) => volume.position,
            None => free_position(zone, &zones, &taken),
        };
        taken.insert(position);
        assignments.push(Assignment {
            ordinal: *ordinal,
            address: address.clone(),
            network: network.clone(),
            zone: zone.clone(),
            position,
            found: !observed.network.status.founded,
            newcomer: volume.living().is_none(),
        });
    }
    (assignments, problems)
}

/// Before the ring is founded only its founder runs; later every wanted pod, and an unwanted one that is still a member:
/// it has to hand over.
fn may_run(observed: &Observed, ordinal: u32, volume: &Volume) -> bool {
    if !observed.network.status.founded {
        return ordinal == 0;
    }
    ordinal < observed.network.desired() || volume.living().is_some()
}

fn zone<'a>(pod: &PeerPod, zone_of: &'a BTreeMap<String, String>) -> Option<&'a String> {
    zone_of.get(pod.node.as_ref()?)
}

/// Positions that members have, or will have again.
fn taken(observed: &Observed) -> BTreeSet<Position> {
    let members = observed
        .members
        .values()
        .filter(|m| m.liveness != Liveness::Left);
    let answers = observed.pods.values().filter_map(|pod| pod.answer.as_ref());
    let volumes = answers
        .filter(|a| a.volume.living().is_some())
        .map(|a| a.volume.position);
    members.map(|m| m.position).chain(volumes).collect()
}

/// The position of the zone's lowest rank that nobody has.
fn free_position(zone: &String, zones: &BTreeSet<&String>, taken: &BTreeSet<Position>) -> Position {
    let count = u32::try_from(zones.len()).unwrap_or(u32::MAX);
    let index = zones.iter().position(|z| *z == zone).unwrap_or(0);
    let index = u32::try_from(index).unwrap_or(0);
    // Ranks have distinct positions, so one of the first `taken + 1` is free.
    let ranks = 0..=u32::try_from(taken.len()).unwrap_or(u32::MAX);
    let mut positions = ranks.map(|rank| placement::position(rank, index, count));
    positions
        .find(|position| !taken.contains(position))
        .unwrap_or_default()
}
