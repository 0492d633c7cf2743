//! One slot's configurations: can two of one epoch ever be decided?
//!
//! Acceptors and proposers are those that ship ([`peernet_core::slot::decide`]), and so is what may be proposed
//! ([`next_config`], for every wish a proposer may have). Every message may arrive at any time, any number of times, in
//! any order, or never; whoever wants to may propose; proposers restart and keep only what is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use peernet_core::member::PeerId;
use peernet_core::reconfigure::{Standing, next_config};
use peernet_core::slot::decide::Proposal;
use peernet_core::slot::{Ballot, SlotConfig, SlotRecord};
use stateright::{Model, Property};

use crate::report::Tell;

/// The protocol, or one of the wrong variants that the checker must tell from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// What ships.
    Shipped,
    /// The newcomer of a moving configuration votes in the place of whom it replaces.
    NewcomerVotes,
    /// A promise does not tell what was accepted.
    AcceptedForgotten,
    /// A proposer goes on after one promise.
    PromiseOfOne,
    /// A restart forgets what was promised.
    PromiseForgotten,
}

/// The model: replicas 0, 1 and 2 of which 2 is being replaced by 3.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Ballots' rounds at most.
    pub rounds: u64,
    /// Peers that may propose.
    pub proposers: usize,
    /// Restarts at most.
    pub restarts: u8,
    /// The last epoch to be decided; the first is 3.
    pub epochs: u64,
    /// What is checked.
    pub variant: Variant,
}

/// A message that was sent; it may arrive whenever it likes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Message {
    /// First phase, to whom it concerns.
    Prepare(SlotConfig, Ballot),
    /// Its answer.
    Promise(PeerId, u64, Ballot, Option<(Ballot, SlotConfig)>),
    /// Second phase.
    Accept(SlotConfig, Ballot, SlotConfig),
    /// Its answer.
    Accepted(PeerId, u64, Ballot),
    /// A decision.
    Commit(SlotConfig),
}

/// One peer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Peer {
    /// Durable.
    record: SlotRecord,
    /// Lost at a restart.
    proposal: Option<Proposal>,
}

/// A state of the whole slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    peers: Vec<Peer>,
    /// Everything ever sent.
    sent: BTreeSet<Message>,
    /// What was decided, by epoch.
    decided: BTreeMap<u64, SlotConfig>,
    conflict: bool,
    restarts: u8,
}

/// A step.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A peer proposes what follows if these should hold the slot and the newcomer has or has not caught up.
    Propose(usize, Vec<PeerId>, bool),
    /// A message arrives at a peer.
    Deliver(usize, Message),
    /// A peer restarts.
    Restart(usize),
}

/// Identities that differ in the digits that are printed.
fn peer(at: usize) -> PeerId {
    PeerId((at as u128) << 96)
}

fn ids(at: &[usize]) -> Vec<PeerId> {
    at.iter().copied().map(peer).collect()
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slot, {:?} | {} rounds | {} proposers | {} restarts | to epoch {}",
            self.variant, self.rounds, self.proposers, self.restarts, self.epochs
        )
    }
}

impl Slot {
    /// As whom a peer votes.
    fn voter(&self, at: usize) -> PeerId {
        match self.variant {
            Variant::NewcomerVotes if at == 3 => peer(2),
            _ => peer(at),
        }
    }

    fn propose(
        &self,
        state: &mut State,
        at: usize,
        target: &[PeerId],
        caught_up: bool,
    ) -> Option<()> {
        let record = &state.peers[at].record;
        let base = record.config.clone();
        let me = peer(at);
        let ballot = Ballot {
            round: record.promised.round + 1,
            proposer: me,
        };
        if ballot.round > self.rounds || base.epoch >= self.epochs || !base.replicas.contains(&me) {
            return None;
        }
        let value = next_config(&base, target, 3, |_| Standing::Eligible, caught_up)?;
        state.peers[at].proposal = Some(Proposal::new(base.clone(), ballot, value));
        // What a peer sends to itself it handles at once.
        let prepare = Message::Prepare(base, ballot);
        state.sent.insert(prepare.clone());
        self.deliver(state, at, &prepare)
    }

    fn adopt(&self, peer: &mut Peer, config: &SlotConfig) {
        if peer.record.config.epoch < config.epoch {
            peer.record = SlotRecord::of(config.clone());
            peer.proposal = None;
        }
    }

    fn deliver(&self, state: &mut State, at: usize, message: &Message) -> Option<()> {
        let me = self.voter(at);
        let here = &mut state.peers[at];
        match message {
            Message::Prepare(base, ballot) => {
                self.adopt(here, base);
                let mut accepted = here.record.promise(me, base, *ballot).ok()?;
                if self.variant == Variant::AcceptedForgotten {
                    accepted = None;
                }
                self.reply(
                    state,
                    at,
                    Message::Promise(me, base.epoch, *ballot, accepted),
                )
            }
            Message::Accept(base, ballot, config) => {
                self.adopt(here, base);
                here.record.accept(me, base, *ballot, config.clone()).ok()?;
                self.reply(state, at, Message::Accepted(me, base.epoch, *ballot))
            }
            Message::Promise(from, epoch, ballot, accepted) => {
                let proposal = here.proposal.as_mut()?;
                let mut voters = vec![*from];
                if self.variant == Variant::PromiseOfOne {
                    voters = proposal.base.replicas.clone();
                }
                let promised =
                    |voter| proposal.on_promise(voter, *epoch, *ballot, accepted.clone());
                if voters.into_iter().any(promised) {
                    let (base, value) = (proposal.base.clone(), proposal.value.clone());
                    let accept = Message::Accept(base, *ballot, value);
                    state.sent.insert(accept.clone());
                    self.deliver(state, at, &accept);
                }
                Some(())
            }
            Message::Accepted(from, epoch, ballot) => {
                let proposal = here.proposal.as_mut()?;
                if proposal.on_accepted(*from, *epoch, *ballot) {
                    let value = proposal.value.clone();
                    self.adopt(here, &value);
                    state.sent.insert(Message::Commit(value.clone()));
                    let before = state.decided.insert(value.epoch, value.clone());
                    state.conflict |= before.is_some_and(|before| before != value);
                }
                Some(())
            }
            Message::Commit(config) => {
                self.adopt(here, config);
                Some(())
            }
        }
    }

    fn reply(&self, state: &mut State, at: usize, answer: Message) -> Option<()> {
        let (Message::Promise(_, _, ballot, _) | Message::Accepted(_, _, ballot)) = &answer else {
            return None;
        };
        if ballot.proposer == peer(at) {
            return self.deliver(state, at, &answer);
        }
        state.sent.insert(answer);
        Some(())
    }

    /// Whom a message may concern.
    fn receivers(&self, message: &Message) -> Vec<usize> {
        let of = |ids: &[PeerId]| ids.iter().map(|id| (id.0 >> 96) as usize).collect();
        match message {
            Message::Prepare(base, _) | Message::Accept(base, ..) => match self.variant {
                Variant::NewcomerVotes => of(&base.participants()),
                _ => of(&base.replicas),
            },
            Message::Promise(_, _, ballot, _) | Message::Accepted(_, _, ballot) => {
                of(&[ballot.proposer])
            }
            Message::Commit(config) => of(&config.participants()),
        }
    }
}

impl Model for Slot {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let moving = SlotConfig {
            epoch: 2,
            replicas: ids(&[0, 1, 2]),
            next: Some(ids(&[0, 1, 3])),
        };
        let peer = Peer {
            record: SlotRecord::of(moving),
            proposal: None,
        };
        vec![State {
            peers: vec![peer; 4],
            sent: BTreeSet::new(),
            decided: BTreeMap::new(),
            conflict: false,
            restarts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for at in 0..self.proposers {
            actions.push(Action::Propose(at, ids(&[0, 1, 3]), true));
            actions.push(Action::Propose(at, ids(&[0, 1, 2]), false));
        }
        if state.restarts < self.restarts {
            actions.extend((0..state.peers.len()).map(Action::Restart));
        }
        for message in &state.sent {
            let receivers = self.receivers(message).into_iter();
            actions.extend(receivers.map(|at| Action::Deliver(at, message.clone())));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Propose(at, target, caught_up) => {
                self.propose(&mut state, at, &target, caught_up)?;
            }
            Action::Deliver(at, message) => {
                self.deliver(&mut state, at, &message);
            }
            Action::Restart(at) => {
                let peer = &mut state.peers[at];
                peer.proposal = None;
                if self.variant == Variant::PromiseForgotten {
                    peer.record = SlotRecord::of(peer.record.config.clone());
                }
                state.restarts += 1;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(
            "one configuration of an epoch",
            |_, s: &State| {
                let mut known = s.decided.clone();
                !s.conflict
                    && s.peers.iter().all(|peer| {
                        let config = &peer.record.config;
                        known.entry(config.epoch).or_insert(config.clone()) == config
                    })
            },
        )]
    }
}

impl Tell for Slot {
    fn tell(&self, _: &State, action: &Action) -> String {
        format!("{action:?}")
    }

    fn tell_end(&self, state: &State) -> String {
        format!("{:?}", state.decided)
    }
}
