//! Slots with more entries than one message lists: every message stays bounded, and how much is said at a time; the replica
//! that lacks them gets all.

use std::collections::BTreeSet;

use peernet_core::config::{ENTRIES, Settings};
use peernet_core::io::{Given, Input, Request, RequestId, Time};
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

/// Whoever waited for a list that does not change would wait for ever.
#[test]
fn a_slot_that_changes_all_the_time_is_listed_to_its_end() {
    let mut pair = pair(3 * ENTRIES);
    let there = held(&mut pair, 0);
    // Whenever the next page is asked for, the copy has gained an entry that the first page would have named.
    let mut gained = 0;
    pair.run(5_000, |message, peers| {
        if matches!(message, Message::SyncMore { .. }) {
            gained += 1;
            let mut early = key(5);
            early.0[28..].copy_from_slice(&u32::to_be_bytes(gained));
            let request = Request::PinChunk {
                key: early,
                given: Given::Bytes(1),
                epoch: 1,
                by: referrer(),
            };
            let id = RequestId(1);
            let input = Input::Request { id, request };
            peers[0].handle(input, Time(0), &mut Vec::new()).unwrap();
        }
    });
    assert!(gained >= 2, "the list had one page");
    let here: BTreeSet<Entry> = held(&mut pair, 1).into_iter().collect();
    let overlooked = there.iter().filter(|entry| !here.contains(entry));
    assert_eq!(overlooked.count(), 0);
    // What came meanwhile is found by the next comparison.
    pair.run(2 * Settings::default().anti_entropy, |_, _| {});
    assert!(held(&mut pair, 0) == held(&mut pair, 1));
}

/// A peer comes back and asks for full slots, all at once.
#[test]
fn so_much_is_listed_at_a_time_and_the_rest_afterwards() {
    const SLOTS: usize = 16;
    let of_slot = |slot: usize, n: usize| {
        let mut key = key(n);
        key.0[..2].copy_from_slice(&((slot << 4) as u16).to_be_bytes());
        key
    };
    let all = |_| (0..SLOTS * 4_000).map(|n| of_slot(n % SLOTS, n / SLOTS));
    let mut pair = Replicas::new(2, |n| all(n).filter(|_| n == 0).collect());
    let (mut most, mut listed) = (0, 0);
    // A period of answers is two of these steps, so that a step sees what one period allows.
    for _ in 0..400 {
        let mut bytes = 0;
        pair.run(50, |message, _| {
            if let Message::SyncReply {
                entries: Some(entries),
                ..
            } = message
            {
                bytes += entries.len() * 90;
            }
        });
        most = bytes.max(most);
        listed += bytes;
    }
    let one_list = 8_000 * 180;
    assert!(listed > 4 * 1024 * 1024, "{listed}");
    assert!(most < 2 * 1024 * 1024 + one_list, "{most} bytes at once");
    let (here, there): (Vec<_>, Vec<_>) = (0..SLOTS as u16)
        .map(|n| Slot::new(n).unwrap())
        .map(|slot| [1, 0].map(|n: usize| pair.peers[n].store().entries(slot).unwrap()))
        .map(|[here, there]| (here, there))
        .unzip();
    assert!(here == there, "in the end all is there");
}
