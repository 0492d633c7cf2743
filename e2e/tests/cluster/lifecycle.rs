//! From `kubectl apply` over `kubectl scale` up to a graceful leave, with a gigabyte of files on board.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::drain::Guard;
use peernet_e2e::files::FileSet;
use peernet_e2e::kubectl;
use peernet_e2e::load::Load;
use peernet_e2e::network::{Network, RESIZING};
use peernet_e2e::patience::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_peers_become_nine_and_then_four_without_losing_a_byte() {
    scenario("lifecycle", async |scenario| {
        let network = form(scenario).await?;
        let load = Load::start(&network, 1);
        let files = FileSet::full(1);
        files.put(|| network.serving()).await?;
        let summary = load.went_on("the puts")?;
        scenario.note(&format!(
            "{} files, {} bytes are in",
            files.files.len(),
            files.bytes()
        ));
        ensure!(
            summary.failures.keys().all(|kind| means_later(kind)),
            "with all peers well nothing is refused: {summary}"
        );
        scenario.note(&network.three_copies(&files).await?.to_string());
        network.spread_over_zones(&files).await?;

        join(scenario, &network, &load).await?;
        files.verify(|| network.serving()).await?;
        scenario.note("all files are there, bit for bit");

        leave(scenario, &network, &load).await?;
        scenario.note(&network.three_copies(&files).await?.to_string());
        network.spread_over_zones(&files).await?;
        files.verify(|| network.serving()).await?;
        files.listed(&network.peers()[0], "full/").await?;
        scenario.note("all files are there, bit for bit");
        load.finish().await
    })
    .await;
}

/// Whether a failure only says "try again": on a slow disk, not every attempt is in time.
fn means_later(kind: &str) -> bool {
    ["HTTP 503", "Unavailable"].contains(&kind)
}

/// The commands of the README, typed for real.
async fn form(scenario: &Scenario) -> Result<Arc<Network>> {
    let network = Arc::new(Network::watch(scenario, "demo").await?);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/peernetwork.yaml");
    let apply = ["apply", "-f", &manifest.to_string_lossy()];
    kubectl::run(&scenario.namespace, &apply).await?;
    let wait = ["wait", "--for=condition=Ready", "pn/demo", "--timeout=480s"];
    kubectl::run(&scenario.namespace, &wait).await?;
    scenario.note("kubectl wait has returned");

    let resource = network.resource().await?;
    let ready = resource.status.unwrap_or_default().ready_replicas;
    ensure!(ready == 5, "readyReplicas is {ready}");
    let views = network.one_ring(5).await?;
    let peers = network.peers(); // found by the label app.kubernetes.io/instance=demo
    ensure!(peers.len() == 5, "there are {} pods", peers.len());
    let zones = network.zones().await?;
    for view in &views {
        let me = view.status.self_.clone().unwrap_or_default();
        let zone = &zones[&view.name];
        ensure!(
            me.zone == *zone,
            "{} says {:?}, but is in {zone}",
            view.name,
            me.zone
        );
    }
    let distinct: BTreeSet<_> = zones.values().collect();
    ensure!(distinct.len() == 3, "five pods are in the zones {zones:?}");
    let mut ports = network.service_ports().await?;
    ports.sort();
    ensure!(
        ports == [("grpc".into(), 7000), ("http".into(), 8080)],
        "the ports are {ports:?}"
    );
    scenario.note("five peers in three zones are one ring");
    Ok(network)
}

async fn join(scenario: &Scenario, network: &Arc<Network>, load: &Load) -> Result<()> {
    kubectl::run(&scenario.namespace, &["scale", "pn/demo", "--replicas=9"]).await?;
    network.ready(9, RESIZING).await?;
    network.one_ring(9).await?;
    scenario.note("nine peers are one ring");
    network.settled().await?;
    for peer in network.peers().iter().filter(|p| p.ordinal >= 5) {
        let status = peer.status().await?;
        let (slots, bytes) = (status.slots_held, status.bytes_held);
        scenario.note(&format!(
            "{} took {slots} slots and {bytes} bytes",
            peer.name
        ));
        ensure!(bytes > 0, "{} took no data", peer.name);
    }
    load.went_on("the joins").map(drop)
}

async fn leave(scenario: &Scenario, network: &Arc<Network>, load: &Load) -> Result<()> {
    let guard = Guard::start(network).await?;
    // While a peer that stays is not ready for a moment, it is refused.
    eventually("four peers are allowed", RESIZING, async || {
        kubectl::run(&scenario.namespace, &["scale", "pn/demo", "--replicas=4"]).await
    })
    .await?;
    network.ready(4, RESIZING).await?;
    network.pods_are(4).await?;
    let seen = guard.finish().await?;
    network.one_ring(4).await?;
    scenario.note(&format!(
        "four peers are one ring; the set was lowered {:?}",
        seen.lowered
    ));

    ensure!(
        seen.lowered.last().is_some_and(|(_, to)| *to == 4),
        "lowered {:?}",
        seen.lowered
    );
    let together = seen.progress.iter().map(|d| d.leaving).max();
    ensure!(
        together == Some(5),
        "at most {together:?} peers were leaving at once"
    );
    let total = seen
        .progress
        .iter()
        .map(|d| d.bytes_total)
        .max()
        .unwrap_or_default();
    ensure!(
        total > 0,
        "the status never told how much there was to move"
    );
    let steps: BTreeSet<_> = seen
        .progress
        .iter()
        .map(|d| (d.slots_left, d.bytes_left))
        .collect();
    ensure!(
        steps.len() > 1,
        "the status showed no progress: {:?}",
        seen.progress
    );
    scenario.note(&format!(
        "{} steps of progress with {total} bytes to move",
        steps.len()
    ));
    load.went_on("the leaves").map(drop)
}
