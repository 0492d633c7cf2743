//! Peers that vanish without a word: one pod, and a whole node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use peernet_e2e::client::{self, Protocol, Received};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::copies;
use peernet_e2e::files::{FileSet, MIB};
use peernet_e2e::load::Load;
use peernet_e2e::network::{FORMATION, Network};
use peernet_e2e::patience::eventually;
use peernet_e2e::peer::Peer;

/// Longest that lost copies may take to be rebuilt: detection, the grace period of 10 s, and the data.
const REPAIR: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_peers_crash() {
    scenario("crash", async |scenario| {
        let network = Arc::new(Network::create(scenario, "demo", crate::impatient(6)).await?);
        let load = Load::start(&network, 4);
        let files = FileSet::small("crash", 4, 80, 32 * MIB);
        files.put(|| network.serving()).await?;
        load.went_on("the puts")?;
        scenario.note("files are in");

        kill_one_pod(scenario, &network, &files).await?;
        load.went_on("the crash of a pod")?;
        lose_a_node(scenario, &network, &files, &load).await?;
        load.finish().await
    })
    .await;
}

async fn kill_one_pod(scenario: &Scenario, network: &Network, files: &FileSet) -> Result<()> {
    let survivors = |peer: &Peer| peer.name != "demo-2";
    network.kill_pod("demo-2").await?;
    let peers: Vec<_> = network.peers().into_iter().filter(survivors).collect();
    read_at_once(files, &peers).await?;
    scenario.note("demo-2 was killed; all files are still readable");
    all_is_well(scenario, network, files).await
}

async fn lose_a_node(
    scenario: &Scenario,
    network: &Network,
    files: &FileSet,
    load: &Load,
) -> Result<()> {
    let (lost, left): (Vec<_>, Vec<_>) = network
        .peers()
        .into_iter()
        .partition(|peer| peer.node == "node3");
    ensure!(
        !lost.is_empty() && left.len() >= 3,
        "{} peers are on node3",
        lost.len()
    );
    scenario.kill_node(3).await?;
    read_at_once(files, &left).await?;
    scenario.note(&format!(
        "{} of 6 peers are off; all files are still readable",
        lost.len()
    ));
    let rebuilt = || async { copies::check(&network.network_id().await?, files, &left, 3).await };
    eventually("three copies on those that are left", REPAIR, rebuilt).await?;
    load.went_on("the loss of a node")?;
    scenario.note("the missing copies are rebuilt");

    scenario.start_node(3).await?;
    all_is_well(scenario, network, files).await?;
    load.went_on("the return of the node").map(drop)
}

/// Every peer is back, and everything has three copies in three zones again.
async fn all_is_well(scenario: &Scenario, network: &Network, files: &FileSet) -> Result<()> {
    network.one_ring(6).await?;
    network.ready(6, FORMATION).await?;
    scenario.note("six peers are one ring");
    network.three_copies(files).await?;
    network.spread_over_zones(files).await?;
    files.verify(|| network.serving()).await?;
    scenario.note("all files are there, with three copies in three zones");
    Ok(())
}

/// Every file can be read at once from peers that are left: each one through another of them, a second one if the first
/// fails, and so on, each once.
async fn read_at_once(files: &FileSet, peers: &[Peer]) -> Result<()> {
    for (turn, file) in files.files.iter().enumerate() {
        let mut failures = Vec::new();
        for attempt in 0..peers.len() {
            let peer = &peers[(turn + attempt) % peers.len()];
            match client::get(peer, Protocol::of(turn), &file.name).await {
                Ok(received) => {
                    let wanted = Received {
                        hash: file.content.hash(),
                        len: file.content.len,
                    };
                    ensure!(
                        received == wanted,
                        "{} came back as {received:?}",
                        file.name
                    );
                    failures.clear();
                    break;
                }
                Err(error) => failures.push(format!("{}: {error}", peer.name)),
            }
        }
        ensure!(
            failures.is_empty(),
            "{} cannot be read: {failures:?}",
            file.name
        );
    }
    Ok(())
}
