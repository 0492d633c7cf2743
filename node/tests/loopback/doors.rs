//! The door for gRPC: crowds of clients keep no peer out, and messages that stop half-way hold little.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use peernet_proto::v1;
use peernet_proto::v1::peers_client::PeersClient;
use prost::Message;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::crowds::memory;
use crate::network::{Network, Peer, bytes, until};

const MIB: usize = 1024 * 1024;
/// At the door for gRPC; a quarter of them is kept for peers.
const PLACES: usize = 24;
/// Connections that send half messages, messages on each, and bytes of each: far more than there is room for.
const HALVES: (usize, usize, usize) = (8, 24, 12 * MIB);
/// Most memory that a peer needs meanwhile, in KiB: half messages of the ring (32 MiB) and of clients (32 MiB), a frame of
/// 1 MiB each of those that wait for room (64 each), what HTTP/2 holds unread (8 MiB for each of twice as many
/// connections), and the rest.
const MEMORY: u64 = 560 * 1024;

type Watcher = Streaming<v1::WatchPeersResponse>;

/// A client that stays.
async fn watch(peer: &Peer) -> Result<Watcher, Status> {
    let mut peers = PeersClient::new(peer.channel());
    let mut watcher = peers.watch(v1::WatchPeersRequest {}).await?.into_inner();
    watcher.message().await?;
    Ok(watcher)
}

/// Clients that stay, until there is no place for another.
async fn fill(peer: &Peer) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    loop {
        match watch(peer).await {
            Ok(watcher) => watchers.push(watcher),
            Err(refused) => {
                assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
                assert!(refused.message().contains("as many clients as it takes"));
                assert!(refused.get_details_retry_info().is_some());
                return watchers;
            }
        }
        assert!(watchers.len() <= PLACES - PLACES / 4, "peers' places");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stay_keep_no_peer_out() {
    let connections = format!("--connections={PLACES}");
    let mut network = Network::start_with(3, &[&connections]).await;
    let mut crowd = fill(&network.peers[0]).await;
    assert!(!crowd.is_empty());
    network.peers[1].kill();
    network.peers[2].kill();
    // The places of those two are taken as well, before they are back.
    let before = crowd.len();
    until("the crowd has their places", async || {
        crowd.extend(fill(&network.peers[0]).await);
        crowd.len() > before
    })
    .await;
    for n in [1, 2] {
        network.launch(n);
    }
    for n in [1, 2] {
        network.ready(n).await;
    }
    let data = bytes(2 * MIB, 1);
    network.peers[1].put("a", &data).await.unwrap();
    until("all three hold all of it", async || {
        let asked = v1::ExplainRequest { name: "a".into() };
        let told = network.peers[2].files().explain(asked).await;
        let told = told.expect("an answer").into_inner();
        told.chunks.iter().all(|chunk| chunk.holders.len() == 3)
    })
    .await;
    let refused = watch(&network.peers[0]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    crowd.truncate(before / 2);
    until("clients are served where others have gone", async || {
        network.peers[0]
            .get("a", 0, None)
            .await
            .is_ok_and(|read| read == data)
    })
    .await;
}

/// Kubernetes' probe: whether the process serves, on a connection of its own.
async fn lives(channel: Channel) -> Result<ServingStatus, Status> {
    let service = String::new();
    let asked = HealthCheckRequest { service };
    let answer = HealthClient::new(channel).check(asked).await?.into_inner();
    Ok(answer.status())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_clients_keeps_no_liveness_probe_out() {
    let connections = format!("--connections={PLACES}");
    let flags = [
        "--replication-factor=1",
        "--replication-write=1",
        &connections,
    ];
    let network = Network::start_with(1, &flags).await;
    let peer = &network.peers[0];
    let crowd = fill(peer).await;
    assert!(!crowd.is_empty());
    for _ in 0..PLACES / 4 {
        let channel = peer.channel();
        assert_eq!(
            lives(channel.clone()).await.unwrap(),
            ServingStatus::Serving
        );
        // Who asked that is a client like any other.
        let watch = PeersClient::new(channel)
            .watch(v1::WatchPeersRequest {})
            .await;
        assert_eq!(watch.unwrap_err().code(), Code::ResourceExhausted);
    }
}

/// What is before a message of so many bytes.
fn prefix(length: usize) -> Bytes {
    let mut prefix = BytesMut::from(&[0][..]);
    prefix.put_u32(length as u32);
    prefix.freeze()
}

/// The first message of an upload that says it has one byte.
fn begun() -> Bytes {
    let header = v1::PutHeader {
        name: "half".into(),
        size: Some(1),
        ..v1::PutHeader::default()
    };
    let part = Some(v1::put_request::Part::Header(header));
    let message = v1::PutRequest { part }.encode_to_vec();
    [&prefix(message.len())[..], &message].concat().into()
}

/// Says how long a message is, sends so many bytes of it, and stops; `before` it comes what is whole.
async fn stops_half_way(
    mut channel: Channel,
    path: &'static str,
    before: Bytes,
    length: usize,
    here: usize,
) -> Code {
    let part = Bytes::from(vec![0; 64 * 1024]);
    let parts = std::iter::repeat_n(part, here / (64 * 1024));
    let begin = [before, prefix(length)].into_iter();
    let frames = stream::iter(begin.filter(|b| !b.is_empty()).chain(parts));
    let frames = frames.map(|data| Ok::<_, Infallible>(Frame::data(data)));
    let body = Body::new(StreamBody::new(frames.chain(stream::pending())));
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = async {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
        channel.call(request.body(body).unwrap()).await
    };
    match answer.await {
        Ok(answer) => match Status::from_header_map(answer.headers()) {
            Some(status) => status.code(),
            None => told_at_its_end(answer.into_body()).await,
        },
        // The connection was cut off.
        Err(_) => Code::Unavailable,
    }
}

/// By a call that answers with a stream.
async fn told_at_its_end(body: Body) -> Code {
    let Ok(body) = body.collect().await else {
        return Code::Unavailable;
    };
    let status = body.trailers().and_then(Status::from_header_map);
    status.expect("it is over before it is whole").code()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_stop_half_way_hold_little() {
    let flags = [
        "--replication-factor=1",
        "--replication-write=1",
        "--client-timeout-seconds=3",
    ];
    let network = Network::start_with(1, &flags).await;
    let peer = &network.peers[0];
    let (connections, calls, here) = HALVES;
    let requests = [
        ("/peernet.v1.Ring/Deliver", Bytes::new(), 16 * MIB, here),
        ("/peernet.v1.Files/Stat", Bytes::new(), 4 * MIB, 3 * MIB),
    ];
    let stop = async |requests: &[(&'static str, Bytes, usize, usize)]| {
        let mut sent = Vec::new();
        for (path, before, length, here) in requests {
            for _ in 0..connections {
                let channel = peer.channel();
                let call =
                    |_| stops_half_way(channel.clone(), path, before.clone(), *length, *here);
                sent.extend((0..calls).map(call));
            }
        }
        join_all(sent).await
    };
    let mut over = stop(&requests).await;
    // The same for those whose request is a stream, before they have a place and where they have asked for a small one.
    let streams = [
        ("/peernet.v1.Files/Put", Bytes::new(), 4 * MIB, 3 * MIB),
        ("/peernet.v1.Files/Put", begun(), 4 * MIB, 3 * MIB),
        ("/peernet.v1.Shares/Share", Bytes::new(), 4 * MIB, 3 * MIB),
    ];
    over.extend(stop(&streams).await);
    // Reflection says nothing of what was wrong, but ends.
    let asks = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    for (length, here) in [(4 * MIB, 3 * MIB), (60 * 1024, 0)] {
        stops_half_way(peer.channel(), asks, Bytes::new(), length, here).await;
    }
    let refused = over.iter().filter(|code| **code == Code::ResourceExhausted);
    println!(
        "{} of {} were told to come again",
        refused.clone().count(),
        over.len()
    );
    assert!(refused.count() > 0);
    assert!(over.contains(&Code::DeadlineExceeded));
    let known = [
        Code::ResourceExhausted,
        Code::DeadlineExceeded,
        Code::Unavailable,
    ];
    assert!(over.iter().all(|code| known.contains(code)), "{over:?}");
    let most = memory(peer);
    println!("the peer had {most} KiB at most");
    assert!(most < MEMORY, "the peer had {most} KiB");
    // What only asks something is short.
    let channel = peer.channel();
    let find = "/peernet.v1.Search/Find";
    let long = stops_half_way(channel, find, Bytes::new(), MIB, 0).await;
    assert_eq!(long, Code::OutOfRange);
    let data = bytes(MIB, 1);
    peer.put("after", &data).await.unwrap();
    assert!(peer.get("after", 0, None).await.unwrap() == data);
}
