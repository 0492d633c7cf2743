//! A volume whose writes reach the disk late: what survives a process, what survives the power, and what is synced all the
//! same.
//!
//! The power is cut by telling the database that its journal was written under another boot of the machine, and by taking
//! from the journal what the disk would not have.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use peernet_core::collect::{Referrer, Upload};
use peernet_core::key::Key;
use peernet_core::store::Store;
use peernet_node::disk::{self, Chunk, ChunkFiles, DiskStore, Durability, OpenError, Purpose};
use peernet_node::faults::DiskPlan;
use redb::{Database, ReadableTable};
use tempfile::TempDir;

use crate::{META, journal, name, names, put, version};

fn open(dir: &Path, durability: Durability) -> Result<(DiskStore, ChunkFiles), OpenError> {
    disk::open_with(dir, 0, durability, DiskPlan::default())
}

fn written(dir: &Path) -> (DiskStore, ChunkFiles) {
    open(dir, Durability::Written).unwrap()
}

/// What a process leaves that is killed now.
fn killed(dir: &Path) -> TempDir {
    let after = tempfile::tempdir().unwrap();
    for file in ["meta.redb", "journal"] {
        if dir.join(file).exists() {
            fs::copy(dir.join(file), after.path().join(file)).unwrap();
        }
    }
    for chunk in fs::read_dir(dir.join("chunks")).unwrap().flatten() {
        let folder = after.path().join("chunks").join(chunk.file_name());
        fs::create_dir_all(&folder).unwrap();
        for file in fs::read_dir(chunk.path()).unwrap().flatten() {
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    after
}

/// The same after the machine has been started anew.
fn rebooted(dir: &Path) -> TempDir {
    let after = killed(dir);
    let database = Database::open(after.path().join("meta.redb")).unwrap();
    let writing = database.begin_write().unwrap();
    let mut meta = writing.open_table(META).unwrap();
    let mut follows = meta.get("journal").unwrap().unwrap().value().to_vec();
    follows.truncate(8);
    follows.extend(b"another boot");
    meta.insert("journal", follows.as_slice()).unwrap();
    drop(meta);
    writing.commit().unwrap();
    after
}

#[test]
fn a_killed_process_has_synced_little_and_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _files) = written(dir.path());
    (0..10).for_each(|n| put(&mut store, n));
    let bare = killed(dir.path());
    fs::remove_file(bare.path().join("journal")).unwrap();
    // The first commit is a sync, after which there is a journal.
    assert_eq!(names(&written(bare.path()).0), [0]);
    let after = killed(dir.path());
    let (mut store, _files) = written(after.path());
    assert_eq!(names(&store), Vec::from_iter(0..10));
    assert!(!store.is_behind().unwrap());
    // And again, on what the next process has written.
    put(&mut store, 10);
    put(&mut store, 11);
    let last = killed(after.path());
    let (store, files) = open(last.path(), Durability::Synced).unwrap();
    assert_eq!(names(&store).len(), 12);
    drop((store, files));
    // It has left nothing to the journal.
    fs::remove_file(last.path().join("journal")).unwrap();
    assert_eq!(names(&written(last.path()).0).len(), 12);
}

#[test]
fn what_others_rest_on_is_synced_with_all_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, files) = written(dir.path());
    put(&mut store, 0);
    let chunk = Chunk::new(Bytes::from_static(b"a chunk"));
    let by = Referrer {
        name: name(5),
        upload: Upload(1),
        base: None,
    };
    type Strict = fn(&mut DiskStore, &Key, &Referrer);
    let strict: [Strict; 4] = [
        |s, _, _| s.put_promise(&Key::of_name(&name(9)), &version(7)).unwrap(),
        |s, key, by| s.remove_reference(key, by).unwrap(),
        |s, key, _| s.remove_chunk(key).unwrap(),
        // Somebody is about to be told something that it acts on for good.
        |s, _, _| s.require_sync(),
    ];
    for (n, strict) in (1..).zip(strict) {
        files.write(&chunk, Purpose::Client).unwrap();
        store.put_chunk(&chunk.key(), 7).unwrap();
        store.put_reference(&chunk.key(), 7, &by).unwrap();
        put(&mut store, n);
        assert!(!journal(dir.path()).is_empty(), "{n}: synced at once");
        assert!(store.sync_due().is_some());
        strict(&mut store, &chunk.key(), &by);
        store.commit().unwrap();
        assert!(journal(dir.path()).is_empty(), "{n}: not synced");
        assert_eq!(store.sync_due(), None);
        let after = rebooted(dir.path());
        assert_eq!(names(&written(after.path()).0), Vec::from_iter(0..=n));
    }
}

#[test]
fn the_power_takes_the_end_and_the_store_says_so_until_it_has_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _files) = written(dir.path());
    (0..10).for_each(|n| put(&mut store, n));
    let whole = journal(dir.path());
    let record = whole.len() / 9;
    for (spoilt, left) in [
        (whole.clone(), 10),
        (whole[..whole.len() - 1].to_vec(), 9),
        (whole[..3 * record + 5].to_vec(), 4),
        (Vec::new(), 1),
        // The disk has later blocks, but not one in the middle.
        (
            [&whole[..2 * record], &vec![0; record], &whole[3 * record..]].concat(),
            3,
        ),
    ] {
        let after = rebooted(dir.path());
        fs::write(after.path().join("journal"), spoilt).unwrap();
        let (store, files) = written(after.path());
        assert_eq!(names(&store), Vec::from_iter(0..left));
        assert!(store.is_behind().unwrap());
        drop((store, files));
        // Nor does it forget that when it is started again, even if it syncs everything then.
        let (mut store, _files) = open(after.path(), Durability::Synced).unwrap();
        assert!(store.is_behind().unwrap());
        store.caught_up().unwrap();
        assert_eq!(names(&store), Vec::from_iter(0..left));
        let last = killed(after.path());
        assert!(!written(last.path()).0.is_behind().unwrap());
    }
}

#[test]
fn a_process_that_ended_in_good_order_leaves_nothing_to_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _files) = written(dir.path());
    put(&mut store, 0);
    put(&mut store, 1);
    store.rest().unwrap();
    let after = killed(dir.path());
    let database = Database::open(after.path().join("meta.redb")).unwrap();
    let meta = database.begin_write().unwrap();
    assert!(
        meta.open_table(META)
            .unwrap()
            .get("journal")
            .unwrap()
            .is_none()
    );
    drop((meta, database));
    assert_eq!(names(&written(after.path()).0), [0, 1]);
    // It may go on, and is careful again.
    put(&mut store, 2);
    put(&mut store, 3);
    assert_eq!(names(&written(killed(dir.path()).path()).0), [0, 1, 2, 3]);
}

#[test]
fn after_the_power_failed_chunks_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, files) = written(dir.path());
    put(&mut store, 0);
    let chunks = [&b"whole"[..], b"spoilt"].map(|data| Chunk::new(Bytes::from_static(data)));
    for chunk in &chunks {
        files.write(chunk, Purpose::Client).unwrap();
        store
            .put_chunk(&chunk.key(), chunk.data().len() as u32)
            .unwrap();
    }
    store.commit().unwrap();
    let after = rebooted(dir.path());
    let spoilt = chunks[1].key().to_string();
    let path = after.path().join("chunks").join(&spoilt[..2]).join(&spoilt);
    fs::write(path, b"").unwrap();
    let (store, _files) = written(after.path());
    let held = chunks.map(|chunk| store.chunk(&chunk.key()).unwrap());
    assert_eq!(held, [Some(5), None]);
}

#[test]
fn a_journal_that_has_rotted_under_the_same_boot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _files) = written(dir.path());
    (0..4).for_each(|n| put(&mut store, n));
    let after = killed(dir.path());
    let mut journal = journal(after.path());
    journal[40] ^= 1;
    fs::write(after.path().join("journal"), journal).unwrap();
    let Err(error) = open(after.path(), Durability::Written) else {
        panic!("what was promised is taken back");
    };
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}
