//! Uploads in parts, for clients that know nothing of hashes: an upload has an offset, and parts are appended to it.
//!
//! A part's whole chunks are stored like those of any put; their hashes, and the bytes after the last of them, go into a
//! record on the volume of the peer that began the upload, synced before anybody is told the offset. The last part
//! makes the file of it all: a put that names every chunk as held ([`super::held`]). So an upload survives a restart of its
//! peer, but is known to no other: REST passes on what comes to one. A part with a digest counts whole or not at all, and of
//! a file with one nothing is stored unless it is right. An hour without a part ends it, as it ends the references of its
//! chunks (ADR 12), which are those of one upload however many parts it has ([`lasting`]).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use peernet_core::collect::Referrer;
use peernet_core::key::{Key, Name};
use peernet_proto::v1;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::cutter::{BrokenOff, Cutter};
use super::held::HELD_MAX;
use super::precondition::judge;
use super::put::{IN_FLIGHT, finished, now_unix_ms};
use super::{FileError, Files, Held, Kind, Precondition};
use lasting::RENEW;

mod lasting;
mod records;

pub(crate) use records::Records;

/// How long one is kept after its last part: as long as its chunks (ADR 12).
pub(crate) const AGE: Duration = Duration::from_secs(3600);
/// Chunks after which the record is written, so that a crash loses no more (guess).
const CHECKPOINT: usize = 256;
/// Chunks fetched at once to compute a digest (guess: hides a round trip each).
const AHEAD: usize = 4;

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
    /// SHA-256 of the file, if the client has said so.
    pub digest: Option<[u8; 32]>,
    held: Held,
    /// After the last whole chunk.
    tail: Bytes,
    /// What the chunks are stored with; none in a record of an older version.
    by: Option<Referrer>,
    /// When all that hold them were last told that it goes on, in milliseconds since 1970; 0 while not all are known to
    /// have that referrer.
    renewed: u64,
    /// What the record tells of [`Parts::state`].
    recorded: (u64, u64),
}

impl Parts {
    pub(crate) fn new(name: Name, kind: Kind, when: Precondition, size: Option<u64>) -> Self {
        let (held, tail) = (Held::default(), Bytes::new());
        Parts {
            name,
            kind,
            when,
            size,
            digest: None,
            held,
            tail,
            by: None,
            renewed: 0,
            recorded: (0, 0),
        }
    }

    /// Bytes that are stored.
    pub(crate) fn offset(&self) -> u64 {
        self.held.keys.len() as u64 * u64::from(self.held.chunk_size) + self.tail.len() as u64
    }

    /// What a part may change: bytes, and when it was last renewed.
    fn state(&self) -> (u64, u64) {
        (self.offset(), self.renewed)
    }
}

/// What a client says of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// Where it begins.
    pub offset: u64,
    /// It makes the file.
    pub last: bool,
    /// It counts whole or not at all, for its digest says something about the whole of it only.
    pub whole: bool,
    /// SHA-256 of the file, if the client says so with this part.
    pub digest: Option<[u8; 32]>,
}

/// What became of a part.
pub(crate) enum Appended {
    /// The upload goes on from this offset.
    Open(u64),
    /// It was the last, and the file is stored.
    Stored(v1::FileInfo),
}

impl Files {
    /// Most bytes of an upload in parts.
    pub(crate) fn parts_max(&self) -> u64 {
        HELD_MAX as u64 * u64::from(self.chunk_size)
    }

    /// Begins an upload in parts with its first part, and returns how far it is; durable by then. Nothing is left of it when
    /// that fails, or when whoever waits for this is gone: nobody would ever hear where it is.
    pub(crate) async fn begin_parts(
        &self,
        parts: Parts,
        part: Part,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send + 'static,
    ) -> Result<(PartsId, u64), FileError> {
        let (files, (tell, told)) = (self.clone(), oneshot::channel());
        self.tasks.spawn(async move {
            let begun = files.begin_all(parts, part, body).await;
            if let Err(Ok((id, _))) = tell.send(begun) {
                files.abandon(id).await;
            }
        });
        let interrupted = |_| FileError::Interrupted("a task ended early".into());
        told.await.map_err(interrupted)?
    }

    async fn begin_all(
        &self,
        mut parts: Parts,
        part: Part,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<(PartsId, u64), FileError> {
        parts.kind.check()?;
        self.check_parts(&parts, parts.size.unwrap_or(0))?;
        parts.held.chunk_size = self.chunk_size;
        parts.by = Some(self.begin_upload(&parts.name, &parts.when).await?);
        parts.renewed = now_unix_ms();
        self.parts.make_room().await?;
        let id = PartsId(fastrand::u128(..));
        self.parts.save(id, &mut parts).await?;
        match self.append_all(id, part, body).await {
            Ok(Appended::Open(offset)) => Ok((id, offset)),
            Ok(Appended::Stored(info)) => Ok((id, info.size)),
            Err(error) => {
                self.abandon(id).await;
                Err(error)
            }
        }
    }

    /// Forgets an upload that nobody knows of; an hour would end it as well.
    async fn abandon(&self, id: PartsId) {
        if let Err(error) = self.cancel_parts(id).await {
            debug!("an upload that nobody knows of is kept for an hour: {error}");
        }
    }

    /// How far an upload in parts is; a part that is under way is cut off for that, and what came of it counts. What is told
    /// is still there, if a majority of the name's replicas can be asked.
    pub(crate) async fn parts(&self, id: PartsId) -> Result<Parts, FileError> {
        let _turn = self.parts.turn(id).await;
        let mut parts = self.parts.load(id).await?;
        if !parts.held.keys.is_empty() {
            match self.peer.read_name(parts.name.clone()).await {
                Ok(register) => {
                    self.uphold(id, &mut parts, register.as_ref()).await?;
                }
                Err(error) => debug!("how far an upload is, is told unseen: {error}"),
            }
        }
        Ok(parts)
    }

    /// Forgets an upload in parts.
    pub(crate) async fn cancel_parts(&self, id: PartsId) -> Result<(), FileError> {
        let _turn = self.parts.turn(id).await;
        self.parts.load(id).await?;
        self.parts.remove(id).await
    }

    /// Appends a part; the last one makes it a file. What came before a failure is kept, also when the client
    /// is gone and with it whoever waits for this, but for a part that counts whole, or brings more than was announced.
    pub(crate) async fn append(
        &self,
        id: PartsId,
        part: Part,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send + 'static,
    ) -> Result<Appended, FileError> {
        let files = self.clone();
        let append = async move { files.append_all(id, part, body).await };
        let appended = self.tasks.spawn(append).await;
        appended.map_err(|error| FileError::Interrupted(error.to_string()))?
    }

    async fn append_all(
        &self,
        id: PartsId,
        part: Part,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<Appended, FileError> {
        let (_turn, newer) = self.parts.turn(id).await;
        let mut parts = self.parts.load(id).await?;
        let expected = parts.offset();
        if part.offset != expected {
            let provided = part.offset;
            return Err(FileError::Offset { expected, provided });
        }
        let register = self.peer.read_name(parts.name.clone()).await?;
        judge(&parts.name, &parts.when, register.as_ref())?;
        let by = self.uphold(id, &mut parts, register.as_ref()).await?;
        if !part.last {
            // The last part is followed by the file. If that cannot be made, no repetition keeps the upload.
            self.renew(&mut parts).await;
        }
        let (chunks, tail) = (parts.held.keys.len(), parts.tail.clone());
        let taken = self.take(id, &mut parts, &by, (part.whole, newer), body);
        let taken = taken.await;
        let too_much = matches!(taken, Err(FileError::Size { .. }));
        if parts.offset() < expected || too_much || (part.whole && taken.is_err()) {
            // What was acknowledged stays as it was; with more than the file has, it could never be one.
            parts.held.keys.truncate(chunks);
            parts.tail = tail;
        }
        if parts.recorded != parts.state() {
            self.parts.save(id, &mut parts).await?;
        }
        taken?;
        if !part.last {
            return Ok(Appended::Open(parts.offset()));
        }
        let announced = parts.digest.into_iter().chain(part.digest);
        if let Err(error) = self.check_digest(&parts, announced.collect()).await {
            if matches!(error, FileError::Digest { .. }) {
                // No part that could follow would make it right.
                self.parts.remove(id).await?;
            }
            return Err(error);
        }
        let info = self.complete(id, parts).await?;
        Ok(Appended::Stored(info))
    }

    /// Fails when the file has another SHA-256 than was announced. All of it is read once more for that, since parts come
    /// in several requests, and this peer may have been started anew between them.
    async fn check_digest(&self, parts: &Parts, announced: Vec<[u8; 32]>) -> Result<(), FileError> {
        if announced.is_empty() {
            return Ok(());
        }
        let fetched = stream::iter(parts.held.keys.clone()).map(|key| {
            let files = self.clone();
            async move {
                let share = files.downloads.take(files.chunk_size as usize).await;
                Ok::<_, FileError>((files.fetch(key).await?, share))
            }
        });
        let mut fetched = fetched.buffered(AHEAD);
        let mut hash = Sha256::new();
        while let Some(chunk) = fetched.next().await {
            hash.update(chunk?.0.data());
        }
        hash.update(&parts.tail);
        let received: [u8; 32] = hash.finalize().into();
        match announced.into_iter().find(|digest| *digest != received) {
            Some(announced) => Err(FileError::Digest {
                announced: Key(announced),
                received: Key(received),
            }),
            None => Ok(()),
        }
    }

    /// Stores a part's whole chunks, and keeps what is left.
    async fn take(
        &self,
        id: PartsId,
        parts: &mut Parts,
        by: &Referrer,
        (whole, newer): (bool, CancellationToken),
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<(), FileError> {
        let mut renewed = Instant::now();
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
        let compress = self.compresses(&parts.kind);
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
                parts.held.keys.push(finished(oldest).await?.chunk.key);
                if !whole && parts.held.keys.len().is_multiple_of(CHECKPOINT) {
                    self.parts.save(id, parts).await?;
                }
            }
            if renewed.elapsed() >= RENEW {
                self.renew(parts).await;
                renewed = Instant::now();
            }
            sending.push_back(self.send(next, compress, by).await?);
        };
        for chunk in sending {
            match finished(chunk).await {
                Ok(sent) => parts.held.keys.push(sent.chunk.key),
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
