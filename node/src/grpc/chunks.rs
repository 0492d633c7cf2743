//! `Chunks`: bulk bytes from and to other peers.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use peernet_core::collect::Referrer;
use peernet_core::io::ChunkOutcome;
use peernet_core::key::Key;
use peernet_proto::v1;
use peernet_proto::v1::put_chunk_response::Outcome;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tower::Service;

use super::status::{busy, check_network, not_serving, of_chunk, of_file};
use crate::chunks::ChunkError;
use crate::daemon::{Life, Running};
use crate::disk::{Encoding, Packed};
use crate::files::outlet::outlet;
use crate::files::{Budget, Share};
use crate::link::TRANSFER;
use crate::wire::{Wire, bulk, encoding_of};

/// Bytes per message of a chunk on its way out (measured: 256 KiB is fastest).
pub(super) const PART: usize = 256 * 1024;
/// Most hashes in one question.
const HASHES: usize = 16_384;
/// Bytes of chunks on their way out (guess: what two peers' downloads have under way at most). Nobody who takes them waits for
/// room of its own meanwhile, so peers that wait for each other's all come to their turn.
const SENT: usize = 64 * 1024 * 1024;
/// How long a peer waits for that before it is told to ask another one; it waits longer for a first byte (guess).
const ROOM: Duration = Duration::from_secs(5);
/// The call whose request carries a chunk.
const PUT: &str = "/peernet.v1.Chunks/Put";

pub(super) struct Chunks {
    life: Arc<Life>,
    sent: Budget,
}

impl Chunks {
    pub(super) fn new(life: Arc<Life>) -> Self {
        let sent = Budget::new(SENT);
        Chunks { life, sent }
    }

    fn member(&self, network: &str) -> Result<Arc<Running>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        check_network(network, &running.network)?;
        Ok(running)
    }
}

#[tonic::async_trait]
impl v1::chunks_server::Chunks for Chunks {
    async fn put(
        &self,
        request: Request<v1::PutChunkRequest>,
    ) -> Result<Response<v1::PutChunkResponse>, Status> {
        let v1::PutChunkRequest {
            network_id,
            hash,
            epoch,
            data,
            referrer,
            length,
            encoding,
        } = bulk::whole(request);
        let running = self.member(&network_id)?;
        let referrer =
            referrer.ok_or_else(|| Status::invalid_argument("a chunk comes with its referrer"))?;
        let by = Referrer::from_wire(referrer, "referrer")
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // Whoever is told so sends the plain bytes.
        let encoding = encoding_of(encoding)
            .ok_or_else(|| Status::data_loss("bytes in this form are not known here"))?;
        let outcome = match running
            .chunks
            .take_in((key(&hash)?, length), (encoding, data), epoch, by)
            .await
            .map_err(of_chunk)?
        {
            ChunkOutcome::Stored => Outcome::Stored(true),
            ChunkOutcome::Missing => Outcome::Missing(true),
            ChunkOutcome::OtherLength(length) => Outcome::OtherLength(length),
            ChunkOutcome::Stale(epoch) => Outcome::NewerEpoch(epoch),
        };
        Ok(Response::new(v1::PutChunkResponse {
            outcome: Some(outcome),
        }))
    }

    type GetStream = BoxStream<'static, Result<v1::GetChunkResponse, Status>>;

    async fn get(
        &self,
        request: Request<v1::GetChunkRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let v1::GetChunkRequest {
            network_id,
            hash,
            accept,
        } = request.into_inner();
        let running = self.member(&network_id)?;
        let (key, chunks) = (key(&hash)?, &running.chunks);
        let share = room(&self.sent, running.files.chunk_size()).await?;
        let read = match encoding_of(accept) {
            Some(Encoding::Zstd) => chunks.read_packed(key).await,
            _ => chunks.read(key).await.map(Packed::from),
        };
        let chunk = match read {
            // Not the ring's; perhaps of a file that is shared from here.
            Err(ChunkError::Missing) => {
                let shared = running.shares.chunk(key).await;
                let shared = shared.map_err(|_| of_chunk(ChunkError::Missing))?;
                Packed::from(shared)
            }
            read => read.map_err(of_chunk)?,
        };
        let share = self.sent.keep(share, chunk.bytes().len());
        Ok(Response::new(send(&chunk, share).await))
    }

    async fn have(
        &self,
        request: Request<v1::HaveChunksRequest>,
    ) -> Result<Response<v1::HaveChunksResponse>, Status> {
        let v1::HaveChunksRequest {
            network_id,
            hashes,
            verify,
            when,
        } = request.into_inner();
        let running = self.member(&network_id)?;
        if hashes.len() > HASHES {
            return Err(Status::invalid_argument(format!(
                "at most {HASHES} hashes may be asked for at once"
            )));
        }
        let keys = hashes
            .iter()
            .map(key)
            .collect::<Result<Vec<Key>, Status>>()?;
        let chunks = &running.chunks;
        let held = chunks.held(keys.clone(), verify).await.map_err(of_chunk)?;
        let verified_unix_ms = match when {
            true => chunks.verified_here(keys).await.map_err(of_chunk)?,
            false => Vec::new(),
        };
        Ok(Response::new(v1::HaveChunksResponse {
            held,
            verified_unix_ms,
        }))
    }
}

/// The service behind [`bulk::unpack`].
#[derive(Clone)]
pub(super) struct Unpacking<S>(pub(super) S);

impl<S: NamedService> NamedService for Unpacking<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<hyper::Request<Body>> for Unpacking<S>
where
    S: Service<hyper::Request<Body>, Response = hyper::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        if request.uri().path() != PUT {
            return Box::pin(self.0.call(request));
        }
        // The one that is ready, as tower wants it.
        let unready = self.0.clone();
        let mut ready = std::mem::replace(&mut self.0, unready);
        Box::pin(async move {
            match bulk::unpack(request).await {
                Ok(request) => ready.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

fn key(hash: &Bytes) -> Result<Key, Status> {
    let hash = <[u8; 32]>::try_from(&hash[..]);
    hash.map(Key)
        .map_err(|_| Status::invalid_argument("a chunk's hash has 32 bytes"))
}

async fn room(sent: &Budget, bytes: usize) -> Result<Share, Status> {
    let share = timeout(ROOM, sent.take(bytes)).await;
    share.ok().flatten().ok_or_else(|| {
        busy("this peer sends as many chunks as it may at once; ask another one, or again in a moment")
    })
}

/// A chunk's bytes, which count until they are taken, or nobody may take so long.
async fn send(
    chunk: &Packed,
    share: Share,
) -> BoxStream<'static, Result<v1::GetChunkResponse, Status>> {
    let encoding = v1::Encoding::from(chunk.encoding()).into();
    let part = move |data| v1::GetChunkResponse { data, encoding };
    let data = chunk.bytes().clone();
    if data.len() <= PART {
        // Who asks for it gives up in the same time, and there is nothing else to wait for.
        let only = async move {
            let _share = share;
            Ok(part(data))
        };
        return stream::once(only).boxed();
    }
    let (outlet, outgoing) = outlet();
    // There is room for one at once.
    let put = outlet.sink().send(data, Some(share)).await;
    tokio::spawn(async move { outlet.fill(async { put }, TRANSFER.whole, None).await });
    let parts = outgoing.map(move |data| data.map(part).map_err(of_file));
    parts.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Chunk;

    const CHUNK: usize = 2 * PART;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_told_to_those_who_ask_for_more() {
        let sent = Budget::new(2 * CHUNK);
        let chunk = Packed::from(Chunk::new(vec![7; CHUNK].into()));
        let ask = async || {
            let share = room(&sent, 2 * CHUNK).await?;
            Ok::<_, Status>(send(&chunk, sent.keep(share, CHUNK)).await)
        };
        let mut still = ask().await.unwrap();
        let refused = ask().await.err().unwrap();
        assert!(refused.message().contains("in a moment"), "{refused}");
        for _ in 0..2 {
            assert_eq!(still.next().await.unwrap().unwrap().data.len(), PART);
        }
        assert!(still.next().await.is_none());
        // It has to come to an end.
        let mut still = ask().await.unwrap();
        assert!(still.next().await.is_some());
        tokio::time::sleep(TRANSFER.whole * 2).await;
        assert_eq!(sent.taken(), 0);
        assert!(still.next().await.unwrap().is_err());
        drop(ask().await.unwrap());
        assert!(ask().await.is_ok());
        // One that is small is sent at once.
        let small = Packed::from(Chunk::new(vec![7; PART].into()));
        let small = send(&small, sent.take(PART).await.unwrap()).await;
        assert_eq!(sent.taken(), PART as u64);
        let parts: Vec<_> = small.collect().await;
        assert!(parts.len() == 1 && sent.taken() == 0);
    }
}
