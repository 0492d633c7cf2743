//! Taking in a file that is to be shared from here.

use bytes::Bytes;
use futures::Stream;
use peernet_core::key::{Key, Name};
use peernet_core::share::{Offer, Wanted};

use super::shelf::{Committed, Draft, Shared, Taken};
use super::{ShareError, Shares, on_disk};
use crate::chunks::hash;
use crate::config::INLINE_MAX;
use crate::files::cutter::{BrokenOff, Cutter};
use crate::files::manifest::{ChunkRef, TreeBuilder};
use crate::files::record::Content;
use crate::files::{FileError, now_unix_ms};

/// What a client says of a file to be shared.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// Unique on this peer; what was shared under it is replaced.
    pub(crate) name: Name,
    /// Media type.
    pub(crate) content_type: String,
    /// Words to find it by.
    pub(crate) tags: Vec<String>,
    /// Bytes to come, if that is known.
    pub(crate) announced: Option<u64>,
}

impl Shares {
    /// Shares `body`: returns once it is durable here and published. One that breaks off, or whose length is not as
    /// announced, leaves nothing.
    pub(crate) async fn share(
        &self,
        header: Header,
        body: impl Stream<Item = Result<Bytes, BrokenOff>> + Send,
    ) -> Result<Offer, ShareError> {
        let Header {
            name,
            content_type,
            tags,
            announced,
        } = header;
        let mut offer = Offer {
            name,
            size: 0,
            content: Key([0; 32]),
            content_type,
            tags,
            since: now_unix_ms(),
        };
        offer.check()?;
        let _turn = self.intake().await?;
        let mut body = Cutter::new(body, self.chunk_size, announced);
        let mut draft = self.shelf.draft();
        let content = match body.next().await? {
            None => Content::Inline(Bytes::new()),
            Some(only) if only.len() <= INLINE_MAX => Content::Inline(only),
            Some(first) => {
                let mut tree = TreeBuilder::new(self.chunk_size);
                let (mut next, mut nodes) = (Some(first), Vec::new());
                while let Some(data) = next {
                    let (added, key, len) = keep(draft, data).await?;
                    draft = added;
                    tree.push(ChunkRef { key, len }, &mut nodes);
                    for node in nodes.drain(..) {
                        draft = keep(draft, node).await?.0;
                    }
                    next = body.next().await?;
                }
                let manifest = tree.finish(&mut nodes);
                for node in nodes.drain(..) {
                    draft = keep(draft, node).await?.0;
                }
                Content::Chunks(manifest)
            }
        };
        offer.size = content.size();
        offer.content = Key(content.etag());
        let shared = Shared { offer, content };
        self.publish(draft, shared, Taken::Replace).await
    }

    /// Durable first, then said; though the client may go away in between.
    pub(super) async fn publish(
        &self,
        draft: Draft,
        shared: Shared,
        taken: Taken,
    ) -> Result<Offer, ShareError> {
        let shares = self.clone();
        self.through(async move { shares.publish_now(draft, shared, taken).await })
            .await
    }

    async fn publish_now(
        &self,
        draft: Draft,
        shared: Shared,
        taken: Taken,
    ) -> Result<Offer, ShareError> {
        let _saying = self.saying.lock().await;
        let committed = on_disk(move || draft.commit(shared, taken)).await?;
        let Committed {
            offer,
            moved,
            gone,
            replaced,
        } = committed;
        // All of it is here.
        self.fetches.end(offer.content);
        // Nobody wants what it lacked any more.
        if let Some(replaced) = replaced
            && self.kept(&Wanted::Content(replaced)).is_none()
        {
            self.let_go(replaced);
        }
        self.peer.offer(offer.clone()).await?;
        // After the offer: somebody provides the content all the time.
        if let Some(gone) = gone.filter(|gone| gone.name != offer.name) {
            self.peer.withdraw(gone.name).await?;
        }
        let moved = moved.filter(|moved| {
            let kept = self.kept(&Wanted::Content(moved.content));
            kept.is_some_and(|(_, holding)| holding.has_some())
        });
        if let Some(moved) = moved {
            self.peer.offer(moved).await?;
        }
        Ok(offer)
    }
}

/// Hashes a chunk and makes it durable; away from the threads that serve connections.
async fn keep(mut draft: Draft, data: Bytes) -> Result<(Draft, Key, u64), ShareError> {
    let chunk = hash(data)
        .await
        .map_err(|error| ShareError::File(FileError::Interrupted(error.to_string())))?;
    on_disk(move || {
        draft.add(&chunk)?;
        Ok((draft, chunk.key(), chunk.data().len() as u64))
    })
    .await
}
