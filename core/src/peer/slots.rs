//! The table of slots: the newest committed configuration this peer knows of each. For slots it takes part in, the
//! record is durable and authoritative; for the others it is a hint, corrected by whoever is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Done, Peer};
use crate::io::Route;
use crate::key::{Key, SLOTS, Slot};
use crate::member::PeerId;
use crate::message::{Message, Root};
use crate::placement::{Candidate, replicas};
use crate::slot::{SlotConfig, SlotRecord};
use crate::store::{Store, StoreError};

/// Configurations in one answer to a table of epochs; about 100 KiB.
const CONFIGS_PER_MESSAGE: usize = 1_024;

/// See the module's documentation.
pub(super) struct Slots {
    me: PeerId,
    records: Vec<Option<SlotRecord>>,
    roots: Vec<Option<Root>>,
    /// Slots whose configuration names this peer.
    held: BTreeSet<Slot>,
    /// Slots with a frozen copy here.
    frozen: BTreeSet<Slot>,
    /// Where each slot should live, as of `targets_version`.
    targets: Vec<Vec<PeerId>>,
    targets_version: u64,
    /// Sum of all epochs.
    version: u64,
    digest: u64,
    /// The epochs of all slots, if they were asked for since the last change.
    epochs: Option<Arc<[u64]>>,
    known: usize,
}

impl Slots {
    pub(super) fn new(me: PeerId, remembered: Vec<(Slot, SlotRecord)>) -> Self {
        let mut slots = Slots {
            me,
            records: vec![None; SLOTS.into()],
            roots: vec![None; SLOTS.into()],
            held: BTreeSet::new(),
            frozen: BTreeSet::new(),
            targets: Vec::new(),
            targets_version: 0,
            version: 0,
            digest: 0,
            epochs: None,
            known: 0,
        };
        for (slot, record) in remembered {
            slots.set(slot, record);
        }
        slots
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&SlotRecord> {
        self.records[slot.index()].as_ref()
    }

    pub(super) fn config(&self, slot: Slot) -> Option<&SlotConfig> {
        self.get(slot).map(|r| &r.config)
    }

    /// Slots whose configuration names this peer.
    pub(super) fn held(&self) -> &BTreeSet<Slot> {
        &self.held
    }

    pub(super) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    pub(super) fn frozen(&self) -> &BTreeSet<Slot> {
        &self.frozen
    }

    /// Whether every slot has a known configuration.
    pub(super) fn all_known(&self) -> bool {
        self.known == usize::from(SLOTS)
    }

    /// Whether any known configuration names that peer.
    pub(super) fn names(&self, id: PeerId) -> bool {
        self.records.iter().flatten().any(|r| r.config.involves(id))
    }

    /// Grows with each configuration learned.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Equal tables have equal digests, and different ones, but for chance, different digests.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The epoch known of a slot; 0 for none.
    pub(super) fn epoch(&self, slot: Slot) -> u64 {
        self.config(slot).map_or(0, |c| c.epoch)
    }

    /// The epoch known of each slot.
    pub(super) fn epochs(&mut self) -> Arc<[u64]> {
        let table = self.epochs.take();
        let table = table.unwrap_or_else(|| Slot::all().map(|slot| self.epoch(slot)).collect());
        self.epochs = Some(Arc::clone(&table));
        table
    }

    /// Where the slot should live, as far as computed.
    pub(super) fn target(&self, slot: Slot) -> &[PeerId] {
        self.targets.get(slot.index()).map_or(&[], Vec::as_slice)
    }

    /// Whether it has been worked out where slots should live.
    pub(super) fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }

    fn set(&mut self, slot: Slot, record: SlotRecord) {
        let old = self.epoch(slot);
        let new = record.config.epoch;
        self.known += usize::from(self.records[slot.index()].is_none());
        if new != old {
            self.version = self.version.wrapping_add(new - old);
            self.epochs = None;
            self.digest ^= fingerprint(slot, old) ^ fingerprint(slot, new);
        }
        if record.config.involves(self.me) {
            self.held.insert(slot)
        } else {
            self.held.remove(&slot)
        };
        if record.frozen.is_some() {
            self.frozen.insert(slot)
        } else {
            self.frozen.remove(&slot)
        };
        self.records[slot.index()] = Some(record);
    }

    /// The copy of this slot has changed.
    pub(super) fn touch(&mut self, slot: Slot) {
        self.roots[slot.index()] = None;
    }
}

/// What of a table's digest is one slot's.
fn fingerprint(slot: Slot, epoch: u64) -> u64 {
    if epoch == 0 {
        return 0;
    }
    let mut h = blake3::Hasher::new();
    h.update(&(slot.index() as u64).to_be_bytes());
    h.update(&epoch.to_be_bytes());
    Key::of(&h).number()
}

impl<S: Store> Peer<S> {
    /// Keeps a record, durably.
    pub(super) fn put_record(&mut self, slot: Slot, record: SlotRecord) -> Done {
        self.store.put_slot(slot, &record)?;
        self.slots.set(slot, record);
        Ok(())
    }

    pub(super) fn on_commit(&mut self, configs: Vec<(Slot, SlotConfig)>) -> Done {
        configs
            .into_iter()
            .try_for_each(|(slot, config)| self.adopt(slot, config))
    }

    /// Takes over a committed configuration if it is newer than ours.
    pub(super) fn adopt(&mut self, slot: Slot, config: SlotConfig) -> Done {
        let old = self.slots.get(slot).cloned();
        if old.as_ref().is_some_and(|r| r.config.epoch >= config.epoch) {
            return Ok(());
        }
        let involved = config.involves(self.me);
        let was = old.as_ref().is_some_and(|r| r.config.involves(self.me));
        let goes = was && !involved;
        let has_copy =
            goes && (self.myself().drain.leaving || !self.store.entries(slot)?.is_empty());
        let record = SlotRecord::succeed(old.as_ref(), self.me, config, has_copy);
        if involved || was || record.frozen.is_some() || old.is_some_and(|r| r.frozen.is_some()) {
            self.put_record(slot, record)?;
        } else {
            self.slots.set(slot, record);
        }
        if involved && !was {
            self.look_for_marks(slot)?;
        }
        self.forget_proposal(slot);
        self.forget_readers(slot);
        self.moves_look_at(slot);
        self.restart_sync(slot, true);
        Ok(())
    }

    pub(super) fn on_slot_epochs(&mut self, from: PeerId, epochs: Vec<u64>) {
        let mut newer = Vec::new();
        let mut missed = false;
        for (slot, theirs) in Slot::all().zip(epochs) {
            let config = self.slots.config(slot);
            if let Some(config) = config.filter(|c| c.epoch > theirs) {
                newer.push((slot, config.clone()));
            }
            missed |= self.slots.epoch(slot) < theirs;
        }
        if missed && self.gossip.is_gone(from) {
            // With others comparing begins on either side; with those that were retired only on theirs.
            self.offer_slots(from);
        }
        self.tell_configs(from, newer);
    }

    /// Tells committed configurations to whoever lacks them.
    pub(super) fn tell_configs(&mut self, to: PeerId, mut configs: Vec<(Slot, SlotConfig)>) {
        while !configs.is_empty() {
            let rest = configs.split_off(configs.len().min(CONFIGS_PER_MESSAGE));
            self.send(to, Message::Commit { configs });
            configs = rest;
        }
    }

    /// The Merkle root of our copy of a slot.
    pub(super) fn root(&mut self, slot: Slot) -> Result<Root, StoreError> {
        if let Some(root) = self.slots.roots[slot.index()] {
            return Ok(root);
        }
        let root = crate::merkle::root(&self.store.entries(slot)?);
        self.slots.roots[slot.index()] = Some(root);
        Ok(root)
    }

    /// Works out anew where each slot should live, if who may hold slots has changed. True when it did.
    pub(super) fn refresh_targets(&mut self) -> bool {
        let (now, grace) = (self.now, self.settings.grace);
        let mut ring: Vec<_> = self
            .gossip
            .all()
            .filter(|m| self.gossip.is_wanted(m, now, grace))
            .collect();
        ring.sort_by_key(|m| m.ring_key());
        let mut version = blake3::Hasher::new();
        for m in &ring {
            version
                .update(&m.id.0.to_be_bytes())
                .update(m.zone.as_bytes());
        }
        let version = Key::of(&version).number();
        if version == self.slots.targets_version {
            return false;
        }
        let ring: Vec<Candidate<'_>> = ring.iter().map(|m| Candidate::from(*m)).collect();
        let factor = self.settings.replication.factor as usize;
        self.slots.targets = Slot::all()
            .map(|slot| replicas(slot, &ring, factor))
            .collect();
        self.slots.targets_version = version;
        true
    }

    /// Who holds a slot, nearest first.
    pub(super) fn route(&self, slot: Slot) -> Route {
        let config = self.slots.config(slot).cloned();
        let zone = &self.myself().zone;
        let mut holders: Vec<_> = config
            .iter()
            .flat_map(SlotConfig::participants)
            .filter_map(|id| self.gossip.endpoint(id))
            .collect();
        // A newcomer that may not have everything yet is asked last among those that are up.
        let newcomer = config.as_ref().and_then(SlotConfig::newcomer);
        holders.sort_by_key(|e| {
            let near = self.gossip.get(e.id).is_some_and(|m| m.zone == *zone);
            (!e.up, Some(e.id) == newcomer, e.id != self.me, !near)
        });
        Route {
            slot,
            config,
            holders,
        }
    }
}
