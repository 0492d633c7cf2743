//! Chunks as files named by their hash.
//!
//! A chunk is written under a temporary name, synced, renamed and its folder synced, so that a name that exists always
//! stands for whole bytes, and an acknowledged one for durable bytes; where clients' writes may reach the disk late
//! ([`Durability::Written`](super::Durability)) it is the store's next sync that syncs them. Callers that write at the same time share the
//! file system's journal commits. Every read checks the hash; a copy that fails is set aside, never served.
//!
//! The name of a compressed chunk's file ends with `.zst`, and `zstd -d` reads it. A chunk that is here in one form is not
//! written in the other: whoever stored it first has chosen. Programs that know of plain files only do not find the others,
//! and leave them alone.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;
use peernet_core::key::Key;
use rustix::fs::{Advice, fadvise};
use thiserror::Error;
use tokio::sync::watch;

use super::direct::Direct;
use super::late::Late;
use super::{OpenError, sync_dir};
use crate::faults::{DiskFaults, Synced};

mod aside;
mod packed;

pub(crate) use packed::open;
pub use packed::{Chunk, Encoding, Packed};

/// For whom a chunk is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A client's new data: stops while the whole reserve is still free.
    Client,
    /// A copy that the ring needs here: may use half the reserve.
    Repair,
}

/// Bytes of the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Free for an unprivileged process.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// What can go wrong with a chunk.
#[derive(Debug, Error)]
pub enum ChunkError {
    /// The bytes to be written do not have the hash they are said to have.
    #[error("the bytes sent do not have the hash {0}")]
    Mismatch(Key),
    /// It is not here.
    #[error("chunk {0} is not on this volume")]
    Missing(Key),
    /// It was here, but its bytes were wrong or unreadable; it is not here any more.
    #[error("chunk {0} was damaged on this volume and has been set aside")]
    Corrupt(Key),
    /// There is no room. Nothing was written.
    #[error("the disk is full: {free} bytes are free and {reserve} are kept in reserve")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// The volume failed; it is not known what it holds. Nothing more is written until the peer is restarted.
    #[error("the volume failed while {action} a chunk: {source}")]
    Volume {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The chunks' bytes on a volume. All calls block; any number of threads may call at once.
pub struct ChunkFiles {
    root: PathBuf,
    /// Share of the file system that clients' chunks leave free.
    reserve_percent: u8,
    next_temporary: AtomicU64,
    direct: Direct,
    /// Files in `bad`. Whoever puts a chunk into place has it for reading, whoever sets one aside for writing.
    aside: RwLock<usize>,
    /// What a sync said that failed: the volume cannot be trusted any more (a second sync would succeed for nothing).
    failed: watch::Sender<Option<String>>,
    faults: Arc<DiskFaults>,
    /// Where a client's chunk is noted that is synced later; none where each is synced at once.
    late: Option<Arc<Late>>,
}

impl ChunkFiles {
    /// Opens the chunks of the volume at `root`, which exists; removes what a crash left half-written.
    pub fn open(root: &Path, reserve_percent: u8) -> Result<Self, OpenError> {
        let chunks = root.join("chunks");
        let folders = ["chunks", "tmp", "bad"].map(|f| root.join(f)).into_iter();
        for folder in folders.chain((0..=u8::MAX).map(|first| chunks.join(folder_name(first)))) {
            fs::create_dir_all(&folder).map_err(OpenError::io(&folder))?;
        }
        sync_dir(&chunks).map_err(OpenError::io(&chunks))?;
        sync_dir(root).map_err(OpenError::io(root))?;
        let temporary = root.join("tmp");
        for entry in fs::read_dir(&temporary).map_err(OpenError::io(&temporary))? {
            let path = entry.map_err(OpenError::io(&temporary))?.path();
            fs::remove_file(&path).map_err(OpenError::io(&path))?;
        }
        let bad = root.join("bad");
        let bad = fs::read_dir(&bad).map_err(OpenError::io(&bad))?.count();
        Ok(ChunkFiles {
            root: root.to_owned(),
            reserve_percent,
            next_temporary: AtomicU64::new(0),
            direct: Direct::default(),
            aside: RwLock::new(bad),
            failed: watch::Sender::new(None),
            faults: Arc::default(),
            late: None,
        })
    }

    /// The same, with syncs that fail as planned.
    pub(super) fn with_faults(self, faults: Arc<DiskFaults>) -> Self {
        ChunkFiles { faults, ..self }
    }

    /// The same, with clients' chunks left to the next sync of everything.
    pub(super) fn synced_late(self, late: Arc<Late>) -> Self {
        let late = Some(late);
        ChunkFiles { late, ..self }
    }

    /// Waits until a sync has failed, and returns what it said. From then on nothing is written, and the peer should
    /// stop: what the system has dropped from its memory nobody can know.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            // Not while `self` holds the sender.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The same as [`ChunkFiles::write_packed`] for a chunk with its bytes as they are.
    pub fn write(&self, chunk: &Chunk, purpose: Purpose) -> Result<(), ChunkError> {
        self.write_packed(&chunk.clone().into(), purpose)
    }

    /// Makes a chunk durable; a client's, where that may be late, at the store's next sync. Does nothing when it is here
    /// already, in whichever form.
    pub fn write_packed(&self, chunk: &Packed, purpose: Purpose) -> Result<(), ChunkError> {
        self.check_trusted()?;
        let folder = self.folder(&chunk.key());
        let late = self.late.as_ref().filter(|_| purpose == Purpose::Client);
        // Reading is cheaper than writing again, and a copy that has rotted must not be acknowledged.
        if let Some(path) = self.held(chunk) {
            return match late {
                Some(late) => {
                    late.note();
                    Ok(())
                }
                // Whoever put it there may have left it to a later sync, or not have come to the folder's yet.
                None => self.sync_held(&path, &folder),
            };
        }
        self.check_room(chunk.bytes().len() as u64, purpose)?;
        let temporary = Temporary(self.root.join("tmp").join(self.temporary_name()));
        let file = self.direct.create(&temporary.0, chunk.bytes());
        let file = file.map_err(|e| self.not_written(e))?;
        if late.is_none() {
            self.sync_file(&file)?;
        }
        let path = self.path(&chunk.key(), chunk.encoding());
        let placing = self.aside.read().unwrap_or_else(PoisonError::into_inner);
        fs::rename(&temporary.0, &path).map_err(|e| self.not_written(e))?;
        drop(placing);
        match late {
            Some(late) => {
                late.note();
                Ok(())
            }
            None => self.sync(&folder),
        }
    }

    /// Where a chunk is, whole.
    fn held(&self, chunk: &Packed) -> Option<PathBuf> {
        let key = chunk.key();
        Encoding::ALL.into_iter().find_map(|encoding| {
            let path = self.path(&key, encoding);
            let held = Bytes::from(fs::read(&path).ok()?);
            let same = encoding == chunk.encoding() && held == *chunk.bytes();
            (same || open(&key, encoding, held).is_ok()).then_some(path)
        })
    }

    /// Makes a chunk durable that is in place already, and may have been left to a later sync.
    fn sync_held(&self, path: &Path, folder: &Path) -> Result<(), ChunkError> {
        let file = File::open(path).map_err(|e| self.not_written(e))?;
        // It may have been acknowledged: no failure may be survived, not even that of a full disk.
        let synced = self.faults.before_sync(Synced::Chunks);
        synced
            .and_then(|()| file.sync_data())
            .map_err(|e| self.distrust("syncing", e))?;
        self.sync(folder)
    }

    /// A chunk, checked.
    pub fn read(&self, key: &Key) -> Result<Chunk, ChunkError> {
        Ok(self.checked(key, whole)?.1)
    }

    /// The same as it lies here, for whoever passes it on.
    pub fn read_packed(&self, key: &Key) -> Result<Packed, ChunkError> {
        Ok(self.checked(key, whole)?.0)
    }

    /// The same from the disk itself, not from what the system remembers of it, of which nothing is displaced. Found whole, it
    /// is noted as [verified](ChunkFiles::verified).
    pub fn read_again(&self, key: &Key) -> Result<Packed, ChunkError> {
        let forget = |file: &File| fadvise(file, 0, None, Advice::DontNeed);
        let (chunk, _) = self.checked(key, |file| {
            forget(file)?;
            let data = whole(file)?;
            forget(file)?;
            Ok(data)
        })?;
        let noted = File::open(self.path(key, chunk.encoding()))
            .and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = noted {
            tracing::debug!(%key, %error, "when it was verified cannot be noted");
        }
        Ok(chunk)
    }

    /// When a chunk's bytes were last known to be those of its name: as they were written, or read again from the disk. It
    /// is the time of the file's modification, which a round of reading sets anew. `None` when it is not here.
    pub fn verified(&self, key: &Key) -> Result<Option<SystemTime>, ChunkError> {
        self.metadata(key, |file| file.modified())
    }

    /// Length of a chunk's file, without reading it.
    pub fn len(&self, key: &Key) -> Result<Option<u64>, ChunkError> {
        self.metadata(key, |file| Ok(file.len()))
    }

    /// What is said of a chunk's file; `None` when it is not here.
    fn metadata<T>(
        &self,
        key: &Key,
        of: impl Fn(&Metadata) -> io::Result<T>,
    ) -> Result<Option<T>, ChunkError> {
        for encoding in Encoding::ALL {
            match fs::metadata(self.path(key, encoding)).and_then(|file| of(&file)) {
                Ok(found) => return Ok(Some(found)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(ChunkError::Volume {
                        action: "looking for",
                        source,
                    });
                }
            }
        }
        Ok(None)
    }

    /// Deletes a chunk's bytes, if they are here. A power cut may bring them back, which does no harm.
    pub fn remove(&self, key: &Key) -> Result<(), ChunkError> {
        for encoding in Encoding::ALL {
            match fs::remove_file(self.path(key, encoding)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(ChunkError::Volume {
                        action: "deleting",
                        source: error,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The keys that start with this byte, in no order, for those who walk over all that is here.
    pub fn keys(&self, first: u8) -> Result<Vec<Key>, ChunkError> {
        let folder = self.root.join("chunks").join(folder_name(first));
        let files = entries(&folder)?;
        let key = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            let ending = Encoding::Zstd.ending();
            name.strip_suffix(ending).unwrap_or(name).parse().ok()
        };
        Ok(files.iter().filter_map(key).collect())
    }

    /// How full the file system is.
    pub fn space(&self) -> Result<Space, ChunkError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|e| ChunkError::Volume {
            action: "making room for",
            source: e.into(),
        })?;
        Ok(Space {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        })
    }

    /// Whether `len` more bytes may be written for that purpose.
    pub fn check_room(&self, len: u64, purpose: Purpose) -> Result<(), ChunkError> {
        let Space { free, total } = self.space()?;
        let reserve = self.reserve(total, purpose);
        if free < reserve.saturating_add(len) {
            Err(ChunkError::DiskFull { free, reserve })
        } else {
            Ok(())
        }
    }

    fn reserve(&self, total: u64, purpose: Purpose) -> u64 {
        let whole = total / 100 * u64::from(self.reserve_percent);
        match purpose {
            Purpose::Client => whole,
            Purpose::Repair => whole / 2,
        }
    }

    fn folder(&self, key: &Key) -> PathBuf {
        self.root.join("chunks").join(folder_name(key.0[0]))
    }

    fn path(&self, key: &Key, encoding: Encoding) -> PathBuf {
        self.folder(key).join(file_name(key, encoding))
    }

    fn temporary_name(&self) -> String {
        self.next_temporary
            .fetch_add(1, Ordering::Relaxed)
            .to_string()
    }

    fn check_trusted(&self) -> Result<(), ChunkError> {
        if self.failed.borrow().is_some() {
            let source =
                io::Error::other("an earlier sync failed; restart the peer, and look at its disk");
            return Err(ChunkError::Volume {
                action: "writing",
                source,
            });
        }
        Ok(())
    }

    /// Makes a file's bytes durable. Only a full disk may be survived: it kept no promise, since the file is not in
    /// place yet.
    fn sync_file(&self, file: &File) -> Result<(), ChunkError> {
        let synced = self.faults.before_sync(Synced::Chunks);
        match synced.and_then(|()| file.sync_data()) {
            Err(error) if is_full(&error) => Err(self.not_written(error)),
            synced => synced.map_err(|e| self.distrust("syncing", e)),
        }
    }

    fn sync(&self, folder: &Path) -> Result<(), ChunkError> {
        let synced = self.faults.before_sync(Synced::Chunks);
        synced
            .and_then(|()| sync_dir(folder))
            .map_err(|e| self.distrust("syncing the folder of", e))?;
        // One of the same folder that failed beside it may have dropped our entry before this one found nothing to do.
        self.check_trusted()
    }

    fn distrust(&self, action: &'static str, source: io::Error) -> ChunkError {
        let reason = source.to_string();
        self.failed.send_modify(|failed| {
            failed.get_or_insert(reason);
        });
        ChunkError::Volume { action, source }
    }

    /// An error before anything was promised.
    fn not_written(&self, source: io::Error) -> ChunkError {
        if !is_full(&source) {
            return ChunkError::Volume {
                action: "writing",
                source,
            };
        }
        let Space { free, total } = self.space().unwrap_or(Space { free: 0, total: 0 });
        ChunkError::DiskFull {
            free,
            reserve: self.reserve(total, Purpose::Repair),
        }
    }
}

/// A file under construction: gone when dropped, unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a half-written chunk stays until the next start");
        }
    }
}

/// One level of 256: a million chunks are 4,000 in each, which the indexed folders of today's file systems find as fast
/// as a few, and all are there from the beginning, so that no chunk waits for a folder to become durable.
fn folder_name(first: u8) -> String {
    format!("{first:02x}")
}

fn file_name(key: &Key, encoding: Encoding) -> String {
    format!("{key}{}", encoding.ending())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// All bytes of a file.
fn whole(file: &mut File) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    file.read_to_end(&mut data)?;
    Ok(data)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ChunkError> {
    let volume = |source| ChunkError::Volume {
        action: "looking for",
        source,
    };
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(volume(error)),
        Ok(rows) => rows.map(|row| Ok(row.map_err(volume)?.path())).collect(),
    }
}
