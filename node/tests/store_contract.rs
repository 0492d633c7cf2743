//! The contract of `peernet_core::store::Store`, held by the store on disk and by its twin in memory.

use std::fs;

use bytes::Bytes;
use peernet_core::collect::{Referrer, Upload};
use peernet_core::key::{Key, Name, Position, Slot};
use peernet_core::leave::Receipt;
use peernet_core::member::{Drain, Liveness, Member, PeerId};
use peernet_core::outbox::{Consumer, Consumers, Pending, Trail};
use peernet_core::register::{Register, Value, Version, WriteId};
use peernet_core::slot::{Ballot, Frozen, SlotConfig, SlotRecord};
use peernet_core::store::memory::MemoryStore;
use peernet_core::store::{Entry, Identity, Remembered, Store};
use peernet_node::disk::{DiskStore, Durability};
use tempfile::TempDir;

/// A store and what it is kept on.
trait Volume {
    type Store: Store;
    fn empty() -> Self;
    fn store(&mut self) -> &mut Self::Store;
    /// What was not committed is lost: the power fails and comes back, or where writes are synced late, the process dies.
    fn power_cut(&mut self);
    /// The peer stops in good order, without a commit, and starts again.
    fn restart(&mut self);
}

struct Memory(MemoryStore);

impl Volume for Memory {
    type Store = MemoryStore;

    fn empty() -> Self {
        Memory(MemoryStore::default())
    }

    fn store(&mut self) -> &mut MemoryStore {
        &mut self.0
    }

    fn power_cut(&mut self) {
        self.0.crash();
    }

    fn restart(&mut self) {
        self.0.crash();
    }
}

struct Disk<const SYNCED: bool> {
    /// Dropped before its folder.
    store: Option<DiskStore>,
    folder: TempDir,
}

impl<const SYNCED: bool> Disk<SYNCED> {
    fn open(folder: &TempDir) -> Option<DiskStore> {
        let durability = match SYNCED {
            true => Durability::Synced,
            false => Durability::Written,
        };
        let file = folder.path().join("meta.redb");
        Some(DiskStore::open_with(&file, durability).unwrap())
    }
}

impl<const SYNCED: bool> Volume for Disk<SYNCED> {
    type Store = DiskStore;

    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Self::open(&folder);
        Disk { store, folder }
    }

    fn store(&mut self) -> &mut DiskStore {
        self.store.as_mut().unwrap()
    }

    /// What is in the file at this moment is what a killed process leaves.
    fn power_cut(&mut self) {
        let after = tempfile::tempdir().unwrap();
        for file in fs::read_dir(self.folder.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), after.path().join(file.file_name())).unwrap();
        }
        self.store = Self::open(&after);
        self.folder = after;
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Self::open(&self.folder);
    }
}

macro_rules! contract {
    ($($test:ident)*) => {
        mod memory {
            $(#[test] fn $test() { super::$test::<super::Memory>() })*
        }
        mod disk {
            $(#[test] fn $test() { super::$test::<super::Disk<true>>() })*
        }
        mod late {
            $(#[test] fn $test() { super::$test::<super::Disk<false>>() })*
        }
    };
}

contract! {
    an_empty_volume_knows_nothing
    writes_are_seen_before_the_commit
    what_was_committed_survives
    what_was_not_committed_is_lost_as_a_whole
    each_kind_of_record_is_committed_on_its_own
    records_are_replaced_and_removed
    names_are_listed_in_byte_order
    entries_are_those_of_the_slot_in_order
    promises_last_until_something_as_great_is_stored
    marks_are_found_by_slot_and_consumer
    internal_names_are_stored_but_not_listed
    clearing_a_slot_leaves_the_others
    usage_follows_chunks
    receipts_are_by_leaver_in_slot_order
    a_reset_forgets_all_and_can_be_lost
    large_values_survive
}

fn member(n: u128) -> Member {
    Member {
        id: PeerId(n),
        name: format!("demo-{n}"),
        address: format!("demo-{n}:7000"),
        http: format!("demo-{n}:8080"),
        zone: "a".into(),
        position: Position(n as u64),
        incarnation: 1,
        liveness: Liveness::Active,
        drain: Drain::default(),
        version: "0.1.0".into(),
    }
}

fn identity(network: &str) -> Identity {
    Identity {
        network: network.into(),
        member: member(1),
    }
}

fn slot(number: u16) -> Slot {
    Slot::new(number).unwrap()
}

fn record(epoch: u64) -> SlotRecord {
    let config = |epoch| SlotConfig {
        epoch,
        replicas: vec![PeerId(1), PeerId(2)],
        next: Some(vec![PeerId(3)]),
    };
    let ballot = Ballot {
        round: 4,
        proposer: PeerId(2),
    };
    SlotRecord {
        config: config(epoch),
        promised: ballot,
        accepted: Some((ballot, config(epoch + 1))),
        frozen: Some(Frozen {
            epoch,
            awaiting: vec![PeerId(9)],
        }),
    }
}

fn version(counter: u64) -> Version {
    Version {
        epoch: counter,
        round: counter + 1,
        writer: PeerId(u128::MAX - 1),
        op: u64::MAX - 2,
    }
}

fn register(name: &str, counter: u64) -> Register {
    let value = Value::Present {
        head: Bytes::from_static(b"head").into(),
        body: Bytes::from(name.to_owned()),
        upload: None,
    };
    Register {
        name: Name::new(name).unwrap(),
        version: version(counter),
        write: WriteId {
            peer: PeerId(3),
            op: counter,
        },
        value,
        trail: Box::default(),
    }
}

fn tombstone(name: &str, counter: u64) -> Register {
    Register {
        value: Value::Deleted,
        ..register(name, counter)
    }
}

fn key_of(name: &str) -> Key {
    Key::of_name(&Name::new(name).unwrap())
}

/// A key in that slot, of that number.
fn key(slot_number: u16, n: u8) -> Key {
    let mut key = [n; 32];
    key[..2].copy_from_slice(&(slot_number << 4 | 7).to_be_bytes());
    Key(key)
}

fn receipt(leaver: u128, number: u16, chunks: u64) -> Receipt {
    Receipt {
        leaver: PeerId(leaver),
        drain_epoch: 1,
        slot: slot(number),
        epoch: 2,
        root: [3; 32],
        receiver: PeerId(8),
        chunks,
        bytes: 5,
    }
}

fn listed(store: &impl Store, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(|a| Name::new(a).unwrap());
    let page = store.names(prefix, after.as_ref(), limit).unwrap();
    page.iter().map(|r| r.name.to_string()).collect()
}

fn an_empty_volume_knows_nothing<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    assert_eq!(store.identity().unwrap(), None);
    assert_eq!(store.remembered().unwrap(), Remembered::default());
    assert_eq!(store.register(&key_of("a")).unwrap(), None);
    assert_eq!(store.chunk(&key(0, 1)).unwrap(), None);
    assert_eq!(store.entries(slot(0)).unwrap(), []);
    assert_eq!(store.usage().unwrap(), (0, 0));
    assert_eq!(store.receipts(PeerId(1)).unwrap(), []);
    assert_eq!(store.clear_slot(slot(0)).unwrap(), []);
    store.remove_chunk(&key(0, 1)).unwrap();
    store.remove_member(PeerId(1)).unwrap();
    store.commit().unwrap();
    store.commit().unwrap();
}

/// One of everything.
fn fill(store: &mut impl Store) {
    store.put_identity(&identity("n")).unwrap();
    store.put_member(&member(2)).unwrap();
    store.put_slot(slot(4095), &record(1)).unwrap();
    store.put_register(&register("a/b", 1)).unwrap();
    store.put_chunk(&key(7, 1), 100).unwrap();
    store.put_receipt(&receipt(5, 7, 1)).unwrap();
}

fn assert_filled(store: &impl Store) {
    assert_eq!(store.identity().unwrap(), Some(identity("n")));
    let remembered = Remembered {
        members: vec![member(2)],
        slots: vec![(slot(4095), record(1))],
    };
    assert_eq!(store.remembered().unwrap(), remembered);
    assert_eq!(
        store.register(&key_of("a/b")).unwrap(),
        Some(register("a/b", 1))
    );
    assert_eq!(store.names("", None, 10).unwrap(), [register("a/b", 1)]);
    let entry = Entry::Name {
        key: key_of("a/b"),
        version: version(1),
    };
    assert_eq!(store.entries(key_of("a/b").slot()).unwrap(), [entry]);
    assert_eq!(store.chunk(&key(7, 1)).unwrap(), Some(100));
    assert_eq!(
        store.entries(slot(7)).unwrap(),
        [Entry::Chunk {
            key: key(7, 1),
            len: 100
        }]
    );
    assert_eq!(store.usage().unwrap(), (1, 100));
    assert_eq!(store.receipts(PeerId(5)).unwrap(), [receipt(5, 7, 1)]);
}

fn writes_are_seen_before_the_commit<V: Volume>() {
    let mut volume = V::empty();
    fill(volume.store());
    assert_filled(volume.store());
}

fn what_was_committed_survives<V: Volume>() {
    let mut volume = V::empty();
    fill(volume.store());
    volume.store().commit().unwrap();
    volume.restart();
    assert_filled(volume.store());
    volume.power_cut();
    assert_filled(volume.store());
    volume.restart();
    assert_filled(volume.store());
}

fn what_was_not_committed_is_lost_as_a_whole<V: Volume>() {
    let mut volume = V::empty();
    fill(volume.store());
    volume.store().commit().unwrap();
    for lose in [V::power_cut, V::restart] {
        let store = volume.store();
        store.put_identity(&identity("other")).unwrap();
        store.put_member(&member(3)).unwrap();
        store.remove_member(PeerId(2)).unwrap();
        store.put_slot(slot(0), &record(9)).unwrap();
        store.put_slot(slot(4095), &record(2)).unwrap();
        store.put_register(&register("a/b", 2)).unwrap();
        store.put_register(&register("c", 1)).unwrap();
        store.put_chunk(&key(7, 1), 200).unwrap();
        store.put_chunk(&key(7, 2), 300).unwrap();
        store.put_receipt(&receipt(5, 7, 2)).unwrap();
        store.put_receipt(&receipt(5, 8, 1)).unwrap();
        assert_eq!(store.usage().unwrap(), (2, 500));
        lose(&mut volume);
        assert_filled(volume.store());
    }
    volume.store().clear_slot(slot(7)).unwrap();
    volume.store().clear_slot(key_of("a/b").slot()).unwrap();
    volume.power_cut();
    assert_filled(volume.store());
}

fn each_kind_of_record_is_committed_on_its_own<V: Volume>() {
    let mut volume = V::empty();
    let by = Referrer {
        name: Name::new("a").unwrap(),
        upload: Upload(1),
        base: None,
    };
    // Twice: the first commit of a process is not like those that follow.
    for round in 1..3 {
        let mark = Pending {
            write: register("a", round).write,
            consumers: Consumers::from_bits(1).unwrap(),
        };
        let n = round as u8;
        let store = volume.store();
        store.put_reference(&key(1, n), 9, &by).unwrap();
        store.commit().unwrap();
        store.put_chunk(&key(2, n), 9).unwrap();
        store.commit().unwrap();
        store.put_mark(&key(3, n), Some(&mark)).unwrap();
        store.commit().unwrap();
        store.put_register(&register("a", round)).unwrap();
        store.commit().unwrap();
        volume.power_cut();
        let store = volume.store();
        let held = store.referrers(&key(1, n), 9).unwrap();
        assert_eq!(held, std::slice::from_ref(&by), "{round}");
        assert_eq!(store.chunk(&key(2, n)).unwrap(), Some(9));
        assert_eq!(store.mark(&key(3, n)).unwrap(), Some(mark));
        let held = store.register(&key_of("a")).unwrap();
        assert_eq!(held, Some(register("a", round)));
    }
}

fn records_are_replaced_and_removed<V: Volume>() {
    let mut volume = V::empty();
    fill(volume.store());
    let store = volume.store();
    store.put_identity(&identity("m")).unwrap();
    store
        .put_member(&Member {
            incarnation: 2,
            ..member(2)
        })
        .unwrap();
    store.put_member(&member(3)).unwrap();
    store.remove_member(PeerId(3)).unwrap();
    store.put_slot(slot(4095), &record(2)).unwrap();
    store.put_register(&tombstone("a/b", 2)).unwrap();
    store.commit().unwrap();
    volume.restart();
    let store = volume.store();
    assert_eq!(store.identity().unwrap(), Some(identity("m")));
    let members = vec![Member {
        incarnation: 2,
        ..member(2)
    }];
    let remembered = Remembered {
        members,
        slots: vec![(slot(4095), record(2))],
    };
    assert_eq!(store.remembered().unwrap(), remembered);
    assert_eq!(
        store.register(&key_of("a/b")).unwrap(),
        Some(tombstone("a/b", 2))
    );
    assert_eq!(store.names("", None, 10).unwrap(), [tombstone("a/b", 2)]);
}

fn names_are_listed_in_byte_order<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    let all = ["a", "a b", "a-", "a/b", "a/c", "a0", "b", "é"];
    for name in all.iter().rev() {
        store.put_register(&register(name, 1)).unwrap();
    }
    store.put_register(&tombstone("a/c", 2)).unwrap();
    assert_eq!(listed(store, "", None, 100), all);
    assert_eq!(listed(store, "a/", None, 100), ["a/b", "a/c"]);
    assert_eq!(listed(store, "a/", Some("a/b"), 100), ["a/c"]);
    assert_eq!(listed(store, "a/", Some("a/b0"), 100), ["a/c"]);
    assert_eq!(listed(store, "a/", Some("b"), 100), [""; 0]);
    assert_eq!(listed(store, "a/", Some("a"), 100), ["a/b", "a/c"]);
    assert_eq!(listed(store, "", Some("b"), 100), ["é"]);
    assert_eq!(listed(store, "", None, 3), ["a", "a b", "a-"]);
    assert_eq!(listed(store, "", Some("a-"), 2), ["a/b", "a/c"]);
    assert_eq!(listed(store, "", None, 0), [""; 0]);
    assert_eq!(listed(store, "x", None, 100), [""; 0]);
}

fn entries_are_those_of_the_slot_in_order<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    let here = key_of("here").slot();
    let (before, after) = (slot(here.number() - 1), slot(here.number() + 1));
    store.put_register(&register("here", 5)).unwrap();
    for (number, n) in [
        (here, 0xff),
        (here, 0),
        (before, 0xff),
        (after, 0),
        (here, 9),
    ] {
        store
            .put_chunk(&key(number.number(), n), u32::from(n))
            .unwrap();
    }
    let chunk = |n| Entry::Chunk {
        key: key(here.number(), n),
        len: u32::from(n),
    };
    let name = Entry::Name {
        key: key_of("here"),
        version: version(5),
    };
    let entries = store.entries(here).unwrap();
    assert_eq!(entries, [chunk(0), chunk(9), chunk(0xff), name]);
    assert!(entries.is_sorted());
    for edge in [0, 4095] {
        store
            .put_chunk(&Key([if edge == 0 { 0 } else { 0xff }; 32]), 1)
            .unwrap();
        assert_eq!(store.entries(slot(edge)).unwrap().len(), 1);
    }
}

fn promises_last_until_something_as_great_is_stored<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    let key = key_of("here");
    assert_eq!(store.promise(&key).unwrap(), None);
    store.put_promise(&key, &version(7)).unwrap();
    store.commit().unwrap();
    store.put_register(&register("here", 6)).unwrap();
    store.put_promise(&key_of("there"), &version(1)).unwrap();
    assert_eq!(store.promise(&key).unwrap(), Some(version(7)));
    volume.power_cut();
    let store = volume.store();
    assert_eq!(store.promise(&key).unwrap(), Some(version(7)));
    assert_eq!(store.promise(&key_of("there")).unwrap(), None);
    store.put_register(&register("here", 7)).unwrap();
    assert_eq!(store.promise(&key).unwrap(), None);
    store.put_promise(&key, &version(8)).unwrap();
    store.clear_slot(key.slot()).unwrap();
    assert_eq!(store.promise(&key).unwrap(), None);
}

fn marks_are_found_by_slot_and_consumer<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    let mark = |op, bits| Pending {
        write: register("f", op).write,
        consumers: Consumers::from_bits(bits).unwrap(),
    };
    for (n, bits) in [(3, 2), (1, 1), (2, 3), (0xff, 2)] {
        store
            .put_mark(&key(9, n), Some(&mark(n.into(), bits)))
            .unwrap();
    }
    store.put_mark(&key(10, 0), Some(&mark(1, 1))).unwrap();
    store.commit().unwrap();
    store.put_mark(&key(9, 4), Some(&mark(4, 1))).unwrap();
    volume.power_cut();
    let store = volume.store();
    let found = |store: &V::Store, consumer, after: Option<u8>, limit| -> Vec<u8> {
        let after = after.map(|n| key(9, n));
        let marks = store
            .marks(slot(9), consumer, after.as_ref(), limit)
            .unwrap();
        marks.iter().map(|(key, _)| key.0[31]).collect()
    };
    assert_eq!(found(store, None, None, 9), [1, 2, 3, 0xff]);
    assert_eq!(found(store, Some(Consumer::Index), None, 9), [1, 2]);
    assert_eq!(found(store, Some(Consumer::Events), Some(2), 1), [3]);
    assert_eq!(store.mark(&key(9, 2)).unwrap(), Some(mark(2, 3)));
    store.put_mark(&key(9, 2), Some(&mark(7, 2))).unwrap();
    store.put_mark(&key(9, 3), None).unwrap();
    assert_eq!(store.mark(&key(9, 2)).unwrap(), Some(mark(7, 2)));
    assert_eq!(found(store, None, None, 9), [1, 2, 0xff]);
    store.clear_slot(slot(9)).unwrap();
    assert!(found(store, None, None, 9).is_empty());
    assert_eq!(store.mark(&key(10, 0)).unwrap(), Some(mark(1, 1)));
    store.reset().unwrap();
    assert_eq!(store.mark(&key(10, 0)).unwrap(), None);
}

fn internal_names_are_stored_but_not_listed<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    let internal = Register {
        name: Name::internal("index/x").unwrap(),
        trail: Trail::after(Some(&register("a", 1)), true).into(),
        ..register("a", 1)
    };
    store.put_register(&internal).unwrap();
    store.put_register(&register("b", 1)).unwrap();
    store.commit().unwrap();
    volume.power_cut();
    let store = volume.store();
    let key = Key::of_name(&internal.name);
    assert_eq!(store.register(&key).unwrap(), Some(internal));
    assert_eq!(listed(store, "", None, 10), ["b"]);
    assert_eq!(store.entries(key.slot()).unwrap().len(), 1);
    store.clear_slot(key.slot()).unwrap();
    assert_eq!(store.register(&key).unwrap(), None);
}

fn clearing_a_slot_leaves_the_others<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    let here = key_of("here").slot();
    let next = slot(here.number() + 1);
    store.put_register(&register("here", 5)).unwrap();
    store.put_register(&register("there", 5)).unwrap();
    for (number, n) in [(here, 2), (here, 1), (next, 1)] {
        store.put_chunk(&key(number.number(), n), 10).unwrap();
    }
    store.commit().unwrap();
    assert_eq!(
        store.clear_slot(here).unwrap(),
        [key(here.number(), 1), key(here.number(), 2)]
    );
    store.commit().unwrap();
    volume.power_cut();
    let store = volume.store();
    assert_eq!(store.entries(here).unwrap(), []);
    assert_eq!(store.register(&key_of("here")).unwrap(), None);
    assert_eq!(listed(store, "", None, 10), ["there"]);
    assert_eq!(
        store.entries(next).unwrap(),
        [Entry::Chunk {
            key: key(next.number(), 1),
            len: 10
        }]
    );
    assert_eq!(store.usage().unwrap(), (1, 10));
}

fn usage_follows_chunks<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    store.put_chunk(&key(1, 1), 10).unwrap();
    store.put_chunk(&key(1, 1), 20).unwrap();
    store.put_chunk(&key(2, 1), 5).unwrap();
    assert_eq!(store.usage().unwrap(), (2, 25));
    store.remove_chunk(&key(2, 1)).unwrap();
    store.remove_chunk(&key(2, 1)).unwrap();
    assert_eq!(store.usage().unwrap(), (1, 20));
    store.commit().unwrap();
    volume.restart();
    assert_eq!(volume.store().usage().unwrap(), (1, 20));
}

fn receipts_are_by_leaver_in_slot_order<V: Volume>() {
    let mut volume = V::empty();
    let store = volume.store();
    for (leaver, number) in [(5, 4095), (5, 0), (5, 256), (4, 1), (6, 1), (u128::MAX, 2)] {
        store.put_receipt(&receipt(leaver, number, 1)).unwrap();
    }
    store.put_receipt(&receipt(5, 256, 2)).unwrap();
    let expected = [receipt(5, 0, 1), receipt(5, 256, 2), receipt(5, 4095, 1)];
    assert_eq!(store.receipts(PeerId(5)).unwrap(), expected);
    assert_eq!(
        store.receipts(PeerId(u128::MAX)).unwrap(),
        [receipt(u128::MAX, 2, 1)]
    );
    assert_eq!(store.receipts(PeerId(7)).unwrap(), []);
    store.remove_member(PeerId(5)).unwrap();
    assert_eq!(store.receipts(PeerId(5)).unwrap(), []);
    assert_eq!(store.receipts(PeerId(4)).unwrap(), [receipt(4, 1, 1)]);
    assert_eq!(store.receipts(PeerId(6)).unwrap(), [receipt(6, 1, 1)]);
}

fn a_reset_forgets_all_and_can_be_lost<V: Volume>() {
    let mut volume = V::empty();
    fill(volume.store());
    volume.store().commit().unwrap();
    volume.store().reset().unwrap();
    assert_eq!(volume.store().identity().unwrap(), None);
    volume.power_cut();
    assert_filled(volume.store());

    let store = volume.store();
    store.reset().unwrap();
    store.put_identity(&identity("new")).unwrap();
    store.commit().unwrap();
    volume.restart();
    let store = volume.store();
    assert_eq!(store.identity().unwrap(), Some(identity("new")));
    assert_eq!(store.remembered().unwrap(), Remembered::default());
    assert_eq!(store.names("", None, 10).unwrap(), []);
    assert_eq!(store.register(&key_of("a/b")).unwrap(), None);
    assert_eq!(store.entries(slot(7)).unwrap(), []);
    assert_eq!(store.usage().unwrap(), (0, 0));
    assert_eq!(store.receipts(PeerId(5)).unwrap(), []);
    fill(store);
    assert_filled(store);
}

fn large_values_survive<V: Volume>() {
    let mut volume = V::empty();
    let body = Bytes::from(vec![7; peernet_core::register::REGISTER_MAX - 2048]);
    let value = Value::Present {
        head: Bytes::from(vec![1; 2048]).into(),
        body,
        upload: None,
    };
    let large = Register {
        value,
        ..register(&"x".repeat(1024), 1)
    };
    for _ in 0..3 {
        volume.store().put_register(&large).unwrap();
        volume.store().commit().unwrap();
        volume.power_cut();
    }
    assert_eq!(
        volume.store().register(&Key::of_name(&large.name)).unwrap(),
        Some(large)
    );
}
