//! Files in and out of the network, through this peer.
//!
//! A small file lives in its name's own record. A larger one is cut into chunks named by their hashes; the record then
//! holds the root of the tree of these hashes ([`manifest`]). Chunks are written before the name, so a name never leads
//! to bytes that were not acknowledged, and an upload that breaks off leaves no trace but unreferenced chunks.

use std::sync::Arc;
use std::time::Duration;

use peernet_core::io::RequestError;
use peernet_core::key::{InvalidName, Key, Name, Slot};
use peernet_core::register::{Register, Value};
use peernet_proto::v1;
use thiserror::Error;
use tokio_util::task::TaskTracker;

use crate::chunks::{ChunkError, Chunks};
use crate::config::{Compression, Setup};
use crate::driver::{PeerError, PeerHandle};
use crate::shares::shelf::Shelf;

mod budget;
pub(crate) mod cutter;
mod explain;
mod fetch;
mod get;
mod held;
mod list;
pub(crate) mod manifest;
pub(crate) mod outlet;
mod parts;
mod pin;
mod precondition;
mod put;
pub(crate) mod record;
mod rename;
mod search;
mod spread;
mod tally;
pub(crate) mod warm;

pub(crate) use cutter::{BrokenOff, STALL};
pub(crate) use get::{ByteStream, Consistency, Found};
pub(crate) use held::{ASKED_MAX, HELD_MAX, Held, Naming};
pub(crate) use parts::{AGE, Appended, Part, Parts, PartsId, Records};
pub(crate) use precondition::{Precondition, Tags};
pub(crate) use put::{Stored, now_unix_ms};
pub(crate) use record::{
    CONTENT_TYPE_MAX, Kind, RecordError, Summary, TAGS_MAX, decode_head, labels,
};

pub(crate) use budget::{Budget, Share};
use record::Content;

/// Bytes of chunks on their way to their replicas at once; with [`GATHERING`] and [`DOWNLOADS`] the peer's budget of 96 MiB
/// (guess).
const UPLOADS: usize = 32 * 1024 * 1024;
/// Bytes of chunks that are gathered from clients at once (guess: a chunk each for 32 clients).
const GATHERING: usize = 32 * 1024 * 1024;
/// Bytes of uploads that may come over gRPC before anybody reads them (guess: 64 large uploads at once). Over HTTP nothing
/// comes that nobody reads.
const STREAMED: usize = 64 * STREAM;
/// The same for one upload: the window of its stream.
pub(crate) const STREAM: usize = 4 * 1024 * 1024;
/// What an upload takes besides its bytes (guess: what tonic has for a stream at least, and what is around a message).
const ENVELOPE: u64 = 8 * 1024;
/// Bytes of downloads held in memory at once.
const DOWNLOADS: usize = 32 * 1024 * 1024;

/// Why something could not be done with a file. Nothing was acknowledged; only [`FileError::Kept`] and
/// [`FileError::Half`] have changed something.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    /// The name leads nowhere.
    #[error("there is no file '{0}'")]
    NotFound(Name),
    /// It is not what the client thinks.
    #[error(
        "'{name}' is not as the request's condition says ({}); nothing was changed: read it and decide again",
        etag.as_ref().map_or("there is no such file".into(), |etag| format!("its etag is \"{etag}\""))
    )]
    Precondition {
        /// Which.
        name: Name,
        /// What it is, if it is there.
        etag: Option<String>,
    },
    /// It is not to be replaced, renamed or deleted.
    #[error("'{0}' is pinned; unpin it first")]
    Pinned(Name),
    /// A file is there that a rename will not replace.
    #[error(
        "there is a file '{0}' already; nothing was changed: choose another name, or remove that file first"
    )]
    Taken(Name),
    /// The file was replaced or removed under the hands of a rename.
    #[error("'{0}' was written or removed while it was renamed; nothing was changed: try again")]
    Moving(Name),
    /// A rename did its first half: the old name was written or pinned meanwhile.
    #[error(
        "'{to}' now leads to what '{from}' held, but '{from}' was written anew or pinned meanwhile and was kept: both are \
         there, remove the one you do not want"
    )]
    Kept {
        /// The old name.
        from: Name,
        /// The new one.
        to: Name,
    },
    /// A rename did its first half: the old name could not be removed.
    #[error(
        "'{to}' leads to the file now, but '{from}' may still lead to it too, as it could not be removed ({reason}); \
         rename it once more to finish, or remove '{from}'"
    )]
    Half {
        /// The old name.
        from: Name,
        /// The new one.
        to: Name,
        /// Why the second half failed.
        reason: PeerError,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Not a content type.
    #[error("the content type has to be at most {CONTENT_TYPE_MAX} bytes of printable ASCII")]
    ContentType,
    /// Not tags.
    #[error(
        "a file has at most {TAGS_MAX} tags, each of 1 to {} bytes without commas and control characters",
        record::TAG_MAX
    )]
    Tags,
    /// Too long a question.
    #[error("the query has {0} bytes; at most 1024 are allowed")]
    Query(usize),
    /// Not what an answer said.
    #[error("'{0}' is not a place to go on from; give 'next' of the page before")]
    Cursor(String),
    /// The page's limit.
    #[error("the limit {0} is not between 1 and 1000")]
    Limit(u32),
    /// More or fewer bytes than the client announced.
    #[error("{announced} bytes were announced but {received} came; nothing was stored")]
    Size {
        /// By the client.
        announced: u64,
        /// Until the end, or until it was too much.
        received: u64,
    },
    /// Chunks that were stored for it are gone again.
    #[error(
        "the name was written meanwhile, or the upload took too long, and parts of it are gone again; nothing was stored: send the file again"
    )]
    Outlived,
    /// Chunks that are cut otherwise here.
    #[error(
        "the chunks that are held have {theirs} bytes each, but files are cut into chunks of {ours} bytes here; nothing \
         was stored: send the bytes"
    )]
    ChunkSize {
        /// What the client says.
        theirs: u32,
        /// This network's.
        ours: u32,
    },
    /// A chunk that is held has another length than the client says.
    #[error(
        "chunk {key} has {held} bytes, not {said}; nothing was stored: name the chunks of this very file, or send the bytes"
    )]
    HeldLength {
        /// Which.
        key: Key,
        /// By the client.
        said: u32,
        /// In truth.
        held: u32,
    },
    /// More chunks than a request may name.
    #[error("{0} chunks are too many; at most {ASKED_MAX} may be asked for and {HELD_MAX} be held")]
    TooManyHeld(usize),
    /// An upload in parts that is not known.
    #[error(
        "there is no such upload: it is complete, cancelled, or over, an hour after its last part or since its name was \
         written meanwhile; look whether the file is there, or begin again"
    )]
    NoParts,
    /// Too many uploads.
    #[error(
        "this peer takes as many large uploads at once over gRPC as it may; try again in a moment, or send the file to \
         another peer or over HTTP"
    )]
    TooManyUploads,
    /// Too many uploads in parts.
    #[error(
        "this peer keeps as many uploads in parts as it may; send the file in one piece, or to another peer"
    )]
    TooManyParts,
    /// A part that begins elsewhere than the upload ends.
    #[error(
        "the upload has {expected} bytes, but the part begins at {provided}; send what comes after byte {expected}"
    )]
    Offset {
        /// Where the next part begins.
        expected: u64,
        /// By the client.
        provided: u64,
    },
    /// The upload did not come to its end.
    #[error("the upload broke off after {received} bytes ({reason}); nothing was stored")]
    BrokenOff {
        /// Until then.
        received: u64,
        /// What the connection said.
        reason: String,
    },
    /// The client announced the digest of other bytes.
    #[error(
        "the SHA-256 of what came is {received}, but {announced} was announced; nothing was stored: send it again"
    )]
    Digest {
        /// By the client.
        announced: Key,
        /// Of what came.
        received: Key,
    },
    /// The client took or gave nothing for too long.
    #[error("the transfer stood still for {0} seconds and was given up")]
    Stalled(u64),
    /// The first byte wanted is not in the file.
    #[error("byte {offset} is beyond the end of the file, which has {size} bytes")]
    Range {
        /// First byte wanted.
        offset: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// More chunks than an explanation can list.
    #[error("the file has {0} chunks, too many to list their holders")]
    TooManyChunks(u64),
    /// This peer's state machine could not do it.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Too few replicas took a chunk.
    #[error(
        "only {copies} of the {needed} copies needed in slot {slot} could be made ({reason}); try again when more peers are up"
    )]
    TooFewCopies {
        /// Where the chunk belongs.
        slot: Slot,
        /// Durable ones.
        copies: usize,
        /// For an acknowledgement, at least.
        needed: u32,
        /// Of the last failure.
        reason: String,
    },
    /// Too few replicas took a chunk because disks are full.
    #[error(
        "the disk of {peer} is full, but for what it keeps in reserve; delete files or add peers"
    )]
    Full {
        /// One of those.
        peer: String,
    },
    /// No holder that could be reached has the chunk.
    #[error("chunk {key} cannot be reached now ({reason}); try again when more peers are up")]
    Unreachable {
        /// Which.
        key: Key,
        /// Of the last failure.
        reason: String,
    },
    /// All holders answered, and none has the chunk whole.
    #[error("chunk {0} is missing or damaged on every peer that should hold it")]
    Lost(Key),
    /// The name's record cannot be read.
    #[error("the record of '{name}' cannot be read: {reason}")]
    Record {
        /// Which.
        name: Name,
        /// Why.
        reason: RecordError,
    },
    /// This process cannot go on with it.
    #[error("the transfer was interrupted inside of this peer: {0}")]
    Interrupted(String),
}

/// What kind of failure it is, for gRPC and HTTP to translate once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ErrorKind {
    /// No such file.
    NotFound,
    /// The file is not what the request's condition says.
    Precondition,
    /// The file is pinned.
    Pinned,
    /// The request makes no sense.
    Invalid,
    /// The range lies outside of the file.
    OutOfRange,
    /// Works again when more peers are up.
    Unavailable,
    /// Works again in a moment.
    Busy,
    /// No room.
    Full,
    /// The client was too slow.
    TimedOut,
    /// Stored bytes cannot be read.
    DataLoss,
    /// A bug.
    Internal,
}

impl ErrorKind {
    /// The word for machines; the same in problem documents and gRPC metadata.
    pub(crate) fn code(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not_found",
            ErrorKind::Precondition => "precondition_failed",
            ErrorKind::Pinned => "pinned",
            ErrorKind::Invalid => "invalid",
            ErrorKind::OutOfRange => "out_of_range",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Busy => "busy",
            ErrorKind::Full => "full",
            ErrorKind::TimedOut => "timed_out",
            ErrorKind::DataLoss => "data_loss",
            ErrorKind::Internal => "internal",
        }
    }
}

impl FileError {
    /// What kind of failure this is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            FileError::NotFound(_) | FileError::NoParts => ErrorKind::NotFound,
            FileError::Pinned(_) => ErrorKind::Pinned,
            FileError::TooManyParts | FileError::TooManyUploads => ErrorKind::Busy,
            FileError::Precondition { .. }
            | FileError::Taken(_)
            | FileError::Kept { .. }
            | FileError::Offset { .. }
            | FileError::ChunkSize { .. } => ErrorKind::Precondition,
            FileError::Name(_)
            | FileError::ContentType
            | FileError::Tags
            | FileError::Cursor(_)
            | FileError::Query(_)
            | FileError::Limit(_)
            | FileError::Size { .. }
            | FileError::BrokenOff { .. }
            | FileError::Digest { .. }
            | FileError::TooManyHeld(_)
            | FileError::HeldLength { .. }
            | FileError::TooManyChunks(_) => ErrorKind::Invalid,
            FileError::Stalled(_) => ErrorKind::TimedOut,
            FileError::Range { .. } => ErrorKind::OutOfRange,
            FileError::Peer(error) => error.kind(),
            FileError::TooFewCopies { .. }
            | FileError::Unreachable { .. }
            | FileError::Outlived
            | FileError::Moving(_)
            | FileError::Half { .. } => ErrorKind::Unavailable,
            FileError::Full { .. } => ErrorKind::Full,
            FileError::Lost(_) => ErrorKind::DataLoss,
            FileError::Record { .. } | FileError::Interrupted(_) => ErrorKind::Internal,
        }
    }
}

impl PeerError {
    /// What kind of failure this is.
    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            PeerError::Refused(
                RequestError::NotReady
                | RequestError::Left
                | RequestError::NoQuorum { .. }
                | RequestError::Unknown,
            )
            | PeerError::Stuck
            | PeerError::Stopped => ErrorKind::Unavailable,
            PeerError::Refused(RequestError::NothingToSearch) => ErrorKind::Invalid,
            PeerError::Refused(RequestError::Busy) => ErrorKind::Busy,
            PeerError::Refused(RequestError::Full { .. }) => ErrorKind::Full,
            PeerError::Refused(RequestError::TooLarge) | PeerError::Confused => ErrorKind::Internal,
        }
    }
}

/// The files of the network, as this peer serves them; cheap to clone.
#[derive(Clone)]
pub(crate) struct Files {
    peer: PeerHandle,
    chunks: Arc<Chunks>,
    chunk_size: u32,
    write: u32,
    compression: Compression,
    patience: Duration,
    streamed: Budget,
    gathering: Budget,
    uploads: Budget,
    downloads: Budget,
    shelf: Arc<Shelf>,
    tasks: TaskTracker,
    parts: Arc<Records>,
    /// Only in tests.
    crash_in_rename: bool,
}

impl Files {
    /// As the `setup` says; what is on the `shelf` is read there. Work that outlives its request is spawned on `tasks`.
    pub(crate) fn new(
        peer: PeerHandle,
        chunks: Arc<Chunks>,
        setup: &Setup,
        shelf: Arc<Shelf>,
        tasks: TaskTracker,
    ) -> Self {
        Files {
            peer,
            chunks,
            chunk_size: setup.chunk_size,
            write: setup.core.replication.write,
            compression: setup.compression,
            patience: setup.client_timeout,
            streamed: Budget::new(STREAMED),
            gathering: Budget::new(GATHERING),
            uploads: Budget::new(UPLOADS),
            downloads: Budget::new(DOWNLOADS),
            shelf,
            tasks,
            parts: Arc::new(Records::new(setup.data_dir.join("uploads"))),
            crash_in_rename: setup.faults.crash_in_rename,
        }
    }

    /// Bytes of a whole chunk.
    pub(crate) fn chunk_size(&self) -> usize {
        self.chunk_size as usize
    }

    /// The memory of downloads, for what else is read for clients.
    pub(crate) fn memory(&self) -> Budget {
        self.downloads.clone()
    }

    /// Bytes of uploads and of downloads in memory now.
    pub(crate) fn held_bytes(&self) -> (u64, u64) {
        let uploads = self.gathering.taken() + self.uploads.taken();
        (uploads, self.downloads.taken())
    }

    /// A place for an upload over gRPC of so many bytes, to be kept until it is over, and how long messages it counts for: as long
    /// as any that such an upload needs, but not as any that may come.
    pub(crate) fn place(&self, announced: Option<u64>) -> Result<(Share, usize), FileError> {
        let bytes = announced.map_or(STREAM, |size| {
            size.saturating_add(ENVELOPE).min(STREAM as u64) as usize
        });
        let place = self.streamed.take_now(bytes);
        Ok((place.ok_or(FileError::TooManyUploads)?, bytes))
    }

    /// What is known of a file.
    pub(crate) async fn stat(&self, name: &Name) -> Result<v1::FileInfo, FileError> {
        Ok(self.read(name).await?.0.to_info(name))
    }

    /// Removes a file's name.
    pub(crate) async fn delete(&self, name: Name, when: &Precondition) -> Result<(), FileError> {
        self.change(name, Value::Deleted, when, true).await?;
        Ok(())
    }

    async fn read(&self, name: &Name) -> Result<(Summary, Content), FileError> {
        open(name, self.peer.read_name(name.clone()).await?)
    }
}

/// Reads what a name holds.
fn open(name: &Name, register: Option<Register>) -> Result<(Summary, Content), FileError> {
    match register.map(|r| r.value) {
        None | Some(Value::Deleted) => Err(FileError::NotFound(name.clone())),
        Some(Value::Present { head, body, .. }) => {
            record::decode(&head, &body).map_err(|reason| FileError::Record {
                name: name.clone(),
                reason,
            })
        }
    }
}

/// Slots whose chunks could not be moved say why by the last failure.
fn reason(peer: &str, error: &ChunkError) -> String {
    format!("{peer}: {error}")
}
