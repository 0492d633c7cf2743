//! What a search costs, and that it ends.

use std::collections::BTreeSet;

use peernet_core::io::{Answer, IndexCost, Request, RequestError, Search};
use peernet_core::message::Message;

use crate::network::Replicas;

fn search() -> Request {
    Request::Search(Search {
        terms: BTreeSet::from(["word".to_owned()]),
        limit: 10,
        ..Search::default()
    })
}

fn cost(answer: Answer) -> IndexCost {
    match answer {
        Answer::Matches { cost, .. } => cost,
        other => panic!("{other:?}"),
    }
}

/// Three replicas that have found each other.
fn three() -> Replicas {
    let mut replicas = Replicas::new(3, |_| Vec::new());
    replicas.run(2_000, |_, _| {});
    replicas
}

#[test]
fn a_search_counts_whom_it_asks_and_what_is_said() {
    let mut replicas = three();
    let answer = replicas.ask(0, search());
    // A majority is asked: besides itself the first peer, which owns the slots, asks one.
    let least = IndexCost {
        peers: 2,
        messages: 2,
        shards: 1,
    };
    assert_eq!(cost(answer), least);
}

#[test]
fn questions_that_are_asked_again_are_counted_again() {
    let mut replicas = three();
    replicas.lost = |message| matches!(message, Message::ReadReply { .. });
    let id = replicas.request(0, search());
    let mut questions = 1;
    let answer = loop {
        if let Some(answer) = replicas.answered(id) {
            break answer;
        }
        replicas.run(50, |message, _| {
            questions += u32::from(matches!(message, Message::Read { .. }));
        });
        if questions > 4 {
            replicas.lost = |_| false;
        }
    };
    assert_eq!(cost(answer).messages, 2 * questions);
}

#[test]
fn a_search_by_a_peer_that_is_cut_off_fails() {
    let mut replicas = three();
    replicas.cut_off = Some(1);
    let answer = replicas.ask(1, search());
    assert!(
        matches!(answer, Answer::Failed(RequestError::NoQuorum { .. })),
        "{answer:?}"
    );
}
