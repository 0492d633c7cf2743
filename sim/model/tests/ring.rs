//! The ring keeps its promises in every reachable state of small networks, and wrong variants of it do not.
//!
//! `MODEL=full` adds the networks that take minutes. Results are kept in docs/proofs.md.

use std::fmt::{Debug, Display};
use std::hash::Hash;

use peernet_model::report::{Tell, explore};
use peernet_model::ring::atomic::{Atomic, Gossip};
use peernet_model::ring::messages::Messages;
use peernet_model::ring::{Failures, Variant};

/// Fewer than r failures between ideal states, and perfect knowledge.
fn atomic(n: u8, r: usize) -> Atomic {
    Atomic {
        n,
        r,
        failures: Failures::Between { most: r as u8 - 1 },
        gossip: Gossip::Exact,
        variant: Variant::Shipped,
    }
}

/// At most `room` messages under way, in a ring that starts with `start` members.
fn messages(n: u8, r: usize, start: u8, room: usize) -> Messages {
    Messages {
        n,
        r,
        room,
        most: r as u8 - 1,
        start,
        variant: Variant::Shipped,
    }
}

fn is_full() -> bool {
    std::env::var("MODEL").is_ok_and(|v| v == "full")
}

/// Checks that no state violates a property, and that the model has not shrunk to one that says little.
fn holds<M>(model: M, states: usize)
where
    M: Tell + Display + Clone + Send + Sync + 'static,
    M::State: Debug + Clone + PartialEq + Hash + Send + Sync,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    let title = model.to_string();
    let outcome = explore(&title, model);
    assert!(outcome.counterexample.is_none(), "{title}");
    assert!(outcome.states >= states, "{title}: {}", outcome.states);
}

/// Checks that a wrong variant, or a wrong assumption, is told from the right one, and in how few steps.
fn fails<M>(model: M, property: &str, steps: usize)
where
    M: Tell + Display + Clone + Send + Sync + 'static,
    M::State: Debug + Clone + PartialEq + Hash + Send + Sync,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    let outcome = explore(&model.to_string(), model);
    let found = outcome.counterexample.expect("a counterexample");
    assert_eq!((found.property, found.steps.len()), (property, steps));
}

#[test]
fn it_stays_whole_while_fewer_than_r_fail_at_once() {
    holds(atomic(4, 2), 729);
    holds(atomic(5, 3), 49_927);
    holds(atomic(5, 2), 62_721);
}

#[test]
fn it_stays_whole_whomever_gossip_points_out_and_however_late_it_is() {
    holds(
        Atomic {
            gossip: Gossip::Lags,
            ..atomic(4, 2)
        },
        24_163,
    );
    holds(
        Atomic {
            gossip: Gossip::Hints,
            ..atomic(5, 3)
        },
        74_743,
    );
    if is_full() {
        holds(
            Atomic {
                gossip: Gossip::Hints,
                ..atomic(5, 2)
            },
            312_526,
        );
    }
}

#[test]
fn it_stays_whole_under_every_failure_that_leaves_live_successors_and_a_base() {
    let failures = Failures::Survivable;
    holds(
        Atomic {
            failures,
            gossip: Gossip::Lags,
            ..atomic(4, 2)
        },
        51_839,
    );
    if is_full() {
        holds(
            Atomic {
                failures,
                ..atomic(5, 3)
            },
            1_015_850,
        );
    }
}

#[test]
fn it_grows_from_one_merges_and_shrinks_to_one_again() {
    let failures = Failures::Passage;
    holds(
        Atomic {
            failures,
            gossip: Gossip::Lags,
            ..atomic(3, 2)
        },
        26_319,
    );
}

#[test]
fn it_needs_its_assumptions() {
    let (lost, ideal) = ("everyone has a live successor", "ideal within N - 1 rounds");
    let as_many_as_r = Failures::Between { most: 2 };
    fails(
        Atomic {
            failures: as_many_as_r,
            ..atomic(5, 2)
        },
        lost,
        8,
    );
    let no_base = Failures::NoBase { most: 1 };
    fails(
        Atomic {
            failures: no_base,
            ..atomic(5, 2)
        },
        ideal,
        5,
    );
}

#[test]
fn wrong_variants_are_found_out() {
    let (lost, principals, ideal) = (
        "everyone has a live successor",
        "r + 1 principals",
        "ideal within N - 1 rounds",
    );
    let wrong = |variant, n| Atomic {
        variant,
        ..atomic(n, 2)
    };
    fails(wrong(Variant::JoinCopiesOnlyTheHead, 5), lost, 7);
    fails(wrong(Variant::JoinWithoutList, 4), lost, 1);
    fails(wrong(Variant::JoinAnywhere, 5), principals, 1);
    fails(wrong(Variant::AdoptUnasked, 5), ideal, 11);
    fails(wrong(Variant::RectifyUnchecked, 4), ideal, 4);
    let unheard = wrong(Variant::UnheardIsGone, 4);
    fails(
        Atomic {
            gossip: Gossip::Lags,
            ..unheard
        },
        principals,
        1,
    );
}

#[test]
fn it_stays_whole_though_messages_are_lost_doubled_and_overtaken() {
    holds(messages(3, 1, 2, 2), 55_000);
    holds(messages(3, 2, 3, 2), 5_000);
    if is_full() {
        holds(messages(3, 2, 1, 2), 2_900_000);
    }
}

#[test]
fn it_grows_shrinks_and_heals_message_by_message() {
    holds(messages(3, 2, 1, 1), 43_000);
    holds(messages(4, 2, 3, 1), 535_000);
}

#[test]
fn answering_without_a_list_is_found_out_message_by_message() {
    let variant = Variant::JoinWithoutList;
    let wrong = Messages {
        variant,
        ..messages(4, 2, 3, 1)
    };
    fails(wrong, "everyone has a live successor", 15);
}
