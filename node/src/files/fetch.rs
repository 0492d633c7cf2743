//! Reading one chunk from whoever holds it.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use peernet_core::io::{Endpoint, RequestError};
use peernet_core::key::Key;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::{FileError, Files, reason};
use crate::chunks::ChunkError;
use crate::disk::Chunk;
use crate::driver::PeerError;
use crate::link::TRANSFER;

/// How long a chunk is asked for again, over all holders and several rounds (guess: longer than a peer's failure is noticed). What
/// moves by then is waited for.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a round may take; each transfer in it has the same bound, but this peer's own disk has none.
const ROUND: Duration = TRANSFER.whole;
/// A holder that has not answered by then gets company (guess: far above the usual few milliseconds).
const HEDGE: Duration = Duration::from_millis(500);
/// First pause between rounds; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
/// See [`PAUSE`].
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl Files {
    /// Reads a chunk, verified. Asks its holders nearest first, the next one when a holder fails or hesitates, and all
    /// of them again, by a fresh route, until the deadline.
    pub(super) async fn fetch(&self, key: Key) -> Result<Chunk, FileError> {
        if let Some(chunk) = self.warm(key).await {
            return Ok(chunk);
        }
        let deadline = Instant::now() + DEADLINE;
        let mut pause = PAUSE;
        loop {
            let error = match timeout(ROUND, self.fetch_round(key)).await {
                Ok(Ok(chunk)) => return Ok(chunk),
                Ok(Err(error)) => error,
                Err(_) => FileError::Unreachable {
                    key,
                    reason: format!("nobody sent it in {} s", ROUND.as_secs()),
                },
            };
            if Instant::now() + pause > deadline {
                return Err(error);
            }
            debug!("asking again: {error}");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn fetch_round(&self, key: Key) -> Result<Chunk, FileError> {
        let route = self.peer.route(key.slot()).await?;
        if route.holders.is_empty() {
            return Err(PeerError::Refused(RequestError::NotReady).into());
        }
        let ask = async |holder: Endpoint| {
            let result = self.chunks.get(&holder, key).await;
            (holder, result)
        };
        let mut holders = route.holders.into_iter();
        let mut asked = FuturesUnordered::new();
        asked.extend(holders.next().map(ask));
        let mut unreachable = None;
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((_, Ok(chunk))) => return Ok(chunk),
                    Some((holder, Err(error))) => {
                        debug!(%key, peer = holder.name, "{error}");
                        if !matches!(error, ChunkError::Missing | ChunkError::Damaged) {
                            unreachable = Some(reason(&holder.name, &error));
                        }
                        asked.extend(holders.next().map(ask));
                    }
                    None => return Err(match unreachable {
                        Some(reason) => FileError::Unreachable { key, reason },
                        None => FileError::Lost(key),
                    }),
                },
                () = sleep(HEDGE), if !holders.as_slice().is_empty() => asked.extend(holders.next().map(ask)),
            }
        }
    }
}
