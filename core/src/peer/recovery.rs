//! Carrying out a recovery that somebody has decided (see [`crate::recover`]): the only way a configuration comes into
//! force without a majority of the one before, and an identity leaves without a word of its own.

use super::{Done, Peer};
use crate::member::{Liveness, Member, PeerId};
use crate::recover::Recovery;
use crate::store::{Store, StoreError};

impl<S: Store> Peer<S> {
    /// Who is to be given up but present here, this peer included; if nobody is, it is done. Idempotent: a configuration
    /// that is not newer than the one known changes nothing.
    pub(super) fn on_recovery(&mut self, recovery: Recovery) -> Result<Vec<PeerId>, StoreError> {
        let Recovery { gone, configs } = recovery;
        let alive = |id: &&PeerId| **id == self.me || self.gossip.is_up(**id);
        let alive: Vec<PeerId> = gone.iter().filter(alive).copied().collect();
        if alive.is_empty() {
            self.retire(&gone)?;
            self.on_commit(configs)?;
        }
        Ok(alive)
    }

    fn retire(&mut self, gone: &[PeerId]) -> Done {
        let known = |id: &&PeerId| {
            let member: Option<&Member> = self.gossip.get(**id);
            member.is_some_and(|m| m.liveness != Liveness::Left)
        };
        let known: Vec<PeerId> = gone.iter().filter(known).copied().collect();
        known
            .into_iter()
            .try_for_each(|id| self.believe(id, Liveness::Left))
    }
}
