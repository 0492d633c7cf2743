//! Faults that only the daemon itself can be made to have: see `faults` in peernet-node.

use anyhow::Result;
use peernet_e2e::processes::trial::{PEERS, Trial, trial};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_stops_its_peer_and_nobody_else() {
    trial("failed syncs", crate::PATIENT, async |trial| {
        trial
            .rounds(async || {
                let [first, second] = trial.some_peers();
                let nth = trial
                    .random
                    .lock()
                    .expect("nobody panics with it")
                    .u64(20..60);
                failed_sync(trial, first, &format!("meta-sync-fails={nth}")).await?;
                // Few files of the load have chunks, and a peer with a small part of the ring gets few of these.
                let nth = nth / 10;
                failed_sync(trial, second, &format!("chunk-sync-fails={nth}")).await
            })
            .await
    })
    .await;
}

/// The peer stops at the failed sync, however well the next would go, and is well again once started anew.
async fn failed_sync(trial: &Trial, n: usize, fault: &str) -> Result<()> {
    restart(trial, n, fault).await?;
    trial.ring.ended_saying(n, "volume failed").await?;
    trial.served(fault).await?;
    trial.load.went_on(fault)?;
    trial.ring.launch(n)?;
    trial.ring.one_ring().await?;
    trial.healed(fault).await
}

async fn restart(trial: &Trial, n: usize, faults: &str) -> Result<()> {
    trial.ring.terminate(n).await?;
    trial.ring.launch_with(n, faults)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_peer_and_one_whose_clock_is_an_hour_ahead_do_no_harm() {
    trial("slow and ahead", crate::IMPATIENT, async |trial| {
        trial
            .rounds(async || {
                let [slow, ahead] = trial.some_peers();
                restart(trial, ahead, "clock-offset=3600s").await?;
                trial.ring.one_ring().await?;
                trial.served("a clock an hour ahead").await?;
                restart(trial, slow, "slow-disk=100ms,delay=50ms..150ms").await?;
                trial.served("a slow peer").await?;
                trial.ring.one_ring().await?;
                trial
                    .healed("a slow peer and a clock an hour ahead")
                    .await?;
                restart(trial, slow, "").await?;
                restart(trial, ahead, "").await?;
                trial.ring.one_ring().await?;
                trial.healed("a return to normal").await
            })
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_doubled_and_overtaking_messages_change_nothing() {
    trial("bad messages", crate::PATIENT, async |trial| {
        trial
            .rounds(async || {
                let seed = trial.random.lock().expect("nobody panics with it").u32(..);
                for n in 0..PEERS {
                    trial.ring.terminate(n).await?;
                }
                for n in 0..PEERS {
                    let seed = seed ^ n as u32;
                    let faults = format!("drop=5%,duplicate=10%,delay=0..60ms,seed={seed}");
                    trial.ring.launch_with(n, &faults)?;
                }
                trial.served("lost, doubled and late messages").await?;
                trial.healed("lost, doubled and late messages").await?;
                let [victim] = trial.some_peers();
                trial.ring.kill(victim)?;
                trial.served("a crash amid bad messages").await?;
                trial.ring.launch(victim)?;
                trial.healed("a crash amid bad messages").await
            })
            .await
    })
    .await;
}
