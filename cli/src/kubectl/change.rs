//! What the operator is asked to do: written to the resource, then watched until it is answered.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt;
use indicatif::ProgressBar;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use peernet_crd::{PeerNetwork, PeerNetworkStatus};
use serde::Serialize;
use serde_json::json;
use thiserror::Error;

use super::find::{Network, exit_of, said};
use crate::exit::{Exit, INTERRUPTED};
use crate::output::{self, Format};
use crate::progress;

const REPLACE: &str = "peernet.dev/replace";
const RECOVER: &str = "peernet.dev/recover-accept-loss";
/// How long a refused or broken watch is tried again without a word of the API server.
const SILENCE: Duration = Duration::from_secs(60);

/// Why it was not done.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The API server refused, in its own words.
    #[error("{}", said(.0))]
    Api(#[from] kube::Error),
    /// The operator refused.
    #[error("{0}")]
    Refused(String),
    /// Someone else wants something else.
    #[error("someone has asked for something else meanwhile: {0}")]
    Superseded(String),
    /// The resource is gone.
    #[error("the PeerNetwork was deleted meanwhile")]
    Deleted,
    /// Nothing is heard any more.
    #[error("the API server has not been heard for {} s; it goes on without this command", SILENCE.as_secs())]
    Silent,
    /// Nobody can be asked.
    #[error("this loses data for good; to go ahead without a terminal to ask on, add --yes")]
    Unasked,
    /// Somebody said no.
    #[error("nothing was given up")]
    Declined,
    /// The terminal failed.
    #[error("the terminal failed: {0}")]
    Terminal(#[from] io::Error),
}

impl ChangeError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            ChangeError::Api(error) => exit_of(error),
            ChangeError::Unasked => Exit::Usage,
            ChangeError::Silent => Exit::Retryable,
            ChangeError::Refused(_)
            | ChangeError::Superseded(_)
            | ChangeError::Deleted
            | ChangeError::Declined
            | ChangeError::Terminal(_) => Exit::Permanent,
        }
    }
}

/// What the status says of a change.
enum Step {
    /// Not yet, and how far it is.
    UnderWay(String),
    /// Done, and how it went.
    Done(String),
}

/// Asks for a number of peers.
pub(super) async fn scale(
    network: &Network,
    output: Format,
    peers: u32,
) -> Result<ExitCode, ChangeError> {
    let patch = Patch::Merge(json!({ "spec": { "replicas": peers } }));
    let api = network.resource();
    api.patch_scale(&network.name, &PatchParams::default(), &patch)
        .await?;
    let begun = api.get(&network.name).await?.metadata.generation;
    follow(network, output, |resource| scaled(resource, peers, begun)).await
}

fn scaled(resource: &PeerNetwork, peers: u32, begun: Option<i64>) -> Result<Step, ChangeError> {
    let wanted = resource.spec.replicas;
    let peers = i32::try_from(peers).unwrap_or(i32::MAX);
    if wanted != peers {
        return Err(ChangeError::Superseded(output::counted(
            wanted.unsigned_abs().into(),
            "peer",
        )));
    }
    let none = PeerNetworkStatus::default();
    let status = resource.status.as_ref().unwrap_or(&none);
    if status.observed_generation < begun {
        return Ok(Step::UnderWay("waiting for the operator".into()));
    }
    if let Some(drain) = &status.drain {
        let bytes = output::bytes(drain.bytes_left.unsigned_abs());
        let slots = output::counted(drain.slots_left.unsigned_abs().into(), "slot");
        return Ok(Step::UnderWay(format!(
            "{} leaving, {slots} and {bytes} to hand over",
            drain.leaving
        )));
    }
    let (ready, running) = (status.ready_replicas, status.replicas);
    if ready == peers && running == peers {
        return Ok(Step::Done(format!("all {peers} peers are ready")));
    }
    Ok(Step::UnderWay(format!("{ready} of {peers} peers ready")))
}

/// Asks for a peer to begin anew.
pub(super) async fn replace(
    network: &Network,
    output: Format,
    peer: &str,
) -> Result<ExitCode, ChangeError> {
    let before = annotate(network, REPLACE, peer).await?;
    follow(network, output, |resource| {
        replaced(resource, peer, &before)
    })
    .await
}

/// The operator takes the annotation away when it has an answer, and writes the answer right after.
fn replaced(resource: &PeerNetwork, peer: &str, before: &PeerNetwork) -> Result<Step, ChangeError> {
    let waiting = || Step::UnderWay("waiting for the operator".into());
    match resource.annotations().get(REPLACE) {
        Some(other) if other != peer => {
            return Err(ChangeError::Superseded(format!("to replace {other}")));
        }
        _ => {}
    }
    let under_way = resource
        .status
        .as_ref()
        .and_then(|s| s.replacement.as_ref());
    if let Some(replacement) = under_way {
        return Ok(Step::UnderWay(replacement.message.clone()));
    }
    if resource.annotations().contains_key(REPLACE) {
        return Ok(waiting());
    }
    let answer = |of: &PeerNetwork| {
        let conditions = of
            .status
            .as_ref()
            .map(|s| s.conditions.as_slice())
            .unwrap_or_default();
        conditions.iter().find(|c| c.type_ == "Replacing").cloned()
    };
    Ok(match answer(resource) {
        Some(c) if matches!(&*c.reason, "Refused" | "Cancelled") => {
            return Err(ChangeError::Refused(c.message));
        }
        // The same as before is the answer to an earlier request: this one would have moved its time.
        Some(c) if c.reason == "Replaced" && Some(&c) != answer(before).as_ref() => {
            Step::Done(c.message)
        }
        _ => waiting(),
    })
}

/// Asks for peers to be given up, after a yes.
pub(super) async fn recover(
    network: &Network,
    output: Format,
    peers: &[String],
    yes: bool,
    no_input: bool,
) -> Result<ExitCode, ChangeError> {
    let named = peers.join(",");
    if !yes {
        agreed(&named, no_input)?;
    }
    let before = annotate(network, RECOVER, &named).await?;
    let known = before.status.and_then(|s| s.recovery);
    let judge = |resource: &PeerNetwork| {
        let recovery = resource.status.as_ref().and_then(|s| s.recovery.as_ref());
        let message = recovery.map(|r| r.message.clone());
        match resource.annotations().get(RECOVER) {
            Some(other) if *other != named => {
                Err(ChangeError::Superseded(format!("to give up {other}")))
            }
            Some(_) => Ok(Step::UnderWay(
                message.unwrap_or("waiting for the operator".into()),
            )),
            None if recovery.is_some_and(|r| r.finished && r.peers == named)
                && recovery != known.as_ref() =>
            {
                Ok(Step::Done(format!(
                    "given up for good: {}",
                    message.unwrap_or_default()
                )))
            }
            None => Err(ChangeError::Refused(format!(
                "nothing was given up; the reason is among the events: kubectl -n {} describe pn/{}",
                network.namespace, network.name
            ))),
        }
    };
    follow(network, output, judge).await
}

fn agreed(named: &str, no_input: bool) -> Result<(), ChangeError> {
    if no_input || !io::stdin().is_terminal() {
        return Err(ChangeError::Unasked);
    }
    write!(
        io::stderr(),
        "This gives up for good {named} and what only they held. Type yes to do it: "
    )?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        Ok(())
    } else {
        Err(ChangeError::Declined)
    }
}

async fn annotate(network: &Network, key: &str, value: &str) -> Result<PeerNetwork, kube::Error> {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { key: value } } }));
    network
        .resource()
        .patch(&network.name, &PatchParams::default(), &patch)
        .await
}

/// What scripts get.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    network: &'a str,
    namespace: &'a str,
    message: String,
}

/// Watches the resource until it is done; ctrl-C stops only the watching.
async fn follow(
    network: &Network,
    output: Format,
    judge: impl Fn(&PeerNetwork) -> Result<Step, ChangeError>,
) -> Result<ExitCode, ChangeError> {
    let bar = progress::spinner("asking the operator");
    let watched = tokio::select! {
        watched = watch(network.resource(), &network.name, &bar, judge) => watched,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            writeln!(io::stderr(), "it goes on without this command; `kubectl get pn` shows how far it is")?;
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    bar.finish_and_clear();
    let message = watched?;
    let (name, namespace) = (&network.name, &network.namespace);
    if !output.document(&Outcome {
        network: name,
        namespace,
        message: message.clone(),
    })? {
        output::print(&format!("{message}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn watch(
    api: Api<PeerNetwork>,
    name: &str,
    bar: &ProgressBar,
    judge: impl Fn(&PeerNetwork) -> Result<Step, ChangeError>,
) -> Result<String, ChangeError> {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(api, only).default_backoff());
    let mut last_heard = tokio::time::Instant::now();
    let (mut said, mut seen) = (String::new(), false);
    loop {
        let resource = match changes.next().await {
            Some(Ok(watcher::Event::Apply(resource) | watcher::Event::InitApply(resource))) => {
                resource
            }
            Some(Ok(watcher::Event::Delete(_))) => return Err(ChangeError::Deleted),
            Some(Ok(watcher::Event::InitDone)) if !seen => return Err(ChangeError::Deleted),
            Some(Err(_)) if last_heard.elapsed() > SILENCE => return Err(ChangeError::Silent),
            Some(_) => continue,
            None => return Err(ChangeError::Silent),
        };
        (last_heard, seen) = (tokio::time::Instant::now(), true);
        match judge(&resource)? {
            Step::Done(message) => return Ok(message),
            Step::UnderWay(message) if io::stderr().is_terminal() => bar.set_message(message),
            Step::UnderWay(message) if message != said => {
                writeln!(io::stderr(), "{}", output::visible(&message))?;
                said = message;
            }
            Step::UnderWay(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use peernet_crd::{DrainStatus, PeerNetworkSpec};

    use super::*;

    fn resource(replicas: i32, status: PeerNetworkStatus) -> PeerNetwork {
        let spec = PeerNetworkSpec {
            replicas,
            ..PeerNetworkSpec::default()
        };
        let mut resource = PeerNetwork::new("demo", spec);
        resource.status = Some(status);
        resource
    }

    fn words(step: Result<Step, ChangeError>) -> String {
        match step {
            Ok(Step::UnderWay(text)) => format!("under way: {text}"),
            Ok(Step::Done(text)) => format!("done: {text}"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn a_scale_is_done_when_the_operator_has_seen_it_and_all_are_ready() {
        let status = |observed, replicas, ready_replicas, drain| PeerNetworkStatus {
            observed_generation: Some(observed),
            replicas,
            ready_replicas,
            drain,
            ..PeerNetworkStatus::default()
        };
        let drain = DrainStatus {
            leaving: 2,
            slots_left: 7,
            bytes_left: 2048,
            ..DrainStatus::default()
        };
        let expected = [
            (status(1, 3, 3, None), "under way: waiting for the operator"),
            (
                status(2, 5, 5, Some(drain)),
                "under way: 2 leaving, 7 slots and 2.0 KiB to hand over",
            ),
            (status(2, 3, 2, None), "under way: 2 of 3 peers ready"),
            (status(2, 3, 3, None), "done: all 3 peers are ready"),
        ];
        for (status, text) in expected {
            assert_eq!(words(scaled(&resource(3, status), 3, Some(2))), text);
        }
        let other = resource(4, status(2, 4, 4, None));
        assert_eq!(
            words(scaled(&other, 3, Some(2))),
            "error: someone has asked for something else meanwhile: 4 peers"
        );
    }
}
