//! A slot with more entries than one message lists: every message stays bounded, the replica that lacks them gets all,
//! and a list that changes between its pages counts for nothing.

use peernet_core::config::ENTRIES;
use peernet_core::io::{Input, Request, RequestId, Time};
use peernet_core::key::{Key, Slot};
use peernet_core::message::Message;
use peernet_core::store::{Entry, Store};

use crate::network::{Replicas, referrer};

/// A key of the first slot.
fn key(n: usize) -> Key {
    let mut key = [0; 32];
    key[2..10].copy_from_slice(&(n as u64).to_be_bytes());
    Key(key)
}

/// Two replicas, the first with so many chunks in the first slot.
fn pair(chunks: usize) -> Replicas {
    Replicas::new(2, |n| (0..chunks).filter(|_| n == 0).map(key).collect())
}

fn held(pair: &mut Replicas, n: usize) -> Vec<Entry> {
    let slot = Slot::new(0).unwrap();
    pair.peers[n].store().entries(slot).unwrap()
}

#[test]
fn a_slot_with_many_entries_is_listed_in_pages() {
    let mut pair = pair(2 * ENTRIES + 10);
    let mut lists = Vec::new();
    pair.run(5_000, |message, _| {
        if let Message::SyncReply {
            entries: Some(entries),
            ..
        } = message
        {
            lists.push(entries.len());
        }
    });
    let (here, there) = (held(&mut pair, 1), held(&mut pair, 0));
    assert!(here == there, "{} of {}", here.len(), there.len());
    assert!(lists.len() >= 3, "{lists:?}");
    assert_eq!(lists.iter().max(), Some(&ENTRIES));
}

#[test]
fn a_list_that_changes_between_its_pages_begins_anew() {
    let mut pair = pair(ENTRIES + 10);
    // Before the second page is asked for, the copy gains an entry that the first page would have named.
    let mut early = key(5);
    early.0[31] = 1;
    let mut meddled = false;
    pair.run(5_000, |message, peers| {
        if matches!(message, Message::SyncMore { .. }) && !std::mem::replace(&mut meddled, true) {
            let request = Request::PinChunk {
                key: early,
                len: Some(1),
                epoch: 1,
                by: referrer(),
            };
            let id = RequestId(1);
            let input = Input::Request { id, request };
            peers[0].handle(input, Time(0), &mut Vec::new()).unwrap();
        }
    });
    assert!(meddled, "the list had one page");
    let (here, there) = (held(&mut pair, 1), held(&mut pair, 0));
    assert!(there.iter().any(|entry| entry.key() == early));
    assert!(here == there, "what was inserted was overlooked");
}
