//! What a proposer does with what a quorum has told it: pure functions.

use super::{Register, Version, WriteId};

/// What is known of an operation's own value, should it have been sent to replicas before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Base {
    /// It may be stored anywhere under this ballot or a greater one.
    pub since: Version,
    /// The write it was to replace (`Some(None)`: nothing), when known: as long as the name holds that, ours was never
    /// decided.
    pub replaces: Option<Option<WriteId>>,
}

impl Base {
    /// Our value is sent again under `ballot`, in the place of what the name `holds`. What was sent before is still
    /// somewhere: promises end with their epoch, and in the next one something made of an early copy may be decided that is
    /// below our latest ballot. So it is the first ballot that counts.
    #[must_use]
    pub fn again(before: Option<Base>, ballot: Version, holds: Option<WriteId>) -> Base {
        Base {
            since: before.map_or(ballot, |before| before.since.min(ballot)),
            replaces: Some(holds),
        }
    }
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// The register is what was found, and a quorum holds it: tell the client.
    Found,
    /// Store what was found under the ballot claimed, then tell the client.
    Settle,
    /// Store the client's value.
    Apply,
    /// The client's value was found: store it under the ballot claimed, then tell the client that it is written.
    Finish,
    /// It cannot be told whether the client's value has been there already: doing it again might undo what came after.
    Unknown,
}

/// Whether what was found is decided, and will not be undone by a ballot that is under way: a quorum holds it (`agreed`),
/// and it is of this epoch, or else the slot's owner is among them, so that the owner's next ballot follows from it.
pub fn is_decided(found: Option<&Register>, agreed: bool, owner_agrees: bool, epoch: u64) -> bool {
    agreed && (owner_agrees || found.is_some_and(|r| r.version.epoch == epoch))
}

/// A quorum has promised our ballot. `found` is the greatest register that any of it has admitted, `decided` whether it
/// [`is_decided`]. `change` is the operation's write and whether its condition holds of what was found, or `None` for a
/// read.
pub fn after_claim(
    found: Option<&Register>,
    decided: bool,
    change: Option<(WriteId, bool)>,
    base: Option<Base>,
) -> Step {
    let as_found = match found {
        Some(_) if !decided => Step::Settle,
        // Decided, or nothing is and nothing lower can be any more.
        _ => Step::Found,
    };
    let Some((write, admits)) = change else {
        return as_found;
    };
    let holds = found.map(|r| r.write);
    if holds == Some(write) {
        return Step::Finish;
    }
    if let Some(base) = base {
        // Had ours been decided, every later ballot would have found it or what was made of it.
        let never = found.is_none_or(|r| r.version < base.since) || base.replaces == Some(holds);
        if !never {
            return Step::Unknown;
        }
    }
    match (admits, base, found) {
        (true, ..) => Step::Apply,
        (false, None, _) => as_found,
        // Somebody with a greater ballot may have found ours at a replica that we have not heard: that it is not written
        // may be said only once something else is decided under a ballot of ours.
        (false, Some(_), Some(_)) => Step::Settle,
        (false, Some(_), None) => Step::Unknown,
    }
}

/// A quorum of replicas of `epoch` has told what it holds, without a promise: may the greatest of that be told to the
/// client? `decided`: whether it [`is_decided`].
pub fn after_read(found: Option<&Register>, decided: bool, epoch: u64) -> Option<Step> {
    if decided {
        return Some(Step::Found);
    }
    // Proposed under this very epoch: what its proposer asks of the replicas may be asked again by anyone.
    let current = found.is_some_and(|r| r.version.epoch == epoch);
    current.then_some(Step::Settle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Name;
    use crate::member::PeerId;
    use crate::register::Value;

    fn write(op: u64) -> WriteId {
        WriteId {
            peer: PeerId(1),
            op,
        }
    }

    fn register(epoch: u64, op: u64) -> Register {
        Register {
            name: Name::new("f").unwrap(),
            version: Version {
                epoch,
                round: 0,
                writer: PeerId(1),
                op,
            },
            write: write(op),
            value: Value::Deleted,
            trail: Box::default(),
        }
    }

    #[test]
    fn what_may_have_been_written_is_not_written_again() {
        let put = Some((write(9), true));
        let base = Some(Base {
            since: Version::least_of(3),
            replaces: None,
        });
        assert_eq!(
            after_claim(Some(&register(3, 9)), false, put, base),
            Step::Finish
        );
        assert_eq!(
            after_claim(Some(&register(2, 5)), true, put, base),
            Step::Apply
        );
        assert_eq!(after_claim(None, true, put, base), Step::Apply);
        assert_eq!(
            after_claim(Some(&register(3, 5)), true, put, base),
            Step::Unknown
        );
        let known = base.map(|b| Base {
            replaces: Some(Some(write(5))),
            ..b
        });
        assert_eq!(
            after_claim(Some(&register(3, 5)), true, put, known),
            Step::Apply
        );
        assert_eq!(
            after_claim(Some(&register(3, 6)), true, put, known),
            Step::Unknown
        );
    }

    #[test]
    fn what_was_made_of_an_early_copy_counts_however_late_the_last_ballot_is() {
        let ballot = |round| Version {
            round,
            ..Version::least_of(3)
        };
        let first = Base::again(None, ballot(1), Some(write(5)));
        let third = Base::again(Some(first), ballot(3), Some(write(5)));
        assert_eq!((first.since, third.since), (ballot(1), ballot(1)));
        // Somebody replaced our first copy under the second ballot, and the next epoch has decided that.
        let mut made_of_ours = register(3, 6);
        made_of_ours.version = ballot(2);
        let put = Some((write(9), true));
        assert_eq!(
            after_claim(Some(&made_of_ours), true, put, Some(third)),
            Step::Unknown
        );
        // What it was to replace last may still be there.
        let back = Base::again(Some(third), ballot(4), Some(write(6)));
        assert_eq!(
            after_claim(Some(&made_of_ours), true, put, Some(back)),
            Step::Apply
        );
    }

    #[test]
    fn a_condition_that_fails_is_a_read() {
        let create = Some((write(9), false));
        assert_eq!(
            after_claim(Some(&register(3, 5)), true, create, None),
            Step::Found
        );
        assert_eq!(
            after_claim(Some(&register(3, 5)), false, create, None),
            Step::Settle
        );
        assert_eq!(after_claim(None, true, create, None), Step::Found);
    }

    #[test]
    fn a_failed_condition_is_told_of_what_was_proposed_only_once_something_else_is_decided() {
        let replace = Some((write(9), false));
        let base = Some(Base {
            since: Version::least_of(3),
            replaces: Some(Some(write(1))),
        });
        let other = register(2, 5);
        assert_eq!(after_claim(Some(&other), true, replace, base), Step::Settle);
        assert_eq!(after_claim(None, true, replace, base), Step::Unknown);
    }

    #[test]
    fn an_old_value_is_told_only_when_the_owner_knows_it() {
        let read = |found: Option<&Register>, agreed, owner_agrees| {
            let decided = is_decided(found, agreed, owner_agrees, 3);
            after_read(found, decided, 3)
        };
        let old = register(2, 5);
        assert_eq!(read(Some(&old), true, true), Some(Step::Found));
        assert_eq!(read(Some(&old), true, false), None);
        assert_eq!(read(Some(&old), false, true), None);
        assert_eq!(read(None, true, false), None);
        assert_eq!(read(None, true, true), Some(Step::Found));
        let new = register(3, 5);
        assert_eq!(read(Some(&new), true, false), Some(Step::Found));
        assert_eq!(read(Some(&new), false, false), Some(Step::Settle));
    }
}
