//! Which chunks are being written to this peer's disk right now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peernet_core::key::Key;

/// Writes under way, by chunk; see [`crate::driver`] for what it is for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    under_way: Arc<Mutex<HashMap<Key, u32>>>,
}

impl Writes {
    /// A write of `key` begins, before it touches the disk.
    pub(crate) fn begin(&self, key: Key) -> WriteGuard {
        *self.lock().entry(key).or_insert(0) += 1;
        WriteGuard {
            writes: self.clone(),
            key,
        }
    }

    /// Runs `action` if `key` is not being written; no write of any chunk can begin meanwhile.
    pub(crate) fn unless_writing(&self, key: &Key, action: impl FnOnce()) {
        let under_way = self.lock();
        if !under_way.contains_key(key) {
            action();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, u32>> {
        // Every critical section leaves the map whole, so a panic elsewhere does not spoil it.
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write under way; ends when dropped.
#[derive(Debug)]
pub(crate) struct WriteGuard {
    writes: Writes,
    key: Key,
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let mut under_way = self.writes.lock();
        if let Some(count) = under_way.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_kept_until_its_last_write_ends() {
        let (writes, key) = (Writes::default(), Key([1; 32]));
        let removed = |writes: &Writes| {
            let mut ran = false;
            writes.unless_writing(&key, || ran = true);
            ran
        };
        let (first, second) = (writes.begin(key), writes.begin(key));
        drop(first);
        assert!(!removed(&writes));
        drop(second);
        assert!(removed(&writes));
        assert!(writes.lock().is_empty());
    }
}
