//! Leaves lose nothing, and wrong variants of them do. With `MODEL=full` larger models too.

use peernet_model::leave::{Leave, Variant};
use peernet_model::report::explore;

fn leave(sizes: &[u8], crashes: &[u8], write: bool) -> Leave {
    Leave {
        sizes: sizes.to_vec(),
        crashes: crashes.to_vec(),
        write,
        stale: false,
        rest: false,
        variant: Variant::Shipped,
    }
}

fn holds(title: &str, model: Leave) {
    let outcome = explore(title, model);
    assert!(outcome.counterexample.is_none(), "{title}");
    assert!(outcome.states > 1_000, "{title}: it goes on");
}

fn is_found_out(variant: Variant, property: &str, model: Leave) {
    let found = explore(&format!("{variant:?}"), Leave { variant, ..model });
    let found = found.counterexample.expect("a counterexample");
    assert_eq!(found.property, property, "{variant:?}");
}

/// A leave, and the leaver is wanted again at any time.
fn again() -> Leave {
    leave(&[4, 3, 4], &[], false)
}

/// A leave.
fn one() -> Leave {
    leave(&[4, 3], &[], false)
}

/// The same, and peers that have not heard of it retire it.
fn stale(model: Leave) -> Leave {
    Leave {
        stale: true,
        ..model
    }
}

/// Followed to its rest from every state.
fn resting(model: Leave) -> Leave {
    Leave {
        rest: true,
        ..model
    }
}

#[test]
fn a_leave_loses_nothing_whoever_crashes_and_whenever_somebody_changes_his_mind() {
    holds("a leave", resting(one()));
    holds("its leaver crashes", resting(leave(&[4, 3], &[3], false)));
    holds("it is cancelled", again());
    holds("it is retired", resting(stale(one())));
    holds("it is cancelled, and retired", stale(again()));
    if std::env::var_os("MODEL").is_some_and(|v| v == "full") {
        holds("it is cancelled, to its rest", resting(again()));
        holds("a write meanwhile", leave(&[4, 3], &[], true));
        holds("its newcomer crashes", leave(&[4, 3], &[0], false));
        let old_volume = leave(&[4, 3, 4], &[3], false);
        holds("its leaver crashes, and is wanted again", old_volume);
    }
}

#[test]
fn wrong_variants_are_found_out() {
    let copies = "a copy goes only when all have it";
    is_found_out(Variant::OwnReceipt, copies, one());
    is_found_out(Variant::Uncompared, copies, one());
    is_found_out(Variant::FrozenEarly, copies, one());
    let pods = "a pod goes only on proof";
    is_found_out(Variant::EmptyReport, pods, one());
    is_found_out(Variant::LeftAfterwards, pods, one());
    let crash = leave(&[4, 3], &[3], false);
    is_found_out(Variant::SilenceCounts, pods, crash.clone());
    let readable = "acknowledged is readable";
    is_found_out(Variant::NotCaughtUp, readable, one());
    is_found_out(Variant::RetiredAtOnce, readable, stale(again()));
    if std::env::var_os("MODEL").is_some_and(|v| v == "full") {
        let gone_again = stale(leave(&[4, 3, 4, 3], &[], false));
        is_found_out(Variant::RetiredWithSlots, readable, gone_again);
    }
    is_found_out(Variant::OldIdentity, "who has left never returns", again());
    let rests = "undisturbed, it comes to rest";
    is_found_out(Variant::DrainForgotten, rests, resting(crash));
}
