//! Who stands where: places for pods that wait for one.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::key::Position;
use peernet_core::member::Liveness;
use peernet_core::placement;

use crate::names;
use crate::observed::{Observed, PeerPod, Volume};

use super::{Assignment, Identity, replace};

/// Places for all pods that wait for one and may have one, and sentences on those that may not.
pub(crate) fn assignments(
    observed: &Observed,
    identity: &Identity,
) -> (Vec<Assignment>, Vec<String>) {
    let (mut assignments, mut problems) = (Vec::new(), Vec::new());
    let Some(network) = identity.network.as_ref().filter(|_| identity.written) else {
        return (assignments, problems);
    };
    let zones: BTreeSet<&String> = observed.zone_of.values().collect();
    let mut standing = standing(observed);
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
            None => vacancy(zone, &zones, &standing),
        };
        standing.entry(zone).or_default().insert(position);
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
    let begins_anew =
        ordinal < observed.network.desired() && !replace::is_doomed(observed, ordinal);
    begins_anew || volume.living().is_some()
}

fn zone<'a>(pod: &PeerPod, zone_of: &'a BTreeMap<String, String>) -> Option<&'a String> {
    zone_of.get(pod.node.as_ref()?)
}

/// Where members stand, or will stand again, by zone.
fn standing(observed: &Observed) -> BTreeMap<&String, BTreeSet<Position>> {
    // That of a peer that is being replaced is for its successor.
    let members = observed
        .members
        .values()
        .filter(|m| m.liveness != Liveness::Left && !replace::is_retiring(observed, m))
        .map(|m| (&m.zone, m.position));
    let volumes = observed.pods.values().filter_map(|pod| {
        let volume = &pod.answer.as_ref()?.volume;
        volume.living()?;
        Some((zone(pod, &observed.zone_of)?, volume.position))
    });
    let mut standing: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (zone, position) in members.chain(volumes) {
        standing.entry(zone).or_default().insert(position);
    }
    standing
}

/// The place for one more peer of that zone.
fn vacancy(
    zone: &String,
    zones: &BTreeSet<&String>,
    standing: &BTreeMap<&String, BTreeSet<Position>>,
) -> Position {
    let count = u32::try_from(zones.len()).unwrap_or(u32::MAX);
    let index = zones.iter().position(|z| *z == zone).unwrap_or(0);
    let index = u32::try_from(index).unwrap_or(0);
    let own = standing.get(zone).cloned().unwrap_or_default();
    let others = standing.iter().filter(|(z, _)| **z != zone);
    let others = others.flat_map(|(_, at)| at).copied().collect();
    placement::vacancy(index, count, &own, &others)
}
