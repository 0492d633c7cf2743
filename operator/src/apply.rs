//! Makes the objects so, by server-side apply. The one dangerous step of a cycle is here: changing how many pods the
//! StatefulSet asks for. A request that stalled on its way may arrive when another leader has long gone on, and what was
//! meant to raise the number, or to make the set, would then lower it. So it is bound to the set that the cycle decided on.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use peernet_plan::names::MANAGER;
use peernet_plan::observed::{Network, Observed, Set};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;

use crate::build::Objects;
use crate::lease::Leading;
use crate::observe::{self, ObserveError, is_controlled_by};

/// A version that no object has (etcd begins with 2). Server-side apply of it makes an object that is not there, and is
/// refused as a conflict where there is one. (An object that was created in another way has another owner of its fields, and
/// server-side apply would never remove one of them.)
const ABSENT: &str = "1";

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
    /// See [`ObserveError`].
    #[error("cannot look at the StatefulSet again")]
    Look(#[from] ObserveError),
    /// The StatefulSet came, went, or asks for another number of pods than when the cycle began.
    #[error("the StatefulSet is not any more as it was when the cycle began")]
    Changed,
    /// The lease ran out during this cycle; whoever leads now decides.
    #[error("not leading any more: the StatefulSet is left as it is")]
    NotLeading,
}

impl ApplyError {
    /// Somebody else wrote in between; trying again with a fresh look is all it takes.
    pub fn is_conflict(&self) -> bool {
        match self {
            ApplyError::Changed => true,
            ApplyError::Apply {
                source: kube::Error::Api(status),
                ..
            } => status.code == 409,
            _ => false,
        }
    }
}

/// Makes all objects so. Tells whether the StatefulSet asks for something else than when the cycle began, so that its controller
/// has yet to look at it.
///
/// # Errors
/// The first object that could not be; earlier ones stay applied.
pub(crate) async fn apply(
    client: &Client,
    leading: &Leading,
    observed: &Observed,
    objects: Objects,
) -> Result<bool, ApplyError> {
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
    if observed.set.as_ref().is_some_and(|set| set.rolls) && leading.is_held() {
        stop_rolling(client, network).await?;
    }
    let now = observe::set(client, network).await?;
    let set = fence(set, observed.set.as_ref(), now.as_ref())?;
    if !leading.is_held() {
        return Err(ApplyError::NotLeading);
    }
    let applied = apply_one(client, network, &set).await?;
    let before = observed.set.as_ref().map(|set| set.generation);
    Ok(applied.metadata.generation != before)
}

/// Takes the default options of Kubernetes' own rolling update away, which another strategy may not have. Nobody set them, so
/// that server-side apply leaves them.
async fn stop_rolling(client: &Client, network: &Network) -> Result<(), ApplyError> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &network.namespace);
    let other = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    let (name, mine) = (
        network.name.clone(),
        PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        },
    );
    let patched = api.patch(&name, &mine, &Patch::Merge(&other)).await;
    patched.map(drop).map_err(|source| ApplyError::Apply {
        kind: "StatefulSet".into(),
        name,
        source,
    })
}

/// Binds the new state to what was observed, if that still holds `now`: to that very StatefulSet and version, or to there
/// being none. Whoever else touches it from now on (another leader, above all) makes the server refuse. When it is lowered,
/// that goes from the beginning of the cycle on: the pods that go were proved of that version.
fn fence(
    mut set: StatefulSet,
    observed: Option<&Set>,
    now: Option<&Set>,
) -> Result<StatefulSet, ApplyError> {
    let (uid, version) = match (observed, now) {
        (None, None) => (None, ABSENT),
        (Some(then), Some(now)) if then.uid == now.uid && then.replicas == now.replicas => {
            let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
            let lowers = i64::from(wanted.unwrap_or(0)) < i64::from(then.replicas);
            let since = if lowers { then } else { now };
            (Some(since.uid.clone()), &*since.resource_version)
        }
        _ => return Err(ApplyError::Changed),
    };
    set.metadata.uid = uid;
    set.metadata.resource_version = Some(version.to_owned());
    Ok(set)
}

/// Applies an object unless one of that name belongs to something else; tells what it is then.
async fn apply_one<K>(client: &Client, network: &Network, object: &K) -> Result<K, ApplyError>
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
            applied.map_err(|source| ApplyError::Apply { kind, name, source })
        }
        Err(source) => Err(ApplyError::Read { kind, name, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{NodeImage, objects};
    use crate::fake::{self, Asked};
    use peernet_plan::fixture;

    fn built(wanted: u32) -> Objects {
        let image = NodeImage {
            image: "node:1".into(),
            pull_policy: "IfNotPresent".into(),
        };
        objects(&fixture::network(5), &image, wanted)
    }

    fn seen(uid: &str, version: &str, replicas: u32) -> Set {
        Set {
            uid: uid.into(),
            resource_version: version.into(),
            generation: 1,
            replicas,
            revision: None,
            rolls: false,
        }
    }

    #[test]
    fn every_change_is_bound_to_what_was_observed() {
        let fenced = |wanted: u32, replicas: u32| {
            let then = seen("set-1", "42", replicas);
            let now = seen("set-1", "43", replicas);
            let set = fence(built(wanted).set, Some(&then), Some(&now)).unwrap();
            (
                set.metadata.uid.unwrap(),
                set.metadata.resource_version.unwrap(),
            )
        };
        let bound = |version: &str| ("set-1".to_owned(), version.to_owned());
        assert_eq!(fenced(5, 9), bound("42"), "lowered");
        assert_eq!(fenced(9, 9), bound("43"));
        assert_eq!(fenced(9, 5), bound("43"));
        let made = fence(built(5).set, None, None).unwrap().metadata;
        assert_eq!(made.resource_version.as_deref(), Some(ABSENT));
        assert_eq!(made.uid, None);
    }

    #[test]
    fn what_is_not_as_it_was_observed_is_left_alone() {
        let then = seen("set-1", "42", 3);
        let (other, more) = (seen("set-2", "42", 3), seen("set-1", "43", 9));
        for (observed, now) in [
            (Some(&then), None),
            (None, Some(&then)),
            (Some(&then), Some(&other)),
            (Some(&then), Some(&more)),
        ] {
            let refused = fence(built(3).set, observed, now).unwrap_err();
            assert!(refused.is_conflict(), "{observed:?} {now:?}");
        }
    }

    /// What is applied of the set by a cycle that saw none, when there is one of so many pods by now.
    async fn made(by_now: Option<u32>) -> (Result<bool, ApplyError>, Vec<Asked>) {
        let set = by_now.map(|replicas| {
            let mut set = built(replicas).set;
            set.metadata.uid = Some("set-1".into());
            set.metadata.resource_version = Some("42".into());
            set.metadata.generation = Some(1);
            serde_json::to_value(set).unwrap()
        });
        let (client, changes) = fake::api(move |asked| match asked.what.split_once(' ')? {
            ("GET", path) if path.contains("/statefulsets/") => set.clone(),
            ("PATCH", _) => Some(asked.body.clone()),
            _ => None,
        });
        let observed = fixture::fresh(fixture::network(3));
        let applied = apply(&client, &Leading::held(), &observed, built(3)).await;
        let mut changes = changes.lock().unwrap().clone();
        changes.retain(|asked| asked.what.contains("/statefulsets/"));
        (applied, changes)
    }

    #[tokio::test]
    async fn kubernetes_own_rolling_update_is_taken_away_with_its_options() {
        let mut earlier = built(3).set;
        earlier.metadata.uid = Some("set-1".into());
        earlier.metadata.resource_version = Some("42".into());
        earlier.metadata.generation = Some(1);
        let mut earlier = serde_json::to_value(earlier).unwrap();
        let mut observed = fixture::fresh(fixture::network(3));
        observed.set = Some(Set {
            rolls: true,
            ..seen("set-1", "42", 3)
        });
        // As its controller is owned.
        earlier["metadata"]["ownerReferences"][0]["uid"] = json!(observed.network.uid);
        let (client, changes) = fake::api(move |asked| match asked.what.split_once(' ')? {
            ("GET", path) if path.contains("/statefulsets/") => Some(earlier.clone()),
            ("PATCH", path) if path.contains("/statefulsets/") => Some(earlier.clone()),
            ("PATCH", _) => Some(asked.body.clone()),
            _ => None,
        });
        let applied = apply(&client, &Leading::held(), &observed, built(3)).await;
        assert!(!applied.unwrap(), "it asks for what it asked for");
        observed.set.as_mut().unwrap().generation = 0;
        let applied = apply(&client, &Leading::held(), &observed, built(3)).await;
        assert!(applied.unwrap(), "it asks for something else");
        let mut changes = changes.lock().unwrap().clone();
        changes.retain(|asked| asked.what.contains("/statefulsets/"));
        let strategies: Vec<_> = changes
            .iter()
            .map(|c| &c.body["spec"]["updateStrategy"])
            .collect();
        let never = json!({"type": "OnDelete", "rollingUpdate": null});
        let ours = json!({"type": "OnDelete"});
        assert_eq!(strategies, [&never, &ours, &never, &ours]);
    }

    #[tokio::test]
    async fn a_set_that_another_leader_has_made_and_raised_meanwhile_is_not_touched() {
        let (applied, changes) = made(Some(9)).await;
        assert!(applied.unwrap_err().is_conflict());
        assert_eq!(changes, []);
        let (applied, changes) = made(None).await;
        applied.unwrap();
        assert_eq!(changes.len(), 1);
        // Should another leader be quicker still.
        assert_eq!(changes[0].body["metadata"]["resourceVersion"], ABSENT);
    }
}
