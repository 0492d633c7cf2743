//! A name stays linearizable, and wrong variants of the protocol are found out. With `MODEL=full` larger models too.

use peernet_core::slot::SlotConfig;
use peernet_model::names::{Names, Variant, Want, Wanted, config};
use peernet_model::report::explore;

fn wanted(at: u8, want: Want) -> Wanted {
    let forward = false;
    Wanted { at, want, forward }
}

fn passed_on(at: u8, want: Want) -> Wanted {
    let forward = true;
    Wanted { at, want, forward }
}

/// Three replicas under one epoch.
fn still() -> Vec<SlotConfig> {
    vec![config(1, &[0, 1, 2], None)]
}

/// The same three under one epoch after another.
fn renewed() -> Vec<SlotConfig> {
    vec![config(1, &[0, 1, 2], None), config(2, &[0, 1, 2], None)]
}

/// A replica is replaced by another one.
fn moved() -> Vec<SlotConfig> {
    vec![
        config(1, &[0, 1, 2], None),
        config(2, &[0, 1, 2], Some(&[0, 1, 3])),
        config(3, &[0, 1, 3], None),
    ]
}

fn names(configs: Vec<SlotConfig>, wanted: &[Wanted], holders: &[u8], orphans: &[u8]) -> Names {
    Names {
        configs,
        wanted: wanted.to_vec(),
        holders: holders.to_vec(),
        orphans: orphans.to_vec(),
        restarts: 0,
        claims: 1,
        variant: Variant::Shipped,
    }
}

/// The owner replaces what was decided while somebody reads what was not.
fn orphan(configs: Vec<SlotConfig>) -> Names {
    let both = [wanted(0, Want::Replace(None)), wanted(1, Want::Read)];
    names(configs, &both, &[0, 2], &[1])
}

/// Somebody reads at a newcomer what two of three hold.
fn newcomer() -> Names {
    names(moved(), &[wanted(3, Want::Read)], &[1, 2], &[])
}

/// A write is passed on to the owner while others write and read.
fn passing_on(others: &[Wanted]) -> Names {
    let mut all = vec![passed_on(1, Want::Put)];
    all.extend(others);
    names(still(), &all, &[], &[])
}

/// A write is passed on, and another one replaces it.
fn replaced() -> Names {
    let first = passed_on(1, Want::Replace(None));
    let second = wanted(0, Want::Replace(Some(0)));
    names(still(), &[first, second], &[0, 1, 2], &[])
}

fn two(a: Wanted, b: Wanted) -> Names {
    names(still(), &[a, b], &[], &[])
}

/// An owner that restarts while it writes, after which somebody reads or writes.
fn restarting(configs: Vec<SlotConfig>, then: Wanted) -> Names {
    let both = [wanted(0, Want::Put), then];
    Names {
        restarts: 1,
        ..names(configs, &both, &[0, 1, 2], &[])
    }
}

fn holds(title: &str, model: Names) {
    let outcome = explore(title, model);
    assert!(outcome.counterexample.is_none(), "{title}");
    assert!(outcome.states > 100, "{title}: it goes on");
}

fn is_found_out(variant: Variant, model: Names) {
    let found = explore(&format!("{variant:?}"), Names { variant, ..model });
    assert!(
        found.counterexample.is_some(),
        "{variant:?} was not found out"
    );
}

#[test]
fn a_name_is_linearizable() {
    holds("owner and reader, a value never decided", orphan(still()));
    holds("reader at a newcomer", newcomer());
    let (create, put) = (wanted(2, Want::Create), wanted(1, Want::Put));
    holds("two who claim", two(put, create));
    holds("a write passed on and replaced", replaced());
    holds(
        "a write passed on, a reader",
        passing_on(&[wanted(2, Want::Read)]),
    );
    holds(
        "an owner that forgets what it proposed",
        restarting(still(), wanted(2, Want::Read)),
    );
    if std::env::var_os("MODEL").is_some_and(|v| v == "full") {
        holds("owner and reader, under two epochs", orphan(renewed()));
        let two = two(wanted(0, Want::Put), wanted(0, Want::Create));
        holds("an owner that restarts", Names { restarts: 1, ..two });
        let passed_on = passing_on(&[wanted(2, Want::Read)]);
        holds(
            "an owner that forgets what was passed on",
            Names {
                restarts: 1,
                ..passed_on
            },
        );
        holds(
            "an owner that forgets, and owns the next epoch",
            restarting(renewed(), wanted(0, Want::Replace(None))),
        );
    }
}

#[test]
fn wrong_variants_are_found_out() {
    is_found_out(Variant::ReadWithoutOwner, orphan(still()));
    is_found_out(Variant::CopyAgainstPromise, orphan(still()));
    let (create, put) = (wanted(0, Want::Create), wanted(1, Want::Put));
    let uncompared = names(renewed(), &[create, put], &[], &[]);
    is_found_out(Variant::AnyEpoch, uncompared.clone());
    is_found_out(Variant::LeadUncompared, uncompared);
    let own = [wanted(0, Want::Put), create];
    is_found_out(Variant::LeadUnstored, names(still(), &own, &[], &[]));
    is_found_out(
        Variant::CountUnsynced,
        restarting(still(), wanted(2, Want::Read)),
    );
    is_found_out(Variant::EitherSet, newcomer());
    is_found_out(Variant::NewcomerUncompared, newcomer());
    is_found_out(Variant::CarriedOutTwice, replaced());
    is_found_out(Variant::AnyOfTheFound, two(put, wanted(2, Want::Create)));
    let readers = [
        wanted(0, Want::Put),
        wanted(1, Want::Read),
        wanted(2, Want::Read),
    ];
    is_found_out(Variant::ReadUndecided, names(still(), &readers, &[], &[]));
    let creators = two(wanted(1, Want::Create), wanted(2, Want::Create));
    is_found_out(Variant::NoPromise, creators);
}
