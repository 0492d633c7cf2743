//! Deleting what a replaced peer leaves behind, and the annotations that were answered. Everything is bound to the UID
//! or the value that was observed, so that a successor, or a newer request, is never hit.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Client, ResourceExt};
use peernet_crd::PeerNetwork;
use peernet_plan::names;
use peernet_plan::observed::{Network, Observed, PeerPod};
use peernet_plan::{Plan, Removal, Restart};
use serde_json::json;
use thiserror::Error;

use crate::lease::Leading;

/// How the API server says that a disruption budget allows no eviction now (API-initiated Eviction).
const OVER_BUDGET: u16 = 429;

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
    /// The API server did not answer to an eviction.
    #[error("cannot evict Pod {0}")]
    Evict(String, #[source] kube::Error),
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

/// Ends a pod that is to be started anew; false when it is gone already, another, or may not go.
///
/// One that serves is evicted, so that the disruption budget has a say: a node that is being drained may have taken another
/// one since the operator looked. The budget does not know who serves nobody, and would hold such a pod back; nor that
/// somebody has left for good and is never ready again, and would hold back everybody.
///
/// # Errors
/// See [`RemovalError`]; the next cycle decides again.
pub(crate) async fn restart(
    client: &Client,
    leading: &Leading,
    observed: &Observed,
    restart: &Restart,
) -> Result<bool, RemovalError> {
    if !leading.is_held() {
        return Err(RemovalError::NotLeading);
    }
    let Restart { pod, uid } = restart;
    let api: Api<Pod> = Api::namespaced(client.clone(), &observed.network.namespace);
    let serves = observed.pods.values().any(|p| p.uid == *uid && p.ready);
    if serves && !observed.pods.values().any(PeerPod::has_left) {
        return match evict(&api, pod, uid).await {
            Ok(()) => Ok(true),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | OVER_BUDGET) => {
                tracing::info!(pod, "not restarted now: {}", status.message);
                Ok(false)
            }
            // It may stay so, and is no reason to leave other work undone.
            Err(kube::Error::Api(status)) => {
                tracing::warn!(pod, "its eviction is refused: {}", status.message);
                Ok(false)
            }
            Err(source) => Err(RemovalError::Evict(pod.clone(), source)),
        };
    }
    let deleted = api.delete(pod, &only(uid)).await.map(drop);
    let done = deleted.is_ok();
    settle("Pod", pod.clone(), deleted)?;
    Ok(done)
}

/// By hand, because [`Api::evict`] loses its precondition: it calls the field `delete_options`, which the API server does not
/// know.
async fn evict(api: &Api<Pod>, pod: &str, uid: &str) -> Result<(), kube::Error> {
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "name": pod },
        "deleteOptions": { "preconditions": { "uid": uid } },
    });
    let how = PostParams::default();
    let evicted: Result<Status, _> = api
        .create_subresource("eviction", pod, &how, &eviction)
        .await;
    evicted.map(drop)
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

#[cfg(test)]
mod tests {
    use peernet_plan::fixture;
    use serde_json::Value;

    use super::*;
    use crate::fake;

    /// Restarts demo-1, which is ready or not, where the API server answers so: whether that was done, and what was asked.
    async fn restarted(observed: &Observed, answer: Value) -> (bool, fake::Asked) {
        let wanted = Restart {
            pod: "demo-1".into(),
            uid: "pod-1".into(),
        };
        let (client, asked) = fake::api(move |_| Some(answer.clone()));
        let done = restart(&client, &Leading::held(), observed, &wanted).await;
        let asked = asked.lock().unwrap().remove(0);
        (done.unwrap(), asked)
    }

    fn failure(code: u16) -> Value {
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": "", "message": "no"})
    }

    fn success() -> Value {
        json!({"kind": "Status", "status": "Success"})
    }

    fn is_deletion(asked: &fake::Asked) {
        assert!(asked.what.starts_with("DELETE ") && asked.what.ends_with("/pods/demo-1"));
        assert_eq!(asked.body["preconditions"]["uid"], "pod-1");
    }

    #[tokio::test]
    async fn who_serves_is_evicted_and_who_does_not_is_deleted() {
        let mut observed = fixture::founded(3, 3);
        let (done, evicted) = restarted(&observed, success()).await;
        assert!(done);
        assert!(
            evicted.what.starts_with("POST ") && evicted.what.ends_with("/pods/demo-1/eviction")
        );
        assert_eq!(
            evicted.body["deleteOptions"]["preconditions"]["uid"],
            "pod-1"
        );
        observed.pods.get_mut(&1).unwrap().ready = false;
        let (done, deleted) = restarted(&observed, success()).await;
        assert!(done);
        is_deletion(&deleted);
    }

    #[tokio::test]
    async fn who_has_left_does_not_make_the_budget_hold_back_the_others() {
        let mut observed = fixture::founded(3, 3);
        let left = observed.pods.get_mut(&2).unwrap();
        left.answer.as_mut().unwrap().volume.left = true;
        let (done, deleted) = restarted(&observed, success()).await;
        assert!(done);
        is_deletion(&deleted);
    }

    #[tokio::test]
    async fn who_may_not_go_is_left_to_the_next_cycle() {
        let observed = fixture::founded(3, 3);
        for code in [403, 404, 409, OVER_BUDGET, 500] {
            assert!(!restarted(&observed, failure(code)).await.0, "{code}");
        }
    }
}
