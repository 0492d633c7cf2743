//! Crashes, restarts, assignments and leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream;
use peernet_core::key::Key;
use peernet_node::wire::PROTOCOL;
use peernet_proto::v1;
use peernet_proto::v1::chunks_client::ChunksClient;
use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::put_request::Part;
use peernet_proto::v1::ring_client::RingClient;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::network::{Client, NETWORK, Network, PATIENCE, Peer, bytes, until};
use crate::rest::parts::{begun, is_gone};

const MIB: usize = 1024 * 1024;
const OTHER_NETWORK: &str = "11111111-2222-4333-8444-555555555555";

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_nothing_and_a_restart_catches_up() {
    let mut network = Network::start(3).await;
    let files: Vec<(String, Vec<u8>)> = (0..6)
        .map(|n| {
            (
                format!("before/{n}"),
                bytes(n * MIB / 2 + n, 300 + n as u64),
            )
        })
        .collect();
    for (n, (name, data)) in files.iter().enumerate() {
        network.peers[n % 3].put(name, data).await.unwrap();
    }
    network.peers[2].kill();
    for (name, data) in &files {
        let read = timeout(Duration::from_secs(30), network.peers[0].get(name, 0, None)).await;
        assert!(read.expect("an answer at once").unwrap() == *data, "{name}");
    }
    let later = bytes(3 * MIB, 400);
    network.peers[1].put("while down", &later).await.unwrap();
    network.peers[1].delete("before/1").await.unwrap();
    network.launch(2);
    network.ready(2).await;
    network.at_rest().await;
    assert!(network.peers[2].get("while down", 0, None).await.unwrap() == later);
    assert_eq!(
        network.peers[2]
            .get("before/1", 0, None)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );

    // What was written meanwhile was caught up with, not only read through the others.
    let missing = v1::ExplainRequest {
        name: "while down".into(),
    };
    until("the restarted peer has its copies", async || {
        let mut files = network.peers[0].files();
        let explained = files.explain(missing.clone()).await;
        explained.is_ok_and(|e| e.into_inner().chunks.iter().all(|c| c.holders.len() == 3))
    })
    .await;

    // All at once, politely.
    for n in 0..3 {
        assert_eq!(
            network.peers[n].stop().await,
            0,
            "{}",
            network.peers[n].log()
        );
    }
    for n in 0..3 {
        network.launch(n);
    }
    for n in 0..3 {
        network.ready(n).await;
    }
    assert!(network.peers[0].get("while down", 0, None).await.unwrap() == later);
    assert!(network.peers[1].get("before/5", 0, None).await.unwrap() == files[5].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_peer_does_not_hold_up_its_end() {
    let mut network = Network::launched(1).await;
    let peer = &mut network.peers[0];
    let mut peers = PeersClient::new(peer.channel());
    let watching = peers.watch(v1::WatchPeersRequest {}).await;
    let mut changes = watching.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().peers.len(), 1);
    assert_eq!(peer.stop().await, 0);
    let log = peer.log();
    assert!(!log.contains("did not close in time"), "{log}");
    let last = loop {
        if let Err(last) = changes.message().await.map(Option::unwrap) {
            break last;
        }
    };
    assert_eq!(last.code(), Code::Unavailable);
    assert!(last.message().contains("stopping"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_hears_others_until_its_clients_are_done() {
    let flags = ["--replication-factor=1", "--replication-write=1"];
    let mut network = Network::start_with(1, &flags).await;
    let peer = &network.peers[0];
    let batch = |network_id: &str| v1::DeliverRequest {
        network_id: network_id.into(),
        protocol_version: PROTOCOL,
        from: vec![7; 16].into(),
        messages: Vec::new(),
    };
    let (says, said) = mpsc::channel(1);
    let mut ring = RingClient::new(peer.channel());
    let call = tokio::spawn(async move { ring.deliver(ReceiverStream::new(said)).await });
    says.send(batch(NETWORK)).await.unwrap();

    let (sends, sent) = mpsc::channel(1);
    let mut files = peer.files();
    let upload = tokio::spawn(async move { files.put(ReceiverStream::new(sent)).await });
    let header = v1::PutHeader {
        name: "half".into(),
        ..v1::PutHeader::default()
    };
    for part in [Part::Header(header), Part::Data(bytes(MIB, 1).into())] {
        let part = Some(part);
        sends.send(v1::PutRequest { part }).await.unwrap();
    }
    until("the upload has begun", async || {
        let status = peer.status().await;
        status.is_ok_and(|s| s.load.unwrap().upload_bytes > 0)
    })
    .await;

    peer.terminate();
    until("it refuses clients", async || {
        peer.put("another", b"").await.is_err()
    })
    .await;
    says.send(batch(OTHER_NETWORK)).await.unwrap();
    let heard = call.await.unwrap().unwrap_err();
    assert_eq!(heard.code(), Code::FailedPrecondition, "{heard}");

    drop(sends);
    upload.await.unwrap().expect("it came to its end");
    assert_eq!(network.peers[0].ended().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_serves_only_its_own_network() {
    let mut network = Network::launched(1).await;
    let peer = &network.peers[0];
    let again = v1::AssignRequest {
        network_id: NETWORK.into(),
        zone: "a".into(),
        position: 1,
        found: true,
        ..v1::AssignRequest::default()
    };
    let id = peer.status().await.unwrap().self_.unwrap().id;
    assert_eq!(
        peer.admin()
            .assign(again.clone())
            .await
            .unwrap()
            .into_inner()
            .peer_id,
        id,
        "assigning is idempotent"
    );
    let elsewhere = v1::AssignRequest {
        network_id: OTHER_NETWORK.into(),
        ..again
    };
    assert_eq!(
        peer.admin().assign(elsewhere).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let delivery = v1::DeliverRequest {
        network_id: OTHER_NETWORK.into(),
        protocol_version: PROTOCOL,
        from: vec![7; 16].into(),
        messages: Vec::new(),
    };
    let mut ring = RingClient::new(peer.channel());
    let newer = v1::DeliverRequest {
        network_id: NETWORK.into(),
        protocol_version: 1,
        ..delivery.clone()
    };
    for wrong in [delivery, newer] {
        assert_eq!(
            ring.deliver(stream::iter([wrong]))
                .await
                .unwrap_err()
                .code(),
            Code::FailedPrecondition
        );
    }
    let mut chunks = ChunksClient::new(peer.channel());
    let get = v1::GetChunkRequest {
        network_id: OTHER_NETWORK.into(),
        hash: vec![0; 32].into(),
        accept: 0,
    };
    assert_eq!(
        chunks.get(get).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let put = v1::PutChunkRequest {
        network_id: NETWORK.into(),
        hash: vec![0; 32].into(),
        epoch: 1,
        data: vec![1].into(),
        referrer: Some(v1::Referrer {
            name: "file".into(),
            upload: vec![1; 16].into(),
            base: None,
        }),
        length: 1,
        encoding: 0,
    };
    assert_eq!(
        chunks.put(put).await.unwrap_err().code(),
        Code::DataLoss,
        "bytes that do not have their hash"
    );

    // One peer alone cannot acknowledge, and says so.
    let refused = peer.put("alone", &bytes(100, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    // The volume is of one network, and of one process at a time.
    let volume = network.peers[0].data.clone();
    let second = network.peers.len();
    network
        .peers
        .push(crate::network::Peer::on(&volume, "second"));
    network.launch_with(second, &["--network-id", NETWORK, "--zone", "a"]);
    assert_eq!(network.peers[second].ended().await, 1);
    assert!(
        network.peers[second].log().contains("in use"),
        "{}",
        network.peers[second].log()
    );
    network.peers[0].kill();
    network.launch_with(0, &["--network-id", OTHER_NETWORK, "--zone", "a"]);
    assert_eq!(network.peers[0].ended().await, 1);
    assert!(
        network.peers[0].log().contains("belongs to network"),
        "{}",
        network.peers[0].log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_join_and_leave_with_everything_in_place() {
    let mut network = Network::start(3).await;
    let files: Vec<(String, Vec<u8>)> = (0..12)
        .map(|n| (format!("kept/{n}"), bytes(n * MIB / 3 + 1, 500 + n as u64)))
        .collect();
    for (n, (name, data)) in files.iter().enumerate() {
        network.peers[n % 3].put(name, data).await.unwrap();
    }
    let traffic = Traffic::start(&network);
    let newcomer = network.join().await;
    network.at_rest().await;
    all_there(&network, &files).await;
    let upload = begun(network.peers[newcomer].http).await;

    let leaver = network.peers[newcomer]
        .status()
        .await
        .unwrap()
        .self_
        .unwrap();
    let order = v1::DrainOrder {
        peer_id: leaver.id.clone(),
        epoch: 1,
        leaving: true,
    };
    for peer in &network.peers {
        peer.admin()
            .drain(v1::DrainRequest {
                orders: vec![order.clone()],
            })
            .await
            .unwrap();
    }
    until("the leaver has left", async || {
        let identity = network.peers[newcomer]
            .admin()
            .identify(v1::IdentifyRequest::default())
            .await
            .unwrap();
        identity.into_inner().left
    })
    .await;
    let gone = network.peers[newcomer]
        .get("kept/0", 0, None)
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::Unavailable);
    let ask = v1::LeaveReportRequest {
        leaver_ids: vec![leaver.id.clone()],
    };
    let report = network.peers[newcomer]
        .admin()
        .leave_report(ask)
        .await
        .unwrap()
        .into_inner();
    assert!(report.leavers[0].own.as_ref().unwrap().left);
    assert_eq!(network.peers[newcomer].stop().await, 0);
    is_gone(network.peers[0].http, &upload).await;
    network.at_rest().await;
    all_there(&network, &files).await;
    traffic.stop(&network).await;
    until("there are three copies of all", async || {
        copies(&network, &files).await.iter().all(|c| *c == 3)
    })
    .await;

    // The same volume comes back as somebody else.
    network.launch_with(newcomer, &["--await-assignment", "--instance", "second"]);
    let assign = v1::AssignRequest {
        network_id: NETWORK.into(),
        zone: "a".into(),
        position: leaver.position,
        found: false,
        instance: "second".into(),
    };
    let waiting = &network.peers[newcomer];
    until("the peer waits", async || {
        waiting
            .admin()
            .identify(v1::IdentifyRequest::default())
            .await
            .is_ok()
    })
    .await;
    let who = |instance: &str| v1::IdentifyRequest {
        instance: instance.into(),
    };
    let other = waiting.admin().identify(who("first")).await;
    assert_eq!(other.unwrap_err().code(), Code::FailedPrecondition);
    let other = v1::AssignRequest {
        instance: "first".into(),
        ..assign.clone()
    };
    let other = waiting.admin().assign(other).await;
    assert_eq!(other.unwrap_err().code(), Code::FailedPrecondition);
    let remembered = waiting
        .admin()
        .identify(who("second"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((remembered.left, &remembered.peer_id), (true, &leaver.id));
    assert_eq!(
        waiting.get("kept/0", 0, None).await.unwrap_err().code(),
        Code::Unavailable
    );
    let anew = waiting
        .admin()
        .assign(assign)
        .await
        .unwrap()
        .into_inner()
        .peer_id;
    assert_ne!(anew, leaver.id);
    network.ready(newcomer).await;
    is_gone(network.peers[newcomer].http, &upload).await;
    all_there(&network, &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_lost_copies_are_replaced_when_they_are_read() {
    let network = Network::start(3).await;
    let data = bytes(4 * MIB, 600);
    network.peers[0].put("precious", &data).await.unwrap();
    let victim = &network.peers[1];
    until("the victim has its copies", async || {
        chunk_files(&victim.data).len() == 4
    })
    .await;
    let files = chunk_files(&victim.data);
    fs::write(&files[0], b"nonsense").unwrap();
    fs::write(&files[1], b"").unwrap();
    fs::remove_file(&files[2]).unwrap();
    assert!(victim.get("precious", 0, None).await.unwrap() == data);
    until("the copies are whole again", async || {
        let intact = |file: &PathBuf| {
            let hash = fs::read(file).map(|bytes| Key::of_bytes(&bytes).to_string());
            hash.is_ok_and(|hash| file.ends_with(hash))
        };
        files.iter().all(intact)
    })
    .await;
}

/// The files of all chunks on a volume.
pub(crate) fn chunk_files(volume: &Path) -> Vec<PathBuf> {
    let inside = |folder: PathBuf| {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().path())
    };
    inside(volume.join("chunks")).flat_map(inside).collect()
}

/// A writer and a reader that go on while the network changes, each through any of the peers that stay.
struct Traffic {
    stop: watch::Sender<bool>,
    writer: JoinHandle<Vec<(String, Vec<u8>)>>,
}

impl Traffic {
    fn start(network: &Network) -> Traffic {
        let (stop, stopped) = watch::channel(false);
        let peers: Vec<Client> = network.peers.iter().map(Peer::client).collect();
        let writer = tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 0.. {
                let (name, data) = (
                    format!("traffic/{n}"),
                    bytes([100, 40_000, 2 * MIB][n % 3], 1000 + n as u64),
                );
                peers[n % peers.len()]
                    .put(&name, &data)
                    .await
                    .unwrap_or_else(|e| panic!("{name}: {e}"));
                let read = peers[(n + 1) % peers.len()].get(&name, 0, None).await;
                assert!(
                    read.unwrap_or_else(|e| panic!("{name}: {e}")) == data,
                    "{name}"
                );
                written.push((name, data));
                if *stopped.borrow() {
                    break;
                }
            }
            written
        });
        Traffic { stop, writer }
    }

    /// Nothing failed, and all of it is there.
    async fn stop(self, network: &Network) {
        self.stop.send_replace(true);
        let written = self.writer.await.expect("no read and no write failed");
        assert!(
            written.len() > 10,
            "only {} files were written",
            written.len()
        );
        all_there(network, &written).await;
    }
}

async fn all_there(network: &Network, files: &[(String, Vec<u8>)]) {
    for (n, (name, data)) in files.iter().enumerate() {
        let peer = &network.peers[n % 3];
        assert!(peer.get(name, 0, None).await.unwrap() == *data, "{name}");
    }
}

/// Number of copies of every chunk of every file.
async fn copies(network: &Network, files: &[(String, Vec<u8>)]) -> Vec<usize> {
    let mut copies = Vec::new();
    for (name, _) in files {
        let explained = network.peers[0]
            .files()
            .explain(v1::ExplainRequest { name: name.clone() })
            .await
            .unwrap();
        copies.extend(
            explained
                .into_inner()
                .chunks
                .iter()
                .map(|c| c.holders.len()),
        );
    }
    copies
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_the_seeds_founds_once_and_watchers_see_it() {
    let mut network = Network::idle(&["a"; 3]);
    let place = ["--network-id", NETWORK, "--zone", "a"];
    // Started alone, the second waits: founding is not its part.
    network.launch_with(1, &place);
    let mut second = PeersClient::new(network.peers[1].channel());
    until("the second answers", async || {
        network.peers[1].status().await.is_ok()
    })
    .await;
    let mut changes = second
        .watch(v1::WatchPeersRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = changes.message().await.unwrap().expect("all peers");
    assert_eq!(first.peers.len(), 1);
    assert_eq!(first.peers[0].state(), v1::PeerState::Joining);
    assert!(first.peers[0].since_unix_ms > 0);

    // The last one's seeds are in a file; the first founds, though it was not told to.
    let file = network.peers[2].data.with_extension("seeds");
    fs::write(&file, format!("# the first\n{}\n", network.peers[0].grpc)).unwrap();
    network.launch_with(0, &place);
    let from_file = ["--seeds-file", file.to_str().unwrap()];
    network.launch_alone(2, &[&place[..], &from_file].concat());
    network.all_ready().await;
    let mut seen = std::collections::BTreeMap::new();
    let all_active = async {
        while seen.len() < 3 || seen.values().any(|s| *s != v1::PeerState::Active) {
            for peer in changes.message().await.unwrap().expect("a change").peers {
                seen.insert(peer.name.clone(), peer.state());
            }
        }
    };
    let waited = timeout(PATIENCE, all_active).await;
    waited.expect("every peer became active in what was watched");

    // One that dies is seen to.
    network.peers[2].kill();
    let down = async {
        loop {
            let peers = changes.message().await.unwrap().expect("a change").peers;
            if peers
                .iter()
                .any(|p| p.name == "p-2" && p.state() == v1::PeerState::Down)
            {
                return;
            }
        }
    };
    timeout(PATIENCE, down).await.expect("seen");
}
