//! Histories that happened, and known-bad ones that cannot have.

use std::ops::Range;

use super::*;

fn value(n: u64) -> Value {
    Value {
        hash: blake3::hash(&n.to_le_bytes()),
        len: n,
    }
}

/// `put(1, 0..2)`: value 1 was put from time 0 to time 2.
fn put(n: u64, time: Range<u64>) -> Operation {
    operation(Action::Set(Some(value(n))), time)
}

/// A put that was never acknowledged.
fn begun(n: u64, begin: u64) -> Operation {
    Operation {
        end: None,
        ..put(n, begin..begin + 1)
    }
}

fn got(n: u64, time: Range<u64>) -> Operation {
    operation(Action::Got(Some(value(n))), time)
}

fn delete(time: Range<u64>) -> Operation {
    operation(Action::Set(None), time)
}

fn nothing(time: Range<u64>) -> Operation {
    operation(Action::Got(None), time)
}

fn operation(action: Action, time: Range<u64>) -> Operation {
    Operation {
        name: "file".into(),
        by: "client".into(),
        action,
        begin: time.start,
        end: Some(time.end),
    }
}

fn possible(operations: &[Operation]) -> bool {
    check(operations).is_ok()
}

#[test]
fn what_happens_one_after_the_other_is_read_back() {
    assert!(possible(&[]));
    assert!(possible(&[
        nothing(1..2),
        put(1, 3..4),
        got(1, 5..6),
        put(2, 7..8),
        got(2, 9..10)
    ]));
}

#[test]
fn a_lost_acknowledged_put_is_noticed() {
    assert!(!possible(&[put(1, 1..2), nothing(3..4)]));
    assert!(!possible(&[put(1, 1..2), put(2, 3..4), got(1, 5..6)]));
    assert!(!possible(&[put(1, 1..2), got(1, 3..4), nothing(5..6)]));
}

#[test]
fn what_is_wrong_is_named() {
    let wrong = |operations: &[Operation]| check(operations).unwrap_err();
    let lost = wrong(&[put(1, 1..2), nothing(3..4)]);
    assert!(lost.is_loss() && !lost.is_resurrection());
    let back = wrong(&[put(1, 1..2), delete(3..4), got(1, 5..6)]);
    assert!(back.is_resurrection() && !back.is_loss());
    let stale = wrong(&[put(1, 1..2), put(2, 3..4), got(1, 5..6)]);
    assert!(!stale.is_resurrection() && !stale.is_loss());
}

#[test]
fn bytes_nobody_put_are_noticed() {
    let never = check(&[put(1, 1..2), got(9, 3..4)]);
    assert!(matches!(never, Err(Impossible::Corrupt(_))), "{never:?}");
    let from_the_future = check(&[got(1, 1..2), put(1, 3..4)]);
    assert!(
        matches!(from_the_future, Err(Impossible::Corrupt(_))),
        "{from_the_future:?}"
    );
    let of_another_name = Operation {
        name: "other".into(),
        ..put(1, 1..2)
    };
    assert!(!possible(&[of_another_name, got(1, 3..4)]));
}

#[test]
fn an_unacknowledged_put_may_or_may_not_be_there_but_not_both() {
    assert!(possible(&[put(1, 1..2), begun(2, 3), got(1, 5..6)]));
    assert!(possible(&[put(1, 1..2), begun(2, 3), got(2, 5..6)]));
    assert!(
        possible(&[put(1, 1..2), begun(2, 3), got(1, 5..6), got(2, 7..8)]),
        "late effect"
    );
    assert!(
        !possible(&[put(1, 1..2), begun(2, 3), got(2, 5..6), got(1, 7..8)]),
        "taken back"
    );
    assert!(
        !possible(&[begun(1, 1), got(1, 2..3), nothing(4..5)]),
        "taken back"
    );
    // It may even overtake a later one; only what was seen last counts.
    assert!(possible(&[
        begun(1, 1),
        put(2, 3..4),
        got(2, 5..6),
        got(1, 7..8)
    ]));
    assert!(!possible(&[
        begun(1, 1),
        put(2, 3..4),
        got(1, 5..6),
        got(2, 7..8)
    ]));
}

#[test]
fn of_concurrent_puts_either_may_win_once() {
    let both = [put(1, 1..5), put(2, 2..6)];
    let with = |reads: &[Operation]| possible(&[&both[..], reads].concat());
    assert!(with(&[got(1, 7..8)]));
    assert!(with(&[got(2, 7..8)]));
    assert!(with(&[got(2, 3..4), got(1, 7..8)]));
    assert!(!with(&[got(1, 7..8), got(2, 9..10)]));
}

#[test]
fn once_a_get_saw_a_put_no_later_get_misses_it() {
    let stale = [put(1, 1..2), put(2, 3..20), got(2, 4..5), got(1, 6..7)];
    assert!(!possible(&stale));
    let overlapping = [put(1, 1..2), put(2, 3..20), got(2, 4..8), got(1, 6..7)];
    assert!(possible(&overlapping));
}

#[test]
fn what_was_deleted_does_not_come_back() {
    let deleted = [put(1, 1..2), delete(3..4)];
    let with = |reads: &[Operation]| possible(&[&deleted[..], reads].concat());
    assert!(with(&[nothing(5..6)]));
    assert!(!with(&[got(1, 5..6)]));
    assert!(!with(&[nothing(5..6), got(1, 7..8)]));
    assert!(with(&[put(2, 5..6), got(2, 7..8)]));
    let unacknowledged = Operation {
        end: None,
        ..delete(3..4)
    };
    assert!(possible(&[
        put(1, 1..2),
        unacknowledged.clone(),
        got(1, 5..6),
        nothing(7..8)
    ]));
    assert!(!possible(&[
        put(1, 1..2),
        unacknowledged,
        nothing(5..6),
        got(1, 7..8)
    ]));
}

#[test]
fn the_misfit_is_named_with_what_came_before() {
    let lost = [
        put(1, 1..2),
        got(1, 3..4),
        put(2, 5..6),
        got(1, 7..8),
        got(1, 9..10),
    ];
    let text = check(&lost).unwrap_err().to_string();
    assert!(text.starts_with("7..8 client: got file"), "{text}");
    assert!(text.contains("5..6 client: put file"), "{text}");
}

#[test]
fn long_histories_with_failures_are_judged_quickly() {
    let mut operations = Vec::new();
    for n in 0..400_u64 {
        let t = n * 10;
        let failed = n % 5 == 0;
        operations.push(if failed {
            begun(n, t)
        } else {
            put(n, t..t + 4)
        });
        let seen = if failed && n % 2 == 0 {
            n.saturating_sub(1)
        } else {
            n
        };
        operations.push(got(seen, t + 5..t + 8));
        operations.push(got(seen, t + 6..t + 9));
    }
    // Number 0 failed and was seen by nobody but the gets right after it.
    assert!(possible(&operations));
    operations.push(nothing(5000..5001));
    assert!(!possible(&operations));
}

#[test]
fn a_recorder_orders_what_it_is_told() {
    let recorder = Recorder::default();
    let first = recorder.set("file", "a", Some(value(1)));
    let second = recorder.set("file", "b", Some(value(2)));
    second.acknowledged();
    recorder.get("file", "c").returned(Some(value(1)));
    recorder.get("file", "d").returned(Some(value(2)));
    drop(first);
    let operations = recorder.operations();
    assert_eq!(
        operations
            .iter()
            .map(|o| (o.begin, o.end))
            .collect::<Vec<_>>(),
        [(1, None), (2, Some(3)), (4, Some(5)), (6, Some(7)),]
    );
    assert!(
        !possible(&operations),
        "1 can only have come after 2, so nobody sees 2 again"
    );
}

#[test]
fn a_delete_that_finds_nothing_is_a_get() {
    let recorder = Recorder::default();
    recorder.set("file", "a", None).found_nothing();
    recorder.set("file", "a", Some(value(1))).acknowledged();
    assert!(possible(&recorder.operations()));
    recorder.set("file", "b", None).found_nothing();
    assert!(!possible(&recorder.operations()), "there was something");
}
