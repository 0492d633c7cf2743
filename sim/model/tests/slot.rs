//! A slot never has two configurations of one epoch, and wrong variants of deciding them do.

use peernet_model::report::explore;
use peernet_model::slot::{Slot, Variant};

fn slot(variant: Variant) -> Slot {
    Slot {
        rounds: 1,
        proposers: 2,
        restarts: 1,
        epochs: 3,
        variant,
    }
}

fn fails(variant: Variant, steps: usize) {
    let model = slot(variant);
    let outcome = explore(&model.to_string(), model);
    let found = outcome.counterexample.expect("a counterexample");
    let expected = ("one configuration of an epoch", steps);
    assert_eq!((found.property, found.steps.len()), expected);
}

#[test]
fn no_epoch_has_two_configurations() {
    let outcome = explore("slot", slot(Variant::Shipped));
    assert!(outcome.counterexample.is_none());
    assert!(outcome.states >= 11_000, "{}", outcome.states);
}

#[test]
fn wrong_variants_are_found_out() {
    fails(Variant::NewcomerVotes, 10);
    fails(Variant::AcceptedForgotten, 10);
    fails(Variant::PromiseOfOne, 6);
    fails(Variant::PromiseForgotten, 11);
}
