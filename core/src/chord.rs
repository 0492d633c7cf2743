//! Chord's conversation: the queries, answers and notifications around the steps of [`crate::ring`].
//!
//! A member asks one other at a time, and takes an answer only to the question that is open: a late answer to an earlier
//! one says how the ring was, not how it is. Pure like the steps, so that the model checker runs what ships. Timers and
//! messages are in [`crate::peer`].

use crate::member::PeerId;
use crate::ring::{Point, Ring, Step, View, nearest_before};

/// A question that waits for its answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Query {
    /// Tells this question from every earlier one of the same peer.
    seq: u64,
    target: PeerId,
}

/// What a peer tells of its pointers when it is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// See [`Ring::predecessor`].
    pub predecessor: Option<PeerId>,
    /// See [`Ring::successors`].
    pub successors: Vec<PeerId>,
}

/// What is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Ask `to` for its state.
    Ask {
        /// Whom.
        to: PeerId,
        /// To be given back with the answer.
        seq: u64,
    },
    /// Tell `to` that it is our first successor.
    Notify {
        /// Whom.
        to: PeerId,
    },
}

/// A peer's pointers and the question it has asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Chord {
    ring: Ring,
    query: Option<Query>,
}

impl Chord {
    /// Not part of any ring yet. `r`: how long the list of successors may be.
    pub fn new(r: usize) -> Self {
        Chord {
            ring: Ring::new(r),
            query: None,
        }
    }

    /// The pointers.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Makes this the first member of a ring.
    pub fn found(&mut self, me: Point, view: &impl View) {
        self.ring.found(me, view);
    }

    /// Time to stabilise, or to join: asks, unless a question is open. `seq` was never used before. `returning`: this
    /// peer was a member before; when it knows nobody else it is the whole ring.
    pub fn tick(&mut self, me: Point, returning: bool, seq: u64, view: &impl View) -> Action {
        if self.query.is_some() {
            return Action::Nothing;
        }
        let target = if self.ring.joined {
            self.ring.fail(view);
            self.ring.head(me, view)
        } else {
            let before = nearest_before(me, view.members()).map(|p| p.1);
            if before.is_none() && returning {
                self.ring.found(me, view);
            }
            before
        };
        target.map_or(Action::Nothing, |to| self.ask(to, seq))
    }

    /// The number of the question that is open.
    pub fn open(&self) -> Option<u64> {
        self.query.as_ref().map(|q| q.seq)
    }

    /// The open question is not answered any more. A returning peer that could not join finds the ring again by what
    /// gossip knows: after a restart of all, nobody is left who could answer.
    pub fn expire(&mut self, me: Point, returning: bool, view: &impl View) {
        if self.query.take().is_some() && returning && !self.ring.joined {
            self.ring.found(me, view);
        }
    }

    /// The answer to another's question; a peer that has not joined has none.
    pub fn state(&self) -> Option<State> {
        self.ring.joined.then(|| State {
            predecessor: self.ring.predecessor,
            successors: self.ring.successors.clone(),
        })
    }

    /// `from` answers question `answered`. `seq` was never used before.
    pub fn on_state(
        &mut self,
        me: Point,
        from: PeerId,
        answered: u64,
        state: &State,
        seq: u64,
        view: &impl View,
    ) -> Action {
        let open = |q: &mut Query| q.seq == answered && q.target == from;
        let (Some(_), Some(from)) = (self.query.take_if(open), view.point(from)) else {
            return Action::Nothing;
        };
        let list = &state.successors;
        if !self.ring.joined {
            return match self.ring.join(me, from, list, view) {
                Step::Ask(to) => self.ask(to, seq),
                Step::Done | Step::Wait => Action::Nothing,
            };
        }
        match self.ring.stabilise(me, from, state.predecessor, list, view) {
            Step::Ask(to) => self.ask(to, seq),
            Step::Done => Action::Notify { to: from.1 },
            Step::Wait => Action::Nothing,
        }
    }

    /// `from` says that we are its first successor.
    pub fn on_notify(&mut self, me: Point, from: PeerId, view: &impl View) {
        if let Some(notifier) = view.member(from) {
            self.ring.rectify(me, notifier, view);
        }
    }

    fn ask(&mut self, target: PeerId, seq: u64) -> Action {
        self.query = Some(Query { seq, target });
        Action::Ask { to: target, seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::{Known, ids, know, point};

    fn state(predecessor: Option<u128>, successors: &[u128]) -> State {
        State {
            predecessor: predecessor.map(PeerId),
            successors: ids(successors),
        }
    }

    #[test]
    fn joins_then_stabilises_then_notifies() {
        let view = know(&[1, 3, 5]);
        let mut new = Chord::new(2);
        let asked = new.tick(point(4), false, 1, &view);
        assert_eq!(
            asked,
            Action::Ask {
                to: PeerId(3),
                seq: 1
            }
        );
        assert_eq!(new.state(), None, "nothing to say before the list is there");
        let three = state(Some(1), &[5, 1]);
        let joined = new.on_state(point(4), PeerId(3), 1, &three, 2, &view);
        assert_eq!(joined, Action::Nothing);
        assert_eq!(new.state(), Some(state(Some(3), &[5, 1])));
        let asked = new.tick(point(4), true, 3, &view);
        assert_eq!(
            asked,
            Action::Ask {
                to: PeerId(5),
                seq: 3
            }
        );
        let five = state(Some(3), &[1, 3]);
        let notify = new.on_state(point(4), PeerId(5), 3, &five, 4, &view);
        assert_eq!(notify, Action::Notify { to: PeerId(5) });
    }

    #[test]
    fn a_newcomer_that_knows_nobody_waits_and_one_that_returns_is_the_whole_ring() {
        let alone = know(&[1]);
        let mut chord = Chord::new(2);
        assert_eq!(chord.tick(point(1), false, 1, &alone), Action::Nothing);
        assert_eq!(chord.state(), None);
        chord.tick(point(1), true, 2, &alone);
        assert!(chord.state().is_some());
    }

    #[test]
    fn only_the_open_question_is_answered() {
        let view = know(&[1, 3]);
        let mut chord = Chord::new(2);
        chord.found(point(1), &Known::default());
        chord.tick(point(1), true, 7, &view);
        chord.expire(point(1), true, &view);
        let late = state(None, &[]);
        chord.on_state(point(1), PeerId(3), 7, &late, 8, &view);
        assert!(chord.ring().successors.is_empty(), "too late");
        assert_eq!(chord.open(), None);
        chord.tick(point(1), true, 9, &view);
        chord.on_state(point(1), PeerId(3), 8, &late, 10, &view);
        chord.on_state(point(1), PeerId(5), 9, &late, 10, &view);
        assert_eq!(
            chord.open(),
            Some(9),
            "of another question, of another peer"
        );
    }

    #[test]
    fn who_returns_when_nobody_answers_finds_the_ring_by_what_gossip_knows() {
        let view = know(&[1, 3, 5]);
        let mut chord = Chord::new(2);
        chord.tick(point(3), true, 1, &view);
        assert_eq!(chord.state(), None, "it asks first");
        chord.expire(point(3), true, &view);
        assert_eq!(chord.state(), Some(state(Some(1), &[5, 1])));
        let mut fresh = Chord::new(2);
        fresh.tick(point(3), false, 1, &view);
        fresh.expire(point(3), false, &view);
        assert_eq!(fresh.state(), None, "a newcomer keeps asking");
    }
}
