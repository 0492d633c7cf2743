//! The in-memory twin of the disk store: used by the simulator, which crashes it.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::{Entry, Identity, Remembered, Store, StoreError};
use crate::collect::Referrer;
use crate::key::{Key, Name, Slot};
use crate::leave::Receipt;
use crate::member::{Member, PeerId};
use crate::outbox::{Consumer, Pending};
use crate::register::{Register, Version};
use crate::slot::SlotRecord;

#[derive(Clone, Debug, Default)]
struct Tables {
    identity: Option<Identity>,
    members: BTreeMap<PeerId, Member>,
    slots: BTreeMap<Slot, SlotRecord>,
    registers: BTreeMap<Key, Register>,
    names: BTreeMap<String, Key>,
    promises: BTreeMap<Key, Version>,
    marks: BTreeMap<Key, Pending>,
    chunks: BTreeMap<Key, u32>,
    /// By chunk, with the chunk's length; none is without a referrer, which comes before all.
    references: BTreeMap<(Key, Option<Referrer>), u32>,
    /// The same by the hash of the referrer's name.
    referrers: BTreeMap<(Key, Referrer, Key), ()>,
    receipts: BTreeMap<(PeerId, Slot), Receipt>,
}

type Undo = Box<dyn FnOnce(&mut Tables) + Send>;

/// A store in memory. [`MemoryStore::crash`] loses what was not committed, as a power cut would.
#[derive(Default)]
pub struct MemoryStore {
    tables: Tables,
    undo: Vec<Undo>,
}

/// Puts `value` (or nothing) at `key` and remembers how to undo it.
macro_rules! write {
    ($self:ident, $table:ident, $key:expr, $value:expr) => {{
        let key = $key;
        let old = match $value {
            Some(value) => $self.tables.$table.insert(key.clone(), value),
            None => $self.tables.$table.remove(&key),
        };
        $self.undo.push(Box::new(move |t| {
            match old {
                Some(old) => t.$table.insert(key, old),
                None => t.$table.remove(&key),
            };
        }));
    }};
}

impl MemoryStore {
    /// What is remembered of a slot: [`Store::remembered`] without copying all others.
    pub fn slot(&self, slot: Slot) -> Option<&SlotRecord> {
        self.tables.slots.get(&slot)
    }

    /// References to chunks from `first` to `last`.
    fn of_chunks(&self, first: Key, last: Key) -> impl Iterator<Item = (Key, &Referrer, u32)> {
        let all = self.tables.references.range((first, None)..);
        all.take_while(move |((key, _), _)| *key <= last)
            .filter_map(|((key, by), len)| Some((*key, by.as_ref()?, *len)))
    }

    /// Undoes everything since the last commit.
    pub fn crash(&mut self) {
        while let Some(undo) = self.undo.pop() {
            undo(&mut self.tables);
        }
    }
}

impl Store for MemoryStore {
    fn identity(&self) -> Result<Option<Identity>, StoreError> {
        Ok(self.tables.identity.clone())
    }

    fn put_identity(&mut self, identity: &Identity) -> Result<(), StoreError> {
        let old = self.tables.identity.replace(identity.clone());
        self.undo.push(Box::new(move |t| t.identity = old));
        Ok(())
    }

    fn remembered(&self) -> Result<Remembered, StoreError> {
        Ok(Remembered {
            members: self.tables.members.values().cloned().collect(),
            slots: self
                .tables
                .slots
                .iter()
                .map(|(s, r)| (*s, r.clone()))
                .collect(),
        })
    }

    fn put_member(&mut self, member: &Member) -> Result<(), StoreError> {
        write!(self, members, member.id, Some(member.clone()));
        Ok(())
    }

    fn remove_member(&mut self, id: PeerId) -> Result<(), StoreError> {
        write!(self, members, id, None);
        for receipt in self.receipts(id)? {
            write!(self, receipts, (id, receipt.slot), None);
        }
        Ok(())
    }

    fn put_slot(&mut self, slot: Slot, record: &SlotRecord) -> Result<(), StoreError> {
        write!(self, slots, slot, Some(record.clone()));
        Ok(())
    }

    fn register(&self, key: &Key) -> Result<Option<Register>, StoreError> {
        Ok(self.tables.registers.get(key).cloned())
    }

    fn put_register(&mut self, register: &Register) -> Result<(), StoreError> {
        let key = Key::of_name(&register.name);
        if !register.name.is_internal() {
            write!(self, names, register.name.as_str().to_owned(), Some(key));
        }
        write!(self, registers, key, Some(register.clone()));
        if self
            .tables
            .promises
            .get(&key)
            .is_some_and(|p| *p <= register.version)
        {
            write!(self, promises, key, None);
        }
        Ok(())
    }

    fn promise(&self, key: &Key) -> Result<Option<Version>, StoreError> {
        Ok(self.tables.promises.get(key).copied())
    }

    fn put_promise(&mut self, key: &Key, ballot: &Version) -> Result<(), StoreError> {
        write!(self, promises, *key, Some(*ballot));
        Ok(())
    }

    fn mark(&self, key: &Key) -> Result<Option<Pending>, StoreError> {
        Ok(self.tables.marks.get(key).copied())
    }

    fn put_mark(&mut self, key: &Key, mark: Option<&Pending>) -> Result<(), StoreError> {
        write!(self, marks, *key, mark.copied());
        Ok(())
    }

    fn marks(
        &self,
        slot: Slot,
        consumer: Option<Consumer>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Pending)>, StoreError> {
        let marks = self.tables.marks.range(slot.keys());
        Ok(marks
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .filter(|(_, mark)| consumer.is_none_or(|c| mark.consumers.has(c)))
            .take(limit)
            .map(|(key, mark)| (*key, *mark))
            .collect())
    }

    fn names(
        &self,
        prefix: &str,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Register>, StoreError> {
        let from = after.map_or(prefix, |a| a.as_str().max(prefix)).to_owned();
        Ok(self
            .tables
            .names
            .range(from..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(name, _)| after.is_none_or(|a| name.as_str() > a.as_str()))
            .take(limit)
            .map(|(_, key)| self.tables.registers[key].clone())
            .collect())
    }

    fn chunk(&self, key: &Key) -> Result<Option<u32>, StoreError> {
        Ok(self.tables.chunks.get(key).copied())
    }

    fn put_chunk(&mut self, key: &Key, len: u32) -> Result<(), StoreError> {
        write!(self, chunks, *key, Some(len));
        Ok(())
    }

    fn remove_chunk(&mut self, key: &Key) -> Result<(), StoreError> {
        write!(self, chunks, *key, None);
        Ok(())
    }

    fn put_reference(&mut self, key: &Key, len: u32, by: &Referrer) -> Result<(), StoreError> {
        write!(self, references, (*key, Some(by.clone())), Some(len));
        write!(
            self,
            referrers,
            (Key::of_name(&by.name), by.clone(), *key),
            Some(())
        );
        Ok(())
    }

    fn remove_reference(&mut self, key: &Key, by: &Referrer) -> Result<(), StoreError> {
        write!(self, references, (*key, Some(by.clone())), None);
        write!(
            self,
            referrers,
            (Key::of_name(&by.name), by.clone(), *key),
            None
        );
        Ok(())
    }

    fn referrers(&self, key: &Key, limit: usize) -> Result<Vec<Referrer>, StoreError> {
        let all = self.of_chunks(*key, *key);
        Ok(all.take(limit).map(|(_, by, _)| by.clone()).collect())
    }

    fn next_referrer(&self, after: Option<&Referrer>) -> Result<Option<Referrer>, StoreError> {
        let after = after.map(|by| (Key::of_name(&by.name), by.clone(), Key([0xff; 32])));
        let from = after.map_or(Unbounded, Excluded);
        let next = self.tables.referrers.range((from, Unbounded)).next();
        Ok(next.map(|((_, by, _), ())| by.clone()))
    }

    fn referred(
        &self,
        by: &Referrer,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        let name = Key::of_name(&by.name);
        let from = (name, by.clone(), after.copied().unwrap_or(Key([0; 32])));
        let rest = self.tables.referrers.range((Excluded(from), Unbounded));
        Ok(rest
            .take_while(|((n, r, _), ())| *n == name && r == by)
            .take(limit)
            .map(|((_, _, key), ())| *key)
            .collect())
    }

    fn entries(&self, slot: Slot) -> Result<Vec<Entry>, StoreError> {
        let chunks = self
            .tables
            .chunks
            .range(slot.keys())
            .map(|(key, len)| Entry::Chunk {
                key: *key,
                len: *len,
            });
        let names = self.tables.registers.range(slot.keys());
        let names = names.map(|(key, r)| Entry::Name {
            key: *key,
            version: r.version,
        });
        let (first, last) = (*slot.keys().start(), *slot.keys().end());
        let references = self
            .of_chunks(first, last)
            .map(|(key, by, len)| Entry::Reference {
                key,
                len,
                by: by.clone(),
            });
        Ok(chunks.chain(references).chain(names).collect())
    }

    fn clear_slot(&mut self, slot: Slot) -> Result<Vec<Key>, StoreError> {
        let chunks: Vec<Key> = self
            .tables
            .chunks
            .range(slot.keys())
            .map(|(k, _)| *k)
            .collect();
        for key in &chunks {
            write!(self, chunks, *key, None);
        }
        let (first, last) = (*slot.keys().start(), *slot.keys().end());
        let references: Vec<(Key, Referrer)> = self
            .of_chunks(first, last)
            .map(|(key, by, _)| (key, by.clone()))
            .collect();
        for (key, by) in references {
            self.remove_reference(&key, &by)?;
        }
        let promises: Vec<Key> = self
            .tables
            .promises
            .range(slot.keys())
            .map(|(k, _)| *k)
            .collect();
        for key in promises {
            write!(self, promises, key, None);
        }
        for (key, _) in self.marks(slot, None, None, usize::MAX)? {
            write!(self, marks, key, None);
        }
        let names: Vec<(Key, String)> = self
            .tables
            .registers
            .range(slot.keys())
            .map(|(k, r)| (*k, r.name.as_str().to_owned()))
            .collect();
        for (key, name) in names {
            write!(self, registers, key, None);
            write!(self, names, name, None);
        }
        Ok(chunks)
    }

    fn usage(&self) -> Result<(u64, u64), StoreError> {
        let bytes = self.tables.chunks.values().map(|len| u64::from(*len)).sum();
        Ok((self.tables.chunks.len() as u64, bytes))
    }

    fn put_receipt(&mut self, receipt: &Receipt) -> Result<(), StoreError> {
        write!(
            self,
            receipts,
            (receipt.leaver, receipt.slot),
            Some(receipt.clone())
        );
        Ok(())
    }

    fn receipts(&self, leaver: PeerId) -> Result<Vec<Receipt>, StoreError> {
        let all = self.tables.receipts.values();
        Ok(all.filter(|r| r.leaver == leaver).cloned().collect())
    }

    fn reset(&mut self) -> Result<(), StoreError> {
        let old = std::mem::take(&mut self.tables);
        self.undo.push(Box::new(move |t| *t = old));
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.undo.clear();
        Ok(())
    }
}
