//! A majority of some slots is gone for good: an explicit command, which is refused as long as nothing is lost, is the
//! way out, and what one survivor holds is all there again.

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use peernet_crd::{PeerNetwork, RecoveryStatus};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::files::{FileSet, MIB};
use peernet_e2e::network::{FORMATION, Network, RESIZING};
use peernet_e2e::patience::eventually;
use peernet_e2e::peer::Peer;
use peernet_e2e::volumes;
use peernet_proto::v1::{PeerInfo, PeerState};

const RECOVER: &str = "peernet.dev/recover-accept-loss";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_survivor_holds_outlives_a_node_and_a_volume() {
    scenario("recover", async |scenario| {
        let network = Network::create(scenario, "demo", crate::spec(6)).await?;
        let files = FileSet::small("recover", 6, 60, 4 * MIB);
        files.put(|| network.serving()).await?;
        network.settled().await?;
        network.three_copies(&files).await?;

        ensure!(asked(&network, "demo-1,demo-2").await?.is_none());
        scenario.note("peers that are alive are not given up");

        let (node, off, wiped) = victims(scenario, &network).await?;
        scenario.kill_node(node).await?;
        lose_volume(scenario, &network, &wiped).await?;
        // Until all that are off are known to be, it may be unknown.
        network
            .becomes("a majority is lost", RESIZING, |n| {
                condition(n, "Writable") == Some("False")
            })
            .await?;
        scenario.note(&format!("{off:?} are off, {wiped} lost its volume"));

        let lost = off.iter().chain([&wiped]).cloned().collect::<Vec<_>>();
        let recovery = asked(&network, &lost.join(",")).await?;
        let recovery = recovery.context("nothing was given up")?;
        scenario.note(&recovery.message);
        ensure!(recovery.finished && recovery.slots_lost == 0 && recovery.slots_partial > 0);
        network
            .becomes("it is writable", RESIZING, |n| {
                condition(n, "Writable") == Some("True")
            })
            .await?;
        files.verify(|| network.serving()).await?;
        scenario.note("all files are there");

        scenario.start_node(node).await?;
        network.ready(6, RESIZING).await?;
        network.one_ring(6).await?;
        network.settled().await?;
        network.three_copies(&files).await?;
        files.verify(|| network.serving()).await
    })
    .await;
}

/// A node to switch off that the operator is not on, its peers, and a peer of another node.
async fn victims(scenario: &Scenario, network: &Network) -> Result<(u8, Vec<String>, String)> {
    let operators = scenario.operator_nodes().await?;
    let peers = network.peers();
    let free = |peer: &&Peer| !operators.contains(&peer.node);
    let node = &peers.iter().find(free).context("no such node")?.node;
    let (off, on): (Vec<_>, Vec<_>) = peers.iter().partition(|peer| peer.node == *node);
    let number = node.trim_start_matches("node").parse()?;
    let wiped = on.first().context("all are on one node")?.name.clone();
    Ok((number, off.iter().map(|p| p.name.clone()).collect(), wiped))
}

/// Deletes a pod and its claim, as one does whose disk is broken, and waits until another peer of its name is a member.
async fn lose_volume(scenario: &Scenario, network: &Network, pod: &str) -> Result<()> {
    volumes::delete(scenario, pod).await?;
    network.kill_pod(pod).await?;
    eventually("a newcomer has its name", FORMATION, || async {
        let serving = network.serving();
        let asked = serving.iter().find(|peer| peer.name != pod);
        let members = asked.context("nobody serves")?.members().await?;
        let named = members.iter().filter(|m| m.name == pod);
        let states: Vec<PeerState> = named.map(PeerInfo::state).collect();
        let both = [PeerState::Down, PeerState::Active];
        let both = both.iter().all(|state| states.contains(state));
        ensure!(both, "{pod} is {states:?}");
        Ok(())
    })
    .await
}

/// Asks for peers to be given up, and waits for the answer.
async fn asked(network: &Network, peers: &str) -> Result<Option<RecoveryStatus>> {
    network.annotate(RECOVER, peers).await?;
    let answered = |n: &PeerNetwork| !n.annotations().contains_key(RECOVER);
    network
        .becomes("recovery is answered", RESIZING, answered)
        .await?;
    Ok(network.resource().await?.status.and_then(|s| s.recovery))
}

fn condition<'a>(network: &'a PeerNetwork, name: &str) -> Option<&'a str> {
    let mut conditions = network.status.iter().flat_map(|s| &s.conditions);
    Some(&*conditions.find(|c| c.type_ == name)?.status)
}
