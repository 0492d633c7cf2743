//! The next step of a slot from the replicas it has to the replicas it should have: a pure function.

use crate::member::PeerId;
use crate::slot::SlotConfig;

/// What a replica may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Answers, and is wanted.
    Eligible,
    /// Answers, but is leaving.
    Leaving,
    /// Does not answer now.
    Absent,
    /// Does not answer, and is not to come back: it was ordered to leave.
    Lost,
    /// Will never answer again.
    Gone,
}

/// The configuration to propose after `config`, or `None` when there is nothing to do (or nothing to do yet).
///
/// `target` is where the slot should live (see [`crate::placement::replicas`]), `caught_up` whether the newcomer of a
/// moving configuration holds everything. One member changes at a time; a newcomer that went away or is no longer
/// wanted is taken back.
pub fn next_config(
    config: &SlotConfig,
    target: &[PeerId],
    factor: usize,
    standing: impl Fn(PeerId) -> Standing,
    caught_up: bool,
) -> Option<SlotConfig> {
    let epoch = config.epoch + 1;
    if let Some(next) = &config.next {
        let newcomer = config.newcomer();
        let wanted =
            newcomer.is_none_or(|id| target.contains(&id) && standing(id) == Standing::Eligible);
        return if !wanted {
            Some(SlotConfig {
                epoch,
                replicas: config.replicas.clone(),
                next: None,
            })
        } else if caught_up {
            Some(SlotConfig {
                epoch,
                replicas: next.clone(),
                next: None,
            })
        } else {
            None
        };
    }
    let newcomer = target
        .iter()
        .copied()
        .find(|id| !config.replicas.contains(id) && standing(*id) == Standing::Eligible);
    let Some(newcomer) = newcomer else {
        return another_owner(config, standing);
    };
    let mut next = config.replicas.clone();
    let unwanted = |id: &&PeerId| !target.contains(id);
    // The dead make room first, before those that may only be away, then those that leave, then those that are merely
    // displaced. With fewer peers than copies there is a newcomer for one of them only: it has to be the one that is waited for.
    let goes = config
        .replicas
        .iter()
        .filter(unwanted)
        .max_by_key(|id| match standing(**id) {
            Standing::Gone => 4,
            Standing::Lost => 3,
            Standing::Absent => 2,
            Standing::Leaving => 1,
            Standing::Eligible => 0,
        });
    match goes {
        // Also where there are fewer than wanted: nothing would take it out later.
        Some(goes) => next.retain(|id| id != goes),
        None if next.len() >= factor => return None,
        None => {}
    }
    next.push(newcomer);
    Some(SlotConfig {
        epoch,
        replicas: config.replicas.clone(),
        next: Some(next),
    })
}

/// The same replicas with an owner that answers (see [`crate::register`]), when the present one does not.
fn another_owner(config: &SlotConfig, standing: impl Fn(PeerId) -> Standing) -> Option<SlotConfig> {
    let silent = |id: &PeerId| {
        matches!(
            standing(*id),
            Standing::Absent | Standing::Lost | Standing::Gone
        )
    };
    let first = config.replicas.iter().position(|id| !silent(id))?;
    (first > 0).then(|| {
        let mut next = renewal(config);
        next.replicas.rotate_left(first);
        next
    })
}

/// The same configuration under a new epoch, so that its owner knows that it has proposed nothing under it yet.
pub fn renewal(config: &SlotConfig) -> SlotConfig {
    SlotConfig {
        epoch: config.epoch + 1,
        ..config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: &[u128]) -> Vec<PeerId> {
        n.iter().copied().map(PeerId).collect()
    }

    fn config(replicas: &[u128], next: Option<&[u128]>) -> SlotConfig {
        SlotConfig {
            epoch: 5,
            replicas: ids(replicas),
            next: next.map(ids),
        }
    }

    #[test]
    fn grows_to_the_factor_one_by_one() {
        let step = next_config(
            &config(&[1], None),
            &ids(&[1, 2, 3]),
            3,
            |_| Standing::Eligible,
            false,
        );
        assert_eq!(
            step,
            Some(SlotConfig {
                epoch: 6,
                replicas: ids(&[1]),
                next: Some(ids(&[1, 2]))
            })
        );
    }

    #[test]
    fn the_dead_make_room_before_the_displaced() {
        let standing = |id: PeerId| {
            if id == PeerId(2) {
                Standing::Absent
            } else {
                Standing::Eligible
            }
        };
        let step = next_config(
            &config(&[1, 2, 3], None),
            &ids(&[4, 5, 6]),
            3,
            standing,
            false,
        );
        assert_eq!(step.unwrap().next, Some(ids(&[1, 3, 4])));
    }

    #[test]
    fn who_was_ordered_to_leave_makes_room_before_who_may_come_back() {
        let standing = |id: PeerId| match id {
            PeerId(2) => Standing::Lost,
            PeerId(4) => Standing::Absent,
            _ => Standing::Eligible,
        };
        for held in [[1, 2, 3, 4, 5], [1, 4, 3, 2, 5]] {
            let wanted = ids(&[1, 3, 5, 6]);
            let step = next_config(&config(&held, None), &wanted, 5, standing, false);
            let next = step.unwrap().next.unwrap();
            assert!(!next.contains(&PeerId(2)) && next.contains(&PeerId(4)));
        }
    }

    #[test]
    fn the_dead_make_room_also_where_copies_are_missing() {
        let standing = |id: PeerId| match id {
            PeerId(2) => Standing::Absent,
            _ => Standing::Eligible,
        };
        let (held, wanted) = (config(&[1, 2, 3, 4], None), ids(&[1, 3, 4, 5]));
        let step = next_config(&held, &wanted, 5, standing, false);
        assert_eq!(step.unwrap().next, Some(ids(&[1, 3, 4, 5])));
    }

    #[test]
    fn a_silent_owner_is_replaced_by_the_next_replica() {
        let standing = |id: PeerId| {
            if id == PeerId(1) {
                Standing::Absent
            } else {
                Standing::Eligible
            }
        };
        let step = next_config(
            &config(&[1, 2, 3], None),
            &ids(&[1, 2, 3]),
            3,
            standing,
            false,
        );
        assert_eq!(step.unwrap().replicas, ids(&[2, 3, 1]));
    }

    #[test]
    fn never_shrinks_without_a_newcomer() {
        let standing = |id: PeerId| {
            if id == PeerId(3) {
                Standing::Leaving
            } else {
                Standing::Eligible
            }
        };
        assert_eq!(
            next_config(&config(&[1, 2, 3], None), &ids(&[1, 2]), 3, standing, false),
            None
        );
    }

    #[test]
    fn a_move_completes_when_caught_up_and_is_taken_back_when_unwanted() {
        let moving = config(&[1, 2, 3], Some(&[1, 2, 4]));
        assert_eq!(
            next_config(&moving, &ids(&[1, 2, 4]), 3, |_| Standing::Eligible, false),
            None
        );
        let done = next_config(&moving, &ids(&[1, 2, 4]), 3, |_| Standing::Eligible, true).unwrap();
        assert_eq!((done.replicas, done.next), (ids(&[1, 2, 4]), None));
        let back = next_config(&moving, &ids(&[1, 2, 3]), 3, |_| Standing::Eligible, true).unwrap();
        assert_eq!((back.replicas, back.next), (ids(&[1, 2, 3]), None));
    }
}
