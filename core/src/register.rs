//! Names: multi-writer registers with logical versions, decided by a majority of the slot's replicas.
//!
//! The algorithm is the atomic register of Attiya, Bar-Noy and Dolev ("Sharing Memory Robustly in Message-Passing
//! Systems", section 5, with the multi-writer extension of Lynch and Shvartsman): a write first asks a majority for
//! the greatest version and then stores a greater one at a majority; a read asks a majority and, where the answers
//! differ, writes the greatest back before it answers.

use bytes::Bytes;

use crate::key::Name;
use crate::member::PeerId;

/// Largest value of a register, in bytes.
pub const REGISTER_MAX: usize = 64 * 1024;

/// Largest `head` of a value, in bytes: room for the longest name and a content type.
pub const HEAD_MAX: usize = 2 * 1024;

/// A logical version. No clock is involved; `op` makes versions of one writer unique even across its crashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// One more than the greatest counter the writer saw at a majority.
    pub counter: u64,
    /// The coordinating peer.
    pub writer: PeerId,
    /// The writer's incarnation (upper 32 bits) and its operation number (lower 32 bits).
    pub op: u64,
}

/// What a name holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A file, opaque to the core; at most [`REGISTER_MAX`] bytes together.
    Present {
        /// What a listing shows of it; at most [`HEAD_MAX`] bytes.
        head: Bytes,
        /// The bytes of a small file, or the root of a manifest.
        body: Bytes,
    },
    /// The name was deleted (a tombstone).
    Deleted,
}

/// A name's register as one replica stores it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    /// The name itself, so that listing needs no second index.
    pub name: Name,
    /// See [`Version`].
    pub version: Version,
    /// See [`Value`].
    pub value: Value,
}
