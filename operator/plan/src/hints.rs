//! Hints for the ring: Kubernetes often knows before pings do that a peer's process ended, or that it is back.
//!
//! Derived anew in each cycle from what pods and members say, and so repeated until the ring itself has seen it. A wrong
//! hint costs the ring a ping (see `peernet-core`'s `hints`), so what the kubelet last said is good enough.

use peernet_core::member::{Hint, Liveness, Member, PeerId};

use crate::names;
use crate::observed::{Observed, PeerPod};

/// Hints given in one cycle; peers look at so many at once.
const HINTS: usize = 64;
/// Peers that are told. They gossip; three survive the loss of two.
const TOLD: usize = 3;

/// Hints, and whom to tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// About whom, what.
    pub hints: Vec<(PeerId, Hint)>,
    /// Addresses of peers that answer.
    pub tell: Vec<String>,
}

/// What the ring does not know yet.
pub(crate) fn hints(observed: &Observed) -> Hints {
    // Without the StatefulSet no pods were read, which is no sign that there are none.
    if observed.set.is_none() || !observed.network.status.founded {
        return Hints::default();
    }
    let hint = |member: &Member| {
        let ordinal = names::ordinal(&observed.network.name, &member.name)?;
        let pod = observed.pods.get(&ordinal);
        let hint = match member.liveness {
            Liveness::Active | Liveness::Suspect if is_gone(observed, member.id, pod) => Hint::Gone,
            Liveness::Down
                if pod.is_some_and(|p| p.is_running() && p.peer() == Some(member.id)) =>
            {
                Hint::Back
            }
            _ => return None,
        };
        Some((member.id, hint))
    };
    let hints: Vec<_> = observed
        .members
        .values()
        .filter_map(hint)
        .take(HINTS)
        .collect();
    if hints.is_empty() {
        return Hints::default();
    }
    let concerned = |pod: &PeerPod| pod.peer().is_some_and(|id| hints.iter().any(|h| h.0 == id));
    let running = observed
        .pods
        .values()
        .filter(|pod| pod.is_running() && !concerned(pod));
    let tell = running
        .filter_map(|pod| pod.address.clone())
        .take(TOLD)
        .collect();
    Hints { hints, tell }
}

/// Whether the process that was this member has ended, as far as Kubernetes and its successor say.
fn is_gone(observed: &Observed, member: PeerId, pod: Option<&PeerPod>) -> bool {
    let Some(pod) = pod else { return true };
    match &pod.answer {
        Some(answer) => answer.volume.peer != Some(member),
        None => {
            let lost = |node: &String| observed.lost_nodes.contains(node);
            !pod.started || pod.node.as_ref().is_some_and(lost)
        }
    }
}
