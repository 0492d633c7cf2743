//! One slot while peers leave: is everything that was acknowledged still there, whoever crashes and whenever somebody
//! changes his mind?
//!
//! What ships decides: which configuration follows ([`peernet_core::reconfigure`]), when a copy is frozen and whose word
//! lets it go ([`peernet_core::slot::handover`]), when a newcomer has caught up ([`peernet_core::quorum`]), what a volume
//! remembers when its peer starts again ([`peernet_core::boot`]), and whether a pod may go ([`peernet_core::leave`]). What
//! is modelled is everything around them:
//!
//! - *Somebody* asks for one number of peers after another, at any time.
//! - *The operator* orders leaves and their end, asks peers for their reports one by one at any time, judges what it has
//!   heard (which may be old, or silence) at any time, and lowers the StatefulSet. It remembers nothing else.
//! - *Configurations* are decided by a majority that runs (that there is never more than one of an epoch is
//!   [`crate::slot`]'s concern); each peer learns of them when it likes, so it may be far behind.
//! - *Receipts* arrive at any time, any number of times, or never.
//! - *Processes* crash at any step and lose what is not on their volumes; volumes of pods that went are kept, and come back.
//! - *A stale peer* that knows of an order to leave, but not whether it was taken back, and of no configuration that names
//!   the leaver, may say at any time that it is gone.
//! - *A write* arrives at the replicas one by one, or at some of them only.
//!
//! The slot holds a name that was deleted, of which one replica has not heard, and a chunk that two of three hold.

use std::collections::BTreeSet;

use peernet_core::member::{Drain, PeerId};
use peernet_core::slot::{SlotConfig, SlotRecord};
use stateright::{Model, Property};

use crate::report::Tell;

mod copy;
mod operator;
mod rest;
mod steps;
mod volume;

use copy::Copy;
use operator::Heard;

/// The protocol as it ships, or one of the wrong ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// As it ships.
    Shipped,
    /// The leaver's own word counts as everybody's receipt.
    OwnReceipt,
    /// A receipt is given for a copy that was not compared with.
    Uncompared,
    /// A leaver freezes its copy, and lets it go, when its successor is only about to come.
    FrozenEarly,
    /// A newcomer becomes a replica before it has caught up.
    NotCaughtUp,
    /// No report at all counts as nothing left to do.
    EmptyReport,
    /// A replica that does not answer is not asked for.
    SilenceCounts,
    /// The StatefulSet is lowered before `Left` is written.
    LeftAfterwards,
    /// A pod whose leaver has left keeps its identity and all it remembers when it comes back.
    OldIdentity,
    /// A drain is forgotten in a crash, and not ordered again.
    DrainForgotten,
    /// Who hears that others count it as gone is gone, whatever order it has and whatever it holds.
    RetiredAtOnce,
    /// The same, if it has no newer order than those who say so.
    RetiredWithSlots,
}

/// A network of one slot with three replicas: the highest ordinals but one hold it.
#[derive(Clone, PartialEq, Debug)]
pub struct Leave {
    /// How many peers somebody wants, one number after the other; all of the first are there and are members.
    pub sizes: Vec<u8>,
    /// Pods that may crash, once each.
    pub crashes: Vec<u8>,
    /// Something is written meanwhile.
    pub write: bool,
    /// Stale peers retire leavers.
    pub stale: bool,
    /// From every state it is followed to its rest.
    pub rest: bool,
    /// As it ships, or not.
    pub variant: Variant,
}

/// A pod and its volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Peer {
    /// Which of its identities its volume carries.
    life: u8,
    /// How many of its identities have left for good.
    departed: u8,
    /// What its volume remembers of the slot.
    record: Option<SlotRecord>,
    /// What its volume holds of it.
    copy: Copy,
    drain: Drain,
    /// `Left` is on its volume.
    left: bool,
    /// Its process runs; what follows is lost when it ends.
    up: bool,
    /// Whom it has compared its copy with, within the epoch it knows.
    met: Vec<u8>,
    /// With enough of them.
    synced: bool,
    /// Epoch of the order under which others have said last that it is gone; 0: nobody has.
    retired: u64,
}

/// A receipt that was sent; it may arrive whenever it likes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Sent {
    from: u8,
    to: u8,
    /// Epoch that froze the copy.
    epoch: u64,
    /// The copy compared with.
    of: Copy,
}

/// All there is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    peers: Vec<Peer>,
    /// The newest configuration that was decided.
    newest: SlotConfig,
    /// Its newcomer has said that it has everything.
    caught_up: bool,
    receipts: BTreeSet<Sent>,
    /// The write under way: under which configuration, who has stored it.
    writing: Option<(SlotConfig, Vec<u8>)>,
    /// What clients were told to be safe.
    acknowledged: Copy,
    /// Index of the size that is wanted.
    wanted: u8,
    /// Pods that the StatefulSet asks for.
    set: u8,
    /// What the operator has heard of the pods, lowest first.
    heard: Vec<Heard>,
    crashed: Vec<u8>,
    /// Each copy that was let go was everywhere by then, and nobody counted on it.
    copies_went_with_receipts: bool,
    /// Each pod that was taken away was dispensable.
    pods_went_with_proof: bool,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The next size is asked for.
    Scale,
    /// This pod hears from the operator whether it is to leave.
    Order(u8),
    /// The slot's next configuration is decided.
    Decide,
    /// This peer learns of the newest configuration.
    Adopt(u8),
    /// The first compares its copy with the second's, and takes over what it lacks.
    Compare(u8, u8),
    /// The first asks the second to prove that it has all of its frozen copy.
    Prove(u8, u8),
    /// A receipt of the second arrives at the first.
    Receipt(u8, u8),
    /// This peer lets its frozen copy go.
    Release(u8),
    /// This peer writes down that it has left.
    Leave(u8),
    /// This peer hears from a stale one that it is gone, as it was ordered to leave under this epoch.
    Retire(u8, u64),
    /// What is being written arrives at this peer.
    Store(u8),
    /// The operator asks this pod.
    Ask(u8),
    /// The operator judges what it has heard.
    Judge,
    /// This process ends.
    Crash(u8),
    /// This process starts.
    Start(u8),
}

impl Leave {
    /// The number of peers that is wanted.
    fn wanted(&self, state: &State) -> u8 {
        self.sizes[usize::from(state.wanted)]
    }

    fn first(&self) -> State {
        let pods = self.sizes[0];
        // Of N pods the last three hold the slot, so that leaves always concern it.
        let replicas: Vec<u8> = (pods - 3..pods).collect();
        let newest = SlotConfig {
            epoch: 1,
            replicas: replicas.iter().map(|at| id(*at, 0)).collect(),
            next: None,
        };
        let peer = |at: u8| Peer {
            life: 0,
            departed: 0,
            record: Some(SlotRecord::of(newest.clone())),
            copy: match replicas.iter().position(|r| *r == at) {
                None => Copy::default(),
                Some(0) => Copy::of_late_replica(),
                Some(1) => Copy::of_replica_without_chunk(),
                Some(_) => Copy::acknowledged(),
            },
            drain: Drain::default(),
            left: false,
            up: true,
            met: Vec::new(),
            synced: replicas.contains(&at),
            retired: 0,
        };
        State {
            peers: (0..pods).map(peer).collect(),
            newest: newest.clone(),
            caught_up: false,
            receipts: BTreeSet::new(),
            writing: None,
            acknowledged: Copy::acknowledged(),
            wanted: 0,
            set: pods,
            heard: Vec::new(),
            crashed: Vec::new(),
            copies_went_with_receipts: true,
            pods_went_with_proof: true,
        }
    }

    /// Every quorum of the slot's replicas meets all that was acknowledged.
    fn is_readable(&self, state: &State) -> bool {
        let replicas = &state.newest.replicas;
        let there = |id: &&PeerId| state.alive(**id) && at(**id) < state.set;
        let mut parts = state.acknowledged.parts().into_iter();
        parts.all(|part| {
            let there = replicas.iter().filter(there);
            let holders = there.filter(|id| state.peer(at(**id)).copy.has(part));
            // Two of three: any two others meet one of them.
            holders.count() >= copy::WRITE as usize
        })
    }
}

/// The identity that a pod has in one of its lives.
fn id(at: u8, life: u8) -> PeerId {
    PeerId((u128::from(at) + 1) << 96 | u128::from(life))
}

/// The pod of an identity.
fn at(id: PeerId) -> u8 {
    (id.0 >> 96) as u8 - 1
}

impl Peer {
    fn id(&self, at: u8) -> PeerId {
        id(at, self.life)
    }

    /// Runs as a member.
    fn runs(&self) -> bool {
        self.up && !self.left
    }

    /// Others count it as gone, and know its newest order.
    fn is_retired(&self) -> bool {
        self.drain.leaving && self.retired == self.drain.epoch
    }

    fn config(&self) -> Option<&SlotConfig> {
        self.record.as_ref().map(|r| &r.config)
    }

    fn epoch(&self) -> u64 {
        self.config().map_or(0, |c| c.epoch)
    }
}

impl State {
    fn peer(&self, at: u8) -> &Peer {
        &self.peers[usize::from(at)]
    }

    fn peer_mut(&mut self, at: u8) -> &mut Peer {
        &mut self.peers[usize::from(at)]
    }

    /// Whether this identity is one that a volume carries and that has not left.
    fn alive(&self, id: PeerId) -> bool {
        let peer = self.peer(at(id));
        peer.id(at(id)) == id && !peer.left
    }
}

impl Model for Leave {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a copy goes only when all have it", |_, s: &State| {
                s.copies_went_with_receipts
            }),
            Property::always("a pod goes only on proof", |_, s: &State| {
                s.pods_went_with_proof
            }),
            Property::always("acknowledged is readable", |m: &Leave, s| m.is_readable(s)),
            Property::always("who has left never returns", |_, s: &State| {
                let past = |p: &Peer| p.life < p.departed && !p.left;
                !s.peers.iter().any(past)
            }),
            Property::always("undisturbed, it comes to rest", |m: &Leave, s| {
                !m.rest || m.comes_to_rest(s)
            }),
        ]
    }
}

impl Tell for Leave {
    fn tell(&self, _: &State, action: &Action) -> String {
        format!("{action:?}")
    }

    fn tell_end(&self, state: &State) -> String {
        let config = |c: &SlotConfig| {
            let ordinals = |ids: &[PeerId]| ids.iter().map(|id| at(*id)).collect::<Vec<u8>>();
            let next = c.next.as_deref().map(ordinals);
            format!("{}: {:?} {next:?}", c.epoch, ordinals(&c.replicas))
        };
        let peer = |(at, p): (usize, &Peer)| {
            let frozen = p.record.as_ref().and_then(|r| r.frozen.as_ref());
            let (up, left, drain) = (p.up, p.left, p.drain.leaving);
            format!(
                "{at}.{} up {up} leaving {drain} left {left} knows {:?} frozen {:?} {:?}",
                p.life,
                p.config().map(config),
                frozen.map(|f| (f.epoch, f.awaiting.len())),
                p.copy
            )
        };
        let peers: Vec<String> = state.peers.iter().enumerate().map(peer).collect();
        let newest = config(&state.newest);
        format!(
            "{newest}; set {}\n      {}",
            state.set,
            peers.join("\n      ")
        )
    }
}
