//! How long it takes until files go in and out again after a fault: clients at peers that were not hit ask for the same
//! files again and again, and note when each was served for the first time.
//!
//! What they do is written down with everything else, so the history's judge sees it too.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{self, Protocol, Received, TransferError};
use crate::content::Content;
use crate::history::Recorder;
use crate::peer::Peer;

/// Files asked for. With three copies on six peers a file has none on a given peer in one of two cases, so about half of
/// them notice a fault.
const NAMES: u64 = 32;
/// Longest that one attempt may take before another peer is asked; a healthy one takes milliseconds.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Between two attempts at one file.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest that anything may be out of reach.
const LIMIT: Duration = Duration::from_secs(180);
/// Bytes of each file: in a chunk of its own, so that a write needs chunks and a name.
const LEN: u64 = 70_000;

/// How long files were out of reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Back {
    /// Until each file had been read.
    pub reads: Duration,
    /// Until each file had been overwritten.
    pub writes: Duration,
}

/// The files, and clients for them.
#[derive(Clone)]
pub struct Probes {
    recorder: Recorder,
    /// Makes contents that no other client makes.
    next: Arc<AtomicU64>,
}

impl Probes {
    /// Puts the files.
    ///
    /// # Errors
    /// They cannot be put.
    pub async fn put(recorder: Recorder, seed: u64, peers: impl Fn() -> Vec<Peer>) -> Result<Self> {
        let next = Arc::new(AtomicU64::new(seed << 32));
        let probes = Probes { recorder, next };
        probes.each(&peers, Wish::Put).await?;
        Ok(probes)
    }

    /// Asks until every file was read, and written, by one of these peers; both at once.
    ///
    /// # Errors
    /// One of them could not be for three minutes.
    pub async fn back(&self, peers: impl Fn() -> Vec<Peer>) -> Result<Back> {
        let (reads, writes) =
            tokio::try_join!(self.each(&peers, Wish::Get), self.each(&peers, Wish::Put))?;
        Ok(Back { reads, writes })
    }

    /// How long it took until the last one was served.
    async fn each(&self, peers: &impl Fn() -> Vec<Peer>, wish: Wish) -> Result<Duration> {
        let begin = Instant::now();
        let files = (0..NAMES).map(|number| self.persist(peers, wish, number, begin));
        futures::future::try_join_all(files).await?;
        Ok(begin.elapsed())
    }

    async fn persist(
        &self,
        peers: &impl Fn() -> Vec<Peer>,
        wish: Wish,
        number: u64,
        begin: Instant,
    ) -> Result<()> {
        let name = format!("probe/{number:02}");
        let mut turn = number as usize;
        loop {
            let peers = peers();
            let failure = match peers.get(turn % peers.len().max(1)) {
                None => anyhow!("no peer is left to be asked"),
                Some(peer) => match timeout(ATTEMPT, self.attempt(wish, &name, peer, turn)).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(error)) => anyhow!(error).context(peer.name.clone()),
                    Err(_) => anyhow!("{}: no answer within {ATTEMPT:?}", peer.name),
                },
            };
            if begin.elapsed() > LIMIT {
                return Err(failure.context(format!("{wish:?} {name}")));
            }
            turn += 1;
            sleep(PAUSE).await;
        }
    }

    async fn attempt(
        &self,
        wish: Wish,
        name: &str,
        peer: &Peer,
        turn: usize,
    ) -> Result<(), TransferError> {
        let protocol = Protocol::of(turn + turn / 2);
        let by = format!("{} {protocol:?}", peer.name);
        match wish {
            Wish::Put => {
                let content = Content {
                    seed: self.next.fetch_add(1, Ordering::Relaxed),
                    len: LEN,
                };
                let value = Received {
                    hash: content.hash(),
                    len: content.len,
                };
                let begun = self.recorder.set(name, &by, Some(value));
                client::put(peer, protocol, name, content).await?;
                begun.acknowledged();
            }
            Wish::Get => {
                let begun = self.recorder.get(name, &by);
                match client::get(peer, protocol, name).await {
                    Ok(received) => begun.returned(Some(received)),
                    // The judge knows that it never was deleted.
                    Err(error) if error.is_not_found() => begun.returned(None),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Put,
    Get,
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Back { reads, writes } = self;
        let (reads, writes) = (reads.as_secs_f64(), writes.as_secs_f64());
        write!(f, "reads after {reads:.2} s, writes after {writes:.2} s")
    }
}
