//! A peer whose process ended, or whose volume is gone for good.

use peernet_core::recover::{Loss, Refused};

use super::super::replace::{Replacing, accept};
use super::*;
use crate::runner::requests::give_up;

/// Peer 2 crashes again and again; the ring knows that it is down.
fn crashed() -> Observed {
    let mut observed = healthy(5);
    observed.peers[2] = Peer {
        may_start: true,
        ..Peer::default()
    };
    observed.members.get_mut(&id(2)).unwrap().liveness = Liveness::Down;
    observed
}

fn replacing(wiped: bool) -> Decided {
    Decided {
        replacing: Some(Replacing {
            ordinal: 2,
            peer: id(2),
            wiped,
        }),
        ..decided(5, 5)
    }
}

fn sentence(plan: &Plan) -> &str {
    &plan.progress.replacement.as_ref().unwrap().sentence
}

#[test]
fn the_ring_hears_of_a_process_that_ended_until_it_knows() {
    let mut observed = crashed();
    let hint = Action::Hint(id(2));
    assert!(!plan(&decided(5, 5), &observed).actions.contains(&hint));
    observed.members.get_mut(&id(2)).unwrap().liveness = Liveness::Active;
    assert!(plan(&decided(5, 5), &observed).actions.contains(&hint));
}

#[test]
fn only_a_known_and_silent_peer_is_replaced() {
    let asked = |observed: &Observed, name| accept(&decided(5, 5), observed, name);
    assert_eq!(
        asked(&crashed(), "l-2").map(|r| (r.ordinal, r.peer, r.wiped)),
        Ok((2, id(2), false))
    );
    let alive = asked(&healthy(5), "l-2").unwrap_err();
    assert!(alive.contains("alive and answers"), "{alive}");
    assert!(asked(&crashed(), "l-7").is_err());
    assert!(asked(&crashed(), "x-2").is_err());
}

#[test]
fn the_identity_leaves_at_once_and_the_volume_goes_on_proof_only() {
    let mut observed = crashed();
    observed.reports = proofs(3, 0..0);
    let waits = plan(&replacing(false), &observed);
    let drain = Action::Drain {
        peer: id(2),
        epoch: 1,
        leaving: true,
    };
    assert!(waits.actions.contains(&drain), "{:?}", waits.actions);
    assert!(
        waits.actions.contains(&Action::Start(2)),
        "it may come back"
    );
    assert!(sentence(&waits).contains("still depend on it"), "{waits:?}");
    assert!(!waits.progress.settled);
    // The slots have moved to the peers that are left.
    let holders = [id(0), id(1), id(3)];
    for report in observed.reports.values_mut() {
        report
            .slots
            .iter_mut()
            .for_each(|s| s.replicas = holders.to_vec());
    }
    let third = observed.reports[&id(0)].clone();
    observed.reports.insert(
        id(3),
        Report {
            peer: id(3),
            ..third
        },
    );
    observed.reports.remove(&id(2));
    let full = observed.reports[&id(0)].slots.clone();
    if full.len() < Slot::all().count() {
        panic!("three peers hold every slot");
    }
    let goes = plan(&replacing(false), &observed);
    assert!(goes.actions.contains(&Action::Wipe(2)), "{goes:?}");
    assert!(
        !goes.actions.contains(&Action::Start(2)),
        "not on the old volume"
    );
    observed.reports.remove(&id(3));
    let silent = plan(&replacing(false), &observed);
    assert!(
        !silent.actions.contains(&Action::Wipe(2)),
        "silence is no proof"
    );
}

#[test]
fn it_ends_with_a_new_peer_or_with_the_old_one_back() {
    let mut observed = crashed();
    observed.members.get_mut(&id(2)).unwrap().liveness = Liveness::Left;
    let empty = plan(&replacing(true), &observed);
    assert!(empty.actions.contains(&Action::Start(2)));
    assert!(!empty.actions.contains(&Action::EndReplacement));
    observed.peers[2] = ready(7);
    let done = plan(&replacing(true), &observed);
    assert!(done.actions.contains(&Action::EndReplacement), "{done:?}");
    assert!(sentence(&done).contains("new peer"));
    let back = plan(&replacing(false), &healthy(5));
    assert!(back.actions.contains(&Action::EndReplacement));
    assert!(sentence(&back).contains("stays"));
}

#[test]
fn a_volume_on_which_somebody_else_runs_by_now_is_kept() {
    let mut observed = crashed();
    observed.peers[2] = ready(7);
    let waits = plan(&replacing(false), &observed);
    assert!(!waits.actions.contains(&Action::Wipe(2)), "{waits:?}");
    assert!(!waits.actions.contains(&Action::EndReplacement));
    observed.members.get_mut(&id(2)).unwrap().liveness = Liveness::Left;
    let done = plan(&replacing(false), &observed);
    assert!(done.actions.contains(&Action::EndReplacement), "{done:?}");
}

#[test]
fn giving_up_can_be_repeated_for_those_who_did_not_hear() {
    let mut observed = healthy(5);
    observed.reports = proofs(3, 0..0);
    for i in [3, 4] {
        observed.peers[i as usize] = Peer::default();
        observed.members.get_mut(&id(i)).unwrap().liveness = Liveness::Left;
    }
    let given_up = BTreeSet::from([id(3), id(4)]);
    let asked = |observed: &Observed, names: &[&str], before: &BTreeSet<PeerId>| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        give_up(observed, &names, before, Replication::default())
    };
    let both = ["l-3", "l-4"];
    let (gone, (recovery, loss)) = asked(&observed, &both, &BTreeSet::new()).unwrap();
    assert_eq!(gone, given_up);
    assert_eq!(recovery.gone, [id(3), id(4)]);
    assert!(recovery.configs.is_empty() && loss == Loss::default());
    let nobody = asked(&observed, &[], &given_up);
    assert_eq!(nobody, Err(Refused::NothingStuck));
    // One of them has begun anew.
    let newcomer = Member {
        id: PeerId(99),
        ..member(3)
    };
    let report = Report {
        peer: newcomer.id,
        slots: vec![],
        ..observed.reports[&id(0)].clone()
    };
    observed.reports.insert(newcomer.id, report);
    observed.members.insert(newcomer.id, newcomer);
    let (gone, _) = asked(&observed, &both, &given_up).unwrap();
    assert_eq!(gone, given_up);
    let alive = |name: &str| Err(Refused::Alive(name.to_owned()));
    let mistaken = asked(&observed, &both, &BTreeSet::new());
    assert_eq!(mistaken, alive("l-3"));
    assert_eq!(asked(&observed, &["l-1"], &given_up), alive("l-1"));
    observed.members.get_mut(&id(2)).unwrap().liveness = Liveness::Down;
    observed.reports.remove(&id(2));
    let needless = asked(&observed, &["l-2"], &given_up);
    assert_eq!(needless, Err(Refused::NothingStuck));
}

#[test]
fn a_peer_that_is_not_wanted_any_more_is_not_replaced() {
    for wiped in [false, true] {
        let mut observed = crashed();
        observed.reports = proofs(2, 0..0);
        let mut state = replacing(wiped);
        state.wanted = 2;
        let ended = plan(&state, &observed);
        assert!(ended.actions.contains(&Action::EndReplacement), "{ended:?}");
        assert!(!ended.actions.contains(&Action::Wipe(2)), "{ended:?}");
        assert!(sentence(&ended).contains("not wanted any more"));
        let replacement = ended.progress.replacement.unwrap();
        assert!(replacement.over && replacement.dropped);
    }
}
