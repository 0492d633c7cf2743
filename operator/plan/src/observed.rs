//! What is, as a cycle of the operator knows it. Reading it is the caller's part, and done anew in each cycle.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use peernet_core::config::Replication;
use peernet_core::key::Position;
use peernet_core::leave::Report;
use peernet_core::member::{Member, PeerId};
use peernet_crd::{PeerNetwork, PeerNetworkSpec, PeerNetworkStatus, Violation};

/// The zone that nodes without the topology key share.
pub const NO_ZONE: &str = "default";

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
    /// Counts the changes of what it asks for.
    pub generation: i64,
    /// Pods it asks for.
    pub replicas: u32,
    /// The revision of its template; `None` until its controller has seen the newest.
    pub revision: Option<String>,
    /// Kubernetes starts its pods anew by itself: an earlier version has made it.
    pub rolls: bool,
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
    /// The revision of the template that it was made from.
    pub revision: Option<String>,
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

    /// It has left for good: it is neither ready nor needed, and stays as it is until the set is lowered.
    pub fn has_left(&self) -> bool {
        self.answer.as_ref().is_some_and(|a| a.volume.left)
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
        let set = self.set.as_ref();
        set.map_or_else(|| self.last(), |set| set.replicas)
    }

    /// Pods that the StatefulSet was last to ask for: whoever has lowered it by hand since has proved nothing.
    pub fn last(&self) -> u32 {
        u32::try_from(self.network.status.replicas).unwrap_or(0)
    }

    /// Copies of everything.
    pub fn replication(&self) -> Replication {
        let spec = &self.network.spec.replication;
        Replication {
            factor: spec.factor.unsigned_abs(),
            write: spec.write.unsigned_abs(),
        }
    }

    /// Addresses of all peers that run.
    pub fn everybody(&self) -> Vec<String> {
        let running = self.pods.values().filter(|pod| pod.is_running());
        running.filter_map(|pod| pod.address.clone()).collect()
    }
}

/// What a peer's volume remembers, whether or not the peer runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Volume {
    /// The network it belongs to, if it was ever in one.
    pub network: Option<String>,
    /// Its identity, if it has one.
    pub peer: Option<PeerId>,
    /// That identity has left for good.
    pub left: bool,
    /// The peer runs as a member or is joining.
    pub running: bool,
    /// Its place on the ring; meaningless without an identity.
    pub position: Position,
}

impl Volume {
    /// The identity that is, or will be again, a member.
    pub fn living(&self) -> Option<PeerId> {
        self.peer.filter(|_| !self.left)
    }
}

/// What a running peer says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Life {
    /// Its network.
    pub network: String,
    /// Its own record.
    pub member: Member,
    /// Member of the ring and caught up since its start.
    pub ready: bool,
    /// When not ready, why.
    pub reason: String,
    /// Its chunks and its disk.
    pub disk: Disk,
    /// Connected to the broker of events, or why not; `None` when it is told of none.
    pub broker: Option<Result<(), String>>,
}

/// A peer's room, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Disk {
    /// Of chunks held.
    pub held: u64,
    /// Free.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
}

/// What a pod answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// From its volume.
    pub volume: Volume,
    /// Only when it runs.
    pub life: Option<Life>,
}
