//! First step: what is. Everything later steps decide on is read here, anew in each cycle and from the API server
//! itself, because a watch's cache may show a past that has been acted on already.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use peernet_core::leave::Report;
use peernet_core::member::{Member, PeerId};
use peernet_crd::{PeerNetwork, PeerNetworkSpec, PeerNetworkStatus, Violation};
use thiserror::Error;

use crate::causes::causes;
use crate::names;
use crate::peers::{Answer, Peers, all};
use crate::plan;

/// Peers asked for the list of members when nobody leaves. They gossip; a few cover one that lags (guess).
const LISTS: usize = 3;

/// The zone that nodes without the topology key share.
pub const NO_ZONE: &str = "default";

/// Why a cycle could not begin.
#[derive(Debug, Error)]
pub enum ObserveError {
    /// The API server did not tell.
    #[error("cannot read {what}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// Why not.
        source: kube::Error,
    },
    /// Objects in the API server always have these.
    #[error("the {kind} has no {field}")]
    Incomplete {
        /// Kind of the object.
        kind: &'static str,
        /// What is missing.
        field: &'static str,
    },
}

/// One-time requests, which a person writes as annotations and the operator removes when they are done or refused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// [`names::REPLACE`]: the peer whose volume or node is gone for good.
    pub replace: Option<String>,
    /// [`names::RECOVER`]: the peers that are given up, with what only they held.
    pub recover: Option<String>,
}

/// The resource.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name, which everything it owns is named after.
    pub name: String,
    /// Where it and everything it owns lives.
    pub namespace: String,
    /// Tells it from an earlier resource of the same name.
    pub uid: String,
    /// Guards its status against concurrent writers.
    pub resource_version: String,
    /// When it was created.
    pub created: Timestamp,
    /// Counts changes of its spec.
    pub generation: i64,
    /// What its annotations ask for.
    pub asked: Asked,
    /// What is wanted.
    pub spec: PeerNetworkSpec,
    /// What was last answered.
    pub status: PeerNetworkStatus,
}

impl Network {
    /// Checks what the API server should have checked.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), Violation> {
        PeerNetwork::new(&self.name, self.spec.clone()).validate()
    }

    /// Peers wanted. Zero, which the schema excludes, if the resource says less.
    pub fn desired(&self) -> u32 {
        u32::try_from(self.spec.replicas).unwrap_or(0)
    }
}

/// The StatefulSet as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Set {
    /// Its identity.
    pub uid: String,
    /// Guards lowering it.
    pub resource_version: String,
    /// Pods it asks for.
    pub replicas: u32,
}

/// One of the StatefulSet's pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerPod {
    /// `host:port` for gRPC, once it has an address.
    pub address: Option<String>,
    /// The node it was scheduled to.
    pub node: Option<String>,
    /// Kubernetes says it is ready.
    pub ready: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// Tells it from another pod of the same name.
    pub uid: String,
    /// Its container runs, by the kubelet's last word.
    pub started: bool,
    /// What its peer said in this cycle.
    pub answer: Option<Answer>,
}

impl PeerPod {
    /// The living identity it answered with.
    pub fn peer(&self) -> Option<PeerId> {
        self.answer.as_ref()?.volume.living()
    }

    /// It answered as a running member.
    pub fn is_running(&self) -> bool {
        self.answer
            .as_ref()
            .is_some_and(|a| a.volume.running && !a.volume.left)
    }

    /// It answered, and needs to be told its place.
    pub fn awaits_assignment(&self) -> bool {
        !self.deleting && self.answer.is_some() && !self.is_running()
    }
}

/// A volume claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Tells it from the one that the StatefulSet makes in its place.
    pub uid: String,
    /// It is being deleted.
    pub deleting: bool,
}

/// All that a cycle knows.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The resource.
    pub network: Network,
    /// Its StatefulSet, if there is one.
    pub set: Option<Set>,
    /// Its pods by ordinal.
    pub pods: BTreeMap<u32, PeerPod>,
    /// Ordinals that have a volume which is older than the resource. Only read until the network has an identity.
    pub old_volumes: BTreeSet<u32>,
    /// Members as the ring knows them, those that left included.
    pub members: BTreeMap<PeerId, Member>,
    /// What members said towards leaves. Only asked for when somebody leaves.
    pub reports: BTreeMap<PeerId, Report>,
    /// Each node's value of the topology key; [`NO_ZONE`] for nodes without it. Only read when a pod awaits assignment,
    /// does not answer, or copies stand in too few zones.
    pub zone_of: BTreeMap<String, String>,
    /// Nodes of silent pods that do not exist any more or are not ready.
    pub lost_nodes: BTreeSet<String>,
    /// The volume claim of the peer that is to be replaced. Only read when one is.
    pub claim: Option<Claim>,
}

impl Observed {
    /// Pods the StatefulSet asks for. When somebody deleted it, what it asked for last: made anew with less, it would
    /// adopt its pods and remove the rest of them.
    pub fn current(&self) -> u32 {
        let last = || u32::try_from(self.network.status.replicas).unwrap_or(0);
        self.set.as_ref().map_or_else(last, |set| set.replicas)
    }

    /// Addresses of all peers that run.
    pub fn everybody(&self) -> Vec<String> {
        let running = self.pods.values().filter(|pod| pod.is_running());
        running.filter_map(|pod| pod.address.clone()).collect()
    }
}

/// Reads everything about the resource; `None` when it is gone or being deleted.
///
/// # Errors
/// See [`ObserveError`]. Peers that do not answer are no error.
pub(crate) async fn observe(
    client: &Client,
    peers: &Peers,
    namespace: &str,
    name: &str,
) -> Result<Option<Observed>, ObserveError> {
    let api: Api<PeerNetwork> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(read("the PeerNetwork"))?;
    let Some(resource) = found.filter(|r| r.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    let network = network(resource)?;
    let set = set(client, &network).await?;
    let mut pods = match &set {
        Some(set) => list_pods(client, &network, set).await?,
        None => BTreeMap::new(),
    };
    for (ordinal, answer) in probe(peers, &pods).await {
        if let Some(pod) = pods.get_mut(&ordinal) {
            pod.answer = Some(answer);
        }
    }
    let mut observed = Observed {
        old_volumes: BTreeSet::new(),
        members: members(peers, &pods).await,
        reports: BTreeMap::new(),
        zone_of: BTreeMap::new(),
        lost_nodes: BTreeSet::new(),
        claim: None,
        network,
        set,
        pods,
    };
    if observed.network.status.network_id.is_none() {
        observed.old_volumes = old_volumes(client, &observed.network).await?;
    }
    if plan::needs_nodes(&observed) {
        let nodes = nodes(client, &observed.network).await?;
        observed.lost_nodes = lost_nodes(&observed.pods, &nodes);
        observed.zone_of = nodes
            .into_iter()
            .map(|(name, node)| (name, node.zone))
            .collect();
    }
    if let Some(pod) = plan::replaced_pod(&observed.network) {
        observed.claim = claim(client, &observed.network, pod).await?;
    }
    if plan::needs_reports(&observed) {
        ask_for_reports(peers, &mut observed).await;
    }
    Ok(Some(observed))
}

fn read(what: &'static str) -> impl Fn(kube::Error) -> ObserveError {
    move |source| ObserveError::Read { what, source }
}

fn network(resource: PeerNetwork) -> Result<Network, ObserveError> {
    let missing = |field| ObserveError::Incomplete {
        kind: "PeerNetwork",
        field,
    };
    let PeerNetwork {
        metadata,
        spec,
        status,
    } = resource;
    let annotations = metadata.annotations.clone().unwrap_or_default();
    let annotation = |key: &str| annotations.get(key).cloned();
    Ok(Network {
        name: metadata.name.ok_or_else(|| missing("name"))?,
        namespace: metadata.namespace.ok_or_else(|| missing("namespace"))?,
        uid: metadata.uid.ok_or_else(|| missing("uid"))?,
        resource_version: metadata
            .resource_version
            .ok_or_else(|| missing("resourceVersion"))?,
        created: metadata
            .creation_timestamp
            .ok_or_else(|| missing("creationTimestamp"))?
            .0,
        generation: metadata.generation.ok_or_else(|| missing("generation"))?,
        asked: Asked {
            replace: annotation(names::REPLACE),
            recover: annotation(names::RECOVER),
        },
        spec,
        status: status.unwrap_or_default(),
    })
}

async fn set(client: &Client, network: &Network) -> Result<Option<Set>, ObserveError> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &network.namespace);
    let Some(set) = api
        .get_opt(&network.name)
        .await
        .map_err(read("the StatefulSet"))?
    else {
        return Ok(None);
    };
    // Somebody else's, or of an earlier resource of the same name: `apply` will refuse to take it over.
    if !is_controlled_by(&set.metadata, &network.uid) {
        return Ok(None);
    }
    let missing = |field| ObserveError::Incomplete {
        kind: "StatefulSet",
        field,
    };
    let replicas = set.spec.and_then(|spec| spec.replicas);
    Ok(Some(Set {
        uid: set.metadata.uid.ok_or_else(|| missing("uid"))?,
        resource_version: set
            .metadata
            .resource_version
            .ok_or_else(|| missing("resourceVersion"))?,
        replicas: replicas
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| missing("replicas"))?,
    }))
}

/// Whether the owner that controls the object has that UID.
pub(crate) fn is_controlled_by(object: &ObjectMeta, uid: &str) -> bool {
    let owners = object.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.controller == Some(true))
        .any(|owner| owner.uid == uid)
}

/// Only pods of this very StatefulSet count: those of an earlier one may linger under the same names.
async fn list_pods(
    client: &Client,
    network: &Network,
    set: &Set,
) -> Result<BTreeMap<u32, PeerPod>, ObserveError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &network.namespace);
    let ours = ListParams::default().labels(&names::selector(&network.name));
    let list = api.list(&ours).await.map_err(read("the pods"))?;
    let ours = list
        .items
        .into_iter()
        .filter(|pod| is_controlled_by(&pod.metadata, &set.uid));
    Ok(ours
        .filter_map(|pod| {
            Some((
                names::ordinal(&network.name, &pod.name_any())?,
                peer_pod(pod),
            ))
        })
        .collect())
}

fn peer_pod(pod: Pod) -> PeerPod {
    let status = pod.status.unwrap_or_default();
    let conditions = status.conditions.iter().flatten();
    let runs = status.phase.as_deref() == Some("Running");
    let containers_run = status
        .container_statuses
        .iter()
        .flatten()
        .all(|c| c.state.as_ref().is_none_or(|s| s.running.is_some()));
    PeerPod {
        address: status
            .pod_ip
            .filter(|ip| runs && !ip.is_empty())
            .map(|ip| grpc_address(&ip)),
        node: pod.spec.and_then(|spec| spec.node_name),
        ready: conditions
            .clone()
            .any(|c| c.type_ == "Ready" && c.status == "True"),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        uid: pod.metadata.uid.unwrap_or_default(),
        started: runs && containers_run,
        answer: None,
    }
}

fn grpc_address(ip: &str) -> String {
    let port = names::GRPC_PORT;
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

async fn probe(peers: &Peers, pods: &BTreeMap<u32, PeerPod>) -> Vec<(u32, Answer)> {
    let calls = pods.iter().filter_map(|(ordinal, pod)| {
        let address = pod.address.as_ref()?;
        Some(async move { (*ordinal, peers.probe(address).await) })
    });
    let mut answers = Vec::new();
    for (ordinal, answer) in all(calls.collect()).await {
        match answer {
            Ok(answer) => answers.push((ordinal, answer)),
            Err(error) => tracing::debug!(ordinal, error = %causes(&error), "no answer"),
        }
    }
    answers
}

/// The members' own records, and those that a few of them keep of the others.
async fn members(peers: &Peers, pods: &BTreeMap<u32, PeerPod>) -> BTreeMap<PeerId, Member> {
    let mut members = BTreeMap::new();
    for life in pods
        .values()
        .filter_map(|pod| pod.answer.as_ref()?.life.as_ref())
    {
        merge(&mut members, life.member.clone());
    }
    let running = pods.values().filter(|pod| pod.is_running());
    let some = running.filter_map(|pod| pod.address.as_ref()).take(LISTS);
    let calls = some.map(|address| peers.members(address)).collect();
    for list in all(calls).await {
        match list {
            Ok(list) => list
                .into_iter()
                .for_each(|member| merge(&mut members, member)),
            Err(error) => tracing::debug!(error = %causes(&error), "no list of members"),
        }
    }
    members
}

fn merge(members: &mut BTreeMap<PeerId, Member>, member: Member) {
    match members.get_mut(&member.id) {
        Some(known) => {
            known.merge(&member);
        }
        None => {
            members.insert(member.id, member);
        }
    }
}

async fn old_volumes(client: &Client, network: &Network) -> Result<BTreeSet<u32>, ObserveError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &network.namespace);
    let ours = ListParams::default().labels(&names::selector(&network.name));
    let claims = api
        .list_metadata(&ours)
        .await
        .map_err(read("the volume claims"))?;
    let old = claims.items.iter().filter(|claim| {
        let created = claim.metadata.creation_timestamp.as_ref();
        created.is_some_and(|created| created.0 < network.created)
    });
    Ok(old
        .filter_map(|claim| names::volume_ordinal(&network.name, &claim.name_any()))
        .collect())
}

/// What matters of a node.
struct NodeState {
    zone: String,
    ready: bool,
}

async fn nodes(
    client: &Client,
    network: &Network,
) -> Result<BTreeMap<String, NodeState>, ObserveError> {
    let key = &network.spec.zones.topology_key;
    let api: Api<Node> = Api::all(client.clone());
    let nodes = api
        .list(&ListParams::default())
        .await
        .map_err(read("the nodes"))?;
    let state = |node: &Node| {
        let labels = node.labels();
        let status = node.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_ref());
        NodeState {
            zone: labels.get(key).map_or(NO_ZONE, String::as_str).to_owned(),
            ready: conditions
                .into_iter()
                .flatten()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
        }
    };
    Ok(nodes
        .items
        .iter()
        .map(|node| (node.name_any(), state(node)))
        .collect())
}

/// Nodes that silent pods were scheduled to and that are gone, or that the control plane has lost sight of.
fn lost_nodes(
    pods: &BTreeMap<u32, PeerPod>,
    nodes: &BTreeMap<String, NodeState>,
) -> BTreeSet<String> {
    let silent = pods.values().filter(|pod| pod.answer.is_none());
    silent
        .filter_map(|pod| pod.node.clone())
        .filter(|name| nodes.get(name).is_none_or(|node| !node.ready))
        .collect()
}

async fn claim(
    client: &Client,
    network: &Network,
    pod: &str,
) -> Result<Option<Claim>, ObserveError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &network.namespace);
    let found = api
        .get_metadata_opt(&names::volume(pod))
        .await
        .map_err(read("the volume claim"))?;
    Ok(found.and_then(|claim| {
        Some(Claim {
            uid: claim.metadata.uid?,
            deleting: claim.metadata.deletion_timestamp.is_some(),
        })
    }))
}

async fn ask_for_reports(peers: &Peers, observed: &mut Observed) {
    let leavers: Vec<PeerId> = plan::leavers(observed).into_keys().collect();
    let running = observed.pods.values().filter(|pod| pod.is_running());
    let addresses = running.filter_map(|pod| pod.address.as_ref());
    let calls = addresses
        .map(|address| peers.report(address, &leavers))
        .collect();
    for report in all(calls).await {
        match report {
            Ok(report) => {
                let known = report.members.iter().cloned();
                known.for_each(|member| merge(&mut observed.members, member));
                observed.reports.insert(report.peer, report);
            }
            Err(error) => tracing::warn!(error = %causes(&error), "no report"),
        }
    }
}
