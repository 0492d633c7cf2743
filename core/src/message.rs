//! What peers say to each other. The driver puts these on the wire; lost, repeated and reordered messages are expected.

use crate::collect::Upload;
use crate::flood::Step;
use crate::key::{Key, Name, Slot};
use crate::leave::Receipt;
use crate::member::{Member, PeerId};
use crate::outbox::Pending;
use crate::register::{Condition, Head, Register, Value, Version, WriteId};
use crate::slot::{Ballot, SlotConfig};
use crate::store::Entry;

/// A Merkle root over the entries of a slot.
pub type Root = [u8; 32];

/// Fingerprints of two tables that every peer keeps; peers whose fingerprints differ exchange the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// Of the members' records.
    pub members: u64,
    /// Of the slots' epochs.
    pub slots: u64,
}

/// A name in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The name.
    pub name: Name,
    /// Its version at the answering replica.
    pub version: Version,
    /// The value's head; `None` for a tombstone.
    pub head: Option<Head>,
}

/// What became of a write that was passed on to the slot's owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A quorum has stored it.
    Written {
        /// Under this ballot.
        version: Version,
        /// As this write.
        write: WriteId,
        /// In the place of a file.
        replaced: bool,
    },
    /// Nothing was written: the condition does not hold of this, which a quorum holds.
    Found(Option<Register>),
    /// Too many replicas have no room left; it may take effect all the same.
    Full,
    /// Whether it has taken effect cannot be told.
    Unknown,
    /// The peer is not in a position to do it (any more).
    Declined {
        /// The peer's incarnation, if it has not tried since it was started: whoever knew it under this one before
        /// passing the write on can be sure that nobody has. Otherwise it may have.
        untouched: Option<u64>,
    },
}

/// One message. Grouped by the module that handles it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    // membership
    /// A peer introduces itself (at start, to an address it was given).
    Hello {
        /// The sender.
        member: Member,
    },
    /// Answer to [`Message::Hello`], or the other half of an exchange of member tables.
    Members {
        /// All that the sender knows, itself included.
        members: Vec<Member>,
        /// The receiver should answer with its own table.
        reply: bool,
    },
    /// Are you there? (SWIM, section 3.1)
    Ping {
        /// Repeated in the answer.
        seq: u64,
        /// Whom it is meant for: addresses are used again, identities are not.
        target: PeerId,
        /// Recent changes of members.
        rumors: Vec<Member>,
        /// The sender's tables.
        digest: Digest,
    },
    /// Answer to [`Message::Ping`] or, relayed, to [`Message::PingReq`].
    Ack {
        /// From the ping.
        seq: u64,
        /// Recent changes of members.
        rumors: Vec<Member>,
        /// The sender's tables.
        digest: Digest,
    },
    /// Please ping `target` for me. (SWIM, section 3.1)
    PingReq {
        /// Repeated in the relayed answer.
        seq: u64,
        /// Whom to ping.
        target: PeerId,
    },

    // ring
    /// What are your predecessor and successors? (Chord: the read at the start of stabilise)
    RingQuery {
        /// Repeated in the answer.
        seq: u64,
    },
    /// Answer to [`Message::RingQuery`].
    RingState {
        /// From the query.
        seq: u64,
        /// The sender's predecessor.
        predecessor: Option<PeerId>,
        /// The sender's successors, nearest first.
        successors: Vec<PeerId>,
    },
    /// I believe I am your predecessor. (Chord: notify, starts rectify)
    RingNotify,

    // slot configurations
    /// Paxos phase 1a for the configuration after `base`.
    Prepare {
        /// Which slot.
        slot: Slot,
        /// The committed configuration whose replicas decide.
        base: SlotConfig,
        /// The proposer's ballot.
        ballot: Ballot,
    },
    /// Paxos phase 1b.
    Promise {
        /// Which slot.
        slot: Slot,
        /// Epoch of the base configuration.
        epoch: u64,
        /// The ballot promised.
        ballot: Ballot,
        /// What the acceptor accepted before.
        accepted: Option<(Ballot, SlotConfig)>,
    },
    /// Paxos phase 2a.
    Accept {
        /// Which slot.
        slot: Slot,
        /// The committed configuration whose replicas decide.
        base: SlotConfig,
        /// The proposer's ballot.
        ballot: Ballot,
        /// The configuration proposed, of epoch `base.epoch + 1`.
        config: SlotConfig,
    },
    /// Paxos phase 2b.
    Accepted {
        /// Which slot.
        slot: Slot,
        /// Epoch of the base configuration.
        epoch: u64,
        /// The ballot accepted.
        ballot: Ballot,
    },
    /// The acceptor has promised a greater ballot.
    Refuse {
        /// Which slot.
        slot: Slot,
        /// Epoch of the base configuration.
        epoch: u64,
        /// The ballot promised to another proposer.
        promised: Ballot,
    },
    /// These configurations are committed.
    Commit {
        /// By slot.
        configs: Vec<(Slot, SlotConfig)>,
    },
    /// The epochs of all slots as the sender knows them (0 for unknown); the receiver answers with what is newer.
    SlotEpochs {
        /// One per slot, in order.
        epochs: Vec<u64>,
    },

    // names
    /// What do you hold? With a ballot: and will you admit nothing lower? (Paxos phase 1a)
    Read {
        /// The coordinator's operation.
        op: u64,
        /// Epoch of the slot's configuration that the coordinator uses.
        epoch: u64,
        /// Which name.
        key: Key,
        /// To be promised; of a round of 1 or more.
        ballot: Option<Version>,
        /// Which upload of the name the reader, or the question for readers, is about.
        about: Option<Upload>,
        /// Somebody reads that upload, or without one what the name holds.
        hold: bool,
    },
    /// Answer to [`Message::Read`]; the ballot is promised. (Paxos phase 1b)
    ReadReply {
        /// From the request.
        op: u64,
        /// The register, when it exists.
        register: Option<Register>,
        /// The upload asked about has, or may have, a reader.
        read: bool,
    },
    /// Store this, unless a greater ballot was promised. (Paxos phase 2a)
    Write {
        /// The coordinator's operation.
        op: u64,
        /// Epoch of the slot's configuration that the coordinator uses.
        epoch: u64,
        /// What to store.
        register: Register,
        /// It is acknowledged or being read already, and only missing here: store it though the disk is nearly full.
        repair: bool,
    },
    /// Answer to [`Message::Write`]: it is durable here. (Paxos phase 2b)
    WriteReply {
        /// From the request.
        op: u64,
    },
    /// Answer to [`Message::Write`]: nothing was stored, the disk has no room for new files.
    NoRoom {
        /// From the request.
        op: u64,
    },
    /// Answer to a claim or write: a greater ballot was promised or admitted.
    Outbid {
        /// From the request.
        op: u64,
        /// The greater ballot.
        version: Version,
    },
    /// To the slot's owner: please carry this write out.
    Propose {
        /// The coordinator's operation.
        op: u64,
        /// Epoch under which the receiver owns the slot.
        epoch: u64,
        /// Names the write; a repetition is recognised by it.
        write: WriteId,
        /// Which name.
        name: Name,
        /// Its new value.
        value: Value,
        /// When it may take effect.
        condition: Condition,
    },
    /// Answer to [`Message::Propose`].
    Proposed {
        /// From the request.
        op: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Answer to a read or write under another epoch than the replica's.
    Stale {
        /// From the request.
        op: u64,
        /// Which slot.
        slot: Slot,
        /// The replica's configuration, if it knows one; newer or older than the coordinator's.
        config: Option<SlotConfig>,
    },
    /// Names held by the receiver.
    List {
        /// The coordinator's operation.
        op: u64,
        /// Only names that start so.
        prefix: String,
        /// Only names after this one.
        after: Option<Name>,
        /// At most so many.
        limit: u32,
        /// Fingerprint of the coordinator's table of epochs.
        table: u64,
    },
    /// Answer to [`Message::List`].
    ListReply {
        /// From the request.
        op: u64,
        /// In byte order of the name.
        items: Vec<Listed>,
        /// Nothing comes after the last item.
        done: bool,
        /// Fingerprint of the replica's table of epochs.
        table: u64,
        /// That table, one epoch for each slot, unless its fingerprint is the coordinator's.
        epochs: Vec<u64>,
    },

    // anti-entropy
    /// Compare our copies of these slots: slot, epoch, root.
    SyncRequest {
        /// Each with the sender's epoch and root.
        items: Vec<(Slot, u64, Root)>,
    },
    /// Answer to one item of [`Message::SyncRequest`].
    SyncReply {
        /// Which slot.
        slot: Slot,
        /// The answering peer's epoch.
        epoch: u64,
        /// Its root.
        root: Root,
        /// Its entries in the order of their keys; `None` when the roots are equal.
        entries: Option<Vec<Entry>>,
        /// They are those after this one, in the order of their keys.
        after: Option<Entry>,
        /// There are more of them, to be asked for with [`Message::SyncMore`].
        more: bool,
    },
    /// List your entries after this one too.
    SyncMore {
        /// Which slot.
        slot: Slot,
        /// The sender's epoch.
        epoch: u64,
        /// The last entry listed.
        after: Entry,
    },
    /// Send me these registers.
    FetchNames {
        /// Which slot.
        slot: Slot,
        /// Which names.
        keys: Vec<Key>,
    },
    /// Registers for the receiver to store unless it has newer ones.
    Names {
        /// Which slot.
        slot: Slot,
        /// In the order asked; those that do not exist are left out.
        registers: Vec<Register>,
        /// The sender's marks of these names.
        marks: Vec<(Key, Pending)>,
    },
    /// The sender holds all that the slot's other replicas hold, under this epoch.
    CaughtUp {
        /// Slots and epochs.
        slots: Vec<(Slot, u64)>,
    },
    /// The receiver may have missed a write to these slots.
    SyncHint {
        /// Which slots.
        slots: Vec<Slot>,
    },

    // outbox
    /// From the slot's owner: the effects of these writes are done for these consumers.
    Settled {
        /// At most one a name.
        marks: Vec<(Key, Pending)>,
    },
    /// To the slot's owner: are these effects done?
    Unsettled {
        /// The sender's marks.
        marks: Vec<(Key, Pending)>,
    },

    // collection
    /// The files that these names held were replaced or deleted: chunks may have lost their last reference.
    Released {
        /// Which names.
        names: Vec<Name>,
    },

    // handover
    /// The sender froze its copy of a slot; prove that you hold all of it.
    Prove {
        /// Which slot.
        slot: Slot,
        /// Epoch of the first configuration without the sender.
        epoch: u64,
        /// Root of the frozen copy.
        root: Root,
        /// Drain epoch of the sender; 0 when it was displaced by a join.
        drain_epoch: u64,
    },
    /// The proof; see [`Receipt`].
    Proved {
        /// By the sender.
        receipt: Receipt,
    },

    // shared files
    /// A step of an unstructured search, or about who has what; see [`crate::flood`].
    Flood {
        /// Which.
        step: Step,
    },
}

impl Message {
    /// Whether it only asks or proposes: it says nothing of what its sender remembers, so that it is true even if the sender
    /// forgets it. A proposer of Paxos owes nobody a memory, only an acceptor does.
    pub(crate) fn asks(&self) -> bool {
        matches!(
            self,
            Message::Read { .. } | Message::Write { .. } | Message::Propose { .. }
        )
    }
}
