//! First step: what is. Everything later steps decide on is read here, anew in each cycle and from the API server
//! itself, because a watch's cache may show a past that has been acted on already.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use peernet_core::member::{Member, PeerId};
use peernet_crd::PeerNetwork;
use peernet_plan::observed::{Answer, Asked, Claim, Network, Observed, PeerPod, Set};
use peernet_plan::{leavers, names, needs_nodes, needs_reports, replaced_pod};
use thiserror::Error;

use crate::causes::causes;
use crate::peers::{Peers, all};

mod nodes;

use nodes::{lost_nodes, nodes, zones};

/// Peers asked for the list of members when nobody leaves. They gossip; a few cover one that lags (guess).
const LISTS: usize = 3;

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
    if needs_nodes(&observed) {
        let nodes = nodes(client, &observed.network).await?;
        observed.lost_nodes = lost_nodes(&observed.pods, &nodes);
        observed.zone_of = zones(&observed.pods, nodes);
    }
    if let Some(pod) = replaced_pod(&observed.network) {
        observed.claim = claim(client, &observed.network, pod).await?;
    }
    if needs_reports(&observed) {
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

/// The network's StatefulSet, as it is now.
///
/// # Errors
/// See [`ObserveError`].
pub(crate) async fn set(client: &Client, network: &Network) -> Result<Option<Set>, ObserveError> {
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
    let status = set.status.unwrap_or_default();
    let seen = status.observed_generation == set.metadata.generation;
    let spec = set.spec.unwrap_or_default();
    let strategy = spec.update_strategy.and_then(|strategy| strategy.type_);
    Ok(Some(Set {
        uid: set.metadata.uid.ok_or_else(|| missing("uid"))?,
        resource_version: set
            .metadata
            .resource_version
            .ok_or_else(|| missing("resourceVersion"))?,
        generation: set
            .metadata
            .generation
            .ok_or_else(|| missing("generation"))?,
        revision: status.update_revision.filter(|_| seen),
        rolls: strategy.as_deref() == Some("RollingUpdate"),
        replicas: spec
            .replicas
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

/// The label by which a StatefulSet's controller tells from which revision it made a pod.
const REVISION: &str = "controller-revision-hash";

fn peer_pod(pod: Pod) -> PeerPod {
    let labels = pod.metadata.labels;
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
        revision: labels.and_then(|mut l| l.remove(REVISION)),
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
        Some(async move { (*ordinal, peers.probe(address, &pod.uid).await) })
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
    let leavers: Vec<PeerId> = leavers(observed).into_keys().collect();
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
