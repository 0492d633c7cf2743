//! The tree of a file's chunks: built while the file streams in, walked while it streams out.
//!
//! The root lives in the name's record and holds at most [`ROOT_REFS`] references, so that it fits a register of
//! 64 KiB. A longer file's references go into nodes of up to [`NODE_REFS`], which are stored as chunks themselves, level
//! by level: with chunks of 1 MiB one level reaches 4 TiB. Both types are pure; whoever drives them moves the chunks.

use std::mem;
use std::ops::Range;

use bytes::Bytes;
use peernet_core::key::Key;
use peernet_proto::v1;
use prost::Message;

use super::record::RecordError;
use crate::config::CHUNK_SIZE_MAX;

/// References in a root: 43 bytes each make 44 KiB.
pub(crate) const ROOT_REFS: usize = 1024;
/// References in a node: 176 KiB.
pub(crate) const NODE_REFS: usize = 4096;
/// Levels of nodes under a root; two reach 16 EiB with chunks of 1 MiB.
const DEPTH_MAX: u32 = 3;

/// Reference to a chunk, or to a node and all below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkRef {
    /// Hash of the chunk.
    pub(crate) key: Key,
    /// Bytes of the file below this reference; for a leaf the chunk's length.
    pub(crate) len: u64,
}

impl ChunkRef {
    /// A leaf's key and length; no chunk is longer than a `u32` tells.
    pub(crate) fn pair(self) -> (Key, u32) {
        (self.key, self.len as u32)
    }
}

/// Root of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    /// Length of each chunk but the last.
    pub(crate) chunk_size: u32,
    /// Levels of nodes between root and chunks.
    pub(crate) depth: u32,
    /// In order of the file.
    pub(crate) refs: Vec<ChunkRef>,
}

impl Manifest {
    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        self.refs.iter().map(|r| r.len).sum()
    }

    pub(crate) fn to_wire(&self) -> v1::Manifest {
        v1::Manifest {
            chunk_size: self.chunk_size,
            depth: self.depth,
            refs: refs_to_wire(&self.refs),
        }
    }

    pub(crate) fn from_wire(wire: v1::Manifest) -> Result<Self, RecordError> {
        let v1::Manifest {
            chunk_size,
            depth,
            refs,
        } = wire;
        if depth > DEPTH_MAX {
            return Err(RecordError::Depth(depth));
        }
        Ok(Manifest {
            chunk_size,
            depth,
            refs: refs_from_wire(refs, ROOT_REFS)?,
        })
    }
}

fn refs_to_wire(refs: &[ChunkRef]) -> Vec<v1::ChunkRef> {
    let wire = |r: &ChunkRef| v1::ChunkRef {
        hash: Bytes::copy_from_slice(&r.key.0),
        length: r.len,
    };
    refs.iter().map(wire).collect()
}

fn refs_from_wire(refs: Vec<v1::ChunkRef>, limit: usize) -> Result<Vec<ChunkRef>, RecordError> {
    if refs.is_empty() || refs.len() > limit {
        return Err(RecordError::Refs(refs.len()));
    }
    // Bounded so that sums of lengths cannot overflow, whatever the bytes say.
    let parse = |r: v1::ChunkRef| {
        let key = <[u8; 32]>::try_from(&r.hash[..])
            .map(Key)
            .map_err(|_| RecordError::Hash)?;
        let sound = r.length > 0 && r.length < 1 << 48;
        sound
            .then_some(ChunkRef { key, len: r.length })
            .ok_or(RecordError::Length(r.length))
    };
    refs.into_iter().map(parse).collect()
}

fn encode_node(refs: &[ChunkRef]) -> Bytes {
    v1::ManifestNode {
        refs: refs_to_wire(refs),
    }
    .encode_to_vec()
    .into()
}

/// Builds a tree from its chunks, in order; holds at most one node per level.
#[derive(Debug)]
pub(crate) struct TreeBuilder {
    chunk_size: u32,
    levels: Vec<Vec<ChunkRef>>,
}

impl TreeBuilder {
    pub(crate) fn new(chunk_size: u32) -> Self {
        TreeBuilder {
            chunk_size,
            levels: vec![Vec::new()],
        }
    }

    /// Appends a chunk. The nodes that became full are appended to `nodes`, to be stored as chunks.
    pub(crate) fn push(&mut self, chunk: ChunkRef, nodes: &mut Vec<Bytes>) {
        self.push_at(0, chunk, nodes);
    }

    /// The root, once all `nodes` are durable.
    pub(crate) fn finish(mut self, nodes: &mut Vec<Bytes>) -> Manifest {
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.levels.len();
            if is_top && self.levels[level].len() <= ROOT_REFS {
                let refs = mem::take(&mut self.levels[level]);
                return Manifest {
                    chunk_size: self.chunk_size,
                    depth: level as u32,
                    refs,
                };
            }
            if !self.levels[level].is_empty() {
                self.close(level, nodes);
            }
            level += 1;
        }
    }

    fn push_at(&mut self, level: usize, item: ChunkRef, nodes: &mut Vec<Bytes>) {
        // A full level is closed only when more follows, so that a root never has a single node for nothing.
        if self.levels[level].len() == NODE_REFS {
            self.close(level, nodes);
        }
        self.levels[level].push(item);
    }

    fn close(&mut self, level: usize, nodes: &mut Vec<Bytes>) {
        let refs = mem::take(&mut self.levels[level]);
        let node = encode_node(&refs);
        let item = ChunkRef {
            key: Key::of_bytes(&node),
            len: refs.iter().map(|r| r.len).sum(),
        };
        nodes.push(node);
        if level + 1 == self.levels.len() {
            self.levels.push(Vec::new());
        }
        self.push_at(level + 1, item, nodes);
    }
}

/// What a [`Walk`] needs or has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Read this node and [`Walk::enter`] it.
    Node(ChunkRef),
    /// The next bytes wanted are these of this chunk.
    Piece(ChunkRef, Range<usize>),
}

/// Visits the chunks that hold a range of a file's bytes, in order, and only the nodes above them.
#[derive(Debug)]
pub(crate) struct Walk {
    range: Range<u64>,
    offset: u64,
    /// References not yet visited, the next one last, each with the levels below it.
    stack: Vec<(u32, ChunkRef)>,
}

impl Walk {
    /// Visits the bytes of `range`.
    pub(crate) fn new(manifest: &Manifest, range: Range<u64>) -> Self {
        let stack = manifest
            .refs
            .iter()
            .rev()
            .map(|r| (manifest.depth, *r))
            .collect();
        Walk {
            range,
            offset: 0,
            stack,
        }
    }

    /// The next step; `None` at the end of the range. A [`Step::Node`] is repeated until it was entered.
    pub(crate) fn step(&mut self) -> Result<Option<Step>, RecordError> {
        while let Some((depth, item)) = self.stack.last().copied() {
            if self.range.is_empty() || self.offset >= self.range.end {
                return Ok(None);
            }
            let end = self.offset + item.len;
            let wanted = end > self.range.start;
            if wanted && depth > 0 {
                return Ok(Some(Step::Node(item)));
            }
            self.stack.pop();
            let start = mem::replace(&mut self.offset, end);
            if !wanted {
                continue;
            }
            if item.len > u64::from(CHUNK_SIZE_MAX) {
                return Err(RecordError::Length(item.len));
            }
            let from = self.range.start.saturating_sub(start);
            let to = item.len.min(self.range.end - start);
            return Ok(Some(Step::Piece(item, from as usize..to as usize)));
        }
        Ok(None)
    }

    /// Puts the references of the node just asked for in its place.
    pub(crate) fn enter(&mut self, node: Bytes) -> Result<(), RecordError> {
        let wire = v1::ManifestNode::decode(node).map_err(|_| RecordError::Encoding)?;
        let refs = refs_from_wire(wire.refs, NODE_REFS)?;
        let (depth, item) = self.stack.pop().ok_or(RecordError::Encoding)?;
        let sum: u64 = refs.iter().map(|r| r.len).sum();
        if depth == 0 || sum != item.len {
            return Err(RecordError::Length(item.len));
        }
        self.stack
            .extend(refs.iter().rev().map(|r| (depth - 1, *r)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const SIZE: u32 = 1000;

    fn leaf(n: usize, len: u64) -> ChunkRef {
        ChunkRef {
            key: Key::of_bytes(&n.to_be_bytes()),
            len,
        }
    }

    fn build(chunks: usize) -> (Manifest, HashMap<Key, Bytes>) {
        let mut nodes = Vec::new();
        let mut tree = TreeBuilder::new(SIZE);
        for n in 0..chunks {
            tree.push(
                leaf(n, if n + 1 == chunks { 7 } else { u64::from(SIZE) }),
                &mut nodes,
            );
        }
        let manifest = tree.finish(&mut nodes);
        (
            manifest,
            nodes.into_iter().map(|n| (Key::of_bytes(&n), n)).collect(),
        )
    }

    fn walk(
        manifest: &Manifest,
        nodes: &HashMap<Key, Bytes>,
        range: Range<u64>,
    ) -> (Vec<(ChunkRef, Range<usize>)>, usize) {
        let (mut walk, mut pieces, mut entered) = (Walk::new(manifest, range), Vec::new(), 0);
        while let Some(step) = walk.step().unwrap() {
            match step {
                Step::Node(node) => {
                    walk.enter(nodes[&node.key].clone()).unwrap();
                    entered += 1;
                }
                Step::Piece(chunk, range) => pieces.push((chunk, range)),
            }
        }
        (pieces, entered)
    }

    #[test]
    fn all_chunks_come_back_in_order_at_every_edge_of_the_tree() {
        for chunks in [1, 2, 1024, 1025, 4096, 4097, 8192, 10_000] {
            let (manifest, nodes) = build(chunks);
            assert!(manifest.refs.len() <= ROOT_REFS);
            assert_eq!(manifest.depth, u32::from(chunks > ROOT_REFS), "{chunks}");
            assert_eq!(
                nodes.len(),
                if chunks > ROOT_REFS {
                    chunks.div_ceil(NODE_REFS)
                } else {
                    0
                }
            );
            assert_eq!(manifest.size(), (chunks as u64 - 1) * u64::from(SIZE) + 7);
            let (pieces, _) = walk(&manifest, &nodes, 0..manifest.size());
            assert_eq!(pieces.len(), chunks);
            for (n, (chunk, range)) in pieces.into_iter().enumerate() {
                assert_eq!(chunk.key, leaf(n, 0).key);
                assert_eq!(range, 0..chunk.len as usize);
            }
        }
    }

    #[test]
    fn a_tebibyte_fits_and_the_root_fits_a_register() {
        let mut tree = TreeBuilder::new(1 << 20);
        let mut nodes = Vec::new();
        for _ in 0..1 << 20 {
            tree.push(leaf(0, 1 << 20), &mut nodes);
        }
        let manifest = tree.finish(&mut nodes);
        assert_eq!(
            (manifest.depth, manifest.refs.len(), nodes.len()),
            (1, 256, 256)
        );
        assert!(nodes.iter().all(|n| n.len() <= CHUNK_SIZE_MAX as usize));
        let refs = (0..ROOT_REFS).map(|n| leaf(n, (1 << 48) - 1)).collect();
        let largest = Manifest {
            chunk_size: u32::MAX,
            depth: DEPTH_MAX,
            refs,
        };
        let len = largest.to_wire().encoded_len();
        assert!(
            len < peernet_core::register::REGISTER_MAX - peernet_core::register::HEAD_MAX,
            "{len}"
        );
    }

    #[test]
    fn a_range_visits_only_what_it_needs() {
        let (manifest, nodes) = build(10_000);
        let (pieces, entered) = walk(&manifest, &nodes, 4_097_500..4_099_001);
        assert_eq!(entered, 1);
        let ranges: Vec<_> = pieces.iter().map(|(_, r)| r.clone()).collect();
        assert_eq!(ranges, [500..1000, 0..1000, 0..1]);
        assert_eq!(pieces[0].0.key, leaf(4097, 0).key);
        assert_eq!(walk(&manifest, &nodes, 5..5).0, []);
    }

    #[test]
    fn a_node_that_lies_is_refused() {
        let (manifest, _) = build(5000);
        let mut walk = Walk::new(&manifest, 0..10);
        assert!(matches!(walk.step(), Ok(Some(Step::Node(_)))));
        assert!(walk.enter(encode_node(&[leaf(0, 5)])).is_err());
        assert!(walk.enter(Bytes::from_static(b"\xff\xff")).is_err());
        let mut wire = manifest.to_wire();
        wire.depth = 9;
        assert_eq!(Manifest::from_wire(wire), Err(RecordError::Depth(9)));
    }
}
