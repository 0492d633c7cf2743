//! Which pieces of a content somebody has: one bit each.

use thiserror::Error;

const BITS: u32 = u64::BITS;

/// A set of pieces of a content that has so many.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pieces {
    total: u32,
    count: u32,
    words: Vec<u64>,
}

/// Bytes that are no map of a content's pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum InvalidPieces {
    /// Too short or too long.
    #[error("a map of {total} pieces has {} bytes, this one {found}", total.div_ceil(8))]
    Length {
        /// Pieces there are.
        total: u32,
        /// Bytes there are.
        found: usize,
    },
    /// Bits beyond the last piece.
    #[error("the map has pieces beyond the last one")]
    Beyond,
}

impl Pieces {
    /// None of `total`.
    pub fn none(total: u32) -> Self {
        Pieces {
            total,
            count: 0,
            words: vec![0; total.div_ceil(BITS) as usize],
        }
    }

    /// All of `total`.
    pub fn all(total: u32) -> Self {
        let mut pieces = Pieces::none(total);
        (0..total).for_each(|piece| {
            pieces.insert(piece);
        });
        pieces
    }

    /// From bytes, piece 0 the lowest bit of the first one.
    pub fn from_bytes(total: u32, bytes: &[u8]) -> Result<Self, InvalidPieces> {
        if bytes.len() != total.div_ceil(8) as usize {
            let found = bytes.len();
            return Err(InvalidPieces::Length { total, found });
        }
        let mut pieces = Pieces::none(total);
        for (n, byte) in bytes.iter().enumerate() {
            pieces.words[n / 8] |= u64::from(*byte) << (n % 8 * 8);
        }
        let last = total % BITS;
        if last != 0 && pieces.words.last().is_some_and(|word| word >> last != 0) {
            return Err(InvalidPieces::Beyond);
        }
        pieces.count = pieces.words.iter().map(|word| word.count_ones()).sum();
        Ok(pieces)
    }

    /// As [`Pieces::from_bytes`] reads it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        bytes.take(self.total.div_ceil(8) as usize).collect()
    }

    /// How many the content has.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How many are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Every piece is in it.
    pub fn is_full(&self) -> bool {
        self.count == self.total
    }

    /// Whether that piece is in it.
    pub fn has(&self, piece: u32) -> bool {
        piece < self.total && self.words[(piece / BITS) as usize] >> (piece % BITS) & 1 == 1
    }

    /// Adds a piece; `false` when it was there, or there is no such piece.
    pub fn insert(&mut self, piece: u32) -> bool {
        let new = piece < self.total && !self.has(piece);
        if new {
            self.words[(piece / BITS) as usize] |= 1 << (piece % BITS);
            self.count += 1;
        }
        new
    }

    /// Removes a piece; `false` when it was not there.
    pub fn remove(&mut self, piece: u32) -> bool {
        let there = self.has(piece);
        if there {
            self.words[(piece / BITS) as usize] &= !(1 << (piece % BITS));
            self.count -= 1;
        }
        there
    }

    /// Those in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        bits(self.words.iter().copied())
    }

    /// Those in the set and in neither of two others of the same content, in order.
    pub fn without(&self, one: &Pieces, other: &Pieces) -> impl Iterator<Item = u32> {
        let others = one.words.iter().zip(&other.words);
        let words = self.words.iter().zip(others);
        bits(words.map(|(word, (one, other))| word & !one & !other))
    }
}

fn bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
    words.zip(0..).flat_map(|(mut word, n): (u64, u32)| {
        std::iter::from_fn(move || {
            let bit = word.trailing_zeros();
            word &= word.wrapping_sub(1);
            (bit < BITS).then_some(n * BITS + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_comes_back_from_its_bytes_at_every_edge() {
        for total in [0, 1, 7, 8, 9, 63, 64, 65, 1_000] {
            let mut pieces = Pieces::none(total);
            for piece in (0..total).step_by(3) {
                assert!(pieces.insert(piece) && !pieces.insert(piece));
            }
            assert!(!pieces.insert(total) && !pieces.has(total));
            let bytes = pieces.to_bytes();
            assert_eq!(Pieces::from_bytes(total, &bytes), Ok(pieces.clone()));
            assert_eq!(pieces.iter().count() as u32, pieces.count());
            assert!(pieces.iter().eq((0..total).step_by(3)));
            assert!(Pieces::all(total).is_full());
            let none = Pieces::none(total);
            let rest: Vec<u32> = Pieces::all(total).without(&pieces, &none).collect();
            assert_eq!(rest.len() as u32, total - pieces.count());
            if total > 0 {
                assert!(pieces.remove(0) && !pieces.remove(0) && !pieces.has(0));
            }
        }
    }

    #[test]
    fn a_map_of_another_length_or_with_pieces_too_many_is_refused() {
        let length = InvalidPieces::Length { total: 9, found: 1 };
        assert_eq!(Pieces::from_bytes(9, &[0]), Err(length));
        assert_eq!(Pieces::from_bytes(9, &[0, 2]), Err(InvalidPieces::Beyond));
        assert!(Pieces::from_bytes(9, &[0, 1]).unwrap().has(8));
        assert!(Pieces::from_bytes(0, &[]).is_ok());
    }
}
