//! The client of other peers' Chunks service.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::Request;
use peernet_core::collect::Referrer;
use peernet_core::io::ChunkOutcome;
use peernet_core::key::Key;
use peernet_proto::v1;
use peernet_proto::v1::chunks_client::ChunksClient;
use peernet_proto::v1::put_chunk_response::Outcome;
use peernet_proto::v1::shares_client::SharesClient;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::util::MapRequest;

use super::ChunkError;
use crate::config::CHUNK_SIZE_MAX;
use crate::disk::{Encoding, Packed};
use crate::files::ErrorKind;
use crate::link::{self, Late, Moved, Patience, TRANSFER};
use crate::transport::{MESSAGE_MAX, endpoint};
use crate::wire::{CODE, Wire, bulk, encoding_of};

/// How long a peer may take to say what it has.
const ASK: Duration = Duration::from_secs(10);
/// How long a peer that has taken plain bytes only is sent nothing else: until its program is replaced, as in a rolling
/// upgrade (guess: a chunk a minute is sent twice meanwhile).
const PLAIN: Duration = Duration::from_secs(60);
/// Connections not used for so long are closed.
const IDLE: Duration = Duration::from_secs(60);
/// Flow control: with 1 MiB chunks the default windows of 64 KiB would stall eight times per chunk (measured).
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Largest frame: bigger ones cost less each (measured: 256 KiB to 1 MiB are best).
const FRAME: u32 = 1024 * 1024;

/// A connection on which chunks go out as they lie in memory.
type InFrames = MapRequest<Channel, fn(Request<Body>) -> Request<Body>>;

/// Connections by address, apart from those for messages, so that a ping never waits behind a megabyte.
pub(crate) struct Pool {
    channels: Mutex<HashMap<String, Connection>>,
    /// Peers that took plain bytes only, since when.
    plain: Mutex<HashMap<String, Instant>>,
    /// With each transfer.
    patience: Patience,
}

/// To one peer.
struct Connection {
    channel: Channel,
    moved: Moved,
    used: Instant,
}

impl Default for Pool {
    fn default() -> Self {
        Pool::new(TRANSFER)
    }
}

impl Pool {
    /// Whose transfers are given up after so long.
    pub(crate) fn new(patience: Patience) -> Self {
        Pool {
            channels: Mutex::default(),
            plain: Mutex::default(),
            patience,
        }
    }

    pub(crate) async fn put(
        &self,
        network: &str,
        address: &str,
        (key, length): (Key, u32),
        chunk: Option<&Packed>,
        epoch: u64,
        by: &Referrer,
    ) -> Result<ChunkOutcome, ChunkError> {
        let encoding = chunk.map_or(Encoding::Plain, Packed::encoding);
        let request = v1::PutChunkRequest {
            network_id: network.to_owned(),
            hash: Bytes::copy_from_slice(&key.0),
            epoch,
            data: chunk.map(|c| c.bytes().clone()).unwrap_or_default(),
            referrer: Some(by.to_wire()),
            length,
            encoding: v1::Encoding::from(encoding).into(),
        };
        let (mut client, moved) = self.client(address)?;
        let (request, leaves) = bulk::pack(request);
        let late = Late::new(self.patience, moved).after(leaves);
        let response = unless(late, client.put(request)).await?;
        match response.into_inner().outcome {
            Some(Outcome::Stored(_)) => Ok(ChunkOutcome::Stored),
            Some(Outcome::NewerEpoch(epoch)) => Ok(ChunkOutcome::Stale(epoch)),
            Some(Outcome::Missing(_)) => Ok(ChunkOutcome::Missing),
            Some(Outcome::OtherLength(length)) => Ok(ChunkOutcome::OtherLength(length)),
            None => Err(ChunkError::Unavailable(
                "it answered neither stored nor stale".into(),
            )),
        }
    }

    /// The bytes as they came, and their form; the caller verifies them.
    pub(crate) async fn get(
        &self,
        network: &str,
        address: &str,
        key: Key,
    ) -> Result<(Encoding, Bytes), ChunkError> {
        let request = v1::GetChunkRequest {
            network_id: network.to_owned(),
            hash: Bytes::copy_from_slice(&key.0),
            accept: v1::Encoding::Zstd.into(),
        };
        let (mut client, moved) = self.client(address)?;
        unless(Late::new(self.patience, moved), async {
            let mut parts = client.get(request).await?.into_inner();
            let first = parts.message().await?.unwrap_or_default();
            let encoding = encoding_of(first.encoding)
                .ok_or_else(|| Status::unknown("its answer is in a form that was not asked for"))?;
            let (mut first, mut data) = (first.data, BytesMut::new());
            while let Some(part) = parts.message().await? {
                if data.is_empty() {
                    data.extend_from_slice(&std::mem::take(&mut first));
                }
                if data.len() + part.data.len() > CHUNK_SIZE_MAX as usize {
                    return Err(Status::data_loss("the chunk is larger than any may be"));
                }
                data.extend_from_slice(&part.data);
            }
            let data = if data.is_empty() {
                first
            } else {
                data.freeze()
            };
            Ok((encoding, data))
        })
        .await
    }

    /// The peer at `address` takes plain bytes only, as far as is known.
    pub(super) fn is_plain(&self, address: &str) -> bool {
        self.plain().get(address).is_some()
    }

    /// Notes that the peer at `address` has refused compressed bytes and taken the plain ones.
    pub(super) fn note_plain(&self, address: &str) {
        self.plain().insert(address.to_owned(), Instant::now());
    }

    fn plain(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        plain.retain(|_, since| since.elapsed() < PLAIN);
        plain
    }

    pub(super) async fn have(
        &self,
        network: &str,
        address: &str,
        keys: Vec<Key>,
        when: bool,
    ) -> Result<v1::HaveChunksResponse, ChunkError> {
        let count = keys.len();
        let request = v1::HaveChunksRequest {
            network_id: network.to_owned(),
            hashes: keys.iter().map(|k| Bytes::copy_from_slice(&k.0)).collect(),
            verify: false,
            when,
        };
        let (mut client, _) = self.client(address)?;
        let answer = within(ASK, client.have(request)).await?.into_inner();
        let v1::HaveChunksResponse {
            held,
            verified_unix_ms,
        } = &answer;
        if held.len() == count && [0, count].contains(&verified_unix_ms.len()) {
            Ok(answer)
        } else {
            Err(ChunkError::Unavailable(format!(
                "it answered for {} of {count} chunks",
                held.len()
            )))
        }
    }

    /// What a shared content consists of; the caller checks it.
    pub(super) async fn describe(
        &self,
        network: &str,
        address: &str,
        content: Key,
    ) -> Result<v1::DescribeShareResponse, ChunkError> {
        let request = v1::DescribeShareRequest {
            network_id: network.to_owned(),
            content: Bytes::copy_from_slice(&content.0),
        };
        let mut client = SharesClient::new(self.channel(address)?);
        Ok(within(ASK, client.describe(request)).await?.into_inner())
    }

    fn client(&self, address: &str) -> Result<(ChunksClient<InFrames>, Moved), ChunkError> {
        let (channel, moved) = self.connection(address)?;
        let client = ChunksClient::new(MapRequest::new(channel, bulk::send as _))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        Ok((client, moved))
    }

    pub(super) fn channel(&self, address: &str) -> Result<Channel, ChunkError> {
        Ok(self.connection(address)?.0)
    }

    /// A connection for bulk bytes, and what moves on it.
    pub(super) fn connection(&self, address: &str) -> Result<(Channel, Moved), ChunkError> {
        let now = Instant::now();
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|_, connection| now - connection.used < IDLE);
        if !channels.contains_key(address) {
            let endpoint = endpoint(address)
                .map_err(|error| {
                    ChunkError::Unavailable(format!("'{address}' is not an address: {error}"))
                })?
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME);
            let moved = Moved::default();
            let connection = Connection {
                channel: link::counted(endpoint, address, &moved),
                moved,
                used: now,
            };
            channels.insert(address.to_owned(), connection);
        }
        let connection = channels.get_mut(address).ok_or(ChunkError::Missing)?;
        connection.used = now;
        Ok((connection.channel.clone(), connection.moved.clone()))
    }
}

/// What comes of a transfer, or that it was given up.
async fn unless<T>(
    late: Late,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, ChunkError> {
    let mut late = pin!(late);
    tokio::select! {
        biased;
        result = call => result.map_err(error),
        () = late.as_mut() => Err(ChunkError::Unavailable(late.reason())),
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, ChunkError> {
    match timeout(limit, call).await {
        Ok(result) => result.map_err(error),
        Err(_) => Err(ChunkError::Unavailable(format!(
            "it did not answer within {} s",
            limit.as_secs()
        ))),
    }
}

fn error(status: Status) -> ChunkError {
    match status.code() {
        Code::NotFound => ChunkError::Missing,
        Code::DataLoss => ChunkError::Damaged,
        // Only a disk is full for long; who has no room for a message just now has it in a moment.
        Code::ResourceExhausted if !is_busy(&status) => ChunkError::Full,
        _ => ChunkError::Unavailable(status.message().to_owned()),
    }
}

fn is_busy(status: &Status) -> bool {
    let said = status.metadata().get(CODE);
    said.is_some_and(|code| code == ErrorKind::Busy.code())
}
