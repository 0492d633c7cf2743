//! Bytes on their way to a client: a chunk at a time, with the memory it takes, and how they end.
//!
//! HTTP asks for more when it has room for it, so a client that stands still is one that nobody asks for; and what HTTP has taken cannot be
//! had back from it. So a chunk lies here, and counts, until its last piece is taken, and is taken away from a client that leaves
//! it here too long. That client may read on later: it then gets an error, never an end that looks like the file's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::FileError;
use super::budget::{Budget, Share};

/// Bytes taken at once, and so what a client that stands still has of a transfer beyond the budget, besides the windows of its
/// connection (guess: frames of 256 KiB cost as little as larger ones).
pub(crate) const PIECE: usize = 256 * 1024;

/// A client that does not take a chunk for so long is cut off while others wait for memory; it may go on with a range
/// (guess).
const STALL_SHORT: Duration = Duration::from_secs(5);

/// Why a transfer ends early.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    /// The client is told.
    Failed(E),
    /// The client is gone.
    Gone,
}

impl<E> From<E> for Stop<E> {
    fn from(error: E) -> Self {
        Stop::Failed(error)
    }
}

/// What lies here.
pub(crate) struct Slot<E> {
    data: Bytes,
    /// What the data take, if that counts.
    share: Option<Share>,
    /// Chunks that have lain here.
    chunks: u64,
    /// How it ended, until that is told.
    end: Option<Result<(), E>>,
    /// The client is gone.
    gone: bool,
    /// Of the client that waits.
    waker: Option<Waker>,
}

impl<E> Slot<E> {
    fn clear(&mut self) {
        self.data = Bytes::new();
        self.share = None;
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

pub(crate) type Shared<E> = Arc<watch::Sender<Slot<E>>>;

/// A way for bytes, and its two ends.
pub(crate) fn outlet<E: From<FileError>>() -> (Outlet<E>, Outgoing<E>) {
    let slot = Arc::new(watch::Sender::new(Slot {
        data: Bytes::new(),
        share: None,
        chunks: 0,
        end: None,
        gone: false,
        waker: None,
    }));
    (Outlet(slot.clone()), Outgoing::Way(slot))
}

/// What ends a transfer: one that is dropped before has failed.
pub(crate) struct Outlet<E: From<FileError>>(Shared<E>);

impl<E: From<FileError>> Outlet<E> {
    /// Where the bytes are put.
    pub(crate) fn sink(&self) -> Sink<E> {
        Sink(self.0.clone())
    }

    /// Does the `work` that fills the sink, waits until the client has taken all, and ends the transfer; without the rest when
    /// the client is gone, or takes a chunk neither within its `patience` nor, while others wait for the `budget`, within five
    /// seconds.
    pub(crate) async fn fill(
        self,
        work: impl Future<Output = Result<(), Stop<E>>>,
        patience: Duration,
        budget: Option<&Budget>,
    ) {
        let sink = self.sink();
        let all = async {
            let done = work.await;
            sink.room().await?;
            done
        };
        let ended = tokio::select! {
            biased;
            ended = all => ended,
            stop = sink.given_up(patience, budget) => Err(stop),
        };
        self.end(match ended {
            Ok(()) | Err(Stop::Gone) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        });
    }

    fn end(&self, end: Result<(), E>) {
        self.0.send_modify(|slot| {
            slot.clear();
            slot.end = Some(end);
            slot.wake();
        });
    }
}

impl<E: From<FileError>> Drop for Outlet<E> {
    fn drop(&mut self) {
        if self.0.borrow().end.is_none() {
            let lost = FileError::Interrupted("whoever sent it has ended".into());
            self.end(Err(lost.into()));
        }
    }
}

/// Where bytes are put for a client.
pub(crate) struct Sink<E>(Shared<E>);

impl<E: From<FileError>> Sink<E> {
    /// Waits until what was put here before is taken.
    pub(crate) async fn send(&self, data: Bytes, share: Option<Share>) -> Result<(), Stop<E>> {
        self.room().await?;
        if data.is_empty() {
            return Ok(());
        }
        self.0.send_modify(|slot| {
            slot.data = data;
            slot.share = share;
            slot.chunks += 1;
            slot.wake();
        });
        Ok(())
    }

    async fn room(&self) -> Result<(), Stop<E>> {
        let mut slot = self.0.subscribe();
        // Never closed.
        let room = slot
            .wait_for(|slot| slot.gone || slot.data.is_empty())
            .await;
        match room.is_ok_and(|slot| !slot.gone) {
            true => Ok(()),
            false => Err(Stop::Gone),
        }
    }

    /// Returns when the client is gone or has left a chunk here too long.
    async fn given_up(&self, patience: Duration, budget: Option<&Budget>) -> Stop<E> {
        let short = STALL_SHORT.min(patience);
        let mut slot = self.0.subscribe();
        loop {
            let lies = slot
                .wait_for(|slot| slot.gone || !slot.data.is_empty())
                .await;
            let Some(chunk) = lies.ok().filter(|slot| !slot.gone).map(|slot| slot.chunks) else {
                return Stop::Gone;
            };
            let since = Instant::now();
            loop {
                let taken =
                    |slot: &Slot<E>| slot.gone || slot.chunks != chunk || slot.data.is_empty();
                if timeout(short, slot.wait_for(taken)).await.is_ok() {
                    break;
                }
                let stood = since.elapsed();
                if stood >= patience || budget.is_some_and(Budget::is_short) {
                    return Stop::Failed(FileError::Stalled(stood.as_secs()).into());
                }
            }
        }
    }
}

/// The bytes as a client takes them. An error ends them.
pub(crate) enum Outgoing<E> {
    /// All of them, few and at hand: there is nothing to wait for.
    Few(Bytes),
    /// What an [`Outlet`] puts here, in pieces of at most [`PIECE`].
    Way(Shared<E>),
}

impl<E> Outgoing<E> {
    /// All the bytes, if they are at hand; there are none left then.
    pub(crate) fn take_few(&mut self) -> Option<Bytes> {
        match self {
            Outgoing::Few(bytes) => Some(std::mem::take(bytes)),
            Outgoing::Way(_) => None,
        }
    }
}

impl<E> Stream for Outgoing<E> {
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shared = match &mut *self {
            Outgoing::Way(shared) => shared,
            Outgoing::Few(bytes) => {
                let all = std::mem::take(bytes);
                return Poll::Ready((!all.is_empty()).then_some(Ok(all)));
            }
        };
        let mut next = Poll::Pending;
        shared.send_if_modified(|slot| {
            if slot.data.len() > PIECE {
                next = Poll::Ready(Some(Ok(slot.data.split_to(PIECE))));
                return false;
            }
            if !slot.data.is_empty() {
                next = Poll::Ready(Some(Ok(std::mem::take(&mut slot.data))));
                slot.clear();
                return true;
            }
            match slot.end.replace(Ok(())) {
                Some(Ok(())) => next = Poll::Ready(None),
                Some(Err(error)) => next = Poll::Ready(Some(Err(error))),
                None => {
                    slot.end = None;
                    slot.waker = Some(cx.waker().clone());
                }
            }
            false
        });
        next
    }
}

impl<E> Drop for Outgoing<E> {
    fn drop(&mut self) {
        if let Outgoing::Way(shared) = self {
            shared.send_modify(|slot| {
                slot.gone = true;
                slot.clear();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use tokio::time::sleep;

    use super::*;

    const CHUNK: usize = 2 * PIECE;
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A transfer of so many chunks.
    fn transfer(budget: &Budget, chunks: usize) -> Outgoing<FileError> {
        let (outlet, outgoing) = outlet();
        let (sink, budget) = (outlet.sink(), budget.clone());
        let memory = budget.clone();
        let work = async move {
            for _ in 0..chunks {
                let share = memory.take(CHUNK).await;
                sink.send(Bytes::from(vec![7; CHUNK]), share).await?;
            }
            Ok(())
        };
        tokio::spawn(async move { outlet.fill(work, PATIENCE, Some(&budget)).await });
        outgoing
    }

    #[tokio::test(start_paused = true)]
    async fn memory_counts_until_its_bytes_are_taken() {
        let budget = Budget::new(8 * CHUNK);
        let mut outgoing = transfer(&budget, 2);
        for taken in 1..=4_u64 {
            assert_eq!(outgoing.next().await.unwrap().unwrap().len(), PIECE);
            sleep(Duration::from_secs(1)).await;
            // The second chunk has its memory while it waits for the first one's place.
            let left = [2, 1, 1, 0][taken as usize - 1];
            assert_eq!(budget.taken(), left * CHUNK as u64, "{taken}");
        }
        assert!(outgoing.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_is_told_and_holds_nothing() {
        let budget = Budget::new(8 * CHUNK);
        let mut still = transfer(&budget, 3);
        assert!(still.next().await.unwrap().is_ok());
        sleep(PATIENCE + STALL_SHORT).await;
        assert_eq!(budget.taken(), 0);
        let told = still.next().await.unwrap().unwrap_err();
        assert!(matches!(told, FileError::Stalled(30..=35)), "{told}");
        assert!(still.next().await.is_none());
        // One that takes its time is not given up while nobody waits.
        let mut slow = transfer(&budget, 3);
        for _ in 0..6 {
            sleep(PATIENCE / 3).await;
            assert!(slow.next().await.unwrap().is_ok());
        }
        assert!(slow.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_stand_still_make_room_for_those_that_wait() {
        let budget = Budget::new(2 * CHUNK);
        // Each has a chunk here, and waits for the memory of its next one.
        let mut still: Vec<_> = (0..2).map(|_| transfer(&budget, 3)).collect();
        for one in &mut still {
            assert!(one.next().await.unwrap().is_ok());
        }
        assert!(budget.take(CHUNK).now_or_never().is_none());
        let began = Instant::now();
        let other = transfer(&budget, 5);
        let read: Vec<_> = other.collect().await;
        assert!(read.len() == 10 && read.iter().all(Result::is_ok));
        assert!(began.elapsed() < PATIENCE);
        for one in &mut still {
            assert!(matches!(one.next().await, Some(Err(FileError::Stalled(5)))));
        }
    }

    #[tokio::test]
    async fn what_ends_without_a_word_has_failed() {
        let (outlet, mut outgoing) = outlet::<FileError>();
        let sink = outlet.sink();
        assert!(sink.send(Bytes::from_static(b"some"), None).await.is_ok());
        drop(outlet);
        assert!(matches!(
            outgoing.next().await,
            Some(Err(FileError::Interrupted(_)))
        ));
        let (outlet, outgoing) = super::outlet::<FileError>();
        drop(outgoing);
        let sent = outlet.sink().send(Bytes::from_static(b"some"), None).await;
        assert!(matches!(sent, Err(Stop::Gone)));
    }
}
