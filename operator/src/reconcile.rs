//! One cycle: observe → validate → plan → build → apply → drain → status, and at last what may be cleared away. Only the
//! first step and those from apply on touch anything; the middle is pure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt};
use peernet_crd::PeerNetwork;
use peernet_plan::{Plan, plan};
use thiserror::Error;
use tokio::time::Instant;

use crate::apply::{ApplyError, apply};
use crate::build::{NodeImage, objects};
use crate::causes::causes;
use crate::drain::{Told, hint, tell};
use crate::events;
use crate::lease::Leading;
use crate::observe::{ObserveError, observe};
use crate::peers::Peers;
use crate::removal::{RemovalError, forget, remove, restart};
use crate::retention::{self, RetentionError};
use crate::status::{self, StatusError};

/// Between cycles of one network, however much happens: a drain's own status would otherwise drive the next look at it.
const PACE: Duration = Duration::from_millis(700);
/// While something is under way that no watch tells of: peers are asked (guess).
const BUSY: Duration = Duration::from_secs(2);
/// While peers leave; each second shows in how long a leave takes.
const LEAVING: Duration = Duration::from_secs(1);
/// When all is well: catches what watches miss (guess).
const SETTLED: Duration = Duration::from_secs(30);
/// After an error (guess).
const RETRY: Duration = Duration::from_secs(5);

/// What cycles share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The peers.
    pub peers: Peers,
    /// For networks that name no image.
    pub node_image: NodeImage,
    /// Whether acting is allowed.
    pub leading: Leading,
    /// This process's name.
    pub me: String,
    /// When a network's last cycle began, by UID.
    pub began: Mutex<HashMap<String, Instant>>,
}

/// Why a cycle did not end well.
#[derive(Debug, Error)]
pub enum CycleError {
    /// See [`ObserveError`].
    #[error("cannot observe")]
    Observe(#[from] ObserveError),
    /// See [`RetentionError`].
    #[error("cannot see to the volumes")]
    Retention(#[from] RetentionError),
    /// See [`ApplyError`].
    #[error("cannot apply")]
    Apply(#[from] ApplyError),
    /// See [`StatusError`].
    #[error("cannot answer")]
    Status(#[from] StatusError),
    /// See [`RemovalError`].
    #[error("cannot delete a pod or a volume")]
    Removal(#[from] RemovalError),
}

impl CycleError {
    fn is_conflict(&self) -> bool {
        match self {
            CycleError::Observe(_) | CycleError::Removal(_) => false,
            CycleError::Retention(error) => error.is_conflict(),
            CycleError::Apply(error) => error.is_conflict(),
            CycleError::Status(error) => error.is_conflict(),
        }
    }
}

/// Brings a network one step nearer to what its resource says.
///
/// # Errors
/// See [`CycleError`]; what was done stays done, and the next cycle goes on from there.
pub async fn reconcile(
    resource: Arc<PeerNetwork>,
    context: Arc<Context>,
) -> Result<Action, CycleError> {
    if let Some(wait) = context.too_soon(&resource.uid().unwrap_or_default()) {
        return Ok(Action::requeue(wait));
    }
    let Context {
        client,
        peers,
        node_image,
        leading,
        me,
        began: _,
    } = &*context;
    let (name, namespace) = (
        resource.name_any(),
        resource.namespace().unwrap_or_default(),
    );
    // Also where the rest of the resource is not valid: it could never be deleted.
    if let Some(wait) = retention::settle(client, leading, &resource).await? {
        return Ok(Action::requeue(wait));
    }
    let Some(mut observed) = observe(client, peers, &namespace, &name).await? else {
        return Ok(Action::await_change());
    };
    if let Err(violation) = observed.network.validate() {
        let refusal = status::refusal(&observed.network, &violation, Timestamp::now());
        status::write(client, &observed.network, &refusal).await?;
        return Ok(Action::await_change());
    }
    let mut plan = plan(&observed);
    let objects = objects(&observed.network, node_image, plan.replicas);
    // Hints are worth something only while they are fresh.
    let ((), applied) = tokio::join!(
        hint(peers, &plan),
        apply(client, leading, &observed, objects)
    );
    if let (Ok(true), Some(set)) = (&applied, &mut observed.set) {
        // Whose pods follow it is not known yet.
        set.revision = None;
    }
    let told = match &applied {
        Ok(_) => tell(peers, &observed, &plan).await,
        Err(error) => {
            plan.keep(&observed, causes(error));
            Told::default()
        }
    };
    for failure in &told.failures {
        tracing::warn!(network = name, namespace, "{failure}");
    }
    let answer = status::answer(&observed, &plan, Timestamp::now());
    if !matches!(&applied, Err(error) if error.is_conflict()) {
        status::write(client, &observed.network, &answer).await?;
        let news = events::news(&observed, &plan, &told, &answer);
        events::publish(client, me, &observed.network, news).await;
    }
    applied?;
    if let Some(removal) = plan.replace.as_ref().and_then(|r| r.removal.as_ref()) {
        remove(client, leading, &observed.network, removal).await?;
    }
    forget(client, &observed.network, &plan).await?;
    if let Some(outdated) = &plan.restart
        && restart(client, leading, &observed, outdated).await?
    {
        let news = vec![events::restarted(outdated)];
        events::publish(client, me, &observed.network, news).await;
    }
    // No watch tells that a broker is back.
    let settled = status::is_settled(&observed, &plan) && status::is_connected(&observed);
    Ok(Action::requeue(pause(&plan, settled)))
}

fn pause(plan: &Plan, settled: bool) -> Duration {
    match plan {
        Plan { leave: Some(_), .. } => LEAVING,
        _ if settled => SETTLED,
        _ => BUSY,
    }
}

/// When to try again after an error.
pub fn on_error(resource: Arc<PeerNetwork>, error: &CycleError, _: Arc<Context>) -> Action {
    if error.is_conflict() {
        return Action::requeue(PACE);
    }
    tracing::warn!(
        network = resource.name_any(),
        error = causes(error),
        "the cycle failed"
    );
    Action::requeue(RETRY)
}

impl Context {
    /// How long the next cycle of a network has to wait; if not at all, it begins.
    fn too_soon(&self, uid: &str) -> Option<Duration> {
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        began.retain(|_, at| at.elapsed() < PACE);
        if let Some(at) = began.get(uid) {
            return Some(PACE.saturating_sub(at.elapsed()));
        }
        began.insert(uid.to_owned(), Instant::now());
        None
    }
}
