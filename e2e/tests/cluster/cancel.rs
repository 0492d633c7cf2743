//! Changes of mind while peers leave, and crashes of all who take part.

use std::sync::Arc;

use anyhow::{Result, ensure};
use peernet_crd::DrainStatus;
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::drain::Guard;
use peernet_e2e::files::{FileSet, MIB};
use peernet_e2e::load::Load;
use peernet_e2e::network::{Network, RESIZING};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leave_can_be_cancelled_and_extended_and_survives_crashes() {
    scenario("cancel", async |scenario| {
        let network = Arc::new(Network::create(scenario, "demo", crate::spec(7)).await?);
        let load = Load::start(&network, 2);
        // Enough to move that whatever happens next happens in the middle.
        let files = FileSet::small("cancel", 2, 110, 64 * MIB);
        files.put(|| network.serving()).await?;
        load.went_on("the puts")?;
        scenario.note(&format!("{} bytes are in", files.bytes()));

        cancel(scenario, &network).await?;
        load.went_on("the change of mind")?;
        network.three_copies(&files).await?;
        network.spread_over_zones(&files).await?;
        files.verify(|| network.serving()).await?;
        scenario.note("all files are there");

        extend_and_crash(scenario, &network).await?;
        load.went_on("the leave with crashes")?;
        network.three_copies(&files).await?;
        network.spread_over_zones(&files).await?;
        files.verify(|| network.serving()).await?;
        scenario.note("all files are there");
        load.finish().await
    })
    .await;
}

/// Replicas are raised again, once before anything has happened and once in the middle.
async fn cancel(scenario: &Scenario, network: &Arc<Network>) -> Result<()> {
    let guard = Guard::start(network).await?;
    network.scale_when_allowed(4).await?;
    network.scale(7).await?;
    network.ready(7, RESIZING).await?;
    network.one_ring(7).await?;

    network.scale_when_allowed(4).await?;
    data_moves(network, 3).await?;
    scenario.note("three peers are leaving, and some of their data has gone already");
    network.scale(7).await?;
    network.ready(7, RESIZING).await?;
    network.one_ring(7).await?;
    let seen = guard.finish().await?;
    scenario.note(&format!(
        "seven peers are one ring; the set was lowered {:?}",
        seen.lowered
    ));

    let drain = network.resource().await?.status.and_then(|s| s.drain);
    ensure!(
        drain.is_none(),
        "the status still tells of a leave: {drain:?}"
    );
    network.settled().await
}

/// One peer leaves, then two more; meanwhile the operator, a leaver and a receiver crash.
async fn extend_and_crash(scenario: &Scenario, network: &Arc<Network>) -> Result<()> {
    let guard = Guard::start(network).await?;
    network.scale_when_allowed(6).await?;
    network
        .becomes("a peer leaves", RESIZING, |n| {
            n.status.as_ref().is_some_and(|s| s.drain.is_some())
        })
        .await?;
    network.scale_when_allowed(4).await?;
    data_moves(network, 3).await?;
    scenario.kill_operator().await?;
    network.kill_pod("demo-5").await?;
    network.kill_pod("demo-1").await?;
    scenario.note("the operator, a leaver and a receiver were killed");

    network.ready(4, RESIZING).await?;
    network.pods_are(4).await?;
    let seen = guard.finish().await?;
    network.one_ring(4).await?;
    scenario.note(&format!(
        "four peers are one ring; the set was lowered {:?}",
        seen.lowered
    ));
    Ok(())
}

/// Waits until so many peers are leaving and a tenth of what they have to hand over has been.
async fn data_moves(network: &Network, peers: i32) -> Result<()> {
    let moves = |d: &DrainStatus| d.leaving == peers && d.bytes_left < d.bytes_total / 10 * 9;
    let what = format!("{peers} peers leave, and data moves");
    network
        .becomes(&what, RESIZING, |n| {
            n.status
                .as_ref()
                .and_then(|s| s.drain.as_ref())
                .is_some_and(moves)
        })
        .await
}
