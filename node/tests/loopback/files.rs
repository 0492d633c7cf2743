//! Files by gRPC, through any peer.

use std::time::UNIX_EPOCH;

use peernet_core::key::Key;
use peernet_proto::v1;
use tonic::Code;

use crate::network::{Network, bytes, until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// Around every edge: empty, inline or not, one chunk or more.
const SIZES: [usize; 11] = [
    0,
    1,
    32 * KIB - 1,
    32 * KIB,
    32 * KIB + 1,
    64 * KIB,
    MIB - 1,
    MIB,
    MIB + 1,
    5 * MIB + 3,
    9 * MIB,
];

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_size_come_back_from_any_peer() {
    let network = Network::start(3).await;
    let peer = |n: usize| &network.peers[n % 3];
    for (n, size) in SIZES.into_iter().enumerate() {
        let (name, data) = (format!("sizes/{size}"), bytes(size, n as u64));
        let info = peer(n).put(&name, &data).await.unwrap();
        assert_eq!((info.size, &info.name), (size as u64, &name));
        assert_eq!(info.content_type, "application/x-test");
        let chunks = if size <= 32 * KIB {
            0
        } else {
            size.div_ceil(MIB) as u64
        };
        assert_eq!(info.chunks, chunks, "{size}");
        for reader in 0..3 {
            assert!(
                peer(reader).get(&name, 0, None).await.unwrap() == data,
                "{size} bytes, read through {reader}"
            );
        }
        let middle = size as u64 / 2;
        let part = peer(n + 1).get(&name, middle, Some(1000)).await.unwrap();
        assert!(
            part == data[size / 2..(size / 2 + 1000).min(size)],
            "a part of {size} bytes"
        );
        assert!(
            peer(n + 2)
                .get(&name, size as u64, None)
                .await
                .unwrap()
                .is_empty()
        );
        let beyond = peer(n).get(&name, size as u64 + 1, None).await.unwrap_err();
        assert_eq!(beyond.code(), Code::OutOfRange);
    }
    overwrite_and_delete(&network).await;
    listings_come_in_pages(&network).await;
    copies_are_where_they_are_said_to_be(&network).await;
    what_makes_no_sense_is_refused(&network).await;
}

async fn overwrite_and_delete(network: &Network) {
    let [a, b, c] = [0, 1, 2].map(|n| &network.peers[n]);
    let (long, short) = (bytes(3 * MIB, 50), bytes(100, 51));
    let first = a.put("replaced", &long).await.unwrap();
    let second = b.put("replaced", &short).await.unwrap();
    assert_ne!(first.etag, second.etag);
    assert_eq!(c.get("replaced", 0, None).await.unwrap(), short);
    let again = c.put("replaced", &long).await.unwrap();
    assert_eq!(again.etag, first.etag, "the same content has the same tag");
    a.delete("replaced").await.unwrap();
    for peer in [a, b, c] {
        assert_eq!(
            peer.get("replaced", 0, None).await.unwrap_err().code(),
            Code::NotFound
        );
        let stat = peer
            .files()
            .stat(v1::StatRequest {
                name: "replaced".into(),
            })
            .await;
        assert_eq!(stat.unwrap_err().code(), Code::NotFound);
        assert_eq!(
            peer.delete("replaced").await.unwrap_err().code(),
            Code::NotFound
        );
    }
    b.put("replaced", &short).await.unwrap();
    assert_eq!(a.get("replaced", 0, None).await.unwrap(), short);
    a.delete("replaced").await.unwrap();
}

async fn listings_come_in_pages(network: &Network) {
    for n in 0..25 {
        network.peers[n % 3]
            .put(&format!("list/{n:02}"), b"x")
            .await
            .unwrap();
    }
    network.peers[0].delete("list/07").await.unwrap();
    let mut files = network.peers[1].files();
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let request = v1::ListRequest {
            prefix: "list/".into(),
            after: after.clone(),
            limit: 10,
        };
        let page = files.list(request).await.unwrap().into_inner();
        assert!(page.files.len() <= 10);
        names.extend(page.files.into_iter().map(|f| f.name));
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (0..25)
        .filter(|n| *n != 7)
        .map(|n| format!("list/{n:02}"))
        .collect();
    assert_eq!(names, expected);
    let none = v1::ListRequest {
        prefix: "no such".into(),
        after: String::new(),
        limit: 0,
    };
    assert!(
        files
            .list(none)
            .await
            .unwrap()
            .into_inner()
            .files
            .is_empty()
    );
}

async fn copies_are_where_they_are_said_to_be(network: &Network) {
    let data = bytes(4 * MIB + 1, 60);
    // File systems tell time in steps of a few milliseconds.
    let before = UNIX_EPOCH.elapsed().unwrap().as_millis() as u64 - 20;
    network.peers[0].put("explained", &data).await.unwrap();
    let request = v1::ExplainRequest {
        name: "explained".into(),
    };
    crate::network::until("every chunk has three copies", async || {
        let explained = network.peers[1]
            .files()
            .explain(request.clone())
            .await
            .unwrap()
            .into_inner();
        let told = explained.chunks.iter().map(|c| c.hash.clone());
        let pieces = data
            .chunks(MIB)
            .map(|piece| Key::of_bytes(piece).to_string());
        assert!(told.eq(pieces), "in the order of the file");
        let lengths = explained.chunks.iter().map(|c| c.length as usize);
        assert_eq!(lengths.sum::<usize>(), data.len());
        let holders = explained.chunks.iter().flat_map(|c| &c.holders);
        for peer in holders.chain(&explained.name_holders) {
            assert!(explained.zones.contains_key(peer), "the zone of {peer}");
        }
        let asked = network.peers[1].status().await.unwrap().self_.unwrap();
        match &explained.path[..] {
            [here] => assert!(*here == asked.name && explained.name_holders.contains(here)),
            [here, there] => assert!(*here == asked.name && explained.name_holders.contains(there)),
            other => panic!("every peer is at most one hop away, not {other:?}"),
        }
        let verified = explained.chunks.iter().map(|c| &c.verified_unix_ms);
        assert!(verified.clone().flatten().all(|at| *at >= before));
        assert!(
            verified
                .map(Vec::len)
                .eq(explained.chunks.iter().map(|c| c.holders.len()))
        );
        explained.name_holders.len() == 3 && explained.chunks.iter().all(|c| c.holders.len() == 3)
    })
    .await;
}

async fn what_makes_no_sense_is_refused(network: &Network) {
    let peer = &network.peers[0];
    for name in ["", "/a", "a//b", "../a", "a\nb", &"x".repeat(1025)] {
        assert_eq!(
            peer.put(name, b"x").await.unwrap_err().code(),
            Code::InvalidArgument,
            "{name:?}"
        );
        assert_eq!(
            peer.get(name, 0, None).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{name:?}"
        );
    }
    let part = |part| v1::PutRequest { part: Some(part) };
    let header = |size| {
        part(v1::put_request::Part::Header(v1::PutHeader {
            name: "refused".into(),
            content_type: String::new(),
            size: Some(size),
            ..Default::default()
        }))
    };
    let data = |len| part(v1::put_request::Part::Data(bytes(len, 1).into()));
    let wrong = [
        vec![data(5)],
        vec![],
        vec![header(10), data(9)],
        vec![header(10), data(11)],
        vec![header(3_000_000), data(2_000_000)],
        vec![header(10), header(10)],
    ];
    for (n, upload) in wrong.into_iter().enumerate() {
        let refused = peer
            .files()
            .put(tokio_stream::iter(upload))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{n}: {refused}");
    }
    assert_eq!(
        peer.get("refused", 0, None).await.unwrap_err().code(),
        Code::NotFound
    );
    let too_many = v1::ListRequest {
        limit: 1001,
        ..Default::default()
    };
    assert_eq!(
        peer.files().list(too_many).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_does_not_replace_what_came_while_it_began() {
    let network = Network::start(3).await;
    let peer = &network.peers[0];
    let (parts, body) = tokio::sync::mpsc::channel(1);
    let header = v1::PutHeader {
        name: "raced".into(),
        when: Some(v1::Precondition {
            if_none_match: vec!["*".into()],
            ..v1::Precondition::default()
        }),
        ..v1::PutHeader::default()
    };
    let part = |part| v1::PutRequest { part: Some(part) };
    let header = part(v1::put_request::Part::Header(header));
    parts.send(header).await.unwrap();
    let mut files = peer.files();
    let body = tokio_stream::wrappers::ReceiverStream::new(body);
    let upload = tokio::spawn(async move { files.put(body).await });
    // Not refused so far: nothing is there.
    let other = peer.put("raced", b"other").await.unwrap();
    let data = v1::put_request::Part::Data(bytes(2 * MIB, 1).into());
    // It may have been refused already.
    let _ = parts.send(part(data)).await;
    drop(parts);
    let refused = upload.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(peer.get("raced", 0, None).await.unwrap(), b"other");
    assert_eq!(other.size, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upload_is_not_stored() {
    let flags = ["--replication-factor=1", "--replication-write=1"];
    let network = Network::start_with(1, &flags).await;
    let peer = &network.peers[0];
    let held = async || peer.status().await.unwrap().load.unwrap().upload_bytes;
    let data = bytes(MIB / 2, 1);
    // Without a size, whose absence leaves the end of the stream as the only sign that all is there.
    let header = v1::PutHeader {
        name: "cancelled".into(),
        ..v1::PutHeader::default()
    };
    let (parts, body) = tokio::sync::mpsc::channel(1);
    let mut files = peer.files();
    let body = tokio_stream::wrappers::ReceiverStream::new(body);
    let upload = tokio::spawn(async move { files.put(body).await });
    let part = |part| v1::PutRequest { part: Some(part) };
    let header = part(v1::put_request::Part::Header(header));
    parts.send(header).await.unwrap();
    let data = v1::put_request::Part::Data(data.into());
    parts.send(part(data)).await.unwrap();
    until("the upload has begun", async || held().await > 0).await;
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    until("the upload is over", async || held().await == 0).await;
    let stat = v1::StatRequest {
        name: "cancelled".into(),
    };
    let missing = peer.files().stat(stat).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
}
