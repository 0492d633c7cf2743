//! The goals of `docs/evaluation.md` in short. The whole of it: `cargo run --release -p peernet-sim --example evaluation`.

// With 64 slots there is nothing to balance among 200 peers.
#![cfg(not(feature = "few-slots"))]

use fastrand::Rng;
use peernet_core::key::Position;
use peernet_core::member::PeerId;
use peernet_sim::scale::balance::{
    Layout, Standing, dealt, layouts, loads, moved, peak_to_mean, standing, targets,
};
use peernet_sim::scale::churn::{Churn, Setup};
use peernet_sim::scale::keys::{hashed, placed};
use peernet_sim::scale::still::Still;
use peernet_sim::scale::{Lookups, gossip};

const MINUTE: u64 = 60_000;

fn all_right(seen: &Lookups) {
    assert_eq!((seen.wrong, seen.failed), (0, 0));
}

#[test]
fn paths_are_half_the_logarithm_and_one_more_at_most() {
    let mut rng = Rng::with_seed(1);
    for n in [10, 30, 100, 1_000, 10_000, 100_000] {
        let ring = Still::drawn(n, 4, &mut rng);
        let seen = ring.look_up_random(3_000, &mut rng);
        all_right(&seen);
        let goal = 0.5 * (n as f64).log2() + 1.0;
        assert!(seen.paths().mean <= goal, "{n}: {:?}", seen.paths());
    }
}

#[test]
fn fingers_are_hints_that_shorten_the_path() {
    let mut rng = Rng::with_seed(2);
    let mut ring = Still::drawn(200, 4, &mut rng);
    let with = ring.look_up_random(1_000, &mut rng);
    ring.forget_fingers();
    let without = ring.look_up_random(1_000, &mut rng);
    all_right(&without);
    assert!(
        without.paths().mean > 4.0 * with.paths().mean,
        "{:?}",
        without.paths()
    );
}

#[test]
fn members_that_know_each_other_need_one_hop() {
    for (n, churn) in [(3, 0.0), (30, 0.0), (300, 0.05), (1_000, 0.05)] {
        let seen = gossip::run(n, churn, 200, 3);
        all_right(&seen);
        assert!(seen.paths().mean < 1.5, "{n}: {:?}", seen.paths());
    }
}

#[test]
fn with_half_of_all_killed_at_once_every_lookup_finds_the_owner() {
    for seed in 1..=3 {
        let mut rng = Rng::with_seed(seed);
        let mut ring = Still::drawn(1_000, 20, &mut rng);
        ring.kill(0.5, &mut rng);
        let seen = ring.look_up_random(2_000, &mut rng);
        all_right(&seen);
        assert!(seen.waits().mean > 2.0, "nobody knew of the deaths");
    }
}

#[test]
fn a_short_list_is_not_enough_for_half_killed_and_says_so() {
    let mut rng = Rng::with_seed(4);
    let mut ring = Still::drawn(1_000, 4, &mut rng);
    ring.kill(0.5, &mut rng);
    let seen = ring.look_up_random(2_000, &mut rng);
    assert_eq!(seen.wrong, 0, "no answer is better than a wrong one");
    assert!(seen.failed > 0);
}

#[test]
fn the_ring_mends_itself_and_no_answer_was_wrong() {
    let mut churn = Churn::new(Setup::paper(0.0), 5);
    churn.kill(0.5);
    let first = churn.run(MINUTE);
    all_right(&first);
    assert!(first.waits().mean > 1.0, "{:?}", first.waits());
    churn.run(30 * MINUTE);
    let (astray, members) = churn.astray();
    assert!(
        astray == 0 && (400..600).contains(&members),
        "{astray} of {members}"
    );
    let later = churn.run(5 * MINUTE);
    all_right(&later);
    assert!(later.waits().mean < 0.1, "{:?}", later.waits());
}

#[test]
fn at_the_papers_highest_churn_lookups_succeed() {
    let mut churn = Churn::new(Setup::paper(0.4), 6);
    churn.run(5 * MINUTE);
    let seen = churn.run(25 * MINUTE);
    assert!(seen.hops.len() > 14_000);
    assert!(
        seen.wrong + seen.failed <= 1,
        "{} wrong, {} failed",
        seen.wrong,
        seen.failed
    );
    assert!(seen.overtaken <= 5, "{}", seen.overtaken);
    assert!(seen.waits().mean > 0.05, "some pointers were stale");
}

#[test]
fn the_same_seed_gives_the_same_lookups() {
    let run = |seed| {
        let setup = Setup {
            nodes: 100,
            ..Setup::paper(0.4)
        };
        Churn::new(setup, seed).run(5 * MINUTE)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

fn worst(layouts: &[Layout], of: impl Fn(&Layout) -> f64) -> f64 {
    layouts.iter().map(of).fold(0.0, f64::max)
}

#[test]
fn peers_are_evenly_loaded_for_every_number_from_3_to_200() {
    for (zones, goal) in [
        (1, 1.5),
        (2, 2.0),
        (3, 2.0),
        (4, 2.0),
        (5, 2.0),
        (6, 2.0),
        (16, 2.0),
    ] {
        let all = layouts(&dealt(200, zones), 3);
        assert_eq!(all.len(), 198);
        let peak = worst(&all, |l| l.peak);
        assert!(peak <= goal, "{zones} zones: {peak}");
        let walk = all.iter().map(|l| l.walk).max();
        assert!(walk <= Some(5), "{zones} zones: {walk:?}");
        for layout in &all {
            assert_eq!(
                layout.join.copies, layout.join.needed,
                "{zones}: {layout:?}"
            );
            assert_eq!(
                layout.leave.copies, layout.leave.needed,
                "{zones}: {layout:?}"
            );
        }
        let last = worst(&all[1..], |l| l.last);
        assert!(
            last < 1.35,
            "{zones} zones: a join moves {last} of a fair share"
        );
    }
}

#[test]
fn three_zones_are_as_even_as_they_can_be_but_for_small_numbers() {
    for layout in layouts(&dealt(200, 3), 3) {
        let slack = layout.peak / layout.best;
        assert!(slack <= 1.5, "{layout:?}");
        assert!(
            layout.peak <= 1.5 || [5, 8, 11, 14].contains(&layout.peers),
            "{layout:?}"
        );
    }
}

#[test]
fn a_zone_with_one_peer_holds_a_copy_of_everything() {
    // Copies in distinct zones come first.
    let peers = standing(&[0, 1, 2, 0, 1], 3);
    let loads = loads(&peers, &targets(&peers, 3), |_| 1);
    assert_eq!(loads[2], 4_096);
    assert!((peak_to_mean(&loads) - 5.0 / 3.0).abs() < 1e-9);
}

#[test]
fn random_positions_would_miss_the_goal() {
    let mut rng = Rng::with_seed(9);
    let drawn = dealt(100, 1).into_iter().map(|peer| Standing {
        position: Position(rng.u64(..)),
        ..peer
    });
    let drawn: Vec<Standing> = drawn.collect();
    let peak = peak_to_mean(&loads(&drawn, &targets(&drawn, 3), |_| 1));
    assert!(peak > 2.0, "{peak}");
}

#[test]
fn whoever_leaves_only_its_own_copies_move() {
    let mut rng = Rng::with_seed(10);
    for zones in [1, 2, 3, 4, 7] {
        let all = dealt(24, zones);
        let before = targets(&all, 3);
        for _ in 0..20 {
            let mut rest = all.clone();
            for _ in 0..rng.usize(1..4) {
                rest.swap_remove(rng.usize(0..rest.len()));
            }
            let stays = |id: &PeerId| rest.iter().any(|p| p.id == *id);
            let away = moved(&before, &targets(&rest, 3), stays);
            let back = moved(&targets(&rest, 3), &before, stays);
            assert_eq!(
                (away.copies, back.copies),
                (away.needed, back.needed),
                "{zones}"
            );
        }
    }
}

#[test]
fn bytes_follow_slots() {
    let mut rng = Rng::with_seed(11);
    for (zones, goal) in [(1, 1.55), (3, 1.75)] {
        for peers in [5, 20, 100, 200] {
            let load = placed(peers, zones, 3, 300_000, &mut rng);
            assert!(load.max / load.mean <= goal, "{peers} in {zones}: {load:?}");
        }
    }
    let one = hashed(1_000, 1, 100_000, &mut rng);
    let twenty = hashed(1_000, 20, 100_000, &mut rng);
    assert!(one.p99 / one.mean > 4.0 && twenty.p99 / twenty.mean < 1.8);
}
