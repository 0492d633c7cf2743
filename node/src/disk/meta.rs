//! What a peer remembers, in one redb database.
//!
//! Writes collect in one open transaction, which all reads go through, so that they see them. A commit writes what they were
//! to a journal, which is much less to do; the transaction itself is committed where the journal cannot tell, or some time
//! later (`journal`). What a crash interrupts is as if it had never been written.
//! `tables` says what lies where, `rows` how it is written, `opening` when a database may be used at all.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use peernet_core::collect::Referrer;
use peernet_core::key::{Key, Name, Slot};
use peernet_core::leave::Receipt;
use peernet_core::member::{Member, PeerId};
use peernet_core::outbox::{Consumer, Pending};
use peernet_core::register::{Register, Version};
use peernet_core::slot::SlotRecord;
use peernet_core::store::{Entry, Identity, Remembered, Store, StoreError};
use redb::{Database, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::late::{Durability, Late};
use super::{OpenError, sync_dir};
use crate::faults::DiskFaults;

mod journal;
mod opening;
mod references;
mod rows;
mod tables;

use journal::Journal;
use opening::{check_format, checked};
use rows::{
    chunk_len, decode, encode, keys_of, mark, mark_bytes, receipt_key, version, version_bytes,
};
use tables::{
    CHUNKS, IDENTITY, MARKS, MEMBERS, META, NAMES, PROMISES, RECEIPTS, REFERENCES, REFERRERS,
    REGISTERS, SLOTS, VERSIONS,
};

/// A peer's memory on its volume. See [`Store`] for the contract.
///
/// Opening reads the whole database once and checks it: after a crash to finish or undo what was under way, otherwise
/// because a vote, a name or an epoch that rotted silently would be served as if this peer had promised it.
pub struct DiskStore {
    /// All that was written since the last commit; none after a failed commit. Dropped before the database.
    pending: Option<WriteTransaction>,
    /// Something was written since the last commit.
    dirty: bool,
    /// The database has to make the next commit.
    strict: bool,
    durability: Durability,
    /// Where other commits go; none where it cannot be used.
    journal: Option<Journal>,
    /// The database tells that the journal follows on it.
    armed: bool,
    /// The first commit that only the journal has.
    ahead: Option<Instant>,
    /// Which boot of the machine this is; empty where each commit is synced.
    boot: Vec<u8>,
    late: Arc<Late>,
    /// Chunks and their bytes, pending writes included.
    usage: (u64, u64),
    database: Database,
}

impl DiskStore {
    /// Opens the database at `path`, or creates it. Its folder exists.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, Durability::Synced)
    }

    /// The same, for commits that are so durable.
    pub fn open_with(path: &Path, durability: Durability) -> Result<Self, OpenError> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let late = Late::open(dir, Arc::default())?;
        let mut store = Self::open_faulty(path, late, &Arc::default())?;
        store.recover(dir, durability, |_| true)?;
        Ok(store)
    }

    /// The same, with syncs that fail as planned. Not to be used before [`Self::recover`].
    pub(super) fn open_faulty(
        path: &Path,
        late: Arc<Late>,
        faults: &Arc<DiskFaults>,
    ) -> Result<Self, OpenError> {
        let database = checked(path, faults)?;
        check_format(&database, path)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        sync_dir(dir).map_err(OpenError::io(dir))?;
        let failed = |e: StoreError| OpenError::Database {
            path: path.to_owned(),
            reason: e.to_string(),
        };
        let pending = Some(begin(&database).map_err(failed)?);
        let mut store = DiskStore {
            pending,
            dirty: false,
            strict: false,
            durability: Durability::Synced,
            journal: None,
            armed: false,
            ahead: None,
            boot: Vec::new(),
            late,
            usage: (0, 0),
            database,
        };
        store.usage = store.count_chunks().map_err(failed)?;
        Ok(store)
    }

    fn pending(&self) -> Result<&WriteTransaction, StoreError> {
        self.pending.as_ref().ok_or_else(|| StoreError {
            action: "using it",
            reason: "an earlier commit failed, so what it holds is not certain".into(),
        })
    }

    fn table<K, V>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Table<'_, K, V>, StoreError>
    where
        K: redb::Key + 'static,
        V: redb::Value + 'static,
    {
        self.pending()?
            .open_table(definition)
            .map_err(failed("opening a table"))
    }

    /// A table that is about to be written to, in a way that the journal cannot tell.
    fn table_mut<K, V>(
        &mut self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Table<'_, K, V>, StoreError>
    where
        K: redb::Key + 'static,
        V: redb::Value + 'static,
    {
        (self.dirty, self.strict) = (true, true);
        self.table(definition)
    }

    fn count_chunks(&self) -> Result<(u64, u64), StoreError> {
        let chunks = self.table(CHUNKS)?;
        let mut usage = (0, 0);
        for row in chunks.iter().map_err(failed("counting chunks"))? {
            let (_, value) = row.map_err(failed("counting chunks"))?;
            usage.0 += 1;
            usage.1 += u64::from(chunk_len(value.value()));
        }
        Ok(usage)
    }
}

impl Store for DiskStore {
    fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let action = "reading its identity";
        let value = self
            .table(META)?
            .get(IDENTITY)
            .map_err(failed(action))?
            .map(|v| decode(v.value(), action));
        value.transpose()
    }

    fn put_identity(&mut self, identity: &Identity) -> Result<(), StoreError> {
        let value = encode(identity);
        self.table_mut(META)?
            .insert(IDENTITY, value.as_slice())
            .map_err(failed("writing its identity"))?;
        Ok(())
    }

    fn remembered(&self) -> Result<Remembered, StoreError> {
        let mut remembered = Remembered::default();
        let action = "reading members";
        for row in self.table(MEMBERS)?.iter().map_err(failed(action))? {
            let (_, value) = row.map_err(failed(action))?;
            remembered.members.push(decode(value.value(), action)?);
        }
        let action = "reading slots";
        for row in self.table(SLOTS)?.iter().map_err(failed(action))? {
            let (number, value) = row.map_err(failed(action))?;
            let slot = Slot::new(number.value())
                .ok_or_else(|| damaged(action, "a slot that does not exist"))?;
            remembered
                .slots
                .push((slot, decode(value.value(), action)?));
        }
        Ok(remembered)
    }

    fn put_member(&mut self, member: &Member) -> Result<(), StoreError> {
        let (id, value) = (member.id.0.to_be_bytes(), encode(member));
        self.table_mut(MEMBERS)?
            .insert(&id, value.as_slice())
            .map_err(failed("writing a member"))?;
        Ok(())
    }

    fn remove_member(&mut self, id: PeerId) -> Result<(), StoreError> {
        self.table_mut(MEMBERS)?
            .remove(&id.0.to_be_bytes())
            .map_err(failed("forgetting a member"))?;
        let (first, last) = (receipt_key(id, 0), receipt_key(id, u16::MAX));
        self.table_mut(RECEIPTS)?
            .retain_in::<&[u8; 18], _>(&first..=&last, |_, _| false)
            .map_err(failed("forgetting receipts"))?;
        Ok(())
    }

    fn put_slot(&mut self, slot: Slot, record: &SlotRecord) -> Result<(), StoreError> {
        let value = encode(record);
        self.table_mut(SLOTS)?
            .insert(slot.number(), value.as_slice())
            .map_err(failed("writing a slot"))?;
        Ok(())
    }

    fn register(&self, key: &Key) -> Result<Option<Register>, StoreError> {
        let action = "reading a name";
        let registers = self.table(REGISTERS)?;
        let value = registers.get(&key.0).map_err(failed(action))?;
        value.map(|v| decode(v.value(), action)).transpose()
    }

    fn put_register(&mut self, register: &Register) -> Result<(), StoreError> {
        let action = "writing a name";
        let key = Key::of_name(&register.name).0;
        let (value, version) = (encode(register), version_bytes(&register.version));
        self.log_register(&value);
        self.table(REGISTERS)?
            .insert(&key, value.as_slice())
            .map_err(failed(action))?;
        self.table(VERSIONS)?
            .insert(&key, &version)
            .map_err(failed(action))?;
        if !register.name.is_internal() {
            self.table(NAMES)?
                .insert(register.name.as_str(), &key)
                .map_err(failed(action))?;
        }
        if self
            .promise(&Key(key))?
            .is_some_and(|p| p <= register.version)
        {
            self.table(PROMISES)?.remove(&key).map_err(failed(action))?;
        }
        Ok(())
    }

    fn promise(&self, key: &Key) -> Result<Option<Version>, StoreError> {
        let promises = self.table(PROMISES)?;
        let value = promises.get(&key.0).map_err(failed("reading a promise"))?;
        Ok(value.map(|v| version(v.value())))
    }

    fn put_promise(&mut self, key: &Key, ballot: &Version) -> Result<(), StoreError> {
        self.table_mut(PROMISES)?
            .insert(&key.0, &version_bytes(ballot))
            .map_err(failed("writing a promise"))?;
        Ok(())
    }

    fn mark(&self, key: &Key) -> Result<Option<Pending>, StoreError> {
        let action = "reading a mark";
        let marks = self.table(MARKS)?;
        let value = marks.get(&key.0).map_err(failed(action))?;
        value.map(|v| known_mark(v.value(), action)).transpose()
    }

    fn put_mark(&mut self, key: &Key, mark: Option<&Pending>) -> Result<(), StoreError> {
        let action = "writing a mark";
        self.log_mark(key, mark);
        let mut marks = self.table(MARKS)?;
        match mark {
            Some(mark) => drop(
                marks
                    .insert(&key.0, &mark_bytes(mark))
                    .map_err(failed(action))?,
            ),
            None => drop(marks.remove(&key.0).map_err(failed(action))?),
        }
        Ok(())
    }

    fn marks(
        &self,
        slot: Slot,
        consumer: Option<Consumer>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Pending)>, StoreError> {
        let action = "reading marks";
        let (first, last) = keys_of(slot);
        let first = after.map_or(first, |key| key.0.max(first));
        let mut found = Vec::new();
        let marks = self.table(MARKS)?;
        if first > last {
            return Ok(found);
        }
        for row in marks
            .range::<&[u8; 32]>(&first..=&last)
            .map_err(failed(action))?
        {
            let (key, value) = row.map_err(failed(action))?;
            let key = Key(*key.value());
            if found.len() == limit {
                break;
            }
            let mark = known_mark(value.value(), action)?;
            if after != Some(&key) && consumer.is_none_or(|c| mark.consumers.has(c)) {
                found.push((key, mark));
            }
        }
        Ok(found)
    }

    fn names(
        &self,
        prefix: &str,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Register>, StoreError> {
        let action = "listing names";
        let (names, registers) = (self.table(NAMES)?, self.table(REGISTERS)?);
        let from = after.map_or(prefix, |a| a.as_str().max(prefix));
        let mut page = Vec::new();
        for row in names.range(from..).map_err(failed(action))? {
            let (name, key) = row.map_err(failed(action))?;
            if page.len() == limit || !name.value().starts_with(prefix) {
                break;
            }
            if after.is_some_and(|a| name.value() <= a.as_str()) {
                continue;
            }
            let value = registers.get(key.value()).map_err(failed(action))?;
            let value = value.ok_or_else(|| damaged(action, "a name without its record"))?;
            page.push(decode(value.value(), action)?);
        }
        Ok(page)
    }

    fn chunk(&self, key: &Key) -> Result<Option<u32>, StoreError> {
        let chunks = self.table(CHUNKS)?;
        let value = chunks
            .get(&key.0)
            .map_err(failed("reading a chunk's entry"))?;
        Ok(value.map(|v| chunk_len(v.value())))
    }

    fn put_chunk(&mut self, key: &Key, len: u32) -> Result<(), StoreError> {
        let mut value = [0; 5];
        value[..4].copy_from_slice(&len.to_be_bytes());
        self.log_chunk(key, len);
        let mut chunks = self.table(CHUNKS)?;
        let old = chunks
            .insert(&key.0, &value)
            .map_err(failed("writing a chunk's entry"))?;
        let old = old.map(|v| chunk_len(v.value()));
        drop(chunks);
        self.uncount(old);
        self.usage = (self.usage.0 + 1, self.usage.1 + u64::from(len));
        Ok(())
    }

    fn remove_chunk(&mut self, key: &Key) -> Result<(), StoreError> {
        let mut chunks = self.table_mut(CHUNKS)?;
        let old = chunks
            .remove(&key.0)
            .map_err(failed("forgetting a chunk"))?;
        let old = old.map(|v| chunk_len(v.value()));
        drop(chunks);
        self.uncount(old);
        Ok(())
    }

    fn put_reference(&mut self, key: &Key, len: u32, by: &Referrer) -> Result<(), StoreError> {
        self.insert_reference(key, len, by)
    }

    fn remove_reference(&mut self, key: &Key, by: &Referrer) -> Result<(), StoreError> {
        self.delete_reference(key, by)
    }

    fn referrers(&self, key: &Key, limit: usize) -> Result<Vec<Referrer>, StoreError> {
        let all = self.references(&key.0, &key.0, limit)?;
        Ok(all.into_iter().map(|(_, _, by)| by).collect())
    }

    fn next_referrer(&self, after: Option<&Referrer>) -> Result<Option<Referrer>, StoreError> {
        self.referrer_after(after)
    }

    fn referred(
        &self,
        by: &Referrer,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        self.chunks_of(by, after, limit)
    }

    fn entries(&self, slot: Slot) -> Result<Vec<Entry>, StoreError> {
        let action = "reading a slot's entries";
        let keys = keys_of(slot);
        let mut entries = Vec::new();
        for row in self
            .table(CHUNKS)?
            .range::<&[u8; 32]>(&keys.0..=&keys.1)
            .map_err(failed(action))?
        {
            let (key, value) = row.map_err(failed(action))?;
            entries.push(Entry::Chunk {
                key: Key(*key.value()),
                len: chunk_len(value.value()),
            });
        }
        entries.extend(self.reference_entries(&keys.0, &keys.1)?);
        for row in self
            .table(VERSIONS)?
            .range::<&[u8; 32]>(&keys.0..=&keys.1)
            .map_err(failed(action))?
        {
            let (key, value) = row.map_err(failed(action))?;
            entries.push(Entry::Name {
                key: Key(*key.value()),
                version: version(value.value()),
            });
        }
        Ok(entries)
    }

    fn clear_slot(&mut self, slot: Slot) -> Result<Vec<Key>, StoreError> {
        let action = "clearing a slot";
        let (first, last) = keys_of(slot);
        let range = || -> RangeInclusive<&[u8; 32]> { &first..=&last };

        let (mut dropped, mut bytes) = (Vec::new(), 0);
        let mut chunks = self.table_mut(CHUNKS)?;
        for row in chunks.range::<&[u8; 32]>(range()).map_err(failed(action))? {
            let (key, value) = row.map_err(failed(action))?;
            dropped.push(Key(*key.value()));
            bytes += u64::from(chunk_len(value.value()));
        }
        chunks
            .retain_in::<&[u8; 32], _>(range(), |_, _| false)
            .map_err(failed(action))?;
        drop(chunks);
        self.usage = (self.usage.0 - dropped.len() as u64, self.usage.1 - bytes);
        self.clear_references(&first, &last)?;

        let (mut registers, mut names) = (self.table(REGISTERS)?, self.table(NAMES)?);
        for row in registers
            .range::<&[u8; 32]>(range())
            .map_err(failed(action))?
        {
            let (_, value) = row.map_err(failed(action))?;
            let register: Register = decode(value.value(), action)?;
            // An internal name is not there.
            names
                .remove(register.name.as_str())
                .map_err(failed(action))?;
        }
        registers
            .retain_in::<&[u8; 32], _>(range(), |_, _| false)
            .map_err(failed(action))?;
        for table in [VERSIONS, PROMISES] {
            self.table(table)?
                .retain_in::<&[u8; 32], _>(range(), |_, _| false)
                .map_err(failed(action))?;
        }
        self.table(MARKS)?
            .retain_in::<&[u8; 32], _>(range(), |_, _| false)
            .map_err(failed(action))?;
        Ok(dropped)
    }

    fn usage(&self) -> Result<(u64, u64), StoreError> {
        Ok(self.usage)
    }

    fn put_receipt(&mut self, receipt: &Receipt) -> Result<(), StoreError> {
        let (key, value) = (
            receipt_key(receipt.leaver, receipt.slot.number()),
            encode(receipt),
        );
        self.table_mut(RECEIPTS)?
            .insert(&key, value.as_slice())
            .map_err(failed("writing a receipt"))?;
        Ok(())
    }

    fn receipts(&self, leaver: PeerId) -> Result<Vec<Receipt>, StoreError> {
        let action = "reading receipts";
        let (first, last) = (receipt_key(leaver, 0), receipt_key(leaver, u16::MAX));
        let mut receipts = Vec::new();
        for row in self
            .table(RECEIPTS)?
            .range::<&[u8; 18]>(&first..=&last)
            .map_err(failed(action))?
        {
            let (_, value) = row.map_err(failed(action))?;
            receipts.push(decode(value.value(), action)?);
        }
        Ok(receipts)
    }

    fn reset(&mut self) -> Result<(), StoreError> {
        let action = "forgetting everything";
        self.table_mut(META)?
            .remove(IDENTITY)
            .map_err(failed(action))?;
        let pending = self.pending()?;
        let deleted = [
            pending.delete_table(MEMBERS),
            pending.delete_table(SLOTS),
            pending.delete_table(REGISTERS),
            pending.delete_table(VERSIONS),
            pending.delete_table(PROMISES),
            pending.delete_table(MARKS),
            pending.delete_table(NAMES),
            pending.delete_table(CHUNKS),
            pending.delete_table(REFERENCES),
            pending.delete_table(REFERRERS),
            pending.delete_table(RECEIPTS),
        ];
        deleted
            .into_iter()
            .try_for_each(|result| result.map(|_existed| ()))
            .map_err(failed(action))?;
        self.usage = (0, 0);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if !self.waits() {
            self.strict = false;
            return self.pending().map(|_| ());
        }
        self.pending()?;
        match self.write_ahead()? {
            true => Ok(()),
            false => self.sync(),
        }
    }
}

impl DiskStore {
    /// Whether a commit has anything to do.
    pub fn waits(&self) -> bool {
        self.dirty || self.strict && self.ahead.is_some()
    }

    fn uncount(&mut self, old: Option<u32>) {
        if let Some(len) = old {
            self.usage = (self.usage.0 - 1, self.usage.1 - u64::from(len));
        }
    }
}

fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database
        .begin_write()
        .map_err(failed("beginning to write"))?;
    transaction
        .set_durability(redb::Durability::Immediate)
        .map_err(failed("beginning to write"))?;
    // One sync more, of a page, for each commit that the journal does not take. With one phase a commit whose pages have rotted
    // looks like one that a crash interrupted, and the database would go back behind what was promised.
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn failed<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError {
        action,
        reason: error.into().to_string(),
    }
}

fn known_mark(bytes: &[u8; rows::MARK], action: &'static str) -> Result<Pending, StoreError> {
    mark(bytes).ok_or_else(|| damaged(action, "a mark for an unknown consumer"))
}

fn damaged(action: &'static str, what: &str) -> StoreError {
    StoreError {
        action,
        reason: format!("it holds {what}"),
    }
}
