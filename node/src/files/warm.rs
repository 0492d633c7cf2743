//! What copies beside the ring's need of a stored file: what it consists of, and its chunks.

use peernet_core::collect::upload_of;
use peernet_core::key::{Key, Name};
use tokio_util::task::AbortOnDropHandle;

use super::record::{Content, Summary};
use super::{FileError, Files, open};
use crate::disk::Chunk;

/// A stored file; its chunks are not collected as long as this lives.
pub(crate) struct Stored {
    /// What is known of it.
    pub(crate) summary: Summary,
    /// Its bytes, or where they are.
    pub(crate) content: Content,
    _kept: Option<AbortOnDropHandle<()>>,
}

impl Files {
    /// A stored file, for one who copies it.
    pub(crate) async fn stored(&self, name: Name) -> Result<Stored, FileError> {
        let (register, _) = self.peer.hold_name(name.clone(), None).await?;
        let upload = register.as_ref().and_then(|r| upload_of(&r.value));
        let (summary, content) = open(&name, register)?;
        let _kept = upload.map(|upload| self.keep(name, upload));
        Ok(Stored {
            summary,
            content,
            _kept,
        })
    }

    /// A chunk, verified, from whoever has it.
    pub(crate) async fn chunk(&self, key: Key) -> Result<Chunk, FileError> {
        self.fetch(key).await
    }

    /// A chunk of a file that is here beside the ring's, if there is one.
    pub(super) async fn warm(&self, key: Key) -> Option<Chunk> {
        if !self.shelf.uses(&key) {
            return None;
        }
        let shelf = self.shelf.clone();
        let read = tokio::task::spawn_blocking(move || shelf.read(&key)).await;
        // Not there yet, or damaged: the ring has it.
        read.ok()?.ok()
    }
}
