//! What of a file need not be sent, because the network holds it already: after a put that was broken off, all that it had
//! stored, for an hour. Nothing is remembered here: the peer is asked by the hashes of the file's own chunks, so it
//! does not matter which peer, or which machine, the first part came from.

use std::io;
use std::time::Duration;

use blake3::Hasher;
use peernet_core::key::Key;
use peernet_proto::v1::files_client::FilesClient;
use peernet_proto::v1::{HeldChunks, HeldRequest, HeldResponse, PutRequest};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::PART;
use super::source::Source;

/// After so long without a message the peer hears that more will come. A third of the time after which it gives up a client
/// that says nothing.
const WORD: Duration = Duration::from_secs(10);
/// A file of fewer chunks is simply sent: asking would take as long.
const WORTH: u64 = 8;
/// Chunks that are hashed before they are asked for: 64 MiB of 1 MiB each (guess: half a second of disk).
const PAGE: usize = 64;
/// Most chunks that a peer takes by name; the rest is sent.
const MOST: usize = 262_144;
/// A larger chunk than any network has: this program would hold it in memory.
const CHUNK_MAX: u32 = 16 << 20;

/// The beginning of a file that is held.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    hashes: Vec<[u8; 32]>,
    chunk_size: u32,
}

impl Resumed {
    /// Bytes of the file in it.
    pub(super) fn bytes(&self) -> u64 {
        self.hashes.len() as u64 * u64::from(self.chunk_size)
    }

    /// Whether `source`, as far as it was read, still is this and then what was `sent`. The peer, which gives up clients that
    /// stand still, hears of each piece that was read again.
    pub(super) async fn is_kept(
        &self,
        source: &mut Source,
        sent: &Hasher,
        parts: &mpsc::Sender<PutRequest>,
    ) -> io::Result<bool> {
        source.begin_at(0).await?;
        for hash in &self.hashes {
            let chunk = source.next(self.chunk_size as usize).await?;
            if hash_of(chunk).await? != *hash {
                return Ok(false);
            }
            alive(parts).await;
        }
        let mut now = Hasher::new();
        loop {
            let data = source.next(PART).await?;
            if data.is_empty() {
                return Ok(now.finalize() == sent.finalize());
            }
            now.update(&data);
            alive(parts).await;
        }
    }

    /// As the peer is told.
    pub(super) fn messages(&self) -> impl Iterator<Item = HeldChunks> + Send + use<> {
        let chunk_size = self.chunk_size;
        let pages: Vec<Vec<_>> = self
            .hashes
            .chunks(PAGE * PAGE)
            .map(|page| page.iter().map(|hash| hash.to_vec().into()).collect())
            .collect();
        pages
            .into_iter()
            .map(move |hashes| HeldChunks { hashes, chunk_size })
    }
}

/// How much of the beginning of `source`, which has `size` bytes, is held. A peer that does not say so is sent all of it.
pub(super) async fn find(channel: Channel, source: &mut Source, size: u64) -> io::Result<Resumed> {
    let mut files = FilesClient::new(channel);
    let mut found = Resumed::default();
    let Some(HeldResponse { chunk_size, .. }) = ask(&mut files, &[]).await else {
        return Ok(found);
    };
    if !(1..=CHUNK_MAX).contains(&chunk_size) || size < WORTH * u64::from(chunk_size) {
        return Ok(found);
    }
    found.chunk_size = chunk_size;
    // One first: most files are new.
    let mut page = 1;
    while found.hashes.len() < MOST {
        let mut hashes = Vec::with_capacity(page);
        while hashes.len() < page {
            let chunk = source.next(chunk_size as usize).await?;
            if chunk.len() < chunk_size as usize {
                break;
            }
            hashes.push(hash_of(chunk).await?);
        }
        let asked = hashes.len();
        let answer = ask(&mut files, &hashes).await;
        let held = answer.map_or(0, |answer| answer.held as usize).min(asked);
        found.hashes.extend(&hashes[..held]);
        if held < page {
            break;
        }
        page = PAGE;
    }
    found.hashes.truncate(MOST);
    Ok(found)
}

/// Waits for what may take long, and tells the peer now and then that it still goes on.
pub(super) async fn patiently<T>(
    work: impl Future<Output = T>,
    parts: &mpsc::Sender<PutRequest>,
) -> T {
    tokio::pin!(work);
    loop {
        match timeout(WORD, &mut work).await {
            Ok(done) => return done,
            Err(_) => alive(parts).await,
        }
    }
}

/// A word to the peer that no bytes come with. One that is gone needs none.
async fn alive(parts: &mpsc::Sender<PutRequest>) {
    drop(parts.send(PutRequest { part: None }).await);
}

async fn hash_of(chunk: Vec<u8>) -> io::Result<[u8; 32]> {
    let hash = spawn_blocking(move || Key::of_bytes(&chunk).0).await;
    hash.map_err(io::Error::other)
}

async fn ask(files: &mut FilesClient<Channel>, hashes: &[[u8; 32]]) -> Option<HeldResponse> {
    let hashes = hashes.iter().map(|hash| hash.to_vec().into()).collect();
    let answer = files.held(HeldRequest { hashes }).await;
    answer.ok().map(tonic::Response::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::source::open;
    use super::super::tests::local;
    use super::*;

    #[tokio::test]
    async fn a_file_is_kept_when_what_is_held_of_it_and_what_was_sent_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "aaaabbbbcc").unwrap();
        let mut source = open(&local(path.clone())).await.unwrap();
        let held = Resumed {
            hashes: vec![Key::of_bytes(b"aaaa").0, Key::of_bytes(b"bbbb").0],
            chunk_size: 4,
        };
        let mut sent = Hasher::new();
        sent.update(b"cc");
        for (content, kept) in [
            ("aaaabbbbcc", true),
            ("aaaabbbbcc, appended", true),
            ("aaaaBbbbcc, appended", false),
            ("aaaabbbbcC, appended", false),
            ("aaaa", false),
        ] {
            std::fs::write(&path, content).unwrap();
            let (parts, words) = mpsc::channel(8);
            let found = held.is_kept(&mut source, &sent, &parts).await;
            assert_eq!(found.unwrap(), kept, "{content}");
            assert!(!kept || words.len() == 3, "{content}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_takes_its_time_does_not_end_the_put() {
        let (parts, mut queue) = mpsc::channel(8);
        let slow = async {
            tokio::time::sleep(Duration::from_secs(35)).await;
            7
        };
        assert_eq!(patiently(slow, &parts).await, 7);
        drop(parts);
        let mut words = 0;
        while let Some(word) = queue.recv().await {
            assert_eq!(word.part, None);
            words += 1;
        }
        assert_eq!(words, 3);
    }
}
