//! Records of shared files on the volume.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use peernet_core::key::Key;
use peernet_core::share::Offer;
use peernet_proto::v1;
use prost::Message;
use thiserror::Error;

use super::{Lost, Shared};
use crate::disk::{replace_file, sync_dir};
use crate::files::record::Content;
use crate::wire::Wire;

/// Layout of a record.
const FORMAT: u32 = 1;
/// Largest record: a manifest's root of 44 KiB, a name, tags.
const RECORD_MAX: u64 = 128 * 1024;

/// Why a record is not used.
#[derive(Debug, Error)]
pub(super) enum Unusable {
    /// What it says is not so, and never will be.
    #[error("{0}")]
    Wrong(String),
    /// It could not be read, or not understood, or not all that it needs could be: another time, or another version, may.
    #[error("{0}")]
    Unread(String),
    /// What it is of is known, but not what that consists of: others may know.
    #[error("{1}")]
    Lost(Box<Lost>, String),
}

impl Unusable {
    pub(super) fn wrong(reason: impl ToString) -> Self {
        Unusable::Wrong(reason.to_string())
    }

    pub(super) fn unread(reason: impl ToString) -> Self {
        Unusable::Unread(reason.to_string())
    }

    pub(super) fn lost(offer: Offer, content: Option<Content>, reason: impl ToString) -> Self {
        Unusable::Lost(Box::new(Lost { offer, content }), reason.to_string())
    }
}

/// A folder of records. Calls block.
pub(super) struct Records {
    folder: PathBuf,
    temporary: PathBuf,
}

impl Records {
    /// The folder of that name beside `tmp`, where records are written first.
    pub(super) fn open(root: &Path, name: &str) -> io::Result<Self> {
        let folder = root.join(name);
        fs::create_dir_all(&folder)?;
        sync_dir(root)?;
        let temporary = root.join("tmp");
        Ok(Records { folder, temporary })
    }

    /// Where each record is.
    pub(super) fn list(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.folder)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// Where the record of that key is, if there is one.
    pub(super) fn path(&self, key: Key) -> PathBuf {
        self.folder.join(key.to_string())
    }

    /// Written, synced, renamed.
    pub(super) fn write(&self, key: Key, shared: &Shared) -> io::Result<()> {
        let record = v1::SharedFile {
            format: FORMAT,
            offer: Some(shared.offer.to_wire()),
            body: shared.content.encode(),
        };
        let temporary = self.temporary.join(format!("record-{key}"));
        replace_file(&self.path(key), &temporary, &record.encode_to_vec())
    }

    /// Gone for good, if it was there.
    pub(super) fn remove(&self, key: Key) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => sync_dir(&self.folder),
        }
    }
}

/// Reads a record, or says why not.
pub(super) fn read(path: &Path) -> Result<Shared, Unusable> {
    let len = fs::metadata(path).map_err(Unusable::unread)?.len();
    if len > RECORD_MAX {
        return Err(Unusable::wrong(format!("its record has {len} bytes")));
    }
    let bytes = Bytes::from(fs::read(path).map_err(Unusable::unread)?);
    let v1::SharedFile {
        format,
        offer,
        body,
    } = v1::SharedFile::decode(bytes).map_err(Unusable::wrong)?;
    if format != FORMAT {
        return Err(Unusable::unread(format!(
            "its record has layout {format}, this version reads {FORMAT}"
        )));
    }
    let offer = offer.ok_or_else(|| Unusable::wrong("its record is empty"))?;
    let offer = Offer::from_wire(offer, "offer").map_err(Unusable::wrong)?;
    let content = Content::decode(&body).ok();
    let is_its = |c: &Content| Key(c.etag()) == offer.content && c.size() == offer.size;
    match content.filter(is_its) {
        Some(content) => Ok(Shared { offer, content }),
        None => {
            let reason = "its record does not have the hash it says";
            Err(Unusable::lost(offer, None, reason))
        }
    }
}
