//! How many peers hold each chunk, as the peers themselves say after reading it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, ensure};
use blake3::Hash;
use futures::{StreamExt, TryStreamExt, stream};
use thiserror::Error;

use crate::files::{File, FileSet};
use crate::peer::Peer;

/// Questions under way at once.
const AT_ONCE: usize = 4;

/// Something has fewer copies than it should.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{missing} of {all} {what} have fewer than {wanted} copies; {example} is held by {holders:?}"
)]
pub struct Lacking {
    /// Chunks or names.
    pub what: &'static str,
    /// How many lack copies.
    pub missing: usize,
    /// Of how many.
    pub all: usize,
    /// Copies wanted.
    pub wanted: usize,
    /// One of them.
    pub example: String,
    /// Who has that.
    pub holders: BTreeSet<String>,
}

/// Who holds what.
pub type Holders = BTreeMap<String, BTreeSet<String>>;

/// Who holds the names of files, and their chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copies {
    /// By name.
    pub names: Holders,
    /// By hash.
    pub chunks: Holders,
}

impl Copies {
    /// Checks that the copies of everything lie in at least `wanted` zones, given the zone of each peer.
    ///
    /// # Errors
    /// See [`Lacking`]; holders are zones then.
    pub fn lie_in_zones(
        &self,
        zones: &BTreeMap<String, String>,
        wanted: usize,
    ) -> Result<(), Lacking> {
        let all = zones.values().cloned().collect();
        let zones_of = |holders: &Holders| {
            let zones_of =
                |by: &BTreeSet<String>| by.iter().filter_map(|p| zones.get(p).cloned()).collect();
            holders
                .iter()
                .map(|(thing, by)| (thing.clone(), zones_of(by)))
                .collect::<Holders>()
        };
        lacking("names by zone", &zones_of(&self.names), &all, wanted)?;
        lacking("chunks by zone", &zones_of(&self.chunks), &all, wanted)
    }
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies: usize = self.chunks.values().map(BTreeSet::len).sum();
        let (names, chunks) = (self.names.len(), self.chunks.len());
        write!(f, "{names} names and {chunks} chunks with {copies} copies")
    }
}

/// Checks that each thing is held by at least `wanted` of the peers `among`.
///
/// # Errors
/// See [`Lacking`].
pub fn lacking(
    what: &'static str,
    holders: &Holders,
    among: &BTreeSet<String>,
    wanted: usize,
) -> Result<(), Lacking> {
    let counted = holders.iter().map(|(thing, by)| (thing, by & among));
    let mut few = counted.filter(|(_, by)| by.len() < wanted).peekable();
    let Some((example, by)) = few.peek().cloned() else {
        return Ok(());
    };
    let (example, missing) = (example.clone(), few.count());
    Err(Lacking {
        what,
        missing,
        all: holders.len(),
        wanted,
        example,
        holders: by,
    })
}

/// Checks that the names of all files and all their chunks have at least `wanted` copies among `peers`. Each peer is
/// asked to read back every chunk; nobody's word about another is taken for it. Also checks that the chunks are those
/// that the content has, by hash.
///
/// # Errors
/// Something lacks copies, is not what it should be, or a peer does not answer.
pub async fn check(
    network_id: &str,
    files: &FileSet,
    peers: &[Peer],
    wanted: usize,
) -> Result<Copies> {
    let among: BTreeSet<_> = peers.iter().map(|p| p.name.clone()).collect();
    let explain = |(turn, file): (usize, File)| explain(&peers[turn % peers.len()], file);
    let explained: Vec<_> = stream::iter(files.files.iter().cloned().enumerate().map(explain))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut names = Holders::new();
    let mut hashes = BTreeSet::new();
    for Explained {
        name,
        name_holders,
        chunks,
    } in explained
    {
        names.insert(name, name_holders);
        hashes.extend(chunks.into_iter().map(|hash| *hash.as_bytes()));
    }
    lacking("names", &names, &among, wanted)?;

    let hashes: Vec<Hash> = hashes.into_iter().map(Hash::from_bytes).collect();
    let mut chunks: Holders = hashes
        .iter()
        .map(|hash| (hash.to_string(), BTreeSet::new()))
        .collect();
    let holds = |peer: &Peer| {
        let (peer, hashes) = (peer.clone(), &hashes);
        async move {
            let held = peer.holds(network_id, hashes).await?;
            anyhow::Ok((peer.name, held))
        }
    };
    let held: Vec<_> = stream::iter(peers.iter().map(holds))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    for (peer, held) in held {
        for (hash, _) in hashes.iter().zip(held).filter(|(_, held)| *held) {
            chunks
                .entry(hash.to_string())
                .or_default()
                .insert(peer.clone());
        }
    }
    lacking("chunks", &chunks, &among, wanted)?;
    Ok(Copies { names, chunks })
}

struct Explained {
    name: String,
    name_holders: BTreeSet<String>,
    chunks: Vec<Hash>,
}

async fn explain(peer: &Peer, file: File) -> Result<Explained> {
    let File { name, content } = file;
    let answer = peer.explain(&name).await?;
    let hashes = answer
        .chunks
        .iter()
        .map(|chunk| Hash::from_hex(&chunk.hash));
    let mut chunks: Vec<_> = hashes
        .collect::<Result<_, _>>()
        .with_context(|| format!("{name}: a hash is not in hex"))?;
    // None when the bytes are in the name's own record.
    if let Some(size) = answer.chunks.iter().map(|c| c.length.into()).max() {
        let hash = move || content.piece_hashes(size);
        let mut wanted = tokio::task::spawn_blocking(hash).await?;
        wanted.sort_unstable_by_key(|hash| *hash.as_bytes());
        chunks.sort_unstable_by_key(|hash| *hash.as_bytes());
        ensure!(
            wanted == chunks,
            "{name} is explained with chunks of other content"
        );
    }
    Ok(Explained {
        name,
        name_holders: answer.name_holders.into_iter().collect(),
        chunks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn too_few_copies_are_noticed() {
        let mut holders = Holders::from([("x".into(), set(&["a", "b", "c"]))]);
        assert_eq!(
            lacking("chunks", &holders, &set(&["a", "b", "c", "d"]), 3),
            Ok(())
        );
        let gone = lacking("chunks", &holders, &set(&["a", "b", "d"]), 3).unwrap_err();
        assert_eq!((gone.missing, gone.holders), (1, set(&["a", "b"])));
        holders.insert("y".into(), BTreeSet::new());
        assert_eq!(
            lacking("chunks", &holders, &set(&["a", "b", "c"]), 3)
                .unwrap_err()
                .example,
            "y"
        );
    }

    #[test]
    fn copies_in_too_few_zones_are_noticed() {
        let zones = [("a", "1"), ("b", "2"), ("c", "1"), ("d", "3")];
        let zones = zones.map(|(peer, zone)| (peer.into(), zone.into())).into();
        let held_by = |peers: &[&str]| Copies {
            names: Holders::from([("file".into(), set(&["a", "b", "d"]))]),
            chunks: Holders::from([("x".into(), set(peers))]),
        };
        assert_eq!(held_by(&["a", "b", "d"]).lie_in_zones(&zones, 3), Ok(()));
        let two = held_by(&["a", "b", "c"]).lie_in_zones(&zones, 3);
        assert_eq!(two.unwrap_err().holders, set(&["1", "2"]));
    }
}
