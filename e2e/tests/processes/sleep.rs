//! A peer that is stopped in the middle of everything and goes on when others have taken over: it believes that it owns
//! what it owned, until it hears better.

use std::env;
use std::time::Duration;

use peernet_e2e::processes::trial::trial;
use tokio::time::sleep;

/// In a soak a peer sleeps for so long, as the issue of long garbage collections and moved virtual machines has it.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_wakes_believes_others_sooner_than_itself() {
    trial("stop and continue", crate::IMPATIENT, async |trial| {
        trial
            .rounds(async || {
                let [sleeper] = trial.some_peers();
                trial.ring.pause(sleeper)?;
                trial.served("a peer that does not answer").await?;
                // The others have replaced it: three copies without it.
                trial.ring.one_ring().await?;
                trial.healed("a peer that does not answer").await?;
                if env::var_os("PEERNET_SOAK_MINUTES").is_some() {
                    sleep(LONG).await;
                }
                trial.ring.wake(sleeper)?;
                // Asked at once, it must answer what is true now, or not at all.
                let woken = trial.ring.peer(sleeper);
                let asked = || vec![woken.clone()];
                trial.served_by("a wake, asking who woke", asked).await?;
                trial.ring.one_ring().await?;
                trial.healed("a wake").await
            })
            .await
    })
    .await;
}
