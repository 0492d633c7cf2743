//! Events through a real broker.

use std::collections::{BTreeMap, BTreeSet};

use peernet_proto::v1;
use serde_json::Value;

use crate::broker::{Broker, Reader};
use crate::network::{NETWORK, Network, until};

const EXCHANGE: &str = "peernet";

/// Waits until such an event about this subject comes; what others are about is passed over.
async fn told(reader: &mut Reader, key: &str, subject: &str) -> Value {
    loop {
        let (routed, event) = reader.event().await;
        if routed == key && event["subject"] == subject {
            return event;
        }
    }
}

#[tokio::test]
async fn peers_that_join_crash_and_return_are_told_of_also_after_the_broker_was_away() {
    let Some(mut broker) = Broker::start().await else {
        return;
    };
    broker.bind("all", EXCHANGE, "peer.#").await;
    let uri = broker.uri();
    let flags = ["--events", &uri, "--events-exchange", EXCHANGE];
    let mut network = Network::start_with(3, &flags).await;
    let mut all = broker.read("all").await;
    network.join().await;
    let joined = told(&mut all, "peer.joined", "p-3").await;
    assert_eq!(joined["specversion"], "1.0");
    assert_eq!(joined["type"], "dev.peernet.peer.joined");
    assert_eq!(joined["source"], format!("/networks/{NETWORK}"));
    assert_eq!(joined["data"]["zone"], "a");

    network.peers[2].kill();
    told(&mut all, "peer.down", "p-2").await;
    network.launch(2);
    network.ready(2).await;
    told(&mut all, "peer.returned", "p-2").await;

    // What happens meanwhile waits for the broker, also if whoever would tell it is among those that go.
    broker.kill();
    network.peers[0].kill();
    let survivor = &network.peers[1];
    until("its end is seen", async || {
        survivor
            .members()
            .await
            .iter()
            .any(|p| p.name == "p-0" && p.state() == v1::PeerState::Down)
    })
    .await;
    broker.launch();
    broker.answers().await;
    let mut all = broker.read("all").await;
    let down = told(&mut all, "peer.down", "p-0").await;
    assert!(
        down["id"]
            .as_str()
            .is_some_and(|id| id.ends_with("/peer.down")),
        "{down}"
    );
}

/// Reads events until each of these files has the last of what happened to it, and returns all of them by file, each once.
async fn histories(
    reader: &mut Reader,
    acknowledged: &BTreeMap<String, Vec<String>>,
) -> BTreeMap<String, Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut sequences: BTreeMap<String, String> = BTreeMap::new();
    while acknowledged
        .keys()
        .any(|name| told.get(name).map(Vec::len) < acknowledged.get(name).map(Vec::len))
    {
        let (routed, event) = reader.event().await;
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        // At least once: what comes again has the identity it had.
        if !seen.insert(text("id")) {
            continue;
        }
        let name = text("subject");
        // What was told of before the broker went away may come again.
        if !acknowledged.contains_key(&name) {
            continue;
        }
        let (before, now) = (
            sequences.get(&name).cloned().unwrap_or_default(),
            text("sequence"),
        );
        assert!(before < now, "out of order: {event}");
        sequences.insert(name.clone(), now);
        assert_eq!(event["data"]["leftOut"], Value::Null, "{event}");
        told.entry(name).or_default().push(match routed.as_str() {
            "file.stored" => event["data"]["etag"].as_str().expect("an etag").to_owned(),
            "file.deleted" => String::new(),
            _ => panic!("{routed} of a file"),
        });
    }
    told
}

#[tokio::test]
async fn every_acknowledged_change_of_a_file_is_told_in_order_whatever_was_away() {
    let Some(mut broker) = Broker::start().await else {
        return;
    };
    broker.bind("files", EXCHANGE, "file.#").await;
    let uri = broker.uri();
    let mut network = Network::start_with(3, &["--events", &uri]).await;
    let mut files = broker.read("files").await;
    let mut acknowledged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let stored = network.peers[0]
        .put("a/ü.txt", b"one")
        .await
        .expect("stored");
    let event = told(&mut files, "file.stored", "a/ü.txt").await;
    assert_eq!(
        event["data"],
        serde_json::json!({
            "name": "a/ü.txt", "size": 3, "etag": stored.etag, "contentType": "application/x-test",
        })
    );

    // With the broker away, and a peer that owned some of the slots gone for good.
    broker.kill();
    for round in 0..4 {
        if round == 2 {
            network.peers[2].kill();
        }
        for n in 0..25 {
            let name = format!("many/{n}");
            let history = acknowledged.entry(name.clone()).or_default();
            let peer = &network.peers[n % 2];
            if round == 3 && n % 5 == 0 {
                peer.delete(&name).await.expect("deleted");
                history.push(String::new());
            } else {
                let info = peer
                    .put(&name, format!("{round} {n}").as_bytes())
                    .await
                    .expect("stored");
                history.push(info.etag);
            }
        }
    }
    network.launch(2);
    broker.launch();
    broker.answers().await;
    let mut files = broker.read("files").await;
    assert_eq!(histories(&mut files, &acknowledged).await, acknowledged);
}
