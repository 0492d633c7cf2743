//! Files whose chunks are compressed where they are stored and on the way there.

use std::collections::BTreeSet;
use std::fs;

use peernet_core::key::Key;
use peernet_proto::v1;
use peernet_proto::v1::chunks_client::ChunksClient;
use tonic::Code;

use crate::life::chunk_files;
use crate::network::{NETWORK, Network, Peer, bytes, until};

const MIB: usize = 1 << 20;

/// What can be compressed: lines with a little noise, so that no two chunks are alike.
fn lines(len: usize, seed: u64) -> Vec<u8> {
    let noise = bytes(len / 16, seed);
    let lines = noise
        .iter()
        .flat_map(|n| format!("a line with {n:03} \n").into_bytes());
    lines.take(len).collect()
}

fn header(name: &str, compression: v1::Compression) -> v1::PutHeader {
    v1::PutHeader {
        name: name.into(),
        compression: compression.into(),
        ..Default::default()
    }
}

/// The names of all chunks' files on these peers' volumes, and their bytes.
fn on_disk(peers: &[Peer]) -> (Vec<String>, u64) {
    let files = peers.iter().flat_map(|peer| chunk_files(&peer.data));
    let (names, lengths): (Vec<_>, Vec<_>) = files
        .map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::metadata(&file).unwrap().len())
        })
        .unzip();
    (names, lengths.iter().sum())
}

async fn stored(network: &Network, copies: usize) {
    until("all copies are there", async || {
        on_disk(&network.peers).0.len() == copies
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pays_is_a_fraction_on_every_disk_and_stays_so_when_it_moves() {
    let mut network = Network::start_with(4, &["--grace-seconds", "2"]).await;
    let (text, noise) = (lines(6 * MIB + 5_000, 1), bytes(3 * MIB, 2));
    let [a, b, c] = [0, 1, 2].map(|n| network.peers[n].client());
    let info = a.put_as(header("t", v1::Compression::Auto), &text);
    let info = info.await.unwrap();
    assert!(info.stored.unwrap() < text.len() as u64 / 2, "{info:?}");
    stored(&network, 3 * 7).await;
    let (names, total) = on_disk(&network.peers);
    assert!(names.iter().all(|name| name.ends_with(".zst")), "{names:?}");
    assert_eq!(
        total,
        3 * info.stored.unwrap(),
        "on the disks as it was sent"
    );

    // What does not pay, and what nobody asked for, lies as it is.
    let plain = b.put_as(header("n", v1::Compression::Auto), &noise);
    assert_eq!(plain.await.unwrap().stored, Some(noise.len() as u64));
    let other = lines(MIB, 3);
    let never = b.put_as(header("p", v1::Compression::Unspecified), &other);
    assert_eq!(never.await.unwrap().stored, Some(MIB as u64));
    stored(&network, 3 * (7 + 3 + 1)).await;
    let (names, _) = on_disk(&network.peers);
    let packed = |names: &[String]| names.iter().filter(|n| n.ends_with(".zst")).count();
    assert_eq!(packed(&names), 3 * 7);

    // Everybody reads the same, whole or in part, and the same bytes again take no room.
    for client in [&a, &b, &c] {
        assert!(client.get("t", 0, None).await.unwrap() == text);
        assert!(client.get("n", 0, None).await.unwrap() == noise);
        let (from, to) = (2 * MIB - 10, 4 * MIB + 10);
        let part = client.get("t", from as u64, Some((to - from) as u64)).await;
        assert!(part.unwrap() == text[from..to]);
    }
    c.put("again", &text).await.unwrap();
    assert_eq!(packed(&on_disk(&network.peers).0), 3 * 7);
    assert_eq!(on_disk(&network.peers).0.len(), 3 * 11);

    // A copy that has rotted is replaced by one as it was.
    let file = chunk_files(&network.peers[1].data);
    let mut file = file.into_iter().filter(|f| f.extension().is_some());
    let file = file.next().unwrap();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let read = network.peers[1].get("t", 0, None).await.unwrap();
    assert!(read == text);
    until("it is whole again", async || {
        fs::read(&file).is_ok_and(|bytes| bytes == whole)
    })
    .await;

    // The copies of a peer that died are made anew as they were.
    network.peers[3].kill();
    let keys = |network: &Network| {
        let (names, _) = on_disk(&network.peers[..3]);
        (packed(&names), names.len())
    };
    until("all copies are with the others", async || {
        keys(&network) == (3 * 7, 3 * 11)
    })
    .await;
    let (names, _) = on_disk(&network.peers[..3]);
    let different: BTreeSet<_> = names.into_iter().collect();
    assert_eq!(different.len(), 11, "each in one form");
    assert!(a.get("t", 0, None).await.unwrap() == text);

    hostile_forms_are_refused(&network.peers[0]).await;
}

/// A frame of another chunk, one that says less than it has, and a form that nobody knows.
async fn hostile_forms_are_refused(peer: &Peer) {
    let zeros = vec![0; 100];
    let frame = zstd::bulk::compress(&zeros, 1).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 64 * MIB], 1).unwrap();
    for (data, encoding) in [
        (frame.clone(), 0),
        (bomb, 1),
        (zeros.clone(), 1),
        (frame, 9),
    ] {
        let put = v1::PutChunkRequest {
            network_id: NETWORK.into(),
            hash: Key::of_bytes(&zeros).0.to_vec().into(),
            epoch: 1,
            data: data.into(),
            referrer: Some(v1::Referrer {
                name: "file".into(),
                upload: vec![1; 16].into(),
                base: None,
            }),
            length: 100,
            encoding,
        };
        let refused = ChunksClient::new(peer.channel()).put(put).await;
        assert_eq!(refused.unwrap_err().code(), Code::DataLoss);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_may_compress_unless_it_is_told_not_to() {
    let network = Network::start_with(3, &["--compression", "auto"]).await;
    let status = network.peers[2].status().await.unwrap();
    assert_eq!(status.compression(), v1::Compression::Auto);
    let client = network.peers[2].client();
    let text = |seed| lines(MIB, seed);
    let by_default = client.put("d", &text(1)).await.unwrap();
    assert!(by_default.stored.unwrap() < MIB as u64 / 2);
    let other = text(2);
    let never = client.put_as(header("n", v1::Compression::Never), &other);
    assert_eq!(never.await.unwrap().stored, Some(MIB as u64));
    let mut photo = header("p", v1::Compression::Auto);
    photo.content_type = "image/jpeg".into();
    let photo = client.put_as(photo, &text(3)).await.unwrap();
    assert_eq!(
        photo.stored,
        Some(MIB as u64),
        "it says that it is compressed"
    );
}
