//! Collecting chunks that no file refers to any more: when may a reference go, and with the last one the chunk?
//!
//! **References.** Whoever uploads a file gives the upload a number of its own and stores each chunk *with* a reference:
//! "the upload `u` of the name `n`, which replaces the write `b`". A replica keeps chunk and reference in one step, so
//! there is no moment between finding a chunk that is there already and pinning it, and an acknowledgement counts both.
//! References are entries of the chunk's slot like the chunk itself: they are compared, moved and receipted with it.
//!
//! **Commit.** The name is then written with the upload's number in its value, on the condition that its last write is
//! still `b`. So an upload has one place in the history of its name where it may ever take effect: right after `b`.
//!
//! **Collection.** Each replica looks after its own references, one name after another: it reads the name at a majority,
//! and [`judge`] says what follows. If the name holds the upload, the chunk is live. If it still holds `b`, the upload
//! may be on its way: the reference is a pin. If it holds anything else, the upload was replaced or can never take
//! effect, now or later, and the reference goes; with its last reference a chunk goes. A pin that is too old is ended by
//! a *fence*: the name is written anew with the value it has. From then on the upload fails its condition, and its writer
//! is told to send the file again.
//!
//! **Why no live chunk goes.** A file is live when the newest write of its name is its upload. Its references were
//! acknowledged by W replicas of each chunk before that write, and none of them drops its reference before it has read,
//! as decided, a write that came later. Clocks only say when to ask and when to fence; a wrong one costs an upload, not a
//! chunk. Nothing here needs to know who else holds the chunk, so it does not matter who is away, or moving.
//!
//! **Readers** hold an upload while they read it: a replica of the name remembers so for some seconds, and says so to
//! whoever asks about that upload. A name counts as replaced only when a majority agrees on what it holds *and* none of
//! those has a reader for the upload; the reader's own majority has one replica in common with it. A replica that may
//! have forgotten its readers, or was not yet one of the name's, says that there are some until theirs would have ended.

use crate::key::Name;
use crate::register::{Register, Value, WriteId};

/// Number of an upload; random, never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Upload(pub u128);

/// What refers to a chunk: an upload of a name, in the place of one write.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Referrer {
    /// The file's name.
    pub name: Name,
    /// Which upload of it.
    pub upload: Upload,
    /// The write it replaces; `None` when the name was never written.
    pub base: Option<WriteId>,
}

/// What becomes of a reference.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The name holds this very upload.
    Live,
    /// The upload may still take effect.
    Pinned,
    /// It is over, but somebody may be reading.
    Read,
    /// It is over: the reference may go, for good.
    Dead,
}

/// A majority of the name's replicas agree on holding `found`; `read`: one of those has, or may have, a reader for the
/// upload.
pub fn judge(by: &Referrer, found: Option<&Register>, read: bool) -> Verdict {
    let holds = found.and_then(|r| upload_of(&r.value));
    if holds == Some(by.upload) {
        Verdict::Live
    } else if found.map(|r| r.write) == by.base {
        Verdict::Pinned
    } else if read {
        Verdict::Read
    } else {
        Verdict::Dead
    }
}

/// The upload that a value came with.
pub fn upload_of(value: &Value) -> Option<Upload> {
    match value {
        Value::Present { upload, .. } => *upload,
        Value::Deleted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::PeerId;
    use crate::register::Version;

    fn write(op: u64) -> WriteId {
        WriteId {
            peer: PeerId(1),
            op,
        }
    }

    fn holds(op: u64, upload: Option<Upload>) -> Register {
        Register {
            name: Name::new("f").unwrap(),
            version: Version::least_of(1),
            write: write(op),
            value: Value::Present {
                head: Default::default(),
                body: Default::default(),
                upload,
            },
            trail: Default::default(),
        }
    }

    fn by(base: Option<WriteId>) -> Referrer {
        Referrer {
            name: Name::new("f").unwrap(),
            upload: Upload(7),
            base,
        }
    }

    #[test]
    fn an_upload_is_over_once_the_name_has_gone_on_without_it() {
        let (new, replaces) = (by(None), by(Some(write(1))));
        assert_eq!(judge(&new, None, false), Verdict::Pinned);
        assert_eq!(
            judge(&replaces, Some(&holds(1, None)), false),
            Verdict::Pinned
        );
        assert_eq!(
            judge(&replaces, Some(&holds(2, Some(Upload(7)))), false),
            Verdict::Live
        );
        assert_eq!(
            judge(&replaces, Some(&holds(2, Some(Upload(8)))), false),
            Verdict::Dead
        );
        assert_eq!(judge(&replaces, Some(&holds(2, None)), true), Verdict::Read);
        assert_eq!(judge(&new, Some(&holds(1, None)), false), Verdict::Dead);
        assert_eq!(judge(&replaces, None, false), Verdict::Dead);
    }

    #[test]
    fn what_was_written_anew_with_the_same_value_stays_live() {
        assert_eq!(
            judge(&by(None), Some(&holds(9, Some(Upload(7)))), false),
            Verdict::Live
        );
    }
}
