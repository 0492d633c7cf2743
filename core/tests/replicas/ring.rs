//! Peers that begin a ring, join it and die.

use std::collections::BTreeSet;

use peernet_core::io::{Answer, Input, Request, Status, Time};
use peernet_core::member::{Liveness, Member};
use peernet_core::store::Store;

use crate::network::{Replicas, id, member};

fn status(replicas: &mut Replicas, n: usize) -> Status {
    match replicas.ask(n, Request::Status) {
        Answer::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// These, in the order of their positions, are one ring, and have nobody else in it.
fn are_one_ring(replicas: &mut Replicas, peers: &[usize]) {
    for (i, n) in peers.iter().enumerate() {
        let status = status(replicas, *n);
        assert_eq!(status.member.liveness, Liveness::Active, "p-{n}");
        let after = |steps: usize| id(peers[(i + steps) % peers.len()]);
        assert_eq!(status.predecessor, Some(after(peers.len() - 1)), "of p-{n}");
        assert_eq!(status.successors.first(), Some(&after(1)), "of p-{n}");
        let known: BTreeSet<_> = status.successors.into_iter().collect();
        let others: BTreeSet<_> = (1..peers.len()).map(after).collect();
        assert!(known.is_superset(&others), "p-{n}: {known:?}");
        let dead = known.difference(&others).filter(|peer| **peer != id(*n));
        assert_eq!(dead.count(), 0, "p-{n}: {known:?}");
    }
}

#[test]
fn who_joins_stands_between_its_neighbours_and_who_dies_is_left_out() {
    let mut replicas = Replicas::young(4, 3);
    replicas.run(30_000, |_, _| {});
    are_one_ring(&mut replicas, &[0, 1, 2, 3]);
    replicas.cut_off = Some(2);
    replicas.run(30_000, |_, _| {});
    are_one_ring(&mut replicas, &[0, 1, 3]);
}

/// Whether a peer that knows of this one begins a ring.
fn founds(liveness: Liveness, incarnation: u64) -> bool {
    let other = Member {
        liveness,
        incarnation,
        ..member(1)
    };
    let mut peer = Replicas::beginner(1, &[other]);
    let mut out = Vec::new();
    peer.handle(Input::FoundIfAlone, Time(0), &mut out).unwrap();
    !peer.store().remembered().unwrap().slots.is_empty()
}

#[test]
fn who_knows_of_somebody_that_may_have_a_ring_begins_none() {
    assert!(founds(Liveness::Joining, 1), "that one begins as well");
    assert!(!founds(Liveness::Joining, 2), "it was started before");
    assert!(!founds(Liveness::Active, 1));
    assert!(!founds(Liveness::Down, 1));
}
