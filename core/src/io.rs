//! What goes into and comes out of a [`crate::peer::Peer`].

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::collect::{Referrer, Upload};
use crate::flood::{Command, Cost, Found};
use crate::key::{Key, Name, Slot};
use crate::leave::Report;
use crate::member::{Hint, Member, PeerId};
use crate::message::{Listed, Message};
use crate::outbox::{Consumer, Effect};
use crate::recover::Recovery;
use crate::register::{Condition, Register, Value, Version, WriteId};
use crate::slot::SlotConfig;

/// Virtual time: milliseconds since an origin of the driver's choice. Never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// `self` plus so many milliseconds.
    pub fn after(self, millis: u64) -> Time {
        Time(self.0.saturating_add(millis))
    }
}

/// The driver's handle of a request, repeated in its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A deadline from [`crate::peer::Peer::next_deadline`] has passed.
    Timer,
    /// A message came in. `from` is the sender's identity as it gave it.
    Message {
        /// Who sent it.
        from: PeerId,
        /// What it said.
        message: Message,
    },
    /// Addresses (`host:port`) where members may be found; ours may be among them.
    Seeds(Vec<String>),
    /// It is this peer's part to found the network if there is none: it has asked around for a while, and whoever it
    /// has heard of since is in its table. May be said again and again; see [`crate::boot`].
    FoundIfAlone,
    /// A client of this peer wants something.
    Request {
        /// Repeated in the answer.
        id: RequestId,
        /// What it wants.
        request: Request,
    },
    /// The volume has no room for new files any more (true), or has room again. Repair and deletes go on.
    DiskFull(bool),
    /// A chunk asked for by [`Output::FetchChunk`] is durable here.
    ChunkFetched {
        /// Which.
        key: Key,
        /// Its length in bytes.
        len: u32,
    },
    /// A chunk asked for by [`Output::FetchChunk`] could not be had from any of the sources.
    ChunkMissed {
        /// Which.
        key: Key,
    },
}

/// What a client of this peer wants. Each is answered exactly once.
#[derive(Clone, Debug)]
pub enum Request {
    /// [`Answer::Register`].
    ReadName(Name),
    /// What a name holds, and for [`crate::config::Settings::hold`] milliseconds its chunks are kept for a reader:
    /// [`Answer::Held`].
    HoldName {
        /// Which name.
        name: Name,
        /// Which upload is read; `None` for the one that the name holds now.
        upload: Option<Upload>,
    },
    /// [`Answer::Written`] or [`Answer::Unmet`].
    WriteName {
        /// Which name.
        name: Name,
        /// Its new value.
        value: Value,
        /// When it may take effect.
        condition: Condition,
    },
    /// [`Answer::Names`].
    List {
        /// Only names that start so.
        prefix: String,
        /// Only names after this one.
        after: Option<Name>,
        /// At most so many, 1 to 1,000.
        limit: u32,
    },
    /// Files by keywords: [`Answer::Matches`].
    Search(Search),
    /// Effects of writes that this consumer has to perform, in slots that this peer owns: [`Answer::Effects`], as soon as
    /// there are any. They are offered again until they are settled. A consumer asks once at a time.
    Effects {
        /// Who asks.
        consumer: Consumer,
        /// At most so many, 1 to 256.
        limit: u32,
    },
    /// A consumer has performed the effects of these writes. [`Answer::Done`].
    Settle {
        /// Who.
        consumer: Consumer,
        /// Names and the writes that they held, from [`Effect`].
        writes: Vec<(Key, WriteId)>,
    },
    /// Who holds these slots: [`Answer::Routes`], one per slot in order.
    Routes(Vec<Slot>),
    /// A writer's chunk is durable here, or should be; count it under this epoch, with this reference?
    /// [`Answer::Chunk`].
    PinChunk {
        /// Which.
        key: Key,
        /// What the writer gives of it.
        given: Given,
        /// The epoch the writer used.
        epoch: u64,
        /// What refers to it.
        by: Referrer,
    },
    /// A chunk's bytes here are missing or wrong: forget it and fetch it again. [`Answer::Done`].
    ChunkBad(Key),
    /// A replica did not take a chunk of this slot: tell it to catch up. [`Answer::Done`].
    Missed {
        /// Which slot.
        slot: Slot,
        /// Which replica.
        peer: PeerId,
    },
    /// [`Answer::Members`].
    Members,
    /// [`Answer::Registry`].
    Registry,
    /// [`Answer::Status`].
    Status,
    /// Let these peers leave (or keep them): identity, epoch, leaving. [`Answer::Done`].
    Drain(Vec<(PeerId, u64, bool)>),
    /// What can be proved about these peers' leaves: [`Answer::LeaveReport`].
    LeaveReport(Vec<PeerId>),
    /// What Kubernetes says of these peers' processes. [`Answer::Done`].
    Hint(Vec<(PeerId, Hint)>),
    /// Give peers up for good, and put these configurations in force. [`Answer::Recovered`].
    Recover(Recovery),
    /// Shared files; see [`Command`].
    Flood(Command),
}

/// Answer to a [`Request`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// What the name holds (a tombstone included), or nothing ever.
    Register(Option<Register>),
    /// Outcome of [`Request::HoldName`].
    Held {
        /// As in [`Answer::Register`].
        register: Option<Register>,
        /// A majority knows of the reader; otherwise it is to be asked again.
        held: bool,
    },
    /// Durable at a quorum.
    Written {
        /// Under this ballot.
        version: Version,
        /// As this write; see [`Condition::Unchanged`].
        write: WriteId,
        /// In the place of a file; otherwise the name was free.
        replaced: bool,
    },
    /// Nothing was written: the condition does not hold of this, which is what the name holds.
    Unmet(Option<Register>),
    /// The page, in byte order, tombstones left out; `more` when names may follow the last one.
    Names {
        /// The page.
        items: Vec<Listed>,
        /// Where the next page begins, when there may be one.
        next: Option<Name>,
    },
    /// Results of a search, in order of the names' hashes.
    Matches {
        /// The page.
        items: Vec<Listed>,
        /// [`Search::after`] of the next page, when there may be one.
        next: Option<Key>,
        /// What this page cost.
        cost: IndexCost,
    },
    /// In the order of their keys, mostly; none when nothing came up within the time of an operation. At most one a name.
    Effects(Vec<Effect>),
    /// One per slot asked.
    Routes(Vec<Route>),
    /// Outcome of [`Request::PinChunk`].
    Chunk(ChunkOutcome),
    /// In ring order, this peer included.
    Members(Vec<Member>),
    /// In ring order, this peer included, each with when its liveness last changed as far as this peer noticed.
    Registry(Vec<(Member, Time)>),
    /// See [`Status`].
    Status(Box<Status>),
    /// See [`Report`].
    LeaveReport(Box<Report>),
    /// Outcome of [`Request::Recover`]: who is to be given up but alive, so that nothing was done; empty when it was.
    Recovered(Vec<PeerId>),
    /// Outcome of a search among shared files.
    Found(Found),
    /// Who has a content.
    Providers {
        /// Which.
        content: Key,
        /// As they have announced, those thought to be alive.
        peers: Vec<PeerId>,
        /// What it cost to ask.
        cost: Cost,
    },
    /// Done.
    Done,
    /// It could not be done.
    Failed(RequestError),
}

/// Why a request failed. Nothing was acknowledged; a write may or may not have been applied at some replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// No configuration of the slot is known yet.
    #[error("this peer is not yet part of a ring; try again in a moment, or ask another peer")]
    NotReady,
    /// This peer has left the network; a write under way may or may not have been applied.
    #[error(
        "this peer has left the network, and whether a write was applied is not known; ask another peer"
    )]
    Left,
    /// Fewer replicas answered in time than the quorum needs.
    #[error(
        "only {answered} of the {needed} replicas needed for slot {slot} answered in time; try again when more peers are up"
    )]
    NoQuorum {
        /// Which slot.
        slot: Slot,
        /// How many answered.
        answered: u32,
        /// How many were needed.
        needed: u32,
    },
    /// A replica or the slot's owner went away in the middle of the write, and another write came after.
    #[error(
        "whether this was written is not known, as another write came in between; read the name and decide"
    )]
    Unknown,
    /// Too many requests are under way on this peer.
    #[error("this peer is busy; try again in a moment, or ask another peer")]
    Busy,
    /// Too many replicas of the slot have no room left.
    #[error(
        "the disks of too many peers that hold slot {slot} are full; free space, or add peers or larger volumes"
    )]
    Full {
        /// Which slot.
        slot: Slot,
    },
    /// A search for nothing, or for stop words only.
    #[error(
        "nothing to search for: give a word that is not as common as 'the', a tag or a content type"
    )]
    NothingToSearch,
    /// The value is larger than [`crate::register::REGISTER_MAX`].
    #[error("a name's record holds at most 65536 bytes")]
    TooLarge,
}

/// A search in the keyword index ([`crate::index`]).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Search {
    /// A file must have all of these terms; at least one.
    pub terms: BTreeSet<String>,
    /// And one that begins so.
    pub prefix: Option<String>,
    /// Only names whose hash is greater.
    pub after: Option<Key>,
    /// At most so many results, 1 to 1,000.
    pub limit: u32,
}

/// What a search cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexCost {
    /// Other peers asked.
    pub peers: u32,
    /// Messages between peers, answers included.
    pub messages: u32,
    /// Nodes of the index that were read.
    pub shards: u32,
}

/// Who holds a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Which slot.
    pub slot: Slot,
    /// Its configuration, if one is known.
    pub config: Option<SlotConfig>,
    /// Its participants, nearest first: this peer, then this peer's zone, then others; those thought down last.
    pub holders: Vec<Endpoint>,
}

/// Where a peer can be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its identity.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// `host:port` for gRPC.
    pub address: String,
    /// Thought to be alive.
    pub up: bool,
}

/// What a writer gives of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Given {
    /// Its bytes, so many of them, which are durable here.
    Bytes(u32),
    /// Nothing: only the reference is wanted, if the chunk is here, and has as many bytes as the writer says, if it does.
    Reference(Option<u32>),
}

/// Whether a chunk counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkOutcome {
    /// Durable here with its reference, and counted under the writer's epoch.
    Stored,
    /// Only the reference was wanted, and the chunk is not here.
    Missing,
    /// The slot is at this epoch here (0: not known); the writer asks for the route again.
    Stale(u64),
    /// Only the reference was wanted, and the chunk is here, but has so many bytes, not as many as the writer says.
    OtherLength(u32),
}

/// What a peer knows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// UUID of the network.
    pub network: String,
    /// This peer.
    pub member: Member,
    /// Member of the ring, and caught up since the last start.
    pub ready: bool,
    /// When not ready, why; a sentence.
    pub reason: String,
    /// Slots it is a replica of.
    pub slots_held: u32,
    /// Of these, not yet caught up with the other replicas.
    pub slots_behind: u32,
    /// Of these, moving.
    pub slots_moving: u32,
    /// Chunks held and their bytes.
    pub chunks: (u64, u64),
    /// Chunks known to be missing here.
    pub chunks_missing: u64,
    /// Chord predecessor.
    pub predecessor: Option<PeerId>,
    /// Chord successors, nearest first.
    pub successors: Vec<PeerId>,
}

/// Something for the driver to do. Performed in order, after the store's commit, but for messages that may go `early`.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a message; it may be lost.
    Send {
        /// `host:port` for gRPC.
        address: String,
        /// What to say.
        message: Message,
        /// It asks or proposes, and says nothing of what this peer remembers: it may go out before the commit, so that
        /// others store a proposal while its proposer does.
        early: bool,
    },
    /// Bring a chunk here from one of the sources, verify it, make it durable and say [`Input::ChunkFetched`], or
    /// [`Input::ChunkMissed`].
    FetchChunk {
        /// Which.
        key: Key,
        /// Its length in bytes.
        len: u32,
        /// Who has it, nearest first.
        sources: Vec<Endpoint>,
    },
    /// Delete the bytes of these chunks.
    DropChunks(Vec<Key>),
    /// Answer a request.
    Answer {
        /// From the request.
        id: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// This identity has left for good, durably: nothing else will come out of this peer.
    Left,
}

/// Bytes of a register's value: bounds what a client may store, and how many registers travel in one message.
pub(crate) fn value_len(value: &Value) -> usize {
    match value {
        Value::Present { head, body, .. } => Bytes::len(&head.bytes) + Bytes::len(body),
        Value::Deleted => 0,
    }
}
