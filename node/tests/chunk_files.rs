//! Chunks as files: whole or not there, whatever happens to the volume.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use peernet_core::key::Key;
use peernet_node::disk::{
    Chunk, ChunkError, ChunkFiles, Encoding, OpenError, Packed, Purpose, Space,
};
use tempfile::TempDir;

/// File systems tell time in steps of a few milliseconds.
const STEP: Duration = Duration::from_millis(20);

fn open(root: &Path, reserve_percent: u8) -> ChunkFiles {
    ChunkFiles::open(root, reserve_percent).unwrap()
}

fn empty() -> (TempDir, ChunkFiles) {
    let root = tempfile::tempdir().unwrap();
    let chunks = open(root.path(), 0);
    (root, chunks)
}

/// A chunk of that length, different for each seed.
fn chunk(seed: u64, len: usize) -> (Key, Bytes) {
    let mut bytes = vec![0; len];
    let mut hasher = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for block in bytes.chunks_mut(8) {
        hasher = hasher.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        block.copy_from_slice(&hasher.to_le_bytes()[..block.len()]);
    }
    (Key::of_bytes(&bytes), bytes.into())
}

fn write(files: &ChunkFiles, key: &Key, data: &Bytes, purpose: Purpose) -> Result<(), ChunkError> {
    files.write(&Chunk::claimed(key, data.clone())?, purpose)
}

fn path(root: &Path, key: &Key) -> PathBuf {
    let hex = key.to_string();
    root.join("chunks").join(&hex[..2]).join(hex)
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn it_is_known_when_a_copy_was_last_verified() {
    let (root, chunks) = empty();
    let (key, data) = chunk(1, 4096);
    assert_eq!(chunks.verified(&key).unwrap(), None);
    let before = SystemTime::now() - STEP;
    write(&chunks, &key, &data, Purpose::Client).unwrap();
    assert!(chunks.verified(&key).unwrap().unwrap() >= before);

    let age = |time| {
        File::open(path(root.path(), &key))
            .unwrap()
            .set_modified(time)
    };
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    age(long_ago).unwrap();
    chunks.read(&key).unwrap();
    let verified = || chunks.verified(&key).unwrap();
    assert_eq!(
        verified(),
        Some(long_ago),
        "that may be the system's memory"
    );
    chunks.read_again(&key).unwrap();
    assert!(verified().unwrap() >= before);

    fs::write(path(root.path(), &key), "rotten").unwrap();
    chunks.read_again(&key).unwrap_err();
    assert_eq!(verified(), None);
}

#[test]
fn what_is_written_is_read_and_removed() {
    let (root, chunks) = empty();
    for len in [0, 1, 4096, 1 << 20] {
        let (key, data) = chunk(1, len);
        assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(k)) if k == key));
        assert_eq!(chunks.len(&key).unwrap(), None);
        write(&chunks, &key, &data, Purpose::Client).unwrap();
        assert_eq!(chunks.read(&key).unwrap().into_data(), data);
        assert_eq!(chunks.len(&key).unwrap(), Some(len as u64));
        assert!(path(root.path(), &key).is_file());
        assert_eq!(chunks.keys(key.0[0]).unwrap(), [key]);
        chunks.remove(&key).unwrap();
        chunks.remove(&key).unwrap();
        assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(_))));
        assert_eq!(chunks.keys(key.0[0]).unwrap(), []);
    }
    assert_eq!(files_in(&root.path().join("tmp")), 0);
}

/// A chunk that can be compressed, plain and so.
fn text(len: usize) -> (Chunk, Packed) {
    let chunk = Chunk::new(b"again and ".iter().copied().cycle().take(len).collect());
    let packed = Packed::smallest(chunk.clone());
    assert_eq!(packed.encoding(), Encoding::Zstd);
    (chunk, packed)
}

#[test]
fn a_compressed_chunk_lies_so_and_is_found_by_its_hash() {
    let (root, chunks) = empty();
    let (chunk, packed) = text(1 << 20);
    let key = chunk.key();
    chunks.write_packed(&packed, Purpose::Client).unwrap();
    let lies = path(root.path(), &key).with_extension("zst");
    assert_eq!(fs::read(&lies).unwrap(), *packed.bytes());
    let len = packed.bytes().len() as u64;
    assert!(len < 10_000 && chunks.len(&key).unwrap() == Some(len));
    assert_eq!(chunks.read(&key).unwrap(), chunk);
    assert_eq!(chunks.read_packed(&key).unwrap(), packed);
    assert_eq!(chunks.keys(key.0[0]).unwrap(), [key]);
    assert!(chunks.verified(&key).unwrap().is_some());

    // As it lies, so it stays: in the other form it is not written again.
    chunks.write(&chunk, Purpose::Client).unwrap();
    assert!(!path(root.path(), &key).exists());
    chunks.remove(&key).unwrap();
    assert!(!lies.exists());
    chunks.write(&chunk, Purpose::Client).unwrap();
    chunks.write_packed(&packed, Purpose::Repair).unwrap();
    assert!(path(root.path(), &key).exists() && !lies.exists());
    assert_eq!(chunks.read_packed(&key).unwrap(), chunk.into());
}

#[test]
fn a_rotten_copy_in_one_form_gives_way_to_the_other() {
    let (root, chunks) = empty();
    let (chunk, packed) = text(5000);
    let key = chunk.key();
    let lies = path(root.path(), &key).with_extension("zst");
    for cut in [0, 1, packed.bytes().len() - 1] {
        chunks.write_packed(&packed, Purpose::Client).unwrap();
        fs::write(&lies, &packed.bytes()[..cut]).unwrap();
        assert!(matches!(chunks.read(&key), Err(ChunkError::Corrupt(k)) if k == key));
        assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(_))));
    }
    let aside = format!("bad/{key}.zst");
    assert!(root.path().join(aside).is_file());

    // Whichever of two is whole is read, and the rotten one goes.
    chunks.write(&chunk, Purpose::Client).unwrap();
    fs::write(path(root.path(), &key), "rotten").unwrap();
    chunks.write_packed(&packed, Purpose::Client).unwrap();
    assert!(lies.exists(), "the rotten one did not count");
    assert_eq!(chunks.read_again(&key).unwrap(), packed);
    assert!(!path(root.path(), &key).exists());
    chunks.remove(&key).unwrap();
    assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(_))));
}

#[test]
fn bytes_of_another_hash_are_refused() {
    let (root, chunks) = empty();
    let (key, _) = chunk(1, 100);
    let (_, other) = chunk(2, 100);
    let refused = write(&chunks, &key, &other, Purpose::Client);
    assert!(matches!(refused, Err(ChunkError::Mismatch(k)) if k == key));
    assert_eq!(files_in(path(root.path(), &key).parent().unwrap()), 0);
}

#[test]
fn writing_again_changes_nothing() {
    let (root, chunks) = empty();
    let (key, data) = chunk(1, 5000);
    write(&chunks, &key, &data, Purpose::Client).unwrap();
    let written = fs::metadata(path(root.path(), &key))
        .unwrap()
        .modified()
        .unwrap();
    write(&chunks, &key, &data, Purpose::Repair).unwrap();
    assert_eq!(
        fs::metadata(path(root.path(), &key))
            .unwrap()
            .modified()
            .unwrap(),
        written
    );
    drop(chunks);
    let chunks = open(root.path(), 0);
    write(&chunks, &key, &data, Purpose::Client).unwrap();
    assert_eq!(chunks.read(&key).unwrap().into_data(), data);
}

#[test]
fn damage_is_found_and_set_aside() {
    let (root, chunks) = empty();
    let (flipped, data) = chunk(1, 5000);
    let (cut, cut_data) = chunk(2, 5000);
    write(&chunks, &flipped, &data, Purpose::Client).unwrap();
    write(&chunks, &cut, &cut_data, Purpose::Client).unwrap();
    let file = File::options()
        .write(true)
        .open(path(root.path(), &flipped))
        .unwrap();
    file.write_all_at(&[data[4000] ^ 1], 4000).unwrap();
    File::options()
        .write(true)
        .open(path(root.path(), &cut))
        .unwrap()
        .set_len(4999)
        .unwrap();

    for (key, data) in [(flipped, data), (cut, cut_data)] {
        assert!(matches!(chunks.read(&key), Err(ChunkError::Corrupt(k)) if k == key));
        assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(_))));
        assert!(root.path().join("bad").join(key.to_string()).is_file());
        write(&chunks, &key, &data, Purpose::Repair).unwrap();
        assert_eq!(chunks.read(&key).unwrap().into_data(), data);
    }
}

#[test]
fn a_rotten_copy_is_never_acknowledged() {
    let (root, chunks) = empty();
    let (key, data) = chunk(1, 5000);
    write(&chunks, &key, &data, Purpose::Client).unwrap();
    let file = File::options()
        .write(true)
        .open(path(root.path(), &key))
        .unwrap();
    file.write_all_at(&[data[0] ^ 1], 0).unwrap();
    write(&chunks, &key, &data, Purpose::Client).unwrap();
    assert_eq!(chunks.read(&key).unwrap().into_data(), data);
}

#[test]
fn bad_copies_do_not_pile_up() {
    let (root, chunks) = empty();
    for seed in 0..80 {
        let (key, data) = chunk(seed, 16);
        write(&chunks, &key, &data, Purpose::Client).unwrap();
        fs::write(path(root.path(), &key), b"wrong").unwrap();
        assert!(matches!(chunks.read(&key), Err(ChunkError::Corrupt(_))));
        assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(_))));
    }
    assert_eq!(files_in(&root.path().join("bad")), 64);
}

#[test]
fn half_written_chunks_are_gone_at_the_next_start() {
    let (root, chunks) = empty();
    let (key, data) = chunk(1, 100);
    write(&chunks, &key, &data, Purpose::Client).unwrap();
    drop(chunks);
    fs::write(root.path().join("tmp/0"), &data[..50]).unwrap();
    let chunks = open(root.path(), 0);
    assert_eq!(files_in(&root.path().join("tmp")), 0);
    let (other, other_data) = chunk(2, 100);
    write(&chunks, &other, &other_data, Purpose::Client).unwrap();
    assert_eq!(chunks.read(&key).unwrap().into_data(), data);
}

#[test]
fn many_threads_may_write_the_same_and_different_chunks() {
    let (root, chunks) = empty();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (chunks, start) = (&chunks, &start);
            scope.spawn(move || {
                start.wait();
                for seed in 0..20 {
                    let (key, data) = chunk(seed % (10 + thread), 3000);
                    write(chunks, &key, &data, Purpose::Client).unwrap();
                    assert_eq!(chunks.read(&key).unwrap().into_data(), data);
                }
            });
        }
    });
    assert_eq!(files_in(&root.path().join("tmp")), 0);
    let keys: usize = (0..=255)
        .map(|first| chunks.keys(first).unwrap().len())
        .sum();
    assert_eq!(keys, 17);
}

#[test]
fn the_reserve_is_kept_for_repair_and_then_for_life() {
    let root = tempfile::tempdir().unwrap();
    let (key, data) = chunk(1, 1000);
    // All of the disk is reserve: no disk is so empty that a client may write.
    let chunks = open(root.path(), 100);
    let Space { free, total } = chunks.space().unwrap();
    assert!(free < total);
    let refused = write(&chunks, &key, &data, Purpose::Client);
    assert!(
        matches!(refused, Err(ChunkError::DiskFull { .. })),
        "{refused:?}"
    );
    assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(_))));
    // Repair may go down to half of it; `check_room` says so for any amount.
    let room = free.saturating_sub(total / 100 * 50);
    assert_eq!(chunks.check_room(0, Purpose::Repair).is_ok(), room > 0);
    assert!(chunks.check_room(u64::MAX, Purpose::Repair).is_err());
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("chunks"), b"not a folder").unwrap();
    let Err(error) = ChunkFiles::open(root.path(), 0) else {
        panic!("must fail")
    };
    assert!(matches!(&error, OpenError::Io { path, .. } if path.ends_with("chunks")));
    assert!(error.to_string().contains("chunks"), "{error}");
}

#[test]
fn an_unreadable_chunk_is_not_called_damaged() {
    let (root, chunks) = empty();
    let (key, data) = chunk(1, 100);
    write(&chunks, &key, &data, Purpose::Client).unwrap();
    fs::set_permissions(path(root.path(), &key), fs::Permissions::from_mode(0o000)).unwrap();
    match chunks.read(&key) {
        Ok(_) => println!("skipped: this user may read every file"),
        other => assert!(matches!(other, Err(ChunkError::Volume { .. })), "{other:?}"),
    }
    assert!(path(root.path(), &key).is_file());
}

/// A small ext4 file system of its own; unmounted when dropped.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None`, with a printed reason, where mounting is not allowed.
    fn mount(mebibytes: u64, files: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        File::create(&image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        fs::create_dir(&mount).unwrap();
        let run = |program: &str, arguments: &[&Path]| {
            let output = Command::new(program).args(arguments).output();
            match output {
                Ok(output) if output.status.success() => true,
                Ok(output) => {
                    println!(
                        "skipped: {program}: {}",
                        String::from_utf8_lossy(&output.stderr).trim()
                    );
                    false
                }
                Err(error) => {
                    println!("skipped: {program}: {error}");
                    false
                }
            }
        };
        let ready = run(
            "mkfs.ext4",
            &[
                "-q".as_ref(),
                "-N".as_ref(),
                files.to_string().as_ref(),
                &image,
            ],
        ) && run(
            "mount",
            &[Path::new("-o"), Path::new("loop"), &image, &mount],
        );
        ready.then_some(SmallDisk { folder })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("mount")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.root()).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_and_stays_readable() {
    let Some(disk) = SmallDisk::mount(64, 4096) else {
        return;
    };
    let root = disk.root();
    let fill = |chunks: &ChunkFiles, purpose, from: u64| {
        let mut held = Vec::new();
        for seed in from..from + 1000 {
            let (key, data) = chunk(seed, 1 << 20);
            match write(chunks, &key, &data, purpose) {
                Ok(()) => held.push((key, data)),
                Err(ChunkError::DiskFull { .. }) => return held,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("the disk never filled");
    };

    // With a reserve, clients stop first, then repair, and a part is never used.
    let chunks = open(&root, 20);
    let mut held = fill(&chunks, Purpose::Client, 0);
    let after_clients = chunks.space().unwrap();
    assert!(after_clients.free >= after_clients.total / 5);
    held.extend(fill(&chunks, Purpose::Repair, 1000));
    let after_repair = chunks.space().unwrap();
    assert!(after_repair.free >= after_repair.total / 10 && after_repair.free < after_clients.free);

    // Without one, the file system itself says that it is full; nothing half-written stays.
    drop(chunks);
    let chunks = open(&root, 0);
    held.extend(fill(&chunks, Purpose::Client, 2000));
    let ballast = root.join("ballast");
    let _ = fs::write(&ballast, vec![0; 2 << 20]);
    for (seed, len) in [(5000, 900_000), (5001, 200_000), (5002, 60_000)] {
        let (key, data) = chunk(seed, len);
        let refused = write(&chunks, &key, &data, Purpose::Client);
        assert!(
            matches!(refused, Err(ChunkError::DiskFull { .. })),
            "{refused:?}"
        );
        assert!(matches!(chunks.read(&key), Err(ChunkError::Missing(_))));
    }
    assert_eq!(files_in(&root.join("tmp")), 0);
    for (key, data) in &held {
        assert_eq!(chunks.read(key).unwrap().into_data(), *data);
    }

    // Room that comes back is used.
    fs::remove_file(&ballast).unwrap();
    chunks.remove(&held[0].0).unwrap();
    write(&chunks, &held[0].0, &held[0].1, Purpose::Client).unwrap();
}

#[test]
fn a_disk_without_room_for_another_file_is_full_too() {
    let Some(disk) = SmallDisk::mount(16, 384) else {
        return;
    };
    let chunks = open(&disk.root(), 0);
    let mut held = Vec::new();
    let refused = (0..1000).find_map(|seed| {
        let (key, data) = chunk(seed, 100);
        let result = write(&chunks, &key, &data, Purpose::Client);
        held.push((key, data));
        result.err()
    });
    assert!(
        matches!(refused, Some(ChunkError::DiskFull { .. })),
        "{refused:?}"
    );
    held.pop();
    assert!(held.len() > 30);
    for (key, data) in &held {
        assert_eq!(chunks.read(key).unwrap().into_data(), *data);
    }
    assert_eq!(files_in(&disk.root().join("tmp")), 0);
    // What is there can still be deleted, and its room used again.
    chunks.remove(&held[0].0).unwrap();
    write(&chunks, &held[0].0, &held[0].1, Purpose::Client).unwrap();
}
