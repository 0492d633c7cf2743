//! Keys, slots and ring positions.
//!
//! Everything stored has a 256-bit key: a chunk's is the BLAKE3 hash of its bytes, a name's the BLAKE3 hash of the
//! name. The key space is cut into [`SLOTS`] equal, fixed arcs; a slot is the unit of configuration, epoch, Merkle
//! tree, receipt and repair, so the trees of two peers always line up.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

/// Number of slots. A power of two, so that a slot is a prefix of the key. 4,096 keeps a slot's share of a 1 TiB
/// network at 256 MiB and the whole slot table of a peer at a few hundred kilobytes (guess, see ADR 2). With the
/// feature `few-slots`, which no product is built with, 64: the same protocol, simulated in a fraction of the time.
pub const SLOTS: u16 = if cfg!(feature = "few-slots") {
    64
} else {
    4096
};
/// Bits of the key that name the slot.
pub(crate) const SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// Longest name, in bytes of UTF-8.
pub const NAME_MAX: usize = 1024;

/// First character of names of the network's own.
const INTERNAL: char = '\u{1}';

/// A 256-bit BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// The key of a chunk: the hash of its bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Key(*blake3::hash(bytes).as_bytes())
    }

    /// The key of a name: the hash of the name.
    pub fn of_name(name: &Name) -> Self {
        Key::of_bytes(name.as_str().as_bytes())
    }

    /// What was hashed piece by piece.
    pub(crate) fn of(hasher: &blake3::Hasher) -> Self {
        Key(*hasher.finalize().as_bytes())
    }

    /// The first 64 of its bits, as a number.
    pub(crate) fn number(&self) -> u64 {
        u64::from_be_bytes(*self.0.first_chunk().expect("32 bytes"))
    }

    /// The slot this key falls into.
    pub fn slot(&self) -> Slot {
        Slot(u16::from_be_bytes([self.0[0], self.0[1]]) >> (16 - SLOT_BITS))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Text that is not 64 hex digits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a key is 64 hexadecimal digits")]
pub struct InvalidKey;

impl FromStr for Key {
    type Err = InvalidKey;
    fn from_str(s: &str) -> Result<Self, InvalidKey> {
        if s.len() != 64 || !s.is_ascii() {
            return Err(InvalidKey);
        }
        let mut key = [0; 32];
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| InvalidKey)?;
        }
        Ok(Key(key))
    }
}

/// One of the [`SLOTS`] arcs of the key space; always less than [`SLOTS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u16);

impl Slot {
    /// The slot of that number, if there is one.
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Slot(number))
    }

    /// 0 to [`SLOTS`] − 1.
    pub fn number(self) -> u16 {
        self.0
    }

    /// As an index into a table of all slots.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Where the slot begins on the ring; its home is the successor of this position.
    pub fn start(self) -> Position {
        Position(u64::from(self.0) << (64 - SLOT_BITS))
    }

    /// The keys that fall into this slot.
    pub fn keys(self) -> RangeInclusive<Key> {
        let first = self.start().0;
        let last = first | (u64::MAX >> SLOT_BITS);
        let key = |prefix: u64, rest: u8| {
            let mut bytes = [rest; 32];
            bytes[..8].copy_from_slice(&prefix.to_be_bytes());
            Key(bytes)
        };
        key(first, 0)..=key(last, 0xff)
    }

    /// All slots in ring order.
    pub fn all() -> impl Iterator<Item = Slot> {
        (0..SLOTS).map(Slot)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A point on the ring: the first 64 bits of a key. Ties between peers are broken by identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub u64);

impl Position {
    /// Clockwise distance from here to `other`.
    pub fn distance_to(self, other: Position) -> u64 {
        other.0.wrapping_sub(self.0)
    }
}

/// A valid file name: 1 to [`NAME_MAX`] bytes of UTF-8 without control characters, in segments separated by `/`, of
/// which none is empty, `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidName {
    /// Nothing there.
    #[error("the name is empty; give at least one character")]
    Empty,
    /// Longer than [`NAME_MAX`] bytes.
    #[error("the name has {0} bytes; at most 1024 are allowed")]
    TooLong(usize),
    /// A control character.
    #[error("the name contains a control character (U+{0:04X}); remove it")]
    Control(u32),
    /// An empty, `.` or `..` segment.
    #[error(
        "the name has an empty, '.' or '..' segment; write it as plain segments separated by single slashes"
    )]
    Segment,
}

impl Name {
    /// Checks `text` and keeps it.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        Self::check_prefix(&text)?;
        if text.split('/').any(|s| matches!(s, "" | "." | "..")) {
            return Err(InvalidName::Segment);
        }
        Ok(Name(text))
    }

    /// A name of the network's own, which no client can give, read, list or write: its text begins with U+0001. `text`
    /// obeys the rules of other names and leaves room for that.
    pub fn internal(text: &str) -> Result<Self, InvalidName> {
        let Name(text) = Name::new(text)?;
        let text = format!("{INTERNAL}{text}");
        if text.len() > NAME_MAX {
            return Err(InvalidName::TooLong(text.len()));
        }
        Ok(Name(text))
    }

    /// What another peer or the volume says is a name: any, also an internal one.
    pub fn stored(text: String) -> Result<Self, InvalidName> {
        match text.strip_prefix(INTERNAL) {
            Some(rest) => Name::internal(rest),
            None => Name::new(text),
        }
    }

    /// Whether it is one of the network's own.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with(INTERNAL)
    }

    /// Checks what names may begin with: the same, except that it may be empty and end anywhere.
    pub fn check_prefix(text: &str) -> Result<(), InvalidName> {
        if text.len() > NAME_MAX {
            return Err(InvalidName::TooLong(text.len()));
        }
        match text.chars().find(|c| c.is_control()) {
            Some(c) => Err(InvalidName::Control(c.into())),
            None => Ok(()),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_partition_the_ring_in_order() {
        let starts: Vec<_> = Slot::all().map(Slot::start).collect();
        assert_eq!(starts.len(), usize::from(SLOTS));
        assert!(starts.is_sorted());
        assert_eq!(Key([0xff; 32]).slot(), Slot::new(SLOTS - 1).unwrap());
        assert_eq!(Key([0; 32]).slot(), Slot::new(0).unwrap());
        assert_eq!(Slot::new(SLOTS), None);
    }

    #[test]
    fn a_slots_keys_are_those_that_fall_into_it() {
        for slot in Slot::all() {
            let keys = slot.keys();
            assert_eq!((keys.start().slot(), keys.end().slot()), (slot, slot));
        }
        let ends: Vec<_> = Slot::all().map(|slot| *slot.keys().end()).collect();
        let starts: Vec<_> = Slot::all().map(|slot| *slot.keys().start()).collect();
        assert_eq!(
            (starts[0], ends[ends.len() - 1]),
            (Key([0; 32]), Key([0xff; 32]))
        );
        for (end, start) in ends.iter().zip(&starts[1..]) {
            assert_eq!(
                end.number() + 1,
                start.number(),
                "no key lies between two slots"
            );
        }
    }

    #[test]
    fn keys_round_trip_through_hex() {
        let key = Key::of_bytes(b"hello");
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("zz".parse::<Key>(), Err(InvalidKey));
        assert_eq!("é".repeat(32).parse::<Key>(), Err(InvalidKey));
    }

    #[test]
    fn names_are_refused_whole() {
        assert!(Name::new("a/b c/ü.txt").is_ok());
        assert!(Name::new("x".repeat(1024)).is_ok());
        let internal = Name::internal("index/x").unwrap();
        assert!(internal.is_internal());
        assert_eq!(
            Name::stored(internal.as_str().to_owned()),
            Ok(internal.clone())
        );
        assert_eq!(Name::new(internal.as_str()), Err(InvalidName::Control(1)));
        assert!(Name::internal(&"x".repeat(1024)).is_err());
        assert_eq!(Name::new(""), Err(InvalidName::Empty));
        assert_eq!(Name::new("x".repeat(1025)), Err(InvalidName::TooLong(1025)));
        assert_eq!(Name::new("a\nb"), Err(InvalidName::Control(10)));
        for bad in ["/a", "a/", "a//b", "../a", "a/./b", "."] {
            assert_eq!(Name::new(bad), Err(InvalidName::Segment), "{bad}");
        }
    }
}
