//! What clients do that are large, or patient.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::get;
use crate::network::{Network, until};

/// A client that goes on writing may not get to read why it was cut off.
pub(super) async fn huge_heads_are_refused(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let huge = format!(
        "GET /v1/files/crowd HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(1_000_000)
    );
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let long = format!("/v1/files/{}", "x".repeat(1025));
    get(to, &long, "").await.is_problem(400, "invalid");
}

/// One listener hears of all peers, and then of one that dies.
pub(super) async fn events_are_told(mut network: Network) {
    let to = network.peers[0].http;
    let stream = TcpStream::connect(to).await.unwrap();
    let mut stream = BufReader::new(stream);
    let head = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut lines = stream.lines();
    let mut next = async || loop {
        let line = lines.next_line().await.unwrap().expect("no end");
        if let Some(data) = line.strip_prefix("data: ") {
            let peer: Value = serde_json::from_str(data).unwrap();
            return (
                peer["name"].as_str().unwrap().to_owned(),
                peer["state"].as_str().unwrap().to_owned(),
            );
        }
    };
    // A busy machine may have made one suspect of another for a moment.
    let mut first = BTreeSet::new();
    until("the listener hears of all peers", async || {
        first.insert(next().await.0);
        first.len() == 3
    })
    .await;
    network.peers[2].kill();
    until("the listener hears of the peer that died", async || {
        next().await == ("p-2".to_owned(), "down".to_owned())
    })
    .await;
    // A peer that stops does not wait for its listeners, who hear that this was all.
    assert_eq!(network.peers[0].stop().await, 0);
    while lines.next_line().await.unwrap_or_default().is_some() {}
}
