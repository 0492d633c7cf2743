//! Deleting what a replaced peer leaves behind, and the annotations that were answered. Everything is bound to the UID
//! or the value that was observed, so that a successor, or a newer request, is never hit.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use peernet_crd::PeerNetwork;
use peernet_plan::names;
use peernet_plan::observed::Network;
use peernet_plan::{Plan, Removal, Restart};
use serde_json::json;
use thiserror::Error;

use crate::lease::Leading;

/// Why something is still there.
#[derive(Debug, Error)]
pub enum RemovalError {
    /// The API server did not delete it.
    #[error("cannot delete {kind} {name}")]
    Delete {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        source: kube::Error,
    },
    /// The API server did not take the annotation away.
    #[error("cannot remove the annotation {0}")]
    Annotation(&'static str, #[source] kube::Error),
    /// The lease ran out during this cycle; whoever leads now decides.
    #[error("not leading any more: nothing is deleted")]
    NotLeading,
}

/// Deletes claim and pod of a replaced peer. The claim first: it goes when its pod does, and while it is there the next
/// cycle knows that the pod is the old one's.
///
/// # Errors
/// The first that could not be; the next cycle tries again.
pub(crate) async fn remove(
    client: &Client,
    leading: &Leading,
    network: &Network,
    removal: &Removal,
) -> Result<(), RemovalError> {
    let Removal {
        pod,
        claim,
        pod_uid,
        force,
    } = removal;
    if !leading.is_held() {
        return Err(RemovalError::NotLeading);
    }
    if let Some(uid) = claim {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &network.namespace);
        let name = names::volume(pod);
        let deleted = api.delete(&name, &only(uid)).await.map(drop);
        settle("PersistentVolumeClaim", name, deleted)?;
    }
    if !leading.is_held() {
        // The first answer may have taken its time.
        return Err(RemovalError::NotLeading);
    }
    if let Some(uid) = pod_uid {
        let api: Api<Pod> = Api::namespaced(client.clone(), &network.namespace);
        // Its peer is retired and has nothing to finish. Without a kubelet nobody would confirm the end.
        let grace = if *force { 0 } else { 1 };
        let how = DeleteParams {
            grace_period_seconds: Some(grace),
            ..only(uid)
        };
        let deleted = api.delete(pod, &how).await.map(drop);
        settle("Pod", pod.clone(), deleted)?;
    }
    Ok(())
}

/// Deletes a pod that is to be started anew; false when it is gone already, or another.
///
/// # Errors
/// See [`RemovalError`]; the next cycle decides again.
pub(crate) async fn restart(
    client: &Client,
    leading: &Leading,
    network: &Network,
    restart: &Restart,
) -> Result<bool, RemovalError> {
    if !leading.is_held() {
        return Err(RemovalError::NotLeading);
    }
    let Restart { pod, uid } = restart;
    let api: Api<Pod> = Api::namespaced(client.clone(), &network.namespace);
    let deleted = api.delete(pod, &only(uid)).await.map(drop);
    let done = deleted.is_ok();
    settle("Pod", pod.clone(), deleted)?;
    Ok(done)
}

fn only(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

/// One that is gone, or has a successor already, is as good as deleted.
fn settle(
    kind: &'static str,
    name: String,
    deleted: Result<(), kube::Error>,
) -> Result<(), RemovalError> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(RemovalError::Delete { kind, name, source }),
        Ok(()) => Ok(()),
    }
}

/// Removes the annotations that the plan has answered, unless they ask for something else by now.
///
/// # Errors
/// When the API server does not do it; then they are answered again.
pub(crate) async fn forget(
    client: &Client,
    network: &Network,
    plan: &Plan,
) -> Result<(), RemovalError> {
    let replaced = plan.replace.as_ref().and_then(|r| r.forget.as_ref());
    let recovered = plan.recover.as_ref().and_then(|r| r.forget.as_ref());
    let answered = [(names::REPLACE, replaced), (names::RECOVER, recovered)];
    let answered = answered.map(|(key, value)| Some((key, value?)));
    if answered.iter().all(Option::is_none) {
        return Ok(());
    }
    let api: Api<PeerNetwork> = Api::namespaced(client.clone(), &network.namespace);
    for (key, value) in answered.into_iter().flatten() {
        let failed = |source| RemovalError::Annotation(key, source);
        let now = api.get_metadata_opt(&network.name).await.map_err(failed)?;
        let Some(now) = now.filter(|now| now.annotations().get(key) == Some(value)) else {
            continue;
        };
        let patch = json!({ "metadata": {
            "resourceVersion": now.metadata.resource_version,
            "annotations": { key: null },
        } });
        match api
            .patch_metadata(
                &network.name,
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
        {
            // Whoever wrote in between may have asked for something else.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(source) => return Err(failed(source)),
            Ok(_) => {}
        }
    }
    Ok(())
}
