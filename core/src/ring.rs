//! The steps of the Chord ring, as corrected by Zave ("Reasoning about Identifier Spaces: How to Make Chord Correct",
//! 2017, and the Alloy model that goes with it, whose events bear the same names).
//!
//! A member keeps its predecessor and a list of at most r successors.
//!
//! - *Join* takes over the whole list of the member just before, and the newcomer answers nobody before it has it.
//! - *Stabilise* asks the first live successor for its state and adopts its list behind it; if that successor's
//!   predecessor lies between, that one is asked next, and adopted only with the list it answers with.
//! - *Notify* then tells the first successor, which *rectifies*: it adopts the notifier as its predecessor if it is
//!   nearer, or if the old one is dead.
//! - *Fail*: who is known to be gone is dropped from the list.
//!
//! A list must not lose whom it rightly names, so only who is known to be gone leaves it. A predecessor only says whom to
//! ask, so it must be known to be in the ring: one that is alive but has not joined again would answer nobody.
//!
//! The steps keep two things true, from which one ordered ring follows (her lemmas `InvariantEnsures…`): every member has
//! a live successor, and at least r + 1 members are *principals*, which no list of another skips. That holds while fewer
//! than r members fail before the ring is whole again and r + 1 principals stay; a network of one to r peers has no such
//! base and lives on what gossip knows of everyone ([`View::members`]), which stabilise takes as a hint. Where this
//! differs from the paper, and how all of it is model-checked, is in ADR 9. Queries and answers are in [`crate::chord`].

use crate::key::Position;
use crate::member::PeerId;

/// A point of the ring: position, ties broken by identity.
pub type Point = (Position, PeerId);

/// What a member knows of the others, from gossip. It may lag behind the ring in both directions.
pub trait View {
    /// Members known to be in the ring now; the asking one may be among them.
    fn members(&self) -> impl Iterator<Item = Point>;
    /// Where a peer is; `None` when it is gone or was never heard of.
    fn point(&self, id: PeerId) -> Option<Point>;
    /// Where a member is that is known to be in the ring now, and not only to be alive.
    fn member(&self, id: PeerId) -> Option<Point>;
    /// Whether a member is known to be gone. One that was never heard of is not.
    fn is_gone(&self, id: PeerId) -> bool;
}

/// Whether `x` lies strictly between `from` and `to`, clockwise. When `from == to` the whole rest of the ring does.
pub fn between(from: Point, x: Point, to: Point) -> bool {
    if from < to {
        from < x && x < to
    } else {
        x > from || x < to
    }
}

/// The first of `points` after `me`, clockwise.
pub fn nearest_after(me: Point, points: impl Iterator<Item = Point>) -> Option<Point> {
    points
        .filter(|p| *p != me)
        .reduce(|near, p| if between(me, p, near) { p } else { near })
}

/// The last of `points` before `me`, clockwise.
pub fn nearest_before(me: Point, points: impl Iterator<Item = Point>) -> Option<Point> {
    points
        .filter(|p| *p != me)
        .reduce(|near, p| if between(near, p, me) { p } else { near })
}

/// What a step asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// This one lies nearer: ask it next.
    Ask(PeerId),
    /// The step is complete.
    Done,
    /// Nothing was changed; gossip must catch up first.
    Wait,
}

/// A member's ring pointers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ring {
    /// Entries of the list of successors at most, Zave's r.
    r: usize,
    /// Has a list, or knows that it is alone. Who has not joined answers nobody.
    pub joined: bool,
    /// The member before this one.
    pub predecessor: Option<PeerId>,
    /// The members after this one, nearest first; empty when alone.
    pub successors: Vec<PeerId>,
}

impl Ring {
    /// Not yet part of any ring. `r`: how long the list of successors may be.
    pub fn new(r: usize) -> Self {
        Ring {
            r,
            joined: false,
            predecessor: None,
            successors: Vec::new(),
        }
    }

    /// Founds the ring, or finds it again when nobody can be asked: the list is made of what gossip knows.
    pub fn found(&mut self, me: Point, view: &impl View) {
        let mut others: Vec<Point> = view.members().filter(|p| *p != me).collect();
        others.sort_unstable();
        // Clockwise from here.
        let after = others.partition_point(|p| *p < me);
        others.rotate_left(after);
        self.predecessor = others.last().map(|p| p.1);
        self.adopt(me.1, others.iter().map(|p| p.1));
        self.joined = true;
    }

    /// Join, on the state of `before`: take over its whole list. If one of the list lies nearer before `me`, it is to be
    /// asked instead: the list of a member that is not the one just before would lead past others.
    pub fn join(&mut self, me: Point, before: Point, list: &[PeerId], view: &impl View) -> Step {
        let live = || {
            list.iter()
                .copied()
                .filter(|id| *id != me.1 && !view.is_gone(*id))
        };
        if live().next().is_some_and(|id| view.point(id).is_none()) {
            return Step::Wait;
        }
        let nearer = live()
            .filter_map(|id| view.point(id))
            .filter(|p| between(before, *p, me));
        if let Some(nearer) = nearest_before(me, nearer) {
            return Step::Ask(nearer.1);
        }
        // A member that is alone has nobody after it but itself.
        let alone = live().next().is_none().then_some(before.1);
        self.adopt(me.1, live().chain(alone));
        self.predecessor = Some(before.1);
        self.joined = true;
        Step::Done
    }

    /// Whom stabilise asks: the first successor that is not gone, or whom gossip knows nearer. `None` when there is
    /// nobody, and while the first successor has not been heard of: to ask one behind it would skip it.
    pub fn head(&self, me: Point, view: &impl View) -> Option<PeerId> {
        let first = match self.successors.iter().find(|id| !view.is_gone(**id)) {
            Some(id) => Some(view.point(*id)?),
            None => None,
        };
        nearest_after(me, view.members().chain(first)).map(|p| p.1)
    }

    /// Stabilise, on the state of `head`: adopt its list behind it. Asks for `head`'s predecessor when that lies between.
    pub fn stabilise(
        &mut self,
        me: Point,
        head: Point,
        predecessor: Option<PeerId>,
        list: &[PeerId],
        view: &impl View,
    ) -> Step {
        let live = list.iter().copied().filter(|id| !view.is_gone(*id));
        self.adopt(me.1, std::iter::once(head.1).chain(live));
        match predecessor.and_then(|id| view.member(id)) {
            Some(p) if p != me && between(me, p, head) => Step::Ask(p.1),
            _ => Step::Done,
        }
    }

    /// Rectify: adopt `notifier` if it is nearer than the predecessor, or if that one is gone.
    pub fn rectify(&mut self, me: Point, notifier: Point, view: &impl View) {
        let current = self.predecessor.and_then(|id| view.member(id));
        if notifier != me && current.is_none_or(|p| between(p, notifier, me)) {
            self.predecessor = Some(notifier.1);
        }
    }

    /// Fail: drops whom gossip knows to be gone. The list is not padded: what stabilise brings next fills it.
    pub fn fail(&mut self, view: &impl View) {
        self.successors.retain(|id| !view.is_gone(*id));
        self.predecessor = self.predecessor.filter(|id| view.member(*id).is_some());
    }

    fn adopt(&mut self, me: PeerId, list: impl Iterator<Item = PeerId>) {
        let mut successors = Vec::with_capacity(self.r);
        for id in list.take_while(|id| *id != me) {
            if successors.len() < self.r && !successors.contains(&id) {
                successors.push(id);
            }
        }
        self.successors = successors;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Who is known, and who of them is gone.
    #[derive(Default)]
    pub(crate) struct Known {
        pub(crate) members: Vec<u64>,
        pub(crate) gone: Vec<u64>,
        pub(crate) alive: Vec<u64>,
    }

    impl View for Known {
        fn members(&self) -> impl Iterator<Item = Point> {
            self.members.iter().copied().map(point)
        }
        fn point(&self, id: PeerId) -> Option<Point> {
            let alive = self.alive.iter().copied().map(point);
            self.members().chain(alive).find(|p| p.1 == id)
        }
        fn member(&self, id: PeerId) -> Option<Point> {
            self.members().find(|p| p.1 == id)
        }
        fn is_gone(&self, id: PeerId) -> bool {
            self.gone.iter().any(|n| PeerId((*n).into()) == id)
        }
    }

    pub(crate) fn know(members: &[u64]) -> Known {
        Known {
            members: members.to_vec(),
            ..Known::default()
        }
    }

    pub(crate) fn point(n: u64) -> Point {
        (Position(n), PeerId(n.into()))
    }

    pub(crate) fn ids(n: &[u128]) -> Vec<PeerId> {
        n.iter().copied().map(PeerId).collect()
    }

    fn ring(predecessor: Option<u128>, successors: &[u128]) -> Ring {
        Ring {
            r: 3,
            joined: true,
            predecessor: predecessor.map(PeerId),
            successors: ids(successors),
        }
    }

    #[test]
    fn between_wraps_around() {
        assert!(between(point(1), point(2), point(3)));
        assert!(!between(point(1), point(3), point(3)));
        assert!(between(point(9), point(1), point(3)));
        assert!(between(point(5), point(1), point(5)));
        assert!(!between(point(5), point(5), point(5)));
        let inside = |from, x, to| between(point(from), point(x), point(to));
        assert!(inside(5, 9, 3) && inside(5, 1, 3) && inside(2, 1, 2) && inside(2, 3, 2));
        assert!(!inside(1, 1, 3) && !inside(1, 4, 3) && !inside(2, 2, 2));
        assert!(!inside(5, 4, 3) && !inside(5, 5, 3) && !inside(5, 3, 3));
    }

    #[test]
    fn neighbours_of_equal_position_are_told_apart_by_identity() {
        let at = |id| (Position(5), PeerId(id));
        let others = [at(1), at(9), (Position(7), PeerId(2))];
        assert_eq!(nearest_after(at(4), others.into_iter()), Some(at(9)));
        assert_eq!(nearest_before(at(4), others.into_iter()), Some(at(1)));
        assert_eq!(nearest_after(at(9), others.into_iter()), Some(others[2]));
    }

    #[test]
    fn join_takes_the_whole_list_of_the_member_just_before() {
        let mut new = Ring::new(3);
        let view = know(&[1, 3, 5, 7, 9]);
        let step = new.join(point(4), point(1), &ids(&[3, 5, 7]), &view);
        assert_eq!(step, Step::Ask(PeerId(3)), "3 is nearer before 4");
        assert!(!new.joined);
        let step = new.join(point(4), point(3), &ids(&[5, 7, 9]), &view);
        assert_eq!(step, Step::Done);
        assert_eq!(new.successors, ids(&[5, 7, 9]));
        assert_eq!(new.predecessor, Some(PeerId(3)));
        assert!(new.joined);
    }

    #[test]
    fn join_waits_until_it_has_heard_of_the_first_successor() {
        let mut new = Ring::new(3);
        let step = new.join(point(4), point(1), &ids(&[3, 5]), &know(&[1, 5]));
        assert_eq!(step, Step::Wait);
        assert!(!new.joined);
    }

    #[test]
    fn who_comes_back_does_not_take_itself_for_its_successor() {
        let mut back = Ring::new(3);
        back.join(point(4), point(3), &ids(&[4, 5, 7]), &know(&[3, 4, 5, 7]));
        assert_eq!(back.successors, ids(&[5, 7]));
    }

    #[test]
    fn founding_again_takes_what_gossip_knows_in_ring_order() {
        let mut ring = Ring::new(3);
        ring.found(point(5), &know(&[9, 1, 5, 3, 7]));
        assert_eq!(ring.successors, ids(&[7, 9, 1]));
        assert_eq!(ring.predecessor, Some(PeerId(3)));
    }

    #[test]
    fn a_nearer_predecessor_is_asked_before_it_is_adopted() {
        let mut ring = Ring::new(3);
        let view = know(&[1, 3, 5, 7]);
        let step = ring.stabilise(point(1), point(5), Some(PeerId(3)), &ids(&[7]), &view);
        assert_eq!(step, Step::Ask(PeerId(3)));
        assert_eq!(ring.successors, ids(&[5, 7]), "not adopted yet");
        let step = ring.stabilise(point(1), point(3), Some(PeerId(1)), &ids(&[5, 7]), &view);
        assert_eq!(step, Step::Done);
        assert_eq!(ring.successors, ids(&[3, 5, 7]));
    }

    #[test]
    fn who_was_never_heard_of_is_not_dropped() {
        let mut ring = ring(None, &[5]);
        ring.stabilise(point(1), point(5), None, &ids(&[6, 7]), &know(&[5, 7]));
        assert_eq!(ring.successors, ids(&[5, 6, 7]));
    }

    #[test]
    fn head_is_the_nearer_of_list_and_gossip_and_never_one_behind() {
        let mut view = know(&[1, 3, 7]);
        assert_eq!(ring(None, &[7]).head(point(1), &view), Some(PeerId(3)));
        assert_eq!(ring(None, &[]).head(point(1), &view), Some(PeerId(3)));
        assert_eq!(
            ring(None, &[2, 3]).head(point(1), &view),
            None,
            "unheard of"
        );
        view.gone = vec![2];
        assert_eq!(ring(None, &[2, 7]).head(point(1), &view), Some(PeerId(3)));
    }

    #[test]
    fn rectify_prefers_the_nearer_and_the_living() {
        let mut view = know(&[1, 2, 4]);
        let mut ring = ring(Some(2), &[]);
        ring.rectify(point(5), point(1), &view);
        assert_eq!(ring.predecessor, Some(PeerId(2)));
        ring.rectify(point(5), point(4), &view);
        assert_eq!(ring.predecessor, Some(PeerId(4)));
        view = know(&[1, 2]);
        view.gone = vec![4];
        ring.rectify(point(5), point(1), &view);
        assert_eq!(ring.predecessor, Some(PeerId(1)));
    }

    #[test]
    fn who_is_back_but_has_not_joined_again_is_no_predecessor_and_stays_in_the_list() {
        let mut view = know(&[1, 2, 5]);
        view.alive = vec![4];
        let mut five = ring(Some(4), &[1]);
        five.rectify(point(5), point(2), &view);
        assert_eq!(five.predecessor, Some(PeerId(2)));
        let mut two = ring(None, &[4, 5]);
        two.fail(&view);
        assert_eq!(two.successors, ids(&[4, 5]));
        let step = two.stabilise(point(2), point(5), Some(PeerId(4)), &[], &view);
        assert_eq!(step, Step::Done);
    }
}
