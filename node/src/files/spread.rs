//! Writing one chunk to its replicas.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use peernet_core::collect::Referrer;
use peernet_core::io::{ChunkOutcome, Endpoint, RequestError, Route};
use peernet_core::key::Key;
use peernet_core::member::PeerId;
use peernet_core::slot::SlotConfig;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::budget::Share;
use super::manifest::ChunkRef;
use super::tally::Tally;
use super::{FileError, Files, reason};
use crate::chunks::ChunkError;
use crate::disk::Packed;
use crate::driver::PeerError;

/// How long a chunk is sent again, over several configurations of its slot (guess: longer than a peer's failure is
/// noticed and its slot can be written again). What moves by then is waited for.
const DEADLINE: Duration = Duration::from_secs(20);
/// So often a chunk is sent at least, however long that takes: the first time may go to a holder that is dying, and last until
/// that is known (guess: by then there is another route).
const TRIES: usize = 2;
/// First pause before the route is asked for again; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
/// See [`PAUSE`].
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A chunk on its way; its memory counts until the last replica is done with it.
struct Parcel {
    key: Key,
    len: u32,
    /// `None` when only the reference is wanted.
    chunk: Option<Packed>,
    by: Referrer,
    _share: Option<Share>,
}

/// A chunk that is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) chunk: ChunkRef,
    /// Bytes of each copy.
    pub(super) stored: u64,
}

impl Files {
    /// Stores a chunk durably on its slot's write quorum, compressed if that is wanted and pays. The remaining replicas are
    /// still written to after this has returned; one that could not take the chunk is told to catch up.
    pub(super) async fn spread(
        &self,
        data: Bytes,
        compress: bool,
        by: Referrer,
        share: Option<Share>,
    ) -> Result<Spread, FileError> {
        let chunk = self.chunks.pack(data, compress).await;
        let chunk = chunk.map_err(|e| FileError::Interrupted(e.to_string()))?;
        let (key, len) = (chunk.key(), chunk.plain_len());
        let stored = chunk.bytes().len() as u64;
        self.deliver(Parcel {
            key,
            len,
            chunk: Some(chunk),
            by,
            _share: share,
        })
        .await?;
        let len = len.into();
        let chunk = ChunkRef { key, len };
        Ok(Spread { chunk, stored })
    }

    /// Pins a chunk of `len` bytes that was stored before at its slot's write quorum, for another referrer. A chunk of
    /// another length is refused.
    pub(super) async fn pin_chunk(
        &self,
        (key, len): (Key, u32),
        by: Referrer,
    ) -> Result<(), FileError> {
        self.deliver(Parcel {
            key,
            len,
            chunk: None,
            by,
            _share: None,
        })
        .await
    }

    async fn deliver(&self, parcel: Parcel) -> Result<(), FileError> {
        let parcel = Arc::new(parcel);
        persist(parcel.key, || self.attempt(&parcel)).await
    }

    /// One attempt under the slot's configuration as it is known now.
    async fn attempt(&self, parcel: &Arc<Parcel>) -> Result<(), FileError> {
        let Route {
            config, holders, ..
        } = self.peer.route(parcel.key.slot()).await?;
        let config = config.ok_or(PeerError::Refused(RequestError::NotReady))?;
        let (done, outcome) = oneshot::channel();
        let round = Round::new(self.clone(), parcel.clone(), config, holders, done);
        // On its own task, since it goes on after the quorum is reached.
        self.tasks.spawn(round.run());
        outcome
            .await
            .map_err(|_| FileError::Interrupted("a task ended early".into()))?
    }
}

/// Tries until it works, or cannot, or has taken too long.
async fn persist<A>(key: Key, mut attempt: impl FnMut() -> A) -> Result<(), FileError>
where
    A: Future<Output = Result<(), FileError>>,
{
    let deadline = Instant::now() + DEADLINE;
    let (mut pause, mut tries) = (PAUSE, 0);
    loop {
        let error = match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        tries += 1;
        let late = tries >= TRIES && Instant::now() + pause > deadline;
        if late || !may_pass(&error) {
            return Err(error);
        }
        debug!(%key, "a chunk is sent again: {error}");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether another attempt may succeed.
fn may_pass(error: &FileError) -> bool {
    matches!(
        error,
        FileError::TooFewCopies { .. }
            | FileError::Peer(PeerError::Refused(RequestError::NotReady))
    )
}

/// One attempt to write a chunk to all replicas of its slot.
struct Round {
    files: Files,
    parcel: Arc<Parcel>,
    tally: Tally,
    /// Under way.
    sending: FuturesUnordered<BoxFuture<'static, (Endpoint, Result<ChunkOutcome, ChunkError>)>>,
    /// Thought to be down: tried only if the others are not enough.
    down: Vec<Endpoint>,
    /// Replicas without the chunk, and why.
    failed: Vec<(Endpoint, ChunkError)>,
    done: Option<oneshot::Sender<Result<(), FileError>>>,
}

impl Round {
    fn new(
        files: Files,
        parcel: Arc<Parcel>,
        config: SlotConfig,
        holders: Vec<Endpoint>,
        done: oneshot::Sender<Result<(), FileError>>,
    ) -> Self {
        let tally = Tally::new(config, files.write);
        let (up, down) = holders.into_iter().partition(|h: &Endpoint| h.up);
        let sending = FuturesUnordered::new();
        let mut round = Round {
            files,
            parcel,
            tally,
            sending,
            down,
            failed: Vec::new(),
            done: Some(done),
        };
        round.send_to(up);
        round
    }

    async fn run(mut self) {
        loop {
            if self.tally.reached() {
                self.finish(Ok(()));
            } else if self.sending.is_empty() && !self.down.is_empty() {
                let down = std::mem::take(&mut self.down);
                self.send_to(down);
            }
            let Some((holder, result)) = self.sending.next().await else {
                break;
            };
            match result {
                Ok(ChunkOutcome::Stored) => self.tally.stored(holder.id),
                Ok(ChunkOutcome::Missing) => self.failed.push((holder, ChunkError::Missing)),
                Ok(ChunkOutcome::OtherLength(held)) => {
                    self.failed.push((holder, ChunkError::OtherLength(held)));
                }
                Ok(ChunkOutcome::Stale(epoch)) => {
                    let reason = format!(
                        "its slot is at epoch {epoch} there, at {} here",
                        self.tally.config().epoch
                    );
                    self.failed.push((holder, ChunkError::Unavailable(reason)));
                    // Nobody waits for the others: the writer asks for the new configuration at once.
                    if !self.may_reach() {
                        self.finish(Err(self.shortfall()));
                    }
                }
                Err(error) => self.failed.push((holder, error)),
            }
        }
        if self.tally.reached() {
            self.finish(Ok(()));
            self.tell_missed().await;
        } else {
            let shortfall = self.shortfall();
            self.finish(Err(shortfall));
        }
    }

    fn send_to(&mut self, holders: Vec<Endpoint>) {
        for holder in holders {
            let (chunks, parcel, epoch) = (
                self.files.chunks.clone(),
                self.parcel.clone(),
                self.tally.config().epoch,
            );
            self.sending.push(Box::pin(async move {
                let result = chunks
                    .put(
                        &holder,
                        (parcel.key, parcel.len),
                        parcel.chunk.as_ref(),
                        epoch,
                        parcel.by.clone(),
                    )
                    .await;
                (holder, result)
            }));
        }
    }

    /// The write may still be acknowledged if all replicas that have not failed take it.
    fn may_reach(&self) -> bool {
        let failed: Vec<PeerId> = self.failed.iter().map(|(holder, _)| holder.id).collect();
        self.tally.reachable(&failed)
    }

    fn finish(&mut self, result: Result<(), FileError>) {
        if let Some(done) = self.done.take() {
            // The upload may have been given up.
            let _ = done.send(result);
        }
    }

    fn shortfall(&self) -> FileError {
        if let Some((holder, _)) = self
            .failed
            .iter()
            .find(|(_, e)| matches!(e, ChunkError::Full))
        {
            return FileError::Full {
                peer: holder.name.clone(),
            };
        }
        let other = self.failed.iter().find_map(|(_, error)| match error {
            ChunkError::OtherLength(held) => Some(*held),
            _ => None,
        });
        if let Some(held) = other {
            return FileError::HeldLength {
                key: self.parcel.key,
                said: self.parcel.len,
                held,
            };
        }
        let gone = |(_, error): &(Endpoint, ChunkError)| matches!(error, ChunkError::Missing);
        if self.failed.iter().any(gone) {
            return FileError::Outlived;
        }
        let reason = self
            .failed
            .last()
            .map_or("they are not known here".into(), |(h, e)| {
                reason(&h.name, e)
            });
        let needed = self.files.write;
        FileError::TooFewCopies {
            slot: self.parcel.key.slot(),
            copies: self.tally.copies(),
            needed,
            reason,
        }
    }

    /// Replicas without the chunk are told to catch up now rather than at their next comparison.
    async fn tell_missed(self) {
        let slot = self.parcel.key.slot();
        for holder in self
            .failed
            .into_iter()
            .map(|(holder, _)| holder)
            .chain(self.down)
        {
            debug!(%slot, peer = holder.name, "did not take a chunk");
            if let Err(error) = self.files.peer.missed(slot, holder.id).await {
                debug!(%slot, "cannot be told to catch up: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use peernet_core::key::Slot;

    use super::*;

    fn too_few() -> FileError {
        FileError::TooFewCopies {
            slot: Slot::all().next().unwrap(),
            copies: 1,
            needed: 2,
            reason: "p-1: it stood still".into(),
        }
    }

    /// How often something is tried that takes so long and works from that time on, and what comes of it.
    async fn tries(takes: Duration, works: usize) -> (usize, Result<(), FileError>) {
        let mut tries = 0;
        let key = Key([1; 32]);
        let ended = persist(key, || {
            tries += 1;
            let works = tries >= works;
            async move {
                sleep(takes).await;
                works.then_some(()).ok_or_else(too_few)
            }
        });
        let ended = ended.await;
        (tries, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn a_chunk_is_sent_again_however_long_the_first_time_took() {
        let (tried, ended) = tries(2 * DEADLINE, 2).await;
        assert!(tried == 2 && ended.is_ok());
        let (tried, ended) = tries(2 * DEADLINE, usize::MAX).await;
        assert!(tried == 2 && matches!(ended, Err(FileError::TooFewCopies { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_sent_for_ever_nor_when_that_is_of_no_use() {
        let began = Instant::now();
        let (tried, ended) = tries(Duration::from_millis(1), usize::MAX).await;
        assert!(tried > TRIES && ended.is_err() && began.elapsed() <= DEADLINE);
        let mut tries = 0;
        let over = persist(Key([1; 32]), || {
            tries += 1;
            ready(Err(FileError::Outlived))
        });
        assert!(matches!(over.await, Err(FileError::Outlived)) && tries == 1);
    }
}
