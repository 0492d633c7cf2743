//! Makes the objects so, by server-side apply. The one dangerous step of a cycle is here: lowering the StatefulSet.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use peernet_plan::names::MANAGER;
use peernet_plan::observed::{Network, Observed, Set};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::build::Objects;
use crate::lease::Leading;
use crate::observe::is_controlled_by;

/// Why the objects are not as they should be.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The API server did not tell about an object.
    #[error("cannot read {kind} {name}")]
    Read {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why not.
        source: kube::Error,
    },
    /// The API server did not take an object.
    #[error("cannot apply {kind} {name}")]
    Apply {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why not.
        source: kube::Error,
    },
    /// An object of that name is there, but is not ours to change.
    #[error(
        "{kind} {name} exists and does not belong to this network; delete it, or give the network another name"
    )]
    Foreign {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The lease ran out during this cycle; whoever leads now decides.
    #[error("not leading any more: the StatefulSet is left as it is")]
    NotLeading,
}

impl ApplyError {
    /// Somebody else wrote in between; trying again with a fresh look is all it takes.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ApplyError::Apply { source: kube::Error::Api(status), .. } if status.code == 409)
    }
}

/// Makes all objects so.
///
/// # Errors
/// The first object that could not be; earlier ones stay applied.
pub(crate) async fn apply(
    client: &Client,
    leading: &Leading,
    observed: &Observed,
    objects: Objects,
) -> Result<(), ApplyError> {
    let Objects {
        account,
        headless,
        service,
        budget,
        policy,
        set,
    } = objects;
    let network = &observed.network;
    apply_one(client, network, &account).await?;
    apply_one(client, network, &headless).await?;
    apply_one(client, network, &service).await?;
    apply_one(client, network, &budget).await?;
    apply_one(client, network, &policy).await?;
    let set = fence(set, observed.set.as_ref());
    if !leading.is_held() {
        return Err(ApplyError::NotLeading);
    }
    apply_one(client, network, &set).await
}

/// Binds the new state to what was observed: always to that very StatefulSet, and, when it is lowered, to that very
/// version of it. Whoever else touched it since then (another leader, above all) makes the server refuse.
fn fence(mut set: StatefulSet, observed: Option<&Set>) -> StatefulSet {
    let Some(Set {
        uid,
        resource_version,
        replicas,
    }) = observed
    else {
        return set;
    };
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(0);
    set.metadata.uid = Some(uid.clone());
    if i64::from(wanted) < i64::from(*replicas) {
        set.metadata.resource_version = Some(resource_version.clone());
    }
    set
}

/// Applies an object unless one of that name belongs to something else.
async fn apply_one<K>(client: &Client, network: &Network, object: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &network.namespace);
    let (kind, name) = (K::kind(&()).into_owned(), object.name_any());
    match api.get_metadata_opt(&name).await {
        Ok(Some(found)) if !is_controlled_by(&found.metadata, &network.uid) => {
            Err(ApplyError::Foreign { kind, name })
        }
        Ok(_) => {
            let mine = PatchParams::apply(MANAGER).force();
            let applied = api.patch(&name, &mine, &Patch::Apply(object)).await;
            applied
                .map(drop)
                .map_err(|source| ApplyError::Apply { kind, name, source })
        }
        Err(source) => Err(ApplyError::Read { kind, name, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{NodeImage, objects};
    use peernet_plan::fixture;

    fn fenced(wanted: u32, replicas: u32) -> StatefulSet {
        let image = NodeImage {
            image: "node:1".into(),
            pull_policy: "IfNotPresent".into(),
        };
        let set = objects(&fixture::network(5), &image, wanted).set;
        fence(
            set,
            Some(&Set {
                uid: "set-1".into(),
                resource_version: "42".into(),
                replicas,
            }),
        )
    }

    #[test]
    fn lowering_is_bound_to_the_observed_version() {
        assert_eq!(
            fenced(5, 9).metadata.resource_version.as_deref(),
            Some("42")
        );
        assert_eq!(fenced(9, 9).metadata.resource_version, None);
        assert_eq!(fenced(9, 5).metadata.resource_version, None);
        assert_eq!(fenced(9, 5).metadata.uid.as_deref(), Some("set-1"));
    }
}
