//! Sizes that change faster than peers can come and go, and crashes in the middle of a leave.

use anyhow::ensure;
use peernet_e2e::census::{self, Census};
use peernet_e2e::cluster::scenario;
use peernet_e2e::trial::{Fault, Step, Trial, Victim};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_may_change_at_any_moment() {
    scenario("storm", async |scenario| {
        let mut trial = Trial::begin(scenario, 5, 60, crate::seed(7)).await?;
        trial.suffer(Fault::Storm(8)).await?;
        scenario.note(&trial.finish().await?.to_string());
        Ok(())
    })
    .await;
}

/// The oracle of Sieve and Acto: with a crash at a step, what comes, goes and is there in the end is what it is without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_a_step_of_a_leave_changes_neither_its_end_nor_what_it_costs() {
    scenario("steps", async |scenario| {
        let mut trial = Trial::begin(scenario, 5, 60, crate::seed(8)).await?;
        let end = census::end_state(&scenario.namespace, "demo").await?;
        ensure!(end.contains_key("StatefulSet/demo"), "there are {end:?}");

        for (victim, step) in [
            (None, Step::Moving),
            (Some(Victim::Leaver), Step::Moving),
            (Some(Victim::Receiver), Step::Moving),
            (Some(Victim::Operator), Step::Lowered),
        ] {
            let census = Census::start(&trial.network);
            trial.suffer(Fault::CrashInLeave(victim, step)).await?;
            let counts = census.finish().await?;
            scenario.note(&counts.to_string());
            // The leaver goes and comes back, and a peer that was killed does, too; but a leaver only if the blow comes before
            // its set is lowered, which a leave of a few files can be done with in the time it takes to strike.
            let wanted = match victim {
                None | Some(Victim::Operator) => 1..=1,
                Some(Victim::Leaver) => 1..=2,
                Some(Victim::Receiver) => 2..=2,
            };
            let (came, went) = counts.totals();
            ensure!(
                came == went && wanted.contains(&came),
                "{victim:?}: {counts:?}"
            );
            let now = census::end_state(&scenario.namespace, "demo").await?;
            ensure!(now == end, "{victim:?}: {now:?} instead of {end:?}");
        }
        scenario.note(&trial.finish().await?.to_string());
        Ok(())
    })
    .await;
}
