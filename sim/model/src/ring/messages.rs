//! The model with messages: questions, answers and notifications are lost, doubled, overtaken and delayed at will, and
//! peers give up questions whenever they like. Each peer runs the conversation that ships ([`peernet_core::chord`]).
//!
//! Zave lets a member that waits for an answer put off whoever asks it. Ours answers at once, and takes only the answer to
//! the question that is open. What that leaves to be assumed is when the ring counts as whole, so that members may fail
//! again: when it is ideal and no question is open any more.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;

use peernet_core::chord::{self, Chord};
use stateright::{Model, Property};

use super::Variant;
use super::network::{Id, Knowledge, Network, Node, Set, Sight, id, peer, point};
use crate::report::Tell;

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    /// Identifiers.
    pub n: Id,
    /// Entries in a list of successors at most.
    pub r: usize,
    /// Messages under way at most; what does not fit is lost.
    pub room: usize,
    /// Failures before the ring is whole again.
    pub most: u8,
    /// Members of the ring at the start.
    pub start: Id,
    /// What is checked.
    pub variant: Variant,
}

/// A message under way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Message {
    from: Id,
    to: Id,
    body: Body,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Body {
    Question {
        seq: u64,
    },
    Answer {
        seq: u64,
        predecessor: Option<Id>,
        successors: Vec<Id>,
    },
    Notify,
}

/// A state of the whole network.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    peers: Vec<Option<Chord>>,
    under_way: BTreeSet<Message>,
    /// Failures since the ring was whole.
    failures: u8,
    /// Whether the ring was ever whole with r + 1 members.
    base: bool,
}

/// A step.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A peer starts, and knows of nobody yet.
    Start(Id),
    /// It joins or stabilises.
    Tick(Id, Knowledge),
    /// It gives its question up.
    Expire(Id),
    /// A message arrives.
    Deliver(Message, Knowledge),
    /// A message arrives and stays under way, to arrive again.
    Double(Message),
    /// A message is lost.
    Lose(Message),
    /// A peer fails.
    Fail(Id),
}

impl State {
    fn chord(&self, id: Id) -> Option<&Chord> {
        self.peers[usize::from(id)].as_ref()
    }

    fn alive(&self) -> Set {
        (0..)
            .zip(&self.peers)
            .filter_map(|(id, p)| p.is_some().then_some(id))
            .collect()
    }

    /// The pointers of those that have joined.
    fn network(&self) -> Network {
        let mut network = Network::EMPTY;
        for (id, chord) in (0..).zip(&self.peers) {
            let joined = chord.as_ref().filter(|c| c.ring().joined);
            network.set(id, joined.map(|c| Node::of(c.ring())));
        }
        network
    }

    fn sight(&self, knowledge: Knowledge) -> Sight {
        Sight {
            members: self.network().members(),
            alive: self.alive(),
            knowledge,
            unheard_is_gone: false,
        }
    }

    /// The least number that tells a new question of this peer from all that are open or under way.
    fn fresh(&self, who: Id) -> u64 {
        let open = self.chord(who).and_then(Chord::open);
        let taken = |seq: u64| {
            let mentions = |m: &Message| match m.body {
                Body::Question { seq: s } => m.from == who && s == seq,
                Body::Answer { seq: s, .. } => m.to == who && s == seq,
                Body::Notify => false,
            };
            open == Some(seq) || self.under_way.iter().any(mentions)
        };
        (0..)
            .find(|seq| !taken(*seq))
            .expect("few messages are under way")
    }

    fn is_quiet(&self) -> bool {
        let waits = |chord: &Chord| chord.open().is_some();
        self.under_way.is_empty() && !self.peers.iter().flatten().any(waits)
    }
}

impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Messages {
            n,
            r,
            room,
            most,
            start,
            variant,
        } = self;
        write!(
            f,
            "messages, {variant:?} | Between {{ most: {most} }} | from {start}, {room} under way | {n} | {r}"
        )
    }
}

impl Messages {
    fn send(&self, state: &mut State, from: Id, action: chord::Action) {
        let (to, body) = match action {
            chord::Action::Nothing => return,
            chord::Action::Ask { to, seq } => (id(to), Body::Question { seq }),
            chord::Action::Notify { to } => (id(to), Body::Notify),
        };
        self.put(state, Message { from, to, body });
    }

    fn put(&self, state: &mut State, message: Message) {
        if state.under_way.len() < self.room && state.chord(message.to).is_some() {
            state.under_way.insert(message);
        }
    }

    fn tick(&self, state: &mut State, who: Id, knows: Knowledge) -> Option<chord::Action> {
        let (seq, view) = (state.fresh(who), state.sight(knows));
        let chord = state.peers[usize::from(who)].as_mut()?;
        Some(chord.tick(point(who), false, seq, &view))
    }

    fn answer(
        &self,
        state: &mut State,
        who: Id,
        from: Id,
        answered: u64,
        told: &chord::State,
        knows: Knowledge,
    ) -> Option<chord::Action> {
        let (seq, view) = (state.fresh(who), state.sight(knows));
        let chord = state.peers[usize::from(who)].as_mut()?;
        Some(chord.on_state(point(who), peer(from), answered, told, seq, &view))
    }

    fn arrive(&self, state: &mut State, message: Message, knows: Knowledge) -> Option<()> {
        let Message { from, to, body } = message;
        match body {
            Body::Question { seq } => {
                let chord = state.chord(to)?;
                let without_list = || chord::State {
                    predecessor: None,
                    successors: Vec::new(),
                };
                let told = chord
                    .state()
                    .or_else(|| (self.variant == Variant::JoinWithoutList).then(without_list))?;
                let body = Body::Answer {
                    seq,
                    predecessor: told.predecessor.map(id),
                    successors: told.successors.into_iter().map(id).collect(),
                };
                let (from, to) = (to, from);
                self.put(state, Message { from, to, body });
            }
            Body::Answer {
                seq,
                predecessor,
                successors,
            } => {
                let told = chord::State {
                    predecessor: predecessor.map(peer),
                    successors: successors.into_iter().map(peer).collect(),
                };
                let action = self.answer(state, to, from, seq, &told, knows)?;
                self.send(state, to, action);
            }
            Body::Notify => {
                let view = state.sight(knows);
                let chord = state.peers[usize::from(to)].as_mut()?;
                chord.on_notify(point(to), peer(from), &view);
            }
        }
        Some(())
    }

    fn may_fail(&self, state: &State, who: Id) -> bool {
        let mut after = state.network();
        after.set(who, None);
        state.base && state.failures < self.most && after.principals() > self.r
    }

    /// Whether the ring becomes ideal within N − 1 rounds once messages arrive; see [`super::atomic`].
    fn heals(&self, state: &State) -> bool {
        let knows = match state.base {
            true => Knowledge::Exact,
            false => Knowledge::Full,
        };
        let mut state = state.clone();
        state.under_way.clear();
        for who in 0..self.n {
            let view = state.sight(knows);
            if let Some(chord) = &mut state.peers[usize::from(who)] {
                chord.expire(point(who), false, &view);
            }
        }
        // Joining takes a round of its own.
        let joining = state.alive() != state.network().members();
        let rounds = self.n - 1 + Id::from(joining);
        (0..=rounds).any(|round| {
            if round > 0 {
                for who in state.alive().iter() {
                    // Who is about to join needs to be told of somebody.
                    let joined = state.network().get(who).is_some();
                    let knows = if joined { knows } else { Knowledge::Full };
                    self.converse(&mut state, who, knows);
                }
            }
            state.network().is_ideal(self.r)
        })
    }

    /// Stabilise from the first question to the notification.
    fn converse(&self, state: &mut State, who: Id, knows: Knowledge) -> Option<()> {
        let mut action = self.tick(state, who, knows)?;
        while let chord::Action::Ask { to, seq } = action {
            let Some(told) = state.chord(id(to)).and_then(Chord::state) else {
                let view = state.sight(knows);
                let chord = state.peers[usize::from(who)].as_mut()?;
                chord.expire(point(who), false, &view);
                return None;
            };
            action = self.answer(state, who, id(to), seq, &told, knows)?;
        }
        if let chord::Action::Notify { to } = action {
            let view = state.sight(knows);
            let chord = state.peers[usize::from(id(to))].as_mut()?;
            chord.on_notify(point(id(to)), peer(who), &view);
        }
        Some(())
    }

    fn settle(&self, state: &mut State) {
        let network = state.network();
        let whole = network.is_ideal(self.r) && network.members().len() > self.r;
        if whole && state.is_quiet() {
            state.failures = 0;
            state.base = true;
        }
    }
}

impl Model for Messages {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let members: Set = (0..self.start).collect();
        let full = Sight {
            members,
            alive: members,
            knowledge: Knowledge::Full,
            unheard_is_gone: false,
        };
        let founded = |id: Id| {
            let mut chord = Chord::new(self.r);
            chord.found(point(id), &full);
            chord
        };
        vec![State {
            peers: (0..self.n)
                .map(|id| members.has(id).then(|| founded(id)))
                .collect(),
            under_way: BTreeSet::new(),
            failures: 0,
            base: members.len() > self.r,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let members = state.network().members();
        for who in 0..self.n {
            let Some(chord) = state.chord(who) else {
                actions.push(Action::Start(who));
                continue;
            };
            if chord.open().is_some() {
                actions.push(Action::Expire(who));
            } else if chord.ring().joined && state.base {
                actions.push(Action::Tick(who, Knowledge::Exact));
                actions.push(Action::Tick(who, Knowledge::Late));
            } else {
                let hints = members.without(who);
                actions.extend(hints.iter().map(|x| Action::Tick(who, Knowledge::Hint(x))));
            }
            if members.has(who) && self.may_fail(state, who) {
                actions.push(Action::Fail(who));
            }
        }
        for message in &state.under_way {
            actions.push(Action::Deliver(message.clone(), Knowledge::Exact));
            if !matches!(message.body, Body::Question { .. }) {
                actions.push(Action::Deliver(message.clone(), Knowledge::Late));
            }
            actions.push(Action::Double(message.clone()));
            actions.push(Action::Lose(message.clone()));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Start(who) => state.peers[usize::from(who)] = Some(Chord::new(self.r)),
            Action::Tick(who, knows) => {
                let action = self.tick(&mut state, who, knows)?;
                self.send(&mut state, who, action);
            }
            Action::Expire(who) => {
                let view = state.sight(Knowledge::Exact);
                let chord = state.peers[usize::from(who)].as_mut()?;
                chord.expire(point(who), false, &view);
            }
            Action::Deliver(message, knows) => {
                state.under_way.remove(&message);
                self.arrive(&mut state, message, knows);
            }
            Action::Double(message) => self.arrive(&mut state, message, Knowledge::Exact)?,
            Action::Lose(message) => {
                state.under_way.remove(&message);
            }
            Action::Fail(who) => {
                state.peers[usize::from(who)] = None;
                state.under_way.retain(|m| m.to != who);
                state.failures += 1;
            }
        }
        self.settle(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("everyone has a live successor", |_, s: &State| {
                !s.base || s.network().everyone_has_a_live_successor()
            }),
            Property::always("r + 1 principals", |m: &Messages, s: &State| {
                !s.base || s.network().principals() > m.r
            }),
            Property::always("one ordered ring", |_, s: &State| {
                !s.base || s.network().is_one_ordered_ring()
            }),
            Property::always("ideal within N - 1 rounds", |m: &Messages, s: &State| {
                m.heals(s)
            }),
        ]
    }
}

impl Tell for Messages {
    fn tell(&self, _: &State, action: &Action) -> String {
        format!("{action:?}")
    }

    fn tell_end(&self, state: &State) -> String {
        format!("{:?}, under way {:?}", state.network(), state.under_way)
    }
}
