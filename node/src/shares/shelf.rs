//! Shared files on this peer's volume, apart from what it holds for the ring.
//!
//! ```text
//! shared/chunks/   chunks as files named by their hash, as beside it
//! shared/files/    one record per shared file, named by the hash of its name
//! ```
//!
//! The ring's index, repair and collection never see these chunks: they belong to this peer alone. A record is put in
//! place (written, synced, renamed) after all its chunks are durable, so a file is shared whole or not at all; what a crash
//! leaves without a record is removed at the next start. Chunks that several shares have are kept once, and counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use peernet_core::key::{Key, Name};
use peernet_core::share::{Offer, SHARES_MAX};
use peernet_proto::v1;
use prost::Message;
use tokio::runtime::Handle;
use tracing::warn;

use super::ShareError;
use crate::disk::{ChunkError, ChunkFiles, OpenError, Purpose, sync_dir};
use crate::files::manifest::{ChunkRef, Step, Walk};
use crate::files::record::Content;
use crate::wire::Wire;

/// Layout of a record.
const FORMAT: u32 = 1;
/// Chunks of all shared files of one peer: 256 GiB in chunks of 1 MiB, 20 MiB of memory.
const CHUNKS: usize = 262_144;
/// Largest record: a manifest's root of 44 KiB, a name, tags.
const RECORD_MAX: u64 = 128 * 1024;

/// A shared file.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// What is published.
    pub(crate) offer: Offer,
    /// Its bytes, or where they are.
    pub(crate) content: Content,
}

/// See the module's documentation. Calls block.
pub(crate) struct Shelf {
    chunks: ChunkFiles,
    root: PathBuf,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Each with its chunks, nodes included, each once.
    shares: BTreeMap<Name, (Shared, Vec<Key>)>,
    /// By chunk, how many shares and drafts have it.
    uses: HashMap<Key, u32>,
}

impl Shelf {
    /// Opens the shared files of the volume at `volume`.
    pub(crate) fn open(volume: &Path, reserve_percent: u8) -> Result<Self, OpenError> {
        let root = volume.join("shared");
        let records = root.join("files");
        fs::create_dir_all(&records).map_err(OpenError::io(&records))?;
        sync_dir(volume).map_err(OpenError::io(volume))?;
        let shelf = Shelf {
            chunks: ChunkFiles::open(&root, reserve_percent)?,
            root,
            table: Mutex::default(),
        };
        for entry in fs::read_dir(&records).map_err(OpenError::io(&records))? {
            let path = entry.map_err(OpenError::io(&records))?.path();
            if let Err(reason) = shelf.load(&path) {
                warn!(path = %path.display(), "a file is not shared any more: {reason}");
                fs::remove_file(&path).map_err(OpenError::io(&path))?;
            }
        }
        shelf.remove_strays();
        Ok(shelf)
    }

    fn load(&self, path: &Path) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let len = fs::metadata(path).map_err(|e| text(&e))?.len();
        if len > RECORD_MAX {
            return Err(format!("its record has {len} bytes"));
        }
        let bytes = Bytes::from(fs::read(path).map_err(|e| text(&e))?);
        let v1::SharedFile {
            format,
            offer,
            body,
        } = v1::SharedFile::decode(bytes).map_err(|e| text(&e))?;
        if format != FORMAT {
            return Err(format!(
                "its record has layout {format}, this version reads {FORMAT}"
            ));
        }
        let offer = offer.ok_or("its record is empty")?;
        let offer = Offer::from_wire(offer, "offer").map_err(|e| text(&e))?;
        let content = Content::decode(&body).map_err(|e| text(&e))?;
        if Key(content.etag()) != offer.content || content.size() != offer.size {
            return Err("its record does not have the hash it says".into());
        }
        let chunks = self.chunks_of(&content)?;
        for key in &chunks {
            if self.chunks.len(key).map_err(|e| text(&e))?.is_none() {
                return Err(format!("chunk {key} of it is missing"));
            }
        }
        let mut table = self.lock();
        for key in &chunks {
            *table.uses.entry(*key).or_insert(0) += 1;
        }
        let name = offer.name.clone();
        table
            .shares
            .insert(name, (Shared { offer, content }, chunks));
        Ok(())
    }

    /// Every chunk of a content, nodes included, each once.
    fn chunks_of(&self, content: &Content) -> Result<Vec<Key>, String> {
        let Content::Chunks(manifest) = content else {
            return Ok(Vec::new());
        };
        let mut walk = Walk::new(manifest, 0..manifest.size());
        let mut keys = HashSet::new();
        while let Some(step) = walk.step().map_err(|e| e.to_string())? {
            match step {
                Step::Piece(ChunkRef { key, .. }, _) => keys.insert(key),
                Step::Node(node) => {
                    let data = self.chunks.read(&node.key).map_err(|e| e.to_string())?;
                    walk.enter(data).map_err(|e| e.to_string())?;
                    keys.insert(node.key)
                }
            };
        }
        Ok(keys.into_iter().collect())
    }

    /// Removes chunks that no share has.
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

    /// What is shared, in byte order of the names.
    pub(crate) fn offers(&self) -> Vec<Offer> {
        let table = self.lock();
        table.shares.values().map(|s| s.0.offer.clone()).collect()
    }

    /// A shared file.
    pub(crate) fn named(&self, name: &Name) -> Option<Shared> {
        self.lock().shares.get(name).map(|s| s.0.clone())
    }

    /// A shared file of this content.
    pub(crate) fn of_content(&self, content: Key) -> Option<Shared> {
        let table = self.lock();
        let mut all = table.shares.values().map(|s| &s.0);
        all.find(|s| s.offer.content == content).cloned()
    }

    /// A chunk's bytes, checked.
    pub(crate) fn read(&self, key: &Key) -> Result<Bytes, ChunkError> {
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

    /// Shares it no more; what it was.
    pub(crate) fn remove(&self, name: &Name) -> Result<Option<Offer>, ShareError> {
        let mut table = self.lock();
        if !table.shares.contains_key(name) {
            return Ok(None);
        }
        match fs::remove_file(self.record(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(volume(&error)),
            _ => {}
        }
        sync_dir(&self.root.join("files")).map_err(|e| volume(&e))?;
        let (shared, chunks) = table.shares.remove(name).ok_or(ShareError::TooMany)?;
        self.release(&mut table, chunks);
        Ok(Some(shared.offer))
    }

    /// Gives back chunks; the lock is held while files go, so that nobody begins to use one meanwhile.
    fn release(&self, table: &mut Table, chunks: impl IntoIterator<Item = Key>) {
        for key in chunks {
            if let Some(uses) = table.uses.get_mut(&key) {
                *uses -= 1;
                if *uses == 0 {
                    table.uses.remove(&key);
                    self.remove_chunk(&key);
                }
            }
        }
    }

    fn record(&self, name: &Name) -> PathBuf {
        let file = Key::of_name(name).to_string();
        self.root.join("files").join(file)
    }

    fn write_record(&self, shared: &Shared) -> io::Result<()> {
        let record = v1::SharedFile {
            format: FORMAT,
            offer: Some(shared.offer.to_wire()),
            body: shared.content.encode(),
        };
        let path = self.record(&shared.offer.name);
        let temporary = self
            .root
            .join("tmp")
            .join(format!("record-{}", Key::of_name(&shared.offer.name)));
        let mut file = File::create(&temporary)?;
        file.write_all(&record.encode_to_vec())?;
        file.sync_data()?;
        fs::rename(&temporary, &path)?;
        sync_dir(&self.root.join("files"))
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
    pub(crate) fn add(&mut self, key: Key, data: &Bytes) -> Result<(), ShareError> {
        if self.chunks.len() >= super::CHUNKS_MAX {
            return Err(ShareError::TooLarge);
        }
        if self.chunks.insert(key) {
            let mut table = self.shelf.lock();
            let full = table.uses.len() >= CHUNKS && !table.uses.contains_key(&key);
            if full {
                self.chunks.remove(&key);
                return Err(ShareError::TooMany);
            }
            *table.uses.entry(key).or_insert(0) += 1;
        }
        Ok(self.shelf.chunks.write(&key, data, Purpose::Client)?)
    }

    /// Shares what was added, in the place of what was shared under that name.
    pub(crate) fn commit(mut self, shared: Shared) -> Result<(), ShareError> {
        let shelf = self.shelf.clone();
        let name = shared.offer.name.clone();
        let mut table = shelf.lock();
        if table.shares.len() >= SHARES_MAX && !table.shares.contains_key(&name) {
            drop(table);
            return Err(ShareError::TooMany);
        }
        if let Err(error) = shelf.write_record(&shared) {
            drop(table);
            return Err(volume(&error));
        }
        let chunks: Vec<Key> = std::mem::take(&mut self.chunks).into_iter().collect();
        if let Some((_, old)) = table.shares.insert(name, (shared, chunks)) {
            shelf.release(&mut table, old);
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let chunks = std::mem::take(&mut self.chunks);
        if chunks.is_empty() {
            return;
        }
        let shelf = self.shelf.clone();
        let give_back = move || shelf.release(&mut shelf.lock(), chunks);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(give_back)),
            Err(_) => give_back(),
        }
    }
}

fn volume(error: &io::Error) -> ShareError {
    ShareError::Volume(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::manifest::TreeBuilder;

    fn share(shelf: &Arc<Shelf>, name: &str, parts: &[&'static str]) -> Result<Key, ShareError> {
        let (mut draft, mut tree, mut nodes) = (shelf.draft(), TreeBuilder::new(9), Vec::new());
        for part in parts {
            let data = Bytes::from_static(part.as_bytes());
            let key = Key::of_bytes(&data);
            draft.add(key, &data)?;
            let len = data.len() as u64;
            tree.push(ChunkRef { key, len }, &mut nodes);
        }
        let content = Content::Chunks(tree.finish(&mut nodes));
        let id = Key(content.etag());
        let offer = Offer {
            name: Name::new(name).unwrap(),
            size: content.size(),
            content: id,
            content_type: String::new(),
            tags: vec!["t".into()],
            since: 7,
        };
        draft.commit(Shared { offer, content })?;
        Ok(id)
    }

    fn there(shelf: &Shelf, text: &str) -> bool {
        shelf.read(&Key::of_bytes(text.as_bytes())).is_ok()
    }

    #[test]
    fn shares_survive_a_restart_and_chunks_go_with_their_last_share() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
        let shelf = open();
        let first = share(&shelf, "a", &["one", "two"]).unwrap();
        share(&shelf, "b", &["two", "three"]).unwrap();
        let before = shelf.offers();
        drop(shelf);
        let shelf = open();
        assert_eq!(shelf.offers(), before);
        assert_eq!(shelf.of_content(first).unwrap().offer.name.as_str(), "a");
        let a = Name::new("a").unwrap();
        assert!(shelf.remove(&a).unwrap().is_some());
        assert!(shelf.remove(&a).unwrap().is_none());
        assert!(!there(&shelf, "one") && there(&shelf, "two"));
        // Another content under the same name takes its place.
        share(&shelf, "b", &["four"]).unwrap();
        assert!(!there(&shelf, "two") && !there(&shelf, "three") && there(&shelf, "four"));
        drop(shelf);
        assert_eq!(open().offers().len(), 1);
    }

    #[test]
    fn what_was_given_up_or_is_damaged_is_not_shared() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
        let shelf = open();
        let mut draft = shelf.draft();
        let data = Bytes::from_static(b"half");
        draft.add(Key::of_bytes(&data), &data).unwrap();
        drop(draft);
        assert!(!there(&shelf, "half"));
        // As after a crash: a chunk without a record.
        shelf
            .chunks
            .write(&Key::of_bytes(&data), &data, Purpose::Client)
            .unwrap();
        share(&shelf, "a", &["one"]).unwrap();
        share(&shelf, "b", &["two"]).unwrap();
        shelf.chunks.remove(&Key::of_bytes(b"two")).unwrap();
        drop(shelf);
        let shelf = open();
        assert!(!there(&shelf, "half"));
        let names: Vec<String> = shelf.offers().iter().map(|o| o.name.to_string()).collect();
        assert_eq!(names, ["a"], "what lacks a chunk is not offered");
    }
}
