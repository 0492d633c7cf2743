//! How durable a write is when it is acknowledged.
//!
//! With [`Durability::Synced`] it is on the disk: a chunk in its file, a name in the journal, which the database takes over a
//! little later ([`CHECKPOINT`]); nothing rests on when it does.
//!
//! With [`Durability::Written`] a client's chunks and names are with the operating system when they are acknowledged, and
//! reach the disk a little later ([`LATE`]): a process that dies loses nothing, a machine that loses its power loses what
//! was written last. What other peers rest on for good (votes on who holds a slot, promises, identities, receipts, and
//! what was forgotten) is synced in both modes, together with everything before it. ADR 27 has the argument.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;

use super::OpenError;
use crate::faults::{DiskFaults, Synced};

/// Syncing begins so long after the first write that waits for it. Guess: half of the second that is promised, so that
/// the other half is the disk's.
pub const LATE: Duration = Duration::from_millis(500);

/// The database takes over what was synced in the journal so long after the first record. Measured: under a load of small
/// files the peer's thread stands still for 50 ms (median; at most 200) after a second, for 70 after two and for 90 (260)
/// after five, and as many files go in with each of them.
pub const CHECKPOINT: Duration = Duration::from_millis(1000);

/// When a peer acknowledges that it has stored something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Durability {
    /// Once the disk has it: it survives the power.
    #[default]
    Synced,
    /// Once the operating system has it: it survives this process, and the power about a second later
    Written,
}

impl Durability {
    /// How long a commit may be in the journal only.
    pub(super) fn delay(self) -> Duration {
        match self {
            Durability::Synced => CHECKPOINT,
            Durability::Written => LATE,
        }
    }

    /// Bytes of the journal after which the database takes over.
    pub(super) fn long(self) -> u64 {
        match self {
            // About as many as a second brings (measured); it is also what the file keeps.
            Durability::Synced => 4 << 20,
            // Guess: some thousand small files.
            Durability::Written => 16 << 20,
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Synced => "synced",
            Durability::Written => "written",
        })
    }
}

/// The volume's file system, and whether it has chunks that the disk may not have.
pub(crate) struct Late {
    root: File,
    chunks: AtomicBool,
    /// The system tells of a failure once.
    failed: AtomicBool,
    faults: Arc<DiskFaults>,
}

impl Late {
    pub(super) fn open(root: &Path, faults: Arc<DiskFaults>) -> Result<Arc<Self>, OpenError> {
        Ok(Arc::new(Late {
            root: File::open(root).map_err(OpenError::io(root))?,
            chunks: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            faults,
        }))
    }

    /// What stands before the volume's syncs.
    pub(super) fn faults(&self) -> &Arc<DiskFaults> {
        &self.faults
    }

    /// A chunk was written, or found, that nobody has synced.
    pub(super) fn note(&self) {
        self.chunks.store(true, Ordering::Release);
    }

    /// There is such a chunk.
    pub(crate) fn waits(&self) -> bool {
        self.chunks.load(Ordering::Acquire)
    }

    /// Brings most of it to the disk, so that [`Self::settle`] takes little time afterwards.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let synced = self.faults.before_sync(Synced::Chunks);
        let synced = synced.and_then(|()| Ok(rustix::fs::syncfs(&self.root)?));
        if synced.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        synced
    }

    /// Makes all chunks durable that were noted before.
    pub(super) fn settle(&self) -> io::Result<()> {
        if self.chunks.swap(false, Ordering::AcqRel) {
            self.flush()?;
        }
        match self.failed.load(Ordering::Acquire) {
            true => Err(io::Error::other("an earlier sync failed")),
            false => Ok(()),
        }
    }
}
