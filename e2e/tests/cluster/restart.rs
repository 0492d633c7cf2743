//! Peers that come back with their volumes: one after the other, and all at once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use peernet_e2e::cluster::scenario;
use peernet_e2e::trial::{Fault, Trial};
use peernet_e2e::volumes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_moves_nothing_and_a_restart_of_all_loses_nothing() {
    scenario("restart", async |scenario| {
        // The default grace period: longer than a restart.
        let mut trial = Trial::begin(scenario, 4, 60, crate::seed(5)).await?;
        let copies = trial.copies().await?;
        let chunks = volumes::copies(scenario, &copies).await?;
        ensure!(
            chunks.len() >= 3 * copies.chunks.len(),
            "{copies} in {} files",
            chunks.len()
        );
        let slots = holders(&trial).await?;

        trial.suffer(Fault::Roll).await?;
        volumes::unmoved(&chunks, &volumes::copies(scenario, &copies).await?)?;
        ensure!(
            slots == holders(&trial).await?,
            "a slot is held by others than before"
        );
        scenario.note(&format!(
            "{} files and 4096 slots are where they were",
            chunks.len()
        ));

        trial.suffer(Fault::RestartAll { gently: false }).await?;
        volumes::unmoved(&chunks, &volumes::copies(scenario, &copies).await?)?;
        trial.suffer(Fault::Kill(1)).await?;
        scenario.note(&trial.finish().await?.to_string());
        Ok(())
    })
    .await;
}

/// Who holds each slot, now and next, whoever of them owns it: a restart may give a slot another owner under a new epoch,
/// but nothing to copy.
async fn holders(trial: &Trial<'_>) -> Result<BTreeMap<u32, [BTreeSet<String>; 2]>> {
    let mut newest = BTreeMap::new();
    for peer in trial.network.peers() {
        for slot in peer.leave_report(vec![]).await?.slots {
            let known: &mut (u64, [BTreeSet<String>; 2]) = newest.entry(slot.slot).or_default();
            if slot.epoch > known.0 {
                let held = [slot.replicas, slot.next].map(BTreeSet::from_iter);
                *known = (slot.epoch, held);
            }
        }
    }
    ensure!(newest.len() == 4096, "{} slots are held", newest.len());
    Ok(newest
        .into_iter()
        .map(|(slot, (_, held))| (slot, held))
        .collect())
}
