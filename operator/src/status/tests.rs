use peernet_crd::{Events, SecretKey};

use super::*;
use peernet_core::member::Liveness;
use peernet_plan::{fixture, plan};

fn leave(bytes_left: u64) -> Leave {
    Leave {
        leaving: 2,
        slots_left: 7,
        bytes_left,
        blocker: "demo-6: slot 1 is moving".into(),
    }
}

#[test]
fn a_broker_that_is_named_has_a_condition() {
    let mut observed = fixture::founded(3, 3);
    assert!(connected(&observed).is_none());
    observed.network.spec.events = Some(Events {
        uri: SecretKey {
            name: "broker".into(),
            key: "address".into(),
        },
        ca: None,
        exchange: None,
        commands: None,
    });
    let mut told = |ordinal: u32, broker| {
        let answer = observed.pods.get_mut(&ordinal).unwrap().answer.as_mut();
        answer.unwrap().life.as_mut().unwrap().broker = broker;
        let verdict = connected(&observed).unwrap();
        (verdict.holds == Holds::True, verdict.message)
    };
    told(0, Some(Ok(())));
    told(1, Some(Ok(())));
    let (holds, message) = told(2, Some(Err("no such file".into())));
    assert!(!holds && message.starts_with("1 of 3 peers"), "{message}");
    assert!(
        message
            .contains("demo-2: no such file (the URI is the key 'address' of the Secret 'broker')")
    );
    assert!(!told(2, None).0);
    assert!(told(2, Some(Ok(()))).0);
}

#[test]
fn a_drain_has_a_rate_and_an_end() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let first = drain(&leave(1_000), None, at(100));
    assert_eq!(
        (first.bytes_total, first.bytes_per_second, first.eta_seconds),
        (1_000, None, None)
    );
    let second = drain(&leave(400), Some(&first), at(106));
    assert_eq!(second.started_at, Some(Time(at(100))));
    assert_eq!(
        (second.bytes_per_second, second.eta_seconds),
        (Some(100), Some(4))
    );
}

#[test]
fn a_sentence_names_the_blocker() {
    assert_eq!(
        leave_sentence(&leave(3 << 29)),
        "2 peers are leaving, 7 slots and 1.5 GiB left: demo-6: slot 1 is moving"
    );
    assert_eq!(bytes(1_023), "1023 B");
    assert_eq!(bytes(1_024), "1.0 KiB");
}

/// What is said of copies, by the condition's name.
fn said(observed: &Observed, type_: &str) -> (String, String, String) {
    let answer = answer(observed, &plan(observed), Timestamp::UNIX_EPOCH);
    let mut conditions = answer.conditions.into_iter();
    let found = conditions.find(|c| c.type_ == type_).unwrap();
    (found.status, found.reason, found.message)
}

fn holds(observed: &Observed, type_: &str) -> (String, String) {
    let (status, reason, _) = said(observed, type_);
    (status, reason)
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn nobody_calls_files_writable_when_no_peer_answers() {
    let mut observed = fixture::founded(3, 3);
    assert_eq!(holds(&observed, "Writable"), is("True", "MajoritiesAnswer"));
    observed.members.clear();
    observed.pods.values_mut().for_each(|pod| pod.answer = None);
    for type_ in ["Writable", "Spread"] {
        let (status, reason, why) = said(&observed, type_);
        assert_eq!((status, reason), is("Unknown", "NoPeerAnswers"), "{type_}");
        assert!(why.contains("3 of its pods are ready"), "{why}");
        assert!(why.contains("7000"), "{why}");
    }
    observed.pods.values_mut().for_each(|pod| pod.ready = false);
    let (.., why) = said(&observed, "Writable");
    let command = "kubectl describe pods -n ns -l app.kubernetes.io/instance=demo";
    assert!(why.contains(command), "{why}");
    observed.pods.clear();
    assert_eq!(holds(&observed, "Writable"), is("Unknown", "NoPeerAnswers"));
}

#[test]
fn nothing_is_settled_while_the_newest_template_was_not_looked_at() {
    let mut observed = fixture::founded(3, 3);
    assert_eq!(holds(&observed, "Progressing"), is("False", "Settled"));
    observed.set.as_mut().unwrap().revision = None;
    assert_eq!(holds(&observed, "Progressing"), is("True", "Restarting"));
    assert_eq!(holds(&observed, "Ready").0, "True");
}

#[test]
fn before_there_is_a_ring_nothing_is_known_of_copies() {
    let fresh = fixture::fresh(fixture::network(3));
    for type_ in ["Writable", "Spread"] {
        assert_eq!(holds(&fresh, type_), is("Unknown", copies::NO_RING));
    }
}

#[test]
fn slots_that_nobody_reports_are_not_called_writable_while_somebody_is_down() {
    let mut observed = fixture::with_reports(fixture::founded(5, 5), &[0, 1, 2], &[]);
    let down = |observed: &mut Observed, ordinal: u32| {
        let member = observed.members.get_mut(&fixture::id(ordinal)).unwrap();
        member.liveness = Liveness::Down;
        observed.reports.remove(&fixture::id(ordinal));
    };
    down(&mut observed, 4);
    assert_eq!(holds(&observed, "Writable"), is("True", "MajoritiesAnswer"));
    for silent in 0..3 {
        observed.reports.remove(&fixture::id(silent));
    }
    let (status, reason, why) = said(&observed, "Writable");
    assert_eq!((status, reason), is("Unknown", "SlotsNotReported"));
    assert!(why.contains("while demo-4 do not answer"), "{why}");
    assert!(why.contains("wait for demo-0, demo-1, demo-2"), "{why}");
    let mut lost = fixture::with_reports(observed, &[0, 1, 2], &[]);
    down(&mut lost, 0);
    down(&mut lost, 1);
    let (status, reason, why) = said(&lost, "Writable");
    assert_eq!((status, reason), is("False", "MajorityLost"));
    assert!(why.ends_with("recover-accept-loss=demo-0,demo-1"), "{why}");
}

#[test]
fn a_single_zone_is_said_to_be_one() {
    let mut observed = fixture::founded(3, 3);
    assert_eq!(holds(&observed, "Spread"), is("True", "AllZones"));
    let mut in_zones = |of: fn(u32) -> String| {
        for (n, member) in observed.members.values_mut().enumerate() {
            member.zone = of(u32::try_from(n).unwrap());
        }
        let zones = observed.members.values().map(|m| m.zone.clone());
        observed.zone_of = zones
            .enumerate()
            .map(|(n, z)| (format!("n{n}"), z))
            .collect();
        said(&observed, "Spread")
    };
    let (status, reason, why) = in_zones(|_| "a".into());
    assert_eq!((status, reason), is("True", "OneZone"));
    assert!(why.contains("all nodes have the same label topology.kubernetes.io/zone"));
    let (.., why) = in_zones(|_| "default".into());
    assert!(why.contains("no node has the label topology.kubernetes.io/zone"));
    let (status, reason, why) = in_zones(|n| format!("zone-{}", n % 2));
    assert_eq!((status, reason), is("True", "AllZones"));
    assert!(
        why.starts_with("copies stand in 2 zones, which are all"),
        "{why}"
    );
}
