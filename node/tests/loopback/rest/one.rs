//! Reads that take one peer's word.

use std::net::SocketAddr;

use peernet_proto::v1;

use super::{get, put, send};
use crate::network::{Network, Peer, bytes};

const ONE: &str = "\r\nPeernet-Consistency: one";

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_tells_what_it_holds_and_asks_for_everything_else() {
    let mut network = Network::start(3).await;
    let http: Vec<SocketAddr> = network.peers.iter().map(|p| p.http).collect();
    let (small, large) = (bytes(1_000, 1), bytes(2 << 20, 2));
    for (path, data) in [("/v1/files/small", &small), ("/v1/files/large", &large)] {
        assert_eq!(put(http[0], path, data).await.status, 201);
    }
    for wrong in ["all", "ONE", "", "one, one"] {
        let more = format!("\r\nPeernet-Consistency: {wrong}");
        let refused = get(http[0], "/v1/files/small", &more).await;
        refused.is_problem(400, "invalid");
    }
    // Two of three have it for certain; the third too, once it has compared its copies.
    network.at_rest().await;
    network.peers[1].kill();
    network.peers[2].kill();

    // A majority is asked, and not there.
    let (quorum, chunks, nothing) = tokio::join!(
        get(http[0], "/v1/files/small", ""),
        get(http[0], "/v1/files/large", ONE),
        get(http[0], "/v1/files/nothing", ONE),
    );
    for answer in [quorum, chunks, nothing] {
        answer.is_problem(503, "unavailable");
    }
    let read = get(http[0], "/v1/files/small", ONE).await;
    assert_eq!((read.status, read.body == small), (200, true));
    let part = format!("{ONE}\r\nRange: bytes=10-19");
    let read = get(http[0], "/v1/files/small", &part).await;
    assert_eq!((read.status, &read.body[..]), (206, &small[10..20]));
    let head = format!("HEAD /v1/files/small HTTP/1.1{ONE}");
    assert_eq!(send(http[0], &head, b"").await.status, 200);
    assert_eq!(over_grpc(&network.peers[0]).await, small);

    network.launch(1);
    network.launch(2);
    network.all_ready().await;
    network.join().await;
    network.at_rest().await;
    // Whoever does not hold a name asks those that do.
    for peer in &network.peers {
        for (path, data) in [("/v1/files/small", &small), ("/v1/files/large", &large)] {
            let read = get(peer.http, path, ONE).await;
            assert_eq!((read.status, &read.body == data), (200, true), "{path}");
        }
        let nothing = get(peer.http, "/v1/files/nothing", ONE).await;
        nothing.is_problem(404, "not_found");
    }
    let gone = send(http[0], "DELETE /v1/files/small HTTP/1.1", b"").await;
    assert_eq!(gone.status, 204);
    network.at_rest().await;
    for peer in &network.peers {
        let read = get(peer.http, "/v1/files/small", ONE).await;
        read.is_problem(404, "not_found");
    }
}

async fn over_grpc(peer: &Peer) -> Vec<u8> {
    let request = v1::GetRequest {
        name: "small".into(),
        consistency: v1::Consistency::One.into(),
        ..v1::GetRequest::default()
    };
    let mut parts = peer.files().get(request).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        if let Some(v1::get_response::Part::Data(data)) = part.part {
            read.extend(data);
        }
    }
    read
}
