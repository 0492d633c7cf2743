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

    /// BLAKE3 of each piece when the bytes are cut into pieces of these lengths, which have to add up.
    pub fn piece_hashes(self, lengths: &[u64]) -> Option<Vec<Hash>> {
        if lengths.iter().sum::<u64>() != self.len {
            return None;
        }
        let mut source = self.source();
        let mut block = vec![0; BLOCK];
        let mut hash_of = |length: u64| {
            let mut hasher = Hasher::new();
            let mut left = length;
            while left > 0 {
                let size = left.min(BLOCK as u64) as usize;
                source.fill(&mut block[..size]);
                hasher.update(&block[..size]);
                left -= size as u64;
            }
            hasher.finalize()
        };
        Some(lengths.iter().map(|length| hash_of(*length)).collect())
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
        let hashes = content.piece_hashes(&[400_000, 200_000, 1]).unwrap();
        assert_eq!(hashes[0], blake3::hash(&bytes[..400_000]));
        assert_eq!(hashes[1], blake3::hash(&bytes[400_000..600_000]));
        assert_eq!(hashes[2], blake3::hash(&bytes[600_000..]));
        assert_eq!(content.piece_hashes(&[600_000]), None);
    }
}
