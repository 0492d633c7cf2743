//! What refers to chunks: two tables with the same rows, one by chunk and one by name.

use std::ops::Bound::{Excluded, Included, Unbounded};

use peernet_core::collect::Referrer;
use peernet_core::key::Key;
use peernet_core::store::{Entry, StoreError};
use redb::ReadableTable;

use super::rows::{
    REFERENCE, by_chunk, by_name, of_chunks, reference, reference_value, referrer_row,
};
use super::tables::{REFERENCES, REFERRERS};
use super::{DiskStore, failed};

impl DiskStore {
    pub(super) fn insert_reference(
        &mut self,
        key: &Key,
        len: u32,
        by: &Referrer,
    ) -> Result<(), StoreError> {
        let action = "writing a reference";
        self.log_reference(key, len, by);
        self.table(REFERENCES)?
            .insert(&by_chunk(key, by), reference_value(len, by).as_slice())
            .map_err(failed(action))?;
        self.table(REFERRERS)?
            .insert(&by_name(by, key), by.name.as_str())
            .map_err(failed(action))?;
        Ok(())
    }

    pub(super) fn delete_reference(&mut self, key: &Key, by: &Referrer) -> Result<(), StoreError> {
        let action = "forgetting a reference";
        self.table_mut(REFERENCES)?
            .remove(&by_chunk(key, by))
            .map_err(failed(action))?;
        self.table_mut(REFERRERS)?
            .remove(&by_name(by, key))
            .map_err(failed(action))?;
        Ok(())
    }

    /// References to chunks from `first` to `last`, at most so many.
    pub(super) fn references(
        &self,
        first: &[u8; 32],
        last: &[u8; 32],
        limit: usize,
    ) -> Result<Vec<(Key, u32, Referrer)>, StoreError> {
        let action = "reading references";
        let (from, to) = of_chunks(first, last);
        let table = self.table(REFERENCES)?;
        let rows = table
            .range::<&[u8; REFERENCE]>(&from..=&to)
            .map_err(failed(action))?;
        rows.take(limit)
            .map(|row| {
                let (key, value) = row.map_err(failed(action))?;
                reference(key.value(), value.value(), action)
            })
            .collect()
    }

    pub(super) fn reference_entries(
        &self,
        first: &[u8; 32],
        last: &[u8; 32],
    ) -> Result<impl Iterator<Item = Entry>, StoreError> {
        let all = self.references(first, last, usize::MAX)?;
        Ok(all
            .into_iter()
            .map(|(key, len, by)| Entry::Reference { key, len, by }))
    }

    /// Forgets all references to chunks from `first` to `last`.
    pub(super) fn clear_references(
        &mut self,
        first: &[u8; 32],
        last: &[u8; 32],
    ) -> Result<(), StoreError> {
        for (key, _, by) in self.references(first, last, usize::MAX)? {
            self.delete_reference(&key, &by)?;
        }
        Ok(())
    }

    pub(super) fn referrer_after(
        &self,
        after: Option<&Referrer>,
    ) -> Result<Option<Referrer>, StoreError> {
        let action = "reading references";
        let table = self.table(REFERRERS)?;
        let after = after.map(|by| by_name(by, &Key([0xff; 32])));
        let from = after.as_ref().map_or(Unbounded, Excluded);
        let mut rows = table
            .range::<&[u8; REFERENCE]>((from, Unbounded))
            .map_err(failed(action))?;
        let Some(row) = rows.next() else {
            return Ok(None);
        };
        let (key, name) = row.map_err(failed(action))?;
        let (by, _) = referrer_row(key.value(), name.value(), action)?;
        Ok(Some(by))
    }

    pub(super) fn chunks_of(
        &self,
        by: &Referrer,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        let action = "reading references";
        let table = self.table(REFERRERS)?;
        let from = by_name(by, after.unwrap_or(&Key([0; 32])));
        let to = by_name(by, &Key([0xff; 32]));
        let rows = table
            .range::<&[u8; REFERENCE]>((Excluded(&from), Included(&to)))
            .map_err(failed(action))?;
        rows.take(limit)
            .map(|row| {
                let (key, name) = row.map_err(failed(action))?;
                Ok(referrer_row(key.value(), name.value(), action)?.1)
            })
            .collect()
    }
}
