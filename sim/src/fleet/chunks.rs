//! The bytes of chunks: giving them to a peer, making them durable, reading and fetching them.

use bytes::Bytes;
use peernet_core::collect::Referrer;
use peernet_core::io::{Answer, ChunkOutcome, Endpoint, Given, Input, Request};
use peernet_core::key::Key;
use peernet_core::store::Store;

use super::{COMMIT, CallError, Fleet};
use crate::network::HostId;
use crate::peer::{File, Host};

/// When a kernel writes back what nobody synced, in milliseconds (Linux's default age of dirty pages is 30 s).
const WRITEBACK: u64 = 30_000;
/// Writing, and then syncing, a chunk each take up to so many milliseconds.
const DISK: u64 = 4;

impl Fleet {
    /// Gives the bytes of a chunk to the peer on `to`, which makes them durable and counts them with their reference
    /// under `epoch`. Without bytes only the reference is wanted.
    pub async fn put_chunk(
        &self,
        from: HostId,
        to: HostId,
        key: Key,
        bytes: Bytes,
        epoch: u64,
        by: Referrer,
    ) -> Result<ChunkOutcome, CallError> {
        let fleet = self.clone();
        // What has begun there ends there, though the caller gives up.
        let there = async {
            let stored = async move { fleet.store_chunk(to, key, bytes, epoch, by).await };
            let stored = self.world().spawn(stored).await;
            stored.unwrap_or(Err(CallError::Gone))
        };
        self.round_trip(from, to, there).await
    }

    async fn store_chunk(
        &self,
        at: HostId,
        key: Key,
        bytes: Bytes,
        epoch: u64,
        by: Referrer,
    ) -> Result<ChunkOutcome, CallError> {
        let run = self.host(at).run;
        let given = match bytes.len() {
            0 => Given::Reference(None),
            len => Given::Bytes(len as u32),
        };
        self.awake(at, run).await?;
        self.with_process(at, run, |p| p.pin(key))
            .ok_or(CallError::Gone)?;
        let outcome = async {
            if let Given::Reference(_) = given {
                // What is here was synced when it came.
            } else if !self.flaws().count_before_sync {
                self.write(at, run, key, bytes).await?;
            } else {
                let fleet = self.clone();
                drop(
                    self.world()
                        .spawn(async move { fleet.write(at, run, key, bytes).await }),
                );
            }
            let request = Request::PinChunk {
                key,
                given,
                epoch,
                by,
            };
            match self.request(at, request).await? {
                Answer::Chunk(outcome) => Ok(outcome),
                // It has left meanwhile.
                Answer::Failed(_) => Err(CallError::Gone),
                other => panic!("a stored chunk was answered with {other:?}"),
            }
        };
        let outcome = outcome.await;
        self.with_process(at, run, |p| p.unpin(key));
        outcome
    }

    /// Writes a file under its final name and syncs it.
    async fn write(&self, at: HostId, run: u64, key: Key, bytes: Bytes) -> Result<(), CallError> {
        let there = |host: &Host| {
            host.volume
                .files
                .get(&key)
                .is_some_and(|f| f.synced && f.bytes == bytes)
        };
        if there(&self.host(at)) {
            return Ok(());
        }
        self.world().sleep(self.world().random(1..DISK + 1)).await;
        self.awake(at, run).await?;
        self.put_file(at, run, key, &bytes, false)?;
        let (fleet, millis) = (self.clone(), self.world().random(1..DISK + 1));
        if self.flaws().count_before_sync {
            // By then the process may be gone; so are the bytes.
            let late = move || {
                fleet
                    .put_file(at, run, key, &bytes, true)
                    .unwrap_or_default()
            };
            self.world().after(WRITEBACK, late);
            return Ok(());
        }
        self.world().sleep(millis).await;
        self.awake(at, run).await?;
        self.put_file(at, run, key, &bytes, true)
    }

    fn put_file(
        &self,
        at: HostId,
        run: u64,
        key: Key,
        bytes: &Bytes,
        synced: bool,
    ) -> Result<(), CallError> {
        let mut host = self.host(at);
        if host.run != run {
            return Err(CallError::Gone);
        }
        let file = host.volume.files.entry(key).or_insert_with(|| File {
            bytes: bytes.clone(),
            synced,
        });
        if file.bytes == *bytes {
            file.synced |= synced;
        } else {
            // Torn or rotten: written anew and renamed into place.
            *file = File {
                bytes: bytes.clone(),
                synced,
            };
        }
        Ok(())
    }

    /// Reads the bytes of a chunk from the peer on `to`; `None` when it has no such file.
    pub async fn get_chunk(
        &self,
        from: HostId,
        to: HostId,
        key: Key,
    ) -> Result<Option<Bytes>, CallError> {
        self.round_trip(from, to, self.load_chunk(to, key)).await
    }

    /// Reads a chunk's file. One that should be there and is not, or is wrong, is reported to the peer.
    pub(super) async fn load_chunk(
        &self,
        at: HostId,
        key: Key,
    ) -> Result<Option<Bytes>, CallError> {
        let run = self.host(at).run;
        self.awake(at, run).await?;
        let host = self.host(at);
        if host.process.is_none() {
            return Err(CallError::Gone);
        }
        let bytes = host.volume.files.get(&key).map(|f| f.bytes.clone());
        if bytes.as_ref().is_some_and(|b| Key::of_bytes(b) == key) {
            return Ok(bytes);
        }
        let expected = host.store().chunk(&key).is_ok_and(|held| held.is_some());
        drop(host);
        if expected {
            let fleet = self.clone();
            drop(
                self.world()
                    .spawn(async move { fleet.request(at, Request::ChunkBad(key)).await }),
            );
        }
        Ok(None)
    }

    /// Performs [`peernet_core::io::Output::FetchChunk`].
    pub(super) async fn fetch(
        &self,
        at: HostId,
        run: u64,
        key: Key,
        len: u32,
        sources: Vec<Endpoint>,
    ) {
        if self.with_process(at, run, |p| p.pin(key)).is_none() {
            return;
        }
        let fetched = self.fetch_from(at, run, key, len, &sources).await;
        if self.awake(at, run).await.is_err() {
            return; // it was killed while it was stopped
        }
        let input = if fetched {
            Input::ChunkFetched { key, len }
        } else {
            Input::ChunkMissed { key }
        };
        self.input(at, run, input);
        // Handled at the latest in the batch after the one under way; the pin holds until then.
        self.world().sleep(2 * COMMIT + 2).await;
        self.with_process(at, run, |p| p.unpin(key));
    }

    async fn fetch_from(
        &self,
        at: HostId,
        run: u64,
        key: Key,
        len: u32,
        sources: &[Endpoint],
    ) -> bool {
        let right = |bytes: &Bytes| bytes.len() == len as usize && Key::of_bytes(bytes) == key;
        let cached = self
            .host(at)
            .volume
            .files
            .get(&key)
            .is_some_and(|f| f.synced && right(&f.bytes));
        if cached {
            return true;
        }
        for source in sources {
            let Some(from) = self.resolve(source) else {
                continue;
            };
            if let Ok(Some(bytes)) = self.get_chunk(at, from, key).await
                && right(&bytes)
            {
                return self.write(at, run, key, bytes).await.is_ok();
            }
        }
        false
    }
}
