//! The Chord ring, as corrected by Zave ("Reasoning about Identifier Spaces: How to Make Chord Correct", 2017).
//!
//! A member keeps its predecessor and a list of successors. *Join* copies the whole list of the member before it.
//! *Stabilise* reads the first live successor's state and adopts its list; if that successor's predecessor lies
//! between, it is queried before it is adopted. *Notify* then tells the first successor, which *rectifies*: it adopts the
//! notifier as predecessor if it is nearer or the old one is dead. These steps are pure here; messages and timers are in
//! [`crate::peer`].

use crate::config::SUCCESSORS;
use crate::key::Position;
use crate::member::PeerId;

/// A point of the ring: position, ties broken by identity.
pub type Point = (Position, PeerId);

/// Whether `x` lies strictly between `from` and `to`, clockwise. When `from == to` the whole rest of the ring does.
pub fn between(from: Point, x: Point, to: Point) -> bool {
    if from < to {
        from < x && x < to
    } else {
        x > from || x < to
    }
}

/// A member's ring pointers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ring {
    /// The member before this one.
    pub predecessor: Option<PeerId>,
    /// The members after this one, nearest first; empty when alone.
    pub successors: Vec<PeerId>,
}

impl Ring {
    /// Join: take over the list of the member before `me` (Zave: the *whole* list, not only its head).
    pub fn join(&mut self, me: PeerId, before: PeerId, list: &[PeerId]) {
        // A member that is alone has nobody after it but itself.
        let list = if list.is_empty() {
            std::slice::from_ref(&before)
        } else {
            list
        };
        self.adopt(me, list.iter().copied());
        self.predecessor = Some(before);
    }

    /// Stabilise, on the state of `head`, the live first successor: adopt its list behind it. Returns the member to query
    /// next, when `head`'s predecessor lies between; it is adopted only when it has answered itself.
    pub fn stabilise(
        &mut self,
        me: Point,
        head: Point,
        predecessor: Option<Point>,
        list: &[PeerId],
    ) -> Option<PeerId> {
        self.adopt(me.1, std::iter::once(head.1).chain(list.iter().copied()));
        predecessor
            .filter(|p| p.1 != me.1 && between(me, *p, head))
            .map(|p| p.1)
    }

    /// Rectify: adopt `notifier` if it is nearer than the predecessor, or that one is dead (`None`).
    pub fn rectify(&mut self, me: Point, notifier: Point, predecessor: Option<Point>) {
        if notifier.1 != me.1
            && predecessor.is_none_or(|p| p.1 == notifier.1 || between(p, notifier, me))
        {
            self.predecessor = Some(notifier.1);
        }
    }

    /// Drops the members that `dead` names.
    pub fn fail(&mut self, dead: impl Fn(PeerId) -> bool) {
        self.successors.retain(|id| !dead(*id));
        if self.predecessor.is_some_and(dead) {
            self.predecessor = None;
        }
    }

    fn adopt(&mut self, me: PeerId, list: impl Iterator<Item = PeerId>) {
        let mut successors = Vec::with_capacity(SUCCESSORS);
        for id in list.take_while(|id| *id != me) {
            if !successors.contains(&id) && successors.len() < SUCCESSORS {
                successors.push(id);
            }
        }
        self.successors = successors;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(n: u64) -> Point {
        (Position(n), PeerId(n.into()))
    }

    #[test]
    fn between_wraps_around() {
        assert!(between(point(1), point(2), point(3)));
        assert!(!between(point(1), point(3), point(3)));
        assert!(between(point(9), point(1), point(3)));
        assert!(between(point(5), point(1), point(5)));
        assert!(!between(point(5), point(5), point(5)));
    }

    #[test]
    fn a_nearer_predecessor_is_queried_before_it_is_adopted() {
        let mut ring = Ring::default();
        let ask = ring.stabilise(point(1), point(5), Some(point(3)), &[PeerId(7)]);
        assert_eq!(ask, Some(PeerId(3)));
        assert_eq!(ring.successors, [PeerId(5), PeerId(7)], "not adopted yet");
        assert_eq!(
            ring.stabilise(point(1), point(3), Some(point(1)), &[PeerId(5), PeerId(7)]),
            None
        );
        assert_eq!(ring.successors, [PeerId(3), PeerId(5), PeerId(7)]);
    }

    #[test]
    fn rectify_prefers_the_nearer() {
        let mut ring = Ring {
            predecessor: Some(PeerId(2)),
            successors: vec![],
        };
        ring.rectify(point(5), point(1), Some(point(2)));
        assert_eq!(ring.predecessor, Some(PeerId(2)));
        ring.rectify(point(5), point(4), Some(point(2)));
        assert_eq!(ring.predecessor, Some(PeerId(4)));
        ring.rectify(point(5), point(1), None);
        assert_eq!(ring.predecessor, Some(PeerId(1)));
    }
}
