//! Uploads that broke off go on: what was durable is named, not sent, also through another peer.

use bytes::Bytes;
use peernet_proto::v1::put_request::Part;
use peernet_proto::v1::{
    FileInfo, HeldChunks, HeldRequest, HeldResponse, PutHeader, PutRequest, PutResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::network::{Network, Peer, bytes, until};

const MIB: usize = 1024 * 1024;

fn header(name: &str, size: usize) -> Part {
    Part::Header(PutHeader {
        name: name.into(),
        content_type: "application/x-test".into(),
        size: Some(size as u64),
        ..Default::default()
    })
}

fn held(hashes: &[Bytes], chunk_size: usize) -> Part {
    Part::Held(HeldChunks {
        hashes: hashes.to_vec(),
        chunk_size: chunk_size as u32,
    })
}

fn hashes(data: &[u8]) -> Vec<Bytes> {
    let chunks = data.chunks_exact(MIB);
    let hash = |chunk| Bytes::copy_from_slice(blake3::hash(chunk).as_bytes());
    chunks.map(hash).collect()
}

async fn ask(peer: &Peer, hashes: &[Bytes]) -> Result<HeldResponse, Status> {
    let hashes = hashes.to_vec();
    let answer = peer.files().held(HeldRequest { hashes }).await?;
    Ok(answer.into_inner())
}

async fn put(peer: &Peer, parts: Vec<Part>) -> Result<FileInfo, Status> {
    let parts = parts
        .into_iter()
        .map(|part| PutRequest { part: Some(part) });
    let parts: Vec<_> = parts.collect();
    let answer = peer.files().put(tokio_stream::iter(parts)).await?;
    let PutResponse { file } = answer.into_inner();
    Ok(file.expect("what was stored"))
}

fn data(part: &[u8]) -> impl Iterator<Item = Part> {
    part.chunks(MIB)
        .map(|part| Part::Data(Bytes::copy_from_slice(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_broke_off_goes_on_through_another_peer() {
    let mut network = Network::start(3).await;
    let file = bytes(12 * MIB + 5, 300);
    let keys = hashes(&file);
    let none = ask(&network.peers[1], &keys).await.unwrap();
    assert_eq!((none.held, none.chunk_size), (0, MIB as u32));

    let (parts, queue) = mpsc::channel(1);
    let mut files = network.peers[0].files();
    let call = tokio::spawn(async move { files.put(ReceiverStream::new(queue)).await });
    let begun = [header("broken", file.len())].into_iter();
    for part in begun.chain(data(&file[..9 * MIB])) {
        let part = Some(part);
        parts.send(PutRequest { part }).await.unwrap();
    }
    let reached = async |n: usize, count: u32| {
        let answer = ask(&network.peers[n], &keys).await;
        answer.is_ok_and(|answer| answer.held == count)
    };
    until("nine chunks are durable", async || reached(1, 9).await).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    drop(parts);
    what_makes_no_sense_is_refused(&network.peers[2], &keys).await;

    network.peers[0].kill();
    let reached = async |n: usize, count: u32| {
        let answer = ask(&network.peers[n], &keys).await;
        answer.is_ok_and(|answer| answer.held == count)
    };
    until("the others hold all nine", async || reached(1, 9).await).await;
    let gone = network.peers[2].get("broken", 0, None).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let mut rest = vec![header("broken", file.len())];
    rest.extend([held(&keys[..4], MIB), held(&keys[4..9], MIB)]);
    rest.extend(data(&file[9 * MIB..]));
    let stored = put(&network.peers[1], rest).await.unwrap();
    assert_eq!((stored.size, stored.chunks), (file.len() as u64, 13));
    assert!(network.peers[2].get("broken", 0, None).await.unwrap() == file);

    // Nothing but names has to be sent of what is there; and it is the same file however it came.
    let whole = [header("again", 9 * MIB), held(&keys[..9], MIB)];
    put(&network.peers[2], whole.into()).await.unwrap();
    assert!(network.peers[1].get("again", 0, None).await.unwrap() == file[..9 * MIB]);
    let sent = network.peers[2].put("sent", &file).await.unwrap();
    assert_eq!(sent.etag, stored.etag);

    // The last chunk is held and has five bytes. Whoever says that it has more would get a file that nobody can read.
    let last = Bytes::copy_from_slice(blake3::hash(&file[12 * MIB..]).as_bytes());
    for (n, peer) in network.peers[1..].iter().enumerate() {
        for hashes in [vec![last.clone()], vec![keys[0].clone(), last.clone()]] {
            let size = hashes.len() * MIB;
            let lie = vec![header("lie", size), held(&hashes, MIB)];
            let refused = put(peer, lie).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{n}: {refused}");
            assert!(refused.message().contains("5 bytes"), "{refused}");
        }
        let none = peer.get("lie", 0, None).await.unwrap_err();
        assert_eq!(none.code(), Code::NotFound);
    }
}

async fn what_makes_no_sense_is_refused(peer: &Peer, keys: &[Bytes]) {
    let name = |size| header("refused", size);
    let unknown = vec![Bytes::from_static(&[7; 32]); 2];
    let wrong = [
        (vec![name(2 * MIB), held(&unknown, MIB)], Code::Unavailable),
        (
            vec![name(MIB), held(&keys[..1], MIB / 2)],
            Code::FailedPrecondition,
        ),
        (
            vec![name(MIB), held(&keys[..2], MIB)],
            Code::InvalidArgument,
        ),
        (
            vec![name(3 * MIB), held(&keys[..2], MIB)],
            Code::InvalidArgument,
        ),
        (
            vec![name(2 * MIB), held(&[Bytes::from_static(b"short")], MIB)],
            Code::InvalidArgument,
        ),
        (
            vec![name(MIB + 1), Part::Data("x".into()), held(&keys[..1], MIB)],
            Code::InvalidArgument,
        ),
    ];
    for (n, (parts, code)) in wrong.into_iter().enumerate() {
        let refused = put(peer, parts).await.unwrap_err();
        assert_eq!(refused.code(), code, "{n}: {refused}");
    }
    // At once, not when the client has said all.
    let (parts, queue) = mpsc::channel(2);
    for part in [header("refused", 0), held(&keys[..1], MIB)] {
        let part = Some(part);
        parts.send(PutRequest { part }).await.unwrap();
    }
    let refused = peer.files().put(ReceiverStream::new(queue)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("0 bytes were announced"));
    drop(parts);
    let many = vec![keys[0].clone(); 1025];
    assert_eq!(
        ask(peer, &many).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let gone = peer.get("refused", 0, None).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}
