//! Shared files on this peer's volume, apart from what it holds for the ring.
//!
//! ```text
//! shared/chunks/   chunks as files named by their hash, as beside it
//! shared/files/    one record per shared file, named by the hash of its name
//! shared/partial/  one record per content that is on its way here, named by the content's hash
//! ```
//!
//! The ring's index, repair and collection never see these chunks: they belong to this peer alone. A file's record is put in
//! place (written, synced, renamed) after all its chunks are durable, so a file is shared whole or not at all. A content that
//! others send has its record from the start; which of its pieces are here is seen from the chunks. What a crash leaves
//! without a record is removed at the next start. Chunks that several contents have are kept once, and counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peernet_core::key::{Key, Name};
use peernet_core::share::{Offer, SHARES_MAX, Wanted};
use peernet_core::swarm::pieces::Pieces;
use tokio::runtime::Handle;
use tracing::warn;

use super::ShareError;
use super::holding::{Holding, Layout};
use crate::disk::{Chunk, ChunkError, ChunkFiles, OpenError, Purpose};
use crate::files::record::Content;

mod records;
#[cfg(test)]
mod tests;

use records::Records;

/// Chunks of all shared files of one peer: 256 GiB in chunks of 1 MiB, 20 MiB of memory.
const CHUNKS: usize = 262_144;
/// Contents on their way here at once (guess).
const PARTIALS: usize = 64;

/// A shared file.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// What is published.
    pub(crate) offer: Offer,
    /// Its bytes, or where they are.
    pub(crate) content: Content,
}

/// A shared file and what of it is here.
pub(crate) type Kept = (Shared, Arc<Holding>);

/// See the module's documentation. What writes or deletes blocks; the rest only looks into memory.
pub(crate) struct Shelf {
    chunks: ChunkFiles,
    files: Records,
    partial: Records,
    /// Held while the volume changes, so that nobody begins to use a chunk while it goes. Never by who only looks.
    changes: Mutex<()>,
    /// Never held while the volume is used.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    shares: BTreeMap<Name, Kept>,
    partials: BTreeMap<Key, Kept>,
    /// By chunk, how many contents and drafts have it.
    uses: HashMap<Key, u32>,
}

impl Shelf {
    /// Opens the shared files of the volume at `volume`.
    pub(crate) fn open(volume: &Path, reserve_percent: u8) -> Result<Self, OpenError> {
        let root = volume.join("shared");
        std::fs::create_dir_all(&root).map_err(OpenError::io(&root))?;
        crate::disk::sync_dir(volume).map_err(OpenError::io(volume))?;
        let records = |name| Records::open(&root, name).map_err(OpenError::io(&root));
        let shelf = Shelf {
            chunks: ChunkFiles::open(&root, reserve_percent)?,
            files: records("files")?,
            partial: records("partial")?,
            changes: Mutex::default(),
            table: Mutex::default(),
        };
        for (records, whole) in [(&shelf.files, true), (&shelf.partial, false)] {
            for path in records.list().map_err(OpenError::io(&root))? {
                if let Err(reason) = shelf.load(&path, whole) {
                    warn!(path = %path.display(), "a file is not shared any more: {reason}");
                    std::fs::remove_file(&path).map_err(OpenError::io(&path))?;
                }
            }
        }
        shelf.remove_strays();
        Ok(shelf)
    }

    fn load(&self, path: &Path, whole: bool) -> Result<(), String> {
        let shared = records::read(path)?;
        let layout = self.layout(&shared.content).map_err(|e| e.to_string())?;
        let here = self.look(&layout).map_err(|e| e.to_string())?;
        if whole && !here.is_full() {
            return Err("some of its chunks are missing".into());
        }
        let mut table = self.lock();
        let known = |kept: &Kept| kept.0.offer.content == shared.offer.content;
        if !whole && table.shares.values().any(known) {
            return Err("all of it is here".into());
        }
        for key in layout.keys() {
            *table.uses.entry(key).or_insert(0) += 1;
        }
        let (name, content) = (shared.offer.name.clone(), shared.offer.content);
        let kept = (shared, Arc::new(Holding::new(layout, here)));
        match whole {
            true => table.shares.insert(name, kept),
            false => table.partials.insert(content, kept),
        };
        Ok(())
    }

    fn layout(&self, content: &Content) -> Result<Layout, ShareError> {
        Layout::of(content, |key| Ok(self.chunks.read(key)?.into_data()))
    }

    /// Which pieces are here. They are read, and checked, when they are wanted.
    fn look(&self, layout: &Layout) -> Result<Pieces, ChunkError> {
        let mut here = Pieces::none(layout.pieces().len() as u32);
        for (piece, number) in layout.pieces().iter().zip(0..) {
            if self.chunks.len(&piece.key)? == Some(piece.len) {
                here.insert(number);
            }
        }
        Ok(here)
    }

    /// Removes chunks that no content has.
    fn remove_strays(&self) {
        let table = self.lock();
        for first in 0..=u8::MAX {
            let listed = self.chunks.keys(first).unwrap_or_default();
            for key in listed.iter().filter(|k| !table.uses.contains_key(k)) {
                self.remove_chunk(key);
            }
        }
    }

    fn remove_chunk(&self, key: &Key) {
        if let Err(error) = self.chunks.remove(key) {
            warn!(%key, "a chunk that nobody shares stays until the next start: {error}");
        }
    }

    /// What is here whole, in byte order of the names.
    pub(crate) fn whole(&self) -> Vec<Kept> {
        self.lock().shares.values().cloned().collect()
    }

    /// What is on its way here.
    pub(crate) fn partial(&self) -> Vec<Kept> {
        self.lock().partials.values().cloned().collect()
    }

    /// What is here of that name or content, whole before in part.
    pub(crate) fn kept(&self, wanted: &Wanted) -> Option<Kept> {
        let table = self.lock();
        let fits = |kept: &&Kept| match wanted {
            Wanted::Name(name) => kept.0.offer.name == *name,
            Wanted::Content(content) => kept.0.offer.content == *content,
            Wanted::Words(_) => false,
        };
        let mut all = table.shares.values().chain(table.partials.values());
        all.find(fits).cloned()
    }

    /// Whether a content that is here or on its way has that chunk.
    pub(crate) fn uses(&self, key: &Key) -> bool {
        self.lock().uses.contains_key(key)
    }

    /// A chunk, checked.
    pub(crate) fn read(&self, key: &Key) -> Result<Chunk, ChunkError> {
        self.chunks.read(key)
    }

    /// Waits until a sync has failed; see [`ChunkFiles::failed`].
    pub(crate) async fn failed(&self) -> String {
        self.chunks.failed().await
    }

    /// Begins to share a file.
    pub(crate) fn draft(self: &Arc<Self>) -> Draft {
        Draft {
            shelf: self.clone(),
            chunks: HashSet::new(),
        }
    }

    /// A piece of a content on its way here: durable on return.
    pub(crate) fn arrived(&self, piece: &Chunk) -> Result<(), ChunkError> {
        self.chunks.write(piece, Purpose::Client)
    }

    /// All pieces of a content are here: from now on it is shared as a whole.
    pub(crate) fn finish(&self, content: Key) -> Result<(), ShareError> {
        let _changes = self.change();
        let Some((shared, holding)) = self.lock().partials.get(&content).cloned() else {
            return Ok(());
        };
        let name = shared.offer.name.clone();
        {
            let table = self.lock();
            if table.shares.len() >= SHARES_MAX && !table.shares.contains_key(&name) {
                return Err(ShareError::TooMany);
            }
        }
        self.files
            .write(Key::of_name(&name), &shared)
            .map_err(|e| volume(&e))?;
        self.partial.remove(content).map_err(|e| volume(&e))?;
        let mut table = self.lock();
        table.partials.remove(&content);
        let old = table.shares.insert(name, (shared, holding));
        drop(table);
        self.release(old.iter().flat_map(|(_, holding)| holding.layout().keys()));
        Ok(())
    }

    /// Shares a file no more, or gives up what is on its way; what it was.
    pub(crate) fn remove(&self, name: &Name) -> Result<Option<Offer>, ShareError> {
        let _changes = self.change();
        let Some((shared, holding)) = self.kept(&Wanted::Name(name.clone())) else {
            return Ok(None);
        };
        let content = shared.offer.content;
        if self.lock().shares.contains_key(name) {
            self.files
                .remove(Key::of_name(name))
                .map_err(|e| volume(&e))?;
            self.lock().shares.remove(name);
        } else {
            self.partial.remove(content).map_err(|e| volume(&e))?;
            self.lock().partials.remove(&content);
        }
        self.release(holding.layout().keys());
        Ok(Some(shared.offer))
    }

    /// Gives back chunks; whoever calls holds `changes`.
    fn release(&self, chunks: impl IntoIterator<Item = Key>) {
        for key in chunks {
            let mut table = self.lock();
            let Some(uses) = table.uses.get_mut(&key) else {
                continue;
            };
            *uses -= 1;
            if *uses == 0 {
                table.uses.remove(&key);
                drop(table);
                self.remove_chunk(&key);
            }
        }
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file on its way to be shared; given up when dropped.
pub(crate) struct Draft {
    shelf: Arc<Shelf>,
    chunks: HashSet<Key>,
}

impl Draft {
    /// Makes a chunk durable.
    pub(crate) fn add(&mut self, chunk: &Chunk) -> Result<(), ShareError> {
        let key = chunk.key();
        if self.chunks.len() >= super::CHUNKS_MAX {
            return Err(ShareError::TooLarge);
        }
        self.reserve(key)?;
        Ok(self.shelf.chunks.write(chunk, Purpose::Client)?)
    }

    /// From now on it is not removed while this uses it.
    fn reserve(&mut self, key: Key) -> Result<(), ShareError> {
        if self.chunks.contains(&key) {
            return Ok(());
        }
        let _changes = self.shelf.change();
        let mut table = self.shelf.lock();
        if table.uses.len() >= CHUNKS && !table.uses.contains_key(&key) {
            return Err(ShareError::TooMany);
        }
        *table.uses.entry(key).or_insert(0) += 1;
        self.chunks.insert(key);
        Ok(())
    }

    /// Shares what was added, in the place of what was shared under that name.
    pub(crate) fn commit(mut self, shared: Shared) -> Result<(), ShareError> {
        let shelf = self.shelf.clone();
        let holding = Holding::whole(shelf.layout(&shared.content)?);
        let _changes = shelf.change();
        let name = shared.offer.name.clone();
        {
            let table = shelf.lock();
            if table.shares.len() >= SHARES_MAX && !table.shares.contains_key(&name) {
                return Err(ShareError::TooMany);
            }
        }
        shelf
            .files
            .write(Key::of_name(&name), &shared)
            .map_err(|e| volume(&e))?;
        self.chunks.clear();
        let kept = (shared, Arc::new(holding));
        let old = shelf.lock().shares.insert(name, kept);
        shelf.release(old.iter().flat_map(|(_, holding)| holding.layout().keys()));
        Ok(())
    }

    /// Begins to bring a content of which only the nodes were added. Its name is another one where this peer shares a file
    /// of that name itself.
    pub(crate) fn begin(mut self, mut shared: Shared) -> Result<Kept, ShareError> {
        let shelf = self.shelf.clone();
        let layout = shelf.layout(&shared.content)?;
        for piece in layout.pieces() {
            self.reserve(piece.key)?;
        }
        let here = shelf.look(&layout)?;
        let _changes = shelf.change();
        let content = shared.offer.content;
        if let Some(kept) = shelf.kept(&Wanted::Content(content)) {
            return Ok(kept);
        }
        if shelf
            .kept(&Wanted::Name(shared.offer.name.clone()))
            .is_some()
        {
            shared.offer.name = Name::new(content.to_string())?;
        }
        if shelf.lock().partials.len() >= PARTIALS {
            return Err(ShareError::Busy);
        }
        shelf
            .partial
            .write(content, &shared)
            .map_err(|e| volume(&e))?;
        self.chunks.clear();
        let kept = (shared, Arc::new(Holding::new(layout, here)));
        shelf.lock().partials.insert(content, kept.clone());
        Ok(kept)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let chunks = std::mem::take(&mut self.chunks);
        if chunks.is_empty() {
            return;
        }
        let shelf = self.shelf.clone();
        let give_back = move || {
            let _changes = shelf.change();
            shelf.release(chunks);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(give_back)),
            Err(_) => give_back(),
        }
    }
}

fn volume(error: &io::Error) -> ShareError {
    ShareError::Volume(error.to_string())
}
