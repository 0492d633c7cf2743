//! Replacing a peer whose volume or node is gone for good: its identity is retired, its claim and pod are deleted, and
//! its ordinal begins anew.
//!
//! A person asks by annotation. What was accepted is written to the status before anything is done, with the identity
//! and the claim's UID, so that a crash of the operator at any step repeats that step and no other, and the volume that
//! the StatefulSet makes in its place is never taken for the old one. The dead identity is ordered to leave, which moves
//! its slots without waiting for the grace period; claim and pod go on the verdict of the survivors, and only on that.

use peernet_core::leave::Verdict;
use peernet_core::member::{Liveness, Member, PeerId};
use peernet_core::recover::replaceable;
use peernet_crd::ReplacementStatus;

use crate::names;
use crate::observed::{Claim, Network, Observed, PeerPod};

/// What to do about a replacement that was asked for or is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replace {
    /// What the status is to say; `None` when it is over.
    pub status: Option<ReplacementStatus>,
    /// How it ended, if it did just now.
    pub outcome: Option<Outcome>,
    /// The annotation is answered: remove it, if it still has this value.
    pub forget: Option<String>,
    /// What may be deleted now.
    pub removal: Option<Removal>,
}

/// How a replacement ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was never begun, and why.
    Refused(String),
    /// The peer is back, or nobody wants it any more.
    Cancelled(String),
    /// The ordinal runs as a new peer.
    Replaced(String),
}

/// Objects that hold nothing the ring needs; each by UID, so that their successors are safe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    /// Name of the pod.
    pub pod: String,
    /// The claim's UID, unless it is gone or going.
    pub claim: Option<String>,
    /// The pod's UID, unless there is none.
    pub pod_uid: Option<String>,
    /// Nobody is there to end it gracefully.
    pub force: bool,
}

/// The pod whose claim has to be looked at.
pub fn replaced_pod(network: &Network) -> Option<&str> {
    let under_way = network.status.replacement.as_ref().map(|r| &r.pod);
    under_way
        .or(network.asked.replace.as_ref())
        .map(String::as_str)
}

/// Whether a member is being retired: the dead one, and whoever else should run on its volume once that is on its way.
pub(crate) fn is_retiring(observed: &Observed, member: &Member) -> bool {
    let Some(replacement) = &observed.network.status.replacement else {
        return false;
    };
    let is_dead = replacement.peer.parse() == Ok(member.id);
    let goes = old_claim(observed, replacement).is_some_and(|claim| claim.deleting);
    is_dead || (goes && member.name == replacement.pod)
}

/// Whether the volume of this pod is one that is about to be deleted: nobody may begin anew on it.
pub(crate) fn is_doomed(observed: &Observed, ordinal: u32) -> bool {
    let replacement = observed.network.status.replacement.as_ref();
    replacement.is_some_and(|replacement| {
        names::ordinal(&observed.network.name, &replacement.pod) == Some(ordinal)
            && old_claim(observed, replacement).is_some()
    })
}

/// The claim that was there when the replacement was accepted, while it is there.
fn old_claim<'a>(observed: &'a Observed, under_way: &ReplacementStatus) -> Option<&'a Claim> {
    let claim = observed.claim.as_ref();
    claim.filter(|c| Some(&c.uid) == under_way.claim_uid.as_ref())
}

/// Whether who runs on the old claim can neither stay, as that is deleted and goes with its pod, nor leave, as there are no
/// more peers than copies and so nobody to take its slots.
fn is_cornered(observed: &Observed, under_way: &ReplacementStatus) -> bool {
    let others = observed
        .members
        .values()
        .filter(|m| m.name != under_way.pod);
    let receivers = others.filter(|m| m.is_eligible()).count();
    old_claim(observed, under_way).is_some_and(|claim| claim.deleting)
        && receivers < observed.replication().factor as usize
}

/// Decides the next step.
pub(crate) fn decide(observed: &Observed) -> Option<Replace> {
    let network = &observed.network;
    match (&network.status.replacement, &network.asked.replace) {
        (Some(under_way), asked) => Some(go_on(observed, under_way, asked.as_deref())),
        (None, Some(asked)) => Some(match accept(observed, asked) {
            Ok(status) => Replace {
                status: Some(status),
                outcome: None,
                forget: None,
                removal: None,
            },
            Err(why) => Replace {
                status: None,
                outcome: Some(Outcome::Refused(format!("{asked} is not replaced: {why}"))),
                forget: Some(asked.clone()),
                removal: None,
            },
        }),
        (None, None) => None,
    }
}

fn accept(observed: &Observed, asked: &str) -> Result<ReplacementStatus, String> {
    let network = &observed.network;
    let ordinal = names::ordinal(&network.name, asked).ok_or_else(|| {
        format!(
            "no peer of this network is called so; try {}-0",
            network.name
        )
    })?;
    if !network.status.founded {
        return Err("the ring does not exist yet".into());
    }
    if ordinal >= network.desired() {
        return Err("it is not wanted any more, and leaves by itself".into());
    }
    if observed
        .pods
        .get(&ordinal)
        .is_some_and(|pod| pod.answer.is_some())
    {
        return Err("it is alive and answers; to restart it, delete the pod".into());
    }
    let named = observed.members.values().filter(|m| m.name == asked);
    let dead = named.max_by_key(|m| (m.liveness != Liveness::Left, m.incarnation));
    let dead = dead.ok_or_else(|| {
        format!(
            "the ring knows no such peer; delete its claim {} and the pod to give it an empty volume",
            names::volume(asked)
        )
    })?;
    Ok(ReplacementStatus {
        pod: asked.to_owned(),
        peer: dead.id.to_string(),
        claim_uid: observed.claim.as_ref().map(|claim| claim.uid.clone()),
        message: format!("{asked} is to be replaced"),
    })
}

fn go_on(observed: &Observed, under_way: &ReplacementStatus, asked: Option<&str>) -> Replace {
    let ReplacementStatus {
        pod: name,
        peer,
        claim_uid: _,
        message: _,
    } = under_way;
    let dead: Option<PeerId> = peer.parse().ok();
    let ordinal = names::ordinal(&observed.network.name, name);
    let pod = ordinal.and_then(|ordinal| observed.pods.get(&ordinal));
    let running = pod.filter(|pod| pod.is_running()).and_then(PeerPod::peer);
    let member = dead.and_then(|id| observed.members.get(&id));
    let retired = member.is_none_or(|m| m.liveness == Liveness::Left);
    let old = old_claim(observed, under_way);
    let still_asked = asked
        .filter(|asked| *asked == name.as_str())
        .map(str::to_owned);

    let untouched = old.is_none_or(|claim| !claim.deleting);
    let successor = running.filter(|id| Some(*id) != dead);
    if retired && successor.is_some() && untouched {
        let sentence = format!("{name} runs as a new peer; what it was before has been retired");
        return over(under_way, Outcome::Replaced(sentence), still_asked);
    }
    if untouched && ordinal.is_none_or(|ordinal| ordinal >= observed.network.desired()) {
        let sentence = format!("{name} is not replaced: it is not wanted any more");
        return over(under_way, Outcome::Cancelled(sentence), still_asked);
    }
    if running.is_some() && running == dead && untouched && !retired {
        let sentence = format!("{name} is back with its volume: it stays");
        return over(under_way, Outcome::Cancelled(sentence), still_asked);
    }
    if asked.is_none() && untouched && old.is_some() {
        let sentence = format!("{name} is not replaced: nobody asks for it any more");
        return over(under_way, Outcome::Cancelled(sentence), None);
    }
    let (message, removal) = next(observed, under_way, member, pod, old.is_some());
    Replace {
        status: Some(ReplacementStatus {
            message,
            ..under_way.clone()
        }),
        outcome: None,
        forget: None,
        removal,
    }
}

/// The annotation goes first and the status after it: the other way round it would look like a new request.
fn over(under_way: &ReplacementStatus, outcome: Outcome, forget: Option<String>) -> Replace {
    let status = forget.is_some().then(|| under_way.clone());
    let outcome = forget.is_none().then_some(outcome);
    Replace {
        status,
        outcome,
        forget,
        removal: None,
    }
}

fn next(
    observed: &Observed,
    under_way: &ReplacementStatus,
    member: Option<&Member>,
    pod: Option<&PeerPod>,
    claim_is_old: bool,
) -> (String, Option<Removal>) {
    let name = &under_way.pod;
    let doomed = is_cornered(observed, under_way);
    if let Some(member) = member.filter(|m| m.is_present() && !doomed) {
        return (
            format!("waiting for the ring to see that {} is down", member.name),
            None,
        );
    }
    let replication = observed.replication();
    // The operator wrote it itself; whoever changed it has nobody replaced.
    let Ok(dead) = under_way.peer.parse::<PeerId>() else {
        return (format!("{} is no identity", under_way.peer), None);
    };
    match replaceable(
        dead,
        name,
        &observed.members,
        &observed.reports,
        replication,
        doomed,
    ) {
        Verdict::Stay {
            slots_left,
            blocker,
            ..
        } => {
            let blocker = super::leave::named(observed, &blocker);
            (
                format!("{slots_left} slots still depend on {name}: {blocker}"),
                None,
            )
        }
        Verdict::Proved if pod.is_some_and(PeerPod::is_running) && !doomed => (
            format!("waiting for the peer that runs as {name} to leave"),
            None,
        ),
        Verdict::Proved if claim_is_old => {
            let lost = |node: &String| observed.lost_nodes.contains(node);
            let removal = Removal {
                pod: name.clone(),
                claim: observed
                    .claim
                    .as_ref()
                    .filter(|claim| !claim.deleting)
                    .map(|claim| claim.uid.clone()),
                pod_uid: pod.map(|pod| pod.uid.clone()),
                force: pod.and_then(|pod| pod.node.as_ref()).is_some_and(lost),
            };
            (
                format!(
                    "all that {name} held is proved to be held elsewhere: its volume is deleted"
                ),
                Some(removal),
            )
        }
        Verdict::Proved => (format!("waiting for {name} to join as a new peer"), None),
    }
}
