//! What one stream of gRPC carries over loopback: chunks' parts, one way, with the same client, server and settings as peers use
//! among themselves. No chunk that a peer reads from another can come faster.

use std::io;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use peernet_proto::v1;
use peernet_proto::v1::chunks_client::ChunksClient;
use peernet_proto::v1::chunks_server::{Chunks, ChunksServer};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use super::Meter;

/// Bytes of a chunk in one message, as peers send it (`node/src/grpc/chunks.rs`).
const PART: usize = 256 << 10;
/// Flow control and frames at both ends, as peers have them (`node/src/grpc.rs`, `node/src/chunks/remote.rs`).
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const FRAME: u32 = 1 << 20;

/// MiB/s, and CPU seconds per GiB of both ends. Takes a little more than `time`. Blocks; not to be called from asynchronous
/// code.
pub(super) fn measure(time: Duration, random: &[u8]) -> io::Result<(f64, f64)> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(carried(time, random))
}

async fn carried(time: Duration, random: &[u8]) -> io::Result<(f64, f64)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let part = v1::GetChunkResponse {
        data: random[..PART].to_vec().into(),
        ..Default::default()
    };
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .add_service(ChunksServer::new(Endless(part)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let mut serving = JoinSet::new();
    serving.spawn(server);
    let endpoint = Endpoint::from_shared(address).map_err(io::Error::other)?;
    let channel = endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .connect()
        .await;
    let mut client = ChunksClient::new(channel.map_err(io::Error::other)?);
    // On a thread of the runtime: the one that blocks on it is a third.
    let reading = tokio::spawn(async move {
        let parts = client.get(v1::GetChunkRequest::default()).await;
        let mut parts = parts.map_err(io::Error::other)?.into_inner();
        let mut next = async || {
            let part = parts.message().await.map_err(io::Error::other)?;
            let part = part.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            io::Result::Ok(part.data.len())
        };
        next().await?;
        let (meter, begin, mut bytes) = (Meter::start(), Instant::now(), 0);
        while bytes == 0 || begin.elapsed() < time {
            bytes += next().await?;
        }
        Ok(meter.moved(bytes))
    });
    reading.await.map_err(io::Error::other)?
}

/// A chunk that has no end.
struct Endless(v1::GetChunkResponse);

#[tonic::async_trait]
impl Chunks for Endless {
    type GetStream = BoxStream<'static, Result<v1::GetChunkResponse, Status>>;

    async fn get(
        &self,
        _: Request<v1::GetChunkRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let part = self.0.clone();
        let parts = std::iter::repeat_with(move || Ok(part.clone()));
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn put(
        &self,
        _: Request<v1::PutChunkRequest>,
    ) -> Result<Response<v1::PutChunkResponse>, Status> {
        Err(Status::unimplemented("nothing is kept here"))
    }

    async fn have(
        &self,
        _: Request<v1::HaveChunksRequest>,
    ) -> Result<Response<v1::HaveChunksResponse>, Status> {
        Err(Status::unimplemented("nothing is kept here"))
    }
}
