//! How evenly the proposals of [`placement`] spread the slots, how far they walk the ring for distinct zones, and how many
//! copies a change of members moves.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::key::{Position, Slot};
use peernet_core::member::PeerId;
use peernet_core::placement::{self, Candidate};

/// A peer that stands on the ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its identity; its ordinal, unless something else is being told apart.
    pub id: PeerId,
    /// Its place.
    pub position: Position,
    /// Its failure domain.
    pub zone: String,
}

/// Peers 0 to `peers` − 1 dealt to `zones` in turn, as a scheduler that spreads pods evenly does, each at the position
/// of its rank in its zone.
pub fn dealt(peers: u32, zones: u32) -> Vec<Standing> {
    let zone_of: Vec<u32> = (0..peers).map(|ordinal| ordinal % zones).collect();
    standing(&zone_of, zones)
}

/// Peers whose zones are given by ordinal, each placed when it joins.
pub fn standing(zone_of: &[u32], zones: u32) -> Vec<Standing> {
    let mut positions: BTreeMap<u32, BTreeSet<Position>> = BTreeMap::new();
    let place = |(ordinal, zone): (usize, &u32)| {
        let own = positions.remove(zone).unwrap_or_default();
        let others = positions.values().flatten().copied().collect();
        let position = placement::vacancy(*zone, zones, &own, &others);
        positions.insert(*zone, own);
        positions.entry(*zone).or_default().insert(position);
        Standing {
            id: PeerId(ordinal as u128),
            position,
            zone: format!("zone-{zone}"),
        }
    };
    zone_of.iter().enumerate().map(place).collect()
}

/// Who should hold each slot, by slot.
pub type Targets = Vec<Vec<PeerId>>;

/// Where each slot should live, `factor` copies of it.
pub fn targets(peers: &[Standing], factor: usize) -> Targets {
    let mut ring: Vec<&Standing> = peers.iter().collect();
    ring.sort_by_key(|p| (p.position, p.id));
    let ring: Vec<Candidate<'_>> = ring
        .iter()
        .map(|p| Candidate {
            id: p.id,
            position: p.position,
            zone: &p.zone,
        })
        .collect();
    Slot::all()
        .map(|slot| placement::replicas(slot, &ring, factor))
        .collect()
}

/// What each of `peers` is to hold when slot number `i` holds `weight(i)`.
pub fn loads(peers: &[Standing], targets: &Targets, weight: impl Fn(usize) -> u64) -> Vec<u64> {
    let mut loads: BTreeMap<PeerId, u64> = peers.iter().map(|p| (p.id, 0)).collect();
    for (slot, replicas) in targets.iter().enumerate() {
        for id in replicas {
            *loads.entry(*id).or_default() += weight(slot);
        }
    }
    loads.into_values().collect()
}

/// The fullest peer's load over the mean.
pub fn peak_to_mean(loads: &[u64]) -> f64 {
    let total: u64 = loads.iter().sum();
    let peak = loads.iter().max().copied().unwrap_or(0);
    peak as f64 * loads.len() as f64 / total as f64
}

/// The lowest peak to mean that any placement has that puts the copies into distinct zones while zones last: a zone with
/// few peers must still hold its copy of everything.
pub fn best_peak_to_mean(peers: &[Standing], factor: usize) -> f64 {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    for peer in peers {
        *zones.entry(&peer.zone).or_default() += 1;
    }
    let copies = factor.min(peers.len());
    if zones.len() > copies {
        return 1.0;
    }
    let smallest = zones.values().min().copied().unwrap_or(1);
    let mean = copies as f64 / peers.len() as f64;
    (1.0 / smallest as f64 / mean).max(1.0)
}

/// The most successors that had to be walked, over all slots, to come by the slot's replicas.
pub fn longest_walk(peers: &[Standing], targets: &Targets) -> usize {
    let mut ring: Vec<(Position, PeerId)> = peers.iter().map(|p| (p.position, p.id)).collect();
    ring.sort();
    let place: BTreeMap<PeerId, usize> = ring.iter().enumerate().map(|(i, p)| (p.1, i)).collect();
    let walked = |(slot, replicas): (Slot, &Vec<PeerId>)| {
        let start = ring.partition_point(|p| p.0 < slot.start());
        let steps = |id: &PeerId| (place[id] + ring.len() - start) % ring.len() + 1;
        replicas.iter().map(steps).max().unwrap_or(0)
    };
    Slot::all().zip(targets).map(walked).max().unwrap_or(0)
}

/// Copies that a change of members moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Copies to be made: replicas that were not replicas before.
    pub copies: u64,
    /// Of those, what newcomers take and what leavers held: as few as any way to the same shares of newcomers and
    /// leavers needs. The rest goes from one peer that stays to another, for nothing.
    pub needed: u64,
}

/// What it takes to get from one layout to another, by who stays.
pub fn moved(before: &Targets, after: &Targets, stays: impl Fn(&PeerId) -> bool) -> Moved {
    let mut moved = Moved {
        copies: 0,
        needed: 0,
    };
    for (old, new) in before.iter().zip(after) {
        let fresh = |id: &&PeerId| !old.contains(id);
        moved.copies += new.iter().filter(fresh).count() as u64;
        let newcomers = new.iter().filter(fresh).filter(|id| !stays(id)).count();
        let leavers = old.iter().filter(|id| !stays(id) && !new.contains(id));
        // What a leaver held is made anew as far as there are peers for it.
        let room = (new.len() + leavers.clone().count()).saturating_sub(old.len());
        moved.needed += (newcomers + leavers.count().min(room)) as u64;
    }
    moved
}

/// The figures of one layout.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Layout {
    /// Peers.
    pub peers: u32,
    /// Peak to mean, by slots.
    pub peak: f64,
    /// The lowest peak to mean that distinct zones allow.
    pub best: f64,
    /// Most successors walked.
    pub walk: usize,
    /// The last peer's share over the mean: what its join moved, and its leave will.
    pub last: f64,
    /// What the last peer's join moved.
    pub join: Moved,
    /// What its leave would move.
    pub leave: Moved,
}

/// The layouts of the first 3, 4, … of `peers` (in the order in which they joined), `factor` copies each.
pub fn layouts(peers: &[Standing], factor: usize) -> Vec<Layout> {
    let mut before = targets(&peers[..2], factor);
    let measure = |n: usize| {
        let present = &peers[..n];
        let after = targets(present, factor);
        let loads = loads(present, &after, |_| 1);
        let last = &present[n - 1].id;
        let layout = Layout {
            peers: n as u32,
            peak: peak_to_mean(&loads),
            best: best_peak_to_mean(present, factor),
            walk: longest_walk(present, &after),
            last: share(&after, *last) * n as f64,
            join: moved(&before, &after, |id| id != last),
            leave: moved(&after, &before, |id| id != last),
        };
        before = after;
        layout
    };
    (3..=peers.len()).map(measure).collect()
}

/// The part of all copies that one peer is to hold.
fn share(targets: &Targets, id: PeerId) -> f64 {
    let copies: usize = targets.iter().map(Vec::len).sum();
    let own = targets.iter().flatten().filter(|r| **r == id).count();
    own as f64 / copies as f64
}
