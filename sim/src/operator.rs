//! The operator's part: it lets pods into the network, asks for leaves, and takes a pod away only on the ring's proof.
//!
//! Like the real one it remembers nothing but what the resource says: each cycle observes, then acts.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::boot::BootError;
use peernet_core::io::{Answer, Request};
use peernet_core::key::Position;
use peernet_core::leave::{Report, Verdict, verdict};
use peernet_core::member::{Liveness, Member, PeerId};
use peernet_core::placement;
use peernet_core::store::Identity;

use crate::cluster::{Cluster, Pod};
use crate::fleet::Fleet;
use crate::network::HostId;

/// Pause between two cycles, in milliseconds.
const PERIOD: u64 = 1_000;

/// What a pod says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    /// No answer.
    Nothing,
    /// Waits to be assigned; what its volume remembers.
    Waiting(Option<Identity>),
    /// Runs as this peer.
    Running(PeerId),
    /// Has left for good as this peer.
    Left(PeerId),
}

/// One look at the network.
struct Observed {
    pods: BTreeMap<u32, (Pod, Seen)>,
    /// Everybody that anybody knows.
    members: BTreeMap<PeerId, Member>,
}

fn ordinal(name: &str) -> Option<u32> {
    name.rsplit_once('-')?.1.parse().ok()
}

impl Observed {
    fn running(&self) -> Vec<HostId> {
        let runs = |(pod, seen): &(Pod, Seen)| matches!(seen, Seen::Running(_)).then_some(pod.host);
        self.pods.values().filter_map(runs).collect()
    }

    /// A member is to go when its ordinal is beyond what is wanted, or when its pod came back as somebody else, because
    /// its volume was lost.
    fn unwanted(&self, member: &Member, replicas: u32) -> bool {
        let Some(ordinal) = ordinal(&member.name) else {
            return false;
        };
        let replaced = match self.pods.get(&ordinal) {
            Some((_, Seen::Running(id))) => *id != member.id,
            _ => false,
        };
        ordinal >= replicas || replaced
    }

    /// All identities that the pod of this ordinal has had.
    fn identities(&self, of: u32) -> BTreeSet<PeerId> {
        let known = self
            .members
            .values()
            .filter(|m| ordinal(&m.name) == Some(of))
            .map(|m| m.id);
        let own = self.pods.get(&of).and_then(|(_, seen)| match seen {
            Seen::Running(id) | Seen::Left(id) => Some(*id),
            Seen::Waiting(identity) => identity.as_ref().map(|i| i.member.id),
            Seen::Nothing => None,
        });
        known.chain(own).collect()
    }

    /// The lowest rank in the pod's zone that no known position uses.
    fn free_position(&self, taken: &BTreeSet<Position>, ordinal: u32, zones: u32) -> Position {
        let used = |p: &Position| {
            let member = self
                .members
                .values()
                .any(|m| !m.is_gone() && m.position == *p);
            let waits = |(_, s): &(Pod, Seen)| matches!(s, Seen::Waiting(Some(i)) if i.member.position == *p);
            member || taken.contains(p) || self.pods.values().any(waits)
        };
        let positions = (0..).map(|rank| placement::position(rank, ordinal % zones, zones));
        positions
            .into_iter()
            .find(|p| !used(p))
            .expect("there are more ranks than members")
    }
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
        let wanted = self.cluster.replicas();
        self.cluster
            .set_statefulset(self.cluster.statefulset().max(wanted));
        let observed = self.observe().await;
        self.assign(&observed, wanted).await;
        self.order(&observed, wanted).await;
        if self.cluster.statefulset() > wanted {
            self.shrink(&observed, wanted).await;
        }
    }

    async fn observe(&self) -> Observed {
        let ask = |pod: Pod| {
            let fleet = self.fleet().clone();
            self.fleet()
                .world()
                .spawn(async move { look(&fleet, pod).await })
        };
        let asked: Vec<_> = self.cluster.pods().into_iter().map(ask).collect();
        let mut observed = Observed {
            pods: BTreeMap::new(),
            members: BTreeMap::new(),
        };
        for promise in asked {
            let Some((pod, seen, members)) = promise.await else {
                continue;
            };
            for member in members {
                if let Seen::Running(id) = seen
                    && member.id == id
                    && pod.ordinal == 0
                    && member.liveness == Liveness::Active
                {
                    self.cluster.set_founded();
                }
                merge(&mut observed.members, member);
            }
            observed.pods.insert(pod.ordinal, (pod, seen));
        }
        observed
    }

    /// Lets pods in: the first founds, the others join once it has. A leaver that restarts comes back to finish; one
    /// that has left comes back, as somebody new, only when it is wanted again.
    async fn assign(&self, observed: &Observed, wanted: u32) {
        let mut taken = BTreeSet::new();
        for (ordinal, (pod, seen)) in &observed.pods {
            let comes_back = match seen {
                Seen::Nothing | Seen::Running(_) => false,
                Seen::Left(_) | Seen::Waiting(None) => *ordinal < wanted,
                Seen::Waiting(Some(i)) => *ordinal < wanted || i.member.liveness != Liveness::Left,
            };
            let founds = !self.cluster.founded() && *ordinal == 0;
            if !comes_back || !(founds || self.cluster.founded()) {
                continue;
            }
            let position = observed.free_position(&taken, *ordinal, self.cluster.zones());
            taken.insert(position);
            // Up to here the pod may have gone; then the call fails, and the next cycle sees.
            if self
                .fleet()
                .identify(HostId::OPERATOR, pod.host)
                .await
                .is_ok()
                && self.cluster.pod(*ordinal).up
                && self.fleet().host(pod.host).may_be_assigned()
            {
                match self.fleet().start(pod.host, position, founds) {
                    // A disk that fails: the pod waits again, and the next cycle sees.
                    Ok(_) | Err(BootError::Store(_)) => {}
                    Err(error) => panic!("there is only one network: {error}"),
                }
            }
        }
    }

    /// Orders members to leave or to stay, where they do not do so already.
    async fn order(&self, observed: &Observed, wanted: u32) {
        let world = self.fleet().world();
        let mut orders: BTreeMap<HostId, Vec<(PeerId, u64, bool)>> = BTreeMap::new();
        for member in observed.members.values().filter(|m| !m.is_gone()) {
            let leaving = observed.unwanted(member, wanted);
            if member.drain.leaving == leaving {
                continue;
            }
            let own = observed
                .pods
                .values()
                .find(|(_, seen)| *seen == Seen::Running(member.id));
            let mut others = observed.running();
            world.shuffle(&mut others);
            let told: BTreeSet<HostId> = own
                .iter()
                .map(|(pod, _)| pod.host)
                .chain(others.into_iter().take(2))
                .collect();
            for host in told {
                orders
                    .entry(host)
                    .or_default()
                    .push((member.id, member.drain.epoch + 1, leaving));
            }
        }
        for (host, orders) in orders {
            let fleet = self.fleet().clone();
            drop(world.spawn(async move {
                fleet
                    .call(HostId::OPERATOR, host, Request::Drain(orders))
                    .await
            }));
        }
    }

    /// Takes away the pods of the highest ordinals, as far as they are proved.
    async fn shrink(&self, observed: &Observed, wanted: u32) {
        if self.fleet().flaws().no_verdict {
            return self.cluster.set_statefulset(wanted);
        }
        let leavers: BTreeSet<PeerId> = (wanted..self.cluster.statefulset())
            .flat_map(|ordinal| observed.identities(ordinal))
            .collect();
        let (reports, members) = self.reports(observed, &leavers).await;
        let stays = |m: &&Member| !m.is_gone() && !observed.unwanted(m, wanted);
        let remaining: BTreeSet<PeerId> = members.values().filter(stays).map(|m| m.id).collect();
        let proved = |ordinal: u32| {
            let ids = observed.identities(ordinal);
            let never_joined =
                matches!(observed.pods.get(&ordinal), Some((_, Seen::Waiting(None))));
            let all = ids
                .iter()
                .all(|id| verdict(*id, &remaining, &reports) == Verdict::Proved);
            all && (never_joined || !ids.is_empty())
        };
        let mut keep = self.cluster.statefulset();
        while keep > wanted && proved(keep - 1) {
            keep -= 1;
        }
        // Raised meanwhile? Then the next cycle decides anew.
        if self.cluster.replicas() == wanted {
            self.cluster.set_statefulset(keep);
        }
    }

    async fn reports(
        &self,
        observed: &Observed,
        leavers: &BTreeSet<PeerId>,
    ) -> (BTreeMap<PeerId, Report>, BTreeMap<PeerId, Member>) {
        let ask = |pod: &(Pod, Seen)| {
            let (fleet, host) = (self.fleet().clone(), pod.0.host);
            let request = Request::LeaveReport(leavers.iter().copied().collect());
            self.fleet()
                .world()
                .spawn(async move { fleet.call(HostId::OPERATOR, host, request).await })
        };
        let asks = |(_, seen): &&(Pod, Seen)| matches!(seen, Seen::Running(_) | Seen::Left(_));
        let asked: Vec<_> = observed.pods.values().filter(asks).map(ask).collect();
        let (mut reports, mut members) = (BTreeMap::new(), observed.members.clone());
        for promise in asked {
            if let Some(Ok(Answer::LeaveReport(report))) = promise.await {
                report
                    .members
                    .iter()
                    .for_each(|m| merge(&mut members, m.clone()));
                reports.insert(report.peer, *report);
            }
        }
        (reports, members)
    }
}

fn merge(members: &mut BTreeMap<PeerId, Member>, member: Member) {
    match members.get_mut(&member.id) {
        Some(known) => drop(known.merge(&member)),
        None => drop(members.insert(member.id, member)),
    }
}

/// Identify, and Members where there is a peer.
async fn look(fleet: &Fleet, pod: Pod) -> (Pod, Seen, Vec<Member>) {
    if !pod.up {
        return (pod, Seen::Nothing, Vec::new());
    }
    let Ok(identity) = fleet.identify(HostId::OPERATOR, pod.host).await else {
        return (pod, Seen::Nothing, Vec::new());
    };
    let process = fleet
        .host(pod.host)
        .process
        .as_ref()
        .map(|p| (p.id, p.left));
    match process {
        None => (pod, Seen::Waiting(identity), Vec::new()),
        Some((id, true)) => (pod, Seen::Left(id), Vec::new()),
        Some((id, false)) => match fleet
            .call(HostId::OPERATOR, pod.host, Request::Members)
            .await
        {
            Ok(Answer::Members(members)) => (pod, Seen::Running(id), members),
            _ => (pod, Seen::Nothing, Vec::new()),
        },
    }
}
