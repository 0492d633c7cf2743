//! Content that need not be kept: a file is a seed and a length, and its bytes can be made again at any time.

use blake3::{Hash, Hasher};
use bytes::Bytes;

/// Bytes in one block of a stream: the transports' natural message size.
pub const BLOCK: usize = 256 * 1024;

/// Bytes that a seed and a length determine. Two different ones share no chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Content {
    /// What the bytes are made from.
    pub seed: u64,
    /// How many there are.
    pub len: u64,
}

impl Content {
    /// The bytes in blocks of [`BLOCK`], the last one shorter. Nothing for an empty content.
    pub fn blocks(self) -> impl Iterator<Item = Bytes> + Send + 'static {
        let mut source = self.source();
        let mut left = self.len;
        std::iter::from_fn(move || {
            let size = left.min(BLOCK as u64) as usize;
            left -= size as u64;
            (size > 0).then(|| {
                let mut block = vec![0; size];
                source.fill(&mut block);
                block.into()
            })
        })
    }

    /// BLAKE3 of the bytes.
    pub fn hash(self) -> Hash {
        let mut hasher = Hasher::new();
        self.blocks().for_each(|block| {
            hasher.update(&block);
        });
        hasher.finalize()
    }

    /// BLAKE3 of each piece when the bytes are cut into pieces of `size`, the last one shorter.
    pub fn piece_hashes(self, size: u64) -> Vec<Hash> {
        let (mut source, mut left) = (self.source(), self.len);
        let mut block = vec![0; BLOCK];
        let mut hashes = Vec::new();
        while left > 0 {
            let mut hasher = Hasher::new();
            let mut piece = size.min(left);
            left -= piece;
            while piece > 0 {
                let part = &mut block[..piece.min(BLOCK as u64) as usize];
                source.fill(part);
                hasher.update(part);
                piece -= part.len() as u64;
            }
            hashes.push(hasher.finalize());
        }
        hashes
    }

    /// BLAKE3's extendable output is a fast stream of random bytes.
    fn source(self) -> blake3::OutputReader {
        Hasher::new_derive_key("peernet end-to-end content")
            .update(&self.seed.to_le_bytes())
            .update(&self.len.to_le_bytes())
            .finalize_xof()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_each_time_and_differs_between_seeds_and_lengths() {
        let of = |seed, len| Content { seed, len }.hash();
        assert_eq!(of(1, 700_000), of(1, 700_000));
        assert_ne!(of(1, 700_000), of(2, 700_000));
        let first = |len| Content { seed: 1, len }.blocks().next().unwrap();
        assert_ne!(first(BLOCK as u64), first(BLOCK as u64 + 1));
    }

    #[test]
    fn blocks_add_up_to_the_length() {
        for len in [0, 1, BLOCK as u64 - 1, BLOCK as u64, 3 * BLOCK as u64 + 7] {
            let total: usize = Content { seed: 3, len }.blocks().map(|b| b.len()).sum();
            assert_eq!(total as u64, len);
        }
    }

    #[test]
    fn pieces_hash_as_the_bytes_they_are() {
        let content = Content {
            seed: 9,
            len: 600_001,
        };
        let bytes: Vec<u8> = content.blocks().flatten().collect();
        let hashes = content.piece_hashes(400_000);
        let wanted = [&bytes[..400_000], &bytes[400_000..]].map(blake3::hash);
        assert_eq!(hashes, wanted);
        assert_eq!(content.piece_hashes(1_000_000), [content.hash()]);
    }
}
