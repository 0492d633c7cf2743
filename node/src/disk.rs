//! A peer's volume.
//!
//! ```text
//! meta.redb      all that `peernet-core` remembers: one redb database, see `meta`
//! chunks/ab/     chunks as files named by their hash, see `chunks`; those that end with `.zst` are compressed
//! journal        what `meta.redb` does not hold yet, see `meta`
//! tmp/           chunks being written; emptied at start
//! uploads/       uploads in parts that are not complete, see `crate::files`
//! shared/        what this peer shares and fetches, see `crate::shares`
//! bad/           copies that failed their check, set aside for people to look at
//! ```
//!
//! Both halves block; asynchronous callers use a blocking thread.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};
use thiserror::Error;

use crate::faults::{DiskFaults, DiskPlan};

pub mod chunks;
mod direct;
mod faulty;
mod late;
pub mod meta;

pub(crate) use chunks::open as open_chunk;
pub use chunks::{Chunk, ChunkError, ChunkFiles, Encoding, Packed, Purpose, Space};
pub(crate) use late::Late;
pub use late::{CHECKPOINT, Durability, LATE};
pub use meta::DiskStore;

/// Why a volume cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file or folder on it cannot be read or written.
    #[error(
        "cannot use {path}: {source}; check that the folder exists and belongs to the user this peer runs as"
    )]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "{0} is in use by another process; stop that one, or give this peer its own data folder"
    )]
    InUse(PathBuf),
    /// It was written by software of another format.
    #[error(
        "{path} has format {found}, this version reads format {known}; run the version that wrote it"
    )]
    Format {
        /// Which.
        path: PathBuf,
        /// The format it has.
        found: u32,
        /// The format this version reads and writes.
        known: u32,
    },
    /// It is a database, but not a peer's.
    #[error("{0} is not a peer's database; give the peer an empty data folder")]
    Foreign(PathBuf),
    /// Its bytes are not those that were written.
    #[error(
        "{path} is damaged ({reason}), and what this peer has promised cannot be known from it; look at the disk, then \
         give the peer an empty data folder: the other replicas have what it held"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The database failed.
    #[error("cannot open {path}: {reason}")]
    Database {
        /// Which.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Opens the volume at `dir`, creating what is missing. `reserve_percent` of the file system is kept free of clients'
/// chunks (see [`ChunkFiles`]).
pub fn open(dir: &Path, reserve_percent: u8) -> Result<(DiskStore, ChunkFiles), OpenError> {
    open_with(
        dir,
        reserve_percent,
        Durability::Synced,
        DiskPlan::default(),
    )
}

/// The same, for writes that are so durable when they are acknowledged, on a disk that fails as planned.
pub fn open_with(
    dir: &Path,
    reserve_percent: u8,
    durability: Durability,
    plan: DiskPlan,
) -> Result<(DiskStore, ChunkFiles), OpenError> {
    fs::create_dir_all(dir).map_err(OpenError::io(dir))?;
    for file in ["meta.redb", "journal"].map(|name| dir.join(name)) {
        forget_cached(&file).map_err(OpenError::io(&file))?;
    }
    let faults = Arc::new(DiskFaults::new(plan));
    let late = Late::open(dir, faults.clone())?;
    // The database first: its lock keeps a second process from emptying `tmp` under the first.
    let mut store = DiskStore::open_faulty(&dir.join("meta.redb"), late.clone(), &faults)?;
    let chunks = ChunkFiles::open(dir, reserve_percent)?.with_faults(faults);
    store.recover(dir, durability, |key| chunks.read(key).is_ok())?;
    let chunks = match durability {
        Durability::Synced => chunks,
        Durability::Written => chunks.synced_late(late),
    };
    Ok((store, chunks))
}

/// Lets what is read of a file next come from the disk. After a sync that failed, the system keeps pages that the disk never got
/// and calls them clean (Rebello et al., Can Applications Recover from fsync Failures?, ATC 2020): a process that stopped for that
/// reason and is started again would believe them.
fn forget_cached(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        // A device remembers nothing, and one that cannot be synced says so.
        return Ok(());
    }
    file.sync_data()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// Puts a file in place whole or not at all, and durably: written under a temporary name on the same volume, synced,
/// renamed.
pub(crate) fn replace_file(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes a folder's entries durable: a new or renamed file is only then sure to be found after a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
