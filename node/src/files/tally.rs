//! Has a chunk been written often enough?

use peernet_core::member::PeerId;
use peernet_core::quorum::chunk_acknowledged;
use peernet_core::slot::SlotConfig;

/// Counts durable copies of one chunk against its slot's configuration; see
/// [`chunk_acknowledged`] for when they are enough.
#[derive(Debug)]
pub(crate) struct Tally {
    config: SlotConfig,
    write: u32,
    /// Each once.
    stored: Vec<PeerId>,
}

impl Tally {
    /// Nothing stored yet.
    pub(crate) fn new(config: SlotConfig, write: u32) -> Self {
        Tally {
            config,
            write,
            stored: Vec::new(),
        }
    }

    /// The chunk is durable at `peer`. Copies outside of the configuration do not count.
    pub(crate) fn stored(&mut self, peer: PeerId) {
        if self.config.involves(peer) && !self.stored.contains(&peer) {
            self.stored.push(peer);
        }
    }

    /// Durable copies so far.
    pub(crate) fn copies(&self) -> usize {
        self.stored.len()
    }

    /// The write may be acknowledged.
    pub(crate) fn reached(&self) -> bool {
        chunk_acknowledged(&self.config, &self.stored, self.write)
    }

    /// The write could still be acknowledged if all replicas but `failed` take the chunk.
    pub(crate) fn reachable(&self, failed: &[PeerId]) -> bool {
        let mut hoped: Vec<PeerId> = self.config.participants();
        hoped.retain(|id| self.stored.contains(id) || !failed.contains(id));
        chunk_acknowledged(&self.config, &hoped, self.write)
    }

    /// The configuration counted against.
    pub(crate) fn config(&self) -> &SlotConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u128]) -> Vec<PeerId> {
        numbers.iter().map(|n| PeerId(*n)).collect()
    }

    fn tally(replicas: &[u128], next: Option<&[u128]>, stored: &[u128]) -> Tally {
        let config = SlotConfig {
            epoch: 1,
            replicas: ids(replicas),
            next: next.map(ids),
        };
        let mut tally = Tally::new(config, 2);
        stored.iter().for_each(|n| tally.stored(PeerId(*n)));
        tally
    }

    #[test]
    fn two_of_three_suffice() {
        assert!(!tally(&[1, 2, 3], None, &[1]).reached());
        assert!(
            !tally(&[1, 2, 3], None, &[1, 1, 9]).reached(),
            "twice the same, or a stranger"
        );
        assert!(tally(&[1, 2, 3], None, &[3, 1]).reached());
    }

    #[test]
    fn while_moving_both_sets_must_have_it() {
        assert!(!tally(&[1, 2, 3], Some(&[1, 4, 5]), &[2, 3]).reached());
        assert!(tally(&[1, 2, 3], Some(&[1, 2, 4]), &[1, 2]).reached());
        assert!(
            !tally(&[1, 2, 3], Some(&[1, 2, 4]), &[1, 3]).reached(),
            "one copy in the second set"
        );
        assert!(tally(&[1, 2, 3], Some(&[1, 2, 4]), &[1, 3, 4]).reached());
        assert!(
            !tally(&[1], Some(&[1, 2]), &[1, 2]).reached(),
            "the second may be taken back"
        );
        assert!(tally(&[1, 2], Some(&[1, 2, 3]), &[1, 2]).reached());
    }

    #[test]
    fn fewer_peers_than_copies_cannot_acknowledge() {
        let tally = tally(&[1], None, &[1]);
        assert!(!tally.reached());
        assert!(!tally.reachable(&[]));
    }

    #[test]
    fn it_shows_early_when_too_many_failed() {
        let tally = tally(&[1, 2, 3], None, &[1]);
        assert!(tally.reachable(&ids(&[2])));
        assert!(!tally.reachable(&ids(&[2, 3])));
    }
}
