//! Where peers stand on the ring, and which peers should hold a slot. Both are proposals: who *does* hold a slot is
//! decided by its configuration (see [`crate::slot`]).

use std::collections::BTreeSet;

use crate::key::{Position, Slot};
use crate::member::PeerId;

/// The position of the peer of that rank (0, 1, …) within zone number `zone` of `zones`.
///
/// The bit-reversed rank (van der Corput's sequence) makes each join split one of the zone's largest arcs and the leave
/// of the highest rank merge it back; rotating each zone by its share of an arc makes consecutive successors lie in
/// different zones.
///
/// # Panics
/// If `zone >= zones`.
pub fn position(rank: u32, zone: u32, zones: u32) -> Position {
    assert!(zone < zones, "zone {zone} of {zones}");
    let rotation = (u128::from(zone) << 64) / u128::from(zones);
    Position((u64::from(rank.reverse_bits()) << 32).wrapping_add(rotation as u64))
}

/// A peer as placement sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<'a> {
    /// Its identity.
    pub id: PeerId,
    /// Its place on the ring.
    pub position: Position,
    /// Its failure domain.
    pub zone: &'a str,
}

/// The peers that should hold `slot`: walking clockwise from the slot's start, the first peer of each zone, then, when
/// zones run out, the nearest remaining peers, up to `factor`. In order of the walk.
///
/// `ring` holds the eligible peers in ring order.
pub fn replicas(slot: Slot, ring: &[Candidate<'_>], factor: usize) -> Vec<PeerId> {
    let start = ring.partition_point(|c| c.position < slot.start());
    let walk = || ring[start..].iter().chain(&ring[..start]);
    let mut zones = BTreeSet::new();
    let mut chosen: Vec<PeerId> = walk()
        .filter(|c| zones.insert(c.zone))
        .take(factor)
        .map(|c| c.id)
        .collect();
    let missing = factor.saturating_sub(chosen.len());
    let rest: Vec<PeerId> = walk()
        .map(|c| c.id)
        .filter(|id| !chosen.contains(id))
        .take(missing)
        .collect();
    chosen.extend(rest);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_interleave_zones_and_split_the_largest_arc() {
        let mut ring: Vec<(Position, u32)> = (0..12)
            .map(|o| (position(o / 3, o % 3, 3), o % 3))
            .collect();
        ring.sort();
        assert!(
            ring.windows(2).all(|w| w[0].1 != w[1].1),
            "neighbours share a zone: {ring:?}"
        );
        let gaps: Vec<u64> = ring.windows(2).map(|w| w[1].0.0 - w[0].0.0).collect();
        let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(
            most - least <= 4,
            "12 peers in 3 zones stand evenly: {gaps:?}"
        );
    }

    #[test]
    fn replicas_lie_in_distinct_zones_while_zones_last() {
        let zones = ["a", "a", "a", "b", "b"];
        let ring: Vec<Candidate<'_>> = (0..5)
            .map(|i| Candidate {
                id: PeerId(i as u128),
                position: Position((i as u64) << 60),
                zone: zones[i],
            })
            .collect();
        let chosen = replicas(Slot::new(0).unwrap(), &ring, 3);
        assert_eq!(chosen, [PeerId(0), PeerId(3), PeerId(1)]);
        assert_eq!(replicas(Slot::new(0).unwrap(), &ring[..2], 3).len(), 2);
    }
}
