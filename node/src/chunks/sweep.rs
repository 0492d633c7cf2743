//! Giving back the space of chunk files that nothing refers to: what a departed life of this volume left as a cache,
//! and what a crash left between writing a file and indexing it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{ChunkError, Chunks};

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
            Err(ChunkError::Peer(_)) => return,
            Err(error) => warn!("unused chunks cannot be looked for: {error}"),
        }
        sleep(PAUSE).await;
    }
}

impl Chunks {
    /// Returns when this peer had everything it should hold, and nothing was moving, for [`QUIET`].
    async fn wait_until_quiet(&self) -> Result<(), ChunkError> {
        let mut quiet = Duration::ZERO;
        while quiet < QUIET {
            sleep(LOOK).await;
            let status = self.peer.status().await?;
            let settled = status.ready
                && status.slots_behind == 0
                && status.slots_moving == 0
                && status.chunks_missing == 0;
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
    use std::time::Instant;

    use bytes::Bytes;
    use peernet_core::boot::{Assignment, boot};
    use peernet_core::config::Settings;
    use peernet_core::io::Time;
    use peernet_core::key::{Key, Position};
    use peernet_core::member::PeerId;
    use peernet_core::peer::Peer;
    use peernet_core::store::Store;
    use tokio::runtime::Handle;

    use super::*;
    use crate::chunks::fetch::Fetcher;
    use crate::chunks::writes::Writes;
    use crate::disk::{self, Chunk, ChunkFiles, Purpose};
    use crate::driver::{self, Effects};
    use crate::faults::Faults;
    use crate::transport::Transport;

    const NETWORK: &str = "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10";

    fn write(files: &ChunkFiles, text: &'static str) -> Key {
        let chunk = Chunk::new(Bytes::from_static(text.as_bytes()));
        files.write(&chunk, Purpose::Client).unwrap();
        chunk.key()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sweep_takes_what_nothing_refers_to_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, files) = disk::open(folder.path(), 0).unwrap();
        let [indexed, stray, coming] =
            ["indexed", "a stray", "under way"].map(|text| write(&files, text));
        store.put_chunk(&indexed, 7).unwrap();
        store.commit().unwrap();
        let told = Assignment {
            network: NETWORK.into(),
            name: "p-0".into(),
            address: "127.0.0.1:1".into(),
            http: "127.0.0.1:2".into(),
            zone: "a".into(),
            position: Position(0),
            version: String::new(),
        };
        let identity = boot(&mut store, told, PeerId(1)).unwrap();
        let settings = Settings::default();
        let peer = Peer::start(store, identity, true, settings, 1, Time(0)).unwrap();
        let (handle, inbox) = driver::channel();
        let (files, writes, runtime) = (Arc::new(files), Writes::default(), Handle::current());
        let (network, me) = (NETWORK.to_owned(), PeerId(1));
        let chunks = Chunks::new(
            network.clone(),
            me,
            files.clone(),
            handle.clone(),
            writes.clone(),
        );
        let chunks = Arc::new(chunks);
        let effects = Effects {
            transport: Transport::new(network, me, runtime.clone(), Faults::default().messages),
            fetcher: Fetcher::new(chunks.clone(), runtime),
            files: files.clone(),
            writes: writes.clone(),
        };
        let _thread = driver::spawn(peer, Instant::now(), inbox, effects).unwrap();
        let there = |key: &Key| files.len(key).unwrap().is_some();
        let gone = async |key: &Key| {
            while there(key) {
                // Each answer is given after the files offered before it were looked at.
                handle.status().await.unwrap();
            }
        };

        let guard = writes.begin(coming);
        assert_eq!(chunks.sweep().await.unwrap(), 2, "two are not indexed");
        gone(&stray).await;
        handle.status().await.unwrap();
        assert!(there(&indexed) && there(&coming));
        drop(guard);
        assert_eq!(chunks.sweep().await.unwrap(), 1);
        gone(&coming).await;
        assert!(there(&indexed));
        assert_eq!(chunks.sweep().await.unwrap(), 0);
    }
}
