//! Where peers stand on the ring, and which peers should hold a slot. Both are proposals: who *does* hold a slot is
//! decided by its configuration (see [`crate::slot`]).

use std::collections::BTreeSet;

use crate::config::Replication;
use crate::key::{Position, Slot};
use crate::member::{Member, PeerId};

/// Copies that positions are laid out for.
const COPIES: u32 = Replication::DEFAULT.factor;

/// So many zones stand among each other without a pattern: with one zone per neighbour that shares slots, COPIES − 1 to
/// either side, and its own there is nearly always a place among strangers.
const MANY_ZONES: u32 = 2 * COPIES - 1;

/// The position of the peer of that rank (0, 1, …) within zone number `zone` of `zones`.
///
/// Each zone follows the sequence of de Bruijn and Erdős ("Sequences of points on a circle", 1949): the whole numbers
/// from 2ᵏ to 2ᵏ⁺¹ stand on a logarithmic circle, and a join puts the next odd number between two even ones, which are
/// the old points doubled. So each join splits one of the zone's largest arcs, the leave of the highest rank merges it
/// back, and no arc grows beyond 1 / ln 2 = 1.44 times the mean; no sequence does better in the long run. (Halving the
/// largest arc, van der Corput's sequence, comes to twice the mean.)
///
/// How zones stand to each other depends on how they share the load. When every zone holds equally many copies of each
/// slot they do not, and peers of one rank stand side by side: their zones alternate, and they hold the same slots. With
/// two zones for three copies, or four, the zones' numbers are shifted so that between two of one zone stands one of each
/// other zone, evenly. Five zones and more share one sequence, in which [`vacancy`] looks for places. The copies meant are the
/// default's; those of another factor are only spread less evenly.
///
/// # Panics
/// If `zone >= zones`.
pub fn position(rank: u32, zone: u32, zones: u32) -> Position {
    assert!(zone < zones, "zone {zone} of {zones}");
    if zones >= MANY_ZONES {
        return Position(number_on_circle(rank, 0, 1));
    }
    if COPIES.is_multiple_of(zones) {
        let side_by_side = number_on_circle(rank, 0, 1);
        return Position(side_by_side.wrapping_add(zone.into()));
    }
    // Each zone is the class of numbers of one remainder. Doubling permutes the classes of an odd modulus only.
    Position(number_on_circle(rank, zone.into(), (zones | 1).into()))
}

/// Where the `rank`th number stands of those that have the remainder `class` by `modulus` at first, and 2ᵏ `class` after
/// k doublings of the range `modulus..2 * modulus`.
fn number_on_circle(rank: u32, class: u128, modulus: u128) -> u64 {
    let doublings = u32::BITS - rank.leading_zeros();
    let unit = modulus << doublings;
    let first = unit + (class << doublings) % modulus;
    // Of the 2^doublings numbers in the range the even ones are old, and the odd ones come now, in order.
    let number = match doublings {
        0 => first,
        _ => {
            let nth = u128::from(rank - (1 << (doublings - 1)));
            first + (2 * nth + u128::from(first.is_multiple_of(2))) * modulus
        }
    };
    log2_fraction(number, unit)
}

/// The first 64 bits of log2(`n` / `unit`), where `unit <= n < 2 * unit`. In whole numbers, so that it is the same on
/// every machine; the last dozen bits are not exact.
fn log2_fraction(n: u128, unit: u128) -> u64 {
    const ONE: u32 = 62;
    let mut mantissa = (n << ONE) / unit;
    (0..u64::BITS).fold(0, |bits, _| {
        // Squaring doubles the logarithm and brings its next bit before the point.
        mantissa = (mantissa * mantissa) >> ONE;
        let bit = mantissa >> (ONE + 1);
        mantissa >>= bit;
        (bits << 1) | bit as u64
    })
}

/// The position for one more peer of that zone, when `own` are the positions of the zone's members and `others` those of
/// all others.
///
/// As long as only the highest ranks leave, that is the lowest free rank. When peers from the middle have gone, or stand
/// where they stood when the network had another number of zones, it is, of the first ranks, the one farthest from the
/// zone's members. With five zones and more it is the lowest free rank whose neighbours, as many to either side as share
/// slots with it, are of other zones.
///
/// # Panics
/// If `zone >= zones`.
pub fn vacancy(
    zone: u32,
    zones: u32,
    own: &BTreeSet<Position>,
    others: &BTreeSet<Position>,
) -> Position {
    let bound = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    if zones < MANY_ZONES {
        let ranks = 0..=bound(own.len());
        let positions = ranks.map(|rank| position(rank, zone, zones));
        // Of equals the last is taken, so the lowest rank has to come last.
        let farthest = positions.rev().max_by_key(|at| room(*at, own));
        return farthest.unwrap_or_default();
    }
    let all: BTreeSet<Position> = own | others;
    // A quarter of the mean arc. Each member is nearer than that to at most four of the first 4n ranks, so one is left.
    let quarters = 4 * (all.len() as u64 + 1);
    let ranks = 0..=bound(4 * (all.len() + 1));
    let free = ranks
        .map(|rank| position(rank, zone, zones))
        .filter(|at| room(*at, &all) >= u64::MAX / quarters);
    free.min_by_key(|at| relatives(*at, own, &all))
        .unwrap_or_default()
}

/// The distance from `at` to the nearest of `members`.
fn room(at: Position, members: &BTreeSet<Position>) -> u64 {
    let before = members.range(..=at).next_back().or(members.last());
    let after = members.range(at..).next().or(members.first());
    let before = before.map_or(u64::MAX, |p| p.distance_to(at));
    after.map_or(u64::MAX, |p| at.distance_to(*p)).min(before)
}

/// How many of a zone's members are among those that would share slots with a peer at `at`.
fn relatives(at: Position, own: &BTreeSet<Position>, all: &BTreeSet<Position>) -> usize {
    let reach = (COPIES as usize - 1).min(all.len());
    let after = all.range(at..).chain(all).take(reach);
    let before = all.range(..at).rev().chain(all.iter().rev()).take(reach);
    after.chain(before).filter(|p| own.contains(p)).count()
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

impl<'a> From<&'a Member> for Candidate<'a> {
    fn from(member: &'a Member) -> Self {
        Candidate {
            id: member.id,
            position: member.position,
            zone: &member.zone,
        }
    }
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
    use std::collections::BTreeMap;

    use super::*;

    fn arcs(mut positions: Vec<Position>) -> Vec<u64> {
        positions.sort();
        let next = positions.iter().cycle().skip(1);
        let arcs = positions.iter().zip(next);
        arcs.map(|(from, to)| from.distance_to(*to)).collect()
    }

    #[test]
    fn each_join_splits_one_of_the_largest_arcs() {
        for peers in 2..=300 {
            let largest = |n| {
                let arcs = arcs((0..n).map(|rank| position(rank, 0, 1)).collect());
                *arcs.iter().max().expect("some") as f64 / 2f64.powi(64) * f64::from(n)
            };
            assert!(largest(peers) < std::f64::consts::LOG2_E, "{peers} peers");
        }
        let halves = |n| {
            arcs(
                (0..n)
                    .map(|rank: u32| Position(u64::from(rank.reverse_bits()) << 32))
                    .collect(),
            )
        };
        assert!(
            *halves(127).iter().max().expect("some") as f64 / 2f64.powi(64) * 127.0 > 1.9,
            "halving would be worse"
        );
    }

    #[test]
    fn a_leave_of_the_highest_rank_restores_the_ring() {
        for zones in 1..MANY_ZONES {
            let ring = |n: u32| -> BTreeSet<Position> {
                (0..n)
                    .map(|o| position(o / zones, o % zones, zones))
                    .collect()
            };
            for peers in 1..100 {
                assert_eq!(ring(peers).len(), peers as usize, "all stand apart");
                assert!(ring(peers).is_subset(&ring(peers + 1)));
            }
        }
    }

    #[test]
    fn zones_alternate_around_the_ring() {
        for zones in 2..MANY_ZONES {
            for ranks in [1, 2, 4, 8, 16] {
                let stand = |o: u32| (position(o / zones, o % zones, zones), o % zones);
                let mut ring: Vec<_> = (0..zones * ranks).map(stand).collect();
                ring.sort();
                let ring: Vec<u32> = ring.into_iter().map(|p| p.1).collect();
                for turn in ring.chunks(zones as usize) {
                    let distinct: BTreeSet<_> = turn.iter().collect();
                    assert_eq!(distinct.len(), turn.len(), "{zones} zones: {ring:?}");
                }
            }
        }
    }

    #[test]
    fn logarithms_are_right() {
        for (n, unit) in [(3, 2), (5, 4), (7, 4), (1025, 1024), (4095, 2048), (11, 7)] {
            let exact = (n as f64 / unit as f64).log2();
            let ours = log2_fraction(n, unit) as f64 / 2f64.powi(64);
            assert!((exact - ours).abs() < 1e-12, "{n}/{unit}: {exact} {ours}");
        }
        assert_eq!(log2_fraction(8, 8), 0);
        assert!(
            log2_fraction((1 << 65) - 1, 1 << 64) > u64::MAX / 4 * 3,
            "no overflow"
        );
    }

    #[test]
    fn a_vacancy_is_the_lowest_free_rank_or_the_hole_that_was_left() {
        let none = BTreeSet::new();
        for (zone, zones) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            let mut members = BTreeSet::new();
            for rank in 0..50 {
                assert_eq!(
                    vacancy(zone, zones, &members, &none),
                    position(rank, zone, zones)
                );
                members.insert(position(rank, zone, zones));
            }
            for rank in [0, 7, 31, 49] {
                members.remove(&position(rank, zone, zones));
                assert_eq!(
                    vacancy(zone, zones, &members, &none),
                    position(rank, zone, zones)
                );
                members.insert(position(rank, zone, zones));
            }
        }
    }

    #[test]
    fn many_zones_stand_among_strangers() {
        for zones in MANY_ZONES..=12 {
            let mut ring: BTreeMap<Position, u32> = BTreeMap::new();
            for ordinal in 0..100 {
                let zone = ordinal % zones;
                let (own, others) = ring.iter().partition::<Vec<_>, _>(|p| *p.1 == zone);
                let set = |v: Vec<(&Position, &u32)>| v.into_iter().map(|p| *p.0).collect();
                ring.insert(vacancy(zone, zones, &set(own), &set(others)), zone);
            }
            assert_eq!(ring.len(), 100);
            let ring: Vec<u32> = ring.into_values().collect();
            let near = |i: usize| (1..COPIES as usize).any(|k| ring[i] == ring[(i + k) % 100]);
            assert_eq!(
                (0..100).filter(|i| near(*i)).count(),
                0,
                "{zones}: {ring:?}"
            );
        }
    }

    #[test]
    fn a_vacancy_keeps_away_from_members_placed_for_other_zones() {
        // Zone 2 of 3, once the only zone: rank 0 is taken in all but the last bits.
        let members = BTreeSet::from([position(0, 0, 1)]);
        let arcs = arcs(vec![
            vacancy(2, 3, &members, &BTreeSet::new()),
            position(0, 0, 1),
        ]);
        assert!(arcs.iter().all(|arc| *arc > u64::MAX / 3), "{arcs:?}");
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
