//! What a user reading `kubectl describe` should hear of, as events of the resource.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use peernet_crd::{PeerNetwork, PeerNetworkStatus};

use crate::drain::Told;
use crate::names::{self, MANAGER};
use crate::observe::{Network, Observed};
use crate::plan::Plan;

/// The API server's limit.
const NOTE_MAX: usize = 1_024;

/// One piece of news.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// In one word.
    pub reason: &'static str,
    /// What was done about it, in one word.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// What is new in this cycle, after its plan was carried out.
pub fn news(observed: &Observed, plan: &Plan, told: &Told, now: &PeerNetworkStatus) -> Vec<News> {
    let before = &observed.network.status;
    let mut news = Vec::new();
    let mut tell = |reason, action, note| {
        news.push(News {
            reason,
            action,
            note,
        })
    };
    if now.founded && !before.founded {
        let id = now.network_id.as_deref().unwrap_or_default();
        if plan.identity.written {
            tell("Founded", "Found", format!("the ring {id} exists"));
        } else {
            tell(
                "Adopted",
                "Adopt",
                format!("the volumes remember the ring {id}; it is used again"),
            );
        }
    }
    for (name, zone) in &told.joining {
        tell(
            "PeerJoining",
            "Assign",
            format!("{name} joins in zone {zone}"),
        );
    }
    if !told.leaving.is_empty() {
        tell(
            "DrainStarted",
            "Drain",
            format!("told to leave: {}", told.leaving.join(", ")),
        );
    }
    if !told.staying.is_empty() {
        let names = told.staying.join(", ");
        tell(
            "DrainCancelled",
            "Keep",
            format!("told to stay after all: {names}"),
        );
    }
    // A blocker changes with every slot while things move; it is news only when they do not.
    if let (Some(was), Some(is)) = (&before.drain, &now.drain)
        && was.slots_left == is.slots_left
        && was.bytes_left == is.bytes_left
        && was.blocker != is.blocker
    {
        tell("DrainBlocked", "Wait", is.blocker.clone());
    }
    for ordinal in (plan.replicas..observed.current()).filter(|_| before.founded) {
        let name = names::pod(&observed.network.name, ordinal);
        tell(
            "PeerLeft",
            "Remove",
            format!("{name} left: all it held is proved to be held elsewhere"),
        );
    }
    news
}

/// Publishes the news. An event that gets lost is only logged: nothing depends on events.
pub(crate) async fn publish(client: &Client, reporter: &str, network: &Network, news: Vec<News>) {
    let api: Api<Event> = Api::namespaced(client.clone(), &network.namespace);
    for (
        index,
        News {
            reason,
            action,
            mut note,
        },
    ) in news.into_iter().enumerate()
    {
        tracing::info!(
            network = network.name,
            namespace = network.namespace,
            reason,
            note
        );
        note.truncate(note.floor_char_boundary(NOTE_MAX));
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!(
                    "{}.{:x}.{index}",
                    network.name,
                    now.as_nanosecond()
                )),
                namespace: Some(network.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(format!("peernet.dev/{MANAGER}")),
            reporting_instance: Some(reporter.to_owned()),
            action: Some(action.into()),
            reason: Some(reason.into()),
            note: Some(note),
            type_: Some("Normal".into()),
            regarding: Some(reference(network)),
            ..Event::default()
        };
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, reason, "an event was not published");
        }
    }
}

fn reference(network: &Network) -> ObjectReference {
    ObjectReference {
        api_version: Some(PeerNetwork::api_version(&()).into_owned()),
        kind: Some(PeerNetwork::kind(&()).into_owned()),
        name: Some(network.name.clone()),
        namespace: Some(network.namespace.clone()),
        uid: Some(network.uid.clone()),
        resource_version: Some(network.resource_version.clone()),
        field_path: None,
    }
}
