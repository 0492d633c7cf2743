//! Clients that stand still, and requests that are too large: each is cut off or refused, and holds nothing afterwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use peernet_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, mpsc};
use tokio::time::interval;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::crowds::memory;
use crate::network::{Network, Peer, bytes, until};

const MIB: usize = 1024 * 1024;
/// More than a peer holds of it for one reader.
const LARGE: usize = 40 * MIB;
/// Far less than a client may be silent.
const DRIBBLE: Duration = Duration::from_millis(200);
/// Connections that say nothing, over each protocol.
const SILENT: usize = 200;
/// Uploads over gRPC that stand still, more than twice as many as a peer takes at once.
const STALLED: usize = 150;
/// Most memory that a peer needs meanwhile, in KiB: what 64 uploads may send before they are heard (4 MiB each), as much
/// again for what the allocator keeps, and the rest.
const MEMORY: u64 = 700 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_still_is_cut_off_and_holds_nothing() {
    let flags = [
        "--replication-factor=1",
        "--replication-write=1",
        "--client-timeout-seconds=10",
    ];
    let network = Network::start_with(1, &flags).await;
    let peer = &network.peers[0];
    let (http, grpc) = (peer.http, peer.grpc);
    peer.put("large", &bytes(LARGE, 1)).await.unwrap();
    let silent = (0..SILENT).flat_map(|_| [says_nothing(http), says_nothing(grpc)]);
    tokio::join!(
        join_all(silent),
        speaks_http2_and_does_not_answer(grpc),
        dribbles_a_head(http),
        stops_within_a_body(http),
        stops_within_a_rename(http),
        stops_reading(http),
        stops_reading_over_grpc(peer),
        stop_within_an_upload(peer),
    );
    until("all that they took is given back", async || {
        let load = peer.status().await.unwrap().load.unwrap();
        let held = (load.upload_bytes, load.download_bytes);
        // The one that asks, and those before it that are closing.
        held == (0, 0) && load.http_connections == 0 && load.grpc_connections <= 2
    })
    .await;
    let most = memory(peer);
    println!("the peer had {most} KiB at most");
    assert!(most < MEMORY, "the peer had {most} KiB");
    let listed = peer.files().list(v1::ListRequest::default()).await.unwrap();
    let names: Vec<String> = listed
        .into_inner()
        .files
        .into_iter()
        .map(|f| f.name)
        .collect();
    assert_eq!(names, ["large"], "half an upload was stored");
    what_is_too_large_is_refused(peer).await;
    assert!(peer.get("large", 0, None).await.unwrap() == bytes(LARGE, 1));
}

/// Reads on until the other side closes; what came.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection that is reset has ended too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn says_nothing(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    rest(&mut stream).await;
}

async fn speaks_http2_and_does_not_answer(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // RFC 9113, 3.4: the preface, and empty SETTINGS.
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    stream.write_all(hello).await.unwrap();
    assert!(
        !rest(&mut stream).await.is_empty(),
        "it was not heard at all"
    );
}

async fn dribbles_a_head(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut pause = interval(DRIBBLE);
    let head = "GET /v1/files/large HTTP/1.1\r\nHost: localhost\r\nX: ".bytes();
    for byte in head.chain(std::iter::repeat(b'x')) {
        pause.tick().await;
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    let answer = rest(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
}

async fn stops_within_a_body(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = b"PUT /v1/files/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.write_all(&bytes(2_500_000, 2)).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("stood still for 10 seconds"), "{answer}");
}

async fn stops_within_a_rename(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = "POST /v1/files/large HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 21\r\n\r\n{\"rename_to\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("stood still for 10 seconds"), "{answer}");
}

async fn stops_reading(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = b"GET /v1/files/large HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut first = [0; 1024];
    stream.read_exact(&mut first).await.unwrap();
    // What the peer says of itself tells when it has given this one up.
    until("the reader that stopped is cut off", async || {
        connections(to).await == 0
    })
    .await;
    let mut left = Vec::new();
    let _ = stream.read_to_end(&mut left).await;
    assert!(left.len() < LARGE - 1024, "it got all of the file");
}

/// Over HTTP, the one that asks not counted.
async fn connections(to: SocketAddr) -> u64 {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = b"GET /v1/status HTTP/1.0\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let answer = rest(&mut stream).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    let load = &status["load"];
    let held = load["download_bytes"].as_u64().unwrap();
    // Two readers that stopped hold six chunks each at most, and what is on its way to them.
    assert!(held <= 2 * 8 * MIB as u64, "{load}");
    load["http_connections"].as_u64().unwrap() - 1
}

async fn stops_reading_over_grpc(peer: &Peer) {
    let request = v1::GetRequest {
        name: "large".into(),
        ..v1::GetRequest::default()
    };
    let mut parts = peer.files().get(request).await.unwrap().into_inner();
    // What the file is, and some of it: from here on the peer holds what comes next.
    for _ in 0..2 {
        parts.message().await.unwrap().expect("a part");
    }
    until("the reader that stopped is given up", async || {
        let load = peer.status().await.unwrap().load.unwrap();
        load.download_bytes == 0
    })
    .await;
    let mut received = 0;
    let given_up = loop {
        match parts.message().await {
            Ok(Some(part)) => {
                if let Some(v1::get_response::Part::Data(data)) = part.part {
                    received += data.len();
                }
            }
            Ok(None) => panic!("{received} of {LARGE} bytes are said to be all"),
            Err(status) => break status,
        }
    };
    assert_eq!(given_up.code(), Code::DeadlineExceeded, "{given_up}");
    assert!(received < LARGE, "it got all of the file");
}

/// All of them have sent 5 MiB before the first one waits for an answer.
async fn stop_within_an_upload(peer: &Peer) {
    let ready = Arc::new(Barrier::new(STALLED));
    let uploads = (0..STALLED).map(|n| {
        let ready = ready.clone();
        async move {
            let (parts, body) = mpsc::channel(1);
            let mut files = peer.files();
            let put = tokio::spawn(async move { files.put(ReceiverStream::new(body)).await });
            for part in half_an_upload(n) {
                if parts.send(part).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            ready.wait().await;
            put.await.unwrap().expect_err("half an upload was taken")
        }
    });
    let answers: Vec<Status> = join_all(uploads).await;
    let (crowded, late): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|status| status.code() == Code::ResourceExhausted);
    assert!(late.len() <= 64, "{} were taken at once", late.len());
    for status in crowded {
        assert!(status.get_details_retry_info().is_some(), "{status}");
    }
    for status in late {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
}

fn half_an_upload(n: usize) -> impl Iterator<Item = v1::PutRequest> {
    let header = v1::PutHeader {
        name: format!("half/{n}"),
        size: Some(6 * MIB as u64),
        ..v1::PutHeader::default()
    };
    let header = v1::put_request::Part::Header(header);
    let data = bytes(MIB, n as u64);
    let data = (0..5).map(move |_| v1::put_request::Part::Data(data.clone().into()));
    let parts = std::iter::once(header).chain(data);
    parts.map(|part| v1::PutRequest { part: Some(part) })
}

async fn what_is_too_large_is_refused(peer: &Peer) {
    let head = async |head: String| {
        let mut stream = TcpStream::connect(peer.http).await.unwrap();
        // It may be cut off before it has said all.
        let _ = stream.write_all(head.as_bytes()).await;
        rest(&mut stream).await
    };
    let many = "X: y\r\n".repeat(101);
    let many = head(format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"
    ))
    .await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    let long = "x".repeat(70_000);
    let long = head(format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    assert!(long.starts_with("HTTP/1.1 414"), "{long}");
    let json = "Content-Type: application/json\r\nContent-Length: 100000";
    let much = format!("{{\"rename_to\":\"{}\"}}", "x".repeat(99_984));
    let much = head(format!(
        "POST /v1/files/large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{json}\r\n\r\n{much}"
    ))
    .await;
    assert!(much.starts_with("HTTP/1.1 413"), "{much}");

    let mut request = Request::new(v1::StatRequest {
        name: "large".into(),
    });
    let huge = MetadataValue::try_from("x".repeat(100_000)).unwrap();
    request.metadata_mut().insert("x", huge);
    let refused = peer.files().stat(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let parts = half_an_upload(0).map(|part| match part.part {
        Some(v1::put_request::Part::Data(_)) => v1::PutRequest {
            part: Some(v1::put_request::Part::Data(bytes(5 * MIB, 0).into())),
        },
        _ => part,
    });
    let parts: Vec<_> = parts.take(2).collect();
    let refused = peer
        .files()
        .put(tokio_stream::iter(parts))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains("the limit is"), "{refused}");
}
