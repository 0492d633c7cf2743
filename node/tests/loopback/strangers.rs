//! What comes from another network, another version or from the past is refused, with a sentence that says so.

use futures::stream;
use peernet_core::key::Key;
use peernet_node::wire::PROTOCOL;
use peernet_proto::v1;
use peernet_proto::v1::chunks_client::ChunksClient;
use peernet_proto::v1::put_chunk_response::Outcome;
use peernet_proto::v1::ring_client::RingClient;
use tonic::{Code, Status};

use crate::network::{NETWORK, Network, Peer, until};

const OTHER_NETWORK: &str = "11111111-2222-4333-8444-555555555555";

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, sentence: &str) {
    let status = answer.expect_err(sentence);
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains(sentence), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_why_they_are_refused() {
    let mut network = Network::launched(1).await;
    let mut ring = RingClient::new(network.peers[0].channel());
    let delivery = |network_id: &str, protocol_version| {
        stream::iter([v1::DeliverRequest {
            network_id: network_id.into(),
            protocol_version,
            from: vec![7; 16].into(),
            messages: Vec::new(),
        }])
    };
    let elsewhere = ring.deliver(delivery(OTHER_NETWORK, PROTOCOL)).await;
    refused(
        elsewhere,
        &format!("a member of network {NETWORK}, not of {OTHER_NETWORK}"),
    );
    for version in [0, 1, u32::MAX] {
        let other = ring.deliver(delivery(NETWORK, version)).await;
        refused(
            other,
            &format!("version {version} is not spoken here, only version {PROTOCOL}"),
        );
    }
    ring.deliver(delivery(NETWORK, PROTOCOL))
        .await
        .expect("one of us");

    // Whoever was sent to the wrong network finds the reason in its own log.
    let volume = network.peers[0].data.with_file_name("stranger");
    network.peers.push(Peer::on(&volume, "log"));
    network.launch_with(1, &["--network-id", OTHER_NETWORK, "--zone", "a"]);
    let said = format!("messages are refused: this peer is a member of network {NETWORK}");
    until("the stranger says why it is alone", async || {
        network.peers[1].log().contains(&said)
    })
    .await;
    let members = network.peers[0].members().await;
    assert_eq!(members.len(), 1, "{members:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_the_past_is_refused() {
    let mut network = Network::launched(1).await;
    let peer = &mut network.peers[0];
    let id = peer.status().await.unwrap().self_.unwrap().id;
    let mut admin = peer.admin();
    let mut order = async |epoch, leaving| {
        let peer_id = id.clone();
        let order = v1::DrainOrder {
            peer_id,
            epoch,
            leaving,
        };
        let orders = vec![order];
        admin.drain(v1::DrainRequest { orders }).await
    };
    order(5, false).await.unwrap();
    order(5, false).await.expect("the same again");
    for (epoch, leaving) in [(4, true), (4, false), (5, true)] {
        let sentence = format!("the order of drain epoch {epoch} for peer {id} is out of date");
        refused(order(epoch, leaving).await, &sentence);
    }
    let member = peer.members().await.remove(0);
    assert_eq!((member.drain_epoch, member.leaving), (5, false));

    // A chunk whose writer knows another configuration of its slot does not count.
    let data = b"written under an epoch that never was";
    let put = v1::PutChunkRequest {
        network_id: NETWORK.into(),
        hash: Key::of_bytes(data).0.to_vec().into(),
        epoch: 0,
        data: data.to_vec().into(),
        referrer: Some(v1::Referrer {
            name: "file".into(),
            upload: vec![1; 16].into(),
            base: None,
        }),
        length: data.len() as u32,
        encoding: 0,
    };
    let answer = ChunksClient::new(peer.channel()).put(put).await.unwrap();
    assert_eq!(
        answer.into_inner().outcome,
        Some(Outcome::NewerEpoch(1)),
        "the epoch it should have asked for"
    );
}
