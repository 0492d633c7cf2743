//! The messages and timers of deciding slot configurations; the rules are in [`crate::slot::decide`].
//!
//! Whoever comes first among a slot's live replicas drives it. That two peers may think so of themselves costs rounds,
//! never safety.

use std::collections::{BTreeMap, BTreeSet};

use super::{Done, Peer};
use crate::io::Time;
use crate::key::Slot;
use crate::member::PeerId;
use crate::message::Message;
use crate::reconfigure::{next_config, renewal};
use crate::slot::decide::{Proposal, Refusal};
use crate::slot::{Ballot, SlotConfig, SlotRecord};
use crate::store::{Store, StoreError};

/// The proposer's state.
#[derive(Default)]
pub(super) struct Moves {
    /// Each with when it is given up.
    proposals: BTreeMap<Slot, (Proposal, Time)>,
    /// Slots to look at, soonest first.
    todo: BTreeSet<Slot>,
    /// Not before this time, after a refusal.
    backoff: BTreeMap<Slot, Time>,
    /// Rounds seen in refusals.
    rounds: BTreeMap<Slot, u64>,
    /// Newcomers that said they hold everything, by slot: who and at which epoch.
    caught_up: BTreeMap<Slot, (PeerId, u64)>,
    /// Committed here, to be told to everyone.
    announce: Vec<(Slot, SlotConfig)>,
    /// Slots that need a new epoch though nobody moves.
    renew: BTreeSet<Slot>,
    /// When every slot was last looked at.
    swept: Time,
}

impl Moves {
    /// Entries of all its tables.
    pub(super) fn entries(&self) -> usize {
        let Moves {
            proposals,
            todo,
            backoff,
            rounds,
            caught_up,
            announce,
            renew,
            swept: _,
        } = self;
        let maps = proposals.len() + backoff.len() + rounds.len() + caught_up.len();
        maps + todo.len() + announce.len() + renew.len()
    }
}

impl<S: Store> Peer<S> {
    pub(super) fn moves_look_at(&mut self, slot: Slot) {
        self.moves.todo.insert(slot);
    }

    /// Lets the slot have a new epoch, with the same replicas.
    pub(super) fn renew(&mut self, slot: Slot) {
        if self.moves.renew.insert(slot) {
            self.moves.todo.insert(slot);
        }
    }

    pub(super) fn forget_proposal(&mut self, slot: Slot) {
        self.moves.renew.remove(&slot);
        self.moves.proposals.remove(&slot);
        self.moves.rounds.remove(&slot);
        self.moves.backoff.remove(&slot);
        self.moves.caught_up.remove(&slot);
    }

    pub(super) fn drive_moves(&mut self) -> Done {
        let now = self.now;
        let stuck: Vec<Slot> = self
            .moves
            .proposals
            .iter()
            .filter(|(_, (_, deadline))| *deadline <= now)
            .map(|(s, _)| *s)
            .collect();
        for slot in stuck {
            self.moves.proposals.remove(&slot);
            self.moves.todo.insert(slot);
        }
        if self.gossip.changed.after(self.settings.settle) <= now {
            if self.refresh_targets() || self.moves.swept.after(5_000) <= now {
                self.moves.swept = now;
                self.moves.todo.extend(self.slots.held().iter().copied());
            }
            let todo = std::mem::take(&mut self.moves.todo);
            for slot in todo {
                let waits = self.moves.backoff.get(&slot).is_some_and(|at| *at > now);
                if waits || self.moves.proposals.len() >= self.settings.moves {
                    self.moves.todo.insert(slot);
                } else {
                    self.consider(slot);
                }
            }
        }
        self.announce();
        Ok(())
    }

    /// Proposes the slot's next configuration, if it is ours to drive and something is to be done.
    fn consider(&mut self, slot: Slot) {
        let Some(record) = self.slots.get(slot) else {
            return;
        };
        let base = &record.config;
        if self.moves.proposals.contains_key(&slot) || self.driver(base) != Some(self.me) {
            return;
        }
        let caught_up = self
            .moves
            .caught_up
            .get(&slot)
            .is_some_and(|(id, epoch)| base.newcomer() == Some(*id) && *epoch == base.epoch);
        let target = self.slots.target(slot);
        if target.is_empty() {
            return;
        }
        let factor = self.settings.replication.factor as usize;
        let step = next_config(
            base,
            target,
            factor,
            |id| self.gossip.standing(id),
            caught_up,
        );
        let renewed = || self.moves.renew.contains(&slot).then(|| renewal(base));
        let Some(value) = step.or_else(renewed) else {
            return;
        };
        let base = base.clone();
        let seen = self
            .moves
            .rounds
            .get(&slot)
            .copied()
            .unwrap_or(0)
            .max(record.promised.round);
        let ballot = Ballot {
            round: seen + 1,
            proposer: self.me,
        };
        let deadline = self.now.after(self.settings.retry);
        self.send_all(
            &base.replicas,
            &Message::Prepare {
                slot,
                base: base.clone(),
                ballot,
            },
        );
        let proposal = Proposal::new(base, ballot, value);
        self.moves.proposals.insert(slot, (proposal, deadline));
    }

    /// The first of the slot's replicas that answers.
    fn driver(&self, config: &SlotConfig) -> Option<PeerId> {
        config
            .replicas
            .iter()
            .copied()
            .find(|id| self.gossip.is_up(*id))
    }

    /// The record that an acceptor decides with. It knows `base` from now on.
    fn deciding(
        &mut self,
        slot: Slot,
        base: &SlotConfig,
    ) -> Result<Option<SlotRecord>, StoreError> {
        self.adopt(slot, base.clone())?;
        Ok(self.slots.get(slot).cloned())
    }

    /// A proposer that is behind or late hears of it.
    fn refuse(&mut self, from: PeerId, slot: Slot, record: &SlotRecord, refusal: Refusal) {
        let message = match refusal {
            Refusal::Decided => Message::Commit {
                configs: vec![(slot, record.config.clone())],
            },
            Refusal::NotAReplica => return,
            Refusal::Promised(promised) => Message::Refuse {
                slot,
                epoch: record.config.epoch,
                promised,
            },
        };
        self.send(from, message);
    }

    pub(super) fn on_prepare(
        &mut self,
        from: PeerId,
        slot: Slot,
        base: SlotConfig,
        ballot: Ballot,
    ) -> Done {
        let Some(mut record) = self.deciding(slot, &base)? else {
            return Ok(());
        };
        match record.promise(self.me, &base, ballot) {
            Ok(accepted) => {
                self.put_record(slot, record)?;
                let message = Message::Promise {
                    slot,
                    epoch: base.epoch,
                    ballot,
                    accepted,
                };
                self.send(from, message);
            }
            Err(refusal) => self.refuse(from, slot, &record, refusal),
        }
        Ok(())
    }

    pub(super) fn on_promise(
        &mut self,
        from: PeerId,
        slot: Slot,
        epoch: u64,
        ballot: Ballot,
        accepted: Option<(Ballot, SlotConfig)>,
    ) -> Done {
        let Some((p, _)) = self.moves.proposals.get_mut(&slot) else {
            return Ok(());
        };
        if p.on_promise(from, epoch, ballot, accepted) {
            let message = Message::Accept {
                slot,
                base: p.base.clone(),
                ballot,
                config: p.value.clone(),
            };
            let to = p.base.replicas.clone();
            self.send_all(&to, &message);
        }
        Ok(())
    }

    pub(super) fn on_accept(
        &mut self,
        from: PeerId,
        slot: Slot,
        base: SlotConfig,
        ballot: Ballot,
        config: SlotConfig,
    ) -> Done {
        if config.epoch != base.epoch + 1 {
            return Ok(());
        }
        let Some(mut record) = self.deciding(slot, &base)? else {
            return Ok(());
        };
        match record.accept(self.me, &base, ballot, config) {
            Ok(()) => {
                self.put_record(slot, record)?;
                let message = Message::Accepted {
                    slot,
                    epoch: base.epoch,
                    ballot,
                };
                self.send(from, message);
            }
            Err(refusal) => self.refuse(from, slot, &record, refusal),
        }
        Ok(())
    }

    pub(super) fn on_accepted(
        &mut self,
        from: PeerId,
        slot: Slot,
        epoch: u64,
        ballot: Ballot,
    ) -> Done {
        let Some((p, _)) = self.moves.proposals.get_mut(&slot) else {
            return Ok(());
        };
        if !p.on_accepted(from, epoch, ballot) {
            return Ok(());
        }
        let (config, involved) = (p.value.clone(), p.base.participants());
        self.moves.announce.push((slot, config.clone()));
        // Those it concerns hear of it at once, the rest with the next batch.
        let mut to = involved;
        to.extend(
            config
                .participants()
                .into_iter()
                .filter(|id| !self.slots.config(slot).is_some_and(|c| c.involves(*id))),
        );
        to.retain(|id| *id != self.me);
        self.send_all(
            &to,
            &Message::Commit {
                configs: vec![(slot, config.clone())],
            },
        );
        self.adopt(slot, config)?;
        self.consider(slot);
        Ok(())
    }

    pub(super) fn on_refuse(&mut self, slot: Slot, epoch: u64, promised: Ballot) {
        let ours = self
            .moves
            .proposals
            .get(&slot)
            .is_some_and(|(p, _)| p.base.epoch == epoch && p.ballot < promised);
        if ours {
            self.moves.proposals.remove(&slot);
            let round = self.moves.rounds.entry(slot).or_default();
            *round = (*round).max(promised.round);
            // Two proposers that collide draw different waits.
            let wait = self.rng.u64(1..=self.settings.retry);
            self.moves.backoff.insert(slot, self.now.after(wait));
            self.moves.todo.insert(slot);
        }
    }

    pub(super) fn on_caught_up(&mut self, from: PeerId, slots: Vec<(Slot, u64)>) {
        for (slot, epoch) in slots {
            if self
                .slots
                .config(slot)
                .is_some_and(|c| c.epoch == epoch && c.newcomer() == Some(from))
            {
                self.moves.caught_up.insert(slot, (from, epoch));
                self.consider(slot);
            }
        }
    }

    /// Tells everyone what was committed here since the last time.
    fn announce(&mut self) {
        if self.moves.announce.is_empty() {
            return;
        }
        let configs = std::mem::take(&mut self.moves.announce);
        let to: Vec<PeerId> = self
            .gossip
            .others()
            .filter(|m| m.is_present())
            .map(|m| m.id)
            .collect();
        self.send_all(&to, &Message::Commit { configs });
    }

    /// Whether a slot should come to us but is not ours yet.
    pub(super) fn expects_slots(&self) -> bool {
        Slot::all().any(|slot| {
            self.slots.target(slot).contains(&self.me) && !self.slots.held().contains(&slot)
        })
    }
}
