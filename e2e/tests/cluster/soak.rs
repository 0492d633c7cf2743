//! Every kind of harm in one network, at random, for `SOAK_MINUTES`: the long form of the tests beside it.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::history::Impossible;
use peernet_e2e::trial::{Fault, Trial};
use tokio::time::Instant;

/// Shorter than a pod's restart takes, so that copies are also rebuilt while their peers are only away.
const GRACE_SECONDS: i32 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_happens_for_so_many_minutes() {
    let Some(minutes) = env::var_os("SOAK_MINUTES") else {
        eprintln!("SKIPPED soak: SOAK_MINUTES does not say how long");
        return;
    };
    let minutes = minutes.to_string_lossy().parse().unwrap_or(0);
    assert!(minutes > 0, "SOAK_MINUTES is not a number of minutes");
    scenario("soak", async |scenario| soak(scenario, minutes).await).await;
}

async fn soak(scenario: &Scenario, minutes: u64) -> Result<()> {
    let seed = crate::seed(fastrand::u64(..));
    let mut trial = Trial::begin(scenario, 6, GRACE_SECONDS, seed).await?;
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut outcome = Ok(());
    while outcome.is_ok() && Instant::now() < end {
        let fault = Fault::any(&mut trial.random);
        outcome = trial.suffer(fault).await.map(drop);
    }
    let totals = trial.totals.clone();
    let outcome = match outcome {
        Ok(()) => trial.finish().await.map(drop),
        failed => failed,
    };
    let (mut lost, mut resurrected, mut violations) = (0, 0, 0);
    let failed = outcome.as_ref().err();
    match failed.and_then(|e| e.downcast_ref::<Impossible>()) {
        Some(impossible) if impossible.is_loss() => lost += 1,
        Some(impossible) if impossible.is_resurrection() => resurrected += 1,
        Some(_) => violations += 1,
        None => {}
    }
    eprintln!(
        "soak of {minutes} minutes, SEED={seed}: {lost} lost, {resurrected} resurrected, {violations} violations; {totals}"
    );
    outcome.with_context(|| format!("SEED={seed}"))
}
