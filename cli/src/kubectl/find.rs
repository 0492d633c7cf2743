//! The network that is meant, and its peers that can be talked to.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config, ResourceExt};
use peernet_crd::PeerNetwork;
use thiserror::Error;

use super::Cluster;
use super::forward::{self, Forward};
use crate::exit::Exit;
use crate::servers::Servers;

/// Peers tried one after another. Guess: when so many do not answer, the next will not either.
const PEERS: usize = 8;

/// Why there is no network to talk to.
#[derive(Debug, Error)]
pub enum FindError {
    /// There is no cluster to ask.
    #[error(
        "no cluster is configured: {0}; check --kubeconfig and --context, or `kubectl config view`"
    )]
    Config(#[from] KubeconfigError),
    /// The API server does not answer, or refuses.
    #[error("{}", said(.0))]
    Api(#[from] kube::Error),
    /// None there.
    #[error(
        "there is no PeerNetwork {of}{place}; create one (kubectl apply -f manifests/peernetwork.yaml), or look \
         elsewhere with -n NAMESPACE or -A"
    )]
    None {
        /// `named NAME `, or nothing.
        of: String,
        /// Where it was looked for.
        place: String,
    },
    /// Several there.
    #[error("there are several PeerNetworks {place}; choose one: {}", .found.join(", or "))]
    Several {
        /// Where.
        place: String,
        /// The options that name each.
        found: Vec<String>,
    },
    /// No pod is ready.
    #[error("no peer of {network} is ready; see: kubectl -n {namespace} describe pn {network}")]
    NoneReady {
        /// Its name.
        network: String,
        /// Its namespace.
        namespace: String,
    },
}

impl FindError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            FindError::Config(_) | FindError::Several { .. } => Exit::Usage,
            FindError::None { .. } => Exit::NotFound,
            FindError::Api(error) => exit_of(error),
            FindError::NoneReady { .. } => Exit::Retryable,
        }
    }
}

/// The API server's own sentence where it gave one.
pub(super) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 && status.reason.is_empty() => {
            "the cluster does not know PeerNetworks; install the chart, as README.md says".into()
        }
        kube::Error::Api(status) => status.message.clone(),
        other => format!("the API server cannot be asked: {other}"),
    }
}

/// Whether the same may succeed later.
pub(super) fn exit_of(error: &kube::Error) -> Exit {
    match error {
        kube::Error::Api(status) if status.code == 404 => Exit::NotFound,
        kube::Error::Api(status) if matches!(status.code, 409 | 429 | 500..) => Exit::Retryable,
        kube::Error::Api(_) => Exit::Permanent,
        _ => Exit::Retryable,
    }
}

/// A PeerNetwork of the cluster.
pub(super) struct Network {
    client: Client,
    pub(super) name: String,
    pub(super) namespace: String,
}

impl Network {
    /// The one that is named, or the only one.
    pub(super) async fn find(cluster: &Cluster) -> Result<Self, FindError> {
        let options = KubeConfigOptions {
            context: cluster.context.clone(),
            ..Default::default()
        };
        let config = match &cluster.kubeconfig {
            Some(path) => {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?
            }
            None => Config::from_kubeconfig(&options).await?,
        };
        let namespace = cluster
            .namespace
            .clone()
            .unwrap_or(config.default_namespace.clone());
        let client = Client::try_from(config)?;
        let (all, place) = if cluster.all_namespaces {
            (
                Api::<PeerNetwork>::all(client.clone()),
                "in any namespace".to_owned(),
            )
        } else {
            (
                Api::namespaced(client.clone(), &namespace),
                format!("in namespace {namespace}"),
            )
        };
        let named = |network: &PeerNetwork| {
            cluster
                .network
                .as_ref()
                .is_none_or(|n| *n == network.name_any())
        };
        // More than can be chosen from would not help.
        let listed = all.list(&ListParams::default().limit(500)).await?;
        let mut found: Vec<PeerNetwork> = listed.items.into_iter().filter(named).collect();
        let whose = |n: &PeerNetwork| n.namespace().unwrap_or_else(|| namespace.clone());
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(Network {
                name: one.name_any(),
                namespace: whose(&one),
                client,
            }),
            (None, _) => {
                let of = cluster
                    .network
                    .as_ref()
                    .map(|n| format!("named {n} "))
                    .unwrap_or_default();
                Err(FindError::None { of, place })
            }
            (Some(last), _) => {
                found.push(last);
                let options =
                    |n: &PeerNetwork| format!("--network {} -n {}", n.name_any(), whose(n));
                Err(FindError::Several {
                    place,
                    found: found.iter().take(10).map(options).collect(),
                })
            }
        }
    }

    /// The resource.
    pub(super) fn resource(&self) -> Api<PeerNetwork> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Its ready peers in a random order, so that not all commands go to the same.
    pub(super) async fn servers(&self) -> Result<Servers, FindError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let labels = format!(
            "app.kubernetes.io/name=peernet,app.kubernetes.io/component=peer,app.kubernetes.io/instance={}",
            self.name
        );
        let mut ready: Vec<String> = pods
            .list(&ListParams::default().labels(&labels))
            .await?
            .items
            .into_iter()
            .filter(is_ready)
            .map(|pod| forward::pod(&pod.name_any()))
            .collect();
        fastrand::shuffle(&mut ready);
        ready.truncate(PEERS);
        if ready.is_empty() {
            let (network, namespace) = (self.name.clone(), self.namespace.clone());
            return Err(FindError::NoneReady { network, namespace });
        }
        Ok(Servers::through(Forward::new(pods), ready))
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready =
        |c: &k8s_openapi::api::core::v1::PodCondition| c.type_ == "Ready" && c.status == "True";
    pod.metadata.deletion_timestamp.is_none() && conditions.is_some_and(|all| all.iter().any(ready))
}
