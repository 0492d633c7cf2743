//! Every message survives the wire, and nothing malformed does.

use std::cell::RefCell;
use std::collections::BTreeSet;

use bytes::Bytes;
use peernet_core::key::{SLOTS, Slot};
use peernet_core::leave::{LeaverProgress, LeaverReport, Report, SlotReport};
use peernet_core::member::{Liveness, PeerId};
use peernet_core::recover::Recovery;
use peernet_core::slot::{Frozen, SlotConfig, SlotRecord};
use peernet_core::store::Identity;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::{Just, Strategy, any};
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;

use super::{Delivery, Wire, WireError, deliver_request};

mod hostile;
mod samples;

use samples::{
    accepted, any_message, ballot, config, count, epoch, id, member, members, receipt, register,
    replicas,
};

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
    let seen_in_test = RefCell::new(&mut seen);
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
    assert_eq!(seen.len(), 39, "not every variant was generated: {seen:?}");
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
    let report = (id(), slots, vec(leaver, 0..3), members(), 0..9_u64).prop_map(
        |(peer, slots, leavers, members, greatest)| Report {
            peer,
            slots,
            leavers,
            members,
            greatest_epoch: greatest,
        },
    );
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&report, |mut report| {
            let read = super::report(super::report_response(&report));
            // To those outside the ring, whoever is gone has left.
            for member in report.members.iter_mut().filter(|m| m.is_gone()) {
                member.liveness = Liveness::Left;
            }
            assert_eq!(read.as_ref(), Ok(&report));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_recovery_round_trips_and_nonsense_is_refused() {
    let config = SlotConfig {
        epoch: 5 << 32,
        replicas: vec![PeerId(7)],
        next: None,
    };
    let recovery = Recovery {
        gone: vec![PeerId(1), PeerId(2)],
        configs: vec![(Slot::new(0).unwrap(), config)],
    };
    let request = super::recover_request(&recovery);
    assert_eq!(super::recovery(request.clone()), Ok(recovery));
    let mut nobody = request;
    nobody.slots[0].replicas.clear();
    let error = super::recovery(nobody).unwrap_err();
    assert_eq!(error.field, "RecoveredSlot.replicas");
}
