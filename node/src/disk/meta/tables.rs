//! The tables. All keys but names have a fixed length and are in ring order, so that a slot is a range.

use redb::TableDefinition;

use super::rows::{MARK, REFERENCE, VERSION};

/// Single values: [`FORMAT_ENTRY`], [`IDENTITY`], [`JOURNAL`], [`BEHIND`].
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const FORMAT_ENTRY: &str = "format";
pub(super) const IDENTITY: &str = "identity";
/// Which journal follows, as long as there is one.
pub(super) const JOURNAL: &str = "journal";
/// Present when what was acknowledged may be lost here, until this peer has caught up.
pub(super) const BEHIND: &str = "behind";
/// Identity → member.
pub(super) const MEMBERS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("members");
/// Slot → record.
pub(super) const SLOTS: TableDefinition<'_, u16, &[u8]> = TableDefinition::new("slots");
/// Hash of the name → register.
pub(super) const REGISTERS: TableDefinition<'_, &[u8; 32], &[u8]> =
    TableDefinition::new("registers");
/// Hash of the name → version of its register, so that replicas can be compared without reading values.
pub(super) const VERSIONS: TableDefinition<'_, &[u8; 32], &[u8; VERSION]> =
    TableDefinition::new("versions");
/// Hash of the name → greatest ballot promised for it, where that is above its register's version.
pub(super) const PROMISES: TableDefinition<'_, &[u8; 32], &[u8; VERSION]> =
    TableDefinition::new("promises");
/// Hash of the name → whose effects of which write are pending.
pub(super) const MARKS: TableDefinition<'_, &[u8; 32], &[u8; MARK]> = TableDefinition::new("marks");
/// Name → its hash, for listing; no internal names.
pub(super) const NAMES: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("names");
/// Hash of the bytes → length, big-endian, and a byte of flags (none yet: 0).
pub(super) const CHUNKS: TableDefinition<'_, &[u8; 32], &[u8; 5]> = TableDefinition::new("chunks");
/// Chunk and referrer → the chunk's length, big-endian, and the referrer's name.
pub(super) const REFERENCES: TableDefinition<'_, &[u8; REFERENCE], &[u8]> =
    TableDefinition::new("references");
/// Referrer and chunk → the referrer's name: the same by name.
pub(super) const REFERRERS: TableDefinition<'_, &[u8; REFERENCE], &str> =
    TableDefinition::new("referrers");
/// Leaver and slot, big-endian → receipt.
pub(super) const RECEIPTS: TableDefinition<'_, &[u8; 18], &[u8]> = TableDefinition::new("receipts");
