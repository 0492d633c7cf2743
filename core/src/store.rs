//! What a peer remembers: the trait that the disk store and its in-memory twin implement.
//!
//! Calls are synchronous and cheap; writes are buffered until [`Store::commit`], reads see buffered writes. The driver
//! commits once for a batch of inputs and only then performs the batch's outputs, so nothing is said that is not
//! durable. An error is final: the driver stops the peer, because a sync that failed once must never be retried as a
//! success.

use thiserror::Error;

use crate::collect::Referrer;
use crate::key::{Key, Name, Slot};
use crate::leave::Receipt;
use crate::member::{Member, PeerId};
use crate::outbox::{Consumer, Pending};
use crate::register::{Register, Version};
use crate::slot::SlotRecord;

pub mod memory;

/// The volume cannot be read or written any more.
#[derive(Debug, Error)]
#[error("the volume failed while {action}: {reason}")]
pub struct StoreError {
    /// What was tried, such as "committing".
    pub action: &'static str,
    /// What the volume said.
    pub reason: String,
}

/// Who this peer is, as its volume remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// UUID of the network.
    pub network: String,
    /// This peer, as it last described itself.
    pub member: Member,
}

/// Everything but registers, chunks and receipts; read once at start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remembered {
    /// Other members, in any order.
    pub members: Vec<Member>,
    /// Known slots.
    pub slots: Vec<(Slot, SlotRecord)>,
}

/// One stored thing of a slot, as compared between replicas.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Entry {
    /// A chunk; its bytes are fixed by the key.
    Chunk {
        /// Hash of the bytes.
        key: Key,
        /// Length in bytes.
        len: u32,
    },
    /// A reference to a chunk, which keeps it. The chunk itself may be missing for a while.
    Reference {
        /// Hash of the chunk's bytes.
        key: Key,
        /// The chunk's length in bytes.
        len: u32,
        /// Whose reference it is.
        by: Referrer,
    },
    /// A name at a version.
    Name {
        /// Hash of the name.
        key: Key,
        /// See [`Version`].
        version: Version,
    },
}

impl Entry {
    /// Of the chunk or the name.
    pub fn key(&self) -> Key {
        match self {
            Entry::Chunk { key, .. } | Entry::Reference { key, .. } | Entry::Name { key, .. } => {
                *key
            }
        }
    }
}

/// A peer's durable memory. See the module's documentation for the contract.
pub trait Store {
    /// Who this volume says we are; `None` for an empty volume.
    fn identity(&self) -> Result<Option<Identity>, StoreError>;
    /// Remembers who we are.
    fn put_identity(&mut self, identity: &Identity) -> Result<(), StoreError>;
    /// Members and slots.
    fn remembered(&self) -> Result<Remembered, StoreError>;
    /// Remembers a member, replacing what was known of that id.
    fn put_member(&mut self, member: &Member) -> Result<(), StoreError>;
    /// Forgets a member, and the receipts given to it.
    fn remove_member(&mut self, id: PeerId) -> Result<(), StoreError>;
    /// Remembers a slot.
    fn put_slot(&mut self, slot: Slot, record: &SlotRecord) -> Result<(), StoreError>;

    /// A name's register.
    fn register(&self, key: &Key) -> Result<Option<Register>, StoreError>;
    /// Stores a register, replacing the one of that name, and forgets a promise that is not above its version.
    fn put_register(&mut self, register: &Register) -> Result<(), StoreError>;
    /// The greatest ballot promised for a name.
    fn promise(&self, key: &Key) -> Result<Option<Version>, StoreError>;
    /// Remembers a promise, replacing the one before.
    fn put_promise(&mut self, key: &Key, ballot: &Version) -> Result<(), StoreError>;
    /// The mark of a name; see [`crate::outbox`].
    fn mark(&self, key: &Key) -> Result<Option<Pending>, StoreError>;
    /// Remembers a name's mark in the place of the one before, or forgets it.
    fn put_mark(&mut self, key: &Key, mark: Option<&Pending>) -> Result<(), StoreError>;
    /// Up to `limit` marks of a slot that name this consumer (or any), in order of their keys, after that key.
    fn marks(
        &self,
        slot: Slot,
        consumer: Option<Consumer>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Pending)>, StoreError>;
    /// Up to `limit` registers (tombstones included) whose name starts with `prefix` and comes after `after`, in byte
    /// order of the name. Internal names are never listed.
    fn names(
        &self,
        prefix: &str,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Register>, StoreError>;

    /// Length of a chunk held here.
    fn chunk(&self, key: &Key) -> Result<Option<u32>, StoreError>;
    /// Remembers that a chunk's bytes are durable here.
    fn put_chunk(&mut self, key: &Key, len: u32) -> Result<(), StoreError>;
    /// Forgets a chunk (its bytes were found bad, or nothing refers to it); its references stay.
    fn remove_chunk(&mut self, key: &Key) -> Result<(), StoreError>;

    /// Remembers that a chunk of that length is referred to.
    fn put_reference(&mut self, key: &Key, len: u32, by: &Referrer) -> Result<(), StoreError>;
    /// Forgets a reference.
    fn remove_reference(&mut self, key: &Key, by: &Referrer) -> Result<(), StoreError>;
    /// Up to `limit` of those that refer to a chunk.
    fn referrers(&self, key: &Key, limit: usize) -> Result<Vec<Referrer>, StoreError>;
    /// The referrer that follows `after` in the order of the name's hash, the upload and the base.
    fn next_referrer(&self, after: Option<&Referrer>) -> Result<Option<Referrer>, StoreError>;
    /// Up to `limit` chunks that this refers to, with greater keys than `after`.
    fn referred(
        &self,
        by: &Referrer,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError>;

    /// All entries of a slot in ascending order of [`Entry`].
    fn entries(&self, slot: Slot) -> Result<Vec<Entry>, StoreError>;
    /// Forgets every register, promise, mark, chunk and reference of a slot; returns the keys of the chunks whose bytes may now be dropped.
    fn clear_slot(&mut self, slot: Slot) -> Result<Vec<Key>, StoreError>;
    /// Number of chunks held and their bytes.
    fn usage(&self) -> Result<(u64, u64), StoreError>;

    /// Keeps a receipt this peer issued; replaces one for the same leaver and slot.
    fn put_receipt(&mut self, receipt: &Receipt) -> Result<(), StoreError>;
    /// Receipts this peer issued for a leaver, in slot order.
    fn receipts(&self, leaver: PeerId) -> Result<Vec<Receipt>, StoreError>;

    /// Forgets everything: identity, members, slots, registers, promises, marks, chunk entries, references, receipts. The chunks' bytes stay where
    /// they are and may serve as a cache.
    fn reset(&mut self) -> Result<(), StoreError>;
    /// Makes all buffered writes durable, all or nothing.
    fn commit(&mut self) -> Result<(), StoreError>;
}
