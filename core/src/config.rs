//! Every number a peer's decisions depend on, with its unit and where it comes from.

use crate::outbox::Consumers;

/// How a network replicates; the same for all its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replication {
    /// Copies of everything, R. Dynamo's (section 4.5) and this project's default: 3.
    pub factor: u32,
    /// Copies of a chunk that are durable before a write is acknowledged, W. Default 2: any one peer may fail at once.
    pub write: u32,
}

impl Replication {
    /// See the fields.
    pub const DEFAULT: Replication = Replication {
        factor: 3,
        write: 2,
    };
}

impl Default for Replication {
    fn default() -> Self {
        Replication::DEFAULT
    }
}

/// Reads the labels in the head of a file, such as `tag:holiday` or `type:image/png`: for the core a head is only bytes.
#[derive(Clone, Copy, Debug)]
pub struct Labels(pub fn(&[u8]) -> Vec<String>);

impl Labels {
    /// Of that head.
    pub fn of(self, head: &[u8]) -> Vec<String> {
        (self.0)(head)
    }
}

impl Default for Labels {
    /// None.
    fn default() -> Self {
        Labels(|_| Vec::new())
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Labels {}

/// Settings of one peer. All times in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// See [`Replication`].
    pub replication: Replication,
    /// How long a peer may be down before its copies are rebuilt elsewhere. Guess: longer than a pod's restart, shorter
    /// than a second failure is likely (60 s).
    pub grace: u64,
    /// SWIM's protocol period: one ping each. Guess: 300 ms keeps detection under two seconds.
    pub ping_period: u64,
    /// How long to wait for a direct answer before asking others to ping (SWIM, section 3.1: the round trip's bound).
    pub ping_timeout: u64,
    /// Members asked to ping in our place; SWIM's k (section 3.1). 3 makes a false alarm need four lost paths.
    pub ping_helpers: usize,
    /// How long a suspect may refute before it counts as down (SWIM, section 4.2; guess).
    pub suspicion: u64,
    /// How often Chord's stabilise runs. Guess: a few ping periods.
    pub stabilise_period: u64,
    /// The members' table must not have changed for so long before slots are moved. Guess: a few ping periods, so that
    /// peers that start together are seen together.
    pub settle: u64,
    /// How often proposals and synchronisations are looked at, besides when something happens. Guess: a few disk syncs.
    pub drive_period: u64,
    /// Slot configurations one peer drives at once. Bounds memory and messages in flight (guess).
    pub moves: usize,
    /// How long a proposal or a synchronisation may go without progress before it is tried again.
    pub retry: u64,
    /// Chunks one peer fetches at once for synchronisation; times 1 MiB is memory (guess).
    pub fetches: usize,
    /// How often every slot is compared with its other replicas though nothing happened.
    pub anti_entropy: u64,
    /// How long a client's read or write of a name may take.
    pub operation: u64,
    /// Client operations on names under way at once; more are refused as busy.
    pub operations: usize,
    /// Who performs effects of writes ([`crate::outbox`]); the same at all peers, as each marks what it stores.
    pub effects: Consumers,
    /// What the heads of files say of them; the same at all peers.
    pub labels: Labels,
    /// How long to wait before all names that chunks here are referred to from are looked at again. Only what was not
    /// heard of waits for it. Guess: as often as slots are compared.
    pub collect: u64,
    /// Names looked at each second for chunks that nothing refers to, and at once. Each costs a message to and from
    /// each of the name's replicas. Guess: so many are unnoticed, and tens of thousands are looked at within minutes.
    /// 0: nothing is ever collected.
    pub checks: usize,
    /// Uploads remembered as over, so that their references are not taken over again from a replica that has not found out
    /// yet. 40 bytes each; and eight times as many as names are looked at out of turn. Guess: what is found in eight minutes,
    /// which is longer than whoever was told needs to look.
    pub remembered: usize,
    /// How long an upload may go on without storing a chunk at a peer before that peer ends it, if it is not finished by
    /// then. Guess: longer than any client stands still; a broken-off upload's bytes wait for so long.
    pub pin: u64,
    /// How long chunks are kept for a reader that was not heard of again. Guess: some renewals (see the node), and short
    /// enough that the space of a deleted file is back within a minute.
    pub hold: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            replication: Replication::default(),
            grace: 60_000,
            ping_period: 300,
            ping_timeout: 300,
            ping_helpers: 3,
            suspicion: 2_000,
            stabilise_period: 1_000,
            settle: 1_500,
            drive_period: 100,
            moves: 256,
            retry: 3_000,
            fetches: 16,
            anti_entropy: 60_000,
            operation: 10_000,
            operations: 4_096,
            effects: Consumers::NONE,
            labels: Labels::default(),
            collect: 60_000,
            checks: 256,
            remembered: 131_072,
            pin: 3_600_000,
            hold: 30_000,
        }
    }
}

/// Length of a Chord successor list. Zave's corrected protocol tolerates fewer failures between stabilisations than
/// this; larger than the default replication factor.
pub const SUCCESSORS: usize = 4;
/// Members of a network, those that are gone but not forgotten included; whoever asks to be let in beyond that gets no answer.
/// The table is sent whole where two differ, with some 300 bytes for each, and a message holds 16 MiB.
pub const MEMBERS: usize = 10_000;
/// Rumours in one ping. SWIM (section 4.1) bounds the message to a datagram; a frame has more room.
pub const RUMORS: usize = 32;
/// A change is passed on so many times per log2 of the members (SWIM's lambda, section 4.1; 3 as in its evaluation).
pub const RUMOR_FACTOR: u32 = 3;
/// Slots compared in one message.
pub const SYNC_BATCH: usize = 512;
/// Entries of a slot listed in one message: at most 90 bytes each on the wire, names of references aside, so well below
/// the transport's limit.
pub const ENTRIES: usize = 16_384;
/// Bytes of references in one listing, about.
pub const REFERENCES_BYTES: usize = 1024 * 1024;
/// Bytes of registers in one message; the transport's limit is 16 MiB.
pub const NAMES_BYTES: usize = 1024 * 1024;
