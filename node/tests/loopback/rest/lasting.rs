//! What becomes of uploads in parts that outlast what they were begun with: the client's connection, or the name's last write.

use std::fs;
use std::path::PathBuf;

use peernet_proto::v1::{PartialUpload, Referrer};
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::parts::{append, begin, offset};
use super::{get, put, send};
use crate::network::{Network, Peer, bytes, until};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 3_500_000;
const OPEN: &str = "Upload-Complete: ?0\r\nUpload-Length: 3500000\r\n";

/// Files with the records of uploads.
fn records(peer: &Peer) -> Vec<PathBuf> {
    let entries = fs::read_dir(peer.data.join("uploads"));
    let entries = entries.into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Of the only upload: what its chunks are stored with, and how many there are.
fn recorded(peer: &Peer) -> (Referrer, usize) {
    let [path] = &records(peer)[..] else {
        panic!("one upload is under way");
    };
    let record = PartialUpload::decode(&fs::read(path).unwrap()[..]).unwrap();
    (record.referrer.unwrap(), record.hashes.len() / 32)
}

async fn chunks_held(network: &Network) -> Vec<u64> {
    let mut held = Vec::new();
    for peer in &network.peers {
        held.push(peer.status().await.unwrap().chunks_held);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parts_are_one_upload_which_ends_when_its_chunks_are_gone() {
    let network = Network::start(3).await;
    let [a, b] = [0, 1].map(|n| network.peers[n].http);
    let data = bytes(SIZE, 500);
    let begun = begin(a, "parts/over", OPEN, &data[..MIB + 7]).await;
    let place = &begun.headers["location"];
    let (by, chunks) = recorded(&network.peers[0]);
    assert_eq!((&by.name[..], &by.base, chunks), ("parts/over", &None, 1));
    let part = append(a, place, "", MIB + 7, &data[MIB + 7..2 * MIB + 7]).await;
    assert_eq!(part.status, 204);
    assert_eq!(recorded(&network.peers[0]), (by, 2));

    let asked = begin(a, "parts/asked", OPEN, &data[2 * MIB..]).await;
    let asked = &asked.headers["location"];

    // The names go on without the uploads, as they do an hour after the last chunk of one.
    for name in ["over", "asked"] {
        put(b, &format!("/v1/files/parts/{name}"), b"another").await;
    }
    until("their chunks are collected", async || {
        chunks_held(&network).await == [0, 0, 0]
    })
    .await;
    let rest = &data[2 * MIB + 7..];
    let refused = append(a, place, "", 2 * MIB + 7, rest).await;
    refused.is_problem(404, "not_found");
    let stored = get(b, "/v1/files/parts/over", "").await.body;
    assert_eq!(stored, b"another");
    // So says who only asks how far it is.
    let told = send(b, &format!("HEAD {asked} HTTP/1.1"), b"").await;
    assert_eq!(told.status, 404);
    assert!(records(&network.peers[0]).is_empty(), "they keep places");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_goes_on_after_another_write_while_its_chunks_are_there() {
    let network = Network::start(3).await;
    let [a, b] = [0, 1].map(|n| network.peers[n].http);
    let data = bytes(SIZE, 501);
    // They are those of a file too.
    put(b, "/v1/files/kept", &data).await;
    let begun = begin(a, "parts/on", OPEN, &data[..2 * MIB]).await;
    let place = &begun.headers["location"];
    let (first, _) = recorded(&network.peers[0]);
    put(b, "/v1/files/parts/on", b"another").await;
    assert_eq!(offset(b, place).await, 2 * MIB);
    let (second, chunks) = recorded(&network.peers[0]);
    assert!(first.upload != second.upload && second.base.is_some() && chunks == 2);
    let done = append(a, place, "", 2 * MIB, &data[2 * MIB..]).await;
    assert_eq!(done.status, 201);
    assert!(get(b, "/v1/files/parts/on", "").await.body == data);
    assert!(records(&network.peers[0]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_client_is_gone_before_it_was_told_of_keeps_no_place() {
    // Slow enough for a client to go while its bytes are made durable.
    let flags = [
        "--replication-factor=1",
        "--replication-write=1",
        "--faults=slow-disk=3s",
    ];
    let network = Network::start_with(1, &flags).await;
    let peer = &network.peers[0];
    let head = format!(
        "POST /v1/uploads?name=parts/never HTTP/1.1\r\nHost: localhost\r\n{OPEN}Content-Length: {SIZE}\r\n\r\n"
    );
    for sent in [SIZE, 2 * MIB] {
        let mut broken = TcpStream::connect(peer.http).await.unwrap();
        broken.write_all(head.as_bytes()).await.unwrap();
        broken.write_all(&bytes(sent, 502)).await.unwrap();
        until("it has begun", async || !records(peer).is_empty()).await;
        drop(broken);
        until("it is forgotten", async || records(peer).is_empty()).await;
    }
}
