//! Keys and values of the tables, as bytes.

use peernet_core::collect::{Referrer, Upload};
use peernet_core::key::{Key, Name, Slot};
use peernet_core::member::PeerId;
use peernet_core::outbox::{Consumers, Pending};
use peernet_core::register::{Version, WriteId};
use peernet_core::store::StoreError;
use prost::Message;

use crate::wire::Wire;

pub(super) fn encode<T: Wire<Form: Message>>(value: &T) -> Vec<u8> {
    value.to_wire().encode_to_vec()
}

pub(super) fn decode<T: Wire<Form: Message + Default>>(
    bytes: &[u8],
    action: &'static str,
) -> Result<T, StoreError> {
    let form = T::Form::decode(bytes).map_err(|e| StoreError {
        action,
        reason: e.to_string(),
    })?;
    T::from_wire(form, "record").map_err(|e| StoreError {
        action,
        reason: e.to_string(),
    })
}

/// The least and greatest keys of a slot.
pub(super) fn keys_of(slot: Slot) -> ([u8; 32], [u8; 32]) {
    let (mut first, mut last) = ([0; 32], [0xff; 32]);
    first[..8].copy_from_slice(&slot.start().0.to_be_bytes());
    last[0] = first[0];
    last[1] = first[1] | 0x0f;
    (first, last)
}

pub(super) fn receipt_key(leaver: PeerId, slot: u16) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(&leaver.0.to_be_bytes());
    key[16..].copy_from_slice(&slot.to_be_bytes());
    key
}

pub(super) fn chunk_len(value: &[u8; 5]) -> u32 {
    let [a, b, c, d, _flags] = *value;
    u32::from_be_bytes([a, b, c, d])
}

/// Bytes of a mark in the database.
pub(super) const MARK: usize = 25;

pub(super) fn mark_bytes(mark: &Pending) -> [u8; MARK] {
    let mut bytes = [0; MARK];
    bytes[0] = mark.consumers.bits();
    bytes[1..17].copy_from_slice(&mark.write.peer.0.to_be_bytes());
    bytes[17..].copy_from_slice(&mark.write.op.to_be_bytes());
    bytes
}

/// `None` for consumers that this version does not know.
pub(super) fn mark(bytes: &[u8; MARK]) -> Option<Pending> {
    let (consumers, rest) = bytes.split_first()?;
    let (peer, op) = rest.split_first_chunk()?;
    Some(Pending {
        write: WriteId {
            peer: PeerId(u128::from_be_bytes(*peer)),
            op: u64::from_be_bytes(*op.first_chunk()?),
        },
        consumers: Consumers::from_bits(*consumers)?,
    })
}

/// Bytes of a version in the database.
pub(super) const VERSION: usize = 40;

pub(super) fn version_bytes(version: &Version) -> [u8; VERSION] {
    let mut bytes = [0; VERSION];
    bytes[..8].copy_from_slice(&version.epoch.to_be_bytes());
    bytes[8..16].copy_from_slice(&version.round.to_be_bytes());
    bytes[16..32].copy_from_slice(&version.writer.0.to_be_bytes());
    bytes[32..].copy_from_slice(&version.op.to_be_bytes());
    bytes
}

pub(super) fn version(bytes: &[u8; VERSION]) -> Version {
    let part = |from: usize, len: usize| {
        bytes[from..from + len]
            .iter()
            .fold(0, |n: u128, b| n << 8 | u128::from(*b))
    };
    Version {
        epoch: part(0, 8) as u64,
        round: part(8, 8) as u64,
        writer: PeerId(part(16, 16)),
        op: part(32, 8) as u64,
    }
}

/// Bytes of a referrer in a key: hash of the name, upload, whether there is a base, base.
const REFERRER: usize = 32 + 16 + 1 + 16 + 8;
/// Bytes of a reference in a key.
pub(super) const REFERENCE: usize = 32 + REFERRER;

/// In the order of the name's hash, the upload and the base.
fn referrer_bytes(by: &Referrer) -> [u8; REFERRER] {
    let mut bytes = [0; REFERRER];
    bytes[..32].copy_from_slice(&Key::of_name(&by.name).0);
    bytes[32..48].copy_from_slice(&by.upload.0.to_be_bytes());
    if let Some(WriteId { peer, op }) = by.base {
        bytes[48] = 1;
        bytes[49..65].copy_from_slice(&peer.0.to_be_bytes());
        bytes[65..].copy_from_slice(&op.to_be_bytes());
    }
    bytes
}

/// Reads what [`referrer_bytes`] wrote, all but the name's hash.
fn referrer(bytes: &[u8], name: &str, action: &'static str) -> Result<Referrer, StoreError> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n: u128, b| n << 8 | u128::from(*b));
    let base = WriteId {
        peer: PeerId(number(&bytes[49..65])),
        op: number(&bytes[65..REFERRER]) as u64,
    };
    let failed = |error: peernet_core::key::InvalidName| StoreError {
        action,
        reason: error.to_string(),
    };
    Ok(Referrer {
        name: Name::new(name).map_err(failed)?,
        upload: Upload(number(&bytes[32..48])),
        base: (bytes[48] == 1).then_some(base),
    })
}

/// A key of the references by chunk.
pub(super) fn by_chunk(key: &Key, by: &Referrer) -> [u8; REFERENCE] {
    let mut bytes = [0; REFERENCE];
    bytes[..32].copy_from_slice(&key.0);
    bytes[32..].copy_from_slice(&referrer_bytes(by));
    bytes
}

/// The least and greatest keys of references to chunks from `first` to `last`.
pub(super) fn of_chunks(first: &[u8; 32], last: &[u8; 32]) -> ([u8; REFERENCE], [u8; REFERENCE]) {
    let (mut from, mut to) = ([0; REFERENCE], [0xff; REFERENCE]);
    from[..32].copy_from_slice(first);
    to[..32].copy_from_slice(last);
    (from, to)
}

/// A row of the references by chunk.
pub(super) fn reference(
    key: &[u8; REFERENCE],
    value: &[u8],
    action: &'static str,
) -> Result<(Key, u32, Referrer), StoreError> {
    let damaged = || StoreError {
        action,
        reason: "it holds a reference that cannot be read".into(),
    };
    let (chunk, by) = key.split_first_chunk::<32>().ok_or_else(damaged)?;
    let (len, name) = value.split_first_chunk::<4>().ok_or_else(damaged)?;
    let name = std::str::from_utf8(name).map_err(|_| damaged())?;
    let by = referrer(by, name, action)?;
    Ok((Key(*chunk), u32::from_be_bytes(*len), by))
}

/// The value of a row of the references by chunk.
pub(super) fn reference_value(len: u32, by: &Referrer) -> Vec<u8> {
    [&len.to_be_bytes()[..], by.name.as_str().as_bytes()].concat()
}

/// A key of the references by name.
pub(super) fn by_name(by: &Referrer, key: &Key) -> [u8; REFERENCE] {
    let mut bytes = [0; REFERENCE];
    bytes[..REFERRER].copy_from_slice(&referrer_bytes(by));
    bytes[REFERRER..].copy_from_slice(&key.0);
    bytes
}

/// A row of the references by name.
pub(super) fn referrer_row(
    key: &[u8; REFERENCE],
    name: &str,
    action: &'static str,
) -> Result<(Referrer, Key), StoreError> {
    let by = referrer(&key[..REFERRER], name, action)?;
    let mut chunk = [0; 32];
    chunk.copy_from_slice(&key[REFERRER..]);
    Ok((by, Key(chunk)))
}
