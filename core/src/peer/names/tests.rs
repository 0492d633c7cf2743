use super::*;
use crate::boot::{Assignment, boot};
use crate::config::{Replication, Settings};
use crate::io::{Input, Output, Request};
use crate::key::Position;
use crate::outbox::Consumers;
use crate::store::memory::MemoryStore;
use bytes::Bytes;

/// A network of one peer that keeps one copy.
pub(in crate::peer) fn alone() -> Peer<MemoryStore> {
    let mut store = MemoryStore::default();
    let told = Assignment {
        network: "n".into(),
        name: "p".into(),
        address: "a:1".into(),
        http: "a:2".into(),
        zone: "z".into(),
        position: Position(0),
        version: String::new(),
    };
    let identity = boot(&mut store, told, PeerId(1)).unwrap();
    let replication = Replication {
        factor: 1,
        write: 1,
    };
    let settings = Settings {
        replication,
        ..Settings::default()
    };
    Peer::start(store, identity, true, settings, 1, Time(0)).unwrap()
}

fn ask(peer: &mut Peer<MemoryStore>, request: Request) -> Answer {
    let mut out = Vec::new();
    let id = RequestId(1);
    let input = Input::Request { id, request };
    peer.handle(input, Time(1), &mut out).unwrap();
    let answers = out.into_iter().filter_map(|o| match o {
        Output::Answer { answer, .. } => Some(answer),
        _ => None,
    });
    answers
        .last()
        .expect("alone, everything is answered at once")
}

fn write(peer: &mut Peer<MemoryStore>, value: Value) -> Answer {
    write_if(peer, value, Condition::Always)
}

fn write_if(peer: &mut Peer<MemoryStore>, value: Value, condition: Condition) -> Answer {
    let name = Name::new("f").unwrap();
    ask(
        peer,
        Request::WriteName {
            name,
            value,
            condition,
        },
    )
}

fn some(body: &'static str) -> Value {
    Value::Present {
        head: Bytes::from_static(b"h").into(),
        body: Bytes::from_static(body.as_bytes()),
        upload: None,
    }
}

#[test]
fn who_waits_is_answered_when_the_peer_leaves() {
    let mut peer = alone();
    let me = peer.id();
    // Another replica that never answers.
    let lost = PeerId(2);
    for slot in crate::key::Slot::all() {
        let config = SlotConfig {
            epoch: 2,
            replicas: vec![me, lost],
            next: None,
        };
        peer.adopt(slot, config).unwrap();
    }
    let mut out = Vec::new();
    let request = Request::ReadName(Name::new("f").unwrap());
    let input = Input::Request {
        id: RequestId(7),
        request,
    };
    peer.handle(input, Time(1), &mut out).unwrap();
    assert!(!out.iter().any(|o| matches!(o, Output::Answer { .. })));
    let mut told = peer.myself().clone();
    told.liveness = crate::member::Liveness::Left;
    let message = Message::Members {
        members: vec![told],
        reply: false,
    };
    let input = Input::Message {
        from: lost,
        message,
    };
    peer.handle(input, Time(2), &mut out).unwrap();
    let answered = out.iter().any(|o| {
        matches!(
            o,
            Output::Answer {
                id: RequestId(7),
                answer: Answer::Failed(RequestError::Left)
            }
        )
    });
    assert!(answered, "{out:?}");
}

#[test]
fn a_full_disk_refuses_new_values_but_stays_readable_and_deletes() {
    let mut peer = alone();
    assert!(matches!(
        write(&mut peer, some("old")),
        Answer::Written { .. }
    ));
    let mut out = Vec::new();
    peer.handle(Input::DiskFull(true), Time(1), &mut out)
        .unwrap();
    let refused = write(&mut peer, some("new"));
    assert!(matches!(refused, Answer::Failed(RequestError::Full { .. })));
    let name = Name::new("f").unwrap();
    let Answer::Register(Some(register)) = ask(&mut peer, Request::ReadName(name)) else {
        panic!("it cannot be read");
    };
    assert_eq!(register.value, some("old"));
    assert!(matches!(
        write(&mut peer, Value::Deleted),
        Answer::Written { .. }
    ));
}

#[test]
fn conditions_are_judged_by_who_wrote_last() {
    let mut peer = alone();
    let Answer::Written { write: first, .. } = write_if(&mut peer, some("1"), Condition::Absent)
    else {
        panic!("an absent name can be created");
    };
    let again = write_if(&mut peer, some("2"), Condition::Absent);
    assert!(matches!(again, Answer::Unmet(Some(r)) if r.write == first && r.value == some("1")));
    let Answer::Written { write: second, .. } =
        write_if(&mut peer, some("2"), Condition::Unchanged(first))
    else {
        panic!("nobody else wrote");
    };
    let late = write_if(&mut peer, Value::Deleted, Condition::Unchanged(first));
    assert!(matches!(late, Answer::Unmet(Some(r)) if r.write == second));
    let gone = write_if(&mut peer, Value::Deleted, Condition::Unchanged(second));
    assert!(matches!(gone, Answer::Written { .. }));
    let back = write_if(&mut peer, some("3"), Condition::Absent);
    assert!(matches!(back, Answer::Written { .. }));
}

/// Found by the simulation: a leaver alone held a value that was never decided, and waited for ever for the others to hold
/// it too.
#[test]
fn what_another_holds_is_decided_where_a_promise_forbids_to_store_it() {
    let mut peer = alone();
    let name = Name::new("f").unwrap();
    let key = Key::of_name(&name);
    let version = |epoch| Version {
        epoch,
        round: 0,
        writer: PeerId(2),
        op: 5,
    };
    let epoch = peer.slots.config(key.slot()).unwrap().epoch;
    let theirs = Register {
        name: name.clone(),
        version: version(epoch - 1),
        write: WriteId {
            peer: PeerId(2),
            op: 4,
        },
        value: some("theirs"),
        trail: Box::default(),
    };
    peer.store.put_promise(&key, &version(epoch)).unwrap();
    let kept = peer.keep_register(key.slot(), &theirs, Consumers::NONE);
    assert!(!kept.unwrap(), "it is promised");
    ask(&mut peer, Request::ReadName(name.clone()));
    let Answer::Register(Some(found)) = ask(&mut peer, Request::ReadName(name)) else {
        panic!("nothing was decided")
    };
    assert_eq!((found.write, &found.value), (theirs.write, &theirs.value));
    assert!(found.version > version(epoch));
    // What was decided meanwhile stays.
    let later = Register {
        value: some("too late"),
        write: WriteId {
            peer: PeerId(2),
            op: 9,
        },
        ..theirs
    };
    assert!(
        peer.keep_register(key.slot(), &later, Consumers::NONE)
            .unwrap()
    );
    let kept = ask(&mut peer, Request::ReadName(found.name.clone()));
    assert!(matches!(kept, Answer::Register(kept) if kept == Some(found)));
}

/// Whether a read is answered once one other replica has told what it holds.
fn one_other_suffices(forgetful: bool) -> bool {
    let mut peer = alone();
    let others = [2, 3].map(crate::member::tests::member).to_vec();
    peer.learn(others).unwrap();
    let name = Name::new("f").unwrap();
    let slot = Key::of_name(&name).slot();
    let config = SlotConfig {
        epoch: 2,
        replicas: vec![PeerId(2), peer.id(), PeerId(3)],
        next: None,
    };
    peer.adopt(slot, config).unwrap();
    peer.set_forgetful(forgetful);
    let (id, request) = (RequestId(7), Request::ReadName(name));
    let mut handle = |input, at| {
        let mut out = Vec::new();
        peer.handle(input, Time(at), &mut out).unwrap();
        out
    };
    let asked = |out: Vec<Output>| {
        let read = out.into_iter().find_map(|o| match o {
            Output::Send {
                message: Message::Read { op, .. },
                ..
            } => Some(op),
            _ => None,
        });
        read.expect("others are asked")
    };
    let reply = |from: u128, op| Input::Message {
        from: PeerId(from),
        message: Message::ReadReply {
            op,
            register: None,
            read: false,
        },
    };
    let answered = |out: Vec<Output>| out.iter().any(|o| matches!(o, Output::Answer { .. }));
    let op = asked(handle(Input::Request { id, request }, 1));
    if answered(handle(reply(2, op), 2)) {
        return true;
    }
    // It asks the other one as well.
    let op = asked(handle(Input::Timer, 2 + HEDGE));
    assert!(!answered(handle(reply(2, op), 3 + HEDGE)));
    assert!(answered(handle(reply(3, op), 4 + HEDGE)));
    false
}

#[test]
fn who_may_have_forgotten_does_not_count_its_own_word() {
    assert!(one_other_suffices(false));
    assert!(!one_other_suffices(true));
}

#[test]
fn who_may_have_forgotten_does_not_lead() {
    let mut peer = alone();
    let slot = crate::key::Slot::all().next().unwrap();
    let config = SlotConfig {
        epoch: 2,
        replicas: vec![peer.id()],
        next: None,
    };
    peer.adopt(slot, config).unwrap();
    // It has nobody to compare with.
    peer.drive_sync().unwrap();
    assert!(peer.leads(slot));
    peer.set_forgetful(true);
    assert!(!peer.leads(slot));
}
