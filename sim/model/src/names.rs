//! One name and the configurations of its slot: is the register linearizable while peers crash, restart and change hands?
//!
//! The rules are those of [`peernet_core::register`] ([`Acceptor`], [`after_read`], [`after_claim`]) and
//! [`peernet_core::quorum`]; what is modelled is everything around them that may go wrong:
//!
//! - *Messages* are lost, delayed and reordered: a replica serves a request at any time or never, and a request to store is
//!   served even long after its sender has given it up.
//! - *Configurations* follow each other in the order given, decided at any time by a majority that knows the one before;
//!   each replica learns of them when it likes. While a newcomer catches up, both sets have to agree.
//! - *Copies* are compared and passed on from any replica to any other under the same epoch.
//! - *Processes* restart: what they had under way is gone, what they had stored or promised is not. But an owner sends its
//!   proposal before its own copy of it is durable, and that copy may be gone; until it is durable, the owner says nothing
//!   else.
//! - *Owners* carry out writes of their own and writes that others passed on, which others may claim meanwhile.
//!
//! Each operation is invoked once by a client and answered at most once; the history of invocations and answers must be
//! linearizable (Herlihy and Wing, 1990), with compare-and-set among the operations.

use peernet_core::member::PeerId;
use peernet_core::quorum::{catch_up_quorum, count, has_majority};
use peernet_core::register::{Acceptor, Base, Condition, Register, Step, Version, WriteId};
use peernet_core::slot::SlotConfig;
use stateright::semantics::{LinearizabilityTester, SequentialSpec};
use stateright::{Model, Property};

use crate::report::Tell;

mod decide;
mod owner;
mod steps;

/// The protocol as it ships, or one of the wrong ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// As it ships.
    Shipped,
    /// A value of an earlier epoch is told though the owner may not know it.
    ReadWithoutOwner,
    /// The owner proposes before it has compared its copy within the epoch.
    LeadUncompared,
    /// The owner proposes without having stored it itself.
    LeadUnstored,
    /// The owner answers while its own copy, which it counts, is not durable.
    CountUnsynced,
    /// A copy that is passed on is stored in spite of a promise.
    CopyAgainstPromise,
    /// A write that was passed on and not answered is carried out again, whatever was found.
    CarriedOutTwice,
    /// A quorum of one of the two sets is enough while a newcomer catches up.
    EitherSet,
    /// The newcomer becomes a replica before it has caught up.
    NewcomerUncompared,
    /// Promises are not kept.
    NoPromise,
    /// A claim goes on with the value that was heard first instead of the greatest.
    AnyOfTheFound,
    /// A read tells the greatest that it heard though a quorum does not hold it.
    ReadUndecided,
    /// A replica serves whatever the epoch.
    AnyEpoch,
}

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Want {
    /// The value.
    Read,
    /// To write.
    Put,
    /// To write if nothing is there.
    Create,
    /// To write if the write of this operation (or, without one, the one there at the beginning) is still the last.
    Replace(Option<u8>),
}

/// An operation: at which replica, and what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wanted {
    /// Who is asked.
    pub at: u8,
    /// For what.
    pub want: Want,
    /// It is passed on to the owner, if there is another one; otherwise claimed at once.
    pub forward: bool,
}

/// One name, some peers, some operations.
#[derive(Clone, PartialEq, Debug)]
pub struct Names {
    /// All configurations in order; the first is in force and known to all at the beginning.
    pub configs: Vec<SlotConfig>,
    /// What clients want.
    pub wanted: Vec<Wanted>,
    /// Replicas that hold a value which was decided before.
    pub holders: Vec<u8>,
    /// Replicas that hold a later one, which was proposed but never decided.
    pub orphans: Vec<u8>,
    /// How often processes restart, all together.
    pub restarts: u8,
    /// How often an operation claims a ballot.
    pub claims: u8,
    /// As it ships, or not.
    pub variant: Variant,
}

/// The write that is there at the beginning.
const FIRST: u8 = 100;
/// One that was proposed later, but never decided.
const ORPHAN: u8 = 101;

/// What a replica holds: under which ballot, which write.
type Held = Option<(Version, u8)>;

/// A peer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Replica {
    /// Index of the configuration it knows.
    config: u8,
    promised: Option<Version>,
    held: Held,
    /// Compared its copy with these, within the epoch and since it started; kept where it matters.
    compared: Vec<u8>,
    /// Learned of the configuration since it started.
    fresh: bool,
    /// What it holds is not durable; this is. Kept while processes may restart.
    unsynced: Option<Held>,
}

/// What an operation does now.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    New,
    Forward,
    Read(Vec<(u8, Held)>),
    Claim(Version, Vec<(u8, Held)>),
    Store {
        version: Version,
        write: u8,
        by: Vec<u8>,
        ours: bool,
    },
    Done,
}

/// An operation under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Operation {
    phase: Phase,
    /// Index of the configuration it uses.
    config: u8,
    base: Option<Base>,
    claims: u8,
    /// Passed on to the owner under this configuration; what the owner makes of it.
    carried: Option<Carried>,
}

/// A write that was passed on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Carried {
    config: u8,
    /// Ballot and who has stored it, once the owner has begun.
    store: Option<(Version, Vec<u8>)>,
    /// Answered, or given up by the owner.
    over: bool,
}

/// All there is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    replicas: Vec<Replica>,
    operations: Vec<Operation>,
    /// Requests to store that their senders have given up: configuration, ballot, write.
    late: Vec<(u8, Version, u8)>,
    /// How many configurations are decided.
    decided: u8,
    restarts: u8,
    /// Ballots of owners so far: each is greater than the one before.
    led: u64,
    history: LinearizabilityTester<u8, Sequential>,
    /// The history is linearizable.
    legal: bool,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The client asks.
    Start(u8),
    /// This replica serves the operation's request.
    Serve(u8, u8),
    /// The owner begins a write that was passed on.
    Carry(u8),
    /// This replica serves the owner's request for it.
    ServeCarried(u8, u8),
    /// The owner tells what became of it.
    Carried(u8),
    /// The owner gives it up.
    Abandon(u8),
    /// The operation goes on with what it has heard.
    Decide(u8),
    /// The operation claims a (greater) ballot.
    Claim(u8),
    /// A request that was given up arrives at this replica.
    Late(u8, u8),
    /// The next configuration is decided.
    Commit,
    /// This replica learns of the next configuration.
    Adopt(u8),
    /// The first replica compares its copy with the second's, and takes over what is newer.
    Compare(u8, u8),
    /// What this replica holds becomes durable.
    Sync(u8),
    /// This process restarts.
    Restart(u8),
}

/// The register as its clients may see it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sequential(Option<u8>);

/// An operation on it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Ask {
    Read,
    Write(u8, Option<Option<u8>>),
}

/// What the client is told.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Told {
    Holds(Option<u8>),
    Written,
}

impl SequentialSpec for Sequential {
    type Op = Ask;
    type Ret = Told;

    fn invoke(&mut self, op: &Ask) -> Told {
        match op {
            Ask::Read => Told::Holds(self.0),
            Ask::Write(_, Some(expected)) if self.0 != *expected => Told::Holds(self.0),
            Ask::Write(write, _) => {
                self.0 = Some(*write);
                Told::Written
            }
        }
    }
}

fn peer(n: u8) -> PeerId {
    PeerId(n.into())
}

fn peers(all: &[u8]) -> Vec<PeerId> {
    all.iter().map(|n| peer(*n)).collect()
}

fn write_id(write: u8) -> WriteId {
    WriteId {
        peer: PeerId(0),
        op: write.into(),
    }
}

/// A configuration of these replicas, and of these while it moves.
pub fn config(epoch: u64, replicas: &[u8], next: Option<&[u8]>) -> SlotConfig {
    SlotConfig {
        epoch,
        replicas: peers(replicas),
        next: next.map(peers),
    }
}

impl Names {
    fn replicas(&self) -> u8 {
        let all = self.configs.iter().flat_map(SlotConfig::participants);
        all.map(|id| id.0 as u8 + 1).max().unwrap_or(0)
    }

    fn is_quorum(&self, config: u8, by: &[u8]) -> bool {
        let (config, by) = (&self.configs[usize::from(config)], peers(by));
        if self.variant == Variant::EitherSet {
            return config
                .quorum_sets()
                .any(|set| count(set, &by) > set.len() / 2);
        }
        has_majority(config, &by)
    }

    /// Whether the replica has compared its copy with enough others within its epoch.
    fn is_synced(&self, state: &State, n: u8) -> bool {
        let replica = &state.replicas[usize::from(n)];
        let set = &self.configs[usize::from(replica.config)].replicas;
        let mut met = peers(&replica.compared);
        met.push(peer(n));
        count(set, &met) >= catch_up_quorum(set.len(), 2)
    }

    fn owner(&self, config: u8) -> u8 {
        let owner = self.configs[usize::from(config)].owner();
        owner.expect("a configuration has replicas").0 as u8
    }

    /// Whether the replica's ballots need no claim.
    fn leads(&self, state: &State, n: u8) -> bool {
        let replica = &state.replicas[usize::from(n)];
        let fresh = replica.fresh;
        let synced = self.is_synced(state, n) || self.variant == Variant::LeadUncompared;
        self.owner(replica.config) == n && fresh && synced
    }

    fn acceptor(&self, replica: &Replica) -> Acceptor {
        let promised = replica.promised;
        Acceptor {
            epoch: self.configs[usize::from(replica.config)].epoch,
            promised: promised.filter(|_| self.variant != Variant::NoPromise),
            admitted: replica.held.map(|(version, _)| version),
        }
    }

    /// Whether the replica serves requests under that configuration.
    fn serves(&self, replica: u8, state: &State, config: u8) -> bool {
        let known = state.replicas[usize::from(replica)].config;
        let same = known == config || self.variant == Variant::AnyEpoch;
        same && self.configs[usize::from(config)].involves(peer(replica))
    }

    fn condition(&self, op: u8) -> Condition {
        match self.wanted[usize::from(op)].want {
            Want::Read | Want::Put => Condition::Always,
            Want::Create => Condition::Absent,
            Want::Replace(of) => Condition::Unchanged(write_id(of.unwrap_or(FIRST))),
        }
    }
}

fn register(held: (Version, u8)) -> Register {
    Register {
        name: peernet_core::key::Name::new("n").expect("a valid name"),
        version: held.0,
        write: write_id(held.1),
        value: peernet_core::register::Value::Present {
            head: Default::default(),
            body: Default::default(),
            upload: None,
        },
        trail: Default::default(),
    }
}

impl Model for Names {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action)?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("linearizable", |_, state: &State| {
            state.legal
        })]
    }
}

impl Tell for Names {
    fn tell(&self, _: &State, action: &Action) -> String {
        format!("{action:?}")
    }

    fn tell_end(&self, state: &State) -> String {
        format!("{:?}", state.history)
    }
}
