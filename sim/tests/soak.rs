//! Some hundreds of random histories, and that each follows from its seed. Thousands: `dev/soak`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use peernet_sim::soak::{history, soak};

/// Histories in these tests: about a minute of one core.
const SEEDS: std::ops::Range<u64> = 1..601;

#[test]
fn random_histories_lose_nothing() {
    let failed = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let totals = soak(SEEDS, threads, |seed, outcome, _| {
        if let Err(failure) = outcome {
            let mut failed = failed.lock().expect("no test panics while it holds this");
            failed.insert(seed, failure.to_string());
        }
        true
    });
    println!("{totals}");
    let failed = failed.into_inner().expect("as above");
    assert!(
        totals.is_clean() && failed.is_empty(),
        "{totals}; replay one with `dev/soak --seeds 1 --from SEED`: {failed:#?}"
    );
    assert_eq!(totals.histories, SEEDS.end - SEEDS.start);
    assert!(totals.operations > 50 * totals.histories, "{totals}");
}

#[test]
fn a_history_follows_from_its_seed() {
    let once = |seed| history(seed).expect("a good history");
    let mut traces = BTreeMap::new();
    for seed in SEEDS.take(8) {
        let first = once(seed);
        assert_eq!(first, once(seed), "seed {seed}");
        traces.insert(first.trace, seed);
    }
    assert_eq!(traces.len(), 8, "no two seeds give the same history");
}

/// A peer that came back heard pings and greetings but missed every table of members, and waited for one for ever.
#[test]
fn who_comes_back_joins_again_though_it_missed_every_table() {
    for seed in [103_228, 105_321, 109_589] {
        let outcome = history(seed);
        assert!(
            outcome.is_ok(),
            "seed {seed}: {}",
            outcome.err().map_or(String::new(), |e| e.to_string())
        );
    }
}

/// A leaver whose copy of a slot was empty left before anybody else knew the slot's configuration without it.
#[test]
fn who_leaves_makes_sure_that_others_know_what_they_hold() {
    let outcome = history(111_442);
    assert!(
        outcome.is_ok(),
        "{}",
        outcome.err().map_or(String::new(), |e| e.to_string())
    );
}
