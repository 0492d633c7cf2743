//! The operator's life: stand by, lead, stop.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::controller::{Config, Controller, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use peernet_crd::PeerNetwork;
use peernet_plan::names;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::build::NodeImage;
use crate::causes::causes;
use crate::health::{self, Readiness};
use crate::lease::Elector;
use crate::peers::Peers;
use crate::reconcile::{Context, on_error, reconcile};

/// Networks worked on at once. Bounds memory: a cycle holds all reports of a network (guess).
const NETWORKS_AT_ONCE: u16 = 16;

/// Longest that cycles which have begun may take to end. Each of their requests has a limit, but the controller itself does
/// not end while it waits for its first list of objects (guess: shorter than a pod's grace period).
const LAST_CYCLES: Duration = Duration::from_secs(20);

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For networks that name no image.
    pub node_image: NodeImage,
    /// Where the probes are answered.
    pub health_listen: SocketAddr,
    /// Namespace of the Lease; the kubeconfig's or the pod's own when not given.
    pub lease_namespace: Option<String>,
    /// This process among others that run at the same time.
    pub me: String,
}

/// Why the operator ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// No kubeconfig, no service account, or an unusable one.
    #[error("cannot find out how to reach the API server")]
    Config(#[from] kube::config::InferConfigError),
    /// A client cannot be made of it.
    #[error("cannot make a client for the API server")]
    Client(#[source] kube::Error),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// Probes cannot be answered.
    #[error("cannot serve probes at {0}")]
    Health(SocketAddr, #[source] std::io::Error),
    /// Another one leads; a fresh start stands by again.
    #[error("the lease was lost")]
    LeaseLost,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// See [`RunError`].
pub async fn run(settings: Settings) -> Result<(), RunError> {
    let Settings {
        node_image,
        health_listen,
        lease_namespace,
        me,
    } = settings;
    let mut config = kube::Config::infer().await?;
    // What is refused for now would be asked for minutes again on the strength of what a cycle saw at its beginning, while
    // no other begins. Cycles, watches and the election all try again by themselves.
    config.default_retry = false;
    let namespace = lease_namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(RunError::Client)?;
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let readiness = Readiness::default();
    let closing = CancellationToken::new();
    let probes = health::serve(health_listen, readiness.clone(), closing.clone());
    let probes = tokio::spawn(probes);

    let mut elector = Elector::new(client.clone(), &namespace, me.clone());
    let leading = elector.leading();
    let context = Arc::new(Context {
        client,
        peers: Peers::default(),
        node_image,
        leading,
        me,
        began: Mutex::new(HashMap::new()),
    });
    let result = tokio::select! {
        ended = probes => match ended {
            Ok(Err(error)) => Err(RunError::Health(health_listen, error)),
            // It ends without an error only when it is told to.
            Ok(Ok(())) | Err(_) => Ok(()),
        },
        ended = lead(&mut elector, context, &readiness, &stop) => ended,
    };
    readiness.set(false);
    closing.cancel();
    if let Err(error) = elector.release().await {
        tracing::warn!(error = causes(&error), "the lease runs out by itself");
    }
    result
}

/// Stands by, then controls until told to stop or until the lease is lost.
async fn lead(
    elector: &mut Elector,
    context: Arc<Context>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    readiness.set(true);
    tracing::info!(me = context.me, "standing by");
    tokio::select! {
        () = elector.acquire() => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(me = context.me, "leading");
    let done = stop.child_token();
    let control = control(context, done.clone());
    tokio::pin!(control);
    // The lease is renewed until the last cycle has ended.
    tokio::select! {
        () = &mut control => Ok(()),
        () = elector.hold() => {
            done.cancel();
            control.await;
            Err(RunError::LeaseLost)
        }
    }
}

/// Reconciles until `done`, and finishes the cycles that have begun, as far as they end in time.
pub(crate) async fn control(context: Arc<Context>, done: CancellationToken) {
    let client = &context.client;
    let ours = watcher::Config::default().labels(&names::any_network());
    let controller = Controller::new(
        Api::<PeerNetwork>::all(client.clone()),
        watcher::Config::default(),
    )
    .with_config(Config::default().concurrency(NETWORKS_AT_ONCE))
    .owns(Api::<StatefulSet>::all(client.clone()), ours.clone())
    .owns(Api::<Service>::all(client.clone()), ours.clone())
    .owns(
        Api::<PodDisruptionBudget>::all(client.clone()),
        ours.clone(),
    )
    .watches(Api::<Pod>::all(client.clone()), ours, network_of_pod)
    .graceful_shutdown_on(done.clone().cancelled_owned());
    let cycles = controller.run(reconcile, on_error, context.clone());
    let cycles = cycles.for_each(|result| async move {
        match result {
            Ok(_) | Err(ControllerError::ReconcilerFailed(..)) => {}
            Err(ControllerError::ObjectNotFound(gone)) => tracing::debug!(%gone, "gone"),
            Err(error) => tracing::warn!(%error, "the watch failed; it is tried again"),
        }
    });
    let overdue = async {
        done.cancelled().await;
        sleep(LAST_CYCLES).await;
    };
    tokio::select! {
        () = cycles => {}
        () = overdue => tracing::warn!("gave up waiting for the last cycles"),
    }
}

fn network_of_pod(pod: Pod) -> Option<ObjectRef<PeerNetwork>> {
    let network = names::network_of(pod.labels())?;
    Some(ObjectRef::new(network).within(&pod.namespace()?))
}

fn stop_on_signals(stop: &CancellationToken) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::lease::Leading;

    /// The lease may be lost before the API server has listed anything; an operator that then waits for ever keeps its pod,
    /// its readiness and everybody else from leading.
    #[tokio::test(start_paused = true)]
    async fn control_ends_when_told_to_though_the_api_server_never_answered() {
        let silent = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, std::io::Error>>()
        });
        let context = Context {
            client: Client::new(silent, "ns"),
            peers: Peers::default(),
            node_image: NodeImage {
                image: "node:1".into(),
                pull_policy: "Never".into(),
            },
            leading: Leading::default(),
            me: "a".into(),
            began: Mutex::default(),
        };
        let done = CancellationToken::new();
        done.cancel();
        let control = control(Arc::new(context), done);
        let ended = tokio::time::timeout(LAST_CYCLES * 2, control).await;
        assert!(ended.is_ok(), "it waits for ever");
    }
}
