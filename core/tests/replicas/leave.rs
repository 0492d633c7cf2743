//! Copies that are given away: who proves what, and when a peer may go.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::io::{Answer, Request};
use peernet_core::key::{Key, SLOTS, Slot};
use peernet_core::leave::{LeaverReport, Report, Verdict, verdict};
use peernet_core::message::{Message, Root};

use crate::network::{Replicas, id};

/// Three chunks in different slots.
fn keys() -> Vec<Key> {
    [1, 7, 9].map(|n| Key([n << 4; 32])).into()
}

/// Four peers, of which the first three hold everything.
fn four() -> Replicas {
    Replicas::beside(4, 3, |n| if n < 3 { keys() } else { Vec::new() })
}

fn report(replicas: &mut Replicas, n: usize, leavers: &[usize]) -> Report {
    let leavers = leavers.iter().map(|n| id(*n)).collect();
    match replicas.ask(n, Request::LeaveReport(leavers)) {
        Answer::LeaveReport(report) => *report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_leaver_goes_once_all_that_stay_have_given_receipts_for_all_it_held() {
    let mut replicas = four();
    for n in 0..4 {
        replicas.ask(n, Request::Drain(vec![(id(0), 1, true)]));
    }
    for _ in 0..120 {
        if !replicas.left.is_empty() {
            break;
        }
        replicas.run(1_000, |_, _| {});
    }
    assert_eq!(replicas.left, [0]);
    replicas.run(5_000, |_, _| {});
    let mut reports = BTreeMap::new();
    for n in 1..4 {
        let report = report(&mut replicas, n, &[0]);
        let [of_leaver] = &report.leavers[..] else {
            panic!("{:?}", report.leavers);
        };
        let LeaverReport {
            leaver,
            drain_epoch,
            receipts,
            ..
        } = of_leaver;
        assert_eq!((*leaver, *drain_epoch), (id(0), 1));
        // Of each slot, and of three chunks of one byte.
        assert_eq!(*receipts, (u32::from(SLOTS), 3, 3), "of p-{n}");
        reports.insert(report.peer, report);
    }
    let remaining = BTreeSet::from([1, 2, 3].map(id));
    assert_eq!(verdict(id(0), &remaining, &reports), Verdict::Proved);
}

#[test]
fn what_is_given_to_a_newcomer_leaves_no_receipts() {
    let mut replicas = four();
    replicas.run(60_000, |_, _| {});
    let newcomer = report(&mut replicas, 3, &[0, 1, 2]);
    assert!(!newcomer.slots.is_empty(), "it has taken nothing over");
    for n in 0..4 {
        for of_leaver in report(&mut replicas, n, &[0, 1, 2]).leavers {
            assert_eq!(of_leaver.receipts, (0, 0, 0), "p-{n}: {of_leaver:?}");
        }
    }
}

/// Three replicas that have compared themselves, and the root of a slot at the second.
fn compared() -> (Replicas, Slot, Root) {
    let mut replicas = Replicas::new(3, |_| keys());
    replicas.run(5_000, |_, _| {});
    let slot = keys()[0].slot();
    let asked = replicas.hears(1, 0, prove(slot, [9; 32]));
    let root = asked.iter().find_map(|message| match message {
        Message::SyncRequest { items } => Some(items[0].2),
        _ => None,
    });
    assert!(
        receipts(&asked).is_empty(),
        "its copy is another: {asked:?}"
    );
    (replicas, slot, root.expect("it compares the copies"))
}

fn prove(slot: Slot, root: Root) -> Message {
    Message::Prove {
        slot,
        epoch: 1,
        root,
        drain_epoch: 1,
    }
}

/// The roots that were proved.
fn receipts(messages: &[Message]) -> Vec<Root> {
    let root = |message: &Message| match message {
        Message::Proved { receipt } => Some(receipt.root),
        _ => None,
    };
    messages.iter().filter_map(root).collect()
}

#[test]
fn who_has_the_same_copy_says_so_at_once() {
    let (mut replicas, slot, root) = compared();
    let said = replicas.hears(2, 0, prove(slot, root));
    assert_eq!(receipts(&said), [root]);
}

#[test]
fn who_has_another_copy_proves_only_the_one_that_it_has_compared_with() {
    for (listed, proved) in [([9; 32], &[[9; 32]][..]), ([8; 32], &[])] {
        let (mut replicas, slot, _) = compared();
        let listing = Message::SyncReply {
            slot,
            epoch: 1,
            root: listed,
            entries: Some(Vec::new()),
            after: None,
            more: false,
        };
        let said = replicas.hears(1, 0, listing);
        assert_eq!(receipts(&said), proved);
    }
}
