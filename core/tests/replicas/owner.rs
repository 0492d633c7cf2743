//! What the owner of a slot does with writes, and what replicas say to ballots and to who is behind.

use peernet_core::io::{Answer, Input, Request, RequestError, Time};
use peernet_core::key::Key;
use peernet_core::message::Message;
use peernet_core::outbox::Trail;
use peernet_core::register::{Condition, Head, Register, Value, Version, WriteId};

use crate::names::{config, led, name, put};
use crate::network::{OPERATIONS, Replicas, id};

fn body(replicas: &mut Replicas, n: usize) -> Vec<u8> {
    let answer = replicas.ask(n, Request::ReadName(name()));
    let Answer::Register(Some(register)) = &answer else {
        panic!("{answer:?}");
    };
    match &register.value {
        Value::Present { body, .. } => body.to_vec(),
        Value::Deleted => panic!("it is deleted"),
    }
}

#[test]
fn a_write_that_is_passed_on_twice_is_carried_out_once() {
    let (mut replicas, owner) = led();
    let from = (owner + 1) % 3;
    let passed_on = Message::Propose {
        op: 1 << 40,
        epoch: config(&mut replicas, owner).epoch,
        write: WriteId {
            peer: id(from),
            op: 1 << 40,
        },
        name: name(),
        value: Value::Present {
            head: Head::default(),
            body: "passed on".into(),
            upload: None,
        },
        condition: Condition::Always,
    };
    replicas.tell(owner, from, passed_on.clone());
    assert_eq!(body(&mut replicas, from), b"passed on");
    replicas.ask(owner, put("newer"));
    replicas.tell(owner, from, passed_on);
    assert_eq!(body(&mut replicas, from), b"newer");
}

#[test]
fn so_many_writes_of_one_name_wait_for_each_other_and_no_more() {
    let (mut replicas, owner) = led();
    for _ in 0..2 {
        replicas.lost = |message| matches!(message, Message::Write { .. });
        let ask = |replicas: &mut Replicas| replicas.request(owner, put("in turn"));
        let taken: Vec<_> = (0..OPERATIONS).map(|_| ask(&mut replicas)).collect();
        let refused = ask(&mut replicas);
        let busy = replicas.answered(refused);
        assert!(
            matches!(busy, Some(Answer::Failed(RequestError::Busy))),
            "{busy:?}"
        );
        assert!(taken.iter().all(|id| replicas.answered(*id).is_none()));
        replicas.lost = |_| false;
        for id in taken {
            let answer = replicas.answer(id);
            assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
        }
    }
}

#[test]
fn one_full_replica_keeps_nobody_from_writing_and_two_do() {
    let (mut replicas, owner) = led();
    let fill = |replicas: &mut Replicas, n: usize| {
        let peer = &mut replicas.peers[n];
        let told = peer.handle(Input::DiskFull(true), Time(0), &mut Vec::new());
        told.unwrap();
    };
    fill(&mut replicas, (owner + 1) % 3);
    let answer = replicas.ask(owner, put("there is room at two"));
    assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
    fill(&mut replicas, (owner + 2) % 3);
    let answer = replicas.ask(owner, put("there is room at one"));
    assert!(
        matches!(answer, Answer::Failed(RequestError::Full { .. })),
        "{answer:?}"
    );
}

#[test]
fn nobody_claims_the_owners_round_or_under_another_epoch_than_it_says() {
    let (mut replicas, owner) = led();
    let epoch = config(&mut replicas, owner).epoch;
    let replica = (owner + 1) % 3;
    for (ballot_epoch, round, answers) in [
        (epoch, 0, 0),
        (epoch + 1, 1, 0),
        (epoch + 1, 0, 0),
        (epoch, 1, 1),
    ] {
        let claim = Message::Read {
            op: 1 << 40,
            epoch,
            key: Key::of_name(&name()),
            ballot: Some(Version {
                epoch: ballot_epoch,
                round,
                writer: id(owner),
                op: 1 << 40,
            }),
            about: None,
            hold: false,
        };
        let said = replicas.hears(replica, owner, claim);
        assert_eq!(said.len(), answers, "{ballot_epoch} {round}: {said:?}");
    }
}

#[test]
fn who_knows_an_older_epoch_is_told_the_newer_one_and_goes_on_at_once() {
    let mut replicas = Replicas::new(3, |_| Vec::new());
    replicas.run(2_000, |_, _| {});
    replicas.cut_off = Some(2);
    // The first that needs an owner begins an epoch.
    replicas.ask(0, put("under the new one"));
    replicas.ask(1, put("under the new one"));
    let epoch = |replicas: &mut Replicas, n| config(replicas, n).epoch;
    for _ in 0..100 {
        if epoch(&mut replicas, 0) > epoch(&mut replicas, 2) {
            break;
        }
        replicas.run(50, |_, _| {});
    }
    assert!(epoch(&mut replicas, 0) > epoch(&mut replicas, 2));
    replicas.cut_off = None;
    let read = replicas.request(2, Request::ReadName(name()));
    let answer = replicas.answered(read);
    assert!(
        matches!(answer, Some(Answer::Register(Some(_)))),
        "{answer:?}"
    );
}

#[test]
fn an_owner_whose_own_write_is_outbid_claims_at_once() {
    let (mut replicas, owner) = led();
    // Too short a silence for anybody to take over the slot, too long for the one who writes.
    replicas.cut_off = Some(owner);
    replicas.ask((owner + 1) % 3, put("claimed"));
    replicas.cut_off = None;
    let write = replicas.request(owner, put("its own"));
    let answer = replicas.answered(write);
    assert!(answer.is_some(), "it waits");
}

#[test]
fn a_reader_that_finds_a_proposal_has_it_decided_first() {
    let (mut replicas, owner) = led();
    let [holder, reader] = [(owner + 1) % 3, (owner + 2) % 3];
    let epoch = config(&mut replicas, owner).epoch;
    let op = 1 << 40;
    let register = Register {
        name: name(),
        version: Version {
            epoch,
            round: 0,
            writer: id(owner),
            op,
        },
        write: WriteId {
            peer: id(owner),
            op,
        },
        value: Value::Present {
            head: Head::default(),
            body: "at one".into(),
            upload: None,
        },
        trail: Trail::default().into(),
    };
    let repair = false;
    let proposal = Message::Write {
        op,
        epoch,
        register,
        repair,
    };
    replicas.tell(holder, owner, proposal);
    // Nobody else can say whether the owner has decided it.
    replicas.cut_off = Some(owner);
    assert_eq!(body(&mut replicas, reader), b"at one");
    replicas.cut_off = None;
    for n in [holder, owner, reader] {
        assert_eq!(body(&mut replicas, n), b"at one");
    }
}
