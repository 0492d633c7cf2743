//! A node that is cut off: for Kubernetes, for the other peers only, and in one direction only. The node's peers believe
//! that they own what they owned, clients reach both sides, and the cuts last longer than the grace period, so that the
//! larger side rebuilds what the smaller one has.

use peernet_e2e::cluster::{Cut, scenario};
use peernet_e2e::trial::{Fault, Trial};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_and_healed_changes_no_answer() {
    scenario("partition", async |scenario| {
        let mut trial = Trial::begin(scenario, 6, 10, crate::seed(6)).await?;
        for how in [Cut::Peers, Cut::PeersIn, Cut::PeersOut, Cut::Cable] {
            trial.suffer(Fault::Cut(how)).await?;
        }
        scenario.note(&trial.finish().await?.to_string());
        Ok(())
    })
    .await;
}
