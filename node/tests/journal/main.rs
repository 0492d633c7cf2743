//! Volumes whose commits go through a journal: what a killed process, a power cut, rot and a failing disk make of them.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use peernet_core::key::{Key, Name};
use peernet_core::member::PeerId;
use peernet_core::register::{Register, Value, Version, WriteId};
use peernet_core::store::Store;
use peernet_node::disk::DiskStore;
use redb::TableDefinition;

mod synced;
mod written;

/// Where the database says which journal follows on it.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(crate) fn name(n: u64) -> Name {
    Name::new(format!("file/{n}")).unwrap()
}

pub(crate) fn version(n: u64) -> Version {
    Version {
        epoch: 1,
        round: 0,
        writer: PeerId(1),
        op: n,
    }
}

/// A file of that length.
pub(crate) fn register(n: u64, len: usize) -> Register {
    let peer = PeerId(1);
    Register {
        name: name(n),
        version: version(n),
        write: WriteId { peer, op: n },
        value: Value::Present {
            head: Bytes::from_static(b"head").into(),
            body: Bytes::from(vec![n as u8; len]),
            upload: None,
        },
        trail: Box::default(),
    }
}

pub(crate) fn put(store: &mut DiskStore, n: u64) {
    store.put_register(&register(n, 10)).unwrap();
    store.commit().unwrap();
}

/// Names that are there, of those with small numbers.
pub(crate) fn names(store: &DiskStore) -> Vec<u64> {
    let held = |n: &u64| store.register(&Key::of_name(&name(*n))).unwrap();
    (0..40)
        .filter(|n| held(n) == Some(register(*n, 10)))
        .collect()
}

/// Its bytes; none where there is none.
pub(crate) fn journal(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("journal")).unwrap_or_default()
}
