use super::*;
use crate::io::{Input, Output, Request};
use crate::member::tests::member;
use crate::peer::names::tests::alone;
use crate::register::Version;
use crate::store::memory::MemoryStore;
use bytes::Bytes;

fn listed(name: &str, counter: u64, live: bool) -> Listed {
    let version = Version {
        epoch: counter,
        round: 0,
        writer: PeerId(1),
        op: 0,
    };
    Listed {
        name: Name::new(name).unwrap(),
        version,
        head: live.then(|| Bytes::from_static(b"h").into()),
    }
}

fn names(items: &[Listed]) -> Vec<&str> {
    items.iter().map(|l| l.name.as_str()).collect()
}

fn merge(parts: [(Vec<Listed>, bool); 2]) -> (Vec<Listed>, Option<Name>) {
    let mut found = Found::default();
    for (items, done) in parts {
        found.add(Part { items, done });
    }
    found.page(10)
}

#[test]
fn newest_version_decides_and_tombstones_hide() {
    let (items, next) = merge([
        (vec![listed("a", 1, true), listed("b", 1, true)], true),
        (vec![listed("a", 2, false), listed("c", 1, true)], true),
    ]);
    assert_eq!(names(&items), ["b", "c"]);
    assert_eq!(next, None);
}

#[test]
fn nothing_beyond_the_shortest_answer_is_returned() {
    let short = (vec![listed("a", 1, true), listed("b", 1, true)], false);
    let long = (vec![listed("c", 1, true)], true);
    for parts in [[short.clone(), long.clone()], [long, short]] {
        let (items, next) = merge(parts);
        assert_eq!(names(&items), ["a", "b"]);
        assert_eq!(next.unwrap().as_str(), "b");
    }
}

const LISTS: RequestId = RequestId(7);

/// A peer that lists, under slots that it holds with two others.
fn lister() -> (Peer<MemoryStore>, Vec<Output>) {
    let mut peer = alone();
    let replicas = vec![peer.id(), PeerId(2), PeerId(3)];
    for slot in Slot::all() {
        peer.adopt(slot, config(2, replicas.clone())).unwrap();
    }
    peer.learn(vec![member(2), member(3)]).unwrap();
    let (mut out, prefix) = (Vec::new(), String::new());
    let request = Request::List {
        prefix,
        after: None,
        limit: 10,
    };
    let input = Input::Request { id: LISTS, request };
    peer.handle(input, Time(1), &mut out).unwrap();
    (peer, out)
}

fn config(epoch: u64, replicas: Vec<PeerId>) -> SlotConfig {
    SlotConfig {
        epoch,
        replicas,
        next: None,
    }
}

/// What was sent to that peer.
fn sent(out: &[Output], id: u128) -> Vec<&Message> {
    let to = member(id).address;
    let sent = out.iter().filter_map(|o| match o {
        Output::Send {
            address, message, ..
        } if *address == to => Some(message),
        _ => None,
    });
    sent.collect()
}

/// Answers the question that `peer` has asked that other one last, from a table in which a slot has another epoch.
fn reply(
    peer: &mut Peer<MemoryStore>,
    asked: &[Output],
    from: u128,
    names: &[&str],
    other: Option<(Slot, u64)>,
) -> Vec<Output> {
    let questions = sent(asked, from).into_iter().filter_map(|m| match m {
        Message::List { op, table, .. } => Some((*op, *table)),
        _ => None,
    });
    let (op, table) = questions.last().expect("it was asked");
    let mut epochs = vec![2; usize::from(crate::key::SLOTS)];
    let message = Message::ListReply {
        op,
        items: names.iter().map(|n| listed(n, 1, true)).collect(),
        done: true,
        table: table + u64::from(other.is_some()),
        epochs: other.map_or(Vec::new(), |(slot, epoch)| {
            epochs[slot.index()] = epoch;
            epochs
        }),
    };
    let from = PeerId(from);
    let mut out = Vec::new();
    let input = Input::Message { from, message };
    peer.handle(input, Time(1), &mut out).unwrap();
    out
}

fn answer(out: &[Output]) -> Option<Vec<&str>> {
    out.iter().find_map(|o| match o {
        Output::Answer {
            id: LISTS,
            answer: Answer::Names { items, .. },
        } => Some(names(items)),
        _ => None,
    })
}

#[test]
fn while_nothing_moves_no_table_is_sent_and_all_are_waited_for() {
    let (mut peer, asked) = lister();
    let out = reply(&mut peer, &asked, 2, &["a"], None);
    assert_eq!(answer(&out), None);
    let out = reply(&mut peer, &asked, 3, &["b"], None);
    assert_eq!(answer(&out), Some(vec!["a", "b"]));
}

#[test]
fn who_answers_under_another_configuration_is_no_part_of_the_majority() {
    let (mut peer, asked) = lister();
    let slot = Slot::all().next().unwrap();
    assert_eq!(
        answer(&reply(&mut peer, &asked, 2, &[], Some((slot, 1)))),
        None
    );
    assert_eq!(
        answer(&reply(&mut peer, &asked, 3, &["a"], Some((slot, 4)))),
        None
    );
    let mut asked = Vec::new();
    peer.handle(Input::Timer, Time(1_000), &mut asked).unwrap();
    let told = |m: &&Message| matches!(m, Message::Commit { configs } if configs.len() == 1);
    assert!(
        sent(&asked, 2).iter().any(told),
        "who is behind hears of it"
    );
    let offer = |m: &&Message| matches!(m, Message::SlotEpochs { .. });
    assert!(
        sent(&asked, 3).iter().any(offer),
        "who is ahead is asked what it knows"
    );
    // The slot has gone to others, one of which holds the name.
    peer.learn(vec![member(4)]).unwrap();
    let moved = config(4, vec![PeerId(3), PeerId(4), PeerId(5)]);
    peer.adopt(slot, moved).unwrap();
    assert_eq!(
        answer(&reply(&mut peer, &asked, 2, &[], Some((slot, 2)))),
        None
    );
    assert_eq!(
        answer(&reply(&mut peer, &asked, 3, &["a"], Some((slot, 4)))),
        None
    );
    let mut asked = Vec::new();
    peer.handle(Input::Timer, Time(2_000), &mut asked).unwrap();
    let out = reply(&mut peer, &asked, 4, &["b"], None);
    assert_eq!(
        answer(&out),
        Some(vec!["a", "b"]),
        "nobody knows of the third"
    );
}

#[test]
fn programs_that_say_nothing_of_their_table_count_as_before() {
    let (mut peer, asked) = lister();
    let mut out = Vec::new();
    for from in [2, 3] {
        let op = sent(&asked, from).into_iter().find_map(|m| match m {
            Message::List { op, .. } => Some(*op),
            _ => None,
        });
        let message = Message::ListReply {
            op: op.expect("it was asked"),
            items: vec![listed("a", 1, true)],
            done: true,
            table: 0,
            epochs: Vec::new(),
        };
        let from = PeerId(from);
        let input = Input::Message { from, message };
        peer.handle(input, Time(1), &mut out).unwrap();
    }
    assert_eq!(answer(&out), Some(vec!["a"]));
}
