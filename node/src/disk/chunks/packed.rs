//! Chunks as they are stored and sent: their bytes as they are, or compressed with Zstandard (RFC 8878).
//!
//! A chunk is named by the hash of its plain bytes in either form, so that nothing but the bytes' way knows of forms.
//! Whoever gets compressed bytes unpacks them and compares the hash before it keeps or passes them on. They come from
//! others, and a few hundred of them can stand for gigabytes: so they are one frame that says how many bytes it has, more
//! than itself and no more than a chunk may have, and no more memory is taken than that.
//!
//! Compressing pays where it saves an eighth, as in OpenZFS (`zio_compress`); what saves less is left as it is, since every
//! read unpacks it again. Whether it may is tried with a piece from the chunk's middle first: a sixteenth of the work
//! for what is compressed already. A file that is packed in parts is compressed in parts, for each chunk is judged by itself.

use bytes::Bytes;
use peernet_core::key::Key;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::get_frame_content_size;

use super::ChunkError;
use crate::config::CHUNK_SIZE_MAX;

/// How hard to try. Measured with chunks of 1 MiB: program text becomes 3.6 times smaller and programs 4.0 times, where
/// level 3 (the library's own default) says 4.0 and 4.2, and takes up to 1.6 times as long. Garage's default as well.
const LEVEL: i32 = 1;
/// The part of its bytes that a chunk saves at least: an eighth (OpenZFS).
const SAVED: usize = 8;
/// Bytes that are tried first.
const SAMPLE: usize = 64 * 1024;

/// Bytes with the hash that names them: made only by hashing, so that nobody has to do it twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    key: Key,
    data: Bytes,
}

impl Chunk {
    /// Hashes the bytes, which takes a third of a millisecond for a megabyte.
    pub fn new(data: Bytes) -> Self {
        Chunk {
            key: Key::of_bytes(&data),
            data,
        }
    }

    /// Bytes that someone says have this hash; the error is [`ChunkError::Mismatch`].
    pub fn claimed(key: &Key, data: Bytes) -> Result<Self, ChunkError> {
        let chunk = Chunk::new(data);
        match chunk.key == *key {
            true => Ok(chunk),
            false => Err(ChunkError::Mismatch(*key)),
        }
    }

    /// Their BLAKE3 hash.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The bytes alone.
    pub fn into_data(self) -> Bytes {
        self.data
    }
}

/// How a chunk's bytes are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// In one Zstandard frame that says how many bytes it has.
    Zstd,
}

impl Encoding {
    /// All, the one that most chunks have first.
    pub(super) const ALL: [Encoding; 2] = [Encoding::Plain, Encoding::Zstd];

    /// What the names of such files end with.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Encoding::Plain => "",
            Encoding::Zstd => ".zst",
        }
    }
}

/// A chunk as it is stored and sent: made only from bytes whose hash was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packed {
    key: Key,
    len: u32,
    encoding: Encoding,
    bytes: Bytes,
}

impl From<Chunk> for Packed {
    /// With its bytes as they are.
    fn from(Chunk { key, data }: Chunk) -> Self {
        Packed {
            key,
            len: data.len() as u32,
            encoding: Encoding::Plain,
            bytes: data,
        }
    }
}

impl Packed {
    /// The chunk compressed, if that pays.
    pub fn smallest(chunk: Chunk) -> Self {
        let Some(bytes) = compressed(&chunk.data) else {
            return chunk.into();
        };
        Packed {
            key: chunk.key,
            len: chunk.data.len() as u32,
            encoding: Encoding::Zstd,
            bytes: bytes.into(),
        }
    }

    /// Bytes that someone says are this chunk in that form; the error is [`ChunkError::Mismatch`].
    pub fn claimed(key: &Key, encoding: Encoding, bytes: Bytes) -> Result<Self, ChunkError> {
        Ok(Packed::opened(key, encoding, bytes)?.0)
    }

    /// The same, and the chunk itself.
    pub(super) fn opened(
        key: &Key,
        encoding: Encoding,
        bytes: Bytes,
    ) -> Result<(Self, Chunk), ChunkError> {
        let chunk = open(key, encoding, bytes.clone())?;
        let packed = Packed {
            key: *key,
            len: chunk.data.len() as u32,
            encoding,
            bytes,
        };
        Ok((packed, chunk))
    }

    /// The chunk itself.
    pub fn unpacked(self) -> Result<Chunk, ChunkError> {
        open(&self.key, self.encoding, self.bytes)
    }

    /// BLAKE3 of the plain bytes.
    pub fn key(&self) -> Key {
        self.key
    }

    /// How many plain bytes there are.
    pub fn plain_len(&self) -> u32 {
        self.len
    }

    /// Form of [`Packed::bytes`].
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// In that form.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// The chunk that these bytes are, if they are; [`ChunkError::Mismatch`] if not.
pub(crate) fn open(key: &Key, encoding: Encoding, bytes: Bytes) -> Result<Chunk, ChunkError> {
    let plain = match encoding {
        Encoding::Plain => Some(bytes),
        Encoding::Zstd => decompressed(&bytes).map(Bytes::from),
    };
    Chunk::claimed(key, plain.ok_or(ChunkError::Mismatch(*key))?)
}

fn decompressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let len = get_frame_content_size(bytes).ok()??;
    // What is no smaller than its content is nothing we write, and would cost time for nothing.
    if len > u64::from(CHUNK_SIZE_MAX) || len <= bytes.len() as u64 {
        return None;
    }
    let plain = Decompressor::new().ok()?.decompress(bytes, len as usize);
    plain.ok().filter(|plain| plain.len() as u64 == len)
}

/// `None` where it does not pay.
fn compressed(data: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = Compressor::new(LEVEL).ok()?;
    // It gives up when it has filled its room.
    let mut fit = |data: &[u8]| {
        let mut small = Vec::with_capacity(data.len() - data.len() / SAVED);
        compressor.compress_to_buffer(data, &mut small).ok()?;
        Some(small)
    };
    if data.len() > 2 * SAMPLE {
        let middle = (data.len() - SAMPLE) / 2;
        fit(&data[middle..middle + SAMPLE])?;
    }
    let mut small = fit(data)?;
    small.shrink_to_fit();
    Some(small)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize) -> Bytes {
        let lines = (0..).flat_map(|n: u32| format!("line {n} of a file\n").into_bytes());
        lines.take(len).collect()
    }

    fn noise(len: usize) -> Bytes {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(7).fill(&mut bytes);
        bytes.into()
    }

    fn frame(data: &[u8]) -> Bytes {
        zstd::bulk::compress(data, LEVEL).unwrap().into()
    }

    #[test]
    fn what_pays_is_compressed_and_comes_back() {
        for len in [100, 4096, 3 * SAMPLE, CHUNK_SIZE_MAX as usize] {
            let chunk = Chunk::new(text(len));
            let packed = Packed::smallest(chunk.clone());
            assert_eq!(packed.encoding(), Encoding::Zstd, "{len}");
            assert!(packed.bytes().len() <= len - len / SAVED);
            assert_eq!(
                (packed.key(), packed.plain_len()),
                (chunk.key(), len as u32)
            );
            let (key, bytes) = (packed.key(), packed.bytes().clone());
            let again = Packed::claimed(&key, Encoding::Zstd, bytes).unwrap();
            assert_eq!(again, packed);
            assert_eq!(again.unpacked().unwrap(), chunk);
        }
    }

    #[test]
    fn what_does_not_pay_is_left_as_it_is() {
        // Noise; noise in the middle; and text that saves less than an eighth.
        let edges = [text(SAMPLE), noise(3 * SAMPLE), text(SAMPLE)].concat();
        let tenth = [noise(90_000), Bytes::from(vec![0; 10_000])].concat();
        for data in [noise(1 << 20), edges.into(), tenth.into(), noise(1)] {
            let place = data.as_ptr();
            let packed = Packed::smallest(Chunk::new(data));
            assert_eq!(packed.encoding(), Encoding::Plain);
            assert_eq!(packed.bytes().as_ptr(), place, "not even copied");
        }
    }

    #[test]
    fn bytes_of_another_chunk_are_refused_in_either_form() {
        let (key, other) = (Key::of_bytes(&text(5000)), text(5001));
        for (encoding, bytes) in [
            (Encoding::Plain, other.clone()),
            (Encoding::Zstd, frame(&other)),
            (Encoding::Plain, frame(&text(5000))),
            (Encoding::Zstd, text(5000)),
            (Encoding::Zstd, Bytes::new()),
        ] {
            let refused = Packed::claimed(&key, encoding, bytes);
            assert!(matches!(refused, Err(ChunkError::Mismatch(k)) if k == key));
        }
    }

    #[test]
    fn no_frame_takes_more_memory_than_a_chunk_may_have() {
        let most = CHUNK_SIZE_MAX as usize;
        let whole = vec![0; most];
        let key = Key::of_bytes(&whole);
        assert!(open(&key, Encoding::Zstd, frame(&whole)).is_ok());
        // A gigabyte in a few kilobytes, with and without saying so; and a frame that lies.
        let large = vec![0; most + 1];
        let bomb = frame(&large);
        assert!(bomb.len() < 1000 && decompressed(&bomb).is_none());
        let mut silent = Compressor::new(LEVEL).unwrap();
        silent.include_contentsize(false).unwrap();
        let silent = silent.compress(&large).unwrap();
        assert_eq!(decompressed(&silent), None);
        let twice = [frame(&whole), frame(&whole)].concat();
        assert_eq!(decompressed(&twice), None, "more than its first frame says");
        assert_eq!(
            decompressed(&frame(&noise(5000))),
            None,
            "larger than plain"
        );
        let mut cut = frame(&whole).to_vec();
        cut.pop();
        assert_eq!(decompressed(&cut), None);
    }
}
