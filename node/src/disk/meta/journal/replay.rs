//! Opening a volume with a journal: what it tells is done again, and is in the database before anything else happens.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use peernet_core::key::Key;
use peernet_core::register::Register;
use peernet_core::store::{Store, StoreError};
use redb::ReadableTable;

use super::file::{Journal, LONGEST};
use super::records::Records;
use super::{Follows, Kind, OPENING};
use crate::disk::OpenError;
use crate::disk::late::Durability;
use crate::disk::meta::rows::{MARK, REFERENCE, decode, reference};
use crate::disk::meta::tables::{BEHIND, JOURNAL, META};
use crate::disk::meta::{DiskStore, damaged, failed, known_mark};

/// What may be missing from a journal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A record that was never acknowledged: each was synced.
    Synced,
    /// The same, since the system that has it still runs.
    SameBoot,
    /// What the system had not written when the power failed.
    OtherBoot,
}

impl DiskStore {
    /// Does again what an earlier process did and the database has not, and begins a journal of its own. `whole`: whether a
    /// chunk's file is here and whole.
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
        if let Some(follows) = self.follows().map_err(failing)? {
            let trust = match follows.boot.is_empty() {
                true => Trust::Synced,
                false if follows.boot == boot()? => Trust::SameBoot,
                false => Trust::OtherBoot,
            };
            let text = bytes(&path, trust)?;
            let rotten = self.repeat(&text, follows.generation, trust, &whole);
            if let Some(reason) = rotten.map_err(failing)? {
                return Err(damage(&path, reason));
            }
            if trust == Trust::OtherBoot {
                tracing::warn!(
                    "this machine was started anew since this peer ended, or is another one: the last second of what \
                     was acknowledged may be lost here; it is compared with the other replicas first"
                );
                self.note_behind().map_err(failing)?;
            }
            if trust != Trust::Synced {
                // The process before may have left chunks that only the system has.
                self.late.note();
            }
            self.armed = true;
            self.rest().map_err(failing)?;
        }
        self.durability = durability;
        if durability == Durability::Written {
            self.boot = boot()?;
        }
        let faults = self.late.faults().clone();
        let journal = Journal::open(&path, durability, faults).map_err(OpenError::io(&path))?;
        self.journal = Some(journal);
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

    /// Does again what the records of a generation tell, up to the first that is not whole. Says why, when that is one
    /// which must have been whole.
    fn repeat(
        &mut self,
        text: &[u8],
        generation: u64,
        trust: Trust,
        whole: &dyn Fn(&Key) -> bool,
    ) -> Result<Option<&'static str>, StoreError> {
        let whole = match trust {
            Trust::Synced | Trust::SameBoot => &|_: &Key| true,
            Trust::OtherBoot => whole,
        };
        let mut records = Records::new(text, generation);
        for entries in records.by_ref() {
            self.repeat_record(entries, whole)?;
        }
        Ok(match trust {
            Trust::Synced if records.begins_after() => {
                Some("it goes on after a later state of the database than the one that is there")
            }
            Trust::Synced if records.more() => {
                Some("a record of it is not what was written, and one that was written later is")
            }
            Trust::SameBoot if records.spoilt() => {
                Some("a record of it has not the checksum that it should have")
            }
            Trust::Synced | Trust::SameBoot | Trust::OtherBoot => None,
        })
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

/// The journal. Where there is none, and may be none, that is nothing.
fn bytes(path: &Path, trust: Trust) -> Result<Vec<u8>, OpenError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => match trust {
            Trust::Synced => Err(damage(path, "the database says that it goes on there")),
            Trust::SameBoot | Trust::OtherBoot => Ok(Vec::new()),
        },
        Err(error) => Err(OpenError::io(path)(error)),
        Ok(metadata) if metadata.len() > LONGEST => {
            Err(damage(path, "it is longer than any that a peer writes"))
        }
        Ok(_) => fs::read(path).map_err(OpenError::io(path)),
    }
}

fn damage(path: &Path, reason: &str) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Another one whenever the machine has been started anew (random(4)).
fn boot() -> Result<Vec<u8>, OpenError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read(path).map_err(OpenError::io(path))
}
