//! Pinned files, by HTTP and gRPC.

use peernet_proto::v1::{FileInfo, PinRequest, Precondition, RenameRequest, UnpinRequest};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::send;
use crate::network::{Network, Peer, bytes, until};

async fn pin(peer: &Peer, name: &str, etag: &str) -> Result<FileInfo, Status> {
    let request = PinRequest {
        name: name.into(),
        when: Some(Precondition {
            if_match: vec![etag.into()],
            ..Default::default()
        }),
    };
    let answer = peer.files().pin(request).await?.into_inner();
    Ok(answer.file.expect("the pinned file"))
}

async fn rename(peer: &Peer, name: &str, new_name: &str) -> Result<(), Status> {
    let request = RenameRequest {
        name: name.into(),
        new_name: new_name.into(),
        when: None,
    };
    peer.files().rename(request).await.map(drop)
}

fn is_pinned(refused: &Status) {
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let info = refused.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "PINNED");
    assert!(
        refused.message().contains("is pinned; unpin it first"),
        "{refused}"
    );
}

/// What a listing or a search of one file says of it: null while it finds none.
async fn only(peer: &Peer, path: &str) -> Value {
    let answer = send(peer.http, &format!("GET {path} HTTP/1.1"), b"").await;
    assert_eq!(answer.status, 200);
    (answer.json().pointer("/files/0")).map_or(Value::Null, Value::clone)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_file_can_only_be_read_until_it_is_unpinned() {
    let network = Network::start_with(3, &["--chunk-size", "65536"]).await;
    let [a, b, c] = [0, 1, 2].map(|n| &network.peers[n]);
    // In the record, and in chunks.
    for (name, data) in [
        ("kept/small", bytes(100, 1)),
        ("kept/large", bytes(300_000, 2)),
    ] {
        let stored = a.put(name, &data).await.unwrap();
        let wrong = pin(b, name, "x").await.unwrap_err();
        assert_eq!(wrong.code(), Code::FailedPrecondition);
        for peer in [b, c] {
            let pinned = pin(peer, name, &stored.etag).await.unwrap();
            let alike = FileInfo {
                pinned: true,
                ..stored.clone()
            };
            assert_eq!(pinned, alike, "nothing but the pin is new");
        }
        for peer in [a, b, c] {
            is_pinned(&peer.put(name, &bytes(10, 3)).await.unwrap_err());
            is_pinned(&peer.put(name, &bytes(200_000, 3)).await.unwrap_err());
            is_pinned(&peer.delete(name).await.unwrap_err());
            is_pinned(&rename(peer, name, "away").await.unwrap_err());
        }
        let path = format!("/v1/files/{name}");
        for (line, body) in [
            ("PUT", &b"new"[..]),
            ("DELETE", b""),
            ("POST", b"{\"rename_to\": \"away\"}"),
        ] {
            let kind = "Content-Type: application/json";
            let head = format!(
                "{line} {path} HTTP/1.1\r\n{kind}\r\nContent-Length: {}",
                body.len()
            );
            send(b.http, &head, body).await.is_problem(409, "pinned");
        }
        assert!(c.get(name, 0, None).await.unwrap() == data);
        assert_eq!(
            only(a, &format!("/v1/files?prefix={name}")).await["pinned"],
            true
        );
    }
    until("the index follows", async || {
        only(b, "/v1/search?q=large").await["pinned"] == true
    })
    .await;

    let pins = |method: &str, name: &str| {
        format!("{method} /v1/pins/{name} HTTP/1.1\r\nContent-Length: 0")
    };
    for (name, status) in [("kept/small", 204), ("kept/small", 204), ("none", 404)] {
        let answer = send(a.http, &pins("DELETE", name), b"").await;
        assert_eq!(answer.status, status, "{name}");
    }
    send(a.http, &pins("PUT", "none"), b"")
        .await
        .is_problem(404, "not_found");
    let answer = send(a.http, &pins("PUT", "kept/small"), b"").await;
    assert_eq!(
        (answer.status, &answer.json()["pinned"]),
        (200, &true.into())
    );

    for name in ["kept/small", "kept/large"] {
        let request = UnpinRequest {
            name: name.into(),
            when: None,
        };
        let free = c.files().unpin(request).await.unwrap().into_inner().file;
        assert!(!free.unwrap().pinned);
        a.put(name, &bytes(200_000, 4)).await.unwrap();
        rename(b, name, "away").await.unwrap();
        c.delete("away").await.unwrap();
    }
}
