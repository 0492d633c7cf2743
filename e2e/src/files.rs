//! A set of files to put, and to get back bit for bit.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};

use crate::client::{self, Protocol, Received, TransferError};
use crate::content::Content;
use crate::peer::Peer;

/// One binary megabyte.
pub const MIB: u64 = 1024 * 1024;

/// Transfers under way at once: enough to keep two cores busy.
const AT_ONCE: usize = 6;
/// How long one file is tried again; joins, leaves and crashes pass well within it.
const PERSISTENCE: Duration = Duration::from_secs(120);
/// Before the next attempt, at another peer.
const PAUSE: Duration = Duration::from_millis(200);

/// A name and what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Unique in its set.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// Files that are put once and stay.
#[derive(Clone, Debug)]
pub struct FileSet {
    /// In order of their names.
    pub files: Vec<File>,
}

impl FileSet {
    /// 224 files between 1 byte and 64 MiB, about 1 GiB in all: sizes at which something changes (a byte, a record, a
    /// chunk, and one to either side), four of the largest, and the rest spread evenly over the orders of magnitude.
    pub fn full(seed: u64) -> Self {
        let mut sizes = vec![1, 2, 3, 64 * MIB, 64 * MIB, 64 * MIB, 64 * MIB];
        for edge in [32 * 1024, 64 * 1024, MIB, 2 * MIB, 16 * MIB] {
            sizes.extend([edge - 1, edge, edge + 1]);
        }
        sizes.extend(spread(202, 64 * MIB));
        FileSet::of_sizes("full", seed, sizes)
    }

    /// So many files between 1 byte and `largest`, spread evenly over the orders of magnitude.
    pub fn small(prefix: &str, seed: u64, count: u32, largest: u64) -> Self {
        FileSet::of_sizes(prefix, seed, spread(count, largest).collect())
    }

    fn of_sizes(prefix: &str, seed: u64, sizes: Vec<u64>) -> Self {
        let file = |(number, len): (usize, u64)| File {
            name: format!("{prefix}/{number:04}-{len}.bin"),
            content: Content {
                seed: seed.wrapping_mul(1 << 20).wrapping_add(number as u64),
                len,
            },
        };
        FileSet {
            files: sizes.into_iter().enumerate().map(file).collect(),
        }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.content.len).sum()
    }

    /// Puts all files, each through another peer and every other one over REST.
    ///
    /// # Errors
    /// A file is refused, or was not acknowledged after two minutes of attempts.
    pub async fn put(&self, peers: impl Fn() -> Vec<Peer>) -> Result<()> {
        let peers = &peers;
        let put = |(turn, file): (usize, File)| async move {
            persist(turn, peers, async |peer: Peer, protocol| {
                client::put(&peer, protocol, &file.name, file.content).await
            })
            .await
            .with_context(|| format!("put {}", file.name))
        };
        self.each(put).await
    }

    /// Gets all files back and compares every byte (by BLAKE3), each through a peer other than it was put through, and
    /// over the other protocol.
    ///
    /// # Errors
    /// A file differs, is gone, or could not be read after two minutes of attempts.
    pub async fn verify(&self, peers: impl Fn() -> Vec<Peer>) -> Result<()> {
        let peers = &peers;
        let get = |(turn, file): (usize, File)| async move {
            let received = persist(turn + 1, peers, async |peer: Peer, protocol| {
                client::get(&peer, protocol, &file.name).await
            });
            let received = received
                .await
                .with_context(|| format!("get {}", file.name))?;
            let wanted = tokio::task::spawn_blocking(move || file.content.hash()).await?;
            let wanted = Received {
                hash: wanted,
                len: file.content.len,
            };
            ensure!(
                received == wanted,
                "{} came back as {received:?}, not {wanted:?}",
                file.name
            );
            Ok(())
        };
        self.each(get).await
    }

    /// Checks that a listing names each of them with its size, and nothing else.
    ///
    /// # Errors
    /// It does not.
    pub async fn listed(&self, peer: &Peer, prefix: &str) -> Result<()> {
        let listing = peer.list(prefix).await?;
        let found: BTreeMap<_, _> = listing.iter().map(|f| (&f.name, f.size)).collect();
        let wanted: BTreeMap<_, _> = self
            .files
            .iter()
            .map(|f| (&f.name, f.content.len))
            .collect();
        ensure!(
            found == wanted,
            "{} lists {found:?} instead of {wanted:?}",
            peer.name
        );
        ensure!(
            listing.is_sorted_by(|a, b| a.name < b.name),
            "{} lists out of order",
            peer.name
        );
        Ok(())
    }

    async fn each<F: Future<Output = Result<()>>>(
        &self,
        work: impl Fn((usize, File)) -> F,
    ) -> Result<()> {
        let files = self.files.clone().into_iter().enumerate();
        stream::iter(files.map(work))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}

/// Puts one file through this peer: on a slow disk, not every attempt is in time.
///
/// # Errors
/// As [`persist`].
pub async fn put_at(peer: &Peer, protocol: Protocol, name: &str, content: Content) -> Result<()> {
    let put = async |peer: Peer, _| client::put(&peer, protocol, name, content).await;
    persist(0, || vec![peer.clone()], put).await
}

/// Tries peer after peer and protocol after protocol until an attempt succeeds or cannot.
///
/// # Errors
/// One that no other attempt can mend, or the last one's after two minutes.
pub async fn persist<T>(
    mut turn: usize,
    peers: impl Fn() -> Vec<Peer>,
    mut attempt: impl AsyncFnMut(Peer, Protocol) -> Result<T, TransferError>,
) -> Result<T> {
    let deadline = Instant::now() + PERSISTENCE;
    loop {
        let peers = peers();
        let failure = match peers.get(turn % peers.len().max(1)) {
            None => anyhow!("no peer is ready"),
            // Not by `turn` alone, which would tie each of an even number of peers to one protocol.
            Some(peer) => {
                match attempt(peer.clone(), Protocol::of(turn + turn / peers.len())).await {
                    Ok(value) => return Ok(value),
                    Err(error) => {
                        let retryable = error.is_retryable();
                        let error = anyhow!(error).context(peer.name.clone());
                        if !retryable {
                            return Err(error);
                        }
                        error
                    }
                }
            }
        };
        if Instant::now() >= deadline {
            return Err(failure);
        }
        turn += 1;
        sleep(PAUSE).await;
    }
}

/// Sizes whose logarithms are evenly spaced.
fn spread(count: u32, largest: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| {
        let exponent = (f64::from(n) + 0.5) / f64::from(count);
        (largest as f64).powf(exponent) as u64
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_full_set_is_what_the_tests_promise() {
        let set = FileSet::full(1);
        assert!(set.files.len() >= 200);
        let sizes: Vec<_> = set.files.iter().map(|f| f.content.len).collect();
        assert_eq!(sizes.iter().min(), Some(&1));
        assert_eq!(sizes.iter().max(), Some(&(64 * MIB)));
        let total = set.bytes() as f64 / (1024.0 * MIB as f64);
        assert!((0.95..1.1).contains(&total), "{total} GiB");
    }

    #[test]
    fn no_two_files_share_a_name_or_content() {
        let set = FileSet::full(7);
        let names: BTreeSet<_> = set.files.iter().map(|f| &f.name).collect();
        let seeds: BTreeSet<_> = set.files.iter().map(|f| f.content.seed).collect();
        assert_eq!(
            (names.len(), seeds.len()),
            (set.files.len(), set.files.len())
        );
    }
}
