//! What a volume holds of the slot.

use peernet_core::key::{Key, Name, Slot};
use peernet_core::member::PeerId;
use peernet_core::message::Root;
use peernet_core::register::{Register, Value, Version, WriteId};
use peernet_core::store::{Entry, Store, StoreError};

/// Copies of a chunk that are acknowledged.
pub(super) const WRITE: u32 = 2;
/// Replicas of a slot.
pub(super) const FACTOR: usize = 3;

/// The file as it was put.
const PUT: u8 = 1;
/// Its tombstone.
const DELETED: u8 = 2;
/// The chunk that is there at the beginning.
const OLD: u8 = 1;
/// The chunk that is written meanwhile.
const NEW: u8 = 2;

/// One name, at a version, and some chunks. What refers to them is [`crate::collect`]'s concern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(super) struct Copy {
    /// 0: not there.
    name: u8,
    /// One bit each.
    chunks: u8,
}

impl Copy {
    /// All that was acknowledged at the beginning.
    pub(super) fn acknowledged() -> Copy {
        Copy {
            name: DELETED,
            chunks: OLD,
        }
    }

    /// One that has not heard that the name was deleted.
    pub(super) fn of_late_replica() -> Copy {
        Copy {
            name: PUT,
            ..Copy::acknowledged()
        }
    }

    /// One that the chunk did not reach.
    pub(super) fn of_replica_without_chunk() -> Copy {
        Copy {
            chunks: 0,
            ..Copy::acknowledged()
        }
    }

    /// This and what is written meanwhile.
    pub(super) fn with_new(self) -> Copy {
        Copy {
            chunks: self.chunks | NEW,
            ..self
        }
    }

    /// Both.
    pub(super) fn merge(self, other: Copy) -> Copy {
        Copy {
            name: self.name.max(other.name),
            chunks: self.chunks | other.chunks,
        }
    }

    /// Everything of the other, at that or a newer version.
    pub(super) fn has(self, other: Copy) -> bool {
        self.merge(other) == self
    }

    /// Each thing by itself.
    pub(super) fn parts(self) -> [Copy; 3] {
        let chunk = |bit| Copy {
            chunks: self.chunks & bit,
            name: 0,
        };
        let name = Copy { chunks: 0, ..self };
        [name, chunk(OLD), chunk(NEW)]
    }

    pub(super) fn is_empty(self) -> bool {
        self == Copy::default()
    }

    /// What is compared.
    pub(super) fn root(self) -> Root {
        peernet_core::merkle::root(&self.entries())
    }

    /// As a store lists it.
    fn entries(self) -> Vec<Entry> {
        let there = [OLD, NEW].into_iter().filter(|bit| self.chunks & bit > 0);
        let chunks = there.map(|bit| Entry::Chunk {
            key: chunk(bit),
            len: 1,
        });
        let name = (self.name > 0).then(|| Entry::Name {
            key: Key::of_name(&name()),
            version: version(self.name),
        });
        chunks.chain(name).collect()
    }

    /// Puts it into a store.
    pub(super) fn write(self, store: &mut impl Store) -> Result<(), StoreError> {
        if self.name > 0 {
            store.put_register(&Register {
                name: name(),
                version: version(self.name),
                write: WriteId {
                    peer: PeerId(0),
                    op: self.name.into(),
                },
                value: Value::Deleted,
                trail: Default::default(),
            })?;
        }
        let there = [OLD, NEW].into_iter().filter(|bit| self.chunks & bit > 0);
        there
            .map(chunk)
            .try_for_each(|key| store.put_chunk(&key, 1))
    }

    /// What a store holds.
    pub(super) fn read(store: &impl Store) -> Result<Copy, StoreError> {
        let entries = store.entries(slot())?;
        let of = |copy: Copy, entry: &Entry| match entry {
            Entry::Name { version, .. } => Copy {
                name: version.op as u8,
                ..copy
            },
            Entry::Chunk { key, .. } => Copy {
                chunks: copy.chunks | key.0[31],
                ..copy
            },
            Entry::Reference { .. } => copy,
        };
        Ok(entries.iter().fold(Copy::default(), of))
    }
}

/// The slot that all is about.
pub(super) fn slot() -> Slot {
    Key::of_name(&name()).slot()
}

/// A chunk of that slot.
fn chunk(bit: u8) -> Key {
    let mut key = Key::of_name(&name());
    key.0[31] = bit;
    key
}

fn name() -> Name {
    Name::new("n").expect("a valid name")
}

fn version(n: u8) -> Version {
    Version {
        epoch: 1,
        round: n.into(),
        writer: PeerId(0),
        op: n.into(),
    }
}
