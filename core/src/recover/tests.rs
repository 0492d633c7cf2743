use super::*;
use crate::key::{Position, SLOTS};
use crate::member::{Drain, Liveness};

const HALF: usize = SLOTS as usize / 2;

fn id(n: u128) -> PeerId {
    PeerId(n)
}

fn member(n: u128, liveness: Liveness) -> Member {
    Member {
        id: id(n),
        name: format!("demo-{n}"),
        address: String::new(),
        http: String::new(),
        zone: format!("z{}", n % 3),
        position: Position((n as u64) << 60),
        incarnation: 1,
        liveness,
        drain: Drain::default(),
        version: String::new(),
    }
}

/// Members of which `down` are down.
fn members(all: &[u128], down: &[u128]) -> BTreeMap<PeerId, Member> {
    let liveness = |n: &u128| {
        if down.contains(n) {
            Liveness::Down
        } else {
            Liveness::Active
        }
    };
    all.iter()
        .map(|n| (id(*n), member(*n, liveness(n))))
        .collect()
}

/// The reports of `living`, when `held_by` says who holds each slot.
fn reports(
    living: &[u128],
    members: &BTreeMap<PeerId, Member>,
    held_by: impl Fn(Slot) -> (Vec<u128>, Option<Vec<u128>>),
) -> BTreeMap<PeerId, Report> {
    let ids = |ns: Vec<u128>| -> Vec<PeerId> { ns.into_iter().map(id).collect() };
    let report = |n: &u128| {
        let slots = Slot::all().filter_map(|slot| {
            let (replicas, next) = held_by(slot);
            let config = SlotReport {
                slot,
                epoch: 7,
                replicas: ids(replicas),
                next: next.map(ids),
                synced: true,
            };
            involves(&config, id(*n)).then_some(config)
        });
        Report {
            peer: id(*n),
            slots: slots.collect(),
            leavers: vec![],
            members: members.values().cloned().collect(),
            greatest_epoch: 7,
        }
    };
    living.iter().map(|n| (id(*n), report(n))).collect()
}

fn gone(ns: &[u128]) -> BTreeSet<PeerId> {
    ns.iter().copied().map(id).collect()
}

const TWO_OF_THREE: Replication = Replication {
    factor: 3,
    write: 2,
};

/// Even slots on 1, 2, 3, odd ones on 3, 4, 5.
fn halves(slot: Slot) -> (Vec<u128>, Option<Vec<u128>>) {
    if slot.number().is_multiple_of(2) {
        (vec![1, 2, 3], None)
    } else {
        (vec![3, 4, 5], None)
    }
}

#[test]
fn a_slot_without_a_majority_is_built_from_its_survivor_and_the_others_are_left_alone() {
    let members = members(&[1, 2, 3, 4, 5], &[1, 2]);
    let reports = reports(&[3, 4, 5], &members, halves);
    let (recovery, loss) = recover(&gone(&[1, 2]), &members, &reports, TWO_OF_THREE).unwrap();
    assert_eq!(recovery.gone, [id(1), id(2)]);
    assert_eq!((loss.whole.len(), loss.partial.len()), (0, HALF));
    assert_eq!(recovery.configs.len(), HALF);
    for (slot, config) in &recovery.configs {
        assert!(
            slot.number().is_multiple_of(2),
            "slot {slot} has a majority"
        );
        assert_eq!((&config.replicas, &config.next), (&vec![id(3)], &None));
        assert!(config.epoch >= GENERATION, "the epoch fences the old one");
    }
}

#[test]
fn a_slot_that_nobody_holds_begins_empty_on_those_that_are_left() {
    let members = members(&[1, 2, 3, 4, 5, 6], &[1, 2, 3]);
    let odd = |slot: Slot| {
        if slot.number().is_multiple_of(2) {
            (vec![1, 2, 3], None)
        } else {
            (vec![4, 5, 6], None)
        }
    };
    let reports = reports(&[4, 5, 6], &members, odd);
    let (recovery, loss) = recover(&gone(&[1, 2, 3]), &members, &reports, TWO_OF_THREE).unwrap();
    assert_eq!((loss.whole.len(), loss.partial.len()), (HALF, 0));
    let living = gone(&[4, 5, 6]);
    for (_, config) in &recovery.configs {
        assert_eq!(config.replicas.len(), 3);
        assert!(config.replicas.iter().all(|id| living.contains(id)));
    }
}

#[test]
fn a_newcomer_counts_as_a_survivor() {
    let members = members(&[1, 2, 3, 4], &[1, 2, 3]);
    let moving = |_: Slot| (vec![1, 2, 3], Some(vec![1, 2, 4]));
    let reports = reports(&[4], &members, moving);
    let (recovery, loss) = recover(&gone(&[1, 2, 3]), &members, &reports, TWO_OF_THREE).unwrap();
    assert_eq!(loss.partial.len(), usize::from(SLOTS));
    assert!(recovery.configs.iter().all(|(_, c)| c.replicas == [id(4)]));
}

#[test]
fn nothing_is_given_up_while_a_majority_is_alive() {
    let members = members(&[1, 2, 3, 4, 5], &[1]);
    let reports = reports(&[2, 3, 4, 5], &members, halves);
    assert_eq!(
        recover(&gone(&[1]), &members, &reports, TWO_OF_THREE),
        Err(Refused::NothingStuck)
    );
}

/// Two copies of a chunk are acknowledged, and both may have been on the two that are lost, whatever a majority holds.
#[test]
fn a_majority_that_may_miss_a_chunk_is_built_from_on_order_only() {
    let all = members(&[1, 2, 3, 4, 5, 6, 7], &[1, 2]);
    let told = reports(&[3, 4, 5, 6, 7], &all, |slot| {
        if slot.number().is_multiple_of(2) {
            (vec![1, 2, 3, 4, 5], Some(vec![3, 4, 5, 6, 7]))
        } else {
            (vec![2, 3, 4, 5, 6], None)
        }
    });
    let two_of_five = Replication {
        factor: 5,
        write: 2,
    };
    let found = stuck(&all, &told, two_of_five.write);
    assert!(found.is_empty(), "all can be written: {found:?}");
    assert_eq!(found.thin.len(), HALF);
    assert_eq!(found.missing, gone(&[1, 2]));
    let verdict = replaceable(id(1), "demo-1", &all, &told, two_of_five, false);
    assert!(
        stays(&verdict).contains("cannot be rebuilt while demo-1 and demo-2 are away"),
        "{verdict:?}"
    );
    // One alone is no reason: the other may come back.
    assert_eq!(
        recover(&gone(&[1]), &all, &told, two_of_five),
        Err(Refused::NothingStuck)
    );
    let (recovery, loss) = recover(&gone(&[1, 2]), &all, &told, two_of_five).unwrap();
    assert_eq!((loss.whole.len(), loss.partial.len()), (0, HALF));
    // Whoever caught up while enough were there may be one of the two that a chunk is on.
    let kept: Vec<PeerId> = (3..=7).map(id).collect();
    assert!(recovery.configs.iter().all(|(_, c)| c.replicas == kept));
    let three_of_five = Replication {
        write: 3,
        ..two_of_five
    };
    assert_eq!(
        recover(&gone(&[1, 2]), &all, &told, three_of_five),
        Err(Refused::NothingStuck)
    );
}

#[test]
fn the_living_and_the_silent_stop_it() {
    let all = members(&[1, 2, 3, 4, 5], &[1, 2]);
    let told = reports(&[3, 4, 5], &all, halves);
    assert_eq!(
        recover(&gone(&[2, 3]), &all, &told, TWO_OF_THREE),
        Err(Refused::Alive("demo-3".into()))
    );
    let fewer = reports(&[3, 4], &all, halves);
    assert_eq!(
        recover(&gone(&[1, 2]), &all, &fewer, TWO_OF_THREE),
        Err(Refused::Silent("demo-5".into()))
    );
    // Only one of the two is given up: the other may come back, and the slots' majority with it.
    assert_eq!(
        recover(&gone(&[1]), &all, &told, TWO_OF_THREE),
        Err(Refused::NothingStuck)
    );
    // Slots that nobody reports may be on a peer that is merely away.
    let down = members(&[1, 2, 3, 4, 5, 6], &[1, 2, 3, 6]);
    let told = reports(&[4, 5], &down, |s| {
        if s.number() == 0 {
            (vec![1, 2, 3], None)
        } else {
            (vec![4, 5], None)
        }
    });
    assert_eq!(
        recover(&gone(&[1, 2, 3]), &down, &told, TWO_OF_THREE),
        Err(Refused::Silent("demo-6".into()))
    );
}

#[test]
fn of_each_name_those_that_are_down_are_meant() {
    let mut all = members(&[1, 2, 3, 4, 5], &[1]);
    for newcomer in [4, 5] {
        all.get_mut(&id(newcomer)).unwrap().name = "demo-1".into();
    }
    let meant = |all: &_, begun| identities(["demo-1", "demo-2"], all, begun).unwrap();
    assert_eq!(
        meant(&all, false),
        gone(&[1, 2]),
        "2 is alive, which stops it"
    );
    all.get_mut(&id(1)).unwrap().liveness = Liveness::Left;
    assert_eq!(meant(&all, true), gone(&[1, 2]), "1 was given up");
    assert_eq!(meant(&all, false), gone(&[2, 4, 5]));
    all.get_mut(&id(4)).unwrap().liveness = Liveness::Joining;
    all.get_mut(&id(5)).unwrap().liveness = Liveness::Down;
    assert_eq!(meant(&all, false), gone(&[2, 5]));
    assert_eq!(
        identities(["demo-9"], &all, false),
        Err(Refused::Unknown("demo-9".into()))
    );
}

#[test]
fn a_later_recovery_wins_and_different_configurations_never_share_an_epoch() {
    let slot = Slot::new(0).unwrap();
    let first = proclaimed(slot, 1, vec![id(3)]);
    assert_eq!(first, proclaimed(slot, 1, vec![id(3)]));
    assert_ne!(first.epoch, proclaimed(slot, 1, vec![id(4)]).epoch);
    assert!(first.epoch + GENERATION / 2 < proclaimed(slot, 2, vec![id(3)]).epoch);
    let members = members(&[1, 2, 3, 4, 5], &[1, 2]);
    let mut reports = reports(&[3, 4, 5], &members, halves);
    reports.get_mut(&id(4)).unwrap().greatest_epoch = first.epoch + 9;
    let (recovery, _) = recover(&gone(&[1, 2]), &members, &reports, TWO_OF_THREE).unwrap();
    assert!(
        recovery
            .configs
            .iter()
            .all(|(_, c)| c.epoch >= 2 * GENERATION)
    );
}

#[test]
fn stuck_slots_and_whom_they_miss_are_named() {
    let members = members(&[1, 2, 3, 4, 5], &[1, 2]);
    let told = reports(&[3, 4, 5], &members, halves);
    let found = stuck(&members, &told, 2);
    assert_eq!((found.minority.len(), found.nobody.len()), (HALF, 0));
    assert_eq!(found.missing, gone(&[1, 2]));
    // Silence is no proof that nobody holds the slots that only the silent one would report.
    let fewer = reports(&[4, 5], &members, halves);
    assert!(stuck(&members, &fewer, 2).nobody.is_empty());
}

fn stays(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Stay { blocker, .. } => blocker,
        Verdict::Proved => panic!("proved"),
    }
}

#[test]
fn with_enough_others_a_dead_peer_is_given_up_only_when_no_slot_names_it() {
    let members = members(&[1, 2, 3, 4, 5], &[2]);
    let named = reports(&[1, 3, 4, 5], &members, halves);
    let verdict = replaceable(id(2), "demo-2", &members, &named, TWO_OF_THREE, false);
    assert!(
        stays(&verdict).contains("still held by the leaver"),
        "{verdict:?}"
    );
    let moved = reports(&[1, 3, 4, 5], &members, |_| (vec![1, 3, 4], None));
    assert_eq!(
        replaceable(id(2), "demo-2", &members, &moved, TWO_OF_THREE, false),
        Verdict::Proved
    );
}

/// One peer that has missed the last configuration is not enough to say that the dead takes no part.
#[test]
fn with_too_few_others_one_report_does_not_prove_that_a_slot_lives_elsewhere() {
    let all = members(&[1, 2, 4], &[2, 4]);
    let old = |_: Slot| (vec![1, 2, 3], None);
    let verdict = replaceable(
        id(4),
        "demo-4",
        &all,
        &reports(&[1], &all, old),
        TWO_OF_THREE,
        false,
    );
    assert!(
        stays(&verdict).contains("only 1 of the 2 survivors"),
        "{verdict:?}"
    );
}

#[test]
fn with_too_few_others_the_survivors_must_hold_everything() {
    let all = members(&[1, 2, 3], &[2]);
    let everywhere = |_: Slot| (vec![1, 2, 3], None);
    let told = reports(&[1, 3], &all, everywhere);
    assert_eq!(
        replaceable(id(2), "demo-2", &all, &told, TWO_OF_THREE, false),
        Verdict::Proved
    );
    let mut behind = told.clone();
    behind.get_mut(&id(3)).unwrap().slots[0].synced = false;
    let verdict = replaceable(id(2), "demo-2", &all, &behind, TWO_OF_THREE, false);
    assert!(
        stays(&verdict).contains("only 1 of the 2 survivors"),
        "{verdict:?}"
    );
    let silent = reports(&[1], &all, everywhere);
    stays(&replaceable(
        id(2),
        "demo-2",
        &all,
        &silent,
        TWO_OF_THREE,
        false,
    ));
    let alive = members(&[1, 2, 3], &[]);
    let verdict = replaceable(id(2), "demo-2", &alive, &told, TWO_OF_THREE, false);
    assert!(
        stays(&verdict).contains("not yet known to be down"),
        "{verdict:?}"
    );
    let doomed = |told| replaceable(id(2), "demo-2", &alive, told, TWO_OF_THREE, true);
    assert_eq!(doomed(&told), Verdict::Proved);
    assert!(stays(&doomed(&behind)).contains("only 1 of the 2 survivors"));
}
