//! A change of mind: replicas are raised again while peers leave.

use std::sync::Arc;

use anyhow::{Result, ensure};
use peernet_e2e::cluster::scenario;
use peernet_e2e::copies;
use peernet_e2e::drain::Guard;
use peernet_e2e::files::{FileSet, MIB};
use peernet_e2e::load::Load;
use peernet_e2e::network::{Network, RESIZING};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raising_replicas_while_peers_leave_keeps_them() {
    scenario("cancel", async |scenario| {
        let network = Arc::new(Network::create(scenario, "demo", crate::spec(7)).await?);
        let load = Load::start(&network, 2);
        // Enough to move that the change of mind comes long before the end.
        let mut files = FileSet::small("cancel", 2, 60, 16 * MIB);
        files
            .files
            .extend(FileSet::small("cancel-large", 3, 6, 64 * MIB).files);
        files.put(|| network.serving()).await?;
        let guard = Guard::start(&network).await?;
        scenario.note("files are in");

        network.scale(4).await?;
        network
            .becomes(
                "three peers leave and have data to move",
                RESIZING,
                |network| {
                    let drain = network.status.as_ref().and_then(|s| s.drain.as_ref());
                    drain.is_some_and(|d| d.leaving == 3 && d.bytes_left > 0)
                },
            )
            .await?;
        scenario.note("three peers are leaving");
        network.scale(7).await?;
        network.ready(7, RESIZING).await?;
        let seen = guard.finish().await?;
        let views = network.one_ring(7).await?;
        scenario.note(&format!(
            "seven peers are one ring; the set was lowered {:?}",
            seen.lowered
        ));

        let resource = network.resource().await?;
        let drain = resource.status.and_then(|s| s.drain);
        ensure!(
            drain.is_none(),
            "the status still tells of a leave: {drain:?}"
        );
        for view in &views {
            let me = view.status.self_.clone().unwrap_or_default();
            ensure!(!me.leaving, "{} still wants to leave", view.name);
            ensure!(view.status.slots_held > 0, "{} holds nothing", view.name);
        }
        load.went_on("the change of mind")?;
        check(&network, &files).await?;
        load.finish().await
    })
    .await;
}

async fn check(network: &Network, files: &FileSet) -> Result<()> {
    let network_id = network.network_id().await?;
    copies::check(&network_id, files, &network.peers(), 3).await?;
    files.verify(|| network.serving()).await
}
