//! Reading all chunks again from time to time, so that a copy which has rotted is replaced while there are others.
//!
//! Nothing tells of a copy that rots but reading it, and what nobody asks for nobody reads: Bairavasundaram et al. (An
//! Analysis of Data Corruption in the Storage Stack, FAST 2008) found most damage by scrubbing. A round goes through the
//! volume at a limited rate and reads past the system's memory. It begins at a random place, so that rounds which
//! restarts cut short do not always leave out the same chunks.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use peernet_core::key::{Key, SLOTS, Slot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::{ChunkError, Chunks};
use crate::config::CHUNK_SIZE_MIN;

/// From the beginning of a round to that of the next: Ceph's for its deep scrubs (`osd_deep_scrub_interval`).
const PERIOD: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a round waits for a peer that is never quiet, because a chunk is lost for good, say: the others rot all the same
/// (guess).
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// The least that a chunk counts for, bytes: finding, opening and noting take time too, and a million small or well
/// compressed ones would keep a core busy. Guess: a chunk of the least size.
const LEAST: usize = CHUNK_SIZE_MIN as usize;

/// What a round has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Scrubbed {
    /// Chunks that are whole.
    chunks: u64,
    /// Their bytes as they lie on the disk.
    bytes: u64,
    /// Chunks that were missing, could not be read or were not what their name says; they are fetched again.
    bad: u64,
}

/// Reads all chunks once a week, at most so many bytes a second, until the peer stops.
pub(crate) async fn keep_scrubbing(chunks: Arc<Chunks>, rate: NonZeroU64) {
    while !matches!(
        timeout(PATIENCE, chunks.wait_until_quiet()).await,
        Ok(Err(_))
    ) {
        let began = Instant::now();
        match chunks.scrub(fastrand::u16(..SLOTS), rate).await {
            Ok(Scrubbed { chunks, bytes, bad }) => {
                info!(chunks, bytes, bad, "all chunks have been read again");
            }
            Err(error) if error.is_the_end() => return,
            Err(error @ ChunkError::Peer(_)) => {
                warn!("chunks cannot be read again now: {error}");
                // When it is quiet again.
                continue;
            }
            Err(error) => warn!("chunks cannot be read again: {error}"),
        }
        sleep(PERIOD.saturating_sub(began.elapsed())).await;
    }
}

/// How long the next chunk waits after one of so many bytes.
fn cost(bytes: usize, rate: NonZeroU64) -> Duration {
    Duration::from_secs_f64(bytes.max(LEAST) as f64 / rate.get() as f64)
}

impl Chunks {
    /// One round over the slots, beginning with this one. What should be here the index says, not the folders: so a file
    /// that is missing altogether is found as well.
    async fn scrub(&self, first: u16, rate: NonZeroU64) -> Result<Scrubbed, ChunkError> {
        let (mut found, mut free_at) = (Scrubbed::default(), Instant::now());
        let mut slots: Vec<Slot> = Slot::all().collect();
        slots.rotate_left((first % SLOTS).into());
        for slot in slots {
            for key in self.peer.indexed(slot).await? {
                let bytes = self.scrub_one(key, &mut found).await?;
                free_at = free_at.max(Instant::now()) + cost(bytes, rate);
                sleep_until(free_at).await;
            }
        }
        Ok(found)
    }

    /// Returns how many bytes were read.
    async fn scrub_one(&self, key: Key, found: &mut Scrubbed) -> Result<usize, ChunkError> {
        let files = self.files.clone();
        let read = self.on_disk(move || files.read_again(&key)).await?;
        match read.map_err(ChunkError::from) {
            Ok(chunk) => {
                let len = chunk.bytes().len();
                found.chunks += 1;
                found.bytes += len as u64;
                Ok(len)
            }
            // Unless it was removed meanwhile.
            Err(error) => {
                if !error.is_lost() {
                    warn!(%key, "a chunk of this peer could not be checked: {error}");
                }
                found.bad += u64::from(self.note_unreadable(key, &error).await?);
                Ok(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::alone::{Alone, deaf};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_for_a_while_is_scrubbed_afterwards() {
        let (chunks, inbox, _folder) = deaf();
        let scrubbing = tokio::spawn(keep_scrubbing(chunks, NonZeroU64::MAX));
        sleep(PERIOD).await;
        assert!(!scrubbing.is_finished(), "it has given up");
        drop(inbox);
        scrubbing.await.unwrap();
    }

    #[test]
    fn small_chunks_take_their_time() {
        let rate = NonZeroU64::new(LEAST as u64).unwrap();
        assert_eq!(cost(1, rate), Duration::from_secs(1));
        assert_eq!(cost(2 * LEAST, rate), Duration::from_secs(2));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_has_rotted_or_is_gone_is_found_though_nobody_reads_it() {
        let peer = Alone::with(&["one", "two", "three", "four"]);
        let stray = peer.write("what nothing refers to");
        let [one, two, three, four] = peer.indexed[..] else {
            panic!("four are indexed");
        };
        let path = |key| {
            let name = format!("{key}");
            peer.folder
                .path()
                .join("chunks")
                .join(&name[..2])
                .join(name)
        };
        fs::write(path(two), "twO").unwrap();
        fs::remove_file(path(four)).unwrap();

        let found = peer.chunks.scrub(3000, NonZeroU64::MAX).await.unwrap();
        let (chunks, bytes, bad) = (2, 8, 2);
        assert_eq!(found, Scrubbed { chunks, bytes, bad });
        assert_eq!(peer.chunks.scrub(0, NonZeroU64::MAX).await.unwrap().bad, 0);
        let known = peer.handle.holds(vec![one, two, three, four]).await;
        let known = known.unwrap();
        assert_eq!(known, [true, false, true, false], "no longer counted");
        assert!(!peer.has_file(&two) && peer.has_file(&stray));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn so_is_one_that_is_compressed() {
        let lines: &'static str = "the same line again\n".repeat(2000).leak();
        let other: &'static str = "another line again\n".repeat(2000).leak();
        let peer = Alone::compressed(&[lines, other]);
        let [key, rotten] = peer.indexed[..] else {
            panic!("two are indexed");
        };
        let path = |key: Key| {
            let name = format!("{key}.zst");
            let folder = peer.folder.path().join("chunks");
            folder.join(&name[..2]).join(name)
        };
        let mut bytes = fs::read(path(rotten)).unwrap();
        let (whole, middle) = (bytes.len(), bytes.len() / 2);
        bytes[middle] ^= 1;
        fs::write(path(rotten), bytes).unwrap();

        let found = peer.chunks.scrub(0, NonZeroU64::MAX).await.unwrap();
        assert_eq!((found.chunks, found.bad), (1, 1));
        let on_disk = fs::metadata(path(key)).unwrap().len();
        assert_eq!(
            found.bytes, on_disk,
            "what was read, not what it stands for"
        );
        assert!(whole < lines.len() / 10 && !peer.has_file(&rotten));
        let aside = peer.folder.path().join("bad").join(format!("{rotten}.zst"));
        assert!(aside.is_file());
    }
}
