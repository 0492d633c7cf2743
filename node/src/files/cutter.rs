//! Cuts an upload into chunks.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use peernet_core::key::Key;
use tokio::time::timeout;

use super::FileError;

/// A client that sends nothing for so long is cut off, so that it does not hold what it has sent (guess).
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

/// An upload, chunk by chunk. Memory grows only with what the client has sent.
pub(crate) struct Cutter<S> {
    body: Pin<Box<S>>,
    size: usize,
    announced: Option<u64>,
    received: u64,
    gathered: BytesMut,
    /// Came with the previous chunk's end.
    rest: Bytes,
    ended: bool,
}

impl<S: Stream<Item = Result<Bytes, BrokenOff>>> Cutter<S> {
    /// Chunks of `size` bytes; `announced` bytes are to come if that is known.
    pub(crate) fn new(body: S, size: u32, announced: Option<u64>) -> Self {
        let (gathered, rest) = (BytesMut::new(), Bytes::new());
        Cutter {
            body: Box::pin(body),
            size: size as usize,
            announced,
            received: 0,
            gathered,
            rest,
            ended: false,
        }
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
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        if self.received >= self.size as u64 {
            // Who has sent one chunk may be given room for the next: growing step by step would copy it twice.
            self.gathered.reserve(self.size - self.gathered.len());
        }
        while !self.ended && self.gathered.len() < self.size {
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

    async fn receive(&mut self) -> Result<(), FileError> {
        let next = timeout(STALL, self.body.next())
            .await
            .map_err(|_| FileError::Stalled(STALL.as_secs()))?;
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
