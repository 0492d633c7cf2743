//! The Merkle tree of a slot: a root over sixteen leaves, each a hash over the sorted entries whose key has that nibble
//! after the slot's prefix. Equal roots mean equal entries.

use crate::key::{Key, SLOT_BITS};
use crate::message::Root;
use crate::register::WriteId;
use crate::store::Entry;

/// The root over `entries`, which are in ascending order.
pub fn root(entries: &[Entry]) -> Root {
    let mut leaves: [blake3::Hasher; 16] = std::array::from_fn(|_| blake3::Hasher::new());
    for entry in entries {
        match entry {
            Entry::Chunk { key, len } => {
                let leaf = &mut leaves[nibble(key)];
                leaf.update(&[0]).update(&key.0).update(&len.to_be_bytes());
            }
            Entry::Reference { key, len, by } => {
                let leaf = &mut leaves[nibble(key)];
                leaf.update(&[2]).update(&key.0).update(&len.to_be_bytes());
                leaf.update(&Key::of_name(&by.name).0)
                    .update(&by.upload.0.to_be_bytes());
                if let Some(WriteId { peer, op }) = by.base {
                    leaf.update(&peer.0.to_be_bytes()).update(&op.to_be_bytes());
                }
            }
            Entry::Name { key, version } => {
                let leaf = &mut leaves[nibble(key)];
                leaf.update(&[1])
                    .update(&key.0)
                    .update(&version.epoch.to_be_bytes())
                    .update(&version.round.to_be_bytes());
                leaf.update(&version.writer.0.to_be_bytes())
                    .update(&version.op.to_be_bytes());
            }
        }
    }
    let mut top = blake3::Hasher::new();
    for leaf in leaves {
        top.update(leaf.finalize().as_bytes());
    }
    *top.finalize().as_bytes()
}

/// The four bits after the slot's.
fn nibble(key: &Key) -> usize {
    let prefix = u16::from_be_bytes([key.0[0], key.0[1]]);
    usize::from(prefix >> (u16::BITS - SLOT_BITS - 4)) & 0x0f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::PeerId;
    use crate::register::Version;

    #[test]
    fn any_difference_shows() {
        let chunk = |n: u8, len| Entry::Chunk {
            key: Key([n; 32]),
            len,
        };
        let name = |epoch| Entry::Name {
            key: Key([1; 32]),
            version: Version {
                epoch,
                round: 0,
                writer: PeerId(1),
                op: 1,
            },
        };
        let base = root(&[chunk(1, 5), name(1)]);
        assert_eq!(base, root(&[chunk(1, 5), name(1)]));
        for other in [
            &[chunk(1, 5)][..],
            &[chunk(1, 6), name(1)],
            &[chunk(1, 5), name(2)],
            &[],
        ] {
            assert_ne!(base, root(other));
        }
    }
}
