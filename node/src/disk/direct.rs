//! Writing past the page cache.
//!
//! A chunk that is synced at once gains nothing from the system's cache: its bytes would be copied there, written back,
//! and push out what readers want. Written directly (`O_DIRECT`, open(2)) they cost a fourth of the processor's time and
//! reach the disk three times as fast (ADR 23 has the figures). The disk then takes whole blocks from aligned memory
//! only, so the bytes are copied into a buffer of ours, padded, and the file is cut to its length.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What every disk's blocks, and memory's pages, are multiples or parts of.
const BLOCK: usize = 4096;
/// Buffers, each as large as the largest chunk written so far; more writers wait for one. Measured: with three peers on
/// one machine more in each did not make its disk faster.
const BUFFERS: usize = 4;
/// Shorter files go through the cache: padding and cutting cost more than a copy (guess).
const SHORTEST: usize = 32 * 1024;

/// Writes files past the page cache where the file system can.
pub(super) struct Direct {
    /// Buffers not in use, `None` where none was needed yet.
    free: Mutex<Vec<Option<Buffer>>>,
    returned: Condvar,
    /// Whether the file system has not yet refused.
    possible: AtomicBool,
}

impl Default for Direct {
    fn default() -> Self {
        Direct {
            free: Mutex::new((0..BUFFERS).map(|_| None).collect()),
            returned: Condvar::new(),
            possible: AtomicBool::new(true),
        }
    }
}

impl Direct {
    /// Creates the file `path` with these bytes. The caller syncs it: its length, at least, is in memory only.
    pub(super) fn create(&self, path: &Path, data: &[u8]) -> io::Result<File> {
        if data.len() >= SHORTEST && self.possible.load(Ordering::Relaxed) {
            match self.past_the_cache(path, data) {
                // Some cannot, and say so when the file is opened or written, which may have made it.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.possible.store(false, Ordering::Relaxed);
                    remove_if_there(path)?;
                }
                result => return result,
            }
        }
        let mut file = options().open(path)?;
        file.write_all(data)?;
        Ok(file)
    }

    fn past_the_cache(&self, path: &Path, data: &[u8]) -> io::Result<File> {
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let mut file = options().custom_flags(flags).open(path)?;
        let mut buffer = self.take();
        let written = file.write_all(buffer.fill(data));
        self.give_back(buffer);
        written?;
        file.set_len(data.len() as u64)?;
        Ok(file)
    }

    fn take(&self) -> Buffer {
        let mut free = self.lock();
        loop {
            match free.pop() {
                Some(buffer) => return buffer.unwrap_or_default(),
                None => {
                    free = self
                        .returned
                        .wait(free)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    fn give_back(&self, buffer: Buffer) {
        self.lock().push(Some(buffer));
        self.returned.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Buffer>>> {
        // Only pushed to and popped from, so a panic elsewhere does not spoil it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    options
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Memory that contains a range which begins on a block's boundary.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    /// Copies `data` to where a block begins, and gives it back with zeros up to a block's end.
    fn fill(&mut self, data: &[u8]) -> &[u8] {
        let padded = data.len().next_multiple_of(BLOCK);
        if self.0.len() < padded + BLOCK {
            self.0 = vec![0; padded + BLOCK];
        }
        let start = self.0.as_ptr().align_offset(BLOCK);
        let aligned = &mut self.0[start..start + padded];
        aligned[..data.len()].copy_from_slice(data);
        aligned[data.len()..].fill(0);
        aligned
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn files_have_the_bytes_and_the_length_they_were_given() {
        let dir = tempfile::tempdir().unwrap();
        let direct = Direct::default();
        for len in [
            0,
            1,
            SHORTEST - 1,
            SHORTEST,
            SHORTEST + 1,
            3 * BLOCK,
            1024 * 1024 + 17,
        ] {
            let path = dir.path().join(len.to_string());
            let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8 + 1).collect();
            direct.create(&path, &data).unwrap().sync_data().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), data, "{len} bytes");
            assert!(direct.create(&path, &data).is_err(), "it is there already");
        }
    }

    #[test]
    fn a_shorter_chunk_has_nothing_of_the_one_before() {
        let mut buffer = Buffer::default();
        buffer.fill(&[7; 2 * BLOCK]);
        let second = buffer.fill(&[1, 2, 3]);
        assert_eq!(second.len(), BLOCK);
        assert_eq!(second.as_ptr().align_offset(BLOCK), 0);
        assert_eq!(second[..3], [1, 2, 3]);
        assert!(second[3..].iter().all(|b| *b == 0));
    }

    #[test]
    fn file_systems_that_cannot_are_written_to_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let on_dir =
            |program: &mut Command| program.arg(dir.path()).status().is_ok_and(|s| s.success());
        // Unlike tmpfs, which has learned it, ramfs refuses: after it has made the file.
        if !on_dir(Command::new("mount").args(["-t", "ramfs", "none"])) {
            return println!("skipped: ramfs cannot be mounted here");
        }
        let (direct, data) = (Direct::default(), vec![9; 2 * SHORTEST]);
        let read = ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            direct.create(&path, &data).map(|_| std::fs::read(&path))
        });
        assert!(on_dir(&mut Command::new("umount")));
        assert!(!direct.possible.load(Ordering::Relaxed), "it was refused");
        for read in read {
            assert_eq!(read.unwrap().unwrap(), data);
        }
    }

    #[test]
    fn more_writers_than_buffers_wait_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let direct = Direct::default();
        let data = vec![5; 2 * SHORTEST];
        std::thread::scope(|scope| {
            for n in 0..4 * BUFFERS {
                let (direct, data, path) = (&direct, &data, dir.path().join(n.to_string()));
                scope.spawn(move || direct.create(&path, data).unwrap());
            }
        });
        assert_eq!(direct.lock().len(), BUFFERS);
        for n in 0..4 * BUFFERS {
            assert_eq!(std::fs::read(dir.path().join(n.to_string())).unwrap(), data);
        }
    }
}
