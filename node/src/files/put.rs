//! Storing a file.

use std::collections::{BTreeSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use peernet_core::collect::{Referrer, Upload};
use peernet_core::io::RequestError;
use peernet_core::key::{Key, Name};
use peernet_core::register::{Condition, Register, Value};
use peernet_proto::v1;
use tokio_util::task::AbortOnDropHandle;

use super::cutter::{BrokenOff, Cutter};
use super::manifest::TreeBuilder;
use super::precondition::{ATTEMPTS, judge};
use super::record::{Content, Kind, Summary, encode};
use super::spread::Spread;
use super::{FileError, Files, Held, Precondition};
use crate::config::INLINE_MAX;
use crate::driver::{PeerError, Written};

/// Chunks of one upload hashed and sent at once (guess: covers two syncs of a busy disk).
pub(super) const IN_FLIGHT: usize = 8;

/// How often a chunk's bytes are in memory while they are sent: here, and at each of two others until their disks have
/// them. Nobody there counts what has come in whole, so whoever sends it does.
const IN_MEMORY: usize = 3;

/// Chunks of one upload pinned anew at once (guess: as many as are sent).
const PINS: usize = IN_FLIGHT;

/// The chunks of an upload, durable with their references.
pub(super) struct Sent {
    pub(super) by: Referrer,
    /// With their lengths, nodes of the tree included; 40 MiB for a file of 1 TiB.
    pub(super) keys: BTreeSet<(Key, u32)>,
    /// Of the file, repeated ones each time, without nodes.
    pub(super) chunks: u64,
    /// Bytes of these as they were sent; `None` where some were held already, nobody knows in which form.
    pub(super) stored: Option<u64>,
}

/// A file that was stored.
pub(crate) struct Stored {
    pub(crate) info: v1::FileInfo,
    /// In the place of another; otherwise the name was free.
    pub(crate) replaced: bool,
}

/// A new upload that takes the place of that write. Its number is used with no other: a reference says in which place its
/// upload may take effect, and would be live and over at once if there were two.
pub(super) fn in_place_of(name: Name, register: Option<&Register>) -> Referrer {
    Referrer {
        name,
        upload: Upload(fastrand::u128(1..)),
        base: register.map(|r| r.write),
    }
}

pub(super) type Sending = AbortOnDropHandle<Result<Spread, FileError>>;

impl Files {
    /// Stores `body` under `name` if the condition holds, replacing what was there, and returns once that is durable on the write quorum. A
    /// body that breaks off, or whose length is not `announced`, is refused whole.
    pub(crate) async fn put(
        &self,
        name: Name,
        kind: Kind,
        announced: Option<u64>,
        when: &Precondition,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<Stored, FileError> {
        self.put_rest(name, kind, announced, when, &Held::default(), body)
            .await
    }

    /// The same for a file whose first chunks are `held` already: `body` is what comes after them.
    pub(crate) async fn put_rest(
        &self,
        name: Name,
        kind: Kind,
        announced: Option<u64>,
        when: &Precondition,
        held: &Held,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<Stored, FileError> {
        kind.check()?;
        let skipped = held.bytes(self.chunk_size)?;
        self.check(&name, when).await?;
        let mut body = Cutter::new(body, self.chunk_size, announced)
            .within(self.patience)
            .sharing(self.gathering.clone())
            .after(skipped);
        let compress = self.compresses(&kind);
        let (content, sent) = match body.next().await? {
            None if skipped == 0 => (Content::Inline(Bytes::new()), None),
            // Shorter than a chunk means that it is the last.
            Some(only)
                if skipped == 0
                    && only.len() < self.chunk_size as usize
                    && only.len() <= INLINE_MAX =>
            {
                (Content::Inline(only), None)
            }
            first => {
                let by = self.begin_upload(&name, when).await?;
                let (content, sent) = self.send_all(held, first, &mut body, compress, by).await?;
                (content, Some(sent))
            }
        };
        let summary = Summary {
            size: body.received(),
            etag: content.etag(),
            kind,
            modified_unix_ms: now_unix_ms(),
            chunks: sent.as_ref().map_or(0, |s| s.chunks),
            stored: sent.as_ref().map_or(Some(body.received()), |s| s.stored),
            pinned: false,
        };
        let info = summary.to_info(&name);
        let upload = sent.as_ref().map(|s| s.by.upload);
        let value = encode(&summary, &content, upload);
        let replaced = match sent {
            None => self.change(name, value, when, false).await?,
            Some(sent) => self.commit(value, when, sent).await?,
        };
        Ok(Stored { info, replaced })
    }

    /// Whether chunks of such a file are to be compressed.
    pub(super) fn compresses(&self, kind: &Kind) -> bool {
        let compression = kind.compression.unwrap_or(self.compression);
        compression.tries(&kind.content_type)
    }

    /// What the chunks of a new upload are stored with: it will take the place of what the name holds now, so that is
    /// what the condition is about.
    pub(super) async fn begin_upload(
        &self,
        name: &Name,
        when: &Precondition,
    ) -> Result<Referrer, FileError> {
        let register = self.peer.read_name(name.clone()).await?;
        judge(name, when, register.as_ref())?;
        Ok(in_place_of(name.clone(), register.as_ref()))
    }

    /// Writes the name of a file whose chunks are stored. When others have written it since the upload began, the chunks
    /// are pinned once more, as those of another upload, which takes the place of that write. Tells whether there was a file.
    pub(super) async fn commit(
        &self,
        mut value: Value,
        when: &Precondition,
        sent: Sent,
    ) -> Result<bool, FileError> {
        let Sent { mut by, keys, .. } = sent;
        for _ in 0..ATTEMPTS {
            let condition = Condition::still(by.base);
            let written = self
                .peer
                .write_name(by.name.clone(), value.clone(), condition);
            let register = match written.await? {
                Written::Done { replaced } => return Ok(replaced),
                Written::Unmet(register) => register,
            };
            judge(&by.name, when, register.as_ref())?;
            by = in_place_of(by.name, register.as_ref());
            if let Value::Present { upload, .. } = &mut value {
                *upload = Some(by.upload);
            }
            self.pin_all(keys.clone(), &by).await?;
        }
        Err(FileError::Peer(PeerError::Refused(RequestError::Busy)))
    }

    pub(super) async fn pin_all(
        &self,
        keys: BTreeSet<(Key, u32)>,
        by: &Referrer,
    ) -> Result<(), FileError> {
        let pins = stream::iter(keys).map(|chunk| {
            let (files, by) = (self.clone(), by.clone());
            async move { files.pin_chunk(chunk, by).await }
        });
        let mut pins = pins.buffer_unordered(PINS);
        while let Some(pinned) = pins.next().await {
            pinned?;
        }
        Ok(())
    }

    /// Pins what is `held`, sends `first` and all that follows; reading, hashing and sending overlap. Everything is acknowledged when this
    /// returns: the manifest's root, and the number of chunks.
    async fn send_all<S>(
        &self,
        held: &Held,
        first: Option<Bytes>,
        body: &mut Cutter<S>,
        compress: bool,
        by: Referrer,
    ) -> Result<(Content, Sent), FileError>
    where
        S: Stream<Item = Result<Bytes, BrokenOff>>,
    {
        let mut tree = TreeBuilder::new(self.chunk_size);
        let (mut sending, mut nodes) = (VecDeque::new(), Vec::new());
        let mut sent = Sent {
            by,
            keys: BTreeSet::new(),
            chunks: 0,
            stored: held.keys.is_empty().then_some(0),
        };
        self.pin_held(held, &sent.by).await?;
        for chunk in held.chunks() {
            sent.keys.insert(chunk.pair());
            sent.chunks += 1;
            tree.push(chunk, &mut nodes);
            self.send_nodes(&mut nodes, &mut sent).await?;
        }
        let mut next = first;
        while let Some(chunk) = next {
            if sending.len() == IN_FLIGHT {
                self.settle_oldest(&mut sending, &mut tree, &mut nodes, &mut sent)
                    .await?;
            }
            sending.push_back(self.send(chunk, compress, &sent.by).await?);
            sent.chunks += 1;
            next = body.next().await?;
        }
        while !sending.is_empty() {
            self.settle_oldest(&mut sending, &mut tree, &mut nodes, &mut sent)
                .await?;
        }
        let manifest = tree.finish(&mut nodes);
        self.send_nodes(&mut nodes, &mut sent).await?;
        Ok((Content::Chunks(manifest), sent))
    }

    /// Waits for the oldest chunk under way and puts it into the tree.
    async fn settle_oldest(
        &self,
        sending: &mut VecDeque<Sending>,
        tree: &mut TreeBuilder,
        nodes: &mut Vec<Bytes>,
        sent: &mut Sent,
    ) -> Result<(), FileError> {
        if let Some(oldest) = sending.pop_front() {
            let Spread { chunk, stored } = finished(oldest).await?;
            sent.keys.insert(chunk.pair());
            sent.stored = sent.stored.map(|all| all + stored);
            tree.push(chunk, nodes);
        }
        self.send_nodes(nodes, sent).await
    }

    /// Stores nodes of the tree like any chunk; there is one for 4,096 chunks. Hashes cannot be compressed.
    async fn send_nodes(&self, nodes: &mut Vec<Bytes>, sent: &mut Sent) -> Result<(), FileError> {
        for node in nodes.drain(..) {
            let node = finished(self.send(node, false, &sent.by).await?).await?;
            sent.keys.insert(node.chunk.pair());
        }
        Ok(())
    }

    /// Begins to store a chunk, once there is memory for it.
    pub(super) async fn send(
        &self,
        data: Bytes,
        compress: bool,
        by: &Referrer,
    ) -> Result<Sending, FileError> {
        let share = self.uploads.take(data.len() * IN_MEMORY).await;
        let (files, by) = (self.clone(), by.clone());
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            files.spread(data, compress, by, share).await
        })))
    }
}

pub(super) async fn finished(sending: Sending) -> Result<Spread, FileError> {
    sending
        .await
        .map_err(|error| FileError::Interrupted(error.to_string()))?
}

pub(crate) fn now_unix_ms() -> u64 {
    // Before 1970 only when the clock was never set; it is informational anyway.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
