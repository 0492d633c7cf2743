//! What may reach the disk late, where [`Durability::Written`] is asked for.
//!
//! A commit that holds nothing but names, marks, chunks and references is not made by the database: its transaction stays
//! open, and what was done is appended to a file, `journal`, with one write and no sync. The database on the disk stays
//! what the last sync has made it, whole at any time. A process that dies leaves the journal with the system, and the next
//! one does again what it tells. Every other write, and time ([`LATE`]), ends in a sync: chunks first, then the
//! transaction, then the journal begins anew.
//!
//! ```text
//! journal := record*          record := length: u32, check: [u8; 8], body        all numbers big-endian
//! body    := generation: u64, (kind: u8, length: u32, bytes)*                     check: BLAKE3 of the body, cut
//! ```
//!
//! The database tells which generation follows on it and under which boot of the machine (Linux has a number for it).
//! Under the same boot the journal is whole, but for a last record that its process was killed in, and had acknowledged to
//! nobody. Under another boot the power may have failed: the records that are whole are still done again, up to the first
//! that is not, since a beginning of what was done is a state that the peer was in; chunks are looked at one by one. What
//! came after is forgotten, and the store says so until it is told that the peer has caught up ([`DiskStore::is_behind`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use peernet_core::collect::Referrer;
use peernet_core::key::Key;
use peernet_core::outbox::Pending;
use peernet_core::register::Register;
use peernet_core::store::{Store, StoreError};
use redb::ReadableTable;

use super::rows::{MARK, REFERENCE, by_chunk, decode, mark_bytes, reference, reference_value};
use super::tables::{BEHIND, JOURNAL, META};
use super::{DiskStore, begin, damaged, failed, known_mark};
use crate::disk::OpenError;
use crate::disk::late::{Durability, LATE, Late};

/// Bytes of the journal after which it is time to sync. Guess: some thousand small files.
const LONG: u64 = 16 << 20;
/// A journal longer than this is none of ours: a batch adds no more than 256 messages with a name each.
const LONGEST: u64 = LONG + (64 << 20);
/// Bytes of a record before its body.
const FRAME: usize = 12;
/// Bytes before a record's first entry.
const HEAD: usize = FRAME + 8;

/// The file, and what is to be appended to it.
pub(super) struct Journal {
    file: File,
    len: u64,
    generation: u64,
    /// The next record, its head not yet filled in.
    record: Vec<u8>,
}

/// What an entry of a record does.
#[derive(Clone, Copy)]
enum Kind {
    Register = 1,
    Mark = 2,
    Chunk = 3,
    Reference = 4,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).open(path)?;
        file.set_len(0)?;
        Ok(Journal {
            file,
            len: 0,
            generation: 0,
            record: vec![0; HEAD],
        })
    }

    fn add(&mut self, kind: Kind, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        self.record.push(kind as u8);
        self.record.extend((len as u32).to_be_bytes());
        parts.iter().for_each(|part| self.record.extend(*part));
    }

    /// Hands the record to the system.
    fn write(&mut self) -> io::Result<()> {
        self.record[FRAME..HEAD].copy_from_slice(&self.generation.to_be_bytes());
        let body = &self.record[FRAME..];
        let (len, check) = ((body.len() as u32).to_be_bytes(), check(body));
        self.record[..4].copy_from_slice(&len);
        self.record[4..FRAME].copy_from_slice(&check);
        self.file.write_all(&self.record)?;
        self.len += self.record.len() as u64;
        self.record.truncate(HEAD);
        Ok(())
    }

    /// The database has all that is in it.
    fn restart(&mut self, generation: u64) -> io::Result<()> {
        self.generation = generation;
        self.record.truncate(HEAD);
        self.len = 0;
        self.file.set_len(0)
    }
}

fn check(body: &[u8]) -> [u8; 8] {
    let Key([a, b, c, d, e, f, g, h, ..]) = Key::of_bytes(body);
    [a, b, c, d, e, f, g, h]
}

/// What the database tells of the journal.
struct Follows {
    generation: u64,
    boot: Vec<u8>,
}

impl Follows {
    fn bytes(&self) -> Vec<u8> {
        [&self.generation.to_be_bytes()[..], &self.boot].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (generation, boot) = bytes.split_first_chunk()?;
        Some(Follows {
            generation: u64::from_be_bytes(*generation),
            boot: boot.to_vec(),
        })
    }
}

impl DiskStore {
    pub(super) fn log_register(&mut self, register: &[u8]) {
        self.log(Kind::Register, &[register]);
    }

    pub(super) fn log_mark(&mut self, key: &Key, mark: Option<&Pending>) {
        let mark = mark.map(mark_bytes);
        let mark: &[u8] = mark.as_ref().map_or(&[], |m| m);
        self.log(Kind::Mark, &[&key.0, mark]);
    }

    pub(super) fn log_chunk(&mut self, key: &Key, len: u32) {
        self.log(Kind::Chunk, &[&key.0, &len.to_be_bytes()]);
    }

    pub(super) fn log_reference(&mut self, key: &Key, len: u32, by: &Referrer) {
        if self.journal.is_some() {
            let (key, value) = (by_chunk(key, by), reference_value(len, by));
            self.log(Kind::Reference, &[&key, &value]);
        }
    }

    fn log(&mut self, kind: Kind, parts: &[&[u8]]) {
        self.dirty = true;
        match &mut self.journal {
            Some(journal) if !self.strict => journal.add(kind, parts),
            // A sync will have it.
            _ => {}
        }
    }

    /// Commits without a sync, if that may be; false if it may not.
    pub(super) fn write_late(&mut self) -> bool {
        let Some(journal) = self.journal.as_mut().filter(|_| !self.strict && self.armed) else {
            return false;
        };
        // A sync stores all the same what the journal could not take, and the journal begins anew after it.
        let written = journal.len < LONG && journal.write().is_ok();
        if written {
            self.unsynced.get_or_insert_with(Instant::now);
            self.dirty = false;
        }
        written
    }

    /// The next commit is a sync, and leaves nothing behind, even if it has nothing of its own to write: somebody acts on
    /// what this peer is about to say in a way that cannot be undone.
    pub fn require_sync(&mut self) {
        self.strict = true;
    }

    /// The volume's chunks, as far as they wait for a sync.
    pub(crate) fn late(&self) -> Arc<Late> {
        self.late.clone()
    }

    /// When syncing should begin; `None` when nothing waits for it.
    pub fn sync_due(&self) -> Option<Instant> {
        self.unsynced.map(|since| since + LATE)
    }

    /// Makes everything durable, the chunks first.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let follows = self.journal.as_ref().map(|j| j.generation + 1);
        self.sync_and_tell(follows)
    }

    /// The same, and says on the volume that nothing is left to do: until the next commit, which syncs.
    pub fn rest(&mut self) -> Result<(), StoreError> {
        match self.armed {
            true => self.sync_and_tell(None),
            false => Ok(()),
        }
    }

    fn sync_and_tell(&mut self, follows: Option<u64>) -> Result<(), StoreError> {
        let failing = |error: io::Error| StoreError {
            action: "syncing chunks",
            reason: error.to_string(),
        };
        self.late.settle().map_err(failing)?;
        if follows.is_some() || self.armed {
            let action = "telling which journal follows";
            let mut meta = self.table(META)?;
            match follows {
                Some(generation) => {
                    let boot = self.boot.clone();
                    let value = Follows { generation, boot }.bytes();
                    meta.insert(JOURNAL, value.as_slice())
                        .map_err(failed(action))?;
                }
                None => drop(meta.remove(JOURNAL).map_err(failed(action))?),
            }
        }
        self.pending()?;
        if let Some(pending) = self.pending.take() {
            pending.commit().map_err(failed("committing"))?;
        }
        self.pending = Some(begin(&self.database)?);
        (self.dirty, self.strict, self.unsynced) = (false, false, None);
        self.armed = follows.is_some();
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.restart(follows.unwrap_or(journal.generation))
        {
            tracing::warn!("the journal cannot be used, so every write is synced: {error}");
            self.journal = None;
        }
        Ok(())
    }

    /// A power cut, or another machine, may have taken what this peer has acknowledged: until it has compared what it
    /// holds with the other replicas it had better say nothing of it.
    pub fn is_behind(&self) -> Result<bool, StoreError> {
        let meta = self.table(META)?;
        let behind = meta.get(BEHIND).map_err(failed(OPENING))?;
        Ok(behind.is_some())
    }

    /// It has.
    pub fn caught_up(&mut self) -> Result<(), StoreError> {
        self.table_mut(META)?
            .remove(BEHIND)
            .map_err(failed("noting that it has caught up"))?;
        self.commit()
    }

    /// Does again what an earlier process did and had not synced, and begins a journal of its own where that is asked
    /// for. `whole`: whether a chunk's file is here and whole.
    pub(in crate::disk) fn recover(
        &mut self,
        dir: &Path,
        durability: Durability,
        whole: impl Fn(&Key) -> bool,
    ) -> Result<(), OpenError> {
        let path = dir.join("journal");
        let failing = |e: StoreError| OpenError::Database {
            path: path.clone(),
            reason: e.to_string(),
        };
        let found = self.follows().map_err(failing)?;
        if found.is_some() || durability == Durability::Written {
            self.boot = boot()?;
        }
        if let Some(Follows { generation, boot }) = found {
            let same = boot == self.boot;
            let text = bytes(&path)?;
            let all = |_: &Key| true;
            let done = match same {
                true => self.repeat(&text, generation, &all),
                false => self.repeat(&text, generation, &whole),
            };
            let whole_journal = done.map_err(failing)?;
            if same && !whole_journal {
                return Err(OpenError::Damaged {
                    path,
                    reason: "a record of it has not the checksum that it should have".into(),
                });
            }
            if !same {
                tracing::warn!(
                    "this machine was started anew since this peer ended, or is another one: the last second of what \
                     was acknowledged may be lost here; it is compared with the other replicas first"
                );
                self.note_behind().map_err(failing)?;
            }
            // The process before may have left chunks that only the system has.
            self.late.note();
            self.armed = true;
            self.rest().map_err(failing)?;
        }
        match durability {
            Durability::Written => {
                self.journal = Some(Journal::open(&path).map_err(OpenError::io(&path))?);
            }
            Durability::Synced => match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(OpenError::io(&path)(error));
                }
                _ => {}
            },
        }
        Ok(())
    }

    fn follows(&self) -> Result<Option<Follows>, StoreError> {
        let value = self.table(META)?;
        let value = value.get(JOURNAL).map_err(failed(OPENING))?;
        let unreadable = || damaged(OPENING, "a note of it that cannot be read");
        value
            .map(|v| Follows::read(v.value()).ok_or_else(unreadable))
            .transpose()
    }

    fn note_behind(&mut self) -> Result<(), StoreError> {
        self.table_mut(META)?
            .insert(BEHIND, [].as_slice())
            .map_err(failed("noting what may be lost"))?;
        Ok(())
    }

    /// Does again what the records of a generation tell, up to the first that is not whole. False when that is one whose
    /// length is right.
    fn repeat(
        &mut self,
        mut text: &[u8],
        generation: u64,
        whole: &dyn Fn(&Key) -> bool,
    ) -> Result<bool, StoreError> {
        while let Some((len, rest)) = text.split_first_chunk() {
            let len = u32::from_be_bytes(*len) as usize;
            let Some((sum, rest)) = rest.split_first_chunk::<8>() else {
                break;
            };
            let Some((body, rest)) = rest.split_at_checked(len) else {
                break;
            };
            let told = body.split_first_chunk();
            let Some((of, entries)) = told.filter(|_| check(body) == *sum) else {
                return Ok(false);
            };
            if u64::from_be_bytes(*of) != generation {
                // Of before the last sync, which has it all.
                break;
            }
            self.repeat_record(entries, whole)?;
            text = rest;
        }
        Ok(true)
    }

    fn repeat_record(
        &mut self,
        mut entries: &[u8],
        whole: &dyn Fn(&Key) -> bool,
    ) -> Result<(), StoreError> {
        let unknown = || damaged(OPENING, "an entry that this version does not know");
        while !entries.is_empty() {
            let (head, rest) = entries.split_first_chunk::<5>().ok_or_else(unknown)?;
            let [kind, len @ ..] = *head;
            let len = u32::from_be_bytes(len) as usize;
            let (entry, rest) = rest.split_at_checked(len).ok_or_else(unknown)?;
            self.repeat_entry(kind, entry, whole)?.ok_or_else(unknown)?;
            entries = rest;
        }
        Ok(())
    }

    fn repeat_entry(
        &mut self,
        kind: u8,
        entry: &[u8],
        whole: &dyn Fn(&Key) -> bool,
    ) -> Result<Option<()>, StoreError> {
        if kind == Kind::Register as u8 {
            let register: Register = decode(entry, OPENING)?;
            self.put_register(&register)?;
            return Ok(Some(()));
        }
        if kind == Kind::Reference as u8 {
            let Some((row, value)) = entry.split_first_chunk::<REFERENCE>() else {
                return Ok(None);
            };
            let (key, len, by) = reference(row, value, OPENING)?;
            self.put_reference(&key, len, &by)?;
            return Ok(Some(()));
        }
        let Some((key, value)) = entry.split_first_chunk::<32>() else {
            return Ok(None);
        };
        let key = Key(*key);
        match (Kind::Mark as u8 == kind, Kind::Chunk as u8 == kind) {
            (true, _) if value.is_empty() => self.put_mark(&key, None)?,
            (true, _) => {
                let Ok(bytes) = <&[u8; MARK]>::try_from(value) else {
                    return Ok(None);
                };
                let mark = known_mark(bytes, OPENING)?;
                self.put_mark(&key, Some(&mark))?;
            }
            (_, true) => {
                let Ok(len) = <[u8; 4]>::try_from(value) else {
                    return Ok(None);
                };
                if whole(&key) {
                    self.put_chunk(&key, u32::from_be_bytes(len))?;
                }
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }
}

const OPENING: &str = "reading the journal";

/// The journal, nothing if there is none.
fn bytes(path: &PathBuf) -> Result<Vec<u8>, OpenError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OpenError::io(path)(error)),
        Ok(metadata) if metadata.len() > LONGEST => {
            return Err(OpenError::Damaged {
                path: path.clone(),
                reason: "it is longer than any that a peer writes".into(),
            });
        }
        Ok(_) => {}
    }
    fs::read(path).map_err(OpenError::io(path))
}

/// Another one whenever the machine has been started anew (random(4)).
fn boot() -> Result<Vec<u8>, OpenError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read(path).map_err(OpenError::io(path))
}
