//! Files on their way to the shelf.

use std::collections::HashSet;
use std::sync::Arc;

use peernet_core::key::Key;
use peernet_core::share::{Offer, Wanted};
use tokio::runtime::Handle;

use super::{CHUNKS, Kept, PARTIALS, Shared, Shelf, volume};
use crate::disk::{Chunk, Purpose};
use crate::shares::holding::Holding;
use crate::shares::{CHUNKS_MAX, ShareError};

/// What becomes of a name that this peer has for another content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// The new file takes it: the user says so.
    Replace,
    /// The new file gets another one: it comes from others.
    MakeWay,
}

/// What is shared now.
pub(crate) struct Committed {
    /// The file.
    pub(crate) offer: Offer,
    /// What is on its way here and had that name before.
    pub(crate) moved: Option<Offer>,
    /// A fetch of the same content, which is over.
    pub(crate) gone: Option<Offer>,
    /// The content that had the name before.
    pub(crate) replaced: Option<Key>,
}

/// A file on its way to be shared; given up when dropped.
pub(crate) struct Draft {
    shelf: Arc<Shelf>,
    chunks: HashSet<Key>,
}

impl Draft {
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        let chunks = HashSet::new();
        Draft { shelf, chunks }
    }

    /// Makes a chunk durable.
    pub(crate) fn add(&mut self, chunk: &Chunk) -> Result<(), ShareError> {
        let key = chunk.key();
        if self.chunks.len() >= CHUNKS_MAX {
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

    /// Shares what was added. A fetch of the same content is over with that, one of another content that has the name makes
    /// way.
    pub(crate) fn commit(
        mut self,
        mut shared: Shared,
        taken: Taken,
    ) -> Result<Committed, ShareError> {
        let shelf = self.shelf.clone();
        let layout = shelf.layout(&shared.content)?;
        let _changes = shelf.change();
        let (mut name, content) = (shared.offer.name, shared.offer.content);
        if taken == Taken::MakeWay {
            name = shelf.free_name(name, content)?;
        }
        shared.offer.name = name.clone();
        shelf.check_place(&name)?;
        let moved = shelf.make_way(&name, content)?;
        let key = Key::of_name(&name);
        shelf.files.write(key, &shared).map_err(|e| volume(&e))?;
        self.chunks.clear();
        // Who follows what is here of it is told.
        let known = shelf.kept(&Wanted::Content(content));
        let holding = known.map_or_else(
            || Arc::new(Holding::whole(layout)),
            |(_, holding)| {
                holding.fill();
                holding
            },
        );
        let offer = shared.offer.clone();
        let mut table = shelf.lock();
        table.unread.remove(&shelf.files.path(key));
        let old = table.shares.insert(name, (shared, holding));
        drop(table);
        shelf.release(old.iter().flat_map(|(_, holding)| holding.layout().keys()));
        let gone = shelf.drop_fetch_of(content);
        let replaced = old.map(|(shared, _)| shared.offer.content);
        Ok(Committed {
            offer,
            moved,
            gone,
            replaced,
        })
    }

    /// Begins to bring a content of which only the nodes were added. Its name is another one where this peer has that name
    /// for another content.
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
        shared.offer.name = shelf.free_name(shared.offer.name, content)?;
        if shelf.lock().partials.len() >= PARTIALS {
            return Err(ShareError::Busy);
        }
        shelf
            .partial
            .write(content, &shared)
            .map_err(|e| volume(&e))?;
        self.chunks.clear();
        let kept = (shared, Arc::new(Holding::new(layout, here)));
        let mut table = shelf.lock();
        table.unread.remove(&shelf.partial.path(content));
        table.partials.insert(content, kept.clone());
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
