//! Chunks on this peer's disk and on others'.
//!
//! Who holds a chunk is decided by the ring; here its bytes move. Whatever comes in, from a client, from another peer
//! or from the disk, is checked against its hash before it is used.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use peernet_core::collect::Referrer;
use peernet_core::io::{ChunkOutcome, Endpoint, Given};
use peernet_core::key::Key;
use peernet_core::member::PeerId;
use peernet_core::share::Offer;
use peernet_proto::v1;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tonic::transport::Channel;
use tracing::{debug, warn};

use crate::config::CHUNK_SIZE_MAX;
use crate::disk::{self, Chunk, ChunkFiles, Encoding, Packed, Purpose, open_chunk};
use crate::driver::{PeerError, PeerHandle};
use crate::link::Moved;
use crate::wire::Wire;

pub(crate) mod fetch;
pub(crate) mod remote;
pub(crate) mod scrub;
pub(crate) mod sweep;
pub(crate) mod writes;

#[cfg(test)]
pub(crate) mod alone;
#[cfg(test)]
mod older;

use remote::Pool;
use writes::Writes;

/// Reads and writes of chunk files at once. Guess: enough to keep a disk busy while each waits for its syncs, few
/// enough to bound the threads.
const DISK_OPERATIONS: usize = 32;

/// Why a chunk could not be stored or read.
#[derive(Clone, Debug, Error)]
pub(crate) enum ChunkError {
    /// The peer does not have it.
    #[error("it is not there")]
    Missing,
    /// The bytes do not have the hash that names them.
    #[error("its bytes are damaged")]
    Damaged,
    /// No room, except for repair.
    #[error("the disk is full")]
    Full,
    /// Empty, or larger than any chunk may be.
    #[error("a chunk has 1 to {CHUNK_SIZE_MAX} bytes, this one {0}")]
    Size(usize),
    /// It is there, with another length than its writer says.
    #[error("it has {0} bytes")]
    OtherLength(u32),
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(String),
    /// The peer did not answer, or could not do it now.
    #[error("{0}")]
    Unavailable(String),
    /// This peer's state machine did not answer.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl ChunkError {
    /// Whether the bytes are not here, or are not those of the name. Another error says nothing about them.
    fn is_lost(&self) -> bool {
        matches!(self, ChunkError::Missing | ChunkError::Damaged)
    }
}

impl From<disk::ChunkError> for ChunkError {
    fn from(error: disk::ChunkError) -> Self {
        match error {
            disk::ChunkError::Missing(_) => ChunkError::Missing,
            disk::ChunkError::Mismatch(_) | disk::ChunkError::Corrupt(_) => ChunkError::Damaged,
            disk::ChunkError::DiskFull { .. } => ChunkError::Full,
            error @ disk::ChunkError::Volume { .. } => ChunkError::Disk(error.to_string()),
        }
    }
}

/// This peer's chunks, and the way to those of others.
pub(crate) struct Chunks {
    network: String,
    me: PeerId,
    files: Arc<ChunkFiles>,
    peer: PeerHandle,
    writes: Writes,
    pool: Pool,
    disk: Arc<Semaphore>,
    /// As many as keep the processors busy: each may have a plain chunk in memory that nobody has counted.
    packing: Arc<Semaphore>,
}

impl Chunks {
    pub(crate) fn new(
        network: String,
        me: PeerId,
        files: Arc<ChunkFiles>,
        peer: PeerHandle,
        writes: Writes,
    ) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        // One more than can work, so that none waits while one is waited for.
        let processors = available_parallelism().map_or(1, usize::from);
        Chunks {
            network,
            me,
            files,
            peer,
            writes,
            pool: Pool::default(),
            disk: semaphore(DISK_OPERATIONS),
            packing: semaphore(processors + 1),
        }
    }

    /// This peer.
    pub(crate) fn me(&self) -> PeerId {
        self.me
    }

    /// Stores a chunk of `len` bytes and its reference at `holder`, which may be this peer; without the chunk only the
    /// reference. A peer that does not take it compressed, being of an older version, gets it plain.
    pub(crate) async fn put(
        &self,
        holder: &Endpoint,
        (key, len): (Key, u32),
        chunk: Option<&Packed>,
        epoch: u64,
        by: Referrer,
    ) -> Result<ChunkOutcome, ChunkError> {
        if holder.id == self.me {
            return self.store((key, len), chunk.cloned(), epoch, by).await;
        }
        let address = &holder.address;
        let send = async |chunk: Option<&Packed>| {
            let sent = self
                .pool
                .put(&self.network, address, (key, len), chunk, epoch, &by);
            sent.await
        };
        let Some(packed) = chunk.filter(|chunk| chunk.encoding() != Encoding::Plain) else {
            return send(chunk).await;
        };
        let known = self.pool.is_plain(address);
        if !known {
            match send(chunk).await {
                Err(ChunkError::Damaged) => debug!(%key, peer = holder.name, "is sent it plain"),
                sent => return sent,
            }
        }
        let packed = packed.clone();
        let plain = self.working(move || packed.unpacked()).await?;
        let sent = send(Some(&plain.into())).await?;
        if !known {
            self.pool.note_plain(address);
        }
        Ok(sent)
    }

    /// Reads a chunk from `holder`, which may be this peer, and verifies it.
    pub(crate) async fn get(&self, holder: &Endpoint, key: Key) -> Result<Chunk, ChunkError> {
        if holder.id == self.me {
            return self.read(key).await;
        }
        match self.pool.get(&self.network, &holder.address, key).await? {
            (Encoding::Plain, data) => checked(key, data).await,
            (encoding, data) => self.working(move || open_chunk(&key, encoding, data)).await,
        }
    }

    /// Reads a chunk from another peer as it lies there, and verifies it.
    async fn get_packed(&self, holder: &Endpoint, key: Key) -> Result<Packed, ChunkError> {
        let (encoding, data) = self.pool.get(&self.network, &holder.address, key).await?;
        self.claimed(key, encoding, data).await
    }

    /// The chunk of that name, if the bytes are it.
    async fn claimed(
        &self,
        key: Key,
        encoding: Encoding,
        data: Bytes,
    ) -> Result<Packed, ChunkError> {
        if encoding == Encoding::Plain {
            return Ok(checked(key, data).await?.into());
        }
        self.working(move || Packed::claimed(&key, encoding, data))
            .await
    }

    /// Hashes `data`, and compresses it if that is wanted and pays.
    pub(crate) async fn pack(&self, data: Bytes, compress: bool) -> Result<Packed, ChunkError> {
        if !compress {
            return Ok(hash(data).await?.into());
        }
        self.working(move || Ok(Packed::smallest(Chunk::new(data))))
            .await
    }

    /// What a shared content consists of, as `provider` says: an offer and an encoded body, which the caller checks.
    pub(crate) async fn describe(
        &self,
        provider: &Endpoint,
        content: Key,
    ) -> Result<(Offer, Bytes), ChunkError> {
        let described = self
            .pool
            .describe(&self.network, &provider.address, content);
        let v1::DescribeShareResponse { offer, body } = described.await?;
        let offer = offer.ok_or(ChunkError::Missing)?;
        let offer = Offer::from_wire(offer, "DescribeShareResponse.offer");
        let offer = offer.map_err(|e| ChunkError::Unavailable(e.to_string()))?;
        Ok((offer, body))
    }

    /// A connection to the peer at `address`, for bulk bytes.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, ChunkError> {
        self.pool.channel(address)
    }

    /// The same, and what moves on it.
    pub(crate) fn connection(&self, address: &str) -> Result<(Channel, Moved), ChunkError> {
        self.pool.connection(address)
    }

    /// Which of `keys` the peer `id` at `address` holds.
    pub(crate) async fn have(
        &self,
        id: PeerId,
        address: &str,
        keys: Vec<Key>,
    ) -> Result<Vec<bool>, ChunkError> {
        if id == self.me {
            self.held(keys, false).await
        } else {
            let answer = self.pool.have(&self.network, address, keys, false).await?;
            Ok(answer.held)
        }
    }

    /// The same, and when each was last verified there: in milliseconds since 1970 by its clock, 0 where it does not say, and
    /// `None` for what it does not hold.
    pub(crate) async fn verified(
        &self,
        id: PeerId,
        address: &str,
        keys: Vec<Key>,
    ) -> Result<Vec<Option<u64>>, ChunkError> {
        let (held, verified) = if id == self.me {
            let held = self.held(keys.clone(), false).await?;
            (held, self.verified_here(keys).await?)
        } else {
            let answer = self.pool.have(&self.network, address, keys, true).await?;
            (answer.held, answer.verified_unix_ms)
        };
        let times = verified.into_iter().chain(std::iter::repeat(0));
        let copies = held.into_iter().zip(times);
        Ok(copies.map(|(held, at)| held.then_some(at)).collect())
    }

    /// When each of these was last verified here, in milliseconds since 1970; 0 for what is not here.
    pub(crate) async fn verified_here(&self, keys: Vec<Key>) -> Result<Vec<u64>, ChunkError> {
        let files = self.files.clone();
        let of = move |key: Key| {
            let at = files.verified(&key)?;
            let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            Ok(since.map_or(0, |since| since.as_millis() as u64))
        };
        self.on_disk(move || keys.into_iter().map(of).collect())
            .await?
    }

    /// The same as [`Chunks::store`] with bytes that another peer says are the chunk's; none for the reference alone to a
    /// chunk of `len` bytes.
    pub(crate) async fn take_in(
        &self,
        (key, len): (Key, u32),
        (encoding, data): (Encoding, Bytes),
        epoch: u64,
        by: Referrer,
    ) -> Result<ChunkOutcome, ChunkError> {
        let chunk = match data.is_empty() {
            true => None,
            false => Some(self.claimed(key, encoding, data).await?),
        };
        self.store((key, len), chunk, epoch, by).await
    }

    /// Stores a writer's chunk here with its reference, under the epoch that the writer uses; without the chunk only
    /// the reference to one of `len` bytes.
    async fn store(
        &self,
        (key, len): (Key, u32),
        chunk: Option<Packed>,
        epoch: u64,
        by: Referrer,
    ) -> Result<ChunkOutcome, ChunkError> {
        let given = match &chunk {
            Some(chunk) => Given::Bytes(chunk.plain_len()),
            None => Given::Reference(Some(len)),
        };
        let guard = self.writes.begin(key);
        if let Some(chunk) = chunk {
            self.write(chunk, Purpose::Client).await?;
        }
        let outcome = self.peer.pin_chunk(key, given, epoch, by, guard).await;
        if !matches!(outcome, Ok(ChunkOutcome::Stored)) {
            self.peer.forget(key).await;
        }
        Ok(outcome?)
    }

    /// Makes a chunk durable. The caller holds a guard.
    async fn write(&self, chunk: Packed, purpose: Purpose) -> Result<(), ChunkError> {
        let len = chunk.plain_len() as usize;
        if len == 0 || len > CHUNK_SIZE_MAX as usize {
            return Err(ChunkError::Size(len));
        }
        let files = self.files.clone();
        Ok(self
            .on_disk(move || files.write_packed(&chunk, purpose))
            .await??)
    }

    /// Whether so many more bytes that are missing here may be written.
    async fn has_room(&self, len: u32) -> Result<(), ChunkError> {
        let files = self.files.clone();
        let room = move || files.check_room(len.into(), Purpose::Repair);
        Ok(self.on_disk(room).await??)
    }

    /// Reads a chunk's file, indexed or not, and verifies it. When an indexed chunk cannot be read the peer is told, so
    /// that it is fetched again.
    pub(crate) async fn read(&self, key: Key) -> Result<Chunk, ChunkError> {
        let files = self.files.clone();
        let read = self.on_disk(move || files.read(&key)).await?;
        self.noting(key, read).await
    }

    /// The same as it lies here, for whoever passes it on.
    pub(crate) async fn read_packed(&self, key: Key) -> Result<Packed, ChunkError> {
        let read = self.read_file(key).await?;
        self.noting(key, read).await
    }

    async fn noting<T>(
        &self,
        key: Key,
        read: Result<T, disk::ChunkError>,
    ) -> Result<T, ChunkError> {
        let read = read.map_err(ChunkError::from);
        if let Err(error) = &read {
            self.note_unreadable(key, error).await?;
        }
        read
    }

    /// Tells the peer that an indexed chunk's bytes are gone or wrong. Returns whether it was one. That the system could not
    /// read it now, for want of files or memory, says nothing about them.
    async fn note_unreadable(&self, key: Key, error: &ChunkError) -> Result<bool, ChunkError> {
        if !error.is_lost() || self.peer.holds(vec![key]).await? != [true] {
            return Ok(false);
        }
        // It may have been stored again before it was looked for in the index: then that copy is meant.
        if self.read_file(key).await?.is_ok() {
            return Ok(false);
        }
        warn!(%key, "a chunk of this peer cannot be read and will be fetched again: {error}");
        self.peer.chunk_bad(key).await?;
        Ok(true)
    }

    async fn read_file(&self, key: Key) -> Result<Result<Packed, disk::ChunkError>, ChunkError> {
        let files = self.files.clone();
        self.on_disk(move || files.read_packed(&key)).await
    }

    /// Which of these chunks are indexed here; with `verify` also read back.
    pub(crate) async fn held(&self, keys: Vec<Key>, verify: bool) -> Result<Vec<bool>, ChunkError> {
        let mut held = self.peer.holds(keys.clone()).await?;
        if verify {
            for (key, held) in keys.into_iter().zip(&mut held).filter(|(_, held)| **held) {
                *held = self.read(key).await.is_ok();
            }
        }
        Ok(held)
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ChunkError> {
        run(&self.disk, work).await
    }

    /// Packs and unpacks.
    async fn working<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, disk::ChunkError> + Send + 'static,
    ) -> Result<T, ChunkError> {
        Ok(run(&self.packing, work).await??)
    }
}

/// Hashes `data` away from the threads that serve connections.
pub(crate) async fn hash(data: Bytes) -> Result<Chunk, ChunkError> {
    spawn_blocking(move || Chunk::new(data))
        .await
        .map_err(|error| ChunkError::Disk(error.to_string()))
}

/// The chunk of that name, if the bytes are it.
async fn checked(key: Key, data: Bytes) -> Result<Chunk, ChunkError> {
    let chunk = hash(data).await?;
    match chunk.key() == key {
        true => Ok(chunk),
        false => Err(ChunkError::Damaged),
    }
}

/// A blocking task, when it is its turn, which ends with the task, also if nobody waits for it any more.
async fn run<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ChunkError> {
    // The semaphore is never closed, and a blocking task ends early only by a panic.
    let turn = turns.clone().acquire_owned().await;
    let turn = turn.map_err(|_| ChunkError::Peer(PeerError::Stopped))?;
    let work = move || {
        let _turn = turn;
        work()
    };
    spawn_blocking(work)
        .await
        .map_err(|error| ChunkError::Disk(error.to_string()))
}
