//! Faults that other operators got wrong: what the operator did not see, what somebody else removed, what happened while
//! it was away (see Sieve and Acto; casskop 370, instaclustr 407 and 410).

use anyhow::ensure;
use peernet_e2e::census::{self, Census};
use peernet_e2e::cluster::scenario;
use peernet_e2e::trial::{Fault, Trial};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_ends_where_it_would_have_ended_undisturbed() {
    scenario("operator", async |scenario| {
        let mut trial = Trial::begin(scenario, 5, 60, crate::seed(9)).await?;
        let end = census::end_state(&scenario.namespace, "demo").await?;
        ensure!(end.contains_key("StatefulSet/demo"), "there are {end:?}");
        for (fault, pods) in [
            (Fault::Reconsider, 0),
            (Fault::OperatorAway, 2),
            (Fault::DeleteSet { orphan: true }, 0),
            (Fault::DeleteSet { orphan: false }, 5),
        ] {
            let census = Census::start(&trial.network);
            trial.suffer(fault).await?;
            let counts = census.finish().await?;
            scenario.note(&counts.to_string());
            ensure!(counts.totals() == (pods, pods), "{fault}: {counts:?}");
            let now = census::end_state(&scenario.namespace, "demo").await?;
            ensure!(now == end, "{fault}: {now:?} instead of {end:?}");
        }
        scenario.note(&trial.finish().await?.to_string());
        Ok(())
    })
    .await;
}
