//! A peer whose node, and volume, are gone for good.

use std::time::Duration;

use anyhow::ensure;
use kube::ResourceExt;
use peernet_crd::PeerNetwork;
use peernet_e2e::cluster::scenario;
use peernet_e2e::trial::{Fault, Trial};

/// Longest that a refusal may take.
const REFUSAL: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_for_good_is_replaced_and_one_that_answers_is_not() {
    scenario("replace", async |scenario| {
        let mut trial = Trial::begin(scenario, 5, 60, crate::seed(10)).await?;
        let uid = async || anyhow::Ok(trial.network.pods.get("demo-2").await?.uid());
        let before = uid().await?;
        trial
            .network
            .annotate("peernet.dev/replace", "demo-2")
            .await?;
        let refused = |n: &PeerNetwork| !n.annotations().contains_key("peernet.dev/replace");
        trial
            .network
            .becomes("it is refused", REFUSAL, refused)
            .await?;
        ensure!(before == uid().await?, "demo-2 answered and was replaced");
        scenario.note("a peer that answers is not replaced");

        trial.suffer(Fault::Replace).await?;
        scenario.note(&trial.finish().await?.to_string());
        Ok(())
    })
    .await;
}
