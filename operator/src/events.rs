//! What a user reading `kubectl describe` should hear of, as events of the resource.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use peernet_crd::{PeerNetwork, PeerNetworkStatus};
use peernet_plan::names::{self, MANAGER};
use peernet_plan::observed::{Network, Observed};
use peernet_plan::{Outcome, Plan, Restart};

use crate::drain::Told;
use crate::status::copies::NO_RING;

/// The API server's limit.
const NOTE_MAX: usize = 1_024;

/// How much a piece of news matters, in Kubernetes' words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It goes as it should.
    Normal,
    /// Something was lost or may be, or waits for a person.
    Warning,
}

impl Kind {
    /// As Kubernetes writes it.
    fn as_str(self) -> &'static str {
        match self {
            Kind::Normal => "Normal",
            Kind::Warning => "Warning",
        }
    }
}

/// One piece of news.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// How much it matters.
    pub kind: Kind,
    /// In one word.
    pub reason: &'static str,
    /// What was done about it, in one word.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// A pod was deleted, so that it is made from the new template.
pub fn restarted(restart: &Restart) -> News {
    News {
        kind: Kind::Normal,
        reason: "PeerRestarts",
        action: "Restart",
        note: format!(
            "{} is started anew: the template of the pods has changed",
            restart.pod
        ),
    }
}

/// What is new in this cycle, after its plan was carried out.
pub fn news(observed: &Observed, plan: &Plan, told: &Told, now: &PeerNetworkStatus) -> Vec<News> {
    let before = &observed.network.status;
    let mut news = of_copies(before, now);
    let mut tell = |kind, reason, action, note| {
        news.push(News {
            kind,
            reason,
            action,
            note,
        })
    };
    if now.founded && !before.founded {
        let id = now.network_id.as_deref().unwrap_or_default();
        if plan.identity.written {
            tell(
                Kind::Normal,
                "Founded",
                "Found",
                format!("the ring {id} exists"),
            );
        } else {
            tell(
                Kind::Normal,
                "Adopted",
                "Adopt",
                format!("the volumes remember the ring {id}; it is used again"),
            );
        }
    }
    if !told.joining.is_empty() {
        let places = told
            .joining
            .iter()
            .map(|(name, zone)| format!("{name} in zone {zone}"));
        let places: Vec<String> = places.collect();
        tell(
            Kind::Normal,
            "PeersJoining",
            "Assign",
            format!("told to join: {}", places.join(", ")),
        );
    }
    if !told.leaving.is_empty() {
        tell(
            Kind::Normal,
            "DrainStarted",
            "Drain",
            format!("told to leave: {}", told.leaving.join(", ")),
        );
    }
    if !told.staying.is_empty() {
        let names = told.staying.join(", ");
        tell(
            Kind::Normal,
            "DrainCancelled",
            "Keep",
            format!("told to stay after all: {names}"),
        );
    }
    if let (None, Some(begun)) = (&before.replacement, &now.replacement) {
        let note = format!("{}: the identity {} is retired", begun.message, begun.peer);
        tell(Kind::Normal, "ReplaceStarted", "Replace", note);
    }
    match plan.replace.as_ref().and_then(|r| r.outcome.as_ref()) {
        Some(Outcome::Refused(why)) => tell(Kind::Warning, "ReplaceRefused", "Refuse", why.clone()),
        Some(Outcome::Cancelled(why)) => {
            tell(Kind::Normal, "ReplaceCancelled", "Keep", why.clone())
        }
        Some(Outcome::Replaced(how)) => tell(Kind::Normal, "Replaced", "Replace", how.clone()),
        None => {}
    }
    if let Some(removal) = plan.replace.as_ref().and_then(|r| r.removal.as_ref())
        && removal.claim.is_some()
    {
        let note = format!(
            "the ring needs nothing of {pod} any more: claim {} and pod {pod} are deleted",
            names::volume(&removal.pod),
            pod = removal.pod
        );
        tell(Kind::Normal, "VolumeReplaced", "Delete", note);
    }
    match plan.recover.as_ref().and_then(|r| r.outcome.as_ref()) {
        Some((true, how)) => tell(Kind::Warning, "Recovered", "GiveUp", how.clone()),
        Some((false, why)) => tell(Kind::Warning, "RecoverRefused", "Refuse", why.clone()),
        None => {}
    }
    // A blocker changes with every slot while things move; it is news only when they do not.
    if let (Some(was), Some(is)) = (&before.drain, &now.drain)
        && before.founded
        && was.slots_left == is.slots_left
        && was.bytes_left == is.bytes_left
        && was.blocker != is.blocker
    {
        tell(Kind::Warning, "DrainBlocked", "Wait", is.blocker.clone());
    }
    let gone = (plan.replicas..observed.current()).filter(|_| before.founded);
    let gone: Vec<String> = gone
        .map(|o| names::pod(&observed.network.name, o))
        .collect();
    if !gone.is_empty() {
        let note = format!(
            "left, all they held is proved to be held elsewhere: {}",
            gone.join(", ")
        );
        tell(Kind::Normal, "PeersLeft", "Remove", note);
    }
    news
}

/// What has become of copies. That nobody knows is said once for both conditions; that those of a new ring are well, not at
/// all.
fn of_copies(before: &PeerNetworkStatus, now: &PeerNetworkStatus) -> Vec<News> {
    let change = |type_: &str| {
        let was = before.conditions.iter().find(|c| c.type_ == type_)?;
        let is = now.conditions.iter().find(|c| c.type_ == type_)?;
        let new = was.status != is.status;
        (new && (was.reason != NO_RING || is.status == "False")).then_some((was, is))
    };
    let writable = change("Writable").map(|(was, is)| {
        let (kind, reason) = match (&*was.status, &*is.status) {
            ("False", "True") => (Kind::Normal, "MajorityBack"),
            (_, "True") => (Kind::Normal, "PeersAnswer"),
            (_, "False") => (Kind::Warning, "MajorityLost"),
            _ => (Kind::Warning, "WritableUnknown"),
        };
        (kind, reason, is)
    });
    let spread = change("Spread").and_then(|(was, is)| {
        let (kind, reason) = match (&*was.status, &*is.status) {
            ("False", "True") => (Kind::Normal, "AllZones"),
            (_, "False") => (Kind::Warning, "FewerZones"),
            _ => return None,
        };
        Some((kind, reason, is))
    });
    let told = writable.into_iter().chain(spread);
    told.map(|(kind, reason, is)| News {
        kind,
        reason,
        action: "Watch",
        note: is.message.clone(),
    })
    .collect()
}

/// Publishes the news. An event that gets lost is only logged: nothing depends on events.
pub(crate) async fn publish(client: &Client, reporter: &str, network: &Network, news: Vec<News>) {
    let api: Api<Event> = Api::namespaced(client.clone(), &network.namespace);
    for (
        index,
        News {
            kind,
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
            type_: Some(kind.as_str().into()),
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

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::status;
    use peernet_core::member::Liveness;
    use peernet_plan::observed::Asked;
    use peernet_plan::{fixture, plan};

    fn reasons(observed: &Observed, told: &Told) -> Vec<&'static str> {
        let plan = plan(observed);
        let now = status::answer(observed, &plan, Timestamp::UNIX_EPOCH);
        news(observed, &plan, told, &now)
            .into_iter()
            .map(|news| news.reason)
            .collect()
    }

    /// What is told from a cycle that saw `before` to one that sees `now`.
    fn since(before: &Observed, mut now: Observed) -> Vec<(Kind, &'static str)> {
        let told = status::answer(before, &plan(before), Timestamp::UNIX_EPOCH);
        now.network.status = told;
        let plan = plan(&now);
        let answer = status::answer(&now, &plan, Timestamp::UNIX_EPOCH);
        let news = news(&now, &plan, &Told::default(), &answer);
        news.into_iter().map(|n| (n.kind, n.reason)).collect()
    }

    #[test]
    fn what_becomes_of_copies_is_told_and_harm_is_a_warning() {
        let well = || fixture::with_reports(fixture::founded(3, 3), &[0, 1, 2], &[]);
        let silent = || {
            let mut observed = fixture::founded(3, 3);
            observed.members.clear();
            observed.pods.values_mut().for_each(|pod| pod.answer = None);
            observed
        };
        let lost = || {
            let mut observed = well();
            for ordinal in [1, 2] {
                let member = observed.members.get_mut(&fixture::id(ordinal)).unwrap();
                member.liveness = Liveness::Down;
                observed.reports.remove(&fixture::id(ordinal));
            }
            observed
        };
        use Kind::{Normal, Warning};
        assert_eq!(since(&well(), silent()), [(Warning, "WritableUnknown")]);
        assert_eq!(since(&silent(), silent()), []);
        assert_eq!(since(&silent(), well()), [(Normal, "PeersAnswer")]);
        let majority = [(Warning, "MajorityLost"), (Warning, "FewerZones")];
        assert_eq!(since(&well(), lost()), majority);
        assert_eq!(since(&silent(), lost()), majority);
        let back = [(Normal, "MajorityBack"), (Normal, "AllZones")];
        assert_eq!(since(&lost(), well()), back);
        assert_eq!(since(&lost(), silent()), [(Warning, "WritableUnknown")]);
    }

    #[test]
    fn that_a_new_ring_can_be_written_is_no_news() {
        let mut new = fixture::founded(3, 3);
        let fresh = fixture::fresh(fixture::network(3));
        let before = status::answer(&fresh, &plan(&fresh), Timestamp::UNIX_EPOCH);
        new.network.status.conditions = before.conditions;
        assert!(reasons(&new, &Told::default()).is_empty());
    }

    #[test]
    fn what_is_refused_and_what_is_lost_is_a_warning() {
        let told = |key: fn(&mut Asked, String)| {
            let mut observed = fixture::founded(3, 3);
            key(&mut observed.network.asked, "demo-7".into());
            since(&fixture::founded(3, 3), observed)
        };
        let refused = told(|asked, pod| asked.replace = Some(pod));
        assert_eq!(refused, [(Kind::Warning, "ReplaceRefused")]);
        let refused = told(|asked, pods| asked.recover = Some(pods));
        assert_eq!(refused, [(Kind::Warning, "RecoverRefused")]);
    }

    #[test]
    fn a_settled_network_has_no_news() {
        assert!(reasons(&fixture::founded(5, 5), &Told::default()).is_empty());
    }

    #[test]
    fn a_leave_begins_and_ends_with_news() {
        let told = Told {
            leaving: vec!["demo-4".into()],
            ..Told::default()
        };
        let begun = fixture::founded(4, 5);
        assert_eq!(reasons(&begun, &told), ["DrainStarted"]);
        let proved = fixture::with_reports(begun, &[0, 1, 2], &[4]);
        assert_eq!(reasons(&proved, &Told::default()), ["PeersLeft"]);
    }

    #[test]
    fn a_blocker_is_news_only_when_nothing_moves() {
        let stuck = |slots: &[u32]| {
            let mut observed = fixture::with_reports(fixture::founded(4, 5), slots, &[]);
            let plan = plan(&observed);
            let before = status::answer(&observed, &plan, Timestamp::UNIX_EPOCH);
            observed.network.status = before;
            observed
        };
        let mut same = stuck(&[0, 1, 4]);
        assert!(reasons(&same, &Told::default()).is_empty());
        same.network.status.drain.as_mut().unwrap().blocker = "something else".into();
        assert_eq!(reasons(&same, &Told::default()), ["DrainBlocked"]);
        same.network.status.drain.as_mut().unwrap().slots_left += 1;
        assert!(reasons(&same, &Told::default()).is_empty());
    }
}
