//! Peers that went away: hints, replacement, recovery, and what that means for scaling.

use peernet_core::member::{Hint, Liveness};
use peernet_crd::ReplacementStatus;

use super::super::fixture::{
    founded, id, leaving, remembering, report, running, waiting, with_reports,
};
use super::super::{Hints, Outcome, Plan, Replace, plan};
use crate::observed::Disk;
use crate::observed::{Claim, Observed};

/// Five peers, of which demo-2's process has ended; the ring does not know yet.
fn crashed() -> Observed {
    let mut observed = founded(5, 5);
    let pod = observed.pods.get_mut(&2).unwrap();
    (pod.answer, pod.ready, pod.started) = (None, false, false);
    observed
}

fn is(observed: &mut Observed, ordinal: u32, liveness: Liveness) {
    observed.members.get_mut(&id(ordinal)).unwrap().liveness = liveness;
}

fn hinted(observed: &Observed) -> Vec<(u32, Hint)> {
    let Hints { hints, tell } = plan(observed).hints;
    assert!(tell.len() <= 3, "a few are enough: {tell:?}");
    assert_eq!(tell.is_empty(), hints.is_empty());
    let ordinal = |peer| (0..9).find(|o| id(*o) == peer).unwrap();
    hints
        .into_iter()
        .map(|(peer, hint)| (ordinal(peer), hint))
        .collect()
}

#[test]
fn the_ring_is_told_of_a_process_that_ended_until_it_knows() {
    let mut observed = crashed();
    assert_eq!(hinted(&observed), [(2, Hint::Gone)]);
    is(&mut observed, 2, Liveness::Down);
    assert_eq!(hinted(&observed), []);
    observed.pods.insert(2, running(2));
    assert_eq!(hinted(&observed), [(2, Hint::Back)]);
}

#[test]
fn a_pod_or_node_that_is_gone_and_a_successor_are_hints() {
    let mut pod = crashed();
    pod.pods.remove(&2);
    assert_eq!(hinted(&pod), [(2, Hint::Gone)]);
    let mut node = crashed();
    node.pods.get_mut(&2).unwrap().started = true;
    assert_eq!(hinted(&node), [], "it is only silent, which pings see too");
    node.lost_nodes.insert("node-2".into());
    assert_eq!(hinted(&node), [(2, Hint::Gone)]);
    let mut successor = founded(5, 5);
    successor.pods.insert(2, waiting(2));
    assert_eq!(hinted(&successor), [(2, Hint::Gone)]);
    let mut unread = crashed();
    unread.set = None;
    assert_eq!(hinted(&unread), [], "no pods were read");
}

fn replacing(observed: &Observed) -> Replace {
    plan(observed).replace.expect("it was asked for")
}

fn message(observed: &Observed) -> String {
    replacing(observed).status.expect("it is under way").message
}

/// demo-2 is down to all, somebody asks to replace it.
fn asked() -> Observed {
    let mut observed = crashed();
    is(&mut observed, 2, Liveness::Down);
    observed.network.asked.replace = Some("demo-2".into());
    observed.claim = Some(Claim {
        uid: "claim-1".into(),
        deleting: false,
    });
    observed
}

/// The same, once it has been written to the status.
fn accepted() -> Observed {
    let mut observed = asked();
    observed.network.status.replacement = replacing(&observed).status;
    observed
}

/// Reports of the survivors, with all slots on these three.
fn reported(mut observed: Observed, holders: &[u32]) -> Observed {
    observed.reports = [0, 1, 3, 4]
        .map(|o| (id(o), report(o, holders, &[])))
        .into();
    observed
}

#[test]
fn a_replacement_is_written_down_before_anything_is_done() {
    let observed = asked();
    let Plan {
        replace, orders, ..
    } = plan(&observed);
    let replace = replace.unwrap();
    let status = replace.status.unwrap();
    assert_eq!(
        (
            status.pod.as_str(),
            status.peer,
            status.claim_uid.as_deref()
        ),
        ("demo-2", id(2).to_string(), Some("claim-1"))
    );
    assert_eq!((replace.removal, replace.outcome), (None, None));
    assert!(orders.is_empty(), "it is not in the status yet");
}

#[test]
fn the_dead_identity_leaves_at_once_and_its_volume_goes_on_proof_only() {
    let observed = reported(accepted(), &[0, 1, 2]);
    let first = plan(&observed);
    let [order] = first.orders.as_slice() else {
        panic!("{:?}", first.orders)
    };
    assert!(order.peer == id(2) && order.leaving);
    assert!(message(&observed).contains("4096 slots still depend on demo-2"));
    assert_eq!(replacing(&observed).removal, None);
    let moved = reported(observed, &[0, 1, 3]);
    let removal = replacing(&moved).removal.expect("it is proved");
    assert_eq!(removal.claim.as_deref(), Some("claim-1"));
    assert_eq!(removal.pod_uid.as_deref(), Some("pod-2"));
    assert!(!removal.force);
    let mut silent = moved.clone();
    silent.reports.remove(&id(3));
    assert_eq!(replacing(&silent).removal, None, "silence is no proof");
    let mut present = moved;
    is(&mut present, 2, Liveness::Suspect);
    assert_eq!(replacing(&present).removal, None);
}

#[test]
fn a_node_that_is_gone_needs_force() {
    let mut observed = reported(accepted(), &[0, 1, 3]);
    observed.lost_nodes.insert("node-2".into());
    assert!(replacing(&observed).removal.unwrap().force);
}

#[test]
fn a_crash_of_the_operator_never_costs_the_new_volume() {
    let mut observed = reported(accepted(), &[0, 1, 3]);
    observed.claim = Some(Claim {
        uid: "claim-1".into(),
        deleting: true,
    });
    let again = replacing(&observed).removal.unwrap();
    assert_eq!(
        (again.claim, again.pod_uid.as_deref()),
        (None, Some("pod-2"))
    );
    observed.claim = Some(Claim {
        uid: "claim-2".into(),
        deleting: false,
    });
    assert_eq!(replacing(&observed).removal, None);
    assert!(message(&observed).contains("join as a new peer"));
    observed.claim = None;
    assert_eq!(replacing(&observed).removal, None);
}

#[test]
fn it_ends_when_the_ordinal_runs_as_somebody_else_and_is_not_begun_again() {
    let mut observed = reported(accepted(), &[0, 1, 3]);
    is(&mut observed, 2, Liveness::Left);
    observed.claim.as_mut().unwrap().uid = "claim-2".into();
    let mut successor = running(7);
    successor.address = observed.pods[&2].address.clone();
    observed.pods.insert(2, successor);
    let first = replacing(&observed);
    assert_eq!(
        first.forget.as_deref(),
        Some("demo-2"),
        "the annotation goes first"
    );
    assert!(first.status.is_some() && first.outcome.is_none());
    observed.network.asked.replace = None;
    let second = replacing(&observed);
    assert!(matches!(second.outcome, Some(Outcome::Replaced(_))));
    assert_eq!(second.status, None);
}

/// Found by the simulation: the copies of a newcomer went with its predecessor's claim.
#[test]
fn nobody_begins_anew_on_a_volume_that_is_about_to_go() {
    let mut observed = reported(accepted(), &[0, 1, 2]);
    observed.pods.insert(2, waiting(2));
    assert_eq!(plan(&observed).assignments, []);
    observed.claim.as_mut().unwrap().deleting = true;
    assert_eq!(plan(&observed).assignments, []);
    observed.claim.as_mut().unwrap().uid = "claim-2".into();
    observed.claim.as_mut().unwrap().deleting = false;
    let [place] = plan(&observed).assignments.try_into().unwrap();
    assert!(place.ordinal == 2 && place.newcomer);
}

/// demo-2's ordinal has begun anew before, as the ninth identity, which is silent when the replacement is accepted.
fn with_namesake(liveness: Liveness) -> Observed {
    let mut observed = reported(accepted(), &[0, 1, 3]);
    let mut namesake = observed.members[&id(2)].clone();
    (namesake.id, namesake.liveness) = (id(8), liveness);
    observed.members.insert(namesake.id, namesake);
    observed
}

#[test]
fn a_volume_goes_only_if_nothing_depends_on_any_identity_of_its_name() {
    let removal = |observed: &Observed| replacing(observed).removal;
    assert_eq!(removal(&with_namesake(Liveness::Suspect)), None);
    let mut holds = with_namesake(Liveness::Down);
    assert!(removal(&holds).is_some());
    for slot in &mut holds.reports.get_mut(&id(1)).unwrap().slots {
        (slot.epoch, slot.replicas) = (6, vec![id(0), id(1), id(8)]);
    }
    assert_eq!(removal(&holds), None);
}

#[test]
fn a_namesake_that_answers_keeps_its_volume_or_leaves_in_order() {
    let mut observed = with_namesake(Liveness::Active);
    let mut successor = running(8);
    successor.address = observed.pods[&2].address.clone();
    observed.pods.insert(2, successor);
    assert_eq!(replacing(&observed).removal, None);
    is(&mut observed, 2, Liveness::Left);
    assert!(replacing(&observed).forget.is_some(), "it is over");
    // Its claim is on its way already, and cannot be kept.
    observed.claim.as_mut().unwrap().deleting = true;
    let plan = plan(&observed);
    assert!(plan.orders.iter().any(|o| o.peer == id(8) && o.leaving));
    assert_eq!(plan.replace.unwrap().removal, None);
}

/// Found by the simulation: it could not leave, and its replacement never ended.
#[test]
fn who_came_back_on_a_claim_that_goes_is_ended_on_proof_where_it_cannot_leave() {
    let mut observed = reported(accepted(), &[0, 1, 2]);
    observed.pods.insert(2, running(2));
    is(&mut observed, 2, Liveness::Active);
    observed.claim.as_mut().unwrap().deleting = true;
    assert_eq!(replacing(&observed).removal, None, "others take its slots");
    for gone in [3, 4] {
        is(&mut observed, gone, Liveness::Left);
    }
    let removal = replacing(&observed).removal.expect("it is proved");
    assert_eq!(removal.pod_uid, Some(observed.pods[&2].uid.clone()));
    assert_eq!((removal.claim, removal.force), (None, false));
    let mut behind = observed.clone();
    behind.reports.get_mut(&id(1)).unwrap().slots[0].synced = false;
    assert_eq!(replacing(&behind).removal, None, "its copy is needed");
    observed.claim.as_mut().unwrap().deleting = false;
    assert!(replacing(&observed).forget.is_some(), "it stays");
}

#[test]
fn a_replacement_of_whom_nobody_wants_any_more_is_over() {
    let mut observed = reported(accepted(), &[0, 1, 3]);
    observed.network.spec.replicas = 2;
    assert!(replacing(&observed).forget.is_some());
    observed.network.asked.replace = None;
    let outcome = replacing(&observed).outcome;
    assert!(matches!(outcome, Some(Outcome::Cancelled(_))));
}

#[test]
fn the_living_and_strangers_are_not_replaced() {
    let refused = |change: &dyn Fn(&mut Observed)| {
        let mut observed = asked();
        change(&mut observed);
        let replace = replacing(&observed);
        assert!(replace.status.is_none() && replace.forget.is_some());
        match replace.outcome {
            Some(Outcome::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let alive = refused(&|o| drop(o.pods.insert(2, running(2))));
    assert!(alive.contains("alive and answers"), "{alive}");
    refused(&|o| o.network.asked.replace = Some("other-2".into()));
    refused(&|o| o.network.asked.replace = Some("demo-7".into()));
    refused(&|o| drop(o.members.remove(&id(2))));
}

#[test]
fn a_peer_that_comes_back_meanwhile_stays() {
    let mut observed = accepted();
    observed.pods.insert(2, running(2));
    leaving(&mut observed, 2, 1, true);
    let first = replacing(&observed);
    assert!(first.forget.is_some() && first.removal.is_none());
    observed.network.asked.replace = None;
    assert!(matches!(
        replacing(&observed).outcome,
        Some(Outcome::Cancelled(_))
    ));
    observed.network.status.replacement = None;
    let orders = plan(&observed).orders;
    assert!(orders.iter().any(|o| o.peer == id(2) && !o.leaving));
}

#[test]
fn with_as_many_peers_as_copies_the_survivors_have_to_hold_everything() {
    let mut observed = founded(3, 3);
    let pod = observed.pods.get_mut(&2).unwrap();
    (pod.answer, pod.ready, pod.started) = (None, false, false);
    is(&mut observed, 2, Liveness::Down);
    observed.network.asked.replace = Some("demo-2".into());
    observed.network.status.replacement = Some(ReplacementStatus {
        pod: "demo-2".into(),
        peer: id(2).to_string(),
        claim_uid: Some("claim-1".into()),
        message: String::new(),
    });
    observed.claim = Some(Claim {
        uid: "claim-1".into(),
        deleting: false,
    });
    observed.reports = [0, 1].map(|o| (id(o), report(o, &[0, 1, 2], &[]))).into();
    assert!(replacing(&observed).removal.is_some());
    observed.reports.get_mut(&id(1)).unwrap().slots[3].synced = false;
    assert!(replacing(&observed).removal.is_none());
}

/// demo-1 and demo-2 are down, and every slot is on 0, 1 and 2.
fn two_lost() -> Observed {
    let mut observed = reported(crashed(), &[0, 1, 2]);
    observed.pods.get_mut(&1).unwrap().answer = None;
    is(&mut observed, 1, Liveness::Down);
    is(&mut observed, 2, Liveness::Down);
    observed.reports.remove(&id(1));
    observed
}

#[test]
fn slots_without_a_majority_are_counted() {
    assert_eq!(plan(&two_lost()).stuck.minority.len(), 4_096);
    assert!(plan(&reported(crashed(), &[0, 1, 3])).stuck.is_empty());
}

#[test]
fn what_is_given_up_is_written_down_then_told_and_then_forgotten() {
    let mut observed = two_lost();
    observed.network.asked.recover = Some("demo-1, demo-2".into());
    let first = plan(&observed).recover.unwrap();
    assert_eq!(first.tell, None, "it is not in the status yet");
    let status = first.status.unwrap();
    assert_eq!((status.slots_lost, status.slots_partial), (0, 4_096));
    observed.network.status.recovery = Some(status);
    let second = plan(&observed).recover.unwrap();
    assert_eq!(second.tell.unwrap().gone, [id(1), id(2)]);
    is(&mut observed, 1, Liveness::Left);
    is(&mut observed, 2, Liveness::Left);
    // Its slots have found other homes.
    let mut third = reported(observed, &[0, 3, 4]);
    third.reports.remove(&id(1));
    let third = plan(&third);
    let third = third.recover.unwrap();
    assert_eq!(third.forget.as_deref(), Some("demo-1, demo-2"));
    assert!(matches!(third.outcome, Some((true, _))), "{third:?}");
    assert!(third.status.unwrap().finished);
}

/// Their volumes came back empty, so both names have a newcomer as well.
#[test]
fn newcomers_on_the_volumes_of_the_lost_are_not_given_up() {
    let mut observed = two_lost();
    observed.network.asked.recover = Some("demo-1,demo-2".into());
    for (ordinal, newcomer) in [(1, 7), (2, 8)] {
        let mut member = observed.members[&id(ordinal)].clone();
        (member.id, member.liveness) = (id(newcomer), Liveness::Active);
        observed.members.insert(member.id, member);
        observed.pods.insert(ordinal, running(newcomer));
        observed
            .reports
            .insert(id(newcomer), report(newcomer, &[], &[]));
    }
    observed.network.status.recovery = plan(&observed).recover.unwrap().status;
    let told = plan(&observed)
        .recover
        .unwrap()
        .tell
        .expect("it is decided");
    assert_eq!(told.gone, [id(1), id(2)]);
    for lost in [1, 2] {
        is(&mut observed, lost, Liveness::Left);
    }
    for report in observed.reports.values_mut() {
        for slot in &mut report.slots {
            (slot.epoch, slot.replicas) = (told.configs[0].1.epoch, vec![id(0)]);
        }
    }
    let done = plan(&observed).recover.unwrap();
    assert!(matches!(done.outcome, Some((true, _))), "{done:?}");
}

#[test]
fn nothing_is_given_up_while_majorities_live() {
    let mut observed = reported(crashed(), &[0, 1, 3]);
    is(&mut observed, 2, Liveness::Down);
    for asked in ["demo-2", "demo-1,demo-2", "demo-9"] {
        observed.network.asked.recover = Some(asked.into());
        let recover = plan(&observed).recover.unwrap();
        assert!(matches!(recover.outcome, Some((false, _))), "{recover:?}");
        assert!(recover.tell.is_none() && recover.forget.is_some());
    }
}

#[test]
fn copies_in_fewer_zones_than_possible_are_noticed() {
    let mut new = founded(3, 3);
    new.network.status.founded = false;
    is(&mut new, 2, Liveness::Joining);
    assert!(!plan(&new).spread.is_narrow(), "there is no ring yet");
    let mut observed = founded(3, 3);
    let spread = |observed: &Observed| {
        let spread = plan(observed).spread;
        (spread.zones, spread.possible, spread.is_narrow())
    };
    assert_eq!(spread(&observed), (3, 3, false));
    is(&mut observed, 2, Liveness::Down);
    assert_eq!(spread(&observed), (2, 3, true));
    observed.zone_of.retain(|_, zone| zone != "zone-2");
    assert_eq!(spread(&observed), (2, 2, false), "no node could do better");
}

#[test]
fn the_lowest_safe_number_follows_who_is_down_and_what_has_room() {
    let least = |observed: &Observed| plan(observed).preflight.unwrap().min_replicas;
    let mut observed = founded(5, 5);
    assert_eq!(least(&observed), 3);
    for pod in observed.pods.values_mut() {
        let life = pod.answer.as_mut().unwrap().life.as_mut().unwrap();
        life.disk = Disk {
            held: 100 << 20,
            free: 100 << 20,
            total: 1_000 << 20,
        };
    }
    assert_eq!(
        least(&observed),
        4,
        "each may get 50 MiB, which fits, but not 133"
    );
    observed.pods.insert(1, remembering(1, "uid-1", false));
    assert_eq!(least(&observed), 5);
    observed.network.status.founded = false;
    assert_eq!(plan(&observed).preflight, None);
}

#[test]
fn reports_are_asked_for_while_somebody_is_down() {
    let mut observed = with_reports(founded(5, 5), &[0, 1, 2], &[]);
    assert!(!super::super::needs_reports(&observed));
    is(&mut observed, 2, Liveness::Down);
    assert!(super::super::needs_reports(&observed));
}
