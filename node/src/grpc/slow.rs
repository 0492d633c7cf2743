//! Chunks over a slow link: what moves is waited for, what stands still is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, BoxStream, StreamExt};
use peernet_core::collect::{Referrer, Upload};
use peernet_core::io::ChunkOutcome;
use peernet_core::key::{Key, Name};
use peernet_proto::v1;
use peernet_proto::v1::chunks_server::{Chunks, ChunksServer};
use peernet_proto::v1::put_chunk_response::Outcome;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::chunks::{PART, Unpacking};
use super::entrance::Entrance;
use super::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};
use crate::chunks::ChunkError;
use crate::chunks::remote::Pool;
use crate::disk::{Chunk, Encoding, Packed};
use crate::door::Doors;
use crate::link::Patience;
use crate::transport::MESSAGE_MAX;
use crate::wire::bulk;

/// Far less than the chunks here need, far more than the link pauses.
const PATIENCE: Patience = Patience {
    still: Duration::from_secs(2),
    whole: Duration::from_secs(120),
};
/// Bytes per [`TICK`]: 400 KiB/s.
const SLOW: usize = 8 * 1024;
const TICK: Duration = Duration::from_millis(20);
/// What the link holds, each way: a segment on loopback, or TCP would wait for room for one.
const QUEUE: usize = 64 * 1024;
/// Chunks at once, and bytes of each: five seconds together.
const CHUNKS: (usize, usize) = (4, 512 * 1024);
const NETWORK: &str = "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10";

/// Keeps nothing, and has any chunk.
struct Any;

#[tonic::async_trait]
impl Chunks for Any {
    async fn put(
        &self,
        request: Request<v1::PutChunkRequest>,
    ) -> Result<Response<v1::PutChunkResponse>, Status> {
        let v1::PutChunkRequest { hash, data, .. } = bulk::whole(request);
        assert_eq!(Key::of_bytes(&data).0, hash[..]);
        let outcome = Some(Outcome::Stored(true));
        Ok(Response::new(v1::PutChunkResponse { outcome }))
    }

    type GetStream = BoxStream<'static, Result<v1::GetChunkResponse, Status>>;

    async fn get(
        &self,
        request: Request<v1::GetChunkRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let of = u64::from(request.into_inner().hash[0]);
        let data = bytes(of);
        let parts = (0..data.len()).step_by(PART).map(move |at| {
            let data = data.slice(at..data.len().min(at + PART));
            let encoding = v1::Encoding::from(Encoding::Plain).into();
            Ok(v1::GetChunkResponse { data, encoding })
        });
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn have(
        &self,
        _: Request<v1::HaveChunksRequest>,
    ) -> Result<Response<v1::HaveChunksResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

fn bytes(seed: u64) -> Bytes {
    let mut bytes = vec![0; CHUNKS.1];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.into()
}

/// The way to a server, and how much of it is to be had.
#[derive(Clone)]
struct Link {
    address: String,
    /// Bytes per tick, each way of each connection.
    width: Arc<AtomicUsize>,
    carried: Arc<AtomicUsize>,
}

impl Link {
    /// To a peer as others see it.
    async fn to_a_peer() -> Self {
        Link::to_one_with(Entrance::new(PATIENCE.whole, PATIENCE)).await
    }

    async fn to_one_with(entrance: Entrance) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let doors = Doors::new(16, Duration::from_secs(30));
        let service = ChunksServer::new(Any).max_decoding_message_size(MESSAGE_MAX);
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .layer(entrance)
            .add_service(Unpacking(service));
        tokio::spawn(async move {
            let guests = doors.grpc.open(listener, None);
            server.serve_with_incoming(guests).await
        });
        let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Those that come inherit it.
        SockRef::from(&slow).set_recv_buffer_size(QUEUE).unwrap();
        let link = Link {
            address: slow.local_addr().unwrap().to_string(),
            width: Arc::new(AtomicUsize::new(SLOW)),
            carried: Arc::default(),
        };
        let here = link.clone();
        tokio::spawn(async move {
            loop {
                let (one, _) = slow.accept().await.unwrap();
                let other = TcpStream::connect(peer).await.unwrap();
                SockRef::from(&other).set_recv_buffer_size(QUEUE).unwrap();
                let (from, to) = (one.into_split(), other.into_split());
                tokio::spawn(here.clone().carry(from.0, to.1));
                tokio::spawn(here.clone().carry(to.0, from.1));
            }
        });
        link
    }

    async fn carry(self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = vec![0; SLOW];
        loop {
            tick.tick().await;
            let width = self.width.load(Ordering::Relaxed);
            if width == 0 {
                continue;
            }
            let Ok(read @ 1..) = from.read(&mut buffer[..width]).await else {
                return;
            };
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            self.carried.fetch_add(read, Ordering::Relaxed);
        }
    }

    /// Carries nothing any more, once it has carried so much.
    async fn break_after(&self, bytes: usize) {
        while self.carried.load(Ordering::Relaxed) < bytes {
            sleep(TICK).await;
        }
        self.width.store(0, Ordering::Relaxed);
    }

    async fn put(&self, pool: &Pool, n: u64) -> Result<ChunkOutcome, ChunkError> {
        let chunk = Packed::from(Chunk::new(bytes(n)));
        let by = Referrer {
            name: Name::new("f").unwrap(),
            upload: Upload(1),
            base: None,
        };
        let of = (chunk.key(), chunk.plain_len());
        pool.put(NETWORK, &self.address, of, Some(&chunk), 1, &by)
            .await
    }

    async fn get(&self, pool: &Pool, n: u64) -> Result<(Encoding, Bytes), ChunkError> {
        pool.get(NETWORK, &self.address, Key([n as u8; 32])).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_move_are_waited_for_however_slow_the_link() {
    let link = Link::to_a_peer().await;
    let pool = Pool::new(PATIENCE);
    let put = join_all((0..CHUNKS.0).map(|n| link.put(&pool, n as u64))).await;
    for put in put {
        assert_eq!(put.unwrap(), ChunkOutcome::Stored);
    }
    let got = join_all((0..CHUNKS.0).map(|n| link.get(&pool, n as u64))).await;
    for (n, got) in got.into_iter().enumerate() {
        assert_eq!(got.unwrap(), (Encoding::Plain, bytes(n as u64)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_stop_half_way_are_given_up() {
    let half = CHUNKS.1 / 2;
    // Both ends notice, and what the other one says of it may get here first.
    let still = |error: ChunkError| {
        let said = error.to_string();
        let known = ["nothing moved for 2 s", "was not whole in time"];
        assert!(known.iter().any(|known| said.contains(known)), "{said}");
    };
    let (link, pool) = (Link::to_a_peer().await, Pool::new(PATIENCE));
    let (put, ()) = tokio::join!(link.put(&pool, 1), link.break_after(half));
    still(put.unwrap_err());
    let (link, pool) = (Link::to_a_peer().await, Pool::new(PATIENCE));
    let (got, ()) = tokio::join!(link.get(&pool, 1), link.break_after(half));
    still(got.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_no_room_for_a_chunk_now_is_not_one_whose_disk_is_full() {
    let entrance = Entrance::new(PATIENCE.whole, PATIENCE);
    let others = entrance.fill_chunks();
    let (link, pool) = (Link::to_one_with(entrance).await, Pool::new(PATIENCE));
    let busy = link.put(&pool, 1).await.unwrap_err();
    assert!(matches!(busy, ChunkError::Unavailable(_)), "{busy:?}");
    drop(others);
    assert_eq!(link.put(&pool, 1).await.unwrap(), ChunkOutcome::Stored);
}
