//! Nothing malformed gets in.

use bytes::Bytes;
use peernet_core::io::Status;
use peernet_core::key::{Key, Position};
use peernet_core::member::{Drain, Hint, Liveness, Member, PeerId};
use peernet_core::message::Message;
use peernet_core::register::Version;
use peernet_core::slot::SlotConfig;
use peernet_proto::v1;
use peernet_proto::v1::message;
use peernet_proto::v1::message::Kind;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;

use crate::wire;
use crate::wire::{Delivery, Disk, Fault, PROTOCOL, Wire, WireError, deliver_request};

#[test]
fn random_bytes_never_panic() {
    let mut runner = TestRunner::new(Config {
        cases: 5_000,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&vec(any::<u8>(), 0..200), |bytes| {
            if let Ok(form) = v1::Message::decode(bytes.as_slice()) {
                let _ = Message::from_wire(form, "test");
            }
            Ok(())
        })
        .unwrap();
}

fn sample_member() -> Member {
    Member {
        id: PeerId(7),
        name: "demo-0".into(),
        address: "demo-0:7000".into(),
        http: "demo-0:8080".into(),
        zone: "a".into(),
        position: Position(9),
        incarnation: 1,
        liveness: Liveness::Active,
        drain: Drain {
            epoch: 3,
            leaving: true,
        },
        version: "0.1.0".into(),
    }
}

fn sample_config() -> v1::SlotConfig {
    SlotConfig {
        epoch: 4,
        replicas: vec![PeerId(1), PeerId(2)],
        next: None,
    }
    .to_wire()
}

fn refused(kind: Kind) -> WireError {
    Message::from_wire(v1::Message { kind: Some(kind) }, "test").expect_err("must be refused")
}

fn commit(slot: u32, config: v1::SlotConfig) -> Kind {
    Kind::Commit(message::Commit {
        configs: vec![message::Committed {
            slot,
            config: Some(config),
        }],
    })
}

#[test]
fn malformed_identities_slots_and_enumerations_are_refused() {
    let short = Bytes::from_static(&[1; 15]);
    let error = refused(Kind::PingReq(message::PingReq {
        seq: 1,
        target: short,
    }));
    assert_eq!(
        error,
        Fault::Length {
            expected: 16,
            found: 15
        }
        .at("PingReq.target")
    );

    let key = Bytes::from_static(&[1; 33]);
    let error = refused(Kind::Read(message::Read {
        key,
        ..Default::default()
    }));
    assert_eq!(
        error,
        Fault::Length {
            expected: 32,
            found: 33
        }
        .at("Read.key")
    );

    assert_eq!(
        refused(commit(4096, sample_config())),
        Fault::Slot(4096).at("Committed.slot")
    );
    assert_eq!(
        refused(commit(u32::MAX, sample_config())),
        Fault::Slot(u32::MAX).at("Committed.slot")
    );

    let member = |liveness| v1::Member {
        liveness,
        ..sample_member().to_wire()
    };
    for liveness in [0, 7, -1] {
        let error = refused(Kind::Hello(message::Hello {
            member: Some(member(liveness)),
        }));
        assert_eq!(error, Fault::Unknown(liveness).at("Member.liveness"));
    }
    assert_eq!(
        refused(Kind::Hello(message::Hello { member: None })),
        Fault::Missing.at("Hello.member")
    );
    assert_eq!(
        Message::from_wire(v1::Message { kind: None }, "here"),
        Err(Fault::Missing.at("here"))
    );
}

#[test]
fn impossible_replica_sets_are_refused() {
    let config = |replicas: Vec<u128>, next: Vec<u128>| {
        let forms = |ids: Vec<u128>| ids.into_iter().map(|id| PeerId(id).to_wire()).collect();
        commit(
            0,
            v1::SlotConfig {
                epoch: 1,
                replicas: forms(replicas),
                next: forms(next),
            },
        )
    };
    let count = |found, least| Fault::Count {
        least,
        most: 16,
        found,
    };
    assert_eq!(
        refused(config(vec![], vec![])),
        count(0, 1).at("SlotConfig.replicas")
    );
    assert_eq!(
        refused(config((0..17).collect(), vec![])),
        count(17, 1).at("SlotConfig.replicas")
    );
    assert_eq!(
        refused(config(vec![1], (0..17).collect())),
        count(17, 0).at("SlotConfig.next")
    );
    assert_eq!(
        refused(config(vec![1, 2, 1], vec![])),
        Fault::Duplicate(PeerId(1)).at("SlotConfig.replicas")
    );
    assert_eq!(
        refused(config(vec![1], vec![2, 2])),
        Fault::Duplicate(PeerId(2)).at("SlotConfig.next")
    );
}

#[test]
fn counters_that_could_overflow_are_refused() {
    for epoch in [0, u64::MAX] {
        let error = refused(commit(
            0,
            v1::SlotConfig {
                epoch,
                ..sample_config()
            },
        ));
        assert_eq!(error, Fault::Counter(epoch).at("SlotConfig.epoch"));
    }
    let member = v1::Member {
        incarnation: 1 << 63,
        ..sample_member().to_wire()
    };
    let error = refused(Kind::Hello(message::Hello {
        member: Some(member),
    }));
    assert_eq!(error, Fault::Counter(1 << 63).at("Member.incarnation"));
    let ballot = v1::Ballot {
        round: u64::MAX,
        proposer: PeerId(1).to_wire(),
    };
    let error = refused(Kind::Accepted(message::Accepted {
        slot: 0,
        epoch: 1,
        ballot: Some(ballot),
    }));
    assert_eq!(error, Fault::Counter(u64::MAX).at("Ballot.round"));
}

#[test]
fn bad_names_and_large_values_are_refused() {
    let write = |name: &str, head: usize, body: usize| {
        let present = v1::value::Present {
            head: vec![0; head].into(),
            body: vec![0; body].into(),
            upload: None,
            pinned: false,
        };
        let register = v1::Register {
            name: name.into(),
            version: Some(
                Version {
                    epoch: 1,
                    round: 0,
                    writer: PeerId(1),
                    op: 1,
                }
                .to_wire(),
            ),
            write: Some(v1::WriteId {
                peer: vec![0; 16].into(),
                op: 1,
            }),
            value: Some(v1::Value {
                form: Some(v1::value::Form::Present(present)),
            }),
            trail: Some(v1::Trail::default()),
        };
        Kind::Write(message::Write {
            repair: false,
            op: 1,
            epoch: 1,
            register: Some(register),
        })
    };
    assert!(
        Message::from_wire(
            v1::Message {
                kind: Some(write("ok", 2048, 63488))
            },
            "test"
        )
        .is_ok()
    );
    for bad in ["", "/a", "a//b", "a\u{7}", "..", &"x".repeat(1025)] {
        let WireError { field, fault } = refused(write(bad, 0, 0));
        assert_eq!(field, "Register.name");
        assert!(matches!(fault, Fault::Name(_)), "{bad}: {fault}");
    }
    let too_large = |most, found| Fault::TooLarge { most, found };
    assert_eq!(
        refused(write("ok", 2049, 0)),
        too_large(2048, 2049).at("Value.head")
    );
    assert_eq!(
        refused(write("ok", 2048, 63489)),
        too_large(65536, 65537).at("Value")
    );

    let member = v1::Member {
        zone: "z".repeat(1025),
        ..sample_member().to_wire()
    };
    let error = refused(Kind::Hello(message::Hello {
        member: Some(member),
    }));
    assert_eq!(error, too_large(1024, 1025).at("Member.zone"));
    let member = v1::Member {
        address: "a\r\nb".into(),
        ..sample_member().to_wire()
    };
    let error = refused(Kind::Hello(message::Hello {
        member: Some(member),
    }));
    assert_eq!(error, Fault::Control.at("Member.address"));
    let list = message::List {
        limit: u32::MAX,
        ..Default::default()
    };
    assert!(matches!(
        refused(Kind::List(list)).fault,
        Fault::Count { .. }
    ));
}

#[test]
fn tables_and_keys_must_fit_the_slots() {
    let error = refused(Kind::SlotEpochs(message::SlotEpochs {
        epochs: vec![1; 4095],
    }));
    assert_eq!(
        error,
        Fault::Count {
            least: 4096,
            most: 4096,
            found: 4095
        }
        .at("SlotEpochs.epochs")
    );
    let slot_0 = Key([0; 32]);
    let fetch = message::FetchNames {
        slot: 1,
        keys: vec![slot_0.to_wire()],
    };
    assert_eq!(
        refused(Kind::FetchNames(fetch)),
        Fault::OtherSlot(slot_0).at("FetchNames.keys")
    );
}

#[test]
fn another_protocol_version_is_refused() {
    let mut request = deliver_request("n", PeerId(1), vec![]);
    request.protocol_version = 1;
    let error = Delivery::from_wire(request).unwrap_err();
    assert_eq!(
        error,
        Fault::Version(1).at("DeliverRequest.protocol_version")
    );
    assert_eq!(
        error.to_string(),
        format!(
            "DeliverRequest.protocol_version: version 1 is not spoken here, only version {PROTOCOL}"
        )
    );
}

#[test]
fn orders_and_reports_are_checked() {
    let order = |peer_id: &str, epoch| v1::DrainRequest {
        orders: vec![v1::DrainOrder {
            peer_id: peer_id.into(),
            epoch,
            leaving: true,
        }],
    };
    let hex = PeerId(5).to_string();
    assert_eq!(
        wire::drain_orders(order(&hex, 1)),
        Ok(vec![(PeerId(5), 1, true)])
    );
    assert_eq!(
        wire::drain_orders(order("5", 1)).unwrap_err().field,
        "DrainOrder.peer_id"
    );
    assert_eq!(
        wire::drain_orders(order(&hex, 0)),
        Err(Fault::Counter(0).at("DrainOrder.epoch"))
    );

    let hints = |kind| v1::HintRequest {
        hints: vec![v1::PeerHint {
            peer_id: hex.clone(),
            kind,
        }],
    };
    assert_eq!(
        wire::hints(hints(v1::peer_hint::Kind::Gone.into())),
        Ok(vec![(PeerId(5), Hint::Gone)])
    );
    assert_eq!(wire::hints(hints(0)).unwrap_err().field, "PeerHint.kind");

    let slot = |slot| v1::SlotReport {
        slot,
        epoch: 1,
        replicas: vec![hex.clone()],
        ..Default::default()
    };
    let report = v1::LeaveReportResponse {
        peer_id: hex.clone(),
        slots: vec![slot(2), slot(1)],
        ..Default::default()
    };
    assert_eq!(
        wire::report(report),
        Err(Fault::Unordered.at("LeaveReportResponse.slots"))
    );
    let state = 99;
    let info = v1::PeerInfo {
        state,
        ..wire::peer_info(&sample_member())
    };
    assert_eq!(
        wire::member_from_info(info),
        Err(Fault::Unknown(99).at("PeerInfo.state"))
    );
}

#[test]
fn the_registry_shows_who_is_leaving() {
    let info = wire::peer_info(&sample_member());
    assert_eq!(info.state(), v1::PeerState::Leaving);
    assert_eq!(wire::member_from_info(info), Ok(sample_member()));
    let status = Status {
        network: "n".into(),
        member: sample_member(),
        ready: true,
        reason: String::new(),
        slots_held: 1,
        slots_behind: 2,
        slots_moving: 3,
        chunks: (4, 5),
        chunks_missing: 6,
        predecessor: None,
        successors: vec![PeerId(1)],
    };
    let response = wire::status_response(
        &status,
        Disk {
            free: 7,
            total: 8,
            full: true,
        },
    );
    assert_eq!(
        (
            response.chunks_held,
            response.bytes_held,
            response.disk_free
        ),
        (4, 5, 7)
    );
    assert_eq!(response.predecessor, "");
    assert_eq!(response.successors, ["00000000000000000000000000000001"]);
}
