//! How close a swarm comes to the least time in which everybody can have everything.

use peernet_sim::scale::swarm::{Flaw, Outcome, Swarm};

/// Of the least time.
const NEAR: f64 = 1.25;
/// Bytes that came twice.
const TWICE: f64 = 0.05;

fn run(fetchers: u32, flaw: Flaw, seed: u64) -> Outcome {
    let swarm = Swarm {
        fetchers,
        pieces: 256,
        flaw,
    };
    let outcome = swarm.run(seed);
    println!(
        "{fetchers} fetchers, {flaw:?}, seed {seed}: {:.3}, twice {:.4}",
        outcome.ratio(),
        outcome.twice
    );
    outcome
}

#[test]
fn everybody_has_everything_in_little_more_than_the_least_time() {
    for fetchers in [1, 4, 16, 32] {
        for seed in 1..4 {
            let outcome = run(fetchers, Flaw::None, seed);
            assert!(outcome.ratio() <= NEAR, "{fetchers}, {seed}: {outcome:?}");
            assert!(outcome.twice <= TWICE, "{fetchers}, {seed}: {outcome:?}");
            // Not below what is possible, or the links are not as narrow as they should be.
            assert!(outcome.ratio() >= 1.0, "{fetchers}, {seed}: {outcome:?}");
        }
    }
}

#[test]
fn without_passing_on_or_in_order_it_takes_far_longer() {
    let alone = run(4, Flaw::NobodyProvides, 1);
    assert!(alone.ratio() > 3.9, "{alone:?}");
    for fetchers in [16, 32] {
        let in_order = run(fetchers, Flaw::InOrder, 1);
        assert!(in_order.ratio() > NEAR, "{in_order:?}");
    }
}

#[test]
fn the_seeder_may_leave_once_every_piece_is_out() {
    for seed in 1..4 {
        let outcome = run(16, Flaw::SeederLeaves, seed);
        assert!(outcome.ratio() <= NEAR, "{outcome:?}");
        assert!(outcome.twice <= TWICE, "{outcome:?}");
    }
}

#[test]
fn a_liar_is_not_asked_again_and_a_slow_one_holds_nobody_up() {
    for seed in 1..4 {
        let outcome = run(8, Flaw::Liar, seed);
        assert_eq!(outcome.fooled_twice, 0, "{outcome:?}");
        assert!(outcome.rounds.is_some(), "{outcome:?}");
        let outcome = run(8, Flaw::Slow, seed);
        assert!(outcome.ratio() <= 1.5, "{outcome:?}");
        assert!(outcome.twice <= TWICE, "{outcome:?}");
    }
}
