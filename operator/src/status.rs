//! Last step: the answer. Derived from the same observation as the plan, and written only when it says something new.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use peernet_crd::{DrainStatus, PeerNetwork, PeerNetworkStatus, Violation};
use peernet_plan::names::{self, MANAGER};
use peernet_plan::observed::{Network, Observed};
use peernet_plan::{Leave, Outcome, Plan};
use serde_json::json;
use thiserror::Error;

pub(crate) mod copies;

/// Why the status could not be written.
#[derive(Debug, Error)]
#[error("cannot write the status")]
pub struct StatusError(#[from] kube::Error);

impl StatusError {
    /// The resource changed in between; trying again with a fresh look is all it takes.
    pub fn is_conflict(&self) -> bool {
        matches!(&self.0, kube::Error::Api(status) if status.code == 409)
    }
}

/// A condition before it knows since when it is so.
struct Verdict {
    type_: &'static str,
    holds: Holds,
    reason: &'static str,
    message: String,
}

/// What a condition may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    /// It is so.
    True,
    /// It is not.
    False,
    /// Nobody who could tell has.
    Unknown,
}

impl Holds {
    /// As Kubernetes writes it.
    fn as_str(self) -> &'static str {
        match self {
            Holds::True => "True",
            Holds::False => "False",
            Holds::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Holds::True } else { Holds::False }
    }
}

/// The answer to a valid resource.
pub fn answer(observed: &Observed, plan: &Plan, now: Timestamp) -> PeerNetworkStatus {
    let network = &observed.network;
    let drain = plan
        .leave
        .as_ref()
        .map(|leave| drain(leave, network.status.drain.as_ref(), now));
    let settled = is_settled(observed, plan);
    let verdicts = [
        ready(observed, plan),
        progressing(observed, plan, settled),
        draining(plan),
        copies::writable(observed, plan),
        copies::spread(observed, plan),
        replacing(network, plan),
    ];
    let verdicts = verdicts.into_iter().chain(connected(observed));
    PeerNetworkStatus {
        observed_generation: Some(network.generation),
        replicas: i32::try_from(plan.replicas).unwrap_or(i32::MAX),
        ready_replicas: i32::try_from(plan.ready).unwrap_or(i32::MAX),
        selector: Some(names::selector(&network.name)),
        network_id: plan.identity.network.clone(),
        founded: plan.identity.founded,
        drain,
        replacement: plan.replace.as_ref().and_then(|r| r.status.clone()),
        recovery: match &plan.recover {
            Some(recover) => recover.status.clone(),
            None => network.status.recovery.clone(),
        },
        preflight: plan.preflight.clone(),
        conditions: verdicts
            .map(|verdict| condition(network, verdict, now))
            .collect(),
    }
}

/// The answer to a resource that breaks a rule: nothing else changes.
pub fn refusal(network: &Network, violation: &Violation, now: Timestamp) -> PeerNetworkStatus {
    let mut status = network.status.clone();
    let verdict = Verdict {
        type_: "Ready",
        holds: Holds::False,
        reason: "InvalidSpec",
        message: violation.to_string(),
    };
    let condition = condition(network, verdict, now);
    status.observed_generation = Some(network.generation);
    status.conditions.retain(|c| c.type_ != condition.type_);
    status.conditions.insert(0, condition);
    status
}

/// Whether there is nothing left to do or to wait for.
pub fn is_settled(observed: &Observed, plan: &Plan) -> bool {
    is_complete(observed, plan) && plan.outdated == 0 && is_seen(observed)
}

/// Whether the controller of the StatefulSet has looked at the newest template, so that it is known which pods follow it.
fn is_seen(observed: &Observed) -> bool {
    let set = observed.set.as_ref();
    set.is_some_and(|set| set.revision.is_some())
}

/// Whether all peers that are wanted serve, and nobody else is there.
fn is_complete(observed: &Observed, plan: &Plan) -> bool {
    let Plan {
        identity,
        replicas,
        assignments,
        orders,
        hints: _,
        leave,
        replace,
        restart: _,
        outdated: _,
        stuck: _,
        recover,
        spread: _,
        preflight: _,
        ready: _,
        problems,
    } = plan;
    let desired = observed.network.desired();
    identity.founded
        && *replicas == desired
        && observed.current() == desired
        && assignments.is_empty()
        && orders.is_empty()
        && leave.is_none()
        && replace.is_none()
        && recover.is_none()
        && problems.is_empty()
}

fn ready(observed: &Observed, plan: &Plan) -> Verdict {
    let desired = observed.network.desired();
    let (holds, reason, message) = match (&plan.leave, plan.problems.split_first()) {
        (Some(leave), _) => (false, "PeersLeaving", leave_sentence(leave)),
        (None, Some((first, more))) => {
            let more = if more.is_empty() {
                String::new()
            } else {
                format!(" (and {} more)", more.len())
            };
            let reason = if plan.identity.founded {
                "PeersNotReady"
            } else {
                "NotFounded"
            };
            (
                false,
                reason,
                format!("{} of {desired} peers are ready: {first}{more}", plan.ready),
            )
        }
        (None, None) if is_complete(observed, plan) => (
            true,
            "AllPeersReady",
            format!("all {desired} peers are ready"),
        ),
        (None, None) => (
            false,
            "PeersChanging",
            format!("the number of peers becomes {desired}"),
        ),
    };
    Verdict {
        type_: "Ready",
        holds: Holds::from(holds),
        reason,
        message,
    }
}

fn progressing(observed: &Observed, plan: &Plan, settled: bool) -> Verdict {
    let desired = observed.network.desired();
    let (reason, message) = if settled {
        ("Settled", "nothing is under way".to_owned())
    } else if let Some(waiting) = &plan.identity.waiting {
        ("Founding", waiting.clone())
    } else if let Some(leave) = &plan.leave {
        ("Leaving", leave_sentence(leave))
    } else if plan.outdated > 0 && is_complete(observed, plan) {
        let next = plan.restart.as_ref().map(|restart| &*restart.pod);
        let next = next.map_or("all others have to be ready first".into(), |pod| {
            format!("{pod} is next")
        });
        let sentence = format!(
            "{} of {desired} peers run from an earlier template: {next}",
            plan.outdated
        );
        ("Restarting", sentence)
    } else if !is_seen(observed) && is_complete(observed, plan) {
        (
            "Restarting",
            "which peers run from the newest template is not known yet".to_owned(),
        )
    } else if plan.outdated > 0 {
        let peers = format!("{} peers are ready, {desired} are wanted", plan.ready);
        (
            "Joining",
            format!(
                "{peers}; {} run from an earlier template and wait for that",
                plan.outdated
            ),
        )
    } else {
        (
            "Joining",
            format!("{} peers are ready, {desired} are wanted", plan.ready),
        )
    };
    Verdict {
        type_: "Progressing",
        holds: Holds::from(!settled),
        reason,
        message,
    }
}

fn draining(plan: &Plan) -> Verdict {
    let (holds, reason, message) = match &plan.leave {
        Some(leave) => (true, "PeersLeaving", leave_sentence(leave)),
        None => (false, "NobodyLeaves", "no peer is leaving".to_owned()),
    };
    Verdict {
        type_: "Draining",
        holds: Holds::from(holds),
        reason,
        message,
    }
}

/// Whether events reach the broker, or none is named.
pub fn is_connected(observed: &Observed) -> bool {
    connected(observed).is_none_or(|verdict| verdict.holds == Holds::True)
}

/// Whether events reach the broker, if one is named.
fn connected(observed: &Observed) -> Option<Verdict> {
    let uri = &observed.network.spec.events.as_ref()?.uri;
    let (mut away, mut peers) = (Vec::new(), 0);
    for (ordinal, pod) in &observed.pods {
        let Some(life) = pod.answer.as_ref().and_then(|answer| answer.life.as_ref()) else {
            continue;
        };
        peers += 1;
        let why = match &life.broker {
            Some(Ok(())) => continue,
            Some(Err(why)) => why.as_str(),
            None => "it has not been told yet",
        };
        away.push(format!(
            "{}: {why}",
            names::pod(&observed.network.name, *ordinal)
        ));
    }
    let (holds, reason, message) = match away.first() {
        None if peers == 0 => (false, "NoPeers", "no peer runs yet".to_owned()),
        None => {
            let all = format!("all {peers} peers that run publish events");
            (true, "AllPeersConnected", all)
        }
        Some(first) => {
            let away = away.len();
            let sentence = format!(
                "{away} of {peers} peers cannot publish events, which wait: {first} (the URI is the key '{}' of the \
                 Secret '{}')",
                uri.key, uri.name
            );
            (false, "PeersNotConnected", sentence)
        }
    };
    Some(Verdict {
        type_: "BrokerConnected",
        holds: Holds::from(holds),
        reason,
        message,
    })
}

/// A replacement under way; when none is, how the last one ended.
fn replacing(network: &Network, plan: &Plan) -> Verdict {
    let verdict = |holds, reason, message| Verdict {
        type_: "Replacing",
        holds: Holds::from(holds),
        reason,
        message,
    };
    match plan.replace.as_ref().map(|r| (&r.status, &r.outcome)) {
        Some((_, Some(Outcome::Refused(why)))) => verdict(false, "Refused", why.clone()),
        Some((_, Some(Outcome::Cancelled(why)))) => verdict(false, "Cancelled", why.clone()),
        Some((_, Some(Outcome::Replaced(how)))) => verdict(false, "Replaced", how.clone()),
        Some((Some(status), None)) => verdict(true, "UnderWay", status.message.clone()),
        Some((None, None)) | None => {
            let before = network
                .status
                .conditions
                .iter()
                .find(|c| c.type_ == "Replacing");
            let known = ["Refused", "Cancelled", "Replaced"];
            let last = before.and_then(|c| Some((known.into_iter().find(|r| *r == c.reason)?, c)));
            match last {
                Some((reason, before)) => verdict(false, reason, before.message.clone()),
                None => verdict(false, "NotAsked", "no peer is being replaced".to_owned()),
            }
        }
    }
}

fn leave_sentence(leave: &Leave) -> String {
    let Leave {
        leaving,
        slots_left,
        bytes_left,
        blocker,
    } = leave;
    let peers = if *leaving == 1 {
        "1 peer is".to_owned()
    } else {
        format!("{leaving} peers are")
    };
    format!(
        "{peers} leaving, {slots_left} slots and {} left: {blocker}",
        bytes(*bytes_left)
    )
}

/// In the unit that leaves at least one digit, as `df -h` does.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (1..UNITS.len())
        .take_while(|unit| bytes >> (10 * unit) > 0)
        .last()
        .unwrap_or(0);
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!(
        "{:.1} {}",
        bytes as f64 / (1_u64 << (10 * unit)) as f64,
        UNITS[unit]
    )
}

/// Progress since the drain began, as far as the last status remembers its beginning.
fn drain(leave: &Leave, before: Option<&DrainStatus>, now: Timestamp) -> DrainStatus {
    let left = i64::try_from(leave.bytes_left).unwrap_or(i64::MAX);
    let total = before.map_or(left, |before| before.bytes_total.max(left));
    let started = before
        .and_then(|before| before.started_at.as_ref())
        .map_or(now, |at| at.0);
    let seconds = now
        .duration_since(started)
        .max(SignedDuration::ZERO)
        .as_secs();
    let rate = Some(total - left)
        .filter(|moved| *moved > 0 && seconds > 0)
        .map(|m| m / seconds);
    DrainStatus {
        leaving: i32::try_from(leave.leaving).unwrap_or(i32::MAX),
        slots_left: i32::try_from(leave.slots_left).unwrap_or(i32::MAX),
        bytes_left: left,
        bytes_total: total,
        started_at: Some(Time(started)),
        bytes_per_second: rate,
        eta_seconds: rate.filter(|rate| *rate > 0).map(|rate| left / rate),
        blocker: leave.blocker.clone(),
    }
}

/// Keeps the time of the last change of status.
fn condition(network: &Network, verdict: Verdict, now: Timestamp) -> Condition {
    let Verdict {
        type_,
        holds,
        reason,
        message,
    } = verdict;
    let status = holds.as_str();
    let before = network.status.conditions.iter().find(|c| c.type_ == type_);
    let unchanged = before.filter(|before| before.status == status);
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: Some(network.generation),
        last_transition_time: unchanged
            .map_or_else(|| Time(now), |before| before.last_transition_time.clone()),
    }
}

/// Writes `status` if it is not what the resource says already. Bound to the version of the resource that was observed,
/// so that of two writers the one that knows less fails.
///
/// # Errors
/// When the API server does not take it.
pub(crate) async fn write(
    client: &Client,
    network: &Network,
    status: &PeerNetworkStatus,
) -> Result<(), StatusError> {
    if *status == network.status {
        return Ok(());
    }
    let api: Api<PeerNetwork> = Api::namespaced(client.clone(), &network.namespace);
    let patch = json!({
        "apiVersion": PeerNetwork::api_version(&()),
        "kind": PeerNetwork::kind(&()),
        "metadata": { "uid": network.uid, "resourceVersion": network.resource_version },
        "status": status,
    });
    let mine = PatchParams::apply(MANAGER).force();
    api.patch_status(&network.name, &mine, &Patch::Apply(&patch))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
