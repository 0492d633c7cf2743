//! Every message survives the wire, and nothing malformed does.

use std::collections::BTreeSet;

use bytes::Bytes;
use peernet_core::io::Status;
use peernet_core::key::{Key, Name, Position, SLOTS, Slot};
use peernet_core::leave::{LeaverProgress, LeaverReport, Receipt, Report, SlotReport};
use peernet_core::member::{Drain, Liveness, Member, PeerId};
use peernet_core::message::{Digest, Listed, Message, Root};
use peernet_core::register::{Register, Value, Version};
use peernet_core::slot::{Ballot, Frozen, SlotConfig, SlotRecord};
use peernet_core::store::{Entry, Identity};
use peernet_proto::v1;
use peernet_proto::v1::message;
use peernet_proto::v1::message::Kind;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;

use super::{Delivery, Disk, Fault, Wire, WireError, deliver_request};

fn id() -> impl Strategy<Value = PeerId> + Clone {
    any::<u128>().prop_map(PeerId)
}

fn key() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(Key)
}

fn key_in(slot: Slot) -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(move |mut key| {
        let start = slot.start().0.to_be_bytes();
        key[0] = start[0];
        key[1] = start[1] | (key[1] & 0x0f);
        Key(key)
    })
}

fn root() -> impl Strategy<Value = Root> {
    any::<Root>()
}

fn slot() -> impl Strategy<Value = Slot> {
    (0..SLOTS).prop_map(|n| Slot::new(n).unwrap())
}

fn count() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![0..10_u64, Just(super::COUNTER_MAX)]
}

fn epoch() -> impl Strategy<Value = u64> + Clone {
    count().prop_map(|n| n.max(1))
}

fn name() -> impl Strategy<Value = Name> {
    "[a-zü]{1,9}(/[a-z ]{1,9}){0,2}".prop_map(|n| Name::new(n).unwrap())
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn member() -> impl Strategy<Value = Member> {
    let liveness = proptest::sample::select(vec![
        Liveness::Joining,
        Liveness::Active,
        Liveness::Suspect,
        Liveness::Down,
        Liveness::Left,
    ]);
    let texts = proptest::array::uniform5("[a-z0-9.:-]{0,20}");
    let drain = (count(), any::<bool>()).prop_map(|(epoch, leaving)| Drain { epoch, leaving });
    (id(), texts, any::<u64>(), count(), liveness, drain).prop_map(
        |(id, [name, address, http, zone, version], position, incarnation, liveness, drain)| {
            Member {
                id,
                name,
                address,
                http,
                zone,
                position: Position(position),
                incarnation,
                liveness,
                drain,
                version,
            }
        },
    )
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    vec(member(), 0..4)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<(u64, u64)>().prop_map(|(members, slots)| Digest { members, slots })
}

fn replicas() -> impl Strategy<Value = Vec<PeerId>> {
    btree_set(any::<u128>(), 1..5).prop_map(|ids| ids.into_iter().map(PeerId).collect())
}

fn config() -> impl Strategy<Value = SlotConfig> {
    (epoch(), replicas(), option::of(replicas())).prop_map(|(epoch, replicas, next)| SlotConfig {
        epoch,
        replicas,
        next,
    })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (count(), id()).prop_map(|(round, proposer)| Ballot { round, proposer })
}

fn accepted() -> impl Strategy<Value = Option<(Ballot, SlotConfig)>> {
    option::of((ballot(), config()))
}

fn version() -> impl Strategy<Value = Version> {
    (count(), id(), any::<u64>()).prop_map(|(counter, writer, op)| Version {
        counter,
        writer,
        op,
    })
}

fn register() -> impl Strategy<Value = Register> {
    let present = (bytes(40), bytes(90)).prop_map(|(head, body)| Value::Present { head, body });
    (
        name(),
        version(),
        prop_oneof![present, Just(Value::Deleted)],
    )
        .prop_map(|(name, version, value)| Register {
            name,
            version,
            value,
        })
}

fn listed() -> impl Strategy<Value = Listed> {
    (name(), version(), option::of(bytes(40))).prop_map(|(name, version, head)| Listed {
        name,
        version,
        head,
    })
}

fn entry_in(slot: Slot) -> impl Strategy<Value = Entry> {
    prop_oneof![
        (key_in(slot), any::<u32>()).prop_map(|(key, len)| Entry::Chunk { key, len }),
        (key_in(slot), version()).prop_map(|(key, version)| Entry::Name { key, version }),
    ]
}

fn receipt() -> impl Strategy<Value = Receipt> {
    (
        id(),
        count(),
        slot(),
        epoch(),
        root(),
        id(),
        any::<(u64, u64)>(),
    )
        .prop_map(
            |(leaver, drain_epoch, slot, epoch, root, receiver, (chunks, bytes))| Receipt {
                leaver,
                drain_epoch,
                slot,
                epoch,
                root,
                receiver,
                chunks,
                bytes,
            },
        )
}

fn membership_or_ring() -> impl Strategy<Value = Message> {
    let seq = any::<u64>;
    prop_oneof![
        member().prop_map(|member| Message::Hello { member }),
        (members(), any::<bool>()).prop_map(|(members, reply)| Message::Members { members, reply }),
        (seq(), id(), members(), digest()).prop_map(|(seq, target, rumors, digest)| {
            Message::Ping {
                seq,
                target,
                rumors,
                digest,
            }
        }),
        (seq(), members(), digest()).prop_map(|(seq, rumors, digest)| Message::Ack {
            seq,
            rumors,
            digest
        }),
        (seq(), id()).prop_map(|(seq, target)| Message::PingReq { seq, target }),
        seq().prop_map(|seq| Message::RingQuery { seq }),
        (seq(), option::of(id()), vec(id(), 0..5)).prop_map(|(seq, predecessor, successors)| {
            Message::RingState {
                seq,
                predecessor,
                successors,
            }
        }),
        Just(Message::RingNotify),
    ]
}

fn configuration() -> impl Strategy<Value = Message> {
    prop_oneof![
        (slot(), config(), ballot()).prop_map(|(slot, base, ballot)| Message::Prepare {
            slot,
            base,
            ballot
        }),
        (slot(), epoch(), ballot(), accepted()).prop_map(|(slot, epoch, ballot, accepted)| {
            Message::Promise {
                slot,
                epoch,
                ballot,
                accepted,
            }
        }),
        (slot(), config(), ballot(), config()).prop_map(|(slot, base, ballot, config)| {
            Message::Accept {
                slot,
                base,
                ballot,
                config,
            }
        }),
        (slot(), epoch(), ballot()).prop_map(|(slot, epoch, ballot)| Message::Accepted {
            slot,
            epoch,
            ballot
        }),
        (slot(), epoch(), ballot()).prop_map(|(slot, epoch, promised)| Message::Refuse {
            slot,
            epoch,
            promised
        }),
        vec((slot(), config()), 0..4).prop_map(|configs| Message::Commit { configs }),
        vec(count(), usize::from(SLOTS)).prop_map(|epochs| Message::SlotEpochs { epochs }),
    ]
}

fn names() -> impl Strategy<Value = Message> {
    let op = any::<u64>;
    prop_oneof![
        (op(), epoch(), key(), any::<bool>()).prop_map(|(op, epoch, key, version_only)| {
            Message::Read {
                op,
                epoch,
                key,
                version_only,
            }
        }),
        (op(), option::of(version()), option::of(register())).prop_map(
            |(op, version, register)| Message::ReadReply {
                op,
                version,
                register
            }
        ),
        (op(), epoch(), register()).prop_map(|(op, epoch, register)| Message::Write {
            op,
            epoch,
            register
        }),
        op().prop_map(|op| Message::WriteReply { op }),
        (op(), slot(), option::of(config())).prop_map(|(op, slot, config)| Message::Stale {
            op,
            slot,
            config
        }),
        (op(), "[a-z/]{0,9}", option::of(name()), 0..=super::LIST_MAX).prop_map(
            |(op, prefix, after, limit)| Message::List {
                op,
                prefix,
                after,
                limit
            }
        ),
        (op(), vec(listed(), 0..4), any::<bool>())
            .prop_map(|(op, items, done)| Message::ListReply { op, items, done }),
    ]
}

fn copies() -> impl Strategy<Value = Message> {
    let slot_names = vec(register(), 1..2).prop_map(|registers| Message::Names {
        slot: Key::of_name(&registers[0].name).slot(),
        registers,
    });
    prop_oneof![
        vec((slot(), epoch(), root()), 0..4).prop_map(|items| Message::SyncRequest { items }),
        slot().prop_flat_map(|slot| {
            (epoch(), root(), option::of(vec(entry_in(slot), 0..6))).prop_map(
                move |(epoch, root, entries)| Message::SyncReply {
                    slot,
                    epoch,
                    root,
                    entries,
                },
            )
        }),
        slot().prop_flat_map(|slot| {
            vec(key_in(slot), 0..4).prop_map(move |keys| Message::FetchNames { slot, keys })
        }),
        slot_names,
        vec((slot(), epoch()), 0..4).prop_map(|slots| Message::CaughtUp { slots }),
        vec(slot(), 0..4).prop_map(|slots| Message::SyncHint { slots }),
        (slot(), epoch(), root(), count()).prop_map(|(slot, epoch, root, drain_epoch)| {
            Message::Prove {
                slot,
                epoch,
                root,
                drain_epoch,
            }
        }),
        receipt().prop_map(|receipt| Message::Proved { receipt }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![membership_or_ring(), configuration(), names(), copies()]
}

/// Encodes to bytes and decodes again, as the network and the disk do.
fn through_bytes<T: Wire>(value: &T) -> Result<T, WireError>
where
    T::Form: prost::Message + Default,
{
    let bytes = Bytes::from(value.to_wire().encode_to_vec());
    T::from_wire(
        T::Form::decode(bytes).expect("what prost encodes it decodes"),
        "test",
    )
}

#[test]
fn every_message_round_trips() {
    let mut seen = BTreeSet::new();
    let mut runner = TestRunner::new(Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    });
    let seen_in_test = std::cell::RefCell::new(&mut seen);
    runner
        .run(&any_message(), |message| {
            let text = format!("{message:?}");
            let kind = text.split([' ', '{']).next().unwrap().to_owned();
            seen_in_test.borrow_mut().insert(kind);
            assert_eq!(through_bytes(&message).as_ref(), Ok(&message));
            Ok(())
        })
        .unwrap();
    // One for each line of `kinds!`, which the compiler keeps complete.
    assert_eq!(seen.len(), 30, "not every variant was generated: {seen:?}");
}

#[test]
fn a_delivery_keeps_sender_network_and_order() {
    let mut runner = TestRunner::new(Config {
        cases: 50,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&(id(), vec(any_message(), 0..8)), |(from, messages)| {
            let forms = messages.iter().map(Wire::to_wire).collect();
            let delivery = Delivery::from_wire(deliver_request("a-network", from, forms)).unwrap();
            assert_eq!(
                delivery,
                Delivery {
                    network: "a-network".into(),
                    from,
                    messages
                }
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_a_volume_remembers_round_trips() {
    let frozen = (epoch(), replicas()).prop_map(|(epoch, awaiting)| Frozen { epoch, awaiting });
    let record = (config(), ballot(), accepted(), option::of(frozen)).prop_map(
        |(config, promised, accepted, frozen)| SlotRecord {
            config,
            promised,
            accepted,
            frozen,
        },
    );
    let identity = member().prop_map(|member| Identity {
        network: "n".into(),
        member,
    });
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(
            &(record, identity, receipt(), register()),
            |(record, identity, receipt, register)| {
                assert_eq!(through_bytes(&record).as_ref(), Ok(&record));
                assert_eq!(through_bytes(&identity).as_ref(), Ok(&identity));
                assert_eq!(through_bytes(&receipt).as_ref(), Ok(&receipt));
                assert_eq!(through_bytes(&register).as_ref(), Ok(&register));
                Ok(())
            },
        )
        .unwrap();
}

#[test]
fn a_leave_report_round_trips() {
    let slots = btree_set(0..SLOTS, 0..5).prop_flat_map(|numbers| {
        let count = numbers.len();
        (Just(numbers), vec((config(), any::<bool>()), count)).prop_map(|(numbers, configs)| {
            let report = |(
                number,
                (
                    SlotConfig {
                        epoch,
                        replicas,
                        next,
                    },
                    synced,
                ),
            )| SlotReport {
                slot: Slot::new(number).unwrap(),
                epoch,
                replicas,
                next,
                synced,
            };
            numbers
                .into_iter()
                .zip(configs)
                .map(report)
                .collect::<Vec<_>>()
        })
    });
    let own = (any::<(u32, u32, u32, u64, bool)>(), "[a-z ]{0,30}").prop_map(
        |((held, frozen, receipted, bytes_left, left), blocker)| LeaverProgress {
            held,
            frozen,
            receipted,
            bytes_left,
            left,
            blocker,
        },
    );
    let leaver = (id(), count(), option::of(own), any::<(u32, u64, u64)>()).prop_map(
        |(leaver, drain_epoch, own, receipts)| LeaverReport {
            leaver,
            drain_epoch,
            own,
            receipts,
        },
    );
    let report =
        (id(), slots, vec(leaver, 0..3), members()).prop_map(|(peer, slots, leavers, members)| {
            Report {
                peer,
                slots,
                leavers,
                members,
            }
        });
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&report, |report| {
            assert_eq!(
                super::report(super::report_response(&report)).as_ref(),
                Ok(&report)
            );
            Ok(())
        })
        .unwrap();
}

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
    for liveness in [0, 6, -1] {
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
        let present = v1::register::Present {
            head: vec![0; head].into(),
            body: vec![0; body].into(),
        };
        let register = v1::Register {
            name: name.into(),
            version: Some(
                Version {
                    counter: 1,
                    writer: PeerId(1),
                    op: 1,
                }
                .to_wire(),
            ),
            value: Some(v1::register::Value::Present(present)),
        };
        Kind::Write(message::Write {
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
        too_large(2048, 2049).at("Register.value.head")
    );
    assert_eq!(
        refused(write("ok", 2048, 63489)),
        too_large(65536, 65537).at("Register.value")
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
    request.protocol_version = 2;
    let error = Delivery::from_wire(request).unwrap_err();
    assert_eq!(
        error,
        Fault::Version(2).at("DeliverRequest.protocol_version")
    );
    assert_eq!(
        error.to_string(),
        "DeliverRequest.protocol_version: version 2 is not spoken here, only version 1"
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
        super::drain_orders(order(&hex, 1)),
        Ok(vec![(PeerId(5), 1, true)])
    );
    assert_eq!(
        super::drain_orders(order("5", 1)).unwrap_err().field,
        "DrainOrder.peer_id"
    );
    assert_eq!(
        super::drain_orders(order(&hex, 0)),
        Err(Fault::Counter(0).at("DrainOrder.epoch"))
    );

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
        super::report(report),
        Err(Fault::Unordered.at("LeaveReportResponse.slots"))
    );
    let state = 99;
    let info = v1::PeerInfo {
        state,
        ..super::peer_info(&sample_member())
    };
    assert_eq!(
        super::member_from_info(info),
        Err(Fault::Unknown(99).at("PeerInfo.state"))
    );
}

#[test]
fn the_registry_shows_who_is_leaving() {
    let info = super::peer_info(&sample_member());
    assert_eq!(info.state(), v1::PeerState::Leaving);
    assert_eq!(super::member_from_info(info), Ok(sample_member()));
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
    let response = super::status_response(
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
