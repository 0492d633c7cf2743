//! A network whose writes reach the disk late.

use redb::{Database, ReadableTable, TableDefinition};

use crate::network::{Network, bytes};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// What is put: small ones live in the name's record, one has chunks.
fn content(n: u64) -> Vec<u8> {
    bytes(if n.is_multiple_of(10) { 3 << 20 } else { 1_000 }, n)
}

async fn put_some(network: &Network, from: u64) {
    for n in from..from + 30 {
        let peer = &network.peers[n as usize % 3];
        peer.put(&format!("f/{n}"), &content(n)).await.unwrap();
    }
}

async fn all_there(network: &Network, count: u64) {
    for n in 0..count {
        let peer = &network.peers[(n as usize + 1) % 3];
        let read = peer.get(&format!("f/{n}"), 0, None).await.unwrap();
        assert!(read == content(n), "f/{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_all_at_once_its_peers_have_lost_nothing_and_one_without_power_catches_up_first() {
    let mut network = Network::start_with(3, &["--durability", "written"]).await;
    let status = network.peers[0].status().await.unwrap();
    assert_eq!(status.durability().as_str_name(), "DURABILITY_WRITTEN");
    for round in 0..2 {
        put_some(&network, round * 30).await;
        network.peers.iter_mut().for_each(|peer| peer.kill());
        (0..3).for_each(|n| network.launch(n));
        network.all_ready().await;
        all_there(&network, (round + 1) * 30).await;
    }

    // The power of one machine fails, and its disk has nothing of the journal.
    put_some(&network, 60).await;
    network.peers[1].kill();
    let data = network.peers[1].data.clone();
    std::fs::write(data.join("journal"), b"").unwrap();
    let database = Database::open(data.join("meta.redb")).unwrap();
    let writing = database.begin_write().unwrap();
    let mut meta = writing.open_table(META).unwrap();
    let mut follows = meta.get("journal").unwrap().unwrap().value().to_vec();
    follows.truncate(8);
    follows.extend(b"another boot");
    meta.insert("journal", follows.as_slice()).unwrap();
    drop(meta);
    writing.commit().unwrap();
    drop(database);
    network.launch(1);
    network.all_ready().await;
    network.at_rest().await;
    all_there(&network, 90).await;
    let log = network.peers[1].log();
    assert!(log.contains("started anew since this peer ended"));
    assert!(log.contains("this peer tells of names again"));
}
