//! The metadata's disk: a store in memory that outlives the process which uses it, and fails when told to.
//!
//! After an error every call fails until the disk is opened again, as it should be for a driver that never takes a
//! failed sync for a success. What was not committed is then gone, except that a commit which was under way when it
//! all ended may have reached the disk: all of it or nothing.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;

use peernet_core::collect::Referrer;
use peernet_core::key::{Key, Name, Slot};
use peernet_core::leave::Receipt;
use peernet_core::member::{Member, PeerId};
use peernet_core::outbox::{Consumer, Pending};
use peernet_core::register::{Register, Version};
use peernet_core::slot::SlotRecord;
use peernet_core::store::memory::MemoryStore;
use peernet_core::store::{Entry, Identity, Remembered, Store, StoreError};

#[derive(Default)]
struct Inner {
    store: RefCell<MemoryStore>,
    /// So many calls still work.
    fuse: Cell<Option<u32>>,
    broken: Cell<bool>,
    /// Slots that were cleared since the last commit, and what was in them.
    cleared: RefCell<Vec<(Slot, Vec<Entry>)>>,
}

/// A handle: clones share the disk.
#[derive(Clone, Default)]
pub struct Disk(Rc<Inner>);

impl Disk {
    /// What is on it, seen past its faults.
    pub fn contents(&self) -> RefMut<'_, MemoryStore> {
        self.0.store.borrow_mut()
    }

    /// The call after so many more fails with EIO, and so do all later ones until [`Disk::reopen`].
    pub fn fail_after(&self, calls: u32) {
        self.0.fuse.set(Some(calls));
    }

    /// It will not fail after all, unless it has failed already.
    pub fn spare(&self) {
        self.0.fuse.set(None);
    }

    /// The process that used it is gone, and the next may use it. `keep`: what was written but not committed has
    /// reached the disk all the same.
    pub fn reopen(&self, keep: bool) {
        self.0.fuse.set(None);
        self.0.broken.set(false);
        self.0.cleared.take();
        let mut store = self.0.store.borrow_mut();
        if keep {
            store.commit().expect("a store in memory does not fail");
        } else {
            store.crash();
        }
    }

    /// The slots that were cleared lately, with what was in them; once.
    pub fn take_cleared(&self) -> Vec<(Slot, Vec<Entry>)> {
        self.0.cleared.take()
    }

    fn works(&self, action: &'static str) -> Result<(), StoreError> {
        match self.0.fuse.get() {
            Some(0) => self.0.broken.set(true),
            Some(calls) => self.0.fuse.set(Some(calls - 1)),
            None => {}
        }
        if self.0.broken.get() {
            let reason = "input/output error (os error 5)".into();
            return Err(StoreError { action, reason });
        }
        Ok(())
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&MemoryStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.works("reading")?;
        read(&self.0.store.borrow())
    }

    fn write<T>(
        &self,
        write: impl FnOnce(&mut MemoryStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.works("writing")?;
        write(&mut self.0.store.borrow_mut())
    }
}

impl Store for Disk {
    fn identity(&self) -> Result<Option<Identity>, StoreError> {
        self.read(|s| s.identity())
    }

    fn put_identity(&mut self, identity: &Identity) -> Result<(), StoreError> {
        self.write(|s| s.put_identity(identity))
    }

    fn remembered(&self) -> Result<Remembered, StoreError> {
        self.read(|s| s.remembered())
    }

    fn put_member(&mut self, member: &Member) -> Result<(), StoreError> {
        self.write(|s| s.put_member(member))
    }

    fn remove_member(&mut self, id: PeerId) -> Result<(), StoreError> {
        self.write(|s| s.remove_member(id))
    }

    fn put_slot(&mut self, slot: Slot, record: &SlotRecord) -> Result<(), StoreError> {
        self.write(|s| s.put_slot(slot, record))
    }

    fn register(&self, key: &Key) -> Result<Option<Register>, StoreError> {
        self.read(|s| s.register(key))
    }

    fn put_register(&mut self, register: &Register) -> Result<(), StoreError> {
        self.write(|s| s.put_register(register))
    }

    fn promise(&self, key: &Key) -> Result<Option<Version>, StoreError> {
        self.read(|s| s.promise(key))
    }

    fn put_promise(&mut self, key: &Key, ballot: &Version) -> Result<(), StoreError> {
        self.write(|s| s.put_promise(key, ballot))
    }

    fn mark(&self, key: &Key) -> Result<Option<Pending>, StoreError> {
        self.read(|s| s.mark(key))
    }

    fn put_mark(&mut self, key: &Key, mark: Option<&Pending>) -> Result<(), StoreError> {
        self.write(|s| s.put_mark(key, mark))
    }

    fn marks(
        &self,
        slot: Slot,
        consumer: Option<Consumer>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Pending)>, StoreError> {
        self.read(|s| s.marks(slot, consumer, after, limit))
    }

    fn names(
        &self,
        prefix: &str,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Register>, StoreError> {
        self.read(|s| s.names(prefix, after, limit))
    }

    fn chunk(&self, key: &Key) -> Result<Option<u32>, StoreError> {
        self.read(|s| s.chunk(key))
    }

    fn put_chunk(&mut self, key: &Key, len: u32) -> Result<(), StoreError> {
        self.write(|s| s.put_chunk(key, len))
    }

    fn remove_chunk(&mut self, key: &Key) -> Result<(), StoreError> {
        self.write(|s| s.remove_chunk(key))
    }

    fn put_reference(&mut self, key: &Key, len: u32, by: &Referrer) -> Result<(), StoreError> {
        self.write(|s| s.put_reference(key, len, by))
    }

    fn remove_reference(&mut self, key: &Key, by: &Referrer) -> Result<(), StoreError> {
        self.write(|s| s.remove_reference(key, by))
    }

    fn referrers(&self, key: &Key, limit: usize) -> Result<Vec<Referrer>, StoreError> {
        self.read(|s| s.referrers(key, limit))
    }

    fn next_referrer(&self, after: Option<&Referrer>) -> Result<Option<Referrer>, StoreError> {
        self.read(|s| s.next_referrer(after))
    }

    fn referred(
        &self,
        by: &Referrer,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        self.read(|s| s.referred(by, after, limit))
    }

    fn entries(&self, slot: Slot) -> Result<Vec<Entry>, StoreError> {
        self.read(|s| s.entries(slot))
    }

    fn clear_slot(&mut self, slot: Slot) -> Result<Vec<Key>, StoreError> {
        let entries = self.contents().entries(slot)?;
        self.0.cleared.borrow_mut().push((slot, entries));
        self.write(|s| s.clear_slot(slot))
    }

    fn usage(&self) -> Result<(u64, u64), StoreError> {
        self.read(|s| s.usage())
    }

    fn put_receipt(&mut self, receipt: &Receipt) -> Result<(), StoreError> {
        self.write(|s| s.put_receipt(receipt))
    }

    fn receipts(&self, leaver: PeerId) -> Result<Vec<Receipt>, StoreError> {
        self.read(|s| s.receipts(leaver))
    }

    fn reset(&mut self) -> Result<(), StoreError> {
        self.write(|s| s.reset())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.works("committing")?;
        self.0.store.borrow_mut().commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([7; 32]);

    #[test]
    fn a_disk_fails_at_the_call_chosen_and_until_it_is_opened_again() {
        let mut disk = Disk::default();
        disk.put_chunk(&KEY, 1).unwrap();
        disk.commit().unwrap();
        disk.fail_after(1);
        disk.remove_chunk(&KEY).unwrap();
        assert!(disk.commit().is_err() && disk.commit().is_err());
        disk.reopen(false);
        assert_eq!(
            disk.chunk(&KEY).unwrap(),
            Some(1),
            "nothing of it came about"
        );
        disk.fail_after(1);
        disk.remove_chunk(&KEY).unwrap();
        assert!(disk.chunk(&KEY).is_err());
        disk.reopen(true);
        assert_eq!(disk.chunk(&KEY).unwrap(), None, "all of it came about");
    }
}
