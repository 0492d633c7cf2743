//! A `PeerNetwork` under test: the resource, its pods, and what the two promise each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use peernet_crd::{PeerNetwork, PeerNetworkSpec};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::cluster::Scenario;
use crate::copies::{self, Copies};
use crate::files::FileSet;
use crate::patience::{eventually, watched, within};
use crate::peer::Peer;
use crate::ring;

/// Longest that a network may take to become ready: images are on the nodes, so volumes take most of it.
pub const FORMATION: Duration = Duration::from_secs(300);
/// Longest that joins or leaves with a gigabyte to move may take.
pub const RESIZING: Duration = Duration::from_secs(600);
/// Longest that peers may take to agree with what the resource already says.
const AGREEMENT: Duration = Duration::from_secs(180);

/// A network and its pods, which are watched from the beginning.
pub struct Network {
    /// Its name.
    pub name: String,
    /// The resource.
    pub resources: Api<PeerNetwork>,
    /// The set behind it, of the same name.
    pub sets: Api<StatefulSet>,
    /// Its pods.
    pub pods: Api<Pod>,
    client: Client,
    namespace: String,
    store: Store<Pod>,
    reflector: JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.reflector.abort();
    }
}

impl Network {
    /// Begins to watch the pods of the network of this name, which need not exist yet.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn watch(scenario: &Scenario, name: &str) -> Result<Self> {
        let (client, namespace) = (scenario.client.clone(), &scenario.namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let (store, writer) = reflector::store();
        let selector = format!("app.kubernetes.io/instance={name}");
        let events = watcher(pods.clone(), watcher::Config::default().labels(&selector));
        let mut events = Box::pin(reflector::reflector(writer, events.default_backoff()));
        let reflector = tokio::spawn(async move { while events.next().await.is_some() {} });
        within("pods are watched", AGREEMENT, store.wait_until_ready()).await?;
        Ok(Network {
            name: name.into(),
            resources: Api::namespaced(client.clone(), namespace),
            sets: Api::namespaced(client.clone(), namespace),
            pods,
            namespace: namespace.clone(),
            client,
            store,
            reflector,
        })
    }

    /// Creates a network and waits until it is ready.
    ///
    /// # Errors
    /// It is refused, or not ready in time.
    pub async fn create(scenario: &Scenario, name: &str, spec: PeerNetworkSpec) -> Result<Self> {
        let network = Network::watch(scenario, name).await?;
        let replicas = spec.replicas;
        let resource = PeerNetwork::new(name, spec);
        network
            .resources
            .create(&PostParams::default(), &resource)
            .await?;
        network.ready(replicas, FORMATION).await?;
        network.one_ring(replicas).await?;
        scenario.note(&format!("{replicas} peers are one ring"));
        Ok(network)
    }

    /// The resource as it is now.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn resource(&self) -> Result<PeerNetwork> {
        Ok(self.resources.get(&self.name).await?)
    }

    /// Asks for so many peers through the scale subresource, as `kubectl scale` does.
    ///
    /// # Errors
    /// It is refused.
    pub async fn scale(&self, replicas: i32) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let params = PatchParams::default();
        self.resources
            .patch_scale(&self.name, &params, &patch)
            .await
            .map(drop)
    }

    /// The same, as soon as it is allowed: while a peer that stays is not ready for a moment, fewer are refused at once.
    ///
    /// # Errors
    /// It is refused all the time.
    pub async fn scale_when_allowed(&self, replicas: i32) -> Result<()> {
        let scale = || async { Ok(self.scale(replicas).await?) };
        eventually("the size is allowed", RESIZING, scale).await
    }

    /// Annotates the resource, as `kubectl annotate` does.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn annotate(&self, key: &str, value: &str) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        let params = PatchParams::default();
        self.resources.patch(&self.name, &params, &patch).await?;
        Ok(())
    }

    /// Waits until the resource says that it has exactly so many peers, all ready.
    ///
    /// # Errors
    /// Not in time; the error has the last status.
    pub async fn ready(&self, replicas: i32, limit: Duration) -> Result<()> {
        let all = |n: Option<&PeerNetwork>| n.is_some_and(|n| is_ready(n, replicas));
        let what = format!("{replicas} ready peers");
        let waiting = watched(self.resources.clone(), &self.name, all);
        match within(&what, limit, waiting).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let status = self.resource().await.map(|r| r.status);
                Err(error.context(format!("status: {}", json!(status.ok().flatten()))))
            }
        }
    }

    /// Waits until the resource is in some state.
    ///
    /// # Errors
    /// Not in time.
    pub async fn becomes(
        &self,
        what: &str,
        limit: Duration,
        state: impl Fn(&PeerNetwork) -> bool,
    ) -> Result<()> {
        let state = |n: Option<&PeerNetwork>| n.is_some_and(&state);
        let waiting = watched(self.resources.clone(), &self.name, state);
        within(what, limit, waiting).await
    }

    /// Deletes a peer's pod without warning and waits for its successor, which need not be ready.
    ///
    /// # Errors
    /// There is no such pod, or no other comes.
    pub async fn kill_pod(&self, name: &str) -> Result<()> {
        let old = self.pods.get(name).await?.uid();
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        self.pods.delete(name, &at_once).await?;
        let another = |p: Option<&Pod>| p.is_some_and(|p| p.uid() != old);
        let waiting = watched(self.pods.clone(), name, another);
        within("the pod comes back", FORMATION, waiting).await
    }

    /// All pods as they are now.
    pub fn pod_objects(&self) -> Vec<Pod> {
        let pods = self.store.state();
        pods.iter().map(|pod| Pod::clone(pod)).collect()
    }

    /// All pods that have an address, by number.
    pub fn peers(&self) -> Vec<Peer> {
        self.peers_where(|_| true)
    }

    /// The pods that the client Service sends requests to, by number.
    pub fn serving(&self) -> Vec<Peer> {
        self.peers_where(|pod| {
            let conditions = pod
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten());
            let mut ready = conditions.filter(|c| c.type_ == "Ready");
            ready.any(|c| c.status == "True") && pod.metadata.deletion_timestamp.is_none()
        })
    }

    /// Waits until exactly the pods 0 to `count - 1` are left.
    ///
    /// # Errors
    /// Not in time.
    pub async fn pods_are(&self, count: i32) -> Result<()> {
        eventually("pods that left are gone", AGREEMENT, || async {
            let mut names: Vec<_> = self.store.state().iter().map(|p| p.name_any()).collect();
            let mut wanted: Vec<_> = (0..count).map(|n| format!("{}-{n}", self.name)).collect();
            names.sort();
            wanted.sort();
            ensure!(names == wanted, "there are {names:?}");
            Ok(())
        })
        .await
    }

    /// Asks every peer whom it sees, until all see the same ring of exactly the pods 0 to `count - 1`.
    ///
    /// # Errors
    /// They do not within three minutes.
    pub async fn one_ring(&self, count: i32) -> Result<Vec<ring::View>> {
        let network_id = self.network_id().await?;
        let names: Vec<_> = (0..count).map(|n| format!("{}-{n}", self.name)).collect();
        eventually("one ring", AGREEMENT, || async {
            let mut views = Vec::new();
            for peer in self.peers() {
                let (status, members) = (peer.status().await?, peer.members().await?);
                views.push(ring::View {
                    name: peer.name,
                    status,
                    members,
                });
            }
            ring::one_ring(&network_id, &names, &views)?;
            Ok(views)
        })
        .await
    }

    /// Waits until every peer has its share of the slots, with all that is in them, and none moves any more. Ready means
    /// less: a member that has just joined, or stays after all, is caught up before it holds anything.
    ///
    /// # Errors
    /// They do not within ten minutes.
    pub async fn settled(&self) -> Result<()> {
        eventually("every peer has its share", RESIZING, || async {
            for peer in self.peers() {
                let status = peer.status().await?;
                let leaving = status.self_.as_ref().is_some_and(|me| me.leaving);
                let open = status.slots_moving + status.slots_behind;
                ensure!(
                    status.slots_held > 0 && open == 0 && status.chunks_missing == 0 && !leaving,
                    "{} says {status:?}",
                    peer.name
                );
            }
            Ok(())
        })
        .await
    }

    /// The ring's UUID, as the resource says.
    ///
    /// # Errors
    /// It has none yet.
    pub async fn network_id(&self) -> Result<String> {
        let status = self.resource().await?.status.unwrap_or_default();
        status.network_id.context("the resource names no network")
    }

    /// The zone of each peer, by the well-known label of its pod's node.
    ///
    /// # Errors
    /// A node has none.
    pub async fn zones(&self) -> Result<BTreeMap<String, String>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut zones = BTreeMap::new();
        for Peer { name, node, .. } in self.peers() {
            let node = nodes.get(&node).await?;
            let zone = node.labels().get("topology.kubernetes.io/zone");
            let zone = zone.with_context(|| format!("{} has no zone", node.name_any()))?;
            zones.insert(name, zone.clone());
        }
        Ok(zones)
    }

    /// Reads every copy of these files back, once: there have to be at least three of each thing.
    ///
    /// # Errors
    /// See [`copies::check`].
    pub async fn copies(&self, files: &FileSet) -> Result<Copies> {
        copies::check(&self.network_id().await?, files, &self.peers(), 3).await
    }

    /// Waits until there are at least three copies of each thing. Two are enough for an acknowledgement; the third may
    /// come later.
    ///
    /// # Errors
    /// There are not within ten minutes.
    pub async fn three_copies(&self, files: &FileSet) -> Result<Copies> {
        eventually("three copies", RESIZING, || self.copies(files)).await
    }

    /// Waits until the copies lie in different zones, as far as the peers are in different ones: which zones are left
    /// after a leave is chance, since the scheduler placed the first pods as they came, and after a change slots move
    /// home while all is well otherwise.
    ///
    /// # Errors
    /// They do not within ten minutes.
    pub async fn spread_over_zones(&self, files: &FileSet) -> Result<()> {
        let zones = &self.zones().await?;
        let distinct = zones.values().collect::<BTreeSet<_>>().len();
        eventually("copies lie in different zones", RESIZING, || async move {
            let copies = self.copies(files).await?;
            Ok(copies.lie_in_zones(zones, distinct.min(3))?)
        })
        .await
    }

    /// The client Service's ports: name and number.
    ///
    /// # Errors
    /// There is no such Service.
    pub async fn service_ports(&self) -> Result<Vec<(String, i32)>> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(spec) = services.get(&self.name).await?.spec else {
            bail!("the Service {} has no spec", self.name);
        };
        let ports = spec.ports.into_iter().flatten();
        Ok(ports
            .map(|p| (p.name.unwrap_or_default(), p.port))
            .collect())
    }

    fn peers_where(&self, wanted: impl Fn(&Pod) -> bool) -> Vec<Peer> {
        let pods = self.store.state();
        let mut peers: Vec<_> = pods
            .iter()
            .filter(|pod| wanted(pod))
            .filter_map(|pod| self.peer(pod))
            .collect();
        peers.sort_by_key(|p| p.ordinal);
        peers
    }

    fn peer(&self, pod: &Pod) -> Option<Peer> {
        let name = pod.name_any();
        let ordinal = name
            .strip_prefix(&self.name)?
            .strip_prefix('-')?
            .parse()
            .ok()?;
        let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        Some(Peer::in_pod(&name, ordinal, node, address))
    }
}

/// What `kubectl wait --for=condition=Ready` sees, and that it is about these peers.
fn is_ready(network: &PeerNetwork, replicas: i32) -> bool {
    let Some(status) = &network.status else {
        return false;
    };
    let current = |seen: Option<i64>| seen == network.metadata.generation;
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    ready.is_some_and(|c| c.status == "True" && current(c.observed_generation))
        && current(status.observed_generation)
        && network.spec.replicas == replicas
        && status.replicas == replicas
        && status.ready_replicas == replicas
}
