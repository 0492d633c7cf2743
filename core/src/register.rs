//! Names: linearizable registers with compare-and-set, decided by the replicas of the name's slot.
//!
//! The algorithm is CASPaxos (Rystsov, "CASPaxos: Replicated State Machines without Logs", 2018, section 2.2): each
//! register is a single-decree Paxos whose decided value the next decree changes, so there is neither a log nor a fixed
//! leader. A change *claims* a ballot at a quorum, which promises to admit nothing lower and tells what it has admitted;
//! the proposer applies the change to the greatest of that, and *stores* the outcome at a quorum.
//!
//! Two things make the normal case one round and one sync:
//!
//! - **The owner's ballots need no claim.** The first replica of a slot's configuration owns it. Under an epoch it has
//!   learned since it started, once it has compared its copy with a quorum of that epoch (which refuses whatever
//!   belongs to an earlier one), it knows all that lower ballots can have decided: the comparison *is* phase one of
//!   round 0, for every name of the slot. It goes on from its own copy, which has all that it proposed, durable or not:
//!   whoever forgets a proposal has restarted, and then claims until the next epoch, like everybody else. Each of its
//!   ballots is greater than its last, and it proposes the next only when the last is decided (the paper's "one round
//!   trip" optimisation, section 2.2.1, by way of the slot). Its proposal may reach the others before it is durable here,
//!   as a proposer owes nobody a memory; its own copy counts once it is.
//! - **A read needs one round and no sync** when a quorum agrees; a bare majority with the owner in it is asked first, the
//!   others when that is slow or disagrees. One version held by a quorum was decided. If it belongs
//!   to an earlier epoch, the owner must be among those that agree: else a value that was proposed but never decided
//!   could be passed from copy to copy behind the back of an owner that has already compared, and be seen before the
//!   owner overwrites it on a condition that does not know it.
//!
//! Everybody else claims a round of 1 or more, which ends the owner's privilege for that name and epoch: its next ballot
//! is outbid, and it claims like all others. A promise is void when the slot's epoch changes, for then every proposal
//! under the old epoch is refused and starts over with a claim (Vertical Paxos, Lamport, Malkhi and Zhou, 2009).
//!
//! [`Acceptor`] holds the rules of a replica, [`decide`] those of a proposer; messages and timers are in
//! [`crate::peer`].

use bytes::Bytes;

use crate::collect::Upload;
use crate::key::Name;
use crate::member::PeerId;
use crate::outbox::Trail;

mod decide;

pub use decide::{Base, Step, after_claim, after_read, is_decided};

/// Largest value of a register, in bytes.
pub const REGISTER_MAX: usize = 64 * 1024;

/// Largest `head` of a value, in bytes: room for the longest name and a content type.
pub const HEAD_MAX: usize = 2 * 1024;

/// A ballot, and the version of what was admitted under it. No clock is involved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// Epoch of the slot's configuration under which it was proposed.
    pub epoch: u64,
    /// 0 for the owner's own, from 1 for those that were claimed.
    pub round: u64,
    /// The proposing peer.
    pub writer: PeerId,
    /// The proposer's incarnation (upper 32 bits) and operation number (lower 32 bits): makes ballots of one peer unique
    /// even across its crashes.
    pub op: u64,
}

impl Version {
    /// Not greater than any ballot of that epoch.
    pub fn least_of(epoch: u64) -> Self {
        Version {
            epoch,
            round: 0,
            writer: PeerId(0),
            op: 0,
        }
    }
}

/// Names one write for ever: a value that is proposed again under another ballot keeps it, so that a client's condition
/// on it holds as long as nobody else wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId {
    /// The peer that the client asked.
    pub peer: PeerId,
    /// That peer's incarnation and operation number, as in [`Version::op`].
    pub op: u64,
}

/// What listings show of a file.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Head {
    /// Opaque to the core; at most [`HEAD_MAX`].
    pub bytes: Bytes,
    /// Nothing may take the file's place until it is unpinned; see [`Value::may_follow`].
    pub pinned: bool,
}

impl From<Bytes> for Head {
    fn from(bytes: Bytes) -> Self {
        let pinned = false;
        Head { bytes, pinned }
    }
}

/// What a name holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Value {
    /// A file, opaque to the core; at most [`REGISTER_MAX`] bytes together.
    Present {
        /// What a listing shows of it.
        head: Head,
        /// The bytes of a small file, or the root of a manifest.
        body: Bytes,
        /// The upload whose references keep the chunks that the body names; `None` when it names none.
        upload: Option<Upload>,
    },
    /// The name was deleted (a tombstone).
    Deleted,
}

impl Value {
    /// Whether there is a file, and it is pinned.
    pub fn is_pinned(&self) -> bool {
        matches!(self, Value::Present { head, .. } if head.pinned)
    }

    /// The same file pinned, or not; `None` when there is no file.
    pub fn with_pin(&self, pinned: bool) -> Option<Value> {
        let mut value = self.clone();
        match &mut value {
            Value::Present { head, .. } => head.pinned = pinned,
            Value::Deleted => return None,
        }
        Some(value)
    }

    /// Whether this may take the place of `current`: that of a pinned file is taken by the same file only, pinned or not.
    /// Part of every write's condition, so it is judged of what the write would in fact replace, whatever its author knew.
    pub fn may_follow(&self, current: Option<&Register>) -> bool {
        let pinned = current.filter(|r| r.value.is_pinned());
        pinned.is_none_or(|r| self.with_pin(true).as_ref() == Some(&r.value))
    }
}

/// A name's register as one replica stores it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Register {
    /// The name itself, so that listing needs no second index.
    pub name: Name,
    /// The ballot under which this was admitted.
    pub version: Version,
    /// Who wrote the value.
    pub write: WriteId,
    /// See [`Value`].
    pub value: Value,
    /// What came before, as far as its effects may be undone.
    pub trail: Box<Trail>,
}

impl Register {
    /// Whether there is a file.
    pub fn is_present(&self) -> bool {
        matches!(self.value, Value::Present { .. })
    }
}

/// When a write may take effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// The name holds no file: never written, or deleted.
    Absent,
    /// The value is still the one of that write.
    Unchanged(WriteId),
    /// The name was never written, or its tombstone is forgotten.
    Unwritten,
}

impl Condition {
    /// That the name's last write is still this one.
    pub fn still(write: Option<WriteId>) -> Self {
        write.map_or(Condition::Unwritten, Condition::Unchanged)
    }
}

impl Condition {
    /// Whether it holds of what a name holds now.
    pub fn admits(self, current: Option<&Register>) -> bool {
        match self {
            Condition::Always => true,
            Condition::Absent => !current.is_some_and(Register::is_present),
            Condition::Unchanged(write) => current.is_some_and(|r| r.write == write),
            Condition::Unwritten => current.is_none(),
        }
    }
}

/// A name at one replica: what it has promised and admitted. The rules of a Paxos acceptor ("Paxos Made Simple",
/// section 2.2), with promises that end with the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Acceptor {
    /// Epoch of the slot's configuration here. Whoever proposes under another one is refused before it comes to this.
    pub epoch: u64,
    /// The greatest ballot promised, under whatever epoch.
    pub promised: Option<Version>,
    /// Version of what is stored.
    pub admitted: Option<Version>,
}

impl Acceptor {
    /// No ballot below this is admitted.
    pub fn floor(self) -> Option<Version> {
        self.promised
            .filter(|p| p.epoch == self.epoch)
            .max(self.admitted)
    }

    /// Phase one: may this ballot be promised (again)? If not, what outbids it.
    pub fn claim(self, ballot: Version) -> Result<(), Version> {
        match self.floor() {
            Some(floor) if floor > ballot => Err(floor),
            _ => Ok(()),
        }
    }

    /// Phase two, and every copy of what another replica has admitted: may it be stored? If not, what outbids it.
    pub fn admit(self, version: Version) -> Result<(), Version> {
        match self.floor() {
            Some(floor) if floor > version => Err(floor),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(epoch: u64, round: u64) -> Version {
        Version {
            epoch,
            round,
            writer: PeerId(1),
            op: 1,
        }
    }

    #[test]
    fn that_a_write_is_still_the_last_one_is_said_of_names_never_written_too() {
        assert_eq!(Condition::still(None), Condition::Unwritten);
        let write = WriteId {
            peer: PeerId(1),
            op: 7,
        };
        assert_eq!(Condition::still(Some(write)), Condition::Unchanged(write));
    }

    #[test]
    fn a_promise_keeps_lower_ballots_out_until_the_epoch_ends() {
        let mut acceptor = Acceptor {
            epoch: 5,
            promised: Some(version(5, 1)),
            admitted: Some(version(4, 9)),
        };
        assert_eq!(acceptor.claim(version(5, 0)), Err(version(5, 1)));
        assert_eq!(acceptor.claim(version(5, 2)), Ok(()));
        assert_eq!(acceptor.admit(version(5, 0)), Err(version(5, 1)));
        assert_eq!(acceptor.admit(version(5, 1)), Ok(()));
        acceptor.epoch = 6;
        assert_eq!(acceptor.admit(version(5, 0)), Ok(()));
        assert_eq!(acceptor.admit(version(4, 8)), Err(version(4, 9)));
    }

    #[test]
    fn a_pinned_file_gives_way_to_itself_only() {
        let file = |body: &'static [u8]| Value::Present {
            head: Bytes::from_static(b"head").into(),
            body: Bytes::from_static(body),
            upload: None,
        };
        let holds = |value| Register {
            name: Name::new("f").unwrap(),
            version: version(1, 0),
            write: WriteId {
                peer: PeerId(1),
                op: 7,
            },
            value,
            trail: Box::default(),
        };
        let (free, pinned) = (file(b"a"), file(b"a").with_pin(true).unwrap());
        assert!(pinned.is_pinned() && !free.is_pinned() && Value::Deleted.with_pin(true).is_none());
        assert_eq!(pinned.with_pin(false).as_ref(), Some(&free));
        let held = holds(pinned.clone());
        assert!(free.may_follow(Some(&held)) && pinned.may_follow(Some(&held)));
        assert!(!Value::Deleted.may_follow(Some(&held)) && !file(b"b").may_follow(Some(&held)));
        let held = holds(free);
        assert!(Value::Deleted.may_follow(Some(&held)) && file(b"b").may_follow(Some(&held)));
        assert!(Value::Deleted.may_follow(None));
    }

    #[test]
    fn a_tombstone_counts_as_absent_but_not_as_unchanged() {
        let write = |op| WriteId {
            peer: PeerId(1),
            op,
        };
        let gone = Register {
            name: Name::new("f").unwrap(),
            version: version(1, 0),
            write: write(7),
            value: Value::Deleted,
            trail: Box::default(),
        };
        assert!(Condition::Absent.admits(None));
        assert!(Condition::Absent.admits(Some(&gone)));
        assert!(Condition::Unchanged(write(7)).admits(Some(&gone)));
        assert!(!Condition::Unchanged(write(6)).admits(Some(&gone)));
        assert!(!Condition::Unchanged(write(6)).admits(None));
    }
}
