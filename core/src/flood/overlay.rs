//! Who is whose neighbour in an unstructured search.
//!
//! The links are a few closed circles through all peers: the ring itself (each peer's successor and predecessor), and
//! [`SHUFFLED`] more in the order of a hash. A union of random Hamiltonian cycles is with great probability an expander:
//! few links each, yet everybody is a logarithmic number of steps away (Law and Siu, "Distributed Construction of Random
//! Expander Networks", INFOCOM 2003). All that is needed is the table of members, so peers with equal tables agree on
//! every link without a word, links go both ways, and a join or leave changes two links per circle. While tables differ a
//! link may be known to one end only, which costs a message or two and loses nothing.

use crate::key::Key;
use crate::member::{Member, PeerId};
use crate::ring::Point;

/// Circles beside the ring. One makes a degree of 4, near the mean that Gnutella's crawls found (3.4, Ripeanu et al.,
/// "Mapping the Gnutella Network", 2002).
pub const SHUFFLED: u8 = 1;
/// Most neighbours a peer has.
pub const DEGREE: usize = 2 * (1 + SHUFFLED as usize);

/// A peer's neighbours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Neighbours {
    /// Within its zone.
    pub zone: Vec<PeerId>,
    /// Among all peers.
    pub all: Vec<PeerId>,
}

impl Neighbours {
    /// Of `me` in `zone`, given the members that are present.
    pub fn new(me: PeerId, zone: &str, present: &[&Member]) -> Self {
        let among = |m: &&&Member| m.zone == zone;
        let zonal = present.iter().filter(among).map(|m| m.ring_key());
        let all = present.iter().map(|m| m.ring_key());
        Neighbours {
            zone: Circles::new(zonal.collect()).beside(me),
            all: Circles::new(all.collect()).beside(me),
        }
    }

    /// Those a query may go to.
    pub fn within(&self, everywhere: bool) -> &[PeerId] {
        if everywhere { &self.all } else { &self.zone }
    }
}

/// The circles through a set of peers, the ring first.
#[derive(Clone, Debug)]
pub struct Circles(Vec<Vec<PeerId>>);

impl Circles {
    /// Through these, in any order.
    pub fn new(mut peers: Vec<Point>) -> Self {
        peers.sort_unstable();
        let ring: Vec<PeerId> = peers.into_iter().map(|p| p.1).collect();
        let shuffled = (0..SHUFFLED).map(|circle| {
            let mut order: Vec<(Key, PeerId)> =
                ring.iter().map(|id| (place(circle, *id), *id)).collect();
            order.sort_unstable();
            order.into_iter().map(|p| p.1).collect()
        });
        let shuffled: Vec<Vec<PeerId>> = shuffled.collect();
        Circles([vec![ring], shuffled].concat())
    }

    /// The neighbours of `me`, at most [`DEGREE`], each once; none if it is not among the peers.
    pub fn beside(&self, me: PeerId) -> Vec<PeerId> {
        let mut found = Vec::with_capacity(DEGREE);
        for circle in &self.0 {
            let Some(at) = circle.iter().position(|id| *id == me) else {
                continue;
            };
            let n = circle.len();
            for other in [circle[(at + 1) % n], circle[(at + n - 1) % n]] {
                if other != me && !found.contains(&other) {
                    found.push(other);
                }
            }
        }
        found
    }
}

fn place(circle: u8, id: PeerId) -> Key {
    let mut bytes = [circle; 17];
    bytes[1..].copy_from_slice(&id.0.to_be_bytes());
    Key::of_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::key::Position;

    fn points(n: u128) -> Vec<Point> {
        let place = |i: u128| (Position((i * 7_919 % n) as u64), PeerId(i));
        (0..n).map(place).collect()
    }

    #[test]
    fn links_go_both_ways_and_are_few() {
        for n in [1, 2, 3, 4, 5, 50, 333] {
            let circles = Circles::new(points(n));
            let of = |i: u128| circles.beside(PeerId(i));
            for i in 0..n {
                let mine = of(i);
                assert!(mine.len() <= DEGREE && !mine.contains(&PeerId(i)));
                assert_eq!(mine.is_empty(), n == 1);
                for other in mine {
                    assert!(of(other.0).contains(&PeerId(i)), "{i} of {n}");
                }
            }
        }
    }

    #[test]
    fn everybody_is_a_few_links_away() {
        let circles = Circles::new(points(500));
        let (mut reached, mut edge) = (BTreeSet::from([PeerId(0)]), vec![PeerId(0)]);
        let mut links = 0;
        while !edge.is_empty() {
            let next = edge
                .iter()
                .flat_map(|id| circles.beside(*id))
                .collect::<Vec<_>>();
            edge = next.into_iter().filter(|id| reached.insert(*id)).collect();
            links += 1;
        }
        assert_eq!(reached.len(), 500);
        assert!(links <= 9, "{links}");
    }

    #[test]
    fn a_newcomer_changes_few_links() {
        let before = Circles::new(points(200));
        let mut more = points(200);
        more.push((Position(100), PeerId(9_999)));
        let after = Circles::new(more);
        let changed = (0..200).filter(|i| {
            let set = |circles: &Circles| -> BTreeSet<PeerId> {
                circles.beside(PeerId(*i)).into_iter().collect()
            };
            set(&before) != set(&after)
        });
        assert!(changed.count() <= DEGREE);
    }

    #[test]
    fn a_stranger_has_none() {
        assert!(Circles::new(points(10)).beside(PeerId(77)).is_empty());
    }
}
