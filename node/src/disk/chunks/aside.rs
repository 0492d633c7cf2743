//! Reading chunks' files, and setting aside what is damaged.
//!
//! While a bad copy is read and judged, a repair may put a good one in its place, which then has the bad one's name. So what
//! is moved away is the very file that was read, and nothing is put into place meanwhile.
//!
//! What the disk cannot read stays where it is: it may be whole, and readable again when whatever is between us and the disk
//! is. It counts as damaged, so that a good copy is fetched, which takes its place.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::PoisonError;

use peernet_core::key::Key;

use super::{Chunk, ChunkError, ChunkFiles, Encoding, Packed, file_name};

/// Bad copies kept for people to look at; later ones are deleted. Guess: enough to see what a dying disk does.
const BAD_MAX: usize = 64;
/// How often a chunk in one form is read, while others put it into place (guess: a repair does so once).
const TRIES: usize = 2;

impl ChunkFiles {
    /// Reads a chunk in whichever form it is here: as it lies, and itself.
    pub(super) fn checked(
        &self,
        key: &Key,
        read: impl Fn(&mut File) -> io::Result<Vec<u8>>,
    ) -> Result<(Packed, Chunk), ChunkError> {
        let mut failure = ChunkError::Missing(*key);
        for encoding in Encoding::ALL {
            for _ in 0..TRIES {
                let opened = File::open(self.path(key, encoding));
                let read = match opened {
                    Ok(mut file) => read(&mut file).map(|bytes| (file, bytes)),
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) => Err(error),
                };
                match read {
                    Ok((file, bytes)) => {
                        if let Ok(read) = Packed::opened(key, encoding, bytes.into()) {
                            return Ok(read);
                        }
                        failure = ChunkError::Corrupt(*key);
                        if self.set_aside(key, encoding, &file)? {
                            break;
                        }
                    }
                    Err(error) if is_damage(&error) => {
                        failure = ChunkError::Corrupt(*key);
                        tracing::warn!(%key, "a chunk's bytes on this volume cannot be read: {error}");
                        break;
                    }
                    Err(source) => {
                        return Err(ChunkError::Volume {
                            action: "reading",
                            source,
                        });
                    }
                }
            }
        }
        Err(failure)
    }

    /// Moves a damaged file away, and says whether it did: another may be in its place, or none.
    fn set_aside(&self, key: &Key, encoding: Encoding, bad: &File) -> Result<bool, ChunkError> {
        let volume = |source| ChunkError::Volume {
            action: "setting aside",
            source,
        };
        let path = self.path(key, encoding);
        let mut count = self.aside.write().unwrap_or_else(PoisonError::into_inner);
        if !is_at(bad, &path).map_err(volume)? {
            return Ok(false);
        }
        let moved = if *count < BAD_MAX {
            let aside = self.root.join("bad").join(file_name(key, encoding));
            fs::rename(path, aside)
        } else {
            fs::remove_file(path)
        };
        match moved {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(volume(error)),
            Ok(()) => {
                *count += 1;
                tracing::warn!(%key, "a chunk's bytes on this volume were damaged; set aside");
                Ok(true)
            }
        }
    }
}

/// Whether this very file is at `path`: while it is open no other has its number.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let read = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (read.dev(), read.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The disk could not read bytes that should be there, or the file system says that what it keeps of them is damaged
/// (`EUCLEAN` and `EBADMSG`, of XFS and ext4).
fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let damage = [Errno::IO, Errno::UCLEAN, Errno::BADMSG];
    let code = error.raw_os_error();
    damage
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;

    use super::super::{Purpose, whole};
    use super::*;

    #[test]
    fn a_good_copy_that_took_the_place_of_a_bad_one_meanwhile_is_kept_and_read() {
        let root = tempfile::tempdir().unwrap();
        let files = ChunkFiles::open(root.path(), 0).unwrap();
        let chunk = Chunk::new(Bytes::from_static(b"a chunk"));
        let (key, path) = (chunk.key(), files.path(&chunk.key(), Encoding::Plain));
        for again in [true, false] {
            fs::write(&path, b"a chuck").unwrap();
            let first = Cell::new(true);
            let read = files.checked(&key, |file| {
                let bytes = whole(file);
                if again && first.replace(false) {
                    files.write(&chunk, Purpose::Repair).unwrap();
                }
                bytes
            });
            match again {
                true => assert_eq!(read.unwrap().1, chunk),
                false => assert!(matches!(read, Err(ChunkError::Corrupt(_)))),
            }
            assert_eq!(
                path.is_file(),
                again,
                "the good one stays, the bad one goes"
            );
        }
    }

    #[test]
    fn a_bad_copy_that_another_reader_has_set_aside_is_bad_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        let files = ChunkFiles::open(root.path(), 0).unwrap();
        let key = Key::of_bytes(b"a chunk");
        let path = files.path(&key, Encoding::Plain);
        fs::write(&path, b"a chuck").unwrap();
        let read = files.checked(&key, |file| {
            assert!(matches!(files.read(&key), Err(ChunkError::Corrupt(_))));
            whole(file)
        });
        assert!(matches!(read, Err(ChunkError::Corrupt(_))) && !path.exists());
        assert_eq!(*files.aside.read().unwrap(), 1);
    }

    #[test]
    fn what_the_disk_cannot_read_for_a_while_stays_and_is_read_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let files = ChunkFiles::open(root.path(), 0).unwrap();
        let chunk = Chunk::new(Bytes::from_static(b"a chunk"));
        files.write(&chunk, Purpose::Client).unwrap();
        for errno in [rustix::io::Errno::IO, rustix::io::Errno::UCLEAN] {
            let read = files.checked(&chunk.key(), |_| Err(errno.into()));
            assert!(matches!(read, Err(ChunkError::Corrupt(_))));
        }
        assert_eq!(*files.aside.read().unwrap(), 0);
        assert_eq!(files.read(&chunk.key()).unwrap(), chunk);
    }
}
