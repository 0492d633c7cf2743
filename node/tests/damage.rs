//! Volumes that rot, tear and fail to sync: what a peer must refuse rather than believe.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use peernet_core::key::{Key, Position, SLOTS, Slot};
use peernet_core::member::{Drain, Liveness, Member, PeerId};
use peernet_core::slot::{SlotConfig, SlotRecord};
use peernet_core::store::{Entry, Remembered, Store};
use peernet_node::disk::{self, Chunk, DiskStore, Durability, Purpose};
use peernet_node::faults::{DiskPlan, Faults};

fn key(slot: u16, n: u8) -> Key {
    let mut key = [n; 32];
    key[..2].copy_from_slice(&(slot << 4).to_be_bytes());
    Key(key)
}

/// Members, slots and chunks on some hundred pages, closed well. Returns what a peer would find.
fn filled(file: &Path) -> (Remembered, Vec<Entry>) {
    let mut store = DiskStore::open(file).unwrap();
    for n in 0..50_u8 {
        let member = Member {
            id: PeerId(u128::from(n)),
            name: format!("p-{n}"),
            address: "a:1".into(),
            http: "a:2".into(),
            zone: "z".into(),
            position: Position(u64::MAX),
            incarnation: 7,
            liveness: Liveness::Down,
            drain: Drain::default(),
            version: String::new(),
        };
        store.put_member(&member).unwrap();
    }
    for number in 0..SLOTS {
        let config = SlotConfig {
            epoch: 3,
            replicas: vec![PeerId(1), PeerId(2), PeerId(3)],
            next: None,
        };
        let slot = Slot::new(number).unwrap();
        store.put_slot(slot, &SlotRecord::of(config)).unwrap();
        store.put_chunk(&key(number, 9), 1000).unwrap();
    }
    store.commit().unwrap();
    contents(&store)
}

fn contents(store: &DiskStore) -> (Remembered, Vec<Entry>) {
    let slots = (0..SLOTS).map(|n| Slot::new(n).unwrap());
    let entries = slots.flat_map(|slot| store.entries(slot).unwrap());
    (store.remembered().unwrap(), entries.collect())
}

#[test]
fn a_database_that_rotted_is_refused_and_never_read_as_something_else() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meta.redb");
    let wanted = filled(&file);
    let whole = fs::read(&file).unwrap();
    let mut refusals = 0;
    for _ in 0..60 {
        let mut rotten = whole.clone();
        // Where something was written: much of the file is room to grow.
        let place = loop {
            let place = random.usize(..rotten.len());
            if rotten[place] != 0 {
                break place;
            }
        };
        rotten[place] ^= 1 << random.u8(..8);
        fs::write(&file, &rotten).unwrap();
        match disk::open(dir.path(), 5) {
            Ok((store, _)) => assert!(contents(&store) == wanted, "byte {place} rotted unnoticed"),
            Err(error) => {
                refusals += 1;
                let sentence = error.to_string();
                assert!(sentence.contains("meta.redb"), "byte {place}: {sentence}");
            }
        }
    }
    assert!(refusals > 15, "only {refusals} of 60 were noticed");
    fs::write(&file, &whole).unwrap();
    assert!(contents(&disk::open(dir.path(), 5).unwrap().0) == wanted);
}

/// Pages that change in place keep the ends of what they held before, which nothing reads: only what is in use is checked.
#[test]
fn rot_where_every_page_is_in_use_is_refused() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("meta.redb");
        filled(&file);
        let mut store = DiskStore::open(&file).unwrap();
        for n in 0..random.usize(10..100) {
            let some = key(random.u16(..SLOTS), 7);
            match random.bool() {
                true => store.put_chunk(&some, 1000).unwrap(),
                false => store.remove_chunk(&some).unwrap(),
            }
            if n % 5 == 0 {
                store.commit().unwrap();
            }
        }
        store.commit().unwrap();
        drop(store);
        let mut bytes = fs::read(&file).unwrap();
        // The first byte of a page says what kind of page it is.
        for page in bytes.chunks_mut(4096).skip(1) {
            page[0] ^= 8;
        }
        fs::write(&file, &bytes).unwrap();
        let Err(error) = disk::open(dir.path(), 5) else {
            panic!("a database whose pages have all rotted was opened");
        };
        assert!(error.to_string().contains("meta.redb"), "{error}");
    }
}

#[test]
fn a_torn_off_database_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meta.redb");
    filled(&file);
    let whole = fs::read(&file).unwrap();
    for share in [2, 3, 10] {
        fs::write(&file, &whole[..whole.len() / share]).unwrap();
        let Err(error) = disk::open(dir.path(), 5) else {
            panic!("one part in {share} of a database was opened");
        };
        assert!(error.to_string().contains("meta.redb"), "{error}");
    }
}

/// What a disk does whose sync fails as in this text.
fn plan(text: &str) -> DiskPlan {
    text.parse::<Faults>().unwrap().disk
}

#[test]
fn a_failed_commit_is_final() {
    let dir = tempfile::tempdir().unwrap();
    drop(disk::open(dir.path(), 5).unwrap());
    let mut failed = 0;
    // Opening syncs too; which sync is the commit's is for the database to know.
    for n in 1..20 {
        let faulty = plan(&format!("meta-sync-fails={n}"));
        let Ok((mut store, _)) = disk::open_with(dir.path(), 5, Durability::Synced, faulty) else {
            continue;
        };
        store.put_chunk(&key(1, 1), n).unwrap();
        if store.commit().is_ok() {
            continue;
        }
        failed += 1;
        // The disk would say yes now, but what it has dropped is lost.
        assert!(store.commit().is_err(), "sync {n} was tried again");
        assert!(store.identity().is_err(), "read after sync {n} had failed");
    }
    assert!(failed > 0, "no sync of a commit failed");
}

#[tokio::test]
async fn a_chunk_whose_sync_failed_is_never_acknowledged_and_the_owner_hears_of_it() {
    // One for its bytes, one for its folder.
    for n in 1..=2 {
        let dir = tempfile::tempdir().unwrap();
        let faulty = plan(&format!("chunk-sync-fails={n}"));
        let (_store, files) = disk::open_with(dir.path(), 0, Durability::Synced, faulty).unwrap();
        let data = Bytes::from_static(b"some bytes");
        let chunk = Chunk::new(data);
        let refusal = files.write(&chunk, Purpose::Client).unwrap_err();
        let sentence = refusal.to_string();
        assert!(sentence.contains("the volume failed"), "{n}: {sentence}");
        assert!(
            files.write(&chunk, Purpose::Repair).is_err(),
            "sync {n} was tried again as if nothing had happened"
        );
        assert!(!files.failed().await.is_empty());
    }
}
