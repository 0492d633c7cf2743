//! Keys and values of the tables, as bytes.

use peernet_core::key::Slot;
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
