//! The pure middle of a cycle: from what is to what should be done. No client, no clock.
//!
//! Nothing is remembered between cycles but what the resource's status, the pods' volumes and the ring remember, so the
//! operator may stop after any step, and another may go on. The operator carries plans out on a cluster, and the simulation
//! on a simulated one.

#![forbid(unsafe_code)]

mod hints;
mod identity;
mod leave;
pub mod names;
pub mod observed;
mod place;
mod preflight;
mod recovery;
mod replace;
mod rollout;
mod spread;

use std::cell::LazyCell;
use std::collections::BTreeMap;

use peernet_core::key::Position;
use peernet_core::member::{Liveness, PeerId};
use peernet_core::recover::{Stuck, is_named, newest, stuck};
use peernet_crd::Preflight;

use crate::observed::{Observed, PeerPod};

pub use hints::Hints;
pub use identity::Identity;
pub use leave::Leave;
pub use recovery::Recover;
pub use replace::{Outcome, Removal, Replace, replaced_pod};
pub use rollout::Restart;
pub use spread::Spread;

/// What a cycle is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Which ring this is, and whether it exists.
    pub identity: Identity,
    /// What the StatefulSet is to ask for.
    pub replicas: u32,
    /// Pods that are to be told their place.
    pub assignments: Vec<Assignment>,
    /// Drain orders to give.
    pub orders: Vec<Order>,
    /// What the ring may not know yet of peers' processes.
    pub hints: Hints,
    /// The leave under way, if peers that should go have to stay for now.
    pub leave: Option<Leave>,
    /// The replacement that is asked for or under way.
    pub replace: Option<Replace>,
    /// The pod that is to be started anew, as its template has changed.
    pub restart: Option<Restart>,
    /// Pods of an earlier template.
    pub outdated: u32,
    /// Slots that cannot be written.
    pub stuck: Stuck,
    /// The recovery that is asked for.
    pub recover: Option<Recover>,
    /// In how many zones copies stand.
    pub spread: Spread,
    /// The lowest number of peers that is safe now.
    pub preflight: Option<Preflight>,
    /// Peers that are members of the ring and caught up.
    pub ready: u32,
    /// What keeps the network from being ready, sentences; the most telling first.
    pub problems: Vec<String>,
}

impl Plan {
    /// The objects could not be made so: the StatefulSet is as it was, which is what the status has to say; but of one that
    /// somebody has lowered by hand, what it was before.
    pub fn keep(&mut self, observed: &Observed, problem: String) {
        self.replicas = observed.current().max(observed.last());
        self.problems.insert(0, problem);
    }
}

/// A place for a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// The pod.
    pub ordinal: u32,
    /// Where to tell it.
    pub address: String,
    /// UUID of the network.
    pub network: String,
    /// Its failure domain.
    pub zone: String,
    /// Its place on the ring.
    pub position: Position,
    /// Found the ring instead of joining it.
    pub found: bool,
    /// It was not a member before.
    pub newcomer: bool,
}

/// A drain order, or its cancellation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Whom it concerns.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// Greater than any it has followed.
    pub epoch: u64,
    /// Leave, or stay after all.
    pub leaving: bool,
    /// Whom to tell: itself if it runs, and others that spread it.
    pub tell: Vec<String>,
}

/// Members besides the concerned one that an order is given to; two survive the loss of one.
const WITNESSES: usize = 2;

/// Decides what this cycle is to do.
pub fn plan(observed: &Observed) -> Plan {
    let identity = identity::decide(observed);
    let leave::Size { replicas, leave } = leave::size(observed, &identity);
    let (assignments, mut problems) = place::assignments(observed, &identity);
    let (ready, unready) = readiness(observed);
    problems.splice(0..0, identity.waiting.iter().cloned());
    problems.extend(unready);
    let orders = orders(observed);
    let staying = orders.iter().filter(|order| !order.leaving);
    problems.extend(staying.map(|order| format!("{} is told to stay after all", order.name)));
    let founded = observed.network.status.founded;
    let replace = replace::decide(observed);
    let removes = replace.as_ref().is_some_and(|r| r.removal.is_some());
    let rollout::Rollout { outdated, next } = rollout::rollout(observed);
    Plan {
        identity,
        replicas,
        assignments,
        orders,
        hints: hints::hints(observed),
        leave,
        replace,
        restart: next.filter(|_| !removes),
        outdated,
        stuck: if founded {
            let write = observed.replication().write;
            stuck(&observed.members, &observed.reports, write)
        } else {
            Stuck::default()
        },
        recover: recovery::decide(observed),
        spread: spread::spread(observed),
        preflight: preflight::preflight(observed),
        ready,
        problems,
    }
}

/// Identities that should leave, with their ordinals: members of a pod that is not wanted any more, and whoever such a
/// pod's volume belongs to. Those known to have left need no more proof, unless their pod is still there, or a slot names
/// them: then those who said so knew too little.
pub fn leavers(observed: &Observed) -> BTreeMap<PeerId, u32> {
    let Observed {
        network,
        pods,
        members,
        ..
    } = observed;
    let desired = network.desired();
    // Mostly nobody has left, and it is asked several times.
    let newest = LazyCell::new(|| newest(&observed.reports));
    let members = members
        .values()
        .filter(|member| member.liveness != Liveness::Left || is_named(&newest, member.id));
    let named = members.filter_map(|m| Some((m.id, names::ordinal(&network.name, &m.name)?)));
    let volumes = pods
        .iter()
        .filter_map(|(o, pod)| Some((pod.answer.as_ref()?.volume.peer?, *o)));
    named
        .chain(volumes)
        .filter(|(_, ordinal)| *ordinal >= desired)
        .collect()
}

/// Whether the members have to be asked what they can prove.
pub fn needs_reports(observed: &Observed) -> bool {
    let Observed {
        network, members, ..
    } = observed;
    let away = || members.values().any(|m| m.liveness == Liveness::Down);
    network.status.founded
        && (observed.current() > network.desired()
            || !leavers(observed).is_empty()
            || away()
            || network.status.replacement.is_some()
            || network.asked.recover.is_some())
}

/// Whether the nodes have to be looked at: for the zones of pods that wait for a place, for the health of those whose
/// pods are silent, and to tell whether copies could stand in more zones.
pub fn needs_nodes(observed: &Observed) -> bool {
    let silent = |pod: &PeerPod| pod.answer.is_none() && pod.node.is_some();
    let mut pods = observed.pods.values();
    pods.any(|pod| pod.awaits_assignment() || silent(pod)) || spread::is_narrow(observed)
}

/// An order for each member that does not yet do what is wanted. Also for an identity whose pod came back with another
/// one: its volume is lost, so it can never return, and leaving in order is quicker than being given up.
fn orders(observed: &Observed) -> Vec<Order> {
    let Observed {
        network,
        pods,
        members,
        ..
    } = observed;
    if !network.status.founded {
        return Vec::new();
    }
    let desired = network.desired();
    let running = || pods.values().filter(|pod| pod.is_running());
    let order = |peer: &PeerId| {
        let member = members.get(peer).filter(|m| m.liveness != Liveness::Left)?;
        let ordinal = names::ordinal(&network.name, &member.name)?;
        let successor = pods
            .get(&ordinal)
            .filter(|pod| pod.is_running())
            .and_then(PeerPod::peer);
        let replaced = successor.is_some_and(|successor| successor != *peer);
        let leaving = ordinal >= desired || replaced || replace::is_retiring(observed, member);
        if member.drain.leaving == leaving {
            return None;
        }
        let itself = running().filter(|pod| pod.peer() == Some(*peer));
        let others = running()
            .filter(|pod| pod.peer() != Some(*peer))
            .take(WITNESSES);
        Some(Order {
            peer: *peer,
            name: member.name.clone(),
            epoch: member.drain.epoch + 1,
            leaving,
            tell: itself
                .chain(others)
                .filter_map(|pod| pod.address.clone())
                .collect(),
        })
    };
    members.keys().filter_map(order).collect()
}

/// How many peers are ready, and why each wanted one that is not is not.
fn readiness(observed: &Observed) -> (u32, Vec<String>) {
    let ready = observed
        .pods
        .values()
        .filter(|pod| unreadiness(pod).is_none())
        .count();
    let unready = (0..observed.network.desired()).filter_map(|ordinal| {
        let name = names::pod(&observed.network.name, ordinal);
        match observed.pods.get(&ordinal) {
            None => Some(format!("{name} does not exist yet")),
            Some(pod) => Some(format!("{name} {}", unreadiness(pod)?)),
        }
    });
    (u32::try_from(ready).unwrap_or(u32::MAX), unready.collect())
}

/// Ready is what the peer says and what Kubernetes' probe has seen, so that a Service already leads to it.
fn unreadiness(pod: &PeerPod) -> Option<String> {
    if pod.deleting {
        return Some("is being deleted".into());
    }
    let Some(answer) = &pod.answer else {
        let waiting = if pod.address.is_some() {
            "does not answer"
        } else {
            "has not started"
        };
        return Some(waiting.into());
    };
    if !pod.is_running() {
        return Some("waits for its place".into());
    }
    match &answer.life {
        None => Some("does not say how it is".into()),
        Some(life) if !life.ready && life.reason.is_empty() => Some("is not ready".into()),
        Some(life) if !life.ready => Some(format!("is not ready: {}", life.reason)),
        Some(_) if !pod.ready => Some("waits for its readiness probe".into()),
        Some(_) => None,
    }
}

#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
#[cfg(test)]
mod tests;
