//! Volumes outlive their StatefulSet, and go with their network where its retention says so.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use peernet_crd::{PeerNetworkSpec, Retention, Storage};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::files::{FileSet, MIB};
use peernet_e2e::kubectl;
use peernet_e2e::network::{FORMATION, Network};
use peernet_e2e::patience::eventually;

#[tokio::test]
async fn volumes_stay_when_only_the_set_is_deleted_and_go_with_the_network() {
    scenario("retention", async |scenario| {
        let spec = PeerNetworkSpec {
            storage: Storage {
                retention: Retention::Delete,
                ..Storage::default()
            },
            ..crate::spec(3)
        };
        let network = Network::create(scenario, "demo", spec).await?;
        let files = FileSet::small("retention", 1, 8, MIB);
        files.put(|| network.serving()).await?;
        let before = claims(scenario).await?;
        ensure!(before.len() == 3, "there are the claims {before:?}");

        let delete = ["delete", "statefulset", "demo", "--cascade=foreground"];
        kubectl::run(&scenario.namespace, &delete).await?;
        scenario.note("the set and its pods were deleted");
        network.one_ring(3).await?;
        network.ready(3, FORMATION).await?;
        let after = claims(scenario).await?;
        ensure!(after == before, "the claims {before:?} became {after:?}");
        files.verify(|| network.serving()).await?;
        scenario.note("all files are there");

        kubectl::run(&scenario.namespace, &["delete", "pn", "demo"]).await?;
        eventually("volumes go with their network", FORMATION, async || {
            let left = claims(scenario).await?;
            ensure!(left.is_empty(), "the claims {left:?} are left");
            Ok(())
        })
        .await
    })
    .await;
}

/// The claims of all volumes, by UID.
async fn claims(scenario: &Scenario) -> Result<BTreeSet<Option<String>>> {
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(scenario.client.clone(), &scenario.namespace);
    let found = claims.list_metadata(&ListParams::default()).await?;
    Ok(found.items.iter().map(ResourceExt::uid).collect())
}
