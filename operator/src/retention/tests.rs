use peernet_crd::{PeerNetworkSpec, Storage};
use serde_json::Value;

use super::*;
use crate::fake::{self, Asked};

const SET: &str = "/apis/apps/v1/namespaces/ns/statefulsets/demo";
const CLAIMS: &str = "/api/v1/namespaces/ns/persistentvolumeclaims";
const NETWORK: &str = "/apis/peernet.dev/v1alpha1/namespaces/ns/peernetworks/demo";

fn network(retention: Retention, deleting: bool, finalizers: &[&str]) -> PeerNetwork {
    let spec = PeerNetworkSpec {
        storage: Storage {
            retention,
            ..Storage::default()
        },
        ..PeerNetworkSpec::default()
    };
    let mut network = PeerNetwork::new("demo", spec);
    let deleted = deleting.then_some("2026-01-01T00:00:00Z");
    network.metadata = serde_json::from_value(json!({
        "name": "demo", "namespace": "ns", "uid": "uid-1", "resourceVersion": "7",
        "deletionTimestamp": deleted, "finalizers": finalizers,
    }))
    .unwrap();
    network
}

#[test]
fn only_networks_that_take_their_volumes_along_are_held() {
    use Retention::{Delete, Retain};
    let ours = [FINALIZER];
    for (retention, deleting, finalizers, expected) in [
        (Retain, false, &[][..], Step::Nothing),
        (Retain, true, &["x"], Step::Nothing),
        (Retain, false, &ours, Step::Release),
        (Retain, true, &ours, Step::Release),
        (Delete, false, &["x"], Step::Hold),
        (Delete, false, &ours, Step::Nothing),
        (Delete, true, &ours, Step::Delete),
        (Delete, true, &[FINALIZER, ORPHAN], Step::Release),
        (Delete, true, &["x"], Step::Nothing),
    ] {
        let step = step(&network(retention, deleting, finalizers));
        assert_eq!(step, expected, "{retention:?} {deleting} {finalizers:?}");
    }
}

/// The API server of such a network; its StatefulSet is owned by that UID.
async fn settled(resource: PeerNetwork, owner: Option<&str>) -> (Option<Duration>, Vec<Asked>) {
    let known = resource.clone();
    let set = owner.map(|uid| {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {
            "name": "demo", "uid": "set-1", "ownerReferences": [
                {"apiVersion": "x/v1", "kind": "X", "name": "x", "uid": uid, "controller": true},
            ],
        }})
    });
    let claim = |name: &str, deleted: Option<&str>| {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {
            "name": name, "uid": format!("uid-of-{name}"), "deletionTimestamp": deleted,
        }})
    };
    let claims = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": [
        claim("data-demo-0", None),
        claim("data-demo-1", Some("2026-01-01T00:00:00Z")),
        claim("data-demo-12", None),
        claim("data-demo-x-0", None),
        claim("backup", None),
    ]});
    let deleted = json!({"kind": "Status", "status": "Success"});
    let (client, changes) = fake::api(move |asked| match asked.what.split_once(' ')? {
        (_, NETWORK) => serde_json::to_value(&resource).ok(),
        ("GET", SET) => set.clone(),
        ("GET", CLAIMS) => Some(claims.clone()),
        ("DELETE", _) => Some(deleted.clone()),
        _ => None,
    });
    let wait = settle(&client, &Leading::held(), &known).await.unwrap();
    let changes = changes.lock().unwrap().clone();
    (wait, changes)
}

fn finalizers(asked: &Asked) -> (&str, &Value) {
    assert_eq!(asked.body["metadata"]["resourceVersion"], "7");
    (&asked.what, &asked.body["metadata"]["finalizers"])
}

#[tokio::test]
async fn the_volumes_of_a_deleted_network_go_after_its_set_and_before_the_finalizer() {
    let dying = network(Retention::Delete, true, &["x", FINALIZER]);
    let (wait, changes) = settled(dying.clone(), Some("uid-1")).await;
    assert_eq!(wait, Some(SET_GOES));
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].what, format!("DELETE {SET}"));
    assert_eq!(changes[0].body["preconditions"]["uid"], "set-1");

    let (wait, changes) = settled(dying, None).await;
    assert_eq!(wait, None);
    let claims = ["data-demo-0", "data-demo-12"];
    assert_eq!(changes.len(), claims.len() + 1, "{changes:?}");
    for (name, asked) in claims.iter().zip(&changes) {
        assert_eq!(asked.what, format!("DELETE {CLAIMS}/{name}"));
        let uid = &asked.body["preconditions"]["uid"];
        assert_eq!(uid, &format!("uid-of-{name}"));
    }
    let (what, left) = finalizers(&changes[claims.len()]);
    assert_eq!(what, format!("PATCH {NETWORK}"));
    assert_eq!(left, &json!(["x"]));
}

#[tokio::test]
async fn volumes_stay_where_that_was_said_later_or_a_set_lives_on() {
    let kept = network(Retention::Retain, true, &[FINALIZER]);
    let orphaned = network(Retention::Delete, true, &[FINALIZER]);
    for (resource, owner) in [(kept, "uid-1"), (orphaned, "uid-of-another")] {
        let (wait, changes) = settled(resource, Some(owner)).await;
        assert_eq!((wait, changes.len()), (None, 1), "{changes:?}");
        assert_eq!(finalizers(&changes[0]).1, &json!([]));
    }
}

#[tokio::test]
async fn a_network_that_takes_its_volumes_along_gets_the_finalizer_beside_others() {
    let fresh = network(Retention::Delete, false, &["x"]);
    let (wait, changes) = settled(fresh, Some("uid-1")).await;
    assert_eq!((wait, changes.len()), (None, 1), "{changes:?}");
    assert_eq!(finalizers(&changes[0]).1, &json!(["x", FINALIZER]));
    let plain = network(Retention::Retain, false, &[]);
    assert_eq!(settled(plain, Some("uid-1")).await, (None, Vec::new()));
}

#[tokio::test]
async fn nothing_is_deleted_without_the_lease() {
    let dying = network(Retention::Delete, true, &[FINALIZER]);
    let answer = serde_json::to_value(&dying).unwrap();
    let (client, changes) = fake::api(move |_| Some(answer.clone()));
    let refused = settle(&client, &Leading::default(), &dying).await;
    assert!(matches!(refused, Err(RetentionError::NotLeading)));
    assert_eq!(*changes.lock().unwrap(), []);
}
