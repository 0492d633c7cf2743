//! Which pods came and went: the oracle of Sieve and Acto, which compare what an operator created and deleted, and where
//! it ended, with a run that nobody disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::kubectl;
use crate::network::Network;

/// How many pods came and went, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Pods that were created.
    pub created: BTreeMap<String, u32>,
    /// Pods that are gone.
    pub deleted: BTreeMap<String, u32>,
}

impl Counts {
    /// How many were created, and how many deleted.
    pub fn totals(&self) -> (u32, u32) {
        let of = |counts: &BTreeMap<String, u32>| counts.values().sum();
        (of(&self.created), of(&self.deleted))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (came, went) = self.totals();
        write!(f, "{came} pods created and {went} deleted")
    }
}

/// Counts until it is told to stop.
#[derive(Debug)]
pub struct Census {
    counting: JoinHandle<Result<Counts>>,
    stop: watch::Sender<bool>,
}

impl Census {
    /// Begins to count; the pods that are there now are not counted.
    pub fn start(network: &Arc<Network>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let counting = tokio::spawn(count(network.clone(), stopped));
        Census { counting, stop }
    }

    /// What came and went.
    ///
    /// # Errors
    /// Watching failed.
    pub async fn finish(self) -> Result<Counts> {
        self.stop.send_replace(true);
        self.counting.await.context("the census panicked")?
    }
}

async fn count(network: Arc<Network>, mut stopped: watch::Receiver<bool>) -> Result<Counts> {
    let selector = format!("app.kubernetes.io/instance={}", network.name);
    let config = watcher::Config::default().labels(&selector);
    let mut events = Box::pin(watcher(network.pods.clone(), config).default_backoff());
    let mut register = Register::default();
    loop {
        tokio::select! {
            biased;
            event = events.next() => {
                let Some(event) = event else { bail!("the watch has ended") };
                match event {
                    Ok(event) => register.note(event),
                    // It goes on by itself.
                    Err(error) => eprintln!("  watching pods: {error}"),
                }
            }
            _ = stopped.changed() => return Ok(register.counts),
        }
    }
}

#[derive(Default)]
struct Register {
    known: BTreeSet<String>,
    begun: bool,
    counts: Counts,
}

impl Register {
    fn note(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => {}
            watcher::Event::InitDone => self.begun = true,
            watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => {
                let new = self.known.insert(pod.uid().unwrap_or_default());
                if new && self.begun {
                    *self.counts.created.entry(pod.name_any()).or_default() += 1;
                }
            }
            watcher::Event::Delete(pod) => {
                *self.counts.deleted.entry(pod.name_any()).or_default() += 1;
            }
        }
    }
}

/// What everything that belongs to a network asks for: its objects without what differs between any two runs (identities,
/// times, versions, addresses that the API server hands out, and status).
///
/// # Errors
/// The API server does not answer.
pub async fn end_state(namespace: &str, name: &str) -> Result<BTreeMap<String, Value>> {
    let label = format!("app.kubernetes.io/instance={name}");
    let kinds = "statefulset,service,serviceaccount,poddisruptionbudget,networkpolicy,persistentvolumeclaim";
    let get = ["get", kinds, "-l", &label, "-o", "json"];
    let list: Value = serde_json::from_str(&kubectl::run(namespace, &get).await?)?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let named = items.into_iter().map(|object| {
        let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        let name = text(&object["kind"]) + "/" + &text(&object["metadata"]["name"]);
        (name, wanted(object))
    });
    Ok(named.collect())
}

fn wanted(mut object: Value) -> Value {
    const OF_ONE_RUN: [&str; 6] = [
        "volumeName",
        "clusterIP",
        "clusterIPs",
        "updateRevision",
        "currentRevision",
        "observedGeneration",
    ];
    let mut spec = object["spec"].take();
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|field, _| !OF_ONE_RUN.contains(&&**field));
    }
    let labels = object["metadata"]["labels"].take();
    serde_json::json!({ "labels": labels, "spec": spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(uid.into());
        pod
    }

    #[test]
    fn pods_are_counted_once_each_and_those_there_before_not_at_all() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut register = Register::default();
        let events = [
            Init,
            InitApply(pod("demo-0", "a")),
            InitDone,
            Apply(pod("demo-0", "a")),
            Apply(pod("demo-1", "b")),
            Apply(pod("demo-1", "b")),
            Delete(pod("demo-1", "b")),
            Apply(pod("demo-1", "c")),
        ];
        events.into_iter().for_each(|e| register.note(e));
        let one = |n| BTreeMap::from([("demo-1".to_owned(), n)]);
        let (created, deleted) = (one(2), one(1));
        assert_eq!(register.counts, Counts { created, deleted });
    }

    #[test]
    fn the_end_state_tells_what_is_asked_for_and_not_when_it_was_made() {
        let set = |replicas: i32, uid: &str, clock: &str| {
            serde_json::json!({
                "metadata": {"uid": uid, "creationTimestamp": clock, "labels": {"a": "b"}},
                "spec": {"replicas": replicas, "volumeName": uid},
                "status": {"replicas": 1},
            })
        };
        assert_eq!(wanted(set(5, "u", "t")), wanted(set(5, "v", "s")));
        assert_ne!(wanted(set(5, "u", "t")), wanted(set(4, "u", "t")));
    }
}
