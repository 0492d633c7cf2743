//! Giving a slot away: when a copy is frozen, whose word lets it go, and when a leaver has nothing left. Pure, so that the
//! model checker runs what ships.
//!
//! A peer keeps its copy from the moment it learns of the first configuration without it, unchanged, until each replica
//! of that configuration has compared itself with it and said so. What the configurations after that change about who
//! has to say so is in [`SlotRecord::succeed`].

use super::{Frozen, SlotConfig, SlotRecord};
use crate::leave::Receipt;
use crate::member::PeerId;
use crate::message::Root;

impl SlotRecord {
    /// What `me` remembers once it knows the newer configuration `config`. `has_copy`: something of the slot is here, or
    /// `me` is leaving.
    ///
    /// A leaver waits for receipts of empty copies too: they show that those who hold the slot now know it, for nobody can
    /// tell them once a majority of the replicas before has left.
    pub fn succeed(
        old: Option<&SlotRecord>,
        me: PeerId,
        config: SlotConfig,
        has_copy: bool,
    ) -> SlotRecord {
        let mut record = SlotRecord::of(config);
        let Some(old) = old.filter(|_| !record.config.involves(me)) else {
            return record;
        };
        let replicas = record.config.replicas.iter().copied();
        record.frozen = match &old.frozen {
            Some(frozen) => Some(Frozen {
                epoch: frozen.epoch,
                // Whoever is new has to prove it too; whoever is gone need not any more.
                awaiting: replicas
                    .filter(|id| frozen.awaiting.contains(id) || !old.config.replicas.contains(id))
                    .collect(),
            }),
            None if old.config.involves(me) && has_copy => Some(Frozen {
                epoch: record.config.epoch,
                awaiting: replicas.collect(),
            }),
            None => None,
        };
        record
    }
}

impl Frozen {
    /// Takes a receipt that `from` has sent to `me`, whose frozen copy has this root; whether it counts.
    pub fn on_receipt(&mut self, me: PeerId, from: PeerId, receipt: &Receipt, root: Root) -> bool {
        let counts = receipt.receiver == from
            && receipt.leaver == me
            && receipt.epoch == self.epoch
            && receipt.root == root;
        if counts {
            self.awaiting.retain(|id| *id != from);
        }
        counts
    }
}

/// Whether `me`, which knows `config`, may give a receipt for a copy that was frozen at `epoch`: only who knows that
/// configuration, or a later one, and takes part in it.
pub fn may_prove(config: &SlotConfig, me: PeerId, epoch: u64) -> bool {
    config.epoch >= epoch && config.involves(me)
}

/// Whether a peer may write down that it has left for good: it was told to, it knows the configuration of every slot, none
/// of them names it, and it keeps no copy that is not proved to live elsewhere.
///
/// `retired`: those that stay count it as gone, under its newest order. Then nobody proves anything to it any more: it is
/// as if it had died, and each configuration without it was decided only when the newcomer had everything from the others.
/// But nobody's word makes it give up a slot that, as far as it knows, is its own: who retired it may not have heard that
/// the slot was given back.
pub fn may_leave(
    leaving: bool,
    all_known: bool,
    held: usize,
    frozen: usize,
    retired: bool,
) -> bool {
    leaving && all_known && held == 0 && (frozen == 0 || retired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Slot;

    const ME: PeerId = PeerId(3);

    fn ids(n: &[u128]) -> Vec<PeerId> {
        n.iter().copied().map(PeerId).collect()
    }

    fn config(epoch: u64, replicas: &[u128], next: Option<&[u128]>) -> SlotConfig {
        SlotConfig {
            epoch,
            replicas: ids(replicas),
            next: next.map(ids),
        }
    }

    fn frozen(record: &SlotRecord) -> Option<(u64, Vec<PeerId>)> {
        let frozen = record.frozen.clone()?;
        Some((frozen.epoch, frozen.awaiting))
    }

    #[test]
    fn a_copy_is_frozen_by_the_first_configuration_without_it_and_by_no_earlier_one() {
        let held = SlotRecord::of(config(1, &[1, 2, 3], None));
        let moving = config(2, &[1, 2, 3], Some(&[1, 2, 4]));
        let moving = SlotRecord::succeed(Some(&held), ME, moving, true);
        assert_eq!(moving.frozen, None);
        let gone = config(3, &[1, 2, 4], None);
        let left = SlotRecord::succeed(Some(&moving), ME, gone.clone(), true);
        assert_eq!(frozen(&left), Some((3, ids(&[1, 2, 4]))));
        let nothing_to_keep = SlotRecord::succeed(Some(&moving), ME, gone.clone(), false);
        assert_eq!(nothing_to_keep.frozen, None);
        assert_eq!(SlotRecord::succeed(None, ME, gone, true).frozen, None);
        let back = config(5, &[1, 2, 3], None);
        assert_eq!(
            SlotRecord::succeed(Some(&left), ME, back, true).frozen,
            None
        );
    }

    #[test]
    fn who_becomes_a_replica_later_has_to_prove_it_too_and_who_goes_need_not() {
        let mut record = SlotRecord::of(config(3, &[1, 2, 4], None));
        record.frozen = Some(Frozen {
            epoch: 3,
            awaiting: ids(&[2, 4]),
        });
        let after = SlotRecord::succeed(Some(&record), ME, config(5, &[1, 4, 5], None), true);
        assert_eq!(frozen(&after), Some((3, ids(&[4, 5]))));
    }

    #[test]
    fn a_receipt_counts_from_its_receiver_for_this_copy_and_this_freeze_only() {
        let waits = Frozen {
            epoch: 3,
            awaiting: ids(&[1, 2]),
        };
        let right = Receipt {
            leaver: ME,
            drain_epoch: 1,
            slot: Slot::all().next().unwrap(),
            epoch: 3,
            root: [7; 32],
            receiver: PeerId(1),
            chunks: 0,
            bytes: 0,
        };
        let take = |from: u128, receipt: &Receipt| {
            let mut frozen = waits.clone();
            let counts = frozen.on_receipt(ME, PeerId(from), receipt, [7; 32]);
            assert_eq!(counts, frozen.awaiting.len() == 1);
            counts
        };
        assert!(take(1, &right));
        assert!(!take(2, &right), "passed on by somebody else");
        let other = |change: fn(&mut Receipt)| {
            let mut receipt = right.clone();
            change(&mut receipt);
            take(1, &receipt)
        };
        assert!(!other(|r| r.leaver = PeerId(9)));
        assert!(!other(|r| r.epoch = 2), "of an earlier freeze");
        assert!(!other(|r| r.epoch = 4));
        assert!(!other(|r| r.root = [8; 32]), "for another copy");
    }

    #[test]
    fn only_who_knows_the_configuration_and_takes_part_in_it_gives_receipts() {
        let now = config(4, &[1, 2, 4], Some(&[1, 2, 5]));
        assert!(may_prove(&now, PeerId(1), 4));
        assert!(may_prove(&now, PeerId(5), 3));
        assert!(!may_prove(&now, PeerId(1), 5), "it has not heard of it yet");
        assert!(!may_prove(&now, ME, 4));
    }

    #[test]
    fn who_has_anything_left_stays() {
        assert!(may_leave(true, true, 0, 0, false));
        assert!(!may_leave(false, true, 0, 0, false));
        assert!(!may_leave(true, false, 0, 0, false));
        assert!(!may_leave(true, true, 1, 0, false));
        assert!(!may_leave(true, true, 0, 1, false));
        // Retired: nobody gives it receipts any more, but what it knows to be its own it keeps.
        assert!(may_leave(true, true, 0, 1, true));
        assert!(!may_leave(true, true, 1, 0, true));
        assert!(!may_leave(true, false, 0, 1, true));
        assert!(!may_leave(false, true, 0, 1, true));
    }
}
