//! Giving back the space of chunk files that nothing refers to: what a departed life of this volume left as a cache,
//! and what a crash left between writing a file and indexing it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{ChunkError, Chunks};
use crate::driver::PeerError;

/// How long this peer must have been quiet before a sweep: files may be wanted as a cache while slots still come here
/// (guess: far longer than a join takes).
const QUIET: Duration = Duration::from_secs(600);
/// Pause between sweeps; little can gather meanwhile (guess).
const PAUSE: Duration = Duration::from_secs(6 * 3600);
/// How often the peer is asked whether it is quiet.
const LOOK: Duration = Duration::from_secs(30);
/// Chunks looked up in the index at once, so that the peer's thread is not kept from its messages.
const BATCH: usize = 256;

/// Sweeps now and then until the peer stops.
pub(crate) async fn keep_sweeping(chunks: Arc<Chunks>) {
    loop {
        let Ok(()) = chunks.wait_until_quiet().await else {
            return;
        };
        match chunks.sweep().await {
            Ok(0) => {}
            Ok(files) => info!(files, "chunks that nothing refers to are removed"),
            Err(error) if error.is_the_end() => return,
            Err(error) => warn!("unused chunks cannot be looked for: {error}"),
        }
        sleep(PAUSE).await;
    }
}

impl ChunkError {
    /// Nothing more can be done here. Everything else may pass, also a volume that is stuck.
    pub(super) fn is_the_end(&self) -> bool {
        matches!(self, ChunkError::Peer(PeerError::Stopped))
    }
}

impl Chunks {
    /// Returns when this peer had everything it should hold, and nothing was moving, for [`QUIET`]. One that does not answer is
    /// not quiet, but one that has stopped never will be.
    pub(super) async fn wait_until_quiet(&self) -> Result<(), ChunkError> {
        let mut quiet = Duration::ZERO;
        while quiet < QUIET {
            sleep(LOOK).await;
            let settled = match self.peer.status().await {
                Ok(status) => {
                    status.ready
                        && status.slots_behind == 0
                        && status.slots_moving == 0
                        && status.chunks_missing == 0
                }
                Err(error @ PeerError::Stopped) => return Err(error.into()),
                Err(error) => {
                    debug!("it is not known whether this peer is quiet: {error}");
                    false
                }
            };
            quiet = if settled {
                quiet + LOOK
            } else {
                Duration::ZERO
            };
        }
        Ok(())
    }

    /// Offers every file that is not indexed to the peer's thread, which removes it unless it is indexed or being
    /// written by then. Returns how many.
    async fn sweep(&self) -> Result<usize, ChunkError> {
        let mut unused = 0;
        for first in 0..=u8::MAX {
            let files = self.files.clone();
            let listed = spawn_blocking(move || files.keys(first)).await;
            let keys = listed.map_err(|error| ChunkError::Disk(error.to_string()))??;
            for keys in keys.chunks(BATCH) {
                let held = self.peer.holds(keys.to_vec()).await?;
                for key in keys
                    .iter()
                    .zip(held)
                    .filter_map(|(key, held)| (!held).then_some(*key))
                {
                    self.peer.forget(key).await;
                    unused += 1;
                }
            }
        }
        Ok(unused)
    }
}

#[cfg(test)]
mod tests {
    use super::super::alone::{Alone, deaf};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_for_a_while_is_swept_afterwards() {
        let (chunks, inbox, _folder) = deaf();
        let sweeping = tokio::spawn(keep_sweeping(chunks));
        sleep(PAUSE).await;
        assert!(!sweeping.is_finished(), "it has given up");
        drop(inbox);
        sweeping.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sweep_takes_what_nothing_refers_to_and_nothing_else() {
        let peer = Alone::with(&["indexed"]);
        let indexed = peer.indexed[0];
        let [stray, coming] = ["a stray", "under way"].map(|text| peer.write(text));
        let gone = async |key| {
            while peer.has_file(&key) {
                // Each answer is given after the files offered before it were looked at.
                peer.handle.status().await.unwrap();
            }
        };

        let guard = peer.writes.begin(coming);
        assert_eq!(peer.chunks.sweep().await.unwrap(), 2, "two are not indexed");
        gone(stray).await;
        peer.handle.status().await.unwrap();
        assert!(peer.has_file(&indexed) && peer.has_file(&coming));
        drop(guard);
        assert_eq!(peer.chunks.sweep().await.unwrap(), 1);
        gone(coming).await;
        assert!(peer.has_file(&indexed));
        assert_eq!(peer.chunks.sweep().await.unwrap(), 0);
    }
}
