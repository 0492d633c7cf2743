//! The chart's roles allow what this code asks of the API server, and nothing else: all of it is asked here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use kube::client::Body;
use peernet_crd::{PeerNetwork, PeerNetworkSpec, PeerNetworkStatus, Retention};
use peernet_plan::{Removal, Restart, fixture, names};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::build::{NodeImage, objects};
use crate::lease::{Elector, Leading};
use crate::peers::Peers;
use crate::reconcile::{Context, reconcile};
use crate::removal::{remove, restart};
use crate::retention;
use crate::run::control;

const ROLES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../charts/peernet/templates/rbac.yaml"
);
/// Asked by no request: an API server that enforces permissions of owners wants it of those who set `blockOwnerDeletion`.
const OF_OWNERS: [&str; 3] = ["peernet.dev", "peernetworks/finalizers", "update"];

/// One thing that is allowed or asked: group, resource and verb, and which one of them if it is about one.
type Permission = ([String; 3], Option<String>);

fn texts<const N: usize>(texts: [&str; N]) -> [String; N] {
    texts.map(str::to_owned)
}

/// What the chart's roles allow.
fn allowed() -> Vec<Permission> {
    let template = std::fs::read_to_string(ROLES).unwrap();
    // Names and labels are all that is filled in.
    let lines = template.lines().map(|line| match line.split_once("{{") {
        Some((before, _)) => format!("{before}x\n"),
        None => format!("{line}\n"),
    });
    let mut allowed = Vec::new();
    for role in serde_yaml::Deserializer::from_str(&lines.collect::<String>()) {
        let mut role = Value::deserialize(role).unwrap();
        let rules: Option<Vec<PolicyRule>> = serde_json::from_value(role["rules"].take()).unwrap();
        for rule in rules.into_iter().flatten() {
            let groups = rule.api_groups.unwrap_or_default();
            let only = rule.resource_names.unwrap_or_default();
            assert!(
                groups.len() == 1 && only.len() < 2,
                "write one rule for each"
            );
            for resource in rule.resources.iter().flatten() {
                allowed.extend(rule.verbs.iter().map(|verb| {
                    let what = texts([&groups[0], resource, verb]);
                    (what, only.first().cloned())
                }));
            }
        }
    }
    allowed
}

/// What has been asked.
type Log = Arc<Mutex<BTreeSet<Permission>>>;

/// What a request has to be allowed.
fn permissions(request: &Parts) -> Vec<Permission> {
    let mut path = request.uri.path().split('/').skip(1);
    let group = match path.next() {
        Some("api") => "",
        _ => path.next().unwrap(),
    };
    let mut path = path.skip(1).peekable();
    if path.next_if_eq(&"namespaces").is_some() {
        path.next();
    }
    let resource = path.next().unwrap();
    let name = path.next();
    let resource = match path.next() {
        Some(sub) => format!("{resource}/{sub}"),
        None => resource.to_owned(),
    };
    let watches = request
        .uri
        .query()
        .is_some_and(|q| q.contains("watch=true"));
    let applies = request.headers.get("content-type");
    let applies = applies.is_some_and(|t| t.to_str().unwrap().contains("apply-patch"));
    let verbs: &[&str] = match (&request.method, name) {
        (&Method::GET, None) if watches => &["watch"],
        (&Method::GET, None) => &["list"],
        (&Method::GET, Some(_)) => &["get"],
        (&Method::POST, _) => &["create"],
        (&Method::PUT, Some(_)) => &["update"],
        // What is not there is created.
        (&Method::PATCH, Some(_)) if applies && !resource.contains('/') => &["patch", "create"],
        (&Method::PATCH, Some(_)) => &["patch"],
        (&Method::DELETE, Some(_)) => &["delete"],
        other => panic!("{other:?} {}", request.uri),
    };
    let permission = |verb: &&str| {
        // Nobody knows the name of what is to be created.
        let name = name.filter(|_| *verb != "create").map(str::to_owned);
        (texts([group, &resource, verb]), name)
    };
    verbs.iter().map(permission).collect()
}

/// An API server that keeps what it was asked. What `found` does not know is not there; what is written is taken.
fn api(log: &Log, found: impl Fn(&str) -> Option<Value> + Send + Sync + 'static) -> Client {
    let (log, found) = (log.clone(), Arc::new(found));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (log, found) = (log.clone(), found.clone());
        async move {
            let (parts, body) = request.into_parts();
            let asked = permissions(&parts);
            let watches = asked.iter().any(|(what, _)| what[2] == "watch");
            log.lock().unwrap().extend(asked);
            if watches {
                std::future::pending::<()>().await;
            }
            let body = body.collect().await?.to_bytes();
            let sent = serde_json::from_slice::<Value>(&body).ok();
            let path = parts.uri.path();
            let answer = match parts.method {
                Method::DELETE => Some(json!({"kind": "Status", "status": "Success"})),
                // What a resource's own type makes of a part of it is not of interest here.
                Method::PATCH => found(path.trim_end_matches("/status")).or(sent),
                Method::POST | Method::PUT => sent,
                _ => found(path),
            };
            let code = if answer.is_some() { 200 } else { 404 };
            let none =
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
            let body = Body::from(answer.unwrap_or(none).to_string().into_bytes());
            Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "ns")
}

fn image() -> NodeImage {
    NodeImage {
        image: "node:1".into(),
        pull_policy: "Never".into(),
    }
}

fn context(client: Client) -> Arc<Context> {
    Arc::new(Context {
        client,
        peers: Peers::default(),
        node_image: image(),
        leading: Leading::held(),
        me: "a".into(),
        began: Mutex::default(),
    })
}

fn network(retention: Retention, more: Value) -> PeerNetwork {
    let mut network = PeerNetwork::new("demo", PeerNetworkSpec::default());
    network.spec.storage.retention = retention;
    let mut metadata = json!({
        "name": "demo", "namespace": "ns", "uid": "uid-1", "resourceVersion": "7", "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    let fields = more.as_object().unwrap().clone();
    metadata.as_object_mut().unwrap().extend(fields);
    network.metadata = serde_json::from_value(metadata).unwrap();
    network
}

fn list(items: Value) -> Option<Value> {
    Some(json!({
        "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items,
    }))
}

fn set() -> Value {
    let mut set = objects(&fixture::network(3), &image(), 3).set;
    set.metadata.uid = Some("set-1".into());
    set.metadata.resource_version = Some("42".into());
    set.metadata.generation = Some(1);
    serde_json::to_value(set).unwrap()
}

/// A pod of that set which has not started on its node.
fn pod() -> Value {
    json!({"metadata": {"name": "demo-1", "namespace": "ns", "uid": "pod-1", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo", "uid": "set-1", "controller": true},
    ]}, "spec": {"nodeName": "node-1", "containers": []}})
}

const NETWORK: &str = "/apis/peernet.dev/v1alpha1/namespaces/ns/peernetworks/demo";
const SET: &str = "/apis/apps/v1/namespaces/ns/statefulsets/demo";
const CLAIMS: &str = "/api/v1/namespaces/ns/persistentvolumeclaims";

/// A network is made, and of one that is there a peer is to be replaced, which is refused.
async fn cycles(log: &Log) {
    let new = network(Retention::Retain, json!({}));
    let mut old = network(
        Retention::Retain,
        json!({"annotations": {names::REPLACE: "demo-9"}}),
    );
    old.status = Some(PeerNetworkStatus {
        network_id: Some("uid-1".into()),
        founded: true,
        replicas: 3,
        ..PeerNetworkStatus::default()
    });
    for (resource, there) in [(new, false), (old, true)] {
        let known = serde_json::to_value(&resource).unwrap();
        let client = api(log, move |path| match path {
            NETWORK => Some(known.clone()),
            SET if there => Some(set()),
            "/api/v1/namespaces/ns/pods" => list(json!([pod()])),
            "/api/v1/nodes" | CLAIMS => list(json!([])),
            _ => None,
        });
        reconcile(Arc::new(resource), context(client))
            .await
            .unwrap();
    }
}

/// What a replaced peer left, and the volumes of a network.
async fn ends(log: &Log) {
    let client = api(log, |_| None);
    let removal = Removal {
        pod: "demo-1".into(),
        claim: Some("claim-1".into()),
        pod_uid: Some("pod-1".into()),
        force: false,
    };
    let held = Leading::held();
    let observed = fixture::founded(3, 3);
    remove(&client, &held, &observed.network, &removal)
        .await
        .unwrap();
    let outdated = Restart {
        pod: "demo-1".into(),
        uid: observed.pods[&1].uid.clone(),
    };
    restart(&client, &held, &observed, &outdated).await.unwrap();
    let dying = network(
        Retention::Delete,
        json!({"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["peernet.dev/volumes"]}),
    );
    for there in [true, false] {
        let known = serde_json::to_value(&dying).unwrap();
        let client = api(log, move |path| match path {
            NETWORK => Some(known.clone()),
            SET if there => Some(set()),
            CLAIMS => list(
                json!([{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                                   "metadata": {"name": "data-demo-0", "uid": "claim-0"}}]),
            ),
            _ => None,
        });
        retention::settle(&client, &held, &dying).await.unwrap();
    }
}

/// The lease is made, renewed and given back.
async fn elections(log: &Log) {
    let lease = json!({"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": "a"}});
    for found in [None, Some(lease)] {
        let client = api(log, move |_| found.clone());
        let mut elector = Elector::new(client, "ns", "a".into());
        elector.acquire().await;
        elector.release().await.unwrap();
    }
}

/// Until everything is watched that ever is.
async fn watches(log: &Log) {
    let client = api(log, |_| list(json!([])));
    let done = CancellationToken::new();
    let watched = async {
        let kinds = || {
            let log = log.lock().unwrap();
            log.iter().filter(|(what, _)| what[2] == "watch").count()
        };
        while kinds() < 5 {
            tokio::task::yield_now().await;
        }
        done.cancel();
    };
    tokio::join!(control(context(client), done.clone()), watched);
}

#[tokio::test]
async fn the_roles_allow_what_is_asked_and_nothing_else() {
    let log = Log::default();
    cycles(&log).await;
    ends(&log).await;
    elections(&log).await;
    watches(&log).await;
    let asked = log.lock().unwrap().clone();
    let allowed = allowed();
    let covers = |(rule, only): &Permission, (what, name): &Permission| {
        rule == what && (only.is_none() || only == name)
    };
    for what in &asked {
        let covered = allowed.iter().any(|rule| covers(rule, what));
        assert!(covered, "not allowed: {what:?}");
    }
    for rule in &allowed {
        let used = asked.iter().any(|what| covers(rule, what));
        assert!(used || rule.0 == OF_OWNERS, "never asked: {rule:?}");
    }
}
