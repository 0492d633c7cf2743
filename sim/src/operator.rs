//! The operator on a simulated cluster: it observes, has the real operator's plan (`peernet-plan`) decide, and carries out
//! what that says, in the order in which the real one does. It may end at any step.
//!
//! Like the real one it remembers nothing but what the resource's status says.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::boot::BootError;
use peernet_core::io::{Answer, Request};
use peernet_core::leave::Report;
use peernet_core::member::{Liveness, Member, PeerId};
use peernet_core::recover::Recovery;
use peernet_crd::{PeerNetworkSpec, PeerNetworkStatus, Replication};
use peernet_plan::observed::{self, Asked, Disk, Life, Network, Observed, PeerPod, Set, Volume};
use peernet_plan::{
    Assignment, Hints, Order, Plan, Removal, leavers, names, needs_nodes, needs_reports, plan,
    replaced_pod,
};

use crate::cluster::{Cluster, Pod};
use crate::fleet::{CallError, Fleet, NETWORK};
use crate::network::HostId;
use crate::promise::Promise;

/// Pause between two cycles, in milliseconds.
const PERIOD: u64 = 1_000;
/// Peers asked for the list of members, as by the real one.
const LISTS: usize = 3;

/// What a pod said.
struct Seen {
    answer: observed::Answer,
    members: Vec<Member>,
}

/// The operator of one cluster.
#[derive(Clone)]
pub struct Operator {
    cluster: Cluster,
}

impl Operator {
    /// An operator that remembers nothing.
    pub fn new(cluster: Cluster) -> Self {
        Operator { cluster }
    }

    fn fleet(&self) -> &Fleet {
        self.cluster.fleet()
    }

    /// Reconciles again and again.
    pub async fn run(self) {
        loop {
            self.reconcile().await;
            self.fleet().world().sleep(PERIOD).await;
        }
    }

    /// One cycle.
    pub async fn reconcile(&self) {
        let observed = self.observe().await;
        let mut plan = plan(&observed);
        if self.fleet().flaws().no_verdict {
            plan.replicas = observed.network.desired();
        }
        self.hint(&plan.hints);
        self.cluster.set_statefulset(plan.replicas);
        for place in &plan.assignments {
            self.assign(place).await;
        }
        self.order(&plan.orders).await;
        if let Some(recovery) = plan.recover.as_ref().and_then(|r| r.tell.as_ref()) {
            self.recover(&observed.everybody(), recovery).await;
        }
        if !self.answer(&observed, &plan) {
            return; // the resource has changed: the next cycle sees how
        }
        if let Some(removal) = plan.replace.as_ref().and_then(|r| r.removal.as_ref()) {
            self.remove(removal).await;
        }
        self.cluster.forget(&Asked {
            replace: plan.replace.and_then(|r| r.forget),
            recover: plan.recover.and_then(|r| r.forget),
        });
    }

    /// Tells everybody what is given up. Who does not hear it hears it in the next cycle.
    async fn recover(&self, everybody: &[String], recovery: &Recovery) {
        let hosts = everybody.iter().filter_map(|address| self.host(address));
        let told = hosts.map(|host| self.tell(host, Request::Recover(recovery.clone())));
        let told: Vec<_> = told.collect();
        for heard in told {
            heard.await;
        }
    }

    /// Deletes what a replaced peer leaves behind, each by its UID; the claim first, like the real one.
    async fn remove(&self, removal: &Removal) {
        let Some(ordinal) = names::ordinal("demo", &removal.pod) else {
            return;
        };
        if let Some(uid) = &removal.claim {
            self.cluster.delete_claim(ordinal, uid);
            let world = self.fleet().world();
            world.sleep(world.random(1..200)).await;
        }
        if let Some(uid) = &removal.pod_uid {
            self.cluster.delete_pod(ordinal, uid);
        }
    }

    /// What the real one writes as far as it decides on it later; false if the resource is another by now.
    fn answer(&self, observed: &Observed, plan: &Plan) -> bool {
        let status = PeerNetworkStatus {
            replicas: i32::try_from(plan.replicas).expect("a few"),
            network_id: plan.identity.network.clone(),
            founded: plan.identity.founded,
            replacement: plan.replace.as_ref().and_then(|r| r.status.clone()),
            recovery: match &plan.recover {
                Some(recover) => recover.status.clone(),
                None => observed.network.status.recovery.clone(),
            },
            ..PeerNetworkStatus::default()
        };
        self.cluster
            .answer(&observed.network.resource_version, status)
    }

    async fn observe(&self) -> Observed {
        let (network, set) = (self.network(), self.set());
        let mut seen = self.look_at_all().await;
        let own = seen.values().filter_map(|s| s.answer.life.as_ref());
        let own: Vec<Member> = own.map(|life| life.member.clone()).collect();
        let running = seen.values_mut().filter(|s| s.answer.volume.running);
        let lists = running
            .take(LISTS)
            .flat_map(|s| std::mem::take(&mut s.members));
        let mut members = BTreeMap::new();
        let lists: Vec<Member> = lists.collect();
        own.into_iter()
            .chain(lists)
            .for_each(|m| merge(&mut members, m));
        let pods = self.cluster.pods().into_iter();
        let mut observed = Observed {
            network,
            set,
            pods: pods
                .map(|pod| {
                    let said = seen.remove(&pod.ordinal);
                    (pod.ordinal, self.pod(pod, said))
                })
                .collect(),
            old_volumes: BTreeSet::new(),
            members,
            reports: BTreeMap::new(),
            zone_of: BTreeMap::new(),
            lost_nodes: BTreeSet::new(),
            claim: None,
        };
        if needs_nodes(&observed) {
            observed.zone_of = self.nodes();
        }
        let stranded = observed.pods.values().filter(|pod| pod.answer.is_none());
        let stranded = stranded.filter_map(|pod| pod.node.clone());
        let is_gone = |node: &String| !observed.zone_of.contains_key(node);
        observed.lost_nodes = stranded.filter(is_gone).collect();
        if let Some(pod) = replaced_pod(&observed.network) {
            observed.claim = self.cluster.claim(pod);
        }
        if needs_reports(&observed) {
            self.ask_for_reports(&mut observed).await;
        }
        observed
    }

    fn network(&self) -> Network {
        let replication = self.fleet().settings().replication;
        let count = |n: u32| i32::try_from(n).expect("a few");
        Network {
            name: "demo".into(),
            namespace: "sim".into(),
            uid: NETWORK.into(),
            resource_version: self.cluster.version(),
            created: Default::default(),
            generation: 1,
            asked: self.cluster.asked(),
            spec: PeerNetworkSpec {
                replicas: count(self.cluster.replicas()),
                replication: Replication {
                    factor: count(replication.factor),
                    write: count(replication.write),
                },
                ..PeerNetworkSpec::default()
            },
            status: self.cluster.status(),
        }
    }

    /// None before the first cycle has made it.
    fn set(&self) -> Option<Set> {
        let replicas = self.cluster.statefulset();
        (replicas > 0).then(|| Set {
            uid: "set".into(),
            resource_version: String::new(),
            generation: 1,
            replicas,
            revision: None,
            rolls: false,
        })
    }

    fn pod(&self, pod: Pod, said: Option<Seen>) -> PeerPod {
        let host = self.fleet().host(pod.host);
        let runs = pod.up && host.process.is_some();
        PeerPod {
            address: pod.up.then(|| host.address()),
            node: Some(if pod.stranded {
                format!("lost-{}", pod.ordinal)
            } else {
                node(&host.zone)
            }),
            ready: runs,
            deleting: false,
            uid: format!("{}-{}", pod.ordinal, host.run),
            revision: None,
            started: runs,
            answer: said.map(|seen| seen.answer),
        }
    }

    fn nodes(&self) -> BTreeMap<String, String> {
        let zones = (0..self.cluster.zones()).map(|zone| self.cluster.zone(zone));
        zones.map(|zone| (node(&zone), zone)).collect()
    }

    async fn look_at_all(&self) -> BTreeMap<u32, Seen> {
        let world = self.fleet().world();
        let pods = self.cluster.pods().into_iter().filter(|pod| pod.up);
        let ask = |pod: Pod| {
            let fleet = self.fleet().clone();
            let seen = world.spawn(async move { look(&fleet, pod.host).await });
            (pod.ordinal, seen)
        };
        let asked: Vec<_> = pods.map(ask).collect();
        let mut all = BTreeMap::new();
        for (ordinal, seen) in asked {
            if let Some(Ok(seen)) = seen.await {
                all.insert(ordinal, seen);
            }
        }
        all
    }

    async fn ask_for_reports(&self, observed: &mut Observed) {
        let about: Vec<PeerId> = leavers(observed).into_keys().collect();
        let running = observed.pods.values().filter(|pod| pod.is_running());
        let hosts = running.filter_map(|pod| self.host(pod.address.as_ref()?));
        let ask = |host: HostId| {
            let (fleet, request) = (self.fleet().clone(), Request::LeaveReport(about.clone()));
            let world = self.fleet().world();
            world.spawn(async move { fleet.call(HostId::OPERATOR, host, request).await })
        };
        let asked: Vec<_> = hosts.map(ask).collect();
        for promise in asked {
            if let Some(Ok(Answer::LeaveReport(report))) = promise.await {
                let report = Report {
                    members: report.members.into_iter().map(as_published).collect(),
                    ..*report
                };
                let known = report.members.iter().cloned();
                known.for_each(|m| merge(&mut observed.members, m));
                observed.reports.insert(report.peer, report);
            }
        }
    }

    fn host(&self, address: &str) -> Option<HostId> {
        let pods = self.cluster.pods().into_iter();
        let mut hosts = pods.map(|pod| pod.host);
        hosts.find(|host| self.fleet().host(*host).address() == address)
    }

    /// Tells a pod its place. It may have gone meanwhile; then the call fails, and the next cycle sees.
    async fn assign(&self, place: &Assignment) {
        let fleet = self.fleet();
        let Some(host) = self.host(&place.address) else {
            return;
        };
        let Ok(identity) = fleet.identify(HostId::OPERATOR, host).await else {
            return;
        };
        if !self.cluster.pod(place.ordinal).up || !fleet.host(host).may_be_assigned() {
            return;
        }
        // A volume that was in the network before cannot found it.
        let has_left = identity.is_some_and(|i| i.member.liveness == Liveness::Left);
        match fleet.start(host, place.position, place.found && !has_left) {
            // A disk that fails: the pod waits again, and the next cycle sees.
            Ok(_) | Err(BootError::Store(_)) => {}
            Err(error) => panic!("there is only one network: {error}"),
        }
    }

    /// Gives drain orders, and waits for whether they were heard.
    async fn order(&self, orders: &[Order]) {
        let mut by_host: BTreeMap<HostId, Vec<(PeerId, u64, bool)>> = BTreeMap::new();
        for order in orders {
            for host in order.tell.iter().filter_map(|address| self.host(address)) {
                let order = (order.peer, order.epoch, order.leaving);
                by_host.entry(host).or_default().push(order);
            }
        }
        let told = by_host
            .into_iter()
            .map(|(host, orders)| self.tell(host, Request::Drain(orders)));
        let told: Vec<_> = told.collect();
        for heard in told {
            heard.await;
        }
    }

    /// Gives hints. Nothing depends on whether they are heard.
    fn hint(&self, hints: &Hints) {
        for host in hints.tell.iter().filter_map(|address| self.host(address)) {
            drop(self.tell(host, Request::Hint(hints.hints.clone())));
        }
    }

    fn tell(&self, host: HostId, what: Request) -> Promise<Result<Answer, CallError>> {
        let fleet = self.fleet().clone();
        let call = async move { fleet.call(HostId::OPERATOR, host, what).await };
        self.fleet().world().spawn(call)
    }
}

fn node(zone: &str) -> String {
    format!("node-{zone}")
}

fn merge(members: &mut BTreeMap<PeerId, Member>, member: Member) {
    match members.get_mut(&member.id) {
        Some(known) => drop(known.merge(&member)),
        None => drop(members.insert(member.id, member)),
    }
}

/// A record as the registry publishes it: who has been retired has left.
fn as_published(member: Member) -> Member {
    let liveness = match member.liveness {
        Liveness::Retired => Liveness::Left,
        known => known,
    };
    Member { liveness, ..member }
}

/// Identify, and Members where there is a peer.
async fn look(fleet: &Fleet, host: HostId) -> Result<Seen, CallError> {
    let remembered = fleet.identify(HostId::OPERATOR, host).await?;
    let process = fleet.host(host).process.as_ref().map(|p| (p.id, p.left));
    let gone = remembered
        .as_ref()
        .is_some_and(|i| i.member.liveness == Liveness::Left);
    let volume = Volume {
        network: remembered.as_ref().map(|i| i.network.clone()),
        peer: process
            .map(|(id, _)| id)
            .or(remembered.as_ref().map(|i| i.member.id)),
        left: process.map_or(gone, |(_, left)| left),
        running: process.is_some_and(|(_, left)| !left),
        position: remembered.map(|i| i.member.position).unwrap_or_default(),
    };
    let mut seen = Seen {
        answer: observed::Answer { volume, life: None },
        members: Vec::new(),
    };
    if let Some((id, false)) = process
        && let Ok(Answer::Members(members)) =
            fleet.call(HostId::OPERATOR, host, Request::Members).await
    {
        seen.members = members.into_iter().map(as_published).collect();
        let own = seen.members.iter().find(|m| m.id == id);
        seen.answer.life = own.map(|member| Life {
            network: NETWORK.into(),
            ready: member.liveness == Liveness::Active,
            member: member.clone(),
            reason: String::new(),
            disk: Disk::default(),
            broker: None,
        });
    }
    Ok(seen)
}
