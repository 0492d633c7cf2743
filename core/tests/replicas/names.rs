//! Writes that other peers pass on to a slot's owner.

use bytes::Bytes;
use peernet_core::io::{Answer, Request, RequestError};
use peernet_core::key::{Key, Name};
use peernet_core::message::Message;
use peernet_core::register::{Condition, HEAD_MAX, Head, Value};
use peernet_core::slot::SlotConfig;

use crate::network::Replicas;

pub(crate) fn name() -> Name {
    Name::new("file").unwrap()
}

pub(crate) fn put(body: &'static str) -> Request {
    Request::WriteName {
        name: name(),
        value: Value::Present {
            head: Head::default(),
            body: Bytes::from_static(body.as_bytes()),
            upload: None,
        },
        condition: Condition::Always,
    }
}

/// The configuration of the file's slot, as this peer knows it.
pub(crate) fn config(replicas: &mut Replicas, n: usize) -> SlotConfig {
    let slot = Key::of_name(&name()).slot();
    let answer = replicas.ask(n, Request::Routes(vec![slot]));
    let Answer::Routes(routes) = answer else {
        panic!("{answer:?}");
    };
    routes[0].config.clone().unwrap()
}

/// Who owns the file's slot, as the last peer sees it.
fn owner(replicas: &mut Replicas) -> usize {
    config(replicas, 2).replicas[0].0 as usize - 1
}

/// Three replicas, and who of them owns the file's slot and has written the file.
pub(crate) fn led() -> (Replicas, usize) {
    let mut replicas = Replicas::new(3, |_| Vec::new());
    replicas.run(2_000, |_, _| {});
    // An epoch in which the owner leads begins with the first read or write that misses it.
    replicas.ask(1, Request::ReadName(name()));
    let owner = owner(&mut replicas);
    replicas.ask(owner, put("its own"));
    replicas.run(3_000, |_, _| {});
    assert_eq!(self::owner(&mut replicas), owner);
    (replicas, owner)
}

#[test]
fn a_value_of_64_kib_is_written_and_no_larger_one() {
    let (mut replicas, owner) = led();
    let put = |len: usize| Request::WriteName {
        name: name(),
        value: Value::Present {
            head: Head::default(),
            body: vec![0; len].into(),
            upload: None,
        },
        condition: Condition::Always,
    };
    let answer = replicas.ask(owner, put(64 << 10));
    assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
    let answer = replicas.ask(owner, put((64 << 10) + 1));
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
}

#[test]
fn a_name_that_was_claimed_while_its_owner_was_silent_can_be_written_through_everybody() {
    let (mut replicas, owner) = led();
    let others = [(owner + 1) % 3, (owner + 2) % 3];
    // Too short a silence for anybody to take over the slot, too long for the one who writes.
    replicas.cut_off = Some(owner);
    let claimed = replicas.ask(others[0], put("claimed"));
    replicas.cut_off = None;
    replicas.run(5_000, |_, _| {});
    assert_eq!(self::owner(&mut replicas), owner, "claimed: {claimed:?}");
    // The owner learns of the claim when its own ballot is outbid; that one write is in doubt, and no other after it.
    replicas.ask(others[0], put("outbid"));
    for n in [others[0], others[1], owner, others[0], others[1]] {
        let answer = replicas.ask(n, put("once more"));
        assert!(
            matches!(answer, Answer::Written { .. }),
            "through p-{n}, owned by p-{owner}: {answer:?}"
        );
    }
}

#[test]
fn whoever_carries_a_write_out_tells_whether_it_took_the_place_of_a_file() {
    let (mut replicas, owner) = led();
    let others = [(owner + 1) % 3, (owner + 2) % 3];
    let remove = || Request::WriteName {
        name: name(),
        value: Value::Deleted,
        condition: Condition::Always,
    };
    let replaced = |replicas: &mut Replicas, n: usize, request: Request| {
        let answer = replicas.ask(n, request);
        let Answer::Written { replaced, .. } = answer else {
            panic!("through p-{n}, owned by p-{owner}: {answer:?}");
        };
        replaced
    };
    for n in [owner, others[0], others[1]] {
        assert!(replaced(&mut replicas, n, put("newer")));
        assert!(replaced(&mut replicas, n, remove()));
        assert!(!replaced(&mut replicas, n, put("anew")));
    }
    // Nobody is there to pass it on to, so that it is claimed. That of the first, which was passed on before, is in doubt.
    replicas.cut_off = Some(owner);
    replicas.ask(others[0], put("in doubt"));
    assert!(replaced(&mut replicas, others[0], remove()));
    assert!(!replaced(&mut replicas, others[1], put("claimed")));
    assert!(replaced(&mut replicas, others[0], put("claimed again")));
}

#[test]
fn the_first_write_after_its_owner_has_restarted_is_not_in_doubt() {
    let (mut replicas, owner) = led();
    replicas.restart(owner);
    replicas.run(1_000, |_, _| {});
    assert_eq!(self::owner(&mut replicas), owner);
    let answer = replicas.ask((owner + 1) % 3, put("after"));
    assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
}

#[test]
fn an_owner_that_is_slow_to_answer_but_well_is_waited_for() {
    let (mut replicas, owner) = led();
    replicas.lost = |message| matches!(message, Message::Proposed { .. });
    let passed_on = replicas.request((owner + 1) % 3, put("passed on"));
    // Another write follows it: a claim would find that one, and could not tell what became of the first.
    let next = replicas.ask(owner, put("next"));
    assert!(matches!(next, Answer::Written { .. }), "{next:?}");
    replicas.run(2_500, |_, _| {});
    replicas.lost = |_| false;
    let answer = replicas.answer(passed_on);
    assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
}

#[test]
fn a_peer_that_knows_itself_cut_off_says_so_without_waiting() {
    let mut replicas = Replicas::new(3, |_| Vec::new());
    replicas.run(2_000, |_, _| {});
    replicas.cut_off = Some(1);
    // Until it holds the others to be down.
    replicas.run(8_000, |_, _| {});
    for request in [put("nowhere"), Request::ReadName(name())] {
        let id = replicas.request(1, request);
        replicas.run(1_000, |_, _| {});
        let answer = replicas.answered(id);
        assert!(
            matches!(answer, Some(Answer::Failed(RequestError::NoQuorum { .. }))),
            "{answer:?}"
        );
    }
    replicas.cut_off = None;
    replicas.run(8_000, |_, _| {});
    let answer = replicas.ask(1, put("back"));
    assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
}

#[test]
fn a_head_of_2_kib_is_written_and_no_larger_one() {
    let (mut replicas, owner) = led();
    let put = |len: usize| Request::WriteName {
        name: name(),
        value: Value::Present {
            head: Bytes::from(vec![0; len]).into(),
            body: Bytes::new(),
            upload: None,
        },
        condition: Condition::Always,
    };
    let answer = replicas.ask(owner, put(HEAD_MAX));
    assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
    for more in [1, 2] {
        let answer = replicas.ask(owner, put(HEAD_MAX + more));
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    }
}

#[test]
fn who_reads_is_told_that_a_majority_knows_of_it() {
    let (mut replicas, owner) = led();
    let request = Request::HoldName {
        name: name(),
        upload: None,
    };
    for n in [owner, (owner + 1) % 3] {
        let answer = replicas.ask(n, request.clone());
        let held = matches!(
            &answer,
            Answer::Held { register: Some(register), held: true } if register.is_present()
        );
        assert!(held, "{answer:?}");
    }
}

#[test]
fn what_only_one_replica_has_is_not_told_before_a_majority_has_it() {
    let (mut replicas, owner) = led();
    replicas.lost = |message| matches!(message, Message::Write { .. });
    let write = replicas.request(owner, put("at its owner only"));
    let read = replicas.request((owner + 1) % 3, Request::ReadName(name()));
    replicas.run(2_000, |_, _| {});
    assert!(replicas.answered(write).is_none());
    assert!(replicas.answered(read).is_none(), "nobody else has it");
    replicas.lost = |_| false;
    let answer = replicas.answer(read);
    let Answer::Register(Some(register)) = &answer else {
        panic!("{answer:?}");
    };
    let Value::Present { body, .. } = &register.value else {
        panic!("{register:?}");
    };
    assert_eq!(&body[..], b"at its owner only");
}
