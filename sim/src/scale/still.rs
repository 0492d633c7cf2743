//! A ring that stands still: all pointers are right, or were until some members died.

use fastrand::Rng;
use peernet_core::fingers::Fingers;
use peernet_core::key::Position;
use peernet_core::lookup::{Lookup, Next, refer};
use peernet_core::member::PeerId;
use peernet_core::ring::Point;

use super::Lookups;

/// The members in ring order; a member's identity is its index.
pub struct Still {
    members: Vec<Point>,
    fingers: Vec<Fingers>,
    alive: Vec<bool>,
    /// Entries in a list of successors.
    r: usize,
}

impl Still {
    /// A ring of members at these positions, with lists of `r` successors.
    pub fn new(mut positions: Vec<Position>, r: usize) -> Self {
        positions.sort_unstable();
        let identity = |(i, at): (usize, &Position)| (*at, PeerId(i as u128));
        let members: Vec<Point> = positions.iter().enumerate().map(identity).collect();
        let mut ring = Still {
            alive: vec![true; members.len()],
            fingers: Vec::with_capacity(members.len()),
            members,
            r,
        };
        for at in 0..ring.members.len() {
            let fingers = ring.fingers_of(at);
            ring.fingers.push(fingers);
        }
        ring
    }

    /// A ring of `n` members at random positions.
    pub fn drawn(n: usize, r: usize, rng: &mut Rng) -> Self {
        Still::new((0..n).map(|_| Position(rng.u64(..))).collect(), r)
    }

    /// Members, dead or alive.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn fingers_of(&self, at: usize) -> Fingers {
        let me = self.members[at];
        let successor = self.members[(at + 1) % self.len()];
        let mut fingers = Fingers::new();
        let mut last = None;
        // Once round: the exponents rise until the widest finger.
        while let Some((exponent, start)) = fingers.due(me, Some(successor)) {
            if last.is_some_and(|last| exponent <= last) {
                break;
            }
            last = Some(exponent);
            fingers.set(me, exponent, self.members[self.first_from(start)]);
        }
        fingers
    }

    fn first_from(&self, key: Position) -> usize {
        self.members.partition_point(|p| p.0 < key) % self.len()
    }

    /// Each member dies with probability `fraction`; nobody notices.
    pub fn kill(&mut self, fraction: f64, rng: &mut Rng) {
        for alive in &mut self.alive {
            *alive = rng.f64() >= fraction;
        }
    }

    /// All members lose their fingers, and have only their lists of successors to go by.
    pub fn forget_fingers(&mut self) {
        self.fingers.fill(Fingers::new());
    }

    /// The first live member at or after `key`.
    pub fn owner(&self, key: Position) -> Option<Point> {
        let first = self.first_from(key);
        let mut clockwise = (first..self.len()).chain(0..first);
        clockwise.find(|i| self.alive[*i]).map(|i| self.members[i])
    }

    fn refer(&self, key: Position, at: usize) -> peernet_core::lookup::Referral {
        let n = self.len();
        let successors: Vec<Point> = (1..=self.r.min(n - 1))
            .map(|k| self.members[(at + k) % n])
            .collect();
        let predecessor = (n > 1).then(|| self.members[(at + n - 1) % n]);
        let me = self.members[at];
        refer(key, me, predecessor, &successors, &self.fingers[at])
    }

    fn look_up(&self, from: usize, key: Position) -> (Option<Point>, Lookup) {
        let mut lookup = Lookup::new(key, self.members[from], self.refer(key, from));
        loop {
            match lookup.next() {
                Next::Ask(at) => match at.1.0 as usize {
                    i if self.alive[i] => lookup.on_referral(at, self.refer(key, i)),
                    _ => lookup.on_timeout(at),
                },
                Next::Found { owner, .. } => return (Some(owner), lookup),
                Next::Failed => return (None, lookup),
            }
        }
    }

    /// Looks up so many random keys, each from a random live member.
    pub fn look_up_random(&self, lookups: usize, rng: &mut Rng) -> Lookups {
        let mut seen = Lookups::default();
        while seen.hops.len() < lookups && self.alive.contains(&true) {
            let from = rng.usize(0..self.len());
            if !self.alive[from] {
                continue;
            }
            let key = Position(rng.u64(..));
            let (owner, lookup) = self.look_up(from, key);
            seen.hops.push(lookup.hops());
            seen.timeouts.push(lookup.timeouts());
            seen.failed += u32::from(owner.is_none());
            seen.wrong += u32::from(owner.is_some() && owner != self.owner(key));
        }
        seen
    }
}
