//! What a run can be guilty of.

use std::fmt;

use peernet_core::key::{Key, Name, Slot};

use super::Seen;

/// What must not happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A read saw a value that nobody wrote.
    Invented {
        /// Where.
        name: Name,
        /// What.
        seen: Seen,
    },
    /// A read ended before the write of what it saw began.
    FromTheFuture {
        /// Where.
        name: Name,
        /// What.
        seen: Seen,
    },
    /// There is no order of the operations that explains the reads: an acknowledged write was lost, or a read went back.
    NotLinearizable {
        /// Where.
        name: Name,
        /// The two values that exclude each other.
        values: (Seen, Seen),
    },
    /// A chunk of a file that was acknowledged cannot be read.
    Unreadable {
        /// Which file.
        name: Name,
        /// Which chunk.
        key: Key,
    },
    /// When a leaver was taken away, too few of the others held something of this file.
    LeftBehind {
        /// Which file.
        name: Name,
        /// The chunk, or the name's own key.
        key: Key,
        /// How many did.
        copies: usize,
    },
    /// Two peers know different configurations of the same slot and epoch.
    Disagreement {
        /// Which slot.
        slot: Slot,
        /// Which epoch.
        epoch: u64,
    },
    /// A listing of a network at rest shows a deleted name, or does not show an existing one.
    Listed {
        /// Which name.
        name: Name,
        /// It is there.
        exists: bool,
    },
    /// Nobody answered for too long.
    Unavailable {
        /// Where.
        name: Name,
        /// The last error.
        reason: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Invented { name, seen } => write!(f, "{name}: nobody ever wrote {seen:?}"),
            Violation::FromTheFuture { name, seen } => {
                write!(f, "{name}: {seen:?} was read before it was written")
            }
            Violation::NotLinearizable {
                name,
                values: (a, b),
            } => {
                write!(
                    f,
                    "{name}: {a:?} and {b:?} cannot both have been read or acknowledged as they were"
                )
            }
            Violation::Unreadable { name, key } => write!(f, "{name}: chunk {key} is lost"),
            Violation::LeftBehind { name, key, copies } => {
                write!(
                    f,
                    "{name}: a leaver was taken away while only {copies} of the others held {key}"
                )
            }
            Violation::Disagreement { slot, epoch } => {
                write!(f, "slot {slot} has two configurations of epoch {epoch}")
            }
            Violation::Listed { name, exists: true } => {
                write!(f, "{name}: exists but is not listed")
            }
            Violation::Listed {
                name,
                exists: false,
            } => write!(f, "{name}: is listed but does not exist"),
            Violation::Unavailable { name, reason } => {
                write!(f, "{name}: nobody answers: {reason}")
            }
        }
    }
}
