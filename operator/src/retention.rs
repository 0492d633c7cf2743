//! What becomes of the volumes when a network is deleted. The StatefulSet never deletes any: it can go while its network
//! lives on (`kubectl delete all --all`), and what it was told of a retention may be out of date. Where the network's own
//! says so, the operator deletes them, and a finalizer keeps the resource until it has.
//!
//! Networks that keep their volumes have no finalizer, and can be deleted when no operator runs.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use peernet_crd::{PeerNetwork, Retention};
use peernet_plan::names;
use serde_json::json;
use thiserror::Error;

use crate::lease::Leading;
use crate::observe::is_controlled_by;

/// Keeps a network whose volumes go with it until they are deleted.
const FINALIZER: &str = "peernet.dev/volumes";
/// Kubernetes' own, of `kubectl delete --cascade=orphan`: what the network owns is to live on.
const ORPHAN: &str = "orphan";
/// Until a StatefulSet that was deleted is gone (guess).
const SET_GOES: Duration = Duration::from_secs(1);

/// Why the volumes, or the finalizer, are not as the retention says.
#[derive(Debug, Error)]
pub enum RetentionError {
    /// The API server did not tell.
    #[error("cannot read {0}")]
    Read(&'static str, #[source] kube::Error),
    /// The API server did not take the resource's finalizers.
    #[error("cannot change the finalizers of the PeerNetwork")]
    Finalizers(#[source] kube::Error),
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
    /// The lease ran out during this cycle; whoever leads now decides.
    #[error("not leading any more: no volume is deleted")]
    NotLeading,
}

impl RetentionError {
    /// Somebody else wrote in between; trying again with a fresh look is all it takes.
    pub fn is_conflict(&self) -> bool {
        matches!(self, RetentionError::Finalizers(kube::Error::Api(status)) if status.code == 409)
    }
}

/// What there is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Nothing.
    Nothing,
    /// Add the finalizer.
    Hold,
    /// Take it away; the volumes stay.
    Release,
    /// Delete the volumes, then take it away.
    Delete,
}

fn step(resource: &PeerNetwork) -> Step {
    let has = |name: &str| resource.finalizers().iter().any(|f| f == name);
    let (held, deleting) = (
        has(FINALIZER),
        resource.metadata.deletion_timestamp.is_some(),
    );
    match resource.spec.storage.retention {
        Retention::Delete if deleting && held && !has(ORPHAN) => Step::Delete,
        Retention::Delete if !deleting && !held => Step::Hold,
        Retention::Delete if !deleting => Step::Nothing,
        Retention::Delete | Retention::Retain if held => Step::Release,
        Retention::Delete | Retention::Retain => Step::Nothing,
    }
}

/// Does the next step. When it returns a time, the cycle is to end here and the next one to begin then.
///
/// # Errors
/// See [`RetentionError`]; the next cycle goes on from there.
pub(crate) async fn settle(
    client: &Client,
    leading: &Leading,
    known: &PeerNetwork,
) -> Result<Option<Duration>, RetentionError> {
    if step(known) == Step::Nothing {
        return Ok(None);
    }
    // What is known comes from a watch's cache, and may be out of date.
    let namespace = known.namespace().unwrap_or_default();
    let api: Api<PeerNetwork> = Api::namespaced(client.clone(), &namespace);
    let found = api.get_opt(&known.name_any()).await;
    let found = found.map_err(|source| RetentionError::Read("the PeerNetwork", source))?;
    let Some(resource) = found.filter(|found| found.uid() == known.uid()) else {
        return Ok(None);
    };
    if !leading.is_held() {
        return Err(RetentionError::NotLeading);
    }
    let others = resource.finalizers().iter().filter(|f| *f != FINALIZER);
    let mut finalizers: Vec<String> = others.cloned().collect();
    match step(&resource) {
        Step::Nothing => return Ok(None),
        Step::Hold => finalizers.push(FINALIZER.to_owned()),
        Step::Release => {}
        Step::Delete => {
            if let Some(wait) = delete_volumes(client, &resource, &namespace).await? {
                return Ok(Some(wait));
            }
        }
    }
    let (name, how) = (resource.name_any(), PatchParams::default());
    let patch = Patch::Merge(json!({ "metadata": {
        "resourceVersion": resource.metadata.resource_version,
        "finalizers": finalizers,
    } }));
    match api.patch_metadata(&name, &how, &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(source) => Err(RetentionError::Finalizers(source)),
        Ok(_) => Ok(None),
    }
}

/// The StatefulSet first: it would make claims anew for its pods. Those pods may take their time, or stay for ever on a node
/// that is gone; Kubernetes keeps each claim until its pod is, so that claims need only be marked here.
async fn delete_volumes(
    client: &Client,
    resource: &PeerNetwork,
    namespace: &str,
) -> Result<Option<Duration>, RetentionError> {
    let (name, uid) = (resource.name_any(), resource.uid().unwrap_or_default());
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let set = sets.get_metadata_opt(&name).await;
    let set = set.map_err(|source| RetentionError::Read("the StatefulSet", source))?;
    match set.map(|set| set.metadata) {
        Some(set) if !is_controlled_by(&set, &uid) => {
            tracing::warn!(
                network = name,
                "the volumes stay: the StatefulSet of that name is not the network's"
            );
            return Ok(None);
        }
        // One that is being deleted makes nothing any more.
        Some(set) if set.deletion_timestamp.is_none() => {
            let deleted = sets.delete(&name, &only(&set)).await.map(drop);
            gone("StatefulSet", name, deleted)?;
            return Ok(Some(SET_GOES));
        }
        Some(_) | None => {}
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels(&names::selector(&name));
    let found = claims.list_metadata(&ours).await;
    let found = found.map_err(|source| RetentionError::Read("the volume claims", source))?;
    for claim in found.items {
        let there = claim.metadata.deletion_timestamp.is_none();
        let claim_name = claim.name_any();
        if there && names::volume_ordinal(&name, &claim_name).is_some() {
            tracing::info!(network = name, claim = claim_name, "deleting a volume");
            let deleted = claims.delete(&claim_name, &only(&claim.metadata)).await;
            gone("PersistentVolumeClaim", claim_name, deleted.map(drop))?;
        }
    }
    Ok(None)
}

/// Deletes that very object, and what it owns afterwards.
fn only(object: &ObjectMeta) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: object.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::background()
    }
}

/// One that is gone, or has a successor already, is as good as deleted.
fn gone(
    kind: &'static str,
    name: String,
    deleted: Result<(), kube::Error>,
) -> Result<(), RetentionError> {
    match deleted {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(RetentionError::Delete { kind, name, source }),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
