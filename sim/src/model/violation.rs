//! What a run can be guilty of.

use std::fmt;

use peernet_core::key::{Key, Name, Slot};
use peernet_core::member::PeerId;

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
    /// No order of the operations explains the conditional writes among them.
    NoOrder {
        /// Where.
        name: Name,
    },
    /// A conditional write was refused though its condition held of what it was shown.
    WronglyRefused {
        /// Where.
        name: Name,
        /// What it was shown.
        seen: Seen,
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
    /// A peer let go of its copy of a slot though a replica did not hold all of it.
    ReleasedEarly {
        /// Which slot.
        slot: Slot,
        /// Who did not.
        replica: PeerId,
    },
    /// The volume of an identity that nobody retired, and that slots name, was deleted.
    WrongVolume {
        /// Whose.
        peer: PeerId,
    },
    /// An identity runs though its volume was deleted.
    Returned {
        /// Which.
        peer: PeerId,
    },
    /// Two peers know different configurations of the same slot and epoch.
    Disagreement {
        /// Which slot.
        slot: Slot,
        /// Which epoch.
        epoch: u64,
    },
    /// A listing shows a name that was deleted, or does not show one that existed, and nobody wrote it meanwhile.
    Listed {
        /// Which name.
        name: Name,
        /// It is there.
        exists: bool,
    },
    /// The effects of an acknowledged write were never performed.
    EffectLost {
        /// Where.
        name: Name,
    },
    /// Effects of a name's writes were performed in another order than the writes.
    EffectsDisordered {
        /// Where.
        name: Name,
    },
    /// Nobody answered for too long.
    Unavailable {
        /// Where.
        name: Name,
        /// The last error.
        reason: String,
    },
}

/// What a violation means to whoever stored something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Something acknowledged is gone.
    Lost,
    /// Something deleted is back.
    Resurrected,
    /// Another promise is broken.
    Broken,
    /// It does not come to rest.
    Stuck,
}

impl Violation {
    /// See [`Kind`].
    pub fn kind(&self) -> Kind {
        match self {
            Violation::Unreadable { .. }
            | Violation::LeftBehind { .. }
            | Violation::ReleasedEarly { .. }
            | Violation::WrongVolume { .. }
            | Violation::EffectLost { .. }
            | Violation::Listed { exists: true, .. } => Kind::Lost,
            Violation::Listed { exists: false, .. } => Kind::Resurrected,
            Violation::NotLinearizable { values, .. } => match values {
                (Seen::Nothing, _) | (_, Seen::Nothing) => Kind::Lost,
                (Seen::Tombstone(_), Seen::File(_)) | (Seen::File(_), Seen::Tombstone(_)) => {
                    Kind::Resurrected
                }
                _ => Kind::Broken,
            },
            Violation::Invented { .. }
            | Violation::FromTheFuture { .. }
            | Violation::NoOrder { .. }
            | Violation::WronglyRefused { .. }
            | Violation::EffectsDisordered { .. }
            | Violation::Returned { .. }
            | Violation::Disagreement { .. } => Kind::Broken,
            Violation::Unavailable { .. } => Kind::Stuck,
        }
    }
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
            Violation::NoOrder { name } => {
                write!(f, "{name}: no order explains its conditional writes")
            }
            Violation::WronglyRefused { name, seen } => {
                write!(
                    f,
                    "{name}: a write was refused whose condition held of {seen:?}"
                )
            }
            Violation::Unreadable { name, key } => write!(f, "{name}: chunk {key} is lost"),
            Violation::EffectLost { name } => {
                write!(
                    f,
                    "{name}: the effects of an acknowledged write never happened"
                )
            }
            Violation::EffectsDisordered { name } => {
                write!(
                    f,
                    "{name}: effects happened in another order than the writes"
                )
            }
            Violation::LeftBehind { name, key, copies } => {
                write!(
                    f,
                    "{name}: a leaver was taken away while only {copies} of the others held {key}"
                )
            }
            Violation::ReleasedEarly { slot, replica } => write!(
                f,
                "slot {slot}: a copy was let go that {replica} does not wholly hold"
            ),
            Violation::WrongVolume { peer } => {
                write!(
                    f,
                    "the volume of {peer:?} was deleted, which nobody retired"
                )
            }
            Violation::Returned { peer } => {
                write!(f, "{peer:?} runs, whose volume was deleted")
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
