//! What the API server refuses, and what it says.

use anyhow::{Result, anyhow, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use peernet_crd::{PeerNetwork, PeerNetworkSpec};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::kubectl;
use serde_json::json;

#[tokio::test]
async fn the_api_server_refuses_what_cannot_work_and_says_why() {
    scenario("admission", async |scenario| {
        let networks = networks(scenario);
        let create = async |name: &str, spec: PeerNetworkSpec| {
            let dry = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            networks.create(&dry, &PeerNetwork::new(name, spec)).await
        };
        let fewer = "replicas must not be lower than replication.factor";
        refused(
            create("demo", crate::spec(2)).await,
            &[fewer, "raise replicas"],
        )?;
        refused(
            create("demo", crate::spec(1001)).await,
            &["spec.replicas", "1000"],
        )?;
        let mut eager = crate::spec(5);
        eager.replication.write = 4;
        refused(
            create("demo", eager).await,
            &["replication.write must not be greater"],
        )?;
        refused(
            create("de.mo", crate::spec(5)).await,
            &["also names its Service and pods"],
        )?;
        for taken in ["default", "demo-peers"] {
            refused(
                create(taken, crate::spec(5)).await,
                &["also names its ServiceAccount"],
            )?;
        }
        ensure!(
            create("demo", crate::spec(5)).await.is_ok(),
            "a valid one is accepted"
        );

        unknown_fields(scenario).await?;
        scaling_too_low(scenario, &networks).await
    })
    .await;
}

async fn unknown_fields(scenario: &Scenario) -> Result<()> {
    let manifest = json!({
        "apiVersion": "peernet.dev/v1alpha1", "kind": "PeerNetwork", "metadata": {"name": "demo"},
        "spec": {"replicas": 5, "replication": {"facter": 3}},
    });
    let manifest = serde_json::to_string(&manifest)?;
    let apply = ["apply", "--validate=strict", "-f", "-"];
    let printed = kubectl::attempt(&scenario.namespace, &apply, &manifest).await?;
    ensure!(
        !printed.success,
        "a misspelt field was accepted: {}",
        printed.out
    );
    let names_it = printed
        .err
        .contains(r#"unknown field "spec.replication.facter""#);
    ensure!(names_it, "the message is {}", printed.err);
    Ok(())
}

/// `kubectl scale` below the replication factor is refused at once, whether the network runs or not.
async fn scaling_too_low(scenario: &Scenario, networks: &Api<PeerNetwork>) -> Result<()> {
    let resource = PeerNetwork::new("refusal", crate::spec(3));
    networks.create(&PostParams::default(), &resource).await?;
    let scale = ["scale", "pn/refusal", "--replicas=2"];
    let printed = kubectl::attempt(&scenario.namespace, &scale, "").await?;
    ensure!(
        !printed.success,
        "two peers for three copies were accepted: {}",
        printed.out
    );
    let sentence = "with fewer peers than copies data would be lost";
    ensure!(
        printed.err.contains(sentence),
        "the message is {}",
        printed.err
    );
    let replicas = networks.get("refusal").await?.spec.replicas;
    ensure!(replicas == 3, "replicas became {replicas}");
    let write = json!({"spec": {"replication": {"write": 3}}});
    let changed = networks
        .patch("refusal", &PatchParams::default(), &Patch::Merge(write))
        .await;
    refused(changed, &["replication.write cannot be changed"])
}

fn networks(scenario: &Scenario) -> Api<PeerNetwork> {
    let client: Client = scenario.client.clone();
    Api::namespaced(client, &scenario.namespace)
}

fn refused(answer: kube::Result<PeerNetwork>, sentences: &[&str]) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 422 => {
            let missing = sentences.iter().find(|s| !status.message.contains(**s));
            missing.map_or(Ok(()), |s| {
                Err(anyhow!("{:?} does not say {s:?}", status.message))
            })
        }
        Err(error) => Err(anyhow!(error).context("refused in another way")),
        Ok(_) => Err(anyhow!("accepted, but should say {sentences:?}")),
    }
}
