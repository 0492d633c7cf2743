//! A peer that knows of plain bytes only, as in the middle of a rolling upgrade: compressed ones are not its chunk.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::BoxStream;
use peernet_core::collect::{Referrer, Upload};
use peernet_core::io::{ChunkOutcome, Endpoint};
use peernet_core::key::{Key, Name};
use peernet_core::member::PeerId;
use peernet_proto::v1;
use peernet_proto::v1::chunks_server::{Chunks, ChunksServer};
use peernet_proto::v1::put_chunk_response::Outcome;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::ChunkError;
use super::alone::Alone;
use crate::disk::{Chunk, Encoding, Packed};

/// What it was sent, in order: whether it took it.
#[derive(Clone, Default)]
struct Older(Arc<Mutex<Vec<bool>>>);

#[tonic::async_trait]
impl Chunks for Older {
    async fn put(
        &self,
        request: Request<v1::PutChunkRequest>,
    ) -> Result<Response<v1::PutChunkResponse>, Status> {
        let v1::PutChunkRequest { hash, data, .. } = request.into_inner();
        let whole = Key::of_bytes(&data).0 == hash[..];
        self.0.lock().unwrap().push(whole);
        if !whole {
            return Err(Status::data_loss("its bytes are damaged"));
        }
        let outcome = Some(Outcome::Stored(true));
        Ok(Response::new(v1::PutChunkResponse { outcome }))
    }

    type GetStream = BoxStream<'static, Result<v1::GetChunkResponse, Status>>;

    async fn get(
        &self,
        _: Request<v1::GetChunkRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn have(
        &self,
        _: Request<v1::HaveChunksRequest>,
    ) -> Result<Response<v1::HaveChunksResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

async fn served(older: &Older) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().add_service(ChunksServer::new(older.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Endpoint {
        id: PeerId(2),
        name: "older".into(),
        address,
        up: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_compressed_bytes_gets_plain_ones_and_is_not_asked_again_at_once() {
    let older = Older::default();
    let (peer, holder) = (Alone::with(&[]), served(&older).await);
    let by = Referrer {
        name: Name::new("f").unwrap(),
        upload: Upload(1),
        base: None,
    };
    let put = async |chunk: &Packed| {
        let of = (chunk.key(), chunk.plain_len());
        let put = peer.chunks.put(&holder, of, Some(chunk), 1, by.clone());
        put.await
    };
    for n in 0..3 {
        let text = format!("line {n}\n").repeat(5000);
        let packed = Packed::smallest(Chunk::new(text.into()));
        assert_eq!(packed.encoding(), Encoding::Zstd);
        assert_eq!(put(&packed).await.unwrap(), ChunkOutcome::Stored);
    }
    let sent = |older: &Older| std::mem::take(&mut *older.0.lock().unwrap());
    assert_eq!(sent(&older), [false, true, true, true]);

    // What is refused plain was not refused for its form.
    let plain = Packed::from(Chunk::new(Bytes::from_static(b"plain")));
    let of = (Key([0; 32]), plain.plain_len());
    let wrong = peer.chunks.put(&holder, of, Some(&plain), 1, by.clone());
    assert!(matches!(wrong.await, Err(ChunkError::Damaged)));
    assert_eq!(sent(&older), [false]);
}
