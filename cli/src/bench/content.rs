//! What is stored: bytes that no server can compress or has seen before, made without work per byte.
//!
//! One random block is shared by all. An object is a walk through it from a place of its own, cut into frames; each frame
//! begins with [`HEAD`] random bytes that no other frame has, so that no chunk of 256 KiB or more occurs twice, and a store
//! that deduplicates gains nothing. The block is larger than what block compressors look back.
//!
//! Since content follows from the object's number, what is read is compared byte by byte with what was sent: stricter
//! than a hash, and cheaper (a comparison of memory, which is part of the client's CPU time, alike for all servers).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

/// Bytes of the shared block.
const BLOCK: usize = 16 << 20;
/// Bytes of a frame with its head. Divides [`BLOCK`] and every chunk size in use.
const FRAME: usize = 256 << 10;
/// Bytes of a frame that are its own.
const HEAD: usize = 32;

/// The source of all objects of a run.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// [`BLOCK`] bytes, and the first frame again so that no slice wraps.
    block: Bytes,
    seed: u64,
}

/// One object: the measurement it belongs to, its number there, and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    /// Number of the measurement.
    pub(crate) cell: u32,
    /// Number within it.
    pub(crate) number: u64,
    /// Bytes.
    pub(crate) size: u64,
}

impl Content {
    /// The same seed gives the same objects.
    pub(crate) fn new(seed: u64) -> Self {
        let mut block = vec![0; BLOCK + FRAME];
        fastrand::Rng::with_seed(seed).fill(&mut block[..BLOCK]);
        block.copy_within(..FRAME, BLOCK);
        Content {
            block: block.into(),
            seed,
        }
    }

    /// An object's bytes, to send.
    pub(crate) fn body(&self, object: Object) -> ContentBody {
        ContentBody(Walk::new(self.clone(), object))
    }

    /// What an object's bytes are held against.
    pub(crate) fn check(&self, object: Object) -> Check {
        Check {
            walk: Walk::new(self.clone(), object),
            piece: Bytes::new(),
        }
    }
}

/// An object's bytes as pieces: the head of a frame, the rest of it, the next head.
struct Walk {
    content: Content,
    /// Of heads and of the place to begin.
    random: fastrand::Rng,
    /// Where in the block the next frame lies.
    place: usize,
    left: u64,
    is_head: bool,
}

impl Walk {
    fn new(content: Content, object: Object) -> Self {
        // Neighbouring seeds give unrelated sequences only once they are mixed.
        let mut random = fastrand::Rng::with_seed(content.seed);
        for part in [u64::from(object.cell), object.number] {
            random = fastrand::Rng::with_seed(random.u64(..) ^ part);
        }
        let place = random.usize(..BLOCK);
        Walk {
            content,
            random,
            place,
            left: object.size,
            is_head: true,
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let whole = if self.is_head {
            let mut head = [0; HEAD];
            self.random.fill(&mut head);
            Bytes::copy_from_slice(&head)
        } else {
            let piece = self
                .content
                .block
                .slice(self.place..self.place + FRAME - HEAD);
            self.place = (self.place + FRAME) % BLOCK;
            piece
        };
        self.is_head = !self.is_head;
        let piece = whole.slice(..whole.len().min(usize::try_from(self.left).unwrap_or(FRAME)));
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

/// An object as the body of a request.
pub(crate) struct ContentBody(Walk);

impl Body for ContentBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.left)
    }
}

/// An object that is being read.
pub(crate) struct Check {
    walk: Walk,
    /// What is left of the piece that comes next.
    piece: Bytes,
}

impl Check {
    /// `true` if these are the object's next bytes.
    pub(crate) fn fits(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.piece.is_empty() {
                match self.walk.next() {
                    Some(piece) => self.piece = piece,
                    None => return false,
                }
            }
            let both = self.piece.len().min(bytes.len());
            let (now, later) = bytes.split_at(both);
            if self.piece.split_to(both) != now {
                return false;
            }
            bytes = later;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn bytes(content: &Content, object: Object) -> Vec<u8> {
        let mut walk = Walk::new(content.clone(), object);
        std::iter::from_fn(|| walk.next())
            .collect::<Vec<_>>()
            .concat()
    }

    fn object(number: u64, size: u64) -> Object {
        Object {
            cell: 0,
            number,
            size,
        }
    }

    #[test]
    fn an_object_has_its_size_and_fits_itself_in_any_pieces() {
        let content = Content::new(1);
        for size in [0, 1, 32, 33, 1024, 262_144, 262_145, 3 << 20] {
            let sent = bytes(&content, object(7, size));
            assert_eq!(sent.len() as u64, size);
            for step in [1_000, 65_536, 1 << 20] {
                let mut check = content.check(object(7, size));
                assert!(sent.chunks(step).all(|c| check.fits(c)), "{size} {step}");
                assert!(!check.fits(&[0]), "that was all");
            }
        }
    }

    #[test]
    fn another_byte_and_one_too_many_are_noticed() {
        let content = Content::new(1);
        let mut sent = bytes(&content, object(0, 300_000));
        let mut short = content.check(object(0, 300_000));
        assert!(short.fits(&sent[..299_999]) && !short.fits(&[!sent[299_999]]));
        assert!(
            !content
                .check(object(0, 300_000))
                .fits(&[&sent[..], &[0]].concat())
        );
        sent[270_000] ^= 1;
        assert!(!content.check(object(0, 300_000)).fits(&sent));
    }

    #[test]
    fn no_chunk_occurs_twice() {
        let content = Content::new(1);
        let mut seen = BTreeSet::new();
        for number in 0..2 {
            // Longer than the block, so that the walk comes round.
            for chunk in bytes(&content, object(number, 17 << 20)).chunks(FRAME) {
                assert!(seen.insert(chunk.to_vec()));
            }
        }
        let other = Object {
            cell: 1,
            ..object(0, 1024)
        };
        assert_ne!(bytes(&content, other), bytes(&content, object(0, 1024)));
    }
}
