//! Bringing chunks here that this peer should hold: synchronisation and repair.

use std::sync::Arc;

use peernet_core::io::{Endpoint, Input};
use peernet_core::key::Key;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::{ChunkError, Chunks};
use crate::disk::Purpose;

/// Fetches at once; times 1 MiB is memory. The core asks for no more by default.
const RUNNING: usize = 16;
/// Fetches waiting for their turn; more are missed at once, and asked for again by the core (guess).
const WAITING: usize = 1024;

/// Performs `FetchChunk`.
pub(crate) struct Fetcher {
    chunks: Arc<Chunks>,
    runtime: Handle,
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Fetcher {
    pub(crate) fn new(chunks: Arc<Chunks>, runtime: Handle) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Fetcher {
            chunks,
            runtime,
            waiting: semaphore(WAITING),
            running: semaphore(RUNNING),
        }
    }

    /// Starts a fetch, which ends with `ChunkFetched` or `ChunkMissed`; `false` when too many wait.
    pub(crate) fn start(&self, key: Key, len: u32, sources: Vec<Endpoint>) -> bool {
        let Ok(place) = self.waiting.clone().try_acquire_owned() else {
            return false;
        };
        let (chunks, running) = (self.chunks.clone(), self.running.clone());
        self.runtime.spawn(async move {
            let _place = place;
            let _turn = running.acquire().await;
            chunks.fetch(key, len, &sources).await;
        });
        true
    }
}

impl Chunks {
    async fn fetch(&self, key: Key, len: u32, sources: &[Endpoint]) {
        let guard = self.writes.begin(key);
        let found = self.find(key, len, sources).await;
        let (input, guard) = match found {
            true => (Input::ChunkFetched { key, len }, Some(guard)),
            false => (Input::ChunkMissed { key }, None),
        };
        if self.peer.tell(input, guard).await.is_err() {
            debug!(%key, "fetched for a peer that is stopping");
        }
    }

    /// Whether the chunk is durable here in the end.
    async fn find(&self, key: Key, len: u32, sources: &[Endpoint]) -> bool {
        // The file may still lie here: from an earlier life of this volume, or because a move was undone.
        // Writing what is there already makes sure that it is durable.
        if let Ok(Ok(chunk)) = self.read_file(key).await
            && chunk.plain_len() == len
            && self.write(chunk, Purpose::Repair).await.is_ok()
        {
            return true;
        }
        if let Err(error) = self.has_room(len).await {
            // Before it is sent, not after: it is asked for again as long as it is missing.
            warn!(%key, "no room for a chunk this peer should hold: {error}");
            return false;
        }
        for source in sources.iter().filter(|s| s.id != self.me) {
            let chunk = match self.get_packed(source, key).await {
                Ok(chunk) if chunk.plain_len() == len => chunk,
                Ok(chunk) => {
                    let has = chunk.plain_len();
                    warn!(%key, peer = source.name, "has {has} bytes instead of {len}");
                    continue;
                }
                Err(error) => {
                    debug!(%key, peer = source.name, "cannot be fetched: {error}");
                    continue;
                }
            };
            match self.write(chunk, Purpose::Repair).await {
                Ok(()) => return true,
                Err(error @ ChunkError::Full) => {
                    warn!(%key, "no room for a chunk this peer should hold: {error}")
                }
                Err(error) => {
                    warn!(%key, "a chunk this peer should hold cannot be written: {error}")
                }
            }
            // Another source would not help.
            return false;
        }
        false
    }
}
