//! The volume as a whole, and its database beside the in-memory twin under random use.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use peernet_core::collect::{Referrer, Upload};
use peernet_core::key::{Key, Name, Position, Slot};
use peernet_core::leave::Receipt;
use peernet_core::member::{Drain, Liveness, Member, PeerId};
use peernet_core::register::{Register, Value, Version, WriteId};
use peernet_core::slot::{SlotConfig, SlotRecord};
use peernet_core::store::memory::MemoryStore;
use peernet_core::store::{Entry, Identity, Store};
use peernet_node::disk::{self, DiskStore, Durability, OpenError};
use peernet_proto::v1;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use redb::{Database, TableDefinition};

fn refused(dir: &Path) -> OpenError {
    match disk::open(dir, 5) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error,
    }
}

#[test]
fn a_missing_folder_is_created_and_opened_again() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    for _ in 0..2 {
        let (store, _) = disk::open(&dir, 5).unwrap();
        assert_eq!(store.identity().unwrap(), None);
    }
}

#[test]
fn a_volume_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _open = disk::open(dir.path(), 5).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"));
}

#[test]
fn a_volume_of_another_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(disk::open(dir.path(), 5).unwrap());
    let file = dir.path().join("meta.redb");
    let database = Database::open(&file).unwrap();
    let writing = database.begin_write().unwrap();
    let format = v1::Format {
        version: 1_000,
        created_by: "a later version".into(),
    };
    writing
        .open_table(TableDefinition::<&str, &[u8]>::new("meta"))
        .unwrap()
        .insert("format", format.encode_to_vec().as_slice())
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let error = refused(dir.path());
        assert!(
            matches!(
                error,
                OpenError::Format { found: 1_000, known, .. } if known < 1_000
            ),
            "{error}"
        );
    }
}

#[test]
fn what_is_not_a_peers_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meta.redb");
    let database = Database::create(&file).unwrap();
    let writing = database.begin_write().unwrap();
    writing
        .open_table(TableDefinition::<u8, u8>::new("other"))
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    assert!(matches!(refused(dir.path()), OpenError::Foreign(_)));

    fs::write(&file, b"no database at all").unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Database { .. }));
}

#[test]
fn a_commit_of_nothing_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meta.redb");
    let mut store = DiskStore::open(&file).unwrap();
    store.put_chunk(&Key([1; 32]), 1).unwrap();
    store.commit().unwrap();
    let before = fs::read(&file).unwrap();
    assert_eq!(store.usage().unwrap(), (1, 1));
    assert_eq!(store.names("", None, 10).unwrap(), []);
    store.commit().unwrap();
    assert!(before == fs::read(&file).unwrap(), "the file changed");
}

#[test]
fn the_store_can_move_to_the_drivers_thread() {
    fn is_send<T: Send>() {}
    is_send::<DiskStore>();
}

#[derive(Clone, Debug)]
enum Step {
    Identity(u8),
    Member(u8, u64),
    RemoveMember(u8),
    Slot(u8, u64),
    Register(u8, u64, bool),
    Chunk(u8, u8, u32),
    RemoveChunk(u8, u8),
    ClearSlot(u8),
    ClearNameSlot(u8),
    Receipt(u8, u8, u64),
    Reset,
    Reference(u8, u8, u8),
    RemoveReference(u8, u8, u8),
    Promise(u8, u64),
    Commit,
    /// A commit that leaves nothing to the journal.
    Checkpoint,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let small = || 0..4_u8;
    prop_oneof![
        4 => (small(), any::<u64>(), any::<bool>()).prop_map(|(n, v, present)| Step::Register(n, v >> 1, present)),
        4 => (small(), small(), any::<u32>()).prop_map(|(slot, n, len)| Step::Chunk(slot, n, len)),
        2 => (small(), small()).prop_map(|(slot, n)| Step::RemoveChunk(slot, n)),
        1 => small().prop_map(Step::Identity),
        2 => (small(), 1..9_u64).prop_map(|(n, incarnation)| Step::Member(n, incarnation)),
        1 => small().prop_map(Step::RemoveMember),
        2 => (small(), 1..9_u64).prop_map(|(slot, epoch)| Step::Slot(slot, epoch)),
        1 => small().prop_map(Step::ClearSlot),
        1 => small().prop_map(Step::ClearNameSlot),
        2 => (small(), small(), any::<u64>()).prop_map(|(leaver, slot, chunks)| Step::Receipt(leaver, slot, chunks)),
        1 => Just(Step::Reset),
        2 => (small(), small(), small()).prop_map(|(slot, n, by)| Step::Reference(slot, n, by)),
        1 => (small(), small(), small()).prop_map(|(slot, n, by)| Step::RemoveReference(slot, n, by)),
        1 => (small(), any::<u64>()).prop_map(|(n, v)| Step::Promise(n, v >> 1)),
        6 => Just(Step::Commit),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Crash),
    ]
}

fn slot(number: u8) -> Slot {
    Slot::new(u16::from(number)).unwrap()
}

fn key(slot: u8, n: u8) -> Key {
    let mut key = [n; 32];
    key[..2].copy_from_slice(&(u16::from(slot) << 4).to_be_bytes());
    Key(key)
}

fn name(n: u8) -> Name {
    Name::new(format!("folder/{}", "x".repeat(usize::from(n) + 1))).unwrap()
}

fn member(n: u8, incarnation: u64) -> Member {
    Member {
        id: PeerId(u128::from(n)),
        name: format!("p-{n}"),
        address: "a:1".into(),
        http: "a:2".into(),
        zone: String::new(),
        position: Position(u64::MAX),
        incarnation,
        liveness: Liveness::Down,
        drain: Drain {
            epoch: incarnation,
            leaving: true,
        },
        version: String::new(),
    }
}

fn version(n: u8, counter: u64) -> Version {
    Version {
        epoch: counter,
        round: 0,
        writer: PeerId(u128::from(n)),
        op: counter ^ 5,
    }
}

fn referrer(n: u8) -> Referrer {
    Referrer {
        name: name(n),
        upload: Upload(n.into()),
        base: None,
    }
}

/// Every step but commits and crashes.
fn write(store: &mut impl Store, step: &Step) {
    match *step {
        Step::Identity(n) => store
            .put_identity(&Identity {
                network: "n".into(),
                member: member(n, 1),
            })
            .unwrap(),
        Step::Member(n, incarnation) => store.put_member(&member(n, incarnation)).unwrap(),
        Step::RemoveMember(n) => store.remove_member(PeerId(u128::from(n))).unwrap(),
        Step::Slot(number, epoch) => {
            let config = SlotConfig {
                epoch,
                replicas: vec![PeerId(1)],
                next: None,
            };
            store
                .put_slot(slot(number), &SlotRecord::of(config))
                .unwrap();
        }
        Step::Register(n, counter, present) => {
            let present = present.then(|| Value::Present {
                head: Bytes::from_static(b"h").into(),
                body: Bytes::new(),
                upload: None,
            });
            let register = Register {
                name: name(n),
                version: version(n, counter),
                write: WriteId {
                    peer: PeerId(u128::from(n)),
                    op: counter,
                },
                value: present.unwrap_or(Value::Deleted),
                trail: Box::default(),
            };
            store.put_register(&register).unwrap();
        }
        Step::Chunk(slot, n, len) => store.put_chunk(&key(slot, n), len).unwrap(),
        Step::RemoveChunk(slot, n) => store.remove_chunk(&key(slot, n)).unwrap(),
        Step::ClearSlot(number) => drop(store.clear_slot(slot(number)).unwrap()),
        Step::ClearNameSlot(n) => drop(store.clear_slot(Key::of_name(&name(n)).slot()).unwrap()),
        Step::Receipt(leaver, number, chunks) => {
            let receipt = Receipt {
                leaver: PeerId(u128::from(leaver)),
                drain_epoch: 0,
                slot: slot(number),
                epoch: 1,
                root: [leaver; 32],
                receiver: PeerId(0),
                chunks,
                bytes: 0,
            };
            store.put_receipt(&receipt).unwrap();
        }
        Step::Reference(slot, n, by) => {
            store
                .put_reference(&key(slot, n), 9, &referrer(by))
                .unwrap();
        }
        Step::RemoveReference(slot, n, by) => {
            store
                .remove_reference(&key(slot, n), &referrer(by))
                .unwrap();
        }
        Step::Promise(n, counter) => {
            let key = Key::of_name(&name(n));
            store.put_promise(&key, &version(n, counter)).unwrap();
        }
        Step::Reset => store.reset().unwrap(),
        Step::Commit | Step::Checkpoint | Step::Crash => {}
    }
}

/// References to a chunk are in no order that means anything.
fn entries(store: &impl Store, slot: Slot) -> Vec<Entry> {
    let mut entries = store.entries(slot).unwrap();
    entries.sort();
    entries
}

fn assert_twins(disk: &impl Store, memory: &impl Store) {
    assert_eq!(disk.identity().unwrap(), memory.identity().unwrap());
    assert_eq!(disk.remembered().unwrap(), memory.remembered().unwrap());
    assert_eq!(disk.usage().unwrap(), memory.usage().unwrap());
    assert_eq!(
        disk.names("folder/", None, 99).unwrap(),
        memory.names("folder/", None, 99).unwrap()
    );
    for n in 0..4 {
        let name = name(n);
        assert_eq!(
            disk.register(&Key::of_name(&name)).unwrap(),
            memory.register(&Key::of_name(&name)).unwrap()
        );
        let of = Key::of_name(&name);
        assert_eq!(disk.promise(&of).unwrap(), memory.promise(&of).unwrap());
        assert_eq!(
            disk.names("f", Some(&name), 2).unwrap(),
            memory.names("f", Some(&name), 2).unwrap()
        );
        for slot in [slot(n), Key::of_name(&name).slot()] {
            assert_eq!(entries(disk, slot), entries(memory, slot));
        }
        let leaver = PeerId(u128::from(n));
        assert_eq!(
            disk.receipts(leaver).unwrap(),
            memory.receipts(leaver).unwrap()
        );
    }
}

fn stay_twins(durability: Durability) {
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&vec(step(), 1..80), |steps| {
            let dir = tempfile::tempdir().unwrap();
            let mut place = dir.path().join("0");
            fs::create_dir(&place).unwrap();
            let open = |place: &Path| DiskStore::open_with(&place.join("meta.redb"), durability);
            let mut disk = open(&place).unwrap();
            let mut memory = MemoryStore::default();
            for (at, step) in steps.iter().enumerate() {
                write(&mut disk, step);
                write(&mut memory, step);
                match step {
                    Step::Commit => {
                        disk.commit().unwrap();
                        memory.commit().unwrap();
                    }
                    Step::Checkpoint => {
                        disk.require_checkpoint();
                        disk.commit().unwrap();
                        memory.commit().unwrap();
                    }
                    Step::Crash => {
                        let after = dir.path().join((at + 1).to_string());
                        fs::create_dir(&after).unwrap();
                        for file in ["meta.redb", "journal"] {
                            if place.join(file).exists() {
                                fs::copy(place.join(file), after.join(file)).unwrap();
                            }
                        }
                        disk = open(&after).unwrap();
                        place = after;
                        memory.crash();
                    }
                    _ => {}
                }
                assert_twins(&disk, &memory);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn disk_and_memory_stay_twins_under_random_use() {
    stay_twins(Durability::Synced);
}

#[test]
fn and_when_a_process_dies_that_syncs_late() {
    stay_twins(Durability::Written);
}
