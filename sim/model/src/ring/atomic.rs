//! The model with atomic queries: whoever asks has the answer in the same step, as in Zave's Alloy model. Asking a
//! nearer predecessor and rectifying are steps of their own.
//!
//! What gossip tells is chosen anew at each step, as unfavourably as [`Gossip`] allows, so that its state need not be
//! kept: a hint may point out any member or none, a failure may not have been heard of, nor may a member.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use peernet_core::ring::{Ring, Step};
use stateright::{Model, Property};

use super::network::{Id, Knowledge, LONGEST, MOST, Network, Node, Set, Sight, id, peer, point};
use super::{Failures, Variant};
use crate::report::Tell;

/// How much gossip may mislead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gossip {
    /// Not at all, and it points nobody out: Zave's model, with perfect detection of failures.
    Exact,
    /// It points out any member, or none.
    Hints,
    /// Besides, it may be late with a failure or with a new member.
    Lags,
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Atomic {
    /// Identifiers.
    pub n: Id,
    /// Entries in a list of successors at most.
    pub r: usize,
    /// See [`Failures`].
    pub failures: Failures,
    /// See [`Gossip`].
    pub gossip: Gossip,
    /// What is checked.
    pub variant: Variant,
}

/// A state of the whole network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct State {
    /// Everyone's pointers.
    pub network: Network,
    /// The nearer predecessor a member is about to ask.
    asking: [Option<Id>; MOST],
    /// Who has notified a member that has not rectified yet. A newer notification replaces an older, as in Zave's model.
    notified: [Option<Id>; MOST],
    /// Failures since the ring was ideal.
    failures: u8,
    /// Whether Zave's base of r + 1 members is there.
    base: bool,
    /// How far the ring was turned since the start, for telling the story; see [`State::folded`].
    turns: Aside<Id>,
}

/// Something that two states may differ in and be the same.
#[derive(Clone, Copy, Default, Debug)]
struct Aside<T>(T);

impl<T> PartialEq for Aside<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Aside<T> {}

impl<T> PartialOrd for Aside<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Aside<T> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<T> Hash for Aside<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl State {
    fn turned(&self, n: Id) -> Self {
        let to = |id: Id| (id + 1) % n;
        let table = |table: &[Option<Id>; MOST]| {
            let mut turned = [None; MOST];
            for id in 0..n {
                turned[usize::from(to(id))] = table[usize::from(id)].map(to);
            }
            turned
        };
        State {
            network: self.network.turned(n),
            asking: table(&self.asking),
            notified: table(&self.notified),
            turns: Aside(to(self.turns.0)),
            ..*self
        }
    }

    /// The least of the `n` states that differ only in where the ring is cut. They behave alike, so one of them is enough.
    fn folded(self, n: Id) -> Self {
        let turns = std::iter::successors(Some(self), |state| Some(state.turned(n)));
        turns.take(n.into()).min().expect("n is not zero")
    }

    /// The state before it was turned.
    fn unfolded(&self, n: Id) -> Self {
        let back = (n - self.turns.0) % n;
        (0..back).fold(self.clone(), |state, _| state.turned(n))
    }
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A newcomer asks a member and joins, if that is the one just before it.
    Join(Id, Id, Knowledge),
    /// A member stabilises, as far as the first answer.
    Stabilise(Id, Knowledge),
    /// It asks the nearer predecessor that was named.
    AskNearer(Id, Knowledge),
    /// A member rectifies on a notification.
    Rectify(Id),
    /// A member fails, or leaves.
    Fail(Id),
}

impl fmt::Display for Atomic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Atomic {
            n,
            r,
            failures,
            gossip,
            variant,
        } = self;
        write!(
            f,
            "atomic, {variant:?} | {failures:?} | {gossip:?} | {n} | {r}"
        )
    }
}

impl Atomic {
    fn sight(&self, network: &Network, knowledge: Knowledge) -> Sight {
        let members = network.members();
        Sight {
            members,
            alive: members,
            knowledge,
            unheard_is_gone: self.variant == Variant::UnheardIsGone,
        }
    }

    fn join(&self, state: &mut State, new: Id, before: Id, knows: Knowledge) -> Option<()> {
        let mut ring = Ring::new(self.r);
        let list: Vec<_> = state.network.get(before)?.successors().map(peer).collect();
        let view = self.sight(&state.network, knows);
        match ring.join(point(new), point(before), &list, &view) {
            Step::Done => {}
            Step::Ask(_) if self.variant == Variant::JoinAnywhere => {
                ring.predecessor = Some(peer(before));
                ring.successors = list;
            }
            // The same as asking that one first, which is another action.
            Step::Ask(_) | Step::Wait => return None,
        }
        match self.variant {
            Variant::JoinCopiesOnlyTheHead => ring.successors.truncate(1),
            Variant::JoinWithoutList => ring.successors.clear(),
            _ => {}
        }
        state.network.set(new, Some(Node::of(&ring)));
        Some(())
    }

    fn stabilise(&self, state: &mut State, who: Id, knows: Knowledge) -> Option<()> {
        let view = self.sight(&state.network, knows);
        let mut ring = state.network.get(who)?.ring(self.r);
        let before = ring.predecessor;
        ring.fail(&view);
        if self.variant == Variant::RectifyUnchecked {
            ring.predecessor = before;
        }
        let head = ring.head(point(who), &view);
        state.network.set(who, Some(Node::of(&ring)));
        match head {
            Some(head) => self.ask(state, who, id(head), knows),
            None => Some(()),
        }
    }

    /// Asks `head` and takes its answer, if it is alive.
    fn ask(&self, state: &mut State, who: Id, head: Id, knows: Knowledge) -> Option<()> {
        let Some(asked) = state.network.get(head) else {
            return Some(());
        };
        let view = self.sight(&state.network, knows);
        let mut ring = state.network.get(who)?.ring(self.r);
        let list: Vec<_> = asked.successors().map(peer).collect();
        let (me, there) = (point(who), point(head));
        let step = ring.stabilise(me, there, asked.predecessor.map(peer), &list, &view);
        state.network.set(who, Some(Node::of(&ring)));
        if let Step::Ask(nearer) = step {
            state.asking[usize::from(who)] = Some(id(nearer));
        } else {
            state.notified[usize::from(head)] = Some(who);
        }
        Some(())
    }

    /// Asks the nearer predecessor that was named; the original adopts it as it is.
    fn ask_nearer(&self, state: &mut State, who: Id, knows: Knowledge) -> Option<()> {
        let nearer = state.asking[usize::from(who)].take()?;
        if self.variant != Variant::AdoptUnasked {
            return self.ask(state, who, nearer, knows);
        }
        let mut ring = state.network.get(who)?.ring(self.r);
        ring.successors.insert(0, peer(nearer));
        ring.successors.truncate(self.r);
        state.network.set(who, Some(Node::of(&ring)));
        if state.network.get(nearer).is_some() {
            state.notified[usize::from(nearer)] = Some(who);
        }
        Some(())
    }

    fn rectify(&self, state: &mut State, who: Id) -> Option<()> {
        let notifier = state.notified[usize::from(who)].take()?;
        if state.network.get(notifier).is_some() {
            let knows = match self.variant {
                Variant::RectifyUnchecked => Knowledge::Late,
                _ => Knowledge::Exact,
            };
            let mut ring = state.network.get(who)?.ring(self.r);
            let view = self.sight(&state.network, knows);
            ring.rectify(point(who), point(notifier), &view);
            state.network.set(who, Some(Node::of(&ring)));
        }
        Some(())
    }

    fn fail(&self, state: &mut State, who: Id) {
        let within = Failures::Between {
            most: self.r as u8 - 1,
        };
        if self.failures == Failures::Passage {
            state.base &= self.may_fail(state, who, within);
        }
        state.network.set(who, None);
        state.asking[usize::from(who)] = None;
        state.notified[usize::from(who)] = None;
        // Counted only where the count decides.
        state.failures = match self.failures {
            Failures::Survivable => 0,
            _ if !state.base => 0,
            _ => state.failures + 1,
        };
    }

    fn may_fail(&self, state: &State, who: Id, failures: Failures) -> bool {
        let mut after = state.network;
        after.set(who, None);
        match failures {
            Failures::Between { most } => state.failures < most && after.principals() > self.r,
            Failures::Survivable => {
                after.everyone_has_a_live_successor() && after.principals() > self.r
            }
            // One that is alone is no ring, and nobody's fault.
            Failures::NoBase { most } => state.failures < most && after.members().len() > 1,
            Failures::Passage => !after.members().is_empty(),
        }
    }

    /// Whether the ring becomes ideal within N − 1 rounds if nothing else happens: in a round each member stabilises
    /// once, in ring order or against it, and whom it notifies rectifies. With its base the ring needs no help of gossip.
    fn heals(&self, state: &State) -> bool {
        let knows = match state.base {
            true => Knowledge::Exact,
            false => Knowledge::Full,
        };
        [false, true].into_iter().all(|backwards| {
            let mut state = state.clone();
            (0..self.n).any(|round| {
                if round > 0 {
                    self.round(&mut state, backwards, knows);
                }
                state.network.is_ideal(self.r)
            })
        })
    }

    fn round(&self, state: &mut State, backwards: bool, knows: Knowledge) {
        for i in 0..self.n {
            let who = if backwards { self.n - 1 - i } else { i };
            let at = usize::from(who);
            if state.asking[at].is_none() {
                self.stabilise(state, who, knows);
            }
            // Each lies nearer than the one before: at most n of them.
            while state.asking[at].is_some() {
                self.ask_nearer(state, who, knows);
            }
            (0..self.n).for_each(|id| {
                self.rectify(state, id);
            });
        }
    }

    fn knowledge(&self, network: &Network, who: Id) -> impl Iterator<Item = Knowledge> {
        let others = network.members().without(who);
        let hints = if self.gossip == Gossip::Exact {
            Set::default()
        } else {
            others
        };
        let lags = self.gossip == Gossip::Lags;
        let unaware = if lags { others } else { Set::default() };
        std::iter::once(Knowledge::Exact)
            .chain(lags.then_some(Knowledge::Late))
            .chain(hints.iter().map(Knowledge::Hint))
            .chain(unaware.iter().map(Knowledge::Unaware))
    }
}

impl Model for Atomic {
    type State = State;
    type Action = Action;

    /// Ideal rings of r + 1 members; for the passage rings of every size, alone or two that were apart.
    fn init_states(&self) -> Vec<State> {
        assert!(usize::from(self.n) <= MOST && self.r <= LONGEST);
        let state = |network, base| State {
            network,
            asking: [None; MOST],
            notified: [None; MOST],
            failures: 0,
            base,
            turns: Aside(0),
        };
        if self.failures != Failures::Passage {
            return Set::all(self.n)
                .filter(|set| set.len() == self.r + 1)
                .map(|set| state(Network::ideal(set, self.r), true).folded(self.n))
                .collect();
        }
        let mut states = Vec::new();
        for here in Set::all(self.n).filter(|set| !set.is_empty()) {
            for there in Set::all(self.n).filter(|set| set.iter().all(|id| !here.has(id))) {
                let mut network = Network::ideal(here, self.r);
                let other = Network::ideal(there, self.r);
                there.iter().for_each(|id| network.set(id, other.get(id)));
                let base = there.is_empty() && here.len() > self.r;
                states.push(state(network, base).folded(self.n));
            }
        }
        states
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let members = state.network.members();
        for new in members.rest(self.n).iter() {
            for before in members.iter() {
                let knowledge = self.knowledge(&state.network, new);
                actions.extend(knowledge.map(|knows| Action::Join(new, before, knows)));
            }
        }
        for who in members.iter() {
            let knowledge = self.knowledge(&state.network, who);
            if state.asking[usize::from(who)].is_some() {
                actions.extend(knowledge.map(|knows| Action::AskNearer(who, knows)));
            } else {
                actions.extend(knowledge.map(|knows| Action::Stabilise(who, knows)));
            }
            if state.notified[usize::from(who)].is_some() {
                actions.push(Action::Rectify(who));
            }
            if self.may_fail(state, who, self.failures) {
                actions.push(Action::Fail(who));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Join(new, before, knows) => self.join(&mut state, new, before, knows)?,
            Action::Stabilise(who, knows) => self.stabilise(&mut state, who, knows)?,
            Action::AskNearer(who, knows) => self.ask_nearer(&mut state, who, knows)?,
            Action::Rectify(who) => self.rectify(&mut state, who)?,
            Action::Fail(who) => self.fail(&mut state, who),
        }
        if state.network.is_ideal(self.r) {
            state.failures = 0;
            state.base |=
                self.failures == Failures::Passage && state.network.members().len() > self.r;
        }
        let state = state.folded(self.n);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("everyone has a live successor", |_, s: &State| {
                !s.base || s.network.everyone_has_a_live_successor()
            }),
            Property::always("r + 1 principals", |m: &Atomic, s: &State| {
                let claimed = !matches!(m.failures, Failures::NoBase { .. });
                !s.base || !claimed || s.network.principals() > m.r
            }),
            Property::always("one ordered ring", |_, s: &State| {
                !s.base || s.network.is_one_ordered_ring()
            }),
            Property::always("ideal within N - 1 rounds", |m: &Atomic, s: &State| {
                m.heals(s)
            }),
        ]
    }
}

impl Tell for Atomic {
    fn tell(&self, state: &State, action: &Action) -> String {
        let turns = state.turns.0;
        let at = |id: Id| (id + self.n - turns) % self.n;
        let knows = |knowledge: Knowledge| match knowledge {
            Knowledge::Hint(id) => Knowledge::Hint(at(id)),
            Knowledge::Unaware(id) => Knowledge::Unaware(at(id)),
            other => other,
        };
        let action = match *action {
            Action::Join(new, before, k) => Action::Join(at(new), at(before), knows(k)),
            Action::Stabilise(who, k) => Action::Stabilise(at(who), knows(k)),
            Action::AskNearer(who, k) => Action::AskNearer(at(who), knows(k)),
            Action::Rectify(who) => Action::Rectify(at(who)),
            Action::Fail(who) => Action::Fail(at(who)),
        };
        format!("{action:?}")
    }

    fn tell_end(&self, state: &State) -> String {
        format!("{:?}", state.unfolded(self.n).network)
    }
}
