//! The reference model: what clients were promised, and whether what they were told is a legal history.
//!
//! Each name is an atomic register. Every write has a value of its own, so that a history can be decided exactly and
//! quickly by Gibbons and Korach's zones ("Testing Shared Memories", section 4): the operations on one value form a
//! cluster, from which follows the stretch of time in which the register must have held the value (a forward zone) or
//! could have held it for a moment (a backward zone). A history is linearizable exactly when no value is read before it
//! is written, no two forward zones overlap and no backward zone lies within a forward zone.
//!
//! The network writes too: a *fence* (`peernet_core::collect`) ends an upload of more than an hour by writing the name anew
//! with the value it has. Clients know nothing of it, so [`Model::expect_fences`] says when that may have happened.
//!
//! A conditional write that was refused is a read. One that took effect also read what it names just before; whether
//! an order explains that too is searched for in [`search`].
//!
//! A write whose outcome is unknown may take effect at any later time; it counts only once somebody has read it.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::key::Name;
use peernet_core::member::PeerId;
use peernet_core::register::{Condition, Register, Version, WriteId};

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
    /// A fence's tombstone: there is no file, as before it.
    Fence,
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
    fences: bool,
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

    /// From now on a name may have been written anew with the value it had, as an hour has passed for some peer.
    pub fn expect_fences(&mut self) {
        self.fences = true;
    }

    /// It had no effect, for its condition does not hold of what was seen: it was a read.
    pub fn refuse(
        &mut self,
        name: &Name,
        id: u64,
        register: Option<&Register>,
        condition: Condition,
        now: u64,
    ) {
        let history = self.names.get_mut(name);
        let write = history.and_then(|h| h.writes.remove(&id));
        let write = write.expect("only what was begun is refused");
        let seen = Seen::of(register);
        let anew = matches!(&write.when, When::Unchanged(expected) if *expected == seen);
        if condition.admits(register) || (anew && !self.fences) {
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

    /// What a listing that took from `start` to `end` showed. It has to show each name that existed all the time, and none
    /// that was deleted all the time; where somebody wrote meanwhile, or nobody knows how a write ended, it may do either.
    pub fn listed(&mut self, names: &BTreeSet<Name>, start: u64, end: u64) {
        let wrong = |(name, history): (&Name, &History)| {
            let exists = history.steady(start, end)?;
            (names.contains(name) != exists).then(|| Violation::Listed {
                name: name.clone(),
                exists,
            })
        };
        let wrong: Vec<Violation> = self.names.iter().filter_map(wrong).collect();
        self.violations.extend(wrong);
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
            if self.fences {
                judge(name, &history.with_fences(), &mut all);
            } else {
                judge(name, history, &mut all);
            }
        }
        all
    }
}

impl History {
    /// Whether the name existed from `start` to `end`; `None` if that may have changed meanwhile or is not known.
    fn steady(&self, start: u64, end: u64) -> Option<bool> {
        let begun = self.writes.values().filter(|w| w.start <= end);
        let mut newest: Option<(Version, bool)> = None;
        for write in begun {
            let (_, stamp) = write.acked.filter(|(acked, _)| *acked < start)?;
            let write = (stamp.version, write.file.is_some());
            newest = newest.max(Some(write));
        }
        newest.map(|(_, exists)| exists)
    }

    /// The tombstones that no client's delete explains are those of fences.
    fn with_fences(&self) -> History {
        let mut history = self.clone();
        let conditions = history
            .writes
            .values_mut()
            .filter_map(|w| match &mut w.when {
                When::Unchanged(seen) => Some(seen),
                When::Always | When::Absent => None,
            });
        let reads = history.reads.iter_mut().map(|r| &mut r.seen);
        for seen in reads.chain(conditions) {
            if matches!(seen, Seen::Tombstone(_)) && origin(self, seen).is_none() {
                *seen = Seen::Fence;
            }
        }
        history
    }

    /// Zones cannot tell everything of it.
    fn needs_search(&self) -> bool {
        self.writes.values().any(|w| w.when != When::Always)
            || self.reads.iter().any(|r| r.seen == Seen::Fence)
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
        Seen::Fence => None,
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
    let fenced = |read: &&Read| read.seen == Seen::Fence;
    for Read { seen, start, end } in history.reads.iter().filter(|r| !fenced(r)) {
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
    if violations.len() == before
        && history.needs_search()
        && search::is_linearizable(history) == Some(false)
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
mod tests;
