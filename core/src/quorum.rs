//! When enough replicas have answered.
//!
//! An operation under a configuration that is moving needs its quorum in the old *and* in the new replica set, so that
//! it meets every operation of either set (joint consensus).

use crate::member::PeerId;
use crate::slot::SlotConfig;

/// More than half of `n`.
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// Whether `answered` holds a majority of each set of the configuration.
pub fn has_majority(config: &SlotConfig, answered: &[PeerId]) -> bool {
    config
        .quorum_sets()
        .all(|set| count(set, answered) >= majority(set.len()))
}

/// How many members of `set` have answered.
pub fn count(set: &[PeerId], answered: &[PeerId]) -> usize {
    set.iter().filter(|id| answered.contains(id)).count()
}

/// Copies of a chunk a set of `len` replicas must hold before a write is acknowledged with `write` copies wanted: all
/// of them while the network is still smaller than `write`.
pub fn chunk_quorum(len: usize, write: u32) -> usize {
    len.min(write as usize)
}

/// Whether a chunk held durably by `stored` may be acknowledged: W copies in each set, for a newcomer may be taken back.
pub fn chunk_acknowledged(config: &SlotConfig, stored: &[PeerId], write: u32) -> bool {
    config
        .quorum_sets()
        .all(|set| count(set, stored) >= write as usize)
}

/// Whether a name held durably by `stored` may be acknowledged: a majority of each set, and no fewer copies in any than a
/// majority of the replication factor. One copy is no promise, and a newcomer may be taken back.
pub fn name_acknowledged(config: &SlotConfig, stored: &[PeerId], factor: u32) -> bool {
    let copies = majority(factor as usize);
    has_majority(config, stored) && config.quorum_sets().all(|set| count(set, stored) >= copies)
}

/// How many of a set of `len` replicas a newcomer must have caught up with, so that it has met every acknowledged name
/// (a majority) and every acknowledged chunk (R − W + 1).
pub fn catch_up_quorum(len: usize, write: u32) -> usize {
    majority(len).max(len + 1 - chunk_quorum(len, write))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: &[u128]) -> Vec<PeerId> {
        n.iter().copied().map(PeerId).collect()
    }

    #[test]
    fn moving_configurations_need_both_sets() {
        let config = SlotConfig {
            epoch: 2,
            replicas: ids(&[1, 2, 3]),
            next: Some(ids(&[1, 2, 4])),
        };
        assert!(!has_majority(&config, &ids(&[1, 3])));
        assert!(has_majority(&config, &ids(&[1, 2])));
        assert!(has_majority(&config, &ids(&[1, 3, 4])));
        assert!(!chunk_acknowledged(&config, &ids(&[2, 3]), 2));
        assert!(chunk_acknowledged(&config, &ids(&[2, 3, 4]), 2));
    }

    #[test]
    fn a_lone_replica_never_acknowledges_two_copies() {
        let config = SlotConfig {
            epoch: 1,
            replicas: ids(&[1]),
            next: None,
        };
        assert!(!chunk_acknowledged(&config, &ids(&[1]), 2));
    }

    #[test]
    fn copies_at_a_newcomer_do_not_count_for_a_network_that_is_still_too_small() {
        let config = SlotConfig {
            epoch: 3,
            replicas: ids(&[1]),
            next: Some(ids(&[1, 2])),
        };
        assert!(!chunk_acknowledged(&config, &ids(&[1, 2]), 2));
        assert!(!name_acknowledged(&config, &ids(&[1, 2]), 3));
        let config = SlotConfig {
            epoch: 4,
            replicas: ids(&[1, 2]),
            next: None,
        };
        assert!(chunk_acknowledged(&config, &ids(&[1, 2]), 2));
        assert!(name_acknowledged(&config, &ids(&[1, 2]), 3));
        assert!(!name_acknowledged(&config, &ids(&[1]), 3));
    }

    #[test]
    fn every_acknowledged_chunk_is_met_while_catching_up() {
        for len in 1..=7usize {
            for write in 1..=len as u32 {
                assert!(catch_up_quorum(len, write) + write as usize > len);
                assert!(catch_up_quorum(len, write) <= len);
            }
        }
    }
}
