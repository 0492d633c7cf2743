//! Giving slots away: a copy that a configuration no longer names is frozen, proved to live elsewhere, and only then
//! dropped. A leaver that has nothing left writes down that it has left. See [`crate::leave`] for the verdict that lets
//! its pod go, and [`crate::slot::handover`] for the rules.

use std::collections::BTreeMap;

use super::{Done, Peer};
use crate::config::SYNC_BATCH;
use crate::io::{Output, Time};
use crate::key::Slot;
use crate::leave::Receipt;
use crate::member::PeerId;
use crate::message::{Message, Root};
use crate::slot::handover::{may_leave, may_prove};
use crate::store::{Entry, Store};

/// A proof somebody asked of us.
#[derive(Clone, Copy)]
struct Asked {
    epoch: u64,
    root: Root,
    drain_epoch: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Handover {
    /// Proofs to give: once a comparison with that peer's frozen copy ends.
    asked: BTreeMap<(Slot, PeerId), Asked>,
    /// When each frozen slot's proof was last asked for.
    last_asked: BTreeMap<Slot, Time>,
    /// Slots with all receipts since the start.
    pub(super) receipted: u32,
}

impl Handover {
    /// Entries of all its tables.
    pub(super) fn entries(&self) -> usize {
        self.asked.len() + self.last_asked.len()
    }
}

impl<S: Store> Peer<S> {
    pub(super) fn drive_handover(&mut self) -> Done {
        let now = self.now;
        let retry = self.settings.retry;
        let due: Vec<Slot> = self
            .slots
            .frozen()
            .iter()
            .filter(|s| {
                self.handover
                    .last_asked
                    .get(s)
                    .is_none_or(|at| at.after(retry) <= now)
            })
            .take(SYNC_BATCH)
            .copied()
            .collect();
        for slot in due {
            self.handover.last_asked.insert(slot, now);
            self.ask_for_proof(slot)?;
        }
        self.leave_when_done()
    }

    fn ask_for_proof(&mut self, slot: Slot) -> Done {
        let Some(record) = self.slots.get(slot) else {
            return Ok(());
        };
        let (config, Some(frozen)) = (record.config.clone(), record.frozen.clone()) else {
            return Ok(());
        };
        if frozen.awaiting.is_empty() {
            return self.release(slot);
        }
        let root = self.root(slot)?;
        let drain = self.myself().drain;
        let drain_epoch = if drain.leaving { drain.epoch } else { 0 };
        for id in frozen.awaiting {
            self.send(
                id,
                Message::Commit {
                    configs: vec![(slot, config.clone())],
                },
            );
            self.send(
                id,
                Message::Prove {
                    slot,
                    epoch: frozen.epoch,
                    root,
                    drain_epoch,
                },
            );
        }
        Ok(())
    }

    /// Receiver: proves at once when the trees are equal, else catches up with the frozen copy first.
    pub(super) fn on_prove(
        &mut self,
        from: PeerId,
        slot: Slot,
        epoch: u64,
        root: Root,
        drain_epoch: u64,
    ) -> Done {
        let Some(config) = self.slots.config(slot) else {
            return Ok(());
        };
        let now_epoch = config.epoch;
        if !may_prove(config, self.me, epoch) {
            return Ok(());
        }
        let mine = self.root(slot)?;
        if mine == root {
            return self.give_receipt(
                from,
                slot,
                Asked {
                    epoch,
                    root,
                    drain_epoch,
                },
            );
        }
        self.handover.asked.insert(
            (slot, from),
            Asked {
                epoch,
                root,
                drain_epoch,
            },
        );
        if self.begin_exchange(slot, from, now_epoch) {
            self.send(
                from,
                Message::SyncRequest {
                    items: vec![(slot, now_epoch, mine)],
                },
            );
        }
        Ok(())
    }

    /// A comparison has ended: everything the other listed is here, at that or a newer version.
    pub(super) fn on_exchange_done(&mut self, slot: Slot, partner: PeerId, root: Root) -> Done {
        match self.handover.asked.remove(&(slot, partner)) {
            // The proof is about the copy that was compared, not about one that has changed since.
            Some(asked) if asked.root == root => self.give_receipt(partner, slot, asked),
            _ => Ok(()),
        }
    }

    fn give_receipt(&mut self, leaver: PeerId, slot: Slot, asked: Asked) -> Done {
        let Asked {
            epoch,
            root,
            drain_epoch,
        } = asked;
        self.handover.asked.remove(&(slot, leaver));
        let (chunks, bytes) = self.count_chunks(slot)?;
        let receipt = Receipt {
            leaver,
            drain_epoch,
            slot,
            epoch,
            root,
            receiver: self.me,
            chunks,
            bytes,
        };
        if drain_epoch > 0 {
            self.store.put_receipt(&receipt)?;
        }
        self.send(leaver, Message::Proved { receipt });
        Ok(())
    }

    pub(super) fn on_proved(&mut self, from: PeerId, receipt: Receipt) -> Done {
        let slot = receipt.slot;
        let Some(mut record) = self.slots.get(slot).cloned() else {
            return Ok(());
        };
        let Some(frozen) = &mut record.frozen else {
            return Ok(());
        };
        let root = self.root(slot)?;
        if !frozen.on_receipt(self.me, from, &receipt, root) {
            return Ok(());
        }
        let done = frozen.awaiting.is_empty();
        self.put_record(slot, record)?;
        if done { self.release(slot) } else { Ok(()) }
    }

    /// All receipts are here: the copy may go.
    fn release(&mut self, slot: Slot) -> Done {
        let Some(mut record) = self.slots.get(slot).cloned() else {
            return Ok(());
        };
        record.frozen = None;
        self.put_record(slot, record)?;
        self.handover.last_asked.remove(&slot);
        self.handover.receipted += 1;
        let keys = self.store.clear_slot(slot)?;
        self.slots.touch(slot);
        // A leaver's volume keeps the bytes: they spare the transfer when its ordinal returns.
        if !self.myself().drain.leaving && !keys.is_empty() {
            self.out.push(Output::DropChunks(keys));
        }
        Ok(())
    }

    /// Leaves for good once no slot names us and no frozen copy is left.
    fn leave_when_done(&mut self) -> Done {
        let me = self.myself();
        let (held, frozen) = (self.slots.held().len(), self.slots.frozen().len());
        let (known, retired) = (self.slots.all_known(), self.gossip.am_retired());
        if (me.is_present() || retired) && may_leave(me.drain.leaving, known, held, frozen, retired)
        {
            return self.leave_for_good();
        }
        Ok(())
    }

    pub(super) fn count_chunks(&self, slot: Slot) -> Result<(u64, u64), crate::store::StoreError> {
        let entries = self.store.entries(slot)?;
        Ok(entries
            .iter()
            .fold((0, 0), |(chunks, bytes), entry| match entry {
                Entry::Chunk { len, .. } => (chunks + 1, bytes + u64::from(*len)),
                Entry::Reference { .. } | Entry::Name { .. } => (chunks, bytes),
            }))
    }
}
