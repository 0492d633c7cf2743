//! Who holds what of a file, asked of the peers themselves.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures::future::join_all;
use peernet_core::io::Route;
use peernet_core::key::{Key, Name};
use peernet_core::member::{Liveness, Member};
use peernet_proto::v1;
use tracing::debug;

use super::manifest::{ChunkRef, Step, Walk};
use super::record::Content;
use super::{FileError, Files};

/// Most chunks one answer lists: with names of usual length it stays well below 16 MiB.
const CHUNKS_MAX: u64 = 50_000;
/// Chunks asked for in one request: 32 bytes each.
const BATCH: usize = 4096;

/// Names of the peers that hold a chunk, and when each copy was last verified, in milliseconds since 1970.
type Copies = (Vec<String>, Vec<u64>);

impl Files {
    /// Lists the holders of the name and of each chunk, nodes of the manifest included, and when each copy was last verified. A
    /// peer that does not answer is not listed.
    pub(crate) async fn explain(&self, name: &Name) -> Result<v1::ExplainResponse, FileError> {
        let (summary, content) = self.read(name).await?;
        if summary.chunks > CHUNKS_MAX {
            return Err(FileError::TooManyChunks(summary.chunks));
        }
        let chunks = self.all_chunks(name, &content).await?;
        let members = self.peer.members().await?;
        let slot = Key::of_name(name).slot();
        let route = self.peer.route(slot).await?;
        let path = self.path(&route, &members);
        let participants = route.config.map(|c| c.participants()).unwrap_or_default();
        let named = members
            .iter()
            .filter(|m| participants.contains(&m.id))
            .map(|m| m.name.clone());
        let mut holders = self.ask_all(&chunks, &members).await;
        let chunks = chunks.into_iter().map(|(key, length)| {
            let (holders, verified_unix_ms) = holders.remove(&key).unwrap_or_default();
            v1::ChunkHolders {
                hash: key.to_string(),
                length,
                slot: key.slot().number().into(),
                holders,
                verified_unix_ms,
            }
        });
        let mut explained = v1::ExplainResponse {
            file: Some(summary.to_info(name)),
            name_slot: slot.number().into(),
            name_holders: named.collect(),
            chunks: chunks.collect(),
            path,
            zones: HashMap::new(),
        };
        explained.zones = zones(&explained, &members);
        Ok(explained)
    }

    /// From this peer to the nearest holder of a slot that is thought alive. Everybody knows who holds what, so this is all of
    /// the way.
    fn path(&self, route: &Route, members: &[Member]) -> Vec<String> {
        let me = self.chunks.me();
        let here = members.iter().find(|m| m.id == me);
        let nearest = route.holders.iter().find(|h| h.up);
        let there = nearest.filter(|holder| holder.id != me);
        let names = here.map(|m| &m.name).into_iter();
        names.chain(there.map(|h| &h.name)).cloned().collect()
    }

    /// Every chunk of the file once, with its length, in the order of the file.
    pub(super) async fn all_chunks(
        &self,
        name: &Name,
        content: &Content,
    ) -> Result<Vec<(Key, u32)>, FileError> {
        let Content::Chunks(manifest) = content else {
            return Ok(Vec::new());
        };
        let record = |reason| FileError::Record {
            name: name.clone(),
            reason,
        };
        let mut walk = Walk::new(manifest, 0..manifest.size());
        let mut chunks = Vec::new();
        while let Some(step) = walk.step().map_err(record)? {
            match step {
                Step::Piece(ChunkRef { key, len }, _) => chunks.push((key, len as u32)),
                Step::Node(node) => {
                    let data: Bytes = self.fetch(node.key).await?.into_data();
                    chunks.push((node.key, data.len() as u32));
                    walk.enter(data).map_err(record)?;
                }
            }
        }
        // The same bytes may occur several times in one file.
        let mut seen = HashSet::new();
        chunks.retain(|(key, _)| seen.insert(*key));
        Ok(chunks)
    }

    async fn ask_all(&self, chunks: &[(Key, u32)], members: &[Member]) -> HashMap<Key, Copies> {
        let mut holders: HashMap<Key, Copies> = HashMap::new();
        let there = members
            .iter()
            .filter(|m| m.liveness != Liveness::Down && !m.is_gone());
        let answers =
            join_all(there.map(async |member| (member, self.ask(chunks, member).await))).await;
        for (member, held) in answers {
            for (key, verified) in held {
                let (names, times) = holders.entry(key).or_default();
                names.push(member.name.clone());
                times.push(verified);
            }
        }
        holders
    }

    async fn ask(&self, chunks: &[(Key, u32)], member: &Member) -> Vec<(Key, u64)> {
        let mut found = Vec::new();
        for batch in chunks.chunks(BATCH) {
            let keys: Vec<Key> = batch.iter().map(|(key, _)| *key).collect();
            match self
                .chunks
                .verified(member.id, &member.address, keys.clone())
                .await
            {
                Ok(held) => found.extend(
                    keys.into_iter()
                        .zip(held)
                        .filter_map(|(key, verified)| Some((key, verified?))),
                ),
                Err(error) => {
                    debug!(peer = member.name, "does not say what it holds: {error}");
                    break;
                }
            }
        }
        found
    }
}

/// Where the peers stand that are named in an answer.
fn zones(explained: &v1::ExplainResponse, members: &[Member]) -> HashMap<String, String> {
    let holders = explained.chunks.iter().flat_map(|c| &c.holders);
    let named: HashSet<&String> = (explained.path.iter())
        .chain(&explained.name_holders)
        .chain(holders)
        .collect();
    let members = members.iter().filter(|m| named.contains(&m.name));
    members.map(|m| (m.name.clone(), m.zone.clone())).collect()
}
