//! Names that are given to files anew: nothing moves, nothing is lost, and what goes wrong is said.

use futures::future::join_all;
use peernet_proto::v1;
use peernet_proto::v1::search_client::SearchClient;
use peernet_proto::v1::{FileInfo, FindRequest, Precondition, RenameRequest, RenameResponse};
use tonic::{Code, Status};

use crate::network::{NETWORK, Network, Peer, bytes, until};

const KIB: usize = 1024;

async fn rename_if(
    peer: &Peer,
    (from, to): (&str, &str),
    etag: Option<&str>,
) -> Result<FileInfo, Status> {
    let request = RenameRequest {
        name: from.into(),
        new_name: to.into(),
        when: etag.map(|etag| Precondition {
            if_match: vec![etag.into()],
            ..Default::default()
        }),
    };
    let RenameResponse { file } = peer.files().rename(request).await?.into_inner();
    Ok(file.expect("the file under its new name"))
}

async fn rename(peer: &Peer, from: &str, to: &str) -> Result<FileInfo, Status> {
    rename_if(peer, (from, to), None).await
}

/// Chunks that each of the peers holds.
async fn held(network: &Network) -> Vec<u64> {
    join_all(network.peers.iter().map(async |peer| {
        let status = peer.status().await.unwrap();
        status.chunks_held
    }))
    .await
}

async fn found(peer: &Peer, query: &str) -> Vec<String> {
    let request = FindRequest {
        query: query.into(),
        ..Default::default()
    };
    let answer = SearchClient::new(peer.channel()).find(request).await;
    let files = answer.map(|found| found.into_inner().files);
    let files = files.unwrap_or_default();
    let mut names: Vec<String> = files.into_iter().map(|file| file.name).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_all_but_its_name() {
    let network = Network::start_with(3, &["--chunk-size", "65536"]).await;
    let [a, b, c] = [0, 1, 2].map(|n| &network.peers[n]);
    // In the record, in a few chunks, and in so many that the manifest has a node of its own.
    let contents = [
        bytes(100, 1),
        bytes(300 * KIB, 2),
        bytes(64 * KIB, 3).repeat(1100),
    ];
    for (n, data) in contents.iter().enumerate() {
        let (old, new) = (format!("old/{n}"), format!("new/{n}"));
        let stored = a.put(&old, data).await.unwrap();
        let renamed = rename(b, &old, &new).await.unwrap();
        let name = new.clone();
        assert_eq!(renamed, FileInfo { name, ..stored }, "but for its name");
        let gone = c.get(&old, 0, None).await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound);
        assert!(c.get(&new, 0, None).await.unwrap() == *data, "{new}");
    }
    // Five chunks; and one that comes often, with the node that says so.
    until("every chunk is there once", async || {
        held(&network).await == [7, 7, 7]
    })
    .await;
    what_is_refused(&network).await;
    renames_at_once(&network).await;
    until("the index follows", async || {
        found(c, "new").await == ["new/1", "new/2"] && found(a, "old").await.is_empty()
    })
    .await;
    // A file of its own content shows that collection has come round.
    a.put("marker", &bytes(2000 * KIB, 4)).await.unwrap();
    a.delete("marker").await.unwrap();
    until("only what is named has chunks", async || {
        held(&network).await == [7, 7, 7]
    })
    .await;
    for n in [1, 2] {
        let read = b.get(&format!("new/{n}"), 0, None).await.unwrap();
        assert!(
            read == contents[n],
            "what the old name kept is kept by the new"
        );
        c.delete(&format!("new/{n}")).await.unwrap();
    }
    until("nothing is left", async || {
        held(&network).await == [0, 0, 0]
    })
    .await;
}

async fn what_is_refused(network: &Network) {
    let [a, b, c] = [0, 1, 2].map(|n| &network.peers[n]);
    let none = rename(a, "old/0", "new/9").await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    for (from, to) in [("new/0", "new/1"), ("new/1", "new/0"), ("new/0", "new/0")] {
        let taken = rename(b, from, to).await.unwrap_err();
        assert_eq!(taken.code(), Code::FailedPrecondition);
        assert!(taken.message().contains("already"), "{taken}");
    }
    for name in ["", "a//b", "../a"] {
        let invalid = rename(c, "new/0", name).await.unwrap_err();
        assert_eq!(invalid.code(), Code::InvalidArgument, "{name}");
    }
    let other = rename_if(a, ("new/0", "new/9"), Some("x"))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition);
    let stat = v1::StatRequest {
        name: "new/0".into(),
    };
    let stat = a.files().stat(stat).await.unwrap().into_inner();
    let etag = stat.file.unwrap().etag;
    rename_if(a, ("new/0", "new/9"), Some(&etag)).await.unwrap();
    c.delete("new/9").await.unwrap();
}

/// Whoever asks for the same at once either does it, finishes it, or finds it done.
async fn renames_at_once(network: &Network) {
    let data = bytes(300 * KIB, 2);
    for round in 0..5 {
        network.peers[0].put("race/a", &data).await.unwrap();
        let peers = network.peers.iter().cycle().take(9);
        let all = join_all(peers.map(|peer| rename(peer, "race/a", "race/b"))).await;
        let done = all.iter().filter(|outcome| outcome.is_ok()).count();
        let codes = all.iter().filter_map(|outcome| outcome.as_ref().err());
        assert!(done > 0, "{round}: {all:?}");
        for error in codes {
            assert!(matches!(error.code(), Code::NotFound), "{round}: {error}");
        }
        let peer = &network.peers[round % 3];
        assert!(peer.get("race/b", 0, None).await.unwrap() == data);
        let gone = peer.get("race/a", 0, None).await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound);
        peer.delete("race/b").await.unwrap();
    }
}

/// Has the first peer begin to rename a file, and die between the halves.
async fn half(network: &mut Network, from: &str, to: &str) {
    let place = [
        "--network-id",
        NETWORK,
        "--zone",
        "a",
        "--faults=crash=rename",
    ];
    network.peers[0].kill();
    network.launch_with(0, &place);
    network.ready(0).await;
    rename(&network.peers[0], from, to).await.unwrap_err();
    network.peers[0].ended().await;
}

async fn listed(peer: &Peer, prefix: &str) -> Vec<FileInfo> {
    let request = v1::ListRequest {
        prefix: prefix.into(),
        ..Default::default()
    };
    let answer = peer.files().list(request).await.unwrap();
    answer.into_inner().files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_broke_off_leaves_both_names_and_is_finished_by_the_same_request() {
    let mut network = Network::start(3).await;
    for (size, name) in [(100, "in-record"), (1500 * KIB, "in-chunks")] {
        let (from, to) = (format!("{name}/a"), format!("{name}/b"));
        let data = bytes(size, size as u64);
        let stored = network.peers[1].put(&from, &data).await.unwrap();
        half(&mut network, &from, &to).await;
        let [b, c] = [1, 2].map(|n| &network.peers[n]);
        // The same file twice, in all but the name.
        let twice = [&from, &to].map(|name| FileInfo {
            name: name.clone(),
            ..stored.clone()
        });
        assert_eq!(listed(c, name).await, twice);
        for name in [&from, &to] {
            assert!(b.get(name, 0, None).await.unwrap() == data, "{name}");
        }
        until("both are found", async || {
            found(c, name).await == [from.clone(), to.clone()]
        })
        .await;
        let finished = rename(c, &from, &to).await.unwrap();
        assert_eq!(finished, twice[1]);
        assert_eq!(listed(b, name).await, twice[1..]);
        assert!(b.get(&to, 0, None).await.unwrap() == data);
        let over = rename(b, &from, &to).await.unwrap_err();
        assert_eq!(over.code(), Code::NotFound);
    }

    // Who wrote the old name anew has two files, and the request is not that of the one that broke off any more.
    let (first, second) = (bytes(300 * KIB, 8), bytes(300 * KIB, 9));
    network.peers[1].put("two/a", &first).await.unwrap();
    half(&mut network, "two/a", "two/b").await;
    let [b, c] = [1, 2].map(|n| &network.peers[n]);
    b.put("two/a", &second).await.unwrap();
    let taken = rename(c, "two/a", "two/b").await.unwrap_err();
    assert_eq!(taken.code(), Code::FailedPrecondition);
    assert!(taken.message().contains("already"), "{taken}");
    assert!(b.get("two/a", 0, None).await.unwrap() == second);
    // And either may go: the other keeps its bytes.
    c.delete("two/a").await.unwrap();
    assert!(b.get("two/b", 0, None).await.unwrap() == first);
}
