//! Cuts an upload into chunks.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use peernet_core::key::Key;
use tokio::time::{Instant, timeout};

use super::FileError;
use super::budget::{Budget, Share};
use crate::config::INLINE_MAX;

/// A client that sends nothing for so long is cut off, so that it does not hold what it has sent (guess); files have a
/// setting for it.
pub(crate) const STALL: Duration = Duration::from_secs(30);

/// An upload whose bytes do not become a file; why.
#[derive(Clone, Debug)]
pub(crate) enum BrokenOff {
    /// The connection failed before the end; why.
    Connection(String),
    /// They came to their end, but are not those that the client meant (SHA-256).
    Digest {
        /// By the client.
        announced: [u8; 32],
        /// Of what came.
        received: [u8; 32],
    },
}

/// An upload, chunk by chunk. Memory grows only with what the client has sent, and where uploads share it, no upload has
/// more than an inline file's before it is its turn; its client waits meanwhile.
pub(crate) struct Cutter<S> {
    body: Pin<Box<S>>,
    size: usize,
    patience: Duration,
    announced: Option<u64>,
    received: u64,
    gathered: BytesMut,
    /// Came with the previous chunk's end.
    rest: Bytes,
    ended: bool,
    room: Option<Budget>,
    /// Of the room, for one chunk.
    share: Option<Share>,
    /// When it had room for the chunk that is gathered.
    since: Instant,
}

impl<S: Stream<Item = Result<Bytes, BrokenOff>>> Cutter<S> {
    /// Chunks of `size` bytes; `announced` bytes are to come if that is known.
    pub(crate) fn new(body: S, size: u32, announced: Option<u64>) -> Self {
        let (gathered, rest) = (BytesMut::new(), Bytes::new());
        Cutter {
            body: Box::pin(body),
            size: size as usize,
            patience: STALL,
            announced,
            received: 0,
            gathered,
            rest,
            ended: false,
            room: None,
            share: None,
            since: Instant::now(),
        }
    }

    /// A client that sends nothing for so long is cut off.
    pub(crate) fn within(self, patience: Duration) -> Self {
        Cutter { patience, ..self }
    }

    /// Memory for chunks that are gathered comes from this room.
    pub(crate) fn sharing(mut self, room: Budget) -> Self {
        self.room = Some(room);
        self
    }

    /// So many bytes came before, on another way.
    pub(crate) fn after(mut self, bytes: u64) -> Self {
        self.received = bytes;
        self
    }

    /// What came after the last chunk, when the upload broke off.
    pub(crate) fn gathered(self) -> Bytes {
        self.gathered.freeze()
    }

    /// Bytes so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The next chunk, of full size unless it is the last; `None` at the end. Nothing is lost when the future is
    /// dropped and asked for again.
    /// Its memory counts as the room's until the next one is asked for.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        if self.gathered.is_empty() && self.room.as_ref().is_some_and(Budget::is_short) {
            // To the end of the queue.
            self.share = None;
        }
        self.since = Instant::now();
        if self.received >= self.size as u64 {
            // Who has sent one chunk may be given room for the next: growing step by step would copy it twice.
            self.gathered.reserve(self.size - self.gathered.len());
        }
        while !self.ended && self.gathered.len() < self.size {
            self.take_room().await;
            if self.rest.is_empty() {
                self.receive().await?;
            }
            let part = self
                .rest
                .split_to(self.rest.len().min(self.size - self.gathered.len()));
            self.gathered.extend_from_slice(&part);
        }
        Ok((!self.gathered.is_empty()).then(|| self.gathered.split().freeze()))
    }

    /// What is more than an inline file waits for its turn.
    async fn take_room(&mut self) {
        let large = self.received > INLINE_MAX as u64;
        if let (Some(room), None, true) = (&self.room, &self.share, large) {
            self.share = room.take(self.size).await;
            self.since = Instant::now();
        }
    }

    /// A client may be slow; but when others wait for the memory it has, a chunk has to come within its patience.
    async fn receive(&mut self) -> Result<(), FileError> {
        let short = self.room.as_ref().is_some_and(Budget::is_short) && self.share.is_some();
        let stalled = || FileError::Stalled(self.patience.as_secs());
        if short && self.since.elapsed() >= self.patience {
            return Err(stalled());
        }
        let next = timeout(self.patience, self.body.next())
            .await
            .map_err(|_| stalled())?;
        match next {
            Some(Ok(bytes)) => {
                self.received += bytes.len() as u64;
                self.check(self.announced.is_some_and(|n| self.received > n))?;
                self.rest = bytes;
            }
            Some(Err(BrokenOff::Digest {
                announced,
                received,
            })) => {
                return Err(FileError::Digest {
                    announced: Key(announced),
                    received: Key(received),
                });
            }
            Some(Err(BrokenOff::Connection(reason))) => {
                return Err(FileError::BrokenOff {
                    received: self.received,
                    reason,
                });
            }
            None => {
                self.check(self.announced.is_some_and(|n| self.received != n))?;
                self.ended = true;
            }
        }
        Ok(())
    }

    fn check(&self, wrong: bool) -> Result<(), FileError> {
        let received = self.received;
        match self.announced {
            Some(announced) if wrong => Err(FileError::Size {
                announced,
                received,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    async fn cut(parts: &[usize], announced: Option<u64>) -> Result<Vec<usize>, FileError> {
        let parts = parts
            .iter()
            .map(|n| Ok(Bytes::from(vec![7; *n])))
            .collect::<Vec<_>>();
        let mut cutter = Cutter::new(stream::iter(parts), 10, announced);
        let mut chunks = Vec::new();
        while let Some(chunk) = cutter.next().await? {
            chunks.push(chunk.len());
        }
        Ok(chunks)
    }

    #[tokio::test]
    async fn chunks_are_full_but_for_the_last() {
        assert!(cut(&[], None).await.unwrap().is_empty());
        assert_eq!(cut(&[3, 0, 4], Some(7)).await.unwrap(), [7]);
        assert_eq!(cut(&[10], None).await.unwrap(), [10]);
        assert_eq!(cut(&[25, 5, 3], None).await.unwrap(), [10, 10, 10, 3]);
    }

    #[tokio::test]
    async fn an_upload_of_another_size_is_refused() {
        assert!(matches!(
            cut(&[5, 6], Some(10)).await,
            Err(FileError::Size {
                announced: 10,
                received: 11
            })
        ));
        assert!(matches!(
            cut(&[5], Some(10)).await,
            Err(FileError::Size {
                announced: 10,
                received: 5
            })
        ));
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_is_refused() {
        let parts = [
            Ok(Bytes::from_static(b"abc")),
            Err(BrokenOff::Connection("reset".into())),
        ];
        let mut cutter = Cutter::new(stream::iter(parts), 10, None);
        assert!(matches!(
            cutter.next().await,
            Err(FileError::BrokenOff { received: 3, .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stands_still_is_cut_off() {
        let mut cutter = Cutter::new(stream::pending(), 10, None);
        assert!(matches!(cutter.next().await, Err(FileError::Stalled(30))));
    }
}
