//! One test on the real cluster: its namespace, what is kept when it fails, and the harm that is done to the
//! cluster: nodes without power or network, an operator that is away.

use std::collections::BTreeSet;
use std::env;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::conditions;
use kube::{Api, Client, ResourceExt};
use peernet_crd::PeerNetwork;
use serde_json::json;
use tokio::process::Command;

use crate::dump;
use crate::patience::{eventually, watched, within};

/// Label on each test's namespace: `kubectl delete ns -l peernet.dev/e2e` removes what an interrupted run left.
pub const LABEL: &str = "peernet.dev/e2e";

/// Longest that a namespace may take to vanish with all its pods and volumes.
const REMOVAL: Duration = Duration::from_secs(300);
/// Longest that a node may take to start or stop; `dev/cluster` itself waits up to 300 s.
const POWER: Duration = Duration::from_secs(400);

/// Where a test runs.
pub struct Scenario {
    /// Talks to the API server.
    pub client: Client,
    /// The test's own.
    pub namespace: String,
    title: String,
    started: Instant,
    damage: Mutex<Damage>,
}

/// What has to be mended before the next test.
#[derive(Clone, Default)]
struct Damage {
    powered_off: BTreeSet<u8>,
    cut: BTreeSet<u8>,
    without_operator: bool,
}

/// How a node can be cut off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cut {
    /// Its cable is out: nobody reaches it, and after 12 s Kubernetes knows.
    Cable,
    /// Its peers and those of other nodes hear nothing of each other; clients and Kubernetes reach all of them.
    Peers,
    /// Its peers are heard and hear nothing.
    PeersIn,
    /// Its peers hear and are not heard.
    PeersOut,
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
        operator_available(&client).await?;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        let established = conditions::is_crd_established();
        let definition = watched(definitions, "peernetworks.peernet.dev", established);
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
            damage: Mutex::default(),
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
        self.damage().powered_off.insert(number);
        dev_cluster(&["kill-node", &number.to_string()]).await
    }

    /// Switches a node on again, and waits until it is ready.
    ///
    /// # Errors
    /// The script fails.
    pub async fn start_node(&self, number: u8) -> Result<()> {
        dev_cluster(&["start-node", &number.to_string()]).await?;
        self.damage().powered_off.remove(&number);
        self.note(&format!("node {number} is on again"));
        Ok(())
    }

    /// Cuts a node off (`dev/cluster cut-node` and `cut-pods`).
    ///
    /// # Errors
    /// The script fails.
    pub async fn cut_node(&self, number: u8, how: Cut) -> Result<()> {
        self.note(&format!("cut off node {number}: {how:?}"));
        self.damage().cut.insert(number);
        let node = number.to_string();
        let arguments: &[&str] = match how {
            Cut::Cable => &["cut-node", &node],
            Cut::Peers => &["cut-pods", &node, "both"],
            Cut::PeersIn => &["cut-pods", &node, "in"],
            Cut::PeersOut => &["cut-pods", &node, "out"],
        };
        dev_cluster(arguments).await
    }

    /// Undoes every cut of a node.
    ///
    /// # Errors
    /// The script fails.
    pub async fn heal_node(&self, number: u8) -> Result<()> {
        dev_cluster(&["heal-node", &number.to_string()]).await?;
        self.damage().cut.remove(&number);
        self.note(&format!("node {number} is connected again"));
        Ok(())
    }

    /// Removes the operator's pods, and lets none come until [`Scenario::return_operator`].
    ///
    /// # Errors
    /// The API server does not answer, or the pods do not go.
    pub async fn remove_operator(&self) -> Result<()> {
        self.damage().without_operator = true;
        self.scale_operator(0).await?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), dump::OPERATOR_NAMESPACE);
        eventually("the operator goes", POWER, || async {
            let left = pods.list_metadata(&operator_pods()).await?.items.len();
            ensure!(left == 0, "{left} pods are left");
            Ok(())
        })
        .await?;
        self.note("the operator is away");
        Ok(())
    }

    /// Brings the operator back, and waits until it is available.
    ///
    /// # Errors
    /// The API server does not answer, or it does not come.
    pub async fn return_operator(&self) -> Result<()> {
        self.scale_operator(1).await?;
        operator_available(&self.client).await?;
        self.damage().without_operator = false;
        self.note("the operator is back");
        Ok(())
    }

    /// Ends the operator's processes at once; Kubernetes starts others.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn kill_operator(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), dump::OPERATOR_NAMESPACE);
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        pods.delete_collection(&at_once, &operator_pods()).await?;
        Ok(())
    }

    /// The nodes that the operator's pods are on.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn operator_nodes(&self) -> Result<BTreeSet<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), dump::OPERATOR_NAMESPACE);
        let pods = pods.list(&operator_pods()).await?.items.into_iter();
        Ok(pods.filter_map(|pod| pod.spec?.node_name).collect())
    }

    async fn scale_operator(&self, replicas: i32) -> Result<()> {
        let deployments: Api<Deployment> =
            Api::namespaced(self.client.clone(), dump::OPERATOR_NAMESPACE);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let params = PatchParams::default();
        deployments
            .patch_scale("peernet-operator", &params, &patch)
            .await?;
        Ok(())
    }

    async fn end(&self, keep: bool) -> Result<()> {
        let Damage {
            powered_off,
            cut,
            without_operator,
        } = self.damage().clone();
        for number in cut.difference(&powered_off) {
            self.heal_node(*number).await?;
        }
        for number in powered_off {
            self.start_node(number).await?;
        }
        if without_operator {
            self.return_operator().await?;
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
        let gone = watched(namespaces, &self.namespace, deleted);
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

    fn damage(&self) -> MutexGuard<'_, Damage> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Selects the operator's pods.
pub fn operator_pods() -> ListParams {
    ListParams::default().labels("app.kubernetes.io/name=peernet-operator")
}

async fn operator_available(client: &Client) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), dump::OPERATOR_NAMESPACE);
    let available = |d: Option<&Deployment>| {
        let status = d.and_then(|d| d.status.as_ref());
        status
            .and_then(|s| s.available_replicas)
            .is_some_and(|n| n > 0)
    };
    let operator = watched(deployments, "peernet-operator", available);
    let what = "the operator is available (dev/deploy installs it)";
    within(what, POWER, operator).await
}

async fn dev_cluster(arguments: &[&str]) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/cluster");
    let what = format!("dev/cluster {}", arguments.join(" "));
    let mut run = Command::new(script);
    run.args(arguments).kill_on_drop(true);
    let output = within(&what, POWER, run.output()).await?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
