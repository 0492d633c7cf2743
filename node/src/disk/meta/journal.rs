//! What is in the journal first, and in the database later.
//!
//! A commit that holds nothing but names, marks, chunks and references is not made by the database: its transaction stays
//! open, and what was done is written to a file, `journal`, with one write. Where writes are synced
//! ([`Durability::Synced`]) that is followed by one sync of this file, which costs a fraction of a commit of the database
//! with its five trees; where they are only written there is none. The database on the disk stays what its last commit has
//! made it, whole at any time. A process that dies leaves the journal, and the next one does again what it tells. Every
//! other write, a long journal, and time ([`Durability::delay`]) end in a commit of the database: chunks first, then the
//! transaction, then the journal begins anew.
//!
//! ```text
//! journal := record*          record := length: u32, check: [u8; 8], body        all numbers big-endian
//! body    := generation: u64, (kind: u8, length: u32, bytes)*                     check: BLAKE3 of the body, cut
//! ```
//!
//! The database tells which generation follows on it, and how it is written:
//!
//! - *Each record synced* (no boot is named). A record is written when the one before it is on the disk, and acknowledged
//!   when it is there itself. So there is at most one that is not whole, which nobody was told of, and none of its
//!   generation comes after it: one that does proves that what is between has rotted, and the volume is refused. All that
//!   was acknowledged is there, also after the power has failed. The file is written over from its beginning by each
//!   generation (`file`); what an older one has left is not read (`records`).
//! - *Written only*, under a boot of the machine (Linux has a number for it). Under the same boot the journal is whole, but
//!   for a last record that its process was killed in, and had acknowledged to nobody. Under another boot the power may have
//!   failed: the records that are whole are still done again, up to the first that is not, since a beginning of what was done
//!   is a state that the peer was in; chunks are looked at one by one. What came after is forgotten, and the store says so
//!   until it is told that the peer has caught up ([`DiskStore::is_behind`]).

use std::io;
use std::sync::Arc;
use std::time::Instant;

use peernet_core::collect::Referrer;
use peernet_core::key::Key;
use peernet_core::outbox::Pending;
use peernet_core::store::{Store, StoreError};
use redb::ReadableTable;

use super::rows::{by_chunk, mark_bytes, reference_value};
use super::tables::{BEHIND, JOURNAL, META};
use super::{DiskStore, begin, failed};
use crate::disk::late::{Durability, Late};

mod file;
mod records;
mod replay;

pub(super) use file::Journal;

/// What an entry of a record does.
#[derive(Clone, Copy)]
enum Kind {
    Register = 1,
    Mark = 2,
    Chunk = 3,
    Reference = 4,
}

/// What the database tells of the journal.
struct Follows {
    generation: u64,
    /// Under which boot it is written; empty where each record is synced.
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

const OPENING: &str = "reading the journal";

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
        let (key, value) = (by_chunk(key, by), reference_value(len, by));
        self.log(Kind::Reference, &[&key, &value]);
    }

    fn log(&mut self, kind: Kind, parts: &[&[u8]]) {
        self.dirty = true;
        match &mut self.journal {
            Some(journal) if !self.strict => journal.add(kind, parts),
            // A sync will have it.
            _ => {}
        }
    }

    /// Commits through the journal, if that may be; false if the database has to.
    ///
    /// A journal that cannot be written is left to the database's commit, after which it begins anew. One that cannot be
    /// synced is final: what the disk has of it nobody knows.
    pub(super) fn write_ahead(&mut self) -> Result<bool, StoreError> {
        let may = !self.strict && self.armed;
        let Some(journal) = self.journal.as_mut().filter(|j| may && j.has_room()) else {
            return Ok(false);
        };
        if let Err(error) = journal.write() {
            tracing::warn!("the journal cannot be written, so the database commits: {error}");
            return Ok(false);
        }
        if let Err(error) = journal.sync() {
            self.pending = None;
            return Err(StoreError {
                action: "syncing the journal",
                reason: error.to_string(),
            });
        }
        self.ahead.get_or_insert_with(Instant::now);
        self.dirty = false;
        Ok(true)
    }

    /// What is committed next has to be on the disk, and all before it, even if there is nothing of its own to write:
    /// somebody acts on what this peer is about to say in a way that cannot be undone. Where each commit is synced there is
    /// nothing to ask for.
    pub fn require_sync(&mut self) {
        self.strict |= self.durability == Durability::Written;
    }

    /// The next commit is one of the database, and leaves nothing to the journal.
    pub fn require_checkpoint(&mut self) {
        self.strict = true;
    }

    /// The volume's chunks, as far as they wait for a sync.
    pub(crate) fn late(&self) -> Arc<Late> {
        self.late.clone()
    }

    /// When the database should take over what the journal has; `None` when that is nothing.
    pub fn sync_due(&self) -> Option<Instant> {
        self.ahead.map(|since| since + self.durability.delay())
    }

    /// Makes everything durable, the chunks first, and leaves nothing to the journal.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let follows = self.journal.as_ref().map(Journal::next_generation);
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
        (self.dirty, self.strict, self.ahead) = (false, false, None);
        self.armed = follows.is_some();
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.restart(follows.unwrap_or(journal.next_generation()))
        {
            tracing::warn!(
                "the journal cannot be used, so the database makes every commit: {error}"
            );
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
}
