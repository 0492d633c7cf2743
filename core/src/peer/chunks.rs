//! Chunks at a replica: those a writer brings, those that are missing and have to be fetched, those found bad.

use std::collections::BTreeSet;

use super::{Done, Peer};
use crate::io::{Output, Time};
use crate::key::Key;
use crate::member::PeerId;
use crate::store::Store;

/// A chunk that should be here.
pub(super) struct Wanted {
    len: u32,
    /// Who is known to have it.
    sources: BTreeSet<PeerId>,
    not_before: Time,
}

impl<S: Store> Peer<S> {
    pub(super) fn want(&mut self, key: Key, len: u32, source: PeerId) {
        let now = self.now;
        let wanted = self.sync.wanted.entry(key).or_insert_with(|| Wanted {
            len,
            sources: BTreeSet::new(),
            not_before: now,
        });
        wanted.sources.insert(source);
    }

    pub(super) fn fetch_wanted(&mut self) {
        let free = self
            .settings
            .fetches
            .saturating_sub(self.sync.fetching.len());
        let waiting = self.sync.wanted.iter();
        let due = waiting
            .filter(|(key, w)| w.not_before <= self.now && !self.sync.fetching.contains(key));
        let start: Vec<_> = due
            .take(free)
            .map(|(key, w)| (*key, w.len, w.sources.clone()))
            .collect();
        self.sync
            .fetching
            .extend(start.iter().map(|(key, ..)| *key));
        for (key, len, known) in start {
            let mut sources = self.route(key.slot()).holders;
            let others = known
                .iter()
                .filter(|id| !sources.iter().any(|e| e.id == **id));
            let others: Vec<_> = others.filter_map(|id| self.gossip.endpoint(*id)).collect();
            sources.extend(others);
            sources.retain(|e| e.id != self.me);
            // Those that are known to have it first; the order is else by nearness.
            sources.sort_by_key(|e| !known.contains(&e.id));
            self.out.push(Output::FetchChunk { key, len, sources });
        }
    }

    pub(super) fn on_chunk_fetched(&mut self, key: Key, len: u32) -> Done {
        self.sync.wanted.remove(&key);
        self.sync.fetching.remove(&key);
        let slot = key.slot();
        // It may have moved on, or lost its last reference, in the meantime.
        let referred = !self.store.referrers(&key, 1)?.is_empty();
        if !self.slots.held().contains(&slot) || !referred {
            if self.store.chunk(&key)?.is_none() {
                self.out.push(Output::DropChunks(vec![key]));
            }
            self.fetch_wanted();
            return Ok(());
        }
        self.store.put_chunk(&key, len)?;
        self.slots.touch(slot);
        self.chunk_is_settled(key)?;
        self.fetch_wanted();
        Ok(())
    }

    /// Comparisons need not wait for this chunk any more: it is here, or nothing refers to it.
    pub(super) fn chunk_is_settled(&mut self, key: Key) -> Done {
        let slot = key.slot();
        let waiting: Vec<PeerId> = self
            .sync
            .exchanges
            .iter()
            .filter(|((s, _), e)| *s == slot && e.chunks.contains(&key))
            .map(|((_, p), _)| *p)
            .collect();
        for partner in waiting {
            if let Some(exchange) = self.sync.exchanges.get_mut(&(slot, partner)) {
                exchange.chunks.remove(&key);
                exchange.go_on(self.now, self.settings.retry);
            }
            self.continue_exchange(slot, partner)?;
        }
        Ok(())
    }

    pub(super) fn on_chunk_missed(&mut self, key: Key) -> Done {
        self.sync.fetching.remove(&key);
        if let Some(wanted) = self.sync.wanted.get_mut(&key) {
            wanted.not_before = self.now.after(self.settings.retry);
        }
        self.doubt_references(&key)?;
        self.fetch_wanted();
        Ok(())
    }

    /// The bytes of a chunk are missing or wrong here: it is as if it had never been stored.
    pub(super) fn on_chunk_bad(&mut self, key: Key) -> Done {
        let slot = key.slot();
        if let Some(len) = self.store.chunk(&key)? {
            self.store.remove_chunk(&key)?;
            self.slots.touch(slot);
            if self.slots.held().contains(&slot) {
                // Also where nobody else has it: it is missed then, and what lies here is looked at again, which may have been
                // stored anew since it was read.
                let replicas = self.slots.config(slot).map(|c| c.replicas.clone());
                for id in replicas.unwrap_or_default() {
                    self.want(key, len, id);
                }
                self.doubt(slot);
                self.fetch_wanted();
            }
        }
        Ok(())
    }
}
