//! Deciding a slot's next configuration: single-decree Paxos ("Paxos Made Simple", section 2), one instance per slot and
//! epoch, among the replicas of the configuration in force. Pure, so that the model checker runs what ships.
//!
//! The newcomer of a moving configuration has no say: every decision for the next epoch passes through a majority of the
//! same set, so two decisions meet.

use super::{Ballot, SlotConfig, SlotRecord};
use crate::member::PeerId;
use crate::quorum::{count, majority};

/// Why an acceptor does not go along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The next configuration is decided already.
    Decided,
    /// This peer is not among those that decide.
    NotAReplica,
    /// Another proposer was promised this greater ballot.
    Promised(Ballot),
}

impl SlotRecord {
    /// First phase: promises to accept nothing below `ballot`, and tells what was accepted.
    pub fn promise(
        &mut self,
        me: PeerId,
        base: &SlotConfig,
        ballot: Ballot,
    ) -> Result<Option<(Ballot, SlotConfig)>, Refusal> {
        if self.config.epoch > base.epoch {
            return Err(Refusal::Decided);
        }
        if !self.config.replicas.contains(&me) {
            return Err(Refusal::NotAReplica);
        }
        if ballot < self.promised {
            return Err(Refusal::Promised(self.promised));
        }
        self.promised = ballot;
        Ok(self.accepted.clone())
    }

    /// Second phase: accepts `config`, unless a greater ballot was promised.
    pub fn accept(
        &mut self,
        me: PeerId,
        base: &SlotConfig,
        ballot: Ballot,
        config: SlotConfig,
    ) -> Result<(), Refusal> {
        self.promise(me, base, ballot)?;
        self.accepted = Some((ballot, config));
        Ok(())
    }
}

/// A configuration being proposed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    /// The configuration in force, whose replicas decide.
    pub base: SlotConfig,
    /// The proposer's ballot.
    pub ballot: Ballot,
    /// What is proposed: our own wish until a promise tells of something accepted earlier.
    pub value: SlotConfig,
    /// Who promised, or in the second phase who accepted.
    answered: Vec<PeerId>,
    /// The greatest ballot accepted earlier, as told by promises.
    earlier: Option<Ballot>,
    accepting: bool,
}

impl Proposal {
    /// A proposal to be prepared.
    pub fn new(base: SlotConfig, ballot: Ballot, value: SlotConfig) -> Self {
        Proposal {
            base,
            ballot,
            value,
            answered: Vec::new(),
            earlier: None,
            accepting: false,
        }
    }

    /// Takes a promise; true when a majority has promised and [`Proposal::value`] is to be accepted.
    pub fn on_promise(
        &mut self,
        from: PeerId,
        epoch: u64,
        ballot: Ballot,
        accepted: Option<(Ballot, SlotConfig)>,
    ) -> bool {
        if self.accepting || !self.is_answered_by(from, epoch, ballot) {
            return false;
        }
        if let Some((earlier, value)) = accepted
            && self.earlier.is_none_or(|e| e < earlier)
        {
            self.earlier = Some(earlier);
            self.value = value;
        }
        self.answered.push(from);
        self.accepting = self.has_majority();
        if self.accepting {
            self.answered.clear();
        }
        self.accepting
    }

    /// Takes an acceptance; true when [`Proposal::value`] is decided.
    pub fn on_accepted(&mut self, from: PeerId, epoch: u64, ballot: Ballot) -> bool {
        if !self.accepting || !self.is_answered_by(from, epoch, ballot) {
            return false;
        }
        self.answered.push(from);
        self.has_majority()
    }

    fn is_answered_by(&self, from: PeerId, epoch: u64, ballot: Ballot) -> bool {
        self.base.epoch == epoch && self.ballot == ballot && !self.answered.contains(&from)
    }

    fn has_majority(&self) -> bool {
        count(&self.base.replicas, &self.answered) >= majority(self.base.replicas.len())
    }
}
