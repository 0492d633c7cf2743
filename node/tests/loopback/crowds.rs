//! A thousand clients at once, over both protocols: each is answered or told to come again, what was acknowledged is
//! there, and nothing of them stays behind.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tonic::Code;
use tonic_types::StatusExt;

use crate::network::{Client, Network, PATIENCE, Peer, bytes, until};

/// Over HTTP, each on a connection that it keeps.
const HTTP: usize = 1000;
/// Over gRPC: connections, and calls at once on each.
const GRPC: (usize, usize) = (25, 10);
/// Inline in the name's record over HTTP, a chunk over gRPC.
const SIZES: (usize, usize) = (300, 40_000);

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_and_nothing_of_it_stays() {
    let network = Network::start(3).await;
    let peer = &network.peers[0];
    peer.put("shared", &bytes(100_000, 7)).await.unwrap();
    let before = descriptors(peer);

    let ready = Arc::new(Barrier::new(HTTP + GRPC.0));
    let mut crowd = JoinSet::new();
    for n in 0..HTTP {
        crowd.spawn(over_http(peer.http, n, ready.clone()));
    }
    for n in 0..GRPC.0 {
        crowd.spawn(over_grpc(peer.client(), n, ready.clone()));
    }
    let refused: usize = crowd.join_all().await.into_iter().sum();
    println!(
        "{refused} requests were told to come again; {}",
        memory(peer)
    );

    all_are_there(&network).await;
    for peer in &network.peers {
        until("all that the crowd took is given back", async || {
            let load = peer.status().await.unwrap().load.unwrap();
            // Of the others' connections and of the one that asks there are a few.
            let few = 2 * network.peers.len() as u64;
            (
                load.http_connections,
                load.upload_bytes,
                load.download_bytes,
            ) == (0, 0, 0)
                && load.grpc_connections <= few
        })
        .await;
    }
    until("the descriptors are given back", async || {
        descriptors(peer) <= before + 2 * network.peers.len()
    })
    .await;
}

/// Stores a file and reads it and another, on one connection; how often it was told to come again.
async fn over_http(to: SocketAddr, n: usize, ready: Arc<Barrier>) -> usize {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut client, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    ready.wait().await;
    let (own, data) = (format!("http/{n}"), bytes(SIZES.0, n as u64));
    let (stored, first) = request(&mut client, Method::PUT, &own, &data).await;
    // Whoever came again may have been heard before.
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored["size"], SIZES.0);
    let (read, second) = request(&mut client, Method::GET, &own, b"").await;
    assert!(read == data, "{own}");
    let (shared, third) = request(&mut client, Method::GET, "shared", b"").await;
    assert!(shared == bytes(100_000, 7));
    first + second + third
}

/// Until it is answered: what the body was, and how often it was told to come again. That is always said with a time.
async fn request(
    client: &mut SendRequest<Full<Bytes>>,
    method: Method,
    name: &str,
    body: &[u8],
) -> (Vec<u8>, usize) {
    for refused in 0..PATIENCE.as_secs() as usize {
        let request = Request::builder()
            .method(&method)
            .uri(format!("/v1/files/{name}"))
            .header("host", "localhost")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        let answer = client.send_request(request).await.unwrap();
        let (status, again) = (
            answer.status(),
            answer.headers().get("retry-after").cloned(),
        );
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        match status {
            StatusCode::OK | StatusCode::CREATED => return (body.to_vec(), refused),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = again.expect("when to come again").to_str().unwrap().parse();
                sleep(Duration::from_secs(seconds.unwrap())).await;
            }
            other => panic!("{other}: {}", String::from_utf8_lossy(&body)),
        }
    }
    panic!("{method} {name} was refused all the time");
}

/// Stores files and reads them, all at once on one connection; how often it was told to come again.
async fn over_grpc(client: Client, n: usize, ready: Arc<Barrier>) -> usize {
    ready.wait().await;
    let calls = (0..GRPC.1).map(|call| {
        let client = client.clone();
        async move {
            let name = format!("grpc/{n}/{call}");
            let data = bytes(SIZES.1, (n * GRPC.1 + call) as u64);
            for refused in 0..PATIENCE.as_secs() as usize {
                let stored = client.put(&name, &data).await;
                let served = async || client.get(&name, 0, None).await;
                let status = match stored {
                    Err(status) => status,
                    Ok(_) => match served().await {
                        Ok(read) => {
                            assert!(read == data, "{name}");
                            return refused;
                        }
                        Err(status) => status,
                    },
                };
                let code = status.code();
                assert!(
                    matches!(code, Code::ResourceExhausted | Code::Unavailable),
                    "{name}: {status}"
                );
                let again = status.get_details_retry_info();
                let again = again.and_then(|info| info.retry_delay);
                sleep(again.expect("when to come again")).await;
            }
            panic!("{name} was refused all the time");
        }
    });
    futures::future::join_all(calls).await.into_iter().sum()
}

/// Each file, read through the others.
async fn all_are_there(network: &Network) {
    let http = (0..HTTP).map(|n| (format!("http/{n}"), SIZES.0, n));
    let grpc = (0..GRPC.0 * GRPC.1).map(|n| {
        let name = format!("grpc/{}/{}", n / GRPC.1, n % GRPC.1);
        (name, SIZES.1, n)
    });
    let others = [1, 2].map(|n| network.peers[n].client());
    let read = stream::iter(http.chain(grpc)).map(|(name, size, n)| {
        let client = others[n % 2].clone();
        async move {
            // They may still be busy with what the crowd has left.
            until(&format!("{name} is read"), async || {
                match client.get(&name, 0, None).await {
                    Ok(data) => {
                        assert!(data == bytes(size, n as u64), "{name}");
                        true
                    }
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{name}: {status}");
                        false
                    }
                }
            })
            .await;
        }
    });
    read.buffer_unordered(32).count().await;
}

/// Open files and sockets of a peer.
pub(crate) fn descriptors(peer: &Peer) -> usize {
    fs::read_dir(format!("/proc/{}/fd", peer.pid()))
        .unwrap()
        .count()
}

/// Most memory that a peer had so far, in KiB.
pub(crate) fn memory(peer: &Peer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", peer.pid())).unwrap();
    let most = status.lines().find(|line| line.starts_with("VmHWM"));
    let words = most.unwrap().split_whitespace();
    words.into_iter().nth(1).unwrap().parse().unwrap()
}
