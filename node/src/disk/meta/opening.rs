//! Opening the database: of our format, whole, and not in use by another process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peernet_proto::v1;
use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableHandle};

use super::begin;
use super::tables::{FORMAT_ENTRY, META};
use crate::disk::OpenError;
use crate::disk::faulty::FaultyFile;
use crate::faults::DiskFaults;

/// Layout of the volume. Raised whenever an older version could misread it.
const FORMAT: u32 = 5;
/// Memory for pages of the database, bytes. Guess: the upper levels of its trees, for a million names; the rest is in the
/// system's cache.
const CACHE: usize = 32 * 1024 * 1024;

/// Opens the database and makes sure that every page has the checksum its parent says.
///
/// redb believes the first page that it reads, and panics where that has rotted into what cannot be: that is damage too.
pub(super) fn checked(path: &Path, faults: &Arc<DiskFaults>) -> Result<Database, OpenError> {
    let opening = AssertUnwindSafe(|| read_whole(path, faults));
    catch_unwind(opening).unwrap_or_else(|_| Err(damage(path, "its pages make no sense".into())))
}

fn read_whole(path: &Path, faults: &Arc<DiskFaults>) -> Result<Database, OpenError> {
    let reading = |error: DatabaseError| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
        DatabaseError::Storage(StorageError::Corrupted(reason)) => damage(path, reason),
        other => OpenError::Database {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    };
    // After a crash all pages are checked anyway.
    let recovered = Arc::new(AtomicBool::new(false));
    let (noticed, mut builder) = (recovered.clone(), Database::builder());
    builder
        .set_cache_size(CACHE)
        .set_repair_callback(move |_| noticed.store(true, Ordering::Relaxed));
    let mut database = if faults.touch_meta() {
        let file = FaultyFile::open(path, faults.clone()).map_err(reading)?;
        builder.create_with_backend(file)
    } else {
        builder.create(path)
    }
    .map_err(reading)?;
    if recovered.load(Ordering::Relaxed) {
        return Ok(database);
    }
    match database.check_integrity() {
        Ok(true) => Ok(database),
        // It would go back to an older commit, and so take back what was promised since.
        Ok(false) => Err(damage(path, "only an earlier state is whole".into())),
        Err(error) => Err(reading(error)),
    }
}

fn damage(path: &Path, reason: String) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        reason,
    }
}

/// Refuses a database of another format, and marks a new one with ours.
pub(super) fn check_format(database: &Database, path: &Path) -> Result<(), OpenError> {
    let failed = |e: redb::Error| OpenError::Database {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let reading = database.begin_read().map_err(|e| failed(e.into()))?;
    let tables: Vec<_> = reading
        .list_tables()
        .map_err(|e| failed(e.into()))?
        .collect();
    if tables.is_empty() {
        let writing = begin(database).map_err(|e| OpenError::Database {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        let format = v1::Format {
            version: FORMAT,
            created_by: concat!("peernet ", env!("CARGO_PKG_VERSION")).into(),
        };
        let mut meta = writing.open_table(META).map_err(|e| failed(e.into()))?;
        meta.insert(FORMAT_ENTRY, format.encode_to_vec().as_slice())
            .map_err(|e| failed(e.into()))?;
        drop(meta);
        return writing.commit().map_err(|e| failed(e.into()));
    }
    if !tables.iter().any(|t| t.name() == META.name()) {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    let meta = reading.open_table(META).map_err(|e| failed(e.into()))?;
    let value = meta.get(FORMAT_ENTRY).map_err(|e| failed(e.into()))?;
    let format = value.and_then(|v| v1::Format::decode(v.value()).ok());
    match format
        .ok_or_else(|| OpenError::Foreign(path.to_owned()))?
        .version
    {
        FORMAT => Ok(()),
        found => Err(OpenError::Format {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }),
    }
}
