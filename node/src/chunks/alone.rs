//! A peer alone in its network, for tests of what it does with its own chunks.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use peernet_core::boot::{Assignment, boot};
use peernet_core::config::Settings;
use peernet_core::io::Time;
use peernet_core::key::{Key, Position};
use peernet_core::member::PeerId;
use peernet_core::peer::Peer;
use peernet_core::store::Store;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::Chunks;
use super::fetch::Fetcher;
use super::writes::Writes;
use crate::disk::{self, Chunk, ChunkFiles, Packed, Purpose};
use crate::driver::{self, Effects, Inbox, PeerHandle, Thread};
use crate::faults::Faults;
use crate::transport::Transport;

pub(crate) const NETWORK: &str = "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10";

/// See the module.
pub(crate) struct Alone {
    pub(crate) chunks: Arc<Chunks>,
    pub(crate) handle: PeerHandle,
    pub(super) writes: Writes,
    /// Chunks that its index knows.
    pub(super) indexed: Vec<Key>,
    pub(super) folder: TempDir,
    files: Arc<ChunkFiles>,
    _thread: Thread,
}

impl Alone {
    /// Runs, with a chunk of each of these texts in its index.
    pub(crate) fn with(texts: &[&'static str]) -> Self {
        Alone::storing(texts, write)
    }

    /// The same with chunks that are compressed.
    pub(super) fn compressed(texts: &[&'static str]) -> Self {
        Alone::storing(texts, |files, text| {
            let packed = Packed::smallest(Chunk::new(Bytes::from_static(text.as_bytes())));
            files.write_packed(&packed, Purpose::Client).unwrap();
            packed.key()
        })
    }

    fn storing(texts: &[&'static str], write: fn(&ChunkFiles, &'static str) -> Key) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, files) = disk::open(folder.path(), 0).unwrap();
        let indexed: Vec<Key> = texts.iter().map(|text| write(&files, text)).collect();
        for (key, text) in indexed.iter().zip(texts) {
            store.put_chunk(key, text.len() as u32).unwrap();
        }
        store.commit().unwrap();
        let told = Assignment {
            network: NETWORK.into(),
            name: "p-0".into(),
            address: "127.0.0.1:1".into(),
            http: "127.0.0.1:2".into(),
            zone: "a".into(),
            position: Position(0),
            version: String::new(),
        };
        let identity = boot(&mut store, told, PeerId(1)).unwrap();
        let settings = Settings::default();
        let peer = Peer::start(store, identity, true, settings, 1, Time(0)).unwrap();
        let (handle, inbox) = driver::channel();
        let (files, writes, runtime) = (Arc::new(files), Writes::default(), Handle::current());
        let (network, me) = (NETWORK.to_owned(), PeerId(1));
        let chunks = Chunks::new(
            network.clone(),
            me,
            files.clone(),
            handle.clone(),
            writes.clone(),
        );
        let chunks = Arc::new(chunks);
        let effects = Effects {
            transport: Transport::new(network, me, runtime.clone(), Faults::default().messages),
            fetcher: Fetcher::new(chunks.clone(), runtime),
            files: files.clone(),
            writes: writes.clone(),
        };
        let thread = driver::spawn(peer, Instant::now(), inbox, effects).unwrap();
        Alone {
            chunks,
            handle,
            writes,
            indexed,
            folder,
            files,
            _thread: thread,
        }
    }

    /// Writes the file of a chunk, which the index does not know.
    pub(super) fn write(&self, text: &'static str) -> Key {
        write(&self.files, text)
    }

    pub(super) fn has_file(&self, key: &Key) -> bool {
        self.files.len(key).unwrap().is_some()
    }
}

/// Chunks of a peer that answers nothing while the inbox is there, and has stopped when it is not.
pub(super) fn deaf() -> (Arc<Chunks>, Inbox, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (_, files) = disk::open(folder.path(), 0).unwrap();
    let (handle, inbox) = driver::channel();
    let (files, writes) = (Arc::new(files), Writes::default());
    let chunks = Chunks::new(NETWORK.to_owned(), PeerId(1), files, handle, writes);
    (Arc::new(chunks), inbox, folder)
}

fn write(files: &ChunkFiles, text: &'static str) -> Key {
    let chunk = Chunk::new(Bytes::from_static(text.as_bytes()));
    files.write(&chunk, Purpose::Client).unwrap();
    chunk.key()
}
