//! A chunk that a live file names is never collected, nor one that is being read; wrong variants do it.

use peernet_model::collect::{Collect, Variant};
use peernet_model::report::explore;

/// Two files with the same content; the first is deleted.
fn shared() -> Collect {
    Collect {
        uploads: vec![0, 1],
        deletes: vec![1, 0],
        fences: 0,
        retries: 0,
        reader: false,
        restarts: 0,
        moves: false,
        copies: false,
        variant: Variant::Shipped,
    }
}

/// Two uploads of one file, of which one may be ended.
fn contended() -> Collect {
    Collect {
        uploads: vec![0, 0],
        deletes: vec![0],
        fences: 1,
        ..shared()
    }
}

/// Two uploads of one file, of which one begins anew in the place of the other.
fn again() -> Collect {
    Collect {
        uploads: vec![0, 0],
        deletes: vec![0],
        retries: 1,
        ..shared()
    }
}

/// A file that is deleted while it is read and a replica of its name restarts.
fn read() -> Collect {
    Collect {
        uploads: vec![0],
        deletes: vec![1],
        reader: true,
        restarts: 1,
        ..shared()
    }
}

/// A file that is written while the chunk's slot moves.
fn moving() -> Collect {
    Collect {
        uploads: vec![0],
        deletes: vec![0],
        fences: 1,
        moves: true,
        ..shared()
    }
}

fn holds(title: &str, model: Collect, states: usize) {
    let outcome = explore(title, model);
    assert!(outcome.counterexample.is_none());
    assert!(outcome.states >= states, "{}", outcome.states);
}

fn fails(model: Collect, variant: Variant, property: &str) {
    let title = format!("{variant:?}");
    let outcome = explore(&title, Collect { variant, ..model });
    let found = outcome.counterexample.expect("a counterexample");
    assert_eq!(found.property, property, "{title}");
}

#[test]
fn live_chunks_stay() {
    holds("two files with one chunk, one deleted", shared(), 1_000);
    holds("two uploads of one name, and a fence", contended(), 1_000);
    holds("two uploads of one name, and once more", again(), 1_000);
    holds("a file read and deleted, and a restart", read(), 1_000);
    holds("an upload while the slot moves", moving(), 1_000);
}

#[test]
fn wrong_variants_are_found_out() {
    let live = "live chunks stay";
    fails(shared(), Variant::CheckThenPin, live);
    fails(contended(), Variant::Unconditional, live);
    fails(shared(), Variant::PinOfOne, live);
    fails(moving(), Variant::Clock, live);
    fails(contended(), Variant::WordOfOne, live);
    fails(shared(), Variant::OtherReferencesIgnored, live);
    fails(moving(), Variant::ReferencesStay, live);
    fails(moving(), Variant::NewcomerUncompared, live);
    fails(again(), Variant::SameNumber, "over is for good");
    let read_stays = "what is read stays";
    fails(read(), Variant::ReadersIgnored, read_stays);
    fails(read(), Variant::ReadersForgotten, read_stays);
}
