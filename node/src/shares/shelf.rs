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
//!
//! A name is that of one content, here or on its way: what a user shares takes it, and what comes from others makes way. A
//! record that cannot be read or understood, or whose manifest is lost, is kept ([`unread`]), and while there is one no chunk
//! goes, since it may be of that file.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peernet_core::key::{InvalidName, Key, Name};
use peernet_core::share::{Offer, SHARES_MAX, Wanted};
use peernet_core::swarm::pieces::Pieces;
use tracing::{debug, info, warn};

use super::ShareError;
use super::holding::{Holding, Layout};
use crate::chunks;
use crate::disk::{Chunk, ChunkError, ChunkFiles, OpenError, Purpose};
use crate::files::record::Content;

mod draft;
mod records;
#[cfg(test)]
mod tests;
mod unread;

pub(crate) use draft::{Committed, Draft, Taken};
use records::{Records, Unusable};
pub(crate) use unread::{Healed, Lost, Unread};

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
    /// Records that are there, and of no use now.
    unread: HashMap<PathBuf, Unread>,
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
                shelf.take_in(&path, whole).map_err(OpenError::io(&path))?;
            }
        }
        shelf.remove_strays();
        Ok(shelf)
    }

    fn load(&self, path: &Path, whole: bool) -> Result<Kept, Unusable> {
        let mut shared = records::read(path).map_err(|unusable| match unusable {
            // It can be fetched anew.
            Unusable::Lost(_, reason) if !whole => Unusable::Wrong(reason),
            // Rot, as far as one knows, and the user's word is not ended by that.
            Unusable::Wrong(reason) if whole => Unusable::Unread(reason),
            Unusable::Lost(lost, _) if !self.is_its(path, &lost.offer) => misnamed(),
            unusable => unusable,
        })?;
        if whole && !self.is_its(path, &shared.offer) {
            return Err(misnamed());
        }
        let layout = self.layout(&shared.content).map_err(|error| match error {
            // Its nodes have the hashes they should have.
            ShareError::Manifest(_) | ShareError::TooLarge => Unusable::wrong(error),
            // Nobody was told that it is here, and it can be fetched anew.
            ShareError::Chunk(chunks::ChunkError::Missing | chunks::ChunkError::Damaged)
                if !whole =>
            {
                Unusable::wrong(error)
            }
            ShareError::Chunk(
                node @ (chunks::ChunkError::Missing | chunks::ChunkError::Damaged),
            ) => {
                let Shared { offer, content } = shared.clone();
                Unusable::lost(offer, Some(content), format!("of a chunk of it, {node}"))
            }
            error => Unusable::unread(error),
        })?;
        let here = self.look(&layout).map_err(Unusable::unread)?;
        let content = shared.offer.content;
        if !whole {
            let known = |kept: &Kept| kept.0.offer.content == content;
            if self.lock().shares.values().any(known) {
                return Err(Unusable::wrong("all of it is here"));
            }
            let name = self.free_name(shared.offer.name, content);
            shared.offer.name = name.map_err(Unusable::wrong)?;
        }
        let name = shared.offer.name.clone();
        // What is brought for one name is there for all.
        let known = self.kept(&Wanted::Content(content));
        let holding = known.map_or_else(|| Arc::new(Holding::new(layout, here)), |known| known.1);
        if whole && holding.missing() > 0 {
            info!(%name, missing = holding.missing(), "lacks some of its chunks, which others may have");
        }
        let mut table = self.lock();
        for key in holding.layout().keys() {
            *table.uses.entry(key).or_insert(0) += 1;
        }
        let kept = (shared, holding);
        match whole {
            true => table.shares.insert(name, kept.clone()),
            false => table.partials.insert(content, kept.clone()),
        };
        Ok(kept)
    }

    /// Whether the record of a share is where that of such an offer would be.
    fn is_its(&self, path: &Path, offer: &Offer) -> bool {
        self.files.path(Key::of_name(&offer.name)) == path
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
        if !table.unread.is_empty() {
            return;
        }
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

    /// What is shared from here, in byte order of the names; whole but for what was lost.
    pub(crate) fn whole(&self) -> Vec<Kept> {
        self.lock().shares.values().cloned().collect()
    }

    /// What is on its way here.
    pub(crate) fn partial(&self) -> Vec<Kept> {
        self.lock().partials.values().cloned().collect()
    }

    /// What is not shared as a whole: it lacks something, or this peer stopped when the last piece had come.
    pub(crate) fn unfinished(&self) -> Vec<Kept> {
        let table = self.lock();
        let lacking = table.shares.values().filter(|kept| kept.1.missing() > 0);
        lacking.chain(table.partials.values()).cloned().collect()
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

    /// All names under which a content is here or on its way.
    pub(crate) fn offers_of(&self, content: Key) -> Vec<Offer> {
        let table = self.lock();
        let all = table.shares.values().chain(table.partials.values());
        let offers = all.map(|(shared, _)| &shared.offer);
        let its = offers.filter(|offer| offer.content == content);
        its.cloned().collect()
    }

    /// Whether a content is on its way here; also when nothing of it is missing any more.
    pub(crate) fn is_coming(&self, content: Key) -> bool {
        self.lock().partials.contains_key(&content)
    }

    /// What is on its way here under that name.
    pub(crate) fn coming(&self, name: &Name) -> Option<Key> {
        let table = self.lock();
        let named = |kept: &&Kept| kept.0.offer.name == *name;
        let found = table.partials.values().find(named);
        found.map(|(shared, _)| shared.offer.content)
    }

    /// Whether a content is here, or on its way, under another name too.
    pub(crate) fn is_kept_besides(&self, content: Key, name: &Name) -> bool {
        let table = self.lock();
        let mut all = table.shares.values().chain(table.partials.values());
        all.any(|(shared, _)| shared.offer.content == content && shared.offer.name != *name)
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
        Draft::new(self.clone())
    }

    /// A piece of a content on its way here: durable on return. One whose content was given up while it came leaves nothing.
    pub(crate) fn arrived(&self, piece: &Chunk) -> Result<(), ChunkError> {
        let key = piece.key();
        self.chunks.write(piece, Purpose::Client)?;
        if !self.uses(&key) {
            let _changes = self.change();
            // Nobody begins to use it meanwhile.
            if !self.uses(&key) {
                self.remove_chunk(&key);
            }
        }
        Ok(())
    }

    /// From now on a content is shared as a whole, if all of its pieces are here: false when one was lost meanwhile. Nothing
    /// is left to do for one that is not on its way, being shared already or given up.
    pub(crate) fn finish(&self, content: Key) -> Result<bool, ShareError> {
        let _changes = self.change();
        let Some((mut shared, holding)) = self.lock().partials.get(&content).cloned() else {
            let kept = self.kept(&Wanted::Content(content));
            return Ok(kept.is_none_or(|(_, holding)| holding.here().is_full()));
        };
        if !holding.here().is_full() {
            return Ok(false);
        }
        shared.offer.name = self.free_name(shared.offer.name, content)?;
        let name = shared.offer.name.clone();
        self.check_place(&name)?;
        self.files
            .write(Key::of_name(&name), &shared)
            .map_err(|e| volume(&e))?;
        self.partial.remove(content).map_err(|e| volume(&e))?;
        let mut table = self.lock();
        table.partials.remove(&content);
        let old = table.shares.insert(name, (shared, holding));
        drop(table);
        self.release(old.iter().flat_map(|(_, holding)| holding.layout().keys()));
        Ok(true)
    }

    /// Shares a file no more, or gives up what is on its way; whether there was one.
    pub(crate) fn remove(&self, name: &Name) -> Result<bool, ShareError> {
        let _changes = self.change();
        let table = self.lock();
        let path = self.files.path(Key::of_name(name));
        let (share, unread) = (
            table.shares.contains_key(name),
            table.unread.contains_key(&path),
        );
        drop(table);
        if share || unread {
            self.files
                .remove(Key::of_name(name))
                .map_err(|e| volume(&e))?;
            let mut table = self.lock();
            table.unread.remove(&path);
            let gone = table.shares.remove(name);
            drop(table);
            self.release(gone.iter().flat_map(|(_, holding)| holding.layout().keys()));
            return Ok(true);
        }
        match self.coming(name) {
            Some(content) => Ok(self.drop_partial(content)?.is_some()),
            None => Ok(false),
        }
    }

    /// Gives up a content that is on its way, and says what it was. Nothing that is shared from here goes.
    pub(crate) fn give_up(&self, content: Key) -> Result<Option<Offer>, ShareError> {
        let _changes = self.change();
        self.drop_partial(content)
    }

    /// A fetch of a content that is shared from here now is over. Whoever calls holds `changes`, as for all below.
    fn drop_fetch_of(&self, content: Key) -> Option<Offer> {
        self.drop_partial(content).unwrap_or_else(|error| {
            warn!(%content, "the record of its fetch stays until the next start: {error}");
            None
        })
    }

    fn drop_partial(&self, content: Key) -> Result<Option<Offer>, ShareError> {
        if !self.lock().partials.contains_key(&content) {
            return Ok(None);
        }
        self.partial.remove(content).map_err(|e| volume(&e))?;
        let gone = self.lock().partials.remove(&content);
        self.release(gone.iter().flat_map(|(_, holding)| holding.layout().keys()));
        Ok(gone.map(|(shared, _)| shared.offer))
    }

    /// A fetch that has that name for another content goes on under another one; what it is now.
    fn make_way(&self, name: &Name, content: Key) -> Result<Option<Offer>, ShareError> {
        let other = |kept: &&Kept| kept.0.offer.name == *name && kept.0.offer.content != content;
        let found = self.lock().partials.values().find(other).cloned();
        let Some((mut shared, holding)) = found else {
            return Ok(None);
        };
        let offer = &mut shared.offer;
        offer.name = self.other_name(name, offer.content)?;
        let moved = offer.clone();
        self.partial
            .write(moved.content, &shared)
            .map_err(|e| volume(&e))?;
        let kept = (shared, holding);
        self.lock().partials.insert(moved.content, kept);
        Ok(Some(moved))
    }

    /// That name, or another one if it is not this content's.
    fn free_name(&self, name: Name, content: Key) -> Result<Name, InvalidName> {
        match self.is_taken(&name, content) {
            true => self.other_name(&name, content),
            false => Ok(name),
        }
    }

    /// A name for a content that may not have `taken`: its hash, unless somebody calls another content that.
    fn other_name(&self, taken: &Name, content: Key) -> Result<Name, InvalidName> {
        let mut other = Name::new(content.to_string())?;
        let mut number = 2;
        while other == *taken || self.is_taken(&other, content) {
            other = Name::new(format!("{content}-{number}"))?;
            number += 1;
        }
        Ok(other)
    }

    fn is_taken(&self, name: &Name, content: Key) -> bool {
        let table = self.lock();
        let other = |kept: &Kept| kept.0.offer.name == *name && kept.0.offer.content != content;
        table.shares.get(name).is_some_and(other)
            || table.partials.values().any(other)
            || table
                .unread
                .contains_key(&self.files.path(Key::of_name(name)))
    }

    /// There is a place for one more file, or it has that name.
    fn check_place(&self, name: &Name) -> Result<(), ShareError> {
        let table = self.lock();
        match table.shares.len() < SHARES_MAX || table.shares.contains_key(name) {
            true => Ok(()),
            false => Err(ShareError::TooMany),
        }
    }

    /// Gives back chunks.
    fn release(&self, chunks: impl IntoIterator<Item = Key>) {
        for key in chunks {
            let mut table = self.lock();
            let Some(uses) = table.uses.get_mut(&key) else {
                continue;
            };
            *uses -= 1;
            if *uses == 0 {
                table.uses.remove(&key);
                let unsure = !table.unread.is_empty();
                drop(table);
                match unsure {
                    true => {
                        debug!(%key, "a chunk stays, since a record that was not read may need it")
                    }
                    false => self.remove_chunk(&key),
                }
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

/// Rot in its name: it must not be offered under another one.
fn misnamed() -> Unusable {
    Unusable::unread("its record is that of another name")
}

fn volume(error: &io::Error) -> ShareError {
    ShareError::Volume(error.to_string())
}
