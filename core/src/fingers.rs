//! Chord's fingers (Stoica et al., IEEE/ACM Transactions on Networking 2003, section IV.C and figure 5).
//!
//! Finger i of a member is the first member at or after its own position plus 2ⁱ. Half of the distance to a key, at
//! least, is bridged by one of them, so a lookup takes about ½ log2 N steps. They are hints: each is refreshed in turn by
//! a lookup of its start ([`Fingers::due`], the paper's *fix_fingers*), and one that is missing, stale or dead costs a
//! step or a timeout, never a wrong answer. What is right is decided by the ring (Zave, section III: "finger tables are
//! an optimisation").
//!
//! They are used where members do not all know each other. Peers gossip of all members up to about a thousand
//! (guess: some 300 bytes each), which makes every lookup one step; beyond that a lookup goes by fingers. See
//! [`crate::lookup`] for both.

use crate::key::Position;
use crate::member::PeerId;
use crate::ring::Point;

/// Bits of a position: one finger each.
const BITS: u8 = 64;

/// A member's fingers. Those that start before its first successor point to that successor too and are left out, which
/// leaves about log2 N.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fingers {
    /// By exponent of the distance, ascending.
    entries: Vec<(u8, Point)>,
    /// The exponent that was refreshed last.
    last: u8,
}

impl Fingers {
    /// None yet.
    pub fn new() -> Self {
        Fingers::default()
    }

    /// Where finger `exponent` of a member at `me` starts; `exponent` below 64.
    pub fn start(me: Position, exponent: u8) -> Position {
        Position(me.0.wrapping_add(1 << exponent))
    }

    /// Fix fingers: the next one to look up, going round the ring; `None` when nobody else is there.
    pub fn due(&mut self, me: Point, successor: Option<Point>) -> Option<(u8, Position)> {
        let distance = me.0.distance_to(successor.filter(|s| *s != me)?.0);
        // The least exponent that leads past the successor; the widest finger is kept in any case.
        let least = (u64::BITS - distance.leading_zeros()).min(u32::from(BITS) - 1) as u8;
        self.entries.retain(|(exponent, _)| *exponent >= least);
        self.last = if self.last < least || self.last + 1 == BITS {
            least
        } else {
            self.last + 1
        };
        Some((self.last, Fingers::start(me.0, self.last)))
    }

    /// Takes over what the lookup of a finger's start has found.
    pub fn set(&mut self, me: Point, exponent: u8, found: Point) {
        let at = self.entries.binary_search_by_key(&exponent, |e| e.0);
        match at {
            // Nobody stands between the start and ourselves.
            Ok(at) if found == me => drop(self.entries.remove(at)),
            Ok(at) => self.entries[at].1 = found,
            Err(_) if found == me => {}
            Err(at) => self.entries.insert(at, (exponent, found)),
        }
    }

    /// Forgets a member that does not answer.
    pub fn fail(&mut self, gone: PeerId) {
        self.entries.retain(|(_, p)| p.1 != gone);
    }

    /// Whom they point to, nearest first; the same member may come several times.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Point> {
        self.entries.iter().map(|(_, p)| *p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(n: u64) -> Point {
        (Position(n), PeerId(n.into()))
    }

    #[test]
    fn fingers_are_refreshed_in_turn_from_the_first_past_the_successor() {
        let mut fingers = Fingers::new();
        let mut due = || {
            fingers
                .due(point(100), Some(point(100 + (1 << 60))))
                .map(|d| d.0)
        };
        assert_eq!(
            (0..5).map(|_| due()).collect::<Vec<_>>(),
            [Some(61), Some(62), Some(63), Some(61), Some(62)]
        );
        assert_eq!(fingers.due(point(100), None), None);
        assert_eq!(fingers.due(point(100), Some(point(100))), None);
    }

    #[test]
    fn a_nearer_successor_adds_fingers_and_a_farther_one_drops_them() {
        let mut fingers = Fingers::new();
        assert_eq!(
            fingers.due(point(0), Some(point(9))),
            Some((4, Position(16)))
        );
        fingers.set(point(0), 4, point(20));
        fingers.set(point(0), 63, point(1 << 63));
        assert_eq!(
            fingers.iter().collect::<Vec<_>>(),
            [point(20), point(1 << 63)]
        );
        assert_eq!(
            fingers.due(point(0), Some(point(100))),
            Some((7, Position(128)))
        );
        assert_eq!(fingers.iter().collect::<Vec<_>>(), [point(1 << 63)]);
    }

    #[test]
    fn the_dead_and_ourselves_are_no_fingers() {
        let mut fingers = Fingers::new();
        fingers.set(point(1), 62, point(5));
        fingers.set(point(1), 63, point(5));
        fingers.set(point(1), 61, point(3));
        fingers.fail(PeerId(5));
        assert_eq!(fingers.iter().collect::<Vec<_>>(), [point(3)]);
        fingers.set(point(1), 61, point(1));
        assert_eq!(fingers.iter().count(), 0);
    }

    #[test]
    fn starts_wrap_around() {
        assert_eq!(Fingers::start(Position(u64::MAX), 0), Position(0));
        assert_eq!(Fingers::start(Position(1 << 63), 63), Position(0));
    }
}
