//! Storing a file.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::Stream;
use peernet_core::key::Name;
use peernet_proto::v1;
use tokio_util::task::AbortOnDropHandle;

use super::cutter::{BrokenOff, Cutter};
use super::manifest::{ChunkRef, TreeBuilder};
use super::record::{CONTENT_TYPE_MAX, Content, Summary, encode};
use super::{FileError, Files, Precondition};
use crate::config::INLINE_MAX;

/// Chunks of one upload hashed and sent at once (guess: covers two syncs of a busy disk).
const IN_FLIGHT: usize = 8;

type Sending = AbortOnDropHandle<Result<ChunkRef, FileError>>;

impl Files {
    /// Stores `body` under `name` if the condition holds, replacing what was there, and returns once that is durable on the write quorum. A
    /// body that breaks off, or whose length is not `announced`, is refused whole.
    pub(crate) async fn put(
        &self,
        name: Name,
        content_type: String,
        announced: Option<u64>,
        when: &Precondition,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<v1::FileInfo, FileError> {
        let printable = content_type.bytes().all(|b| (0x20..0x7f).contains(&b));
        if content_type.len() > CONTENT_TYPE_MAX || !printable {
            return Err(FileError::ContentType);
        }
        self.check(&name, when).await?;
        let mut body = Cutter::new(body, self.chunk_size, announced);
        let (content, chunks) = match body.next().await? {
            None => (Content::Inline(Bytes::new()), 0),
            // Shorter than a chunk means that it is the last: inline files are shorter than any chunk.
            Some(only) if only.len() <= INLINE_MAX => (Content::Inline(only), 0),
            Some(first) => self.send_all(first, &mut body).await?,
        };
        let summary = Summary {
            size: body.received(),
            etag: content.etag(),
            content_type,
            modified_unix_ms: now_unix_ms(),
            chunks,
        };
        let info = summary.to_info(&name);
        self.change(name, encode(&summary, &content), when, false)
            .await?;
        Ok(info)
    }

    /// Sends `first` and all that follows; reading, hashing and sending overlap. Everything is acknowledged when this
    /// returns: the manifest's root, and the number of chunks.
    async fn send_all<S>(
        &self,
        first: Bytes,
        body: &mut Cutter<S>,
    ) -> Result<(Content, u64), FileError>
    where
        S: Stream<Item = Result<Bytes, BrokenOff>>,
    {
        let mut tree = TreeBuilder::new(self.chunk_size);
        let (mut sending, mut nodes) = (VecDeque::new(), Vec::new());
        let mut chunks = 0;
        let mut next = Some(first);
        while let Some(chunk) = next {
            if sending.len() == IN_FLIGHT {
                self.settle_oldest(&mut sending, &mut tree, &mut nodes)
                    .await?;
            }
            sending.push_back(self.send(chunk).await?);
            chunks += 1;
            next = body.next().await?;
        }
        while !sending.is_empty() {
            self.settle_oldest(&mut sending, &mut tree, &mut nodes)
                .await?;
        }
        let manifest = tree.finish(&mut nodes);
        self.send_nodes(&mut nodes).await?;
        Ok((Content::Chunks(manifest), chunks))
    }

    /// Waits for the oldest chunk under way and puts it into the tree.
    async fn settle_oldest(
        &self,
        sending: &mut VecDeque<Sending>,
        tree: &mut TreeBuilder,
        nodes: &mut Vec<Bytes>,
    ) -> Result<(), FileError> {
        if let Some(oldest) = sending.pop_front() {
            tree.push(finished(oldest).await?, nodes);
        }
        self.send_nodes(nodes).await
    }

    /// Stores nodes of the tree like any chunk; there is one for 4,096 chunks.
    async fn send_nodes(&self, nodes: &mut Vec<Bytes>) -> Result<(), FileError> {
        for node in nodes.drain(..) {
            finished(self.send(node).await?).await?;
        }
        Ok(())
    }

    /// Begins to store a chunk, once there is memory for it.
    async fn send(&self, data: Bytes) -> Result<Sending, FileError> {
        let share = self.uploads.take(data.len()).await;
        let files = self.clone();
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            files.spread(data, share).await
        })))
    }
}

async fn finished(sending: Sending) -> Result<ChunkRef, FileError> {
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
