use peernet_crd::{Events, SecretKey};

use super::*;
use peernet_plan::fixture;

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
        (verdict.holds, verdict.message)
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
