//! The rules by which deletions could be forgotten (ADR 26), and wrong ones that are found out.

use peernet_core::slot::SlotConfig;
use peernet_model::forget::{Forget, Rules};
use peernet_model::names::config;
use peernet_model::report::explore;

/// A slot has a new epoch, with the same replicas.
fn renewed() -> Vec<SlotConfig> {
    vec![config(1, &[0, 1, 2], None), config(2, &[0, 1, 2], None)]
}

/// One replica gives way to another.
fn moved() -> Vec<SlotConfig> {
    vec![
        config(1, &[0, 1, 2], Some(&[0, 1, 3])),
        config(2, &[0, 1, 3], None),
    ]
}

/// And comes back.
fn returned() -> Vec<SlotConfig> {
    let mut configs = moved();
    configs.push(config(3, &[0, 1, 3], Some(&[0, 1, 2])));
    configs
}

fn holds(title: &str, configs: Vec<SlotConfig>) {
    let rules = Rules::Proposed;
    let outcome = explore(title, Forget { configs, rules });
    assert!(outcome.counterexample.is_none(), "{title}");
    assert!(outcome.states > 100, "{title}: it goes on");
}

fn is_found_out(rules: Rules, configs: Vec<SlotConfig>) {
    let outcome = explore(&format!("{rules:?}"), Forget { configs, rules });
    assert!(
        outcome.counterexample.is_some(),
        "{rules:?} was not found out"
    );
}

#[test]
fn what_is_deleted_stays_deleted_though_it_is_forgotten() {
    holds("a new epoch", renewed());
    holds("one replica gives way to another", moved());
    holds("and comes back", returned());
}

#[test]
fn wrong_ways_to_forget_are_found_out() {
    is_found_out(Rules::ByAge, renewed());
    is_found_out(Rules::Majority, renewed());
    is_found_out(Rules::SameEpoch, renewed());
    is_found_out(Rules::FrozenBelow, moved());
    is_found_out(Rules::NewcomerKeeps, returned());
    is_found_out(Rules::HeardBelow, returned());
}
