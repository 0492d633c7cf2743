//! `Chunks`: bulk bytes from and to other peers.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use peernet_core::collect::Referrer;
use peernet_core::io::ChunkOutcome;
use peernet_core::key::Key;
use peernet_proto::v1;
use peernet_proto::v1::put_chunk_response::Outcome;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tower::Service;

use super::status::{check_network, not_serving, of_chunk};
use crate::chunks::ChunkError;
use crate::daemon::{Life, Running};
use crate::disk::{Encoding, Packed};
use crate::wire::{Wire, bulk, encoding_of};

/// Bytes per message of a chunk on its way out (measured: 256 KiB is fastest).
pub(super) const PART: usize = 256 * 1024;
/// Most hashes in one question.
const HASHES: usize = 16_384;
/// The call whose request carries a chunk.
const PUT: &str = "/peernet.v1.Chunks/Put";

pub(super) struct Chunks {
    life: Arc<Life>,
}

impl Chunks {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Chunks { life }
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
        Ok(Response::new(stream::iter(parts(&chunk)).boxed()))
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

fn parts(
    chunk: &Packed,
) -> impl Iterator<Item = Result<v1::GetChunkResponse, Status>> + Send + use<> {
    let mut data = chunk.bytes().clone();
    let encoding = v1::Encoding::from(chunk.encoding()).into();
    std::iter::from_fn(move || {
        let data = data.split_to(data.len().min(PART));
        (!data.is_empty()).then_some(Ok(v1::GetChunkResponse { data, encoding }))
    })
}
