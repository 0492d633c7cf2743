//! Uploads in parts, for clients that know nothing of hashes: an upload has an offset, and parts are appended to it.
//!
//! A part's whole chunks are stored like those of any put; their hashes, and the bytes after the last of them, go into a
//! record on the volume of the peer that began the upload, synced before anybody is told the offset. The last part
//! makes the file of it all: a put that names every chunk as held ([`super::held`]). So an upload survives a restart of its
//! peer, but is known to no other. An hour without a part ends it, as it ends the references of its chunks (ADR 12).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use peernet_core::key::{Key, Name};
use peernet_proto::v1;
use prost::Message;
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::cutter::{BrokenOff, Cutter};
use super::held::HELD_MAX;
use super::put::{IN_FLIGHT, finished};
use super::{FileError, Files, Held, Kind, Precondition};
use crate::disk::replace_file;

/// Uploads in parts that a peer keeps at once (guess: their records take at most 8 MiB each, usually a few KiB).
const OPEN: usize = 64;
/// How long one is kept after its last part: as long as its chunks (ADR 12).
pub(crate) const AGE: Duration = Duration::from_secs(3600);
/// Chunks after which the record is written, so that a crash loses no more (guess).
const CHECKPOINT: usize = 256;

/// Names an upload in parts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PartsId(pub u128);

/// What is to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub name: Name,
    pub kind: Kind,
    pub when: Precondition,
    /// Bytes in all, if the client has said so.
    pub size: Option<u64>,
    held: Held,
    /// After the last whole chunk.
    tail: Bytes,
}

impl Parts {
    pub(crate) fn new(name: Name, kind: Kind, when: Precondition, size: Option<u64>) -> Self {
        let (held, tail) = (Held::default(), Bytes::new());
        Parts {
            name,
            kind,
            when,
            size,
            held,
            tail,
        }
    }

    /// Bytes that are stored.
    pub(crate) fn offset(&self) -> u64 {
        self.held.keys.len() as u64 * u64::from(self.held.chunk_size) + self.tail.len() as u64
    }
}

/// What became of a part.
pub(crate) enum Appended {
    /// The upload goes on from this offset.
    Open(u64),
    /// It was the last, and the file is stored.
    Stored(v1::FileInfo),
}

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
    async fn turn(&self, id: PartsId) -> (OwnedMutexGuard<()>, CancellationToken) {
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

    async fn load(&self, id: PartsId) -> Result<Parts, FileError> {
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
            Ok(Some(bytes)) => decode(&bytes).ok_or(FileError::NoParts),
            Ok(None) => Err(FileError::NoParts),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileError::NoParts),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Durable when this returns.
    async fn save(&self, id: PartsId, parts: &Parts) -> Result<(), FileError> {
        let (path, bytes) = (self.path(id), encode(parts));
        let saved =
            spawn_blocking(move || replace_file(&path, &path.with_extension("new"), &bytes));
        let saved = saved
            .await
            .map_err(|e| FileError::Interrupted(e.to_string()))?;
        saved.map_err(|error| failed(&error))
    }

    async fn remove(&self, id: PartsId) -> Result<(), FileError> {
        match tokio::fs::remove_file(self.path(id)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileError::NoParts),
            removed => removed.map_err(|error| failed(&error)),
        }
    }

    /// Makes room for one more: those that are over go.
    async fn make_room(&self) -> Result<(), FileError> {
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
        if is_over(&path)? {
            std::fs::remove_file(&path)?;
        } else {
            left += 1;
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
        held,
        tail,
    } = parts;
    v1::PartialUpload {
        header: Some(v1::PutHeader {
            name: name.to_string(),
            content_type: kind.content_type.clone(),
            tags: kind.tags.clone(),
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
    } = v1::PartialUpload::decode(bytes).ok()?;
    let v1::PutHeader {
        name,
        content_type,
        tags,
        size,
        when,
    } = header?;
    let (keys, []) = hashes.as_chunks::<32>() else {
        return None;
    };
    let keys = keys.iter().map(|key| Key(*key)).collect();
    Some(Parts {
        name: Name::new(name).ok()?,
        kind: Kind { content_type, tags },
        when: when.unwrap_or_default().into(),
        size,
        held: Held { keys, chunk_size },
        tail,
    })
}

impl Files {
    /// Most bytes of an upload in parts.
    pub(crate) fn parts_max(&self) -> u64 {
        HELD_MAX as u64 * u64::from(self.chunk_size)
    }

    /// Begins an upload in parts: durable when this returns.
    pub(crate) async fn begin_parts(&self, mut parts: Parts) -> Result<PartsId, FileError> {
        parts.kind.check()?;
        self.check(&parts.name, &parts.when).await?;
        self.check_parts(&parts, parts.size.unwrap_or(0))?;
        parts.held.chunk_size = self.chunk_size;
        self.parts.make_room().await?;
        let id = PartsId(fastrand::u128(..));
        self.parts.save(id, &parts).await?;
        Ok(id)
    }

    /// How far an upload in parts is; a part that is under way is cut off for that, and what came of it counts.
    pub(crate) async fn parts(&self, id: PartsId) -> Result<Parts, FileError> {
        let _turn = self.parts.turn(id).await;
        self.parts.load(id).await
    }

    /// Forgets an upload in parts.
    pub(crate) async fn cancel_parts(&self, id: PartsId) -> Result<(), FileError> {
        let _turn = self.parts.turn(id).await;
        self.parts.load(id).await?;
        self.parts.remove(id).await
    }

    /// Appends a part at `offset`; the last one makes it a file. What came before a failure is kept, also when the client
    /// is gone and with it whoever waits for this.
    pub(crate) async fn append(
        &self,
        id: PartsId,
        offset: u64,
        last: bool,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send + 'static,
    ) -> Result<Appended, FileError> {
        let files = self.clone();
        let append = async move { files.append_all(id, offset, last, body).await };
        let appended = self.tasks.spawn(append).await;
        appended.map_err(|error| FileError::Interrupted(error.to_string()))?
    }

    async fn append_all(
        &self,
        id: PartsId,
        offset: u64,
        last: bool,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<Appended, FileError> {
        let (_turn, newer) = self.parts.turn(id).await;
        let mut parts = self.parts.load(id).await?;
        let expected = parts.offset();
        if offset != expected {
            let provided = offset;
            return Err(FileError::Offset { expected, provided });
        }
        let acknowledged = parts.tail.clone();
        let taken = self.take(id, &mut parts, newer, body).await;
        if parts.offset() < expected {
            // Not one chunk was stored: what was acknowledged stays as it was.
            parts.tail = acknowledged;
        }
        self.parts.save(id, &parts).await?;
        taken?;
        if !last {
            return Ok(Appended::Open(parts.offset()));
        }
        let Parts {
            name,
            kind,
            when,
            size,
            held,
            tail,
        } = parts;
        let tail = stream::iter((!tail.is_empty()).then_some(Ok(tail)));
        let info = self.put_rest(name, kind, size, &when, &held, tail).await?;
        self.parts.remove(id).await?;
        Ok(Appended::Stored(info))
    }

    /// Stores a part's whole chunks, and keeps what is left.
    async fn take(
        &self,
        id: PartsId,
        parts: &mut Parts,
        newer: CancellationToken,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<(), FileError> {
        let by = self.begin_upload(&parts.name, &parts.when).await?;
        let tail = std::mem::take(&mut parts.tail);
        let before = parts.offset();
        let body = stream::iter([Ok(tail)]).chain(body);
        let over = stream::once(newer.cancelled_owned()).map(|()| Over::Newer);
        let body = stream::select(body.map(Over::Body).chain(stream::iter([Over::End])), over);
        let body = body.take_while(|next| std::future::ready(!matches!(next, Over::End)));
        let body = body.map(|next| match next {
            Over::Body(part) => part,
            Over::Newer | Over::End => Err(BrokenOff::Connection(
                "another request for this upload came".into(),
            )),
        });
        let mut cutter = Cutter::new(body, self.chunk_size, None)
            .within(self.patience)
            .sharing(self.gathering.clone())
            .after(before);
        let mut sending = VecDeque::new();
        let cut = loop {
            let next = match cutter.next().await {
                Ok(Some(chunk)) if chunk.len() == self.chunk_size as usize => chunk,
                Ok(rest) => {
                    parts.tail = rest.unwrap_or_default();
                    break Ok(());
                }
                Err(error) => {
                    parts.tail = cutter.gathered();
                    break Err(error);
                }
            };
            if let Err(error) = self.check_parts(parts, cutter.received()) {
                break Err(error);
            }
            if sending.len() == IN_FLIGHT
                && let Some(oldest) = sending.pop_front()
            {
                parts.held.keys.push(finished(oldest).await?.key);
                if parts.held.keys.len().is_multiple_of(CHECKPOINT) {
                    self.parts.save(id, parts).await?;
                }
            }
            sending.push_back(self.send(next, &by).await?);
        };
        for chunk in sending {
            match finished(chunk).await {
                Ok(chunk) => parts.held.keys.push(chunk.key),
                Err(error) => {
                    // What follows a chunk that is not there is not there either.
                    parts.tail.clear();
                    return Err(error);
                }
            }
        }
        cut?;
        self.check_parts(parts, parts.offset())
    }

    fn check_parts(&self, parts: &Parts, received: u64) -> Result<(), FileError> {
        let announced = parts.size.unwrap_or(u64::MAX).min(self.parts_max());
        if received > announced {
            return Err(FileError::Size {
                announced,
                received,
            });
        }
        Ok(())
    }
}

/// What a part's stream brings.
enum Over {
    Body(Result<Bytes, BrokenOff>),
    End,
    Newer,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Tags;

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
        };
        let mut parts = Parts::new(Name::new("n").unwrap(), kind, when, Some(9));
        parts.held.keys = vec![Key([7; 32]); chunks];
        parts.held.chunk_size = 10;
        parts.tail = Bytes::from_static(tail);
        parts
    }

    #[tokio::test]
    async fn records_are_read_as_they_were_written_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().join("below"));
        records.make_room().await.unwrap();
        let (id, other) = (PartsId(1), PartsId(2));
        for (chunks, tail, offset) in [(0, &b""[..], 0), (3, b"abc", 33)] {
            let written = parts(chunks, tail);
            records.save(id, &written).await.unwrap();
            let read = records.load(id).await.unwrap();
            assert_eq!(read.offset(), offset);
            assert_eq!((read.name, read.kind), (written.name, written.kind));
            assert_eq!((read.when, read.size), (written.when, written.size));
            assert_eq!((read.held, read.tail), (written.held, written.tail));
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
            records.save(PartsId(n), &parts(1, b"")).await.unwrap();
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
