//! A volume where each commit is synced in the journal, and in the database later: what a power cut, rot and a failing disk
//! make of it.

use std::fs;
use std::path::Path;

use peernet_core::collect::{Referrer, Upload};
use peernet_core::key::Key;
use peernet_core::store::Store;
use peernet_node::disk::{self, DiskStore, Durability, OpenError};
use peernet_node::faults::{DiskPlan, Faults};
use redb::{Database, ReadableTable};
use tempfile::TempDir;

use crate::{META, journal, name, names, put, register, version};

fn open_as(dir: &Path, durability: Durability) -> Result<DiskStore, OpenError> {
    Ok(disk::open_with(dir, 0, durability, DiskPlan::default())?.0)
}

fn open(dir: &Path) -> DiskStore {
    open_as(dir, Durability::Synced).unwrap()
}

fn checkpoint(store: &mut DiskStore) {
    store.require_checkpoint();
    store.commit().unwrap();
    assert_eq!(store.sync_due(), None);
}

/// A volume with the database of that one, and such a journal.
fn with(dir: &Path, journal: &[u8]) -> TempDir {
    let after = tempfile::tempdir().unwrap();
    fs::copy(dir.join("meta.redb"), after.path().join("meta.redb")).unwrap();
    fs::write(after.path().join("journal"), journal).unwrap();
    after
}

/// Where the first so many records end.
fn end_of(records: usize, journal: &[u8]) -> usize {
    (0..records).fold(0, |at, _| {
        let len: [u8; 4] = journal[at..at + 4].try_into().unwrap();
        at + 12 + u32::from_be_bytes(len) as usize
    })
}

/// What the database says of the journal.
fn follows(dir: &Path) -> Option<Vec<u8>> {
    let copy = with(dir, b"");
    let database = Database::open(copy.path().join("meta.redb")).unwrap();
    let writing = database.begin_write().unwrap();
    let meta = writing.open_table(META).unwrap();
    let follows = meta.get("journal").unwrap();
    follows.map(|value| value.value().to_vec())
}

fn refused(dir: &Path) {
    for durability in [Durability::Synced, Durability::Written] {
        match open_as(dir, durability) {
            Ok(store) => panic!("opened with {:?}", names(&store)),
            Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "{error}"),
        }
    }
}

/// The power fails while a fourth record is written: over nothing, and over what earlier generations have left. Every byte is
/// tried beside the code (`records`).
#[test]
fn a_power_cut_within_a_record_loses_nothing_that_was_acknowledged() {
    for before in [0, 9] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        put(&mut store, 0);
        (1..=before).for_each(|n| put(&mut store, n));
        checkpoint(&mut store);
        let first = before + 1;
        (first..first + 3).for_each(|n| put(&mut store, n));
        let acknowledged = journal(dir.path());
        put(&mut store, first + 3);
        let whole = journal(dir.path());
        assert_eq!(acknowledged.len(), whole.len(), "its length changes");
        let (from, to) = (end_of(3, &whole), end_of(4, &whole));
        assert!(acknowledged[..from] == whole[..from] && acknowledged[to..] == whole[to..]);
        for cut in (from..to).step_by(29).chain([to - 1, to]) {
            let torn = [&whole[..cut], &acknowledged[cut..]].concat();
            for journal in [&torn[..], &whole[..cut]] {
                let after = with(dir.path(), journal);
                let store = open(after.path());
                // Its last byte may be a zero, which was there before.
                let written = journal.get(from..to) == whole.get(from..to);
                let there = first + 3 + u64::from(written);
                assert_eq!(
                    names(&store),
                    Vec::from_iter(0..there),
                    "{cut} of {from}..{to}"
                );
                assert!(!store.is_behind().unwrap());
            }
        }
    }
}

#[test]
fn what_rots_before_the_last_record_is_refused_and_so_is_a_journal_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    (0..9).for_each(|n| put(&mut store, n));
    checkpoint(&mut store);
    (9..12).for_each(|n| put(&mut store, n));
    let whole = journal(dir.path());
    let last = end_of(2, &whole);
    for place in (0..last).step_by(23) {
        let mut rotten = whole.clone();
        rotten[place] ^= 4;
        refused(with(dir.path(), &rotten).path());
    }
    // A block that was never written, as far as the disk knows.
    let holed = [&vec![0; last - 5], &whole[last - 5..]].concat();
    refused(with(dir.path(), &holed).path());
    let gone = with(dir.path(), b"");
    fs::remove_file(gone.path().join("journal")).unwrap();
    refused(gone.path());
    assert_eq!(names(&open(with(dir.path(), &whole).path())).len(), 12);
}

#[test]
fn which_mode_opens_it_does_not_matter_and_what_it_told_is_in_the_database_then() {
    for durability in [Durability::Synced, Durability::Written] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        (0..5).for_each(|n| put(&mut store, n));
        // Eight bytes are a generation, and no boot.
        assert_eq!(follows(dir.path()).map(|f| f.len()), Some(8));
        let after = with(dir.path(), &journal(dir.path()));
        let mut store = open_as(after.path(), durability).unwrap();
        assert_eq!(names(&store), [0, 1, 2, 3, 4]);
        assert!(!store.is_behind().unwrap());
        assert_eq!(follows(after.path()), None);
        put(&mut store, 5);
        put(&mut store, 6);
        store.rest().unwrap();
        assert_eq!(follows(after.path()), None);
        assert_eq!(names(&open(with(after.path(), b"").path())).len(), 7);
        // It may go on.
        put(&mut store, 7);
        put(&mut store, 8);
        let last = with(after.path(), &journal(after.path()));
        assert_eq!(names(&open(last.path())).len(), 9);
    }
}

#[test]
fn what_the_journal_cannot_tell_takes_all_before_it_into_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    put(&mut store, 0);
    let key = Key([7; 32]);
    let by = Referrer {
        name: name(5),
        upload: Upload(1),
        base: None,
    };
    type Strict = fn(&mut DiskStore, &Key, &Referrer);
    let strict: [Strict; 3] = [
        |s, _, _| s.put_promise(&Key::of_name(&name(9)), &version(7)).unwrap(),
        |s, key, by| s.remove_reference(key, by).unwrap(),
        |s, key, _| s.remove_chunk(key).unwrap(),
    ];
    for (n, strict) in (1..).zip(strict) {
        store.put_chunk(&key, 7).unwrap();
        store.put_reference(&key, 7, &by).unwrap();
        put(&mut store, n);
        assert!(store.sync_due().is_some(), "{n}: not in the journal");
        // What is said next is on the disk anyway.
        store.require_sync();
        store.commit().unwrap();
        assert!(store.sync_due().is_some(), "{n}");
        strict(&mut store, &key, &by);
        store.commit().unwrap();
        assert_eq!(store.sync_due(), None, "{n}");
        let after = with(dir.path(), b"");
        assert_eq!(names(&open(after.path())), Vec::from_iter(0..=n));
    }
}

#[test]
fn the_file_is_used_again_and_stays_short() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut longest = 0;
    let mut taken_over = 0;
    for n in 0..600 {
        store.put_register(&register(n, 60_000)).unwrap();
        store.commit().unwrap();
        longest = longest.max(journal(dir.path()).len());
        taken_over += usize::from(store.sync_due().is_none());
    }
    assert!(longest <= 8 << 20, "{longest} bytes");
    assert!((2..60).contains(&taken_over), "{taken_over} times");
    checkpoint(&mut store);
    let size = journal(dir.path()).len();
    for n in 0..30 {
        store.put_register(&register(n, 60_000)).unwrap();
        store.commit().unwrap();
        checkpoint(&mut store);
    }
    assert_eq!(journal(dir.path()).len(), size);
}

#[test]
fn a_sync_of_the_journal_that_failed_is_final() {
    let mut failed_in_the_journal = 0;
    for nth in 1..20 {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let plan = format!("meta-sync-fails={nth}");
        let plan = plan.parse::<Faults>().unwrap().disk;
        let Ok((mut store, _)) = disk::open_with(dir.path(), 0, Durability::Synced, plan) else {
            continue;
        };
        let mut acknowledged = Vec::new();
        for n in 0..10 {
            let ahead = store.sync_due().is_some();
            store.put_register(&register(n, 10)).unwrap();
            if store.commit().is_ok() {
                acknowledged.push(n);
                continue;
            }
            failed_in_the_journal += usize::from(ahead);
            // The disk would say yes now.
            assert!(store.commit().is_err(), "sync {nth} was tried again");
            assert!(store.identity().is_err(), "read after sync {nth}");
            assert!(store.put_register(&register(n, 10)).is_err());
            assert!(!ahead || store.rest().is_err());
            break;
        }
        drop(store);
        let held = names(&open(dir.path()));
        assert!(held.starts_with(&acknowledged), "{held:?} {acknowledged:?}");
    }
    assert!(failed_in_the_journal > 3, "{failed_in_the_journal}");
}

#[test]
fn what_a_journal_without_room_cannot_take_the_database_does() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("journal")).unwrap();
    let mut store = open(dir.path());
    for n in 0..5 {
        put(&mut store, n);
        assert_eq!(store.sync_due(), None, "{n}: the journal has it");
    }
    let after = with(dir.path(), b"");
    assert_eq!(names(&open(after.path())), [0, 1, 2, 3, 4]);
}
