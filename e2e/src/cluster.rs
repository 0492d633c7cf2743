//! One test on the real cluster: its namespace, what is kept when it fails, and the power of the cluster's nodes.

use std::collections::BTreeSet;
use std::env;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use peernet_crd::PeerNetwork;
use tokio::process::Command;

use crate::dump;
use crate::patience::{eventually, within};

/// Label on each test's namespace: `kubectl delete ns -l peernet.dev/e2e` removes what an interrupted run left.
pub const LABEL: &str = "peernet.dev/e2e";

/// Longest that a namespace may take to vanish with all its pods and volumes.
const REMOVAL: Duration = Duration::from_secs(180);
/// Longest that a node may take to start or stop; `dev/cluster` itself waits up to 60 s.
const POWER: Duration = Duration::from_secs(120);

/// Where a test runs.
pub struct Scenario {
    /// Talks to the API server.
    pub client: Client,
    /// The test's own.
    pub namespace: String,
    title: String,
    started: Instant,
    powered_off: Mutex<BTreeSet<u8>>,
}

/// Runs a test in a namespace of its own, if `PEERNET_E2E=1`; else says that it was skipped.
///
/// # Panics
/// When the test fails, so that the test framework sees it: after the logs were kept, the nodes switched on again and
/// the namespace removed. With `PEERNET_E2E_KEEP=1` the namespace of a failed test stays.
pub async fn scenario(title: &str, body: impl AsyncFnOnce(&Scenario) -> Result<()>) {
    if env::var_os("PEERNET_E2E").is_none_or(|v| v != "1") {
        // Not through the test framework, which hides what a passed test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {title}: it needs a cluster (dev/cluster up, dev/deploy) and PEERNET_E2E=1"
        );
        return;
    }
    let scenario = Scenario::begin(title)
        .await
        .unwrap_or_else(|e| panic!("{title}: {e:#}"));
    let outcome = AssertUnwindSafe(body(&scenario)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("panicked: {}", text.unwrap_or("no message")))
    });
    if let Err(error) = &outcome {
        scenario.note(&format!("FAILED: {error:#}"));
        match dump::namespace(title, &scenario.namespace, &format!("{error:?}")).await {
            Ok(directory) => scenario.note(&format!("logs are in {}", directory.display())),
            Err(error) => scenario.note(&format!("no logs: {error:#}")),
        }
    }
    let keep = outcome.is_err() && env::var_os("PEERNET_E2E_KEEP").is_some_and(|v| v == "1");
    let outcome = outcome.and(scenario.end(keep).await);
    outcome.unwrap_or_else(|error| panic!("{title}: {error:#}"));
}

impl Scenario {
    async fn begin(title: &str) -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("no cluster: dev/cluster up && eval \"$(dev/cluster env)\"")?;
        let deployments: Api<Deployment> =
            Api::namespaced(client.clone(), dump::OPERATOR_NAMESPACE);
        let available = |d: Option<&Deployment>| {
            let status = d.and_then(|d| d.status.as_ref());
            status
                .and_then(|s| s.available_replicas)
                .is_some_and(|n| n > 0)
        };
        let operator = await_condition(deployments, "peernet-operator", available);
        within(
            "the operator is available (dev/deploy installs it)",
            POWER,
            operator,
        )
        .await?;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        let established = conditions::is_crd_established();
        let definition = await_condition(definitions, "peernetworks.peernet.dev", established);
        within("the API server knows PeerNetworks", POWER, definition).await?;

        let suffix: String = (0..4).map(|_| fastrand::lowercase()).collect();
        let namespace = format!("e2e-{title}-{suffix}");
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace.clone());
        object.labels_mut().insert(LABEL.into(), title.into());
        // Whatever the strictest Pod Security level refuses, peers do without.
        object.labels_mut().insert(
            "pod-security.kubernetes.io/enforce".into(),
            "restricted".into(),
        );
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        Ok(Scenario {
            client,
            namespace,
            title: title.into(),
            started: Instant::now(),
            powered_off: Mutex::default(),
        })
    }

    /// Says what is going on, and when.
    pub fn note(&self, text: &str) {
        eprintln!(
            "[{} {:6.1}s] {text}",
            self.title,
            self.started.elapsed().as_secs_f64()
        );
    }

    /// Cuts a node's power (`dev/cluster kill-node`): everything on it stops at once.
    ///
    /// # Errors
    /// The script fails.
    pub async fn kill_node(&self, number: u8) -> Result<()> {
        self.note(&format!("power off node {number}"));
        self.off().insert(number);
        dev_cluster("kill-node", number).await
    }

    /// Switches a node on again, and waits until it is ready.
    ///
    /// # Errors
    /// The script fails.
    pub async fn start_node(&self, number: u8) -> Result<()> {
        dev_cluster("start-node", number).await?;
        self.off().remove(&number);
        self.note(&format!("node {number} is on again"));
        Ok(())
    }

    async fn end(&self, keep: bool) -> Result<()> {
        let off = self.off().clone();
        for number in off {
            self.start_node(number).await?;
        }
        if keep {
            self.note(&format!("the namespace {} stays", self.namespace));
            return Ok(());
        }
        self.remove_networks().await?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let uid = namespaces
            .get(&self.namespace)
            .await?
            .uid()
            .unwrap_or_default();
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        let deleted = conditions::is_deleted(&uid);
        let gone = await_condition(namespaces, &self.namespace, deleted);
        within("the namespace vanishes", REMOVAL, gone).await?;
        self.note("done");
        Ok(())
    }

    /// Deleting the resource has to remove the pods. Also, a namespace that still has pods looks again only after their
    /// grace period.
    async fn remove_networks(&self) -> Result<()> {
        let networks: Api<PeerNetwork> = Api::namespaced(self.client.clone(), &self.namespace);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        networks
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        eventually("pods go with their network", REMOVAL, || async {
            let left = pods
                .list_metadata(&ListParams::default())
                .await?
                .items
                .len();
            ensure!(left == 0, "{left} pods are left");
            Ok(())
        })
        .await
    }

    fn off(&self) -> std::sync::MutexGuard<'_, BTreeSet<u8>> {
        self.powered_off
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn dev_cluster(command: &str, node: u8) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/cluster");
    let what = format!("dev/cluster {command} {node}");
    let mut run = Command::new(script);
    run.arg(command).arg(node.to_string()).kill_on_drop(true);
    let output = within(&what, POWER, run.output()).await?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
