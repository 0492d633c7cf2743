//! The records of uploads in parts, as files on the volume of the peer that began them, and whose turn it is with each.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use peernet_core::collect::Referrer;
use peernet_core::key::{Key, Name};
use peernet_proto::v1;
use prost::Message;
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{AGE, Parts, PartsId};
use crate::disk::replace_file;
use crate::files::{FileError, Held, Kind};
use crate::wire::{Wire, compression_of};

/// Uploads in parts that a peer keeps at once (guess: their records take at most 8 MiB each, usually a few KiB).
const OPEN: usize = 64;

/// Where the records are, and whose turn it is with each.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    turns: Mutex<HashMap<PartsId, Turn>>,
}

#[derive(Clone, Default, Debug)]
struct Turn {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// Of whoever came last.
    newest: CancellationToken,
}

impl Records {
    /// Records below this directory, which is made when it is needed.
    pub(crate) fn new(dir: PathBuf) -> Self {
        let turns = Mutex::default();
        Records { dir, turns }
    }

    /// Waits for the turn with an upload. Whoever has it is told to stop: a client that comes back has lost that
    /// connection, even if this peer does not know it yet.
    pub(super) async fn turn(&self, id: PartsId) -> (OwnedMutexGuard<()>, CancellationToken) {
        let (lock, mine) = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(&turn.lock) > 1);
            let turn = turns.entry(id).or_default();
            turn.newest.cancel();
            turn.newest = CancellationToken::new();
            (turn.lock.clone(), turn.newest.clone())
        };
        (lock.lock_owned().await, mine)
    }

    fn path(&self, id: PartsId) -> PathBuf {
        self.dir.join(format!("{:032x}", id.0))
    }

    pub(super) async fn load(&self, id: PartsId) -> Result<Parts, FileError> {
        let path = self.path(id);
        let read = spawn_blocking(move || {
            if is_over(&path)? {
                Ok(None)
            } else {
                std::fs::read(&path).map(Some)
            }
        });
        match read
            .await
            .map_err(|e| FileError::Interrupted(e.to_string()))?
        {
            Ok(Some(bytes)) => {
                let mut parts = decode(&bytes).ok_or(FileError::NoParts)?;
                parts.recorded = parts.state();
                Ok(parts)
            }
            Ok(None) => Err(FileError::NoParts),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileError::NoParts),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Durable when this returns.
    pub(super) async fn save(&self, id: PartsId, parts: &mut Parts) -> Result<(), FileError> {
        let (path, bytes) = (self.path(id), encode(parts));
        let saved =
            spawn_blocking(move || replace_file(&path, &path.with_extension("new"), &bytes));
        let saved = saved
            .await
            .map_err(|e| FileError::Interrupted(e.to_string()))?;
        saved.map_err(|error| failed(&error))?;
        parts.recorded = parts.state();
        Ok(())
    }

    pub(super) async fn remove(&self, id: PartsId) -> Result<(), FileError> {
        match tokio::fs::remove_file(self.path(id)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileError::NoParts),
            removed => removed.map_err(|error| failed(&error)),
        }
    }

    /// Makes room for one more: those that are over go.
    pub(super) async fn make_room(&self) -> Result<(), FileError> {
        let dir = self.dir.clone();
        let count = spawn_blocking(move || sweep(&dir)).await;
        let count = count.map_err(|e| FileError::Interrupted(e.to_string()))?;
        if count.map_err(|error| failed(&error))? >= OPEN {
            return Err(FileError::TooManyParts);
        }
        Ok(())
    }
}

fn failed(error: &io::Error) -> FileError {
    FileError::Interrupted(format!("the upload's record: {error}"))
}

fn is_over(path: &Path) -> io::Result<bool> {
    let written = std::fs::metadata(path)?.modified()?;
    // A clock that was set back makes it younger, never older.
    Ok(SystemTime::now()
        .duration_since(written)
        .is_ok_and(|age| age > AGE))
}

/// Removes what is over; how many records are left.
fn sweep(dir: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(dir)?;
    let mut left = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        // Records come and go meanwhile.
        let over = is_over(&path).and_then(|over| match over {
            true => std::fs::remove_file(&path).map(|()| true),
            false => Ok(false),
        });
        match over {
            Ok(true) => {}
            // One that is being written stands for a record that is there, or soon will be.
            Ok(false) => left += usize::from(path.extension().is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

fn encode(parts: &Parts) -> Vec<u8> {
    let Parts {
        name,
        kind,
        when,
        size,
        digest,
        held,
        tail,
        by,
        renewed,
        recorded: _,
    } = parts;
    v1::PartialUpload {
        header: Some(v1::PutHeader {
            name: name.to_string(),
            content_type: kind.content_type.clone(),
            tags: kind.tags.clone(),
            compression: kind
                .compression
                .map_or(0, |told| v1::Compression::from(told).into()),
            size: *size,
            when: Some(when.clone().into()),
        }),
        hashes: held
            .keys
            .iter()
            .flat_map(|key| key.0)
            .collect::<Vec<u8>>()
            .into(),
        chunk_size: held.chunk_size,
        tail: tail.clone(),
        sha_256: digest.map(|digest| Bytes::copy_from_slice(&digest)),
        referrer: by.as_ref().map(Wire::to_wire),
        renewed_unix_ms: *renewed,
    }
    .encode_to_vec()
}

/// A record that cannot be read is none: nothing was acknowledged but an offset.
fn decode(bytes: &[u8]) -> Option<Parts> {
    let v1::PartialUpload {
        header,
        hashes,
        chunk_size,
        tail,
        sha_256,
        referrer,
        renewed_unix_ms,
    } = v1::PartialUpload::decode(bytes).ok()?;
    let v1::PutHeader {
        name,
        content_type,
        tags,
        size,
        when,
        compression,
    } = header?;
    let (keys, []) = hashes.as_chunks::<32>() else {
        return None;
    };
    let keys = keys.iter().map(|key| Key(*key)).collect();
    let digest = match sha_256 {
        Some(digest) => Some(<[u8; 32]>::try_from(&digest[..]).ok()?),
        None => None,
    };
    let by = match referrer {
        Some(by) => Some(Referrer::from_wire(by, "PartialUpload.referrer").ok()?),
        None => None,
    };
    Some(Parts {
        name: Name::new(name).ok()?,
        kind: Kind {
            content_type,
            tags,
            compression: compression_of(compression),
        },
        when: when.unwrap_or_default().into(),
        size,
        digest,
        held: Held { keys, chunk_size },
        tail,
        by,
        renewed: renewed_unix_ms,
        recorded: (0, 0),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use peernet_core::collect::Upload;
    use peernet_core::member::PeerId;
    use peernet_core::register::WriteId;

    use super::*;
    use crate::config::Compression;
    use crate::files::{Precondition, Tags};

    fn parts(chunks: usize, tail: &'static [u8]) -> Parts {
        let when = Precondition {
            // As a list of weak ones alone becomes: no file has this one.
            if_match: Some(Tags::Of(vec![String::new()])),
            if_none_match: Some(Tags::Any),
            still: None,
        };
        let kind = Kind {
            content_type: "t".into(),
            tags: vec!["a".into()],
            compression: Some(Compression::Auto),
        };
        let mut parts = Parts::new(Name::new("n").unwrap(), kind, when, Some(9));
        parts.digest = (chunks > 0).then_some([5; 32]);
        parts.held.keys = vec![Key([7; 32]); chunks];
        parts.held.chunk_size = 10;
        parts.tail = Bytes::from_static(tail);
        parts.by = (chunks > 0).then(|| Referrer {
            name: Name::new("n").unwrap(),
            upload: Upload(8),
            base: Some(WriteId {
                peer: PeerId(3),
                op: 4,
            }),
        });
        parts.renewed = chunks as u64 * 1000;
        parts
    }

    #[test]
    fn what_vanishes_while_room_is_made_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        // As a file that was there when the folder was read.
        std::os::unix::fs::symlink("nowhere", dir.path().join("gone")).unwrap();
        std::fs::write(dir.path().join("there"), b"").unwrap();
        std::fs::write(dir.path().join("there.new"), b"").unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), 1);
    }

    #[tokio::test]
    async fn records_are_read_as_they_were_written_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().join("below"));
        records.make_room().await.unwrap();
        let (id, other) = (PartsId(1), PartsId(2));
        for (chunks, tail, offset) in [(0, &b""[..], 0), (3, b"abc", 33)] {
            let mut written = parts(chunks, tail);
            records.save(id, &mut written).await.unwrap();
            let read = records.load(id).await.unwrap();
            assert_eq!(read.offset(), offset);
            assert_eq!((read.name, read.kind), (written.name, written.kind));
            assert_eq!((read.when, read.size), (written.when, written.size));
            assert_eq!((read.held, read.tail), (written.held, written.tail));
            assert_eq!(read.digest, written.digest);
            assert_eq!((read.by, read.renewed), (written.by, written.renewed));
            assert_eq!(read.recorded, (offset, written.renewed));
        }
        std::fs::write(records.path(other), b"\xff").unwrap();
        let missing = [records.load(other).await, records.load(PartsId(3)).await];
        assert!(
            missing
                .iter()
                .all(|read| matches!(read, Err(FileError::NoParts)))
        );
        records.remove(id).await.unwrap();
        assert!(matches!(records.remove(id).await, Err(FileError::NoParts)));
        for n in 0..OPEN as u128 {
            let mut one = parts(1, b"");
            records.save(PartsId(n), &mut one).await.unwrap();
        }
        assert!(matches!(
            records.make_room().await,
            Err(FileError::TooManyParts)
        ));
        let old = std::fs::File::options()
            .write(true)
            .open(records.path(id))
            .unwrap();
        let long_ago = SystemTime::now() - AGE - Duration::from_secs(1);
        old.set_modified(long_ago).unwrap();
        assert!(matches!(records.load(id).await, Err(FileError::NoParts)));
        records.make_room().await.unwrap();
    }

    #[tokio::test]
    async fn who_comes_last_stops_who_has_the_turn() {
        let records = Records::new(PathBuf::new());
        let (first, stopped) = records.turn(PartsId(1)).await;
        let _other = records.turn(PartsId(2)).await;
        assert!(!stopped.is_cancelled());
        let mut second = Box::pin(records.turn(PartsId(1)));
        assert!(futures::poll!(&mut second).is_pending() && stopped.is_cancelled());
        drop(first);
        assert!(!second.await.1.is_cancelled());
    }
}
