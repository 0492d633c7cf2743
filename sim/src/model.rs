//! The reference model: what clients were promised, and whether what they were told is a legal history.
//!
//! Each name is an atomic register. Every write has a value of its own, so that a history can be decided exactly and
//! quickly by Gibbons and Korach's zones ("Testing Shared Memories", section 4): the operations on one value form a
//! cluster, from which follows the stretch of time in which the register must have held the value (a forward zone) or
//! could have held it for a moment (a backward zone). A history is linearizable exactly when no value is read before it
//! is written, no two forward zones overlap and no backward zone lies within a forward zone.
//!
//! A conditional write that was refused is a read. One that took effect also read what it names just before; whether
//! an order explains that too is searched for in [`search`].
//!
//! A write whose outcome is unknown may take effect at any later time; it counts only once somebody has read it.

use std::collections::BTreeMap;

use peernet_core::key::Name;
use peernet_core::member::PeerId;
use peernet_core::register::{Register, Version, WriteId};

use crate::client::{Record, Stamp};

mod search;
mod violation;

pub use search::When;
pub use violation::{Kind, Violation};

/// What a read saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// No such name ever.
    Nothing,
    /// The file written by the write of this number.
    File(u64),
    /// A tombstone.
    Tombstone(WriteId),
}

impl Seen {
    /// What a client gets to know from a register.
    pub fn of(register: Option<&Register>) -> Seen {
        match register {
            None => Seen::Nothing,
            Some(register) => match Record::decode(register) {
                Some(record) => Seen::File(record.id),
                None => Seen::Tombstone(register.write),
            },
        }
    }
}

/// A write or delete that was begun.
#[derive(Clone, Debug)]
struct Write {
    /// For a delete, nothing.
    file: Option<Record>,
    when: When,
    /// The peer that coordinates it.
    writer: Option<PeerId>,
    start: u64,
    /// When it was acknowledged, if it was.
    acked: Option<(u64, Stamp)>,
}

#[derive(Clone, Debug)]
struct Read {
    seen: Seen,
    start: u64,
    end: u64,
}

#[derive(Clone, Debug, Default)]
struct History {
    writes: BTreeMap<u64, Write>,
    reads: Vec<Read>,
}

/// All that clients did and were told. Times are [`crate::world::World::tick`]s.
#[derive(Default)]
pub struct Model {
    names: BTreeMap<Name, History>,
    writes: u64,
    violations: Vec<Violation>,
    slowest: u64,
}

/// A cluster's zone: the earliest end and the latest start of the operations on one value.
struct Zone {
    seen: Seen,
    first_end: u64,
    last_start: u64,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.first_end < self.last_start
    }
}

impl Model {
    /// A number for the next write.
    pub fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    /// A write (or, without a record, a delete) of this number begins, coordinated by `writer`.
    pub fn begin(
        &mut self,
        name: &Name,
        id: u64,
        file: Option<Record>,
        when: When,
        writer: Option<PeerId>,
        now: u64,
    ) {
        let write = Write {
            file,
            when,
            writer,
            start: now,
            acked: None,
        };
        self.names
            .entry(name.clone())
            .or_default()
            .writes
            .insert(id, write);
    }

    /// It is acknowledged. Without this call its outcome stays unknown.
    pub fn acknowledge(&mut self, name: &Name, id: u64, stamp: Stamp, now: u64) {
        let write = self.names.get_mut(name).and_then(|h| h.writes.get_mut(&id));
        write.expect("only what was begun is acknowledged").acked = Some((now, stamp));
    }

    /// It had no effect, for its condition does not hold of what was seen: it was a read.
    pub fn refuse(&mut self, name: &Name, id: u64, seen: Seen, now: u64) {
        let history = self.names.get_mut(name);
        let write = history.and_then(|h| h.writes.remove(&id));
        let write = write.expect("only what was begun is refused");
        let holds = match &write.when {
            When::Always => true,
            When::Absent => !matches!(seen, Seen::File(_)),
            When::Unchanged(expected) => *expected == seen,
        };
        if holds {
            let name = name.clone();
            self.report(Violation::WronglyRefused { name, seen });
        } else {
            self.read(name, seen, write.start, now);
        }
    }

    /// A read ended well.
    pub fn read(&mut self, name: &Name, seen: Seen, start: u64, end: u64) {
        self.names
            .entry(name.clone())
            .or_default()
            .reads
            .push(Read { seen, start, end });
    }

    /// A file was read whole, after so many milliseconds.
    pub fn took(&mut self, millis: u64) {
        self.slowest = self.slowest.max(millis);
    }

    /// The most that [`Model::took`] was told.
    pub fn slowest(&self) -> u64 {
        self.slowest
    }

    /// Something that must not happen was seen by a client.
    pub fn report(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// All names that were ever written.
    pub fn names(&self) -> Vec<Name> {
        self.names.keys().cloned().collect()
    }

    /// How many writes were acknowledged, and how many reads answered.
    pub fn counts(&self) -> (usize, usize) {
        let acked = |h: &History| h.writes.values().filter(|w| w.acked.is_some()).count();
        (
            self.names.values().map(acked).sum(),
            self.names.values().map(|h| h.reads.len()).sum(),
        )
    }

    /// All acknowledged writes.
    pub fn acknowledged(&self) -> Vec<(Name, Stamp)> {
        let all = self.names.iter().flat_map(|(name, history)| {
            let stamps = history.writes.values().filter_map(|w| w.acked);
            stamps.map(|(_, stamp)| (name.clone(), stamp))
        });
        all.collect()
    }

    /// For each name whose newest acknowledged write is a file with no unknown write beside it: that file and its
    /// version. A later write can only have replaced it by being acknowledged.
    pub fn certain(&self) -> Vec<(Name, Record, Version)> {
        let newest = |(name, history): (&Name, &History)| {
            let acked = history
                .writes
                .values()
                .filter_map(|w| Some((w.acked?.1.version, w)));
            let (version, write) = acked.max_by_key(|(version, _)| *version)?;
            let unknown = history.writes.values().any(|w| w.acked.is_none());
            let record = write.file.clone().filter(|_| !unknown)?;
            Some((name.clone(), record, version))
        };
        self.names.iter().filter_map(newest).collect()
    }

    /// Whether each name exists, as the last read of it saw.
    pub fn last_seen(&self) -> BTreeMap<Name, bool> {
        let last = |history: &History| {
            history
                .reads
                .iter()
                .max_by_key(|r| r.end)
                .map(|r| matches!(r.seen, Seen::File(_)))
        };
        self.names
            .iter()
            .filter_map(|(name, history)| Some((name.clone(), last(history)?)))
            .collect()
    }

    /// Everything that must not have happened.
    pub fn violations(&self) -> Vec<Violation> {
        let mut all = self.violations.clone();
        for (name, history) in &self.names {
            judge(name, history, &mut all);
        }
        all
    }
}

/// Which writes may have written what was seen: the start of the earliest, and when the earliest was acknowledged.
fn origin(history: &History, seen: &Seen) -> Option<(u64, u64)> {
    let span = |w: &Write| (w.start, w.acked.map_or(u64::MAX, |(end, _)| end));
    match seen {
        Seen::Nothing => Some((0, 0)),
        Seen::File(id) => history.writes.get(id).map(span),
        Seen::Tombstone(write) => {
            let deletes = || history.writes.values().filter(|w| w.file.is_none());
            let acked = deletes()
                .find(|w| w.acked.is_some_and(|(_, s)| s.write == *write))
                .map(span);
            // A delete of unknown outcome has no name; its coordinator is in the one that was seen.
            let unknown = deletes()
                .filter(|w| w.acked.is_none() && w.writer.is_none_or(|id| id == write.peer));
            acked.or_else(|| unknown.map(span).min())
        }
    }
}

fn zones(name: &Name, history: &History, violations: &mut Vec<Violation>) -> Vec<Zone> {
    let mut zones: Vec<Zone> = Vec::new();
    let mut zone =
        |seen: &Seen, start: u64, end: u64| match zones.iter_mut().find(|z| z.seen == *seen) {
            Some(zone) => {
                zone.first_end = zone.first_end.min(end);
                zone.last_start = zone.last_start.max(start);
            }
            None => zones.push(Zone {
                seen: seen.clone(),
                first_end: end,
                last_start: start,
            }),
        };
    zone(&Seen::Nothing, 0, 0);
    for (id, write) in &history.writes {
        if let Some((end, stamp)) = write.acked {
            let seen = if write.file.is_some() {
                Seen::File(*id)
            } else {
                Seen::Tombstone(stamp.write)
            };
            zone(&seen, write.start, end);
            if let When::Unchanged(before) = &write.when
                && let Some((written, acked)) = origin(history, before)
            {
                zone(before, written, acked);
                zone(before, write.start, end);
            }
        }
    }
    for Read { seen, start, end } in &history.reads {
        let Some((written, acked)) = origin(history, seen) else {
            violations.push(Violation::Invented {
                name: name.clone(),
                seen: seen.clone(),
            });
            continue;
        };
        if *end < written {
            violations.push(Violation::FromTheFuture {
                name: name.clone(),
                seen: seen.clone(),
            });
            continue;
        }
        zone(seen, written, acked);
        zone(seen, *start, *end);
    }
    zones
}

fn judge(name: &Name, history: &History, violations: &mut Vec<Violation>) {
    let before = violations.len();
    judge_zones(name, history, violations);
    let conditional = history.writes.values().any(|w| w.when != When::Always);
    if conditional && violations.len() == before && search::is_linearizable(history) == Some(false)
    {
        let name = name.clone();
        violations.push(Violation::NoOrder { name });
    }
}

fn judge_zones(name: &Name, history: &History, violations: &mut Vec<Violation>) {
    let zones = zones(name, history, violations);
    let mut forward: Vec<&Zone> = zones.iter().filter(|z| z.is_forward()).collect();
    forward.sort_by_key(|z| z.first_end);
    let mut clash = |a: &Zone, b: &Zone| {
        let values = (a.seen.clone(), b.seen.clone());
        violations.push(Violation::NotLinearizable {
            name: name.clone(),
            values,
        });
    };
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_start {
            clash(pair[0], pair[1]);
        }
    }
    for inner in zones.iter().filter(|z| !z.is_forward()) {
        let within = |outer: &&&Zone| {
            outer.first_end < inner.last_start && inner.first_end < outer.last_start
        };
        if let Some(outer) = forward.iter().find(within) {
            clash(outer, inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Test(Model, Name);

    impl Test {
        fn new() -> Self {
            Test(Model::default(), Name::new("x").unwrap())
        }

        fn stamp(id: u64) -> Stamp {
            let write = WriteId {
                peer: PeerId(7),
                op: id,
            };
            let version = Version {
                epoch: id,
                round: 0,
                writer: PeerId(7),
                op: id,
            };
            Stamp { version, write }
        }

        fn put(&mut self, id: u64, start: u64, end: Option<u64>) -> &mut Self {
            self.write(
                id,
                Some(Record {
                    id,
                    chunks: vec![],
                    upload: None,
                }),
                start,
                end,
            )
        }

        fn delete(&mut self, id: u64, start: u64, end: Option<u64>) -> &mut Self {
            self.write(id, None, start, end)
        }

        fn write(
            &mut self,
            id: u64,
            file: Option<Record>,
            start: u64,
            end: Option<u64>,
        ) -> &mut Self {
            self.conditional(id, file, When::Always, start, end)
        }

        fn conditional(
            &mut self,
            id: u64,
            file: Option<Record>,
            when: When,
            start: u64,
            end: Option<u64>,
        ) -> &mut Self {
            let writer = Some(PeerId(7));
            self.0.begin(&self.1, id, file, when, writer, start);
            if let Some(end) = end {
                self.0.acknowledge(&self.1, id, Self::stamp(id), end);
            }
            self
        }

        fn create(&mut self, id: u64, start: u64, end: Option<u64>) -> &mut Self {
            let file = Some(Record {
                id,
                chunks: vec![],
                upload: None,
            });
            self.conditional(id, file, When::Absent, start, end)
        }

        fn replace(&mut self, id: u64, of: Seen, start: u64, end: Option<u64>) -> &mut Self {
            let file = Some(Record {
                id,
                chunks: vec![],
                upload: None,
            });
            self.conditional(id, file, When::Unchanged(of), start, end)
        }

        fn get(&mut self, seen: Seen, start: u64, end: u64) -> &mut Self {
            self.0.read(&self.1, seen, start, end);
            self
        }

        fn verdict(&self) -> usize {
            self.0.violations().len()
        }
    }

    use Seen::{File, Nothing, Tombstone};

    #[test]
    fn one_after_the_other_is_legal() {
        let mut t = Test::new();
        t.get(Nothing, 1, 2)
            .put(1, 3, Some(4))
            .get(File(1), 5, 6)
            .delete(2, 7, Some(8));
        t.get(Tombstone(Test::stamp(2).write), 9, 10)
            .put(3, 11, Some(12))
            .get(File(3), 13, 14);
        assert_eq!(t.verdict(), 0);
    }

    #[test]
    fn a_lost_write_is_noticed() {
        assert_eq!(
            Test::new().put(1, 1, Some(2)).get(Nothing, 3, 4).verdict(),
            1
        );
        assert_eq!(
            Test::new()
                .put(1, 1, Some(2))
                .put(2, 3, Some(4))
                .get(File(1), 5, 6)
                .verdict(),
            1
        );
        assert_eq!(
            Test::new()
                .put(1, 1, Some(2))
                .delete(2, 3, Some(4))
                .get(File(1), 5, 6)
                .verdict(),
            1
        );
    }

    #[test]
    fn a_read_that_goes_back_is_noticed() {
        let mut t = Test::new();
        t.put(1, 1, Some(2))
            .put(2, 3, Some(20))
            .get(File(2), 5, 6)
            .get(File(1), 7, 8);
        assert_eq!(
            t.verdict(),
            1,
            "the second write was seen before it ended, and then no more"
        );
    }

    #[test]
    fn concurrent_operations_may_take_effect_in_either_order() {
        let mut t = Test::new();
        t.put(1, 1, Some(10))
            .put(2, 2, Some(9))
            .get(Nothing, 3, 4)
            .get(File(1), 5, 8)
            .get(File(2), 11, 12);
        assert_eq!(t.verdict(), 0);
        t.get(File(1), 13, 14);
        assert_eq!(t.verdict(), 1);
    }

    #[test]
    fn an_unknown_write_may_show_late_or_never_but_only_once() {
        let mut t = Test::new();
        t.put(1, 1, Some(2)).put(2, 3, None).get(File(1), 4, 5);
        assert_eq!(t.verdict(), 0);
        t.get(File(2), 100, 101);
        assert_eq!(t.verdict(), 0);
        t.get(File(1), 102, 103);
        assert_eq!(t.verdict(), 1);
    }

    #[test]
    fn an_unknown_delete_is_recognised_by_its_coordinator() {
        let mut t = Test::new();
        t.put(1, 1, Some(2))
            .delete(2, 3, None)
            .get(Tombstone(Test::stamp(9).write), 5, 6);
        assert_eq!(t.verdict(), 0);
        let stranger = WriteId {
            peer: PeerId(8),
            op: 1,
        };
        t.get(Tombstone(stranger), 7, 8);
        assert_eq!(t.verdict(), 1);
    }

    #[test]
    fn what_nobody_wrote_or_only_later_is_noticed() {
        assert_eq!(Test::new().get(File(1), 1, 2).verdict(), 1);
        assert_eq!(
            Test::new().get(File(1), 1, 2).put(1, 3, Some(4)).verdict(),
            1
        );
    }

    #[test]
    fn conditions_that_held_are_legal() {
        let mut t = Test::new();
        t.create(1, 1, Some(2))
            .replace(2, File(1), 3, Some(4))
            .delete(3, 5, Some(6))
            .create(4, 7, Some(8))
            .get(File(4), 9, 10);
        assert_eq!(t.verdict(), 0);
        // Concurrent with a delete of unknown outcome, there may have been room again.
        t.delete(5, 11, None).create(6, 12, Some(13));
        assert_eq!(t.verdict(), 0);
    }

    #[test]
    fn a_lost_update_is_noticed() {
        let mut t = Test::new();
        t.put(1, 1, Some(2))
            .replace(2, File(1), 3, Some(10))
            .replace(3, File(1), 4, Some(9));
        assert_eq!(t.verdict(), 1, "both replaced the same");
    }

    #[test]
    fn a_write_between_a_condition_and_its_write_is_noticed() {
        let mut t = Test::new();
        t.put(1, 1, Some(2)).put(2, 3, Some(20));
        t.replace(3, File(1), 4, Some(10)).get(File(3), 5, 6);
        assert_eq!(t.verdict(), 0, "the put comes last");
        t.get(File(2), 7, 8);
        assert_eq!(t.verdict(), 0);
        let mut t = Test::new();
        t.put(1, 1, Some(2)).put(2, 3, Some(20));
        t.replace(3, File(1), 4, Some(10)).get(File(2), 5, 6);
        t.get(File(3), 12, 13);
        assert_eq!(t.verdict(), 1, "the put came first, and was no more");
    }

    #[test]
    fn two_creations_without_a_delete_are_noticed() {
        let mut t = Test::new();
        t.create(1, 1, Some(10)).create(2, 2, Some(9));
        assert_eq!(t.verdict(), 1);
        let mut t = Test::new();
        t.create(1, 1, None)
            .create(2, 2, Some(9))
            .get(File(1), 10, 11);
        assert_eq!(t.verdict(), 1, "the first took effect after the second");
    }

    #[test]
    fn a_refusal_is_a_read_and_has_to_be_right() {
        let mut t = Test::new();
        t.put(1, 1, Some(2)).create(2, 3, None);
        let name = t.1.clone();
        t.0.refuse(&name, 2, File(1), 4);
        assert_eq!(t.verdict(), 0);
        t.create(3, 5, None);
        t.0.refuse(&name, 3, Nothing, 6);
        assert_eq!(t.verdict(), 1, "there was room");
    }

    #[test]
    fn certain_is_what_must_still_be_there() {
        let mut t = Test::new();
        t.put(1, 1, Some(2));
        assert_eq!(t.0.certain().len(), 1);
        t.put(2, 3, None);
        assert_eq!(t.0.certain().len(), 0);
    }
}
