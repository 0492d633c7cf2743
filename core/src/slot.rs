//! A slot's configuration: which peers hold it, decided and not guessed.
//!
//! Each slot has its own chain of configurations. Configuration *e+1* is decided by single-decree Paxos ("Paxos Made
//! Simple", section 2) among the replicas of configuration *e*, so no two configurations of one epoch can exist. A
//! replica set changes by one member at a time and in two steps, as in Raft's joint consensus (Ongaro's dissertation,
//! section 4.3):
//!
//! 1. `{replicas: [A, B, C], next: [A, B, D]}`: every operation needs its quorum in *both* sets, and D catches up.
//! 2. `{replicas: [A, B, D]}`: proposed only when D holds everything that the first set had acknowledged.

use crate::member::PeerId;

pub mod decide;
pub mod handover;

/// A committed (or proposed) configuration of one slot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotConfig {
    /// Counts configurations of this slot, from 1.
    pub epoch: u64,
    /// Who holds the slot; never empty, no duplicates.
    pub replicas: Vec<PeerId>,
    /// While the slot moves: who will hold it.
    pub next: Option<Vec<PeerId>>,
}

impl SlotConfig {
    /// All peers that take part: the replicas and, while moving, the newcomer.
    pub fn participants(&self) -> Vec<PeerId> {
        let mut all = self.replicas.clone();
        for id in self.next.iter().flatten() {
            if !all.contains(id) {
                all.push(*id);
            }
        }
        all
    }

    /// Whether `id` takes part.
    pub fn involves(&self, id: PeerId) -> bool {
        self.replicas.contains(&id) || self.next.iter().flatten().any(|p| *p == id)
    }

    /// The replica whose ballots need no claim (see [`crate::register`]).
    pub fn owner(&self) -> Option<PeerId> {
        self.replicas.first().copied()
    }

    /// The sets in each of which an operation needs its quorum.
    pub fn quorum_sets(&self) -> impl Iterator<Item = &[PeerId]> {
        std::iter::once(self.replicas.as_slice()).chain(self.next.as_deref())
    }

    /// The member that is being added, while moving.
    pub fn newcomer(&self) -> Option<PeerId> {
        self.next
            .iter()
            .flatten()
            .find(|p| !self.replicas.contains(p))
            .copied()
    }
}

/// A Paxos ballot: a round, made unique by its proposer. `Ballot::default()` is below every real one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ballot {
    /// From 1.
    pub round: u64,
    /// Who proposes.
    pub proposer: PeerId,
}

impl Default for Ballot {
    fn default() -> Self {
        Ballot {
            round: 0,
            proposer: PeerId(0),
        }
    }
}

/// What a peer remembers of a slot, durably: the newest committed configuration it knows and, as an acceptor for the
/// next one, its promise and what it accepted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SlotRecord {
    /// Newest committed configuration known here.
    pub config: SlotConfig,
    /// No ballot below this is accepted for epoch `config.epoch + 1`.
    pub promised: Ballot,
    /// Accepted for epoch `config.epoch + 1`.
    pub accepted: Option<(Ballot, SlotConfig)>,
    /// This peer was a replica until this configuration and still keeps its frozen copy, because not all of these
    /// replicas have given their receipt.
    pub frozen: Option<Frozen>,
}

/// A copy that is no longer served but not yet proved to live elsewhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Frozen {
    /// Epoch of the first configuration without this peer.
    pub epoch: u64,
    /// Replicas of that configuration whose receipt is still missing.
    pub awaiting: Vec<PeerId>,
}

impl SlotRecord {
    /// A record that knows only a committed configuration.
    pub fn of(config: SlotConfig) -> Self {
        SlotRecord {
            config,
            promised: Ballot::default(),
            accepted: None,
            frozen: None,
        }
    }
}
