//! A search for an order that explains a register's history with conditional writes (Wing and Gong, "Testing and
//! Verifying Concurrent Objects", 1993; with Lowe's memory of what was tried, "Testing for Linearizability", 2017).
//!
//! The zones of the parent module decide histories of plain reads and writes at once; a condition ties a write to the
//! value just before it, which zones cannot express. The search tries, at each step, every operation that began before
//! the first end among those not yet placed.

use std::collections::HashSet;

use super::{History, Seen, Write};

/// After so many steps the search gives up, and the zones' verdict stands: some tens of megabytes.
const STEPS_MAX: usize = 100_000;

/// When a write takes effect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum When {
    /// Always.
    #[default]
    Always,
    /// When there is no file.
    Absent,
    /// When the name still holds this.
    Unchanged(Seen),
}

enum Act<'a> {
    Read(&'a Seen),
    /// Of this number.
    Write(u64, &'a Write),
}

struct Operation<'a> {
    act: Act<'a>,
    start: u64,
    /// `u64::MAX` for an unknown outcome: it may have had no effect.
    end: u64,
}

/// Whether what `last` wrote (nothing: no write yet) is what was seen.
fn shows(last: Option<&(u64, &Write)>, seen: &Seen) -> bool {
    match (last, seen) {
        (None, Seen::Nothing) => true,
        (Some((id, write)), Seen::File(seen)) => id == seen && write.file.is_some(),
        (Some((_, write)), Seen::Tombstone(seen)) if write.file.is_none() => match write.acked {
            Some((_, stamp)) => stamp.write == *seen,
            // Its name is not known; its coordinator is in the name that was seen.
            None => write.writer.is_none_or(|peer| peer == seen.peer),
        },
        (last, Seen::Fence) => last.is_none_or(|(_, write)| write.file.is_none()),
        _ => false,
    }
}

impl Write {
    fn may_follow(&self, last: Option<&(u64, &Write)>) -> bool {
        match &self.when {
            When::Always => true,
            When::Absent => last.is_none_or(|(_, write)| write.file.is_none()),
            When::Unchanged(seen) => shows(last, seen),
        }
    }
}

/// One way to go on: what was placed, and which operation wrote last.
type Node = (Box<[u64]>, Option<usize>);

/// Whether some order explains the history; `None` when the search gave up.
pub(super) fn is_linearizable(history: &History) -> Option<bool> {
    let seen_by_somebody = |id: u64| {
        let conditions = history.writes.values().filter_map(|w| match &w.when {
            When::Unchanged(seen) => Some(seen),
            When::Always | When::Absent => None,
        });
        let mut all = history.reads.iter().map(|r| &r.seen).chain(conditions);
        all.any(|seen| *seen == Seen::File(id))
    };
    // A file of unknown outcome that nobody saw need not have come about. A delete may have made room for another.
    let matters = |(id, write): &(&u64, &Write)| {
        write.acked.is_some() || write.file.is_none() || seen_by_somebody(**id)
    };
    let writes = history.writes.iter().filter(matters);
    let mut operations: Vec<Operation<'_>> = writes
        .map(|(id, write)| Operation {
            act: Act::Write(*id, write),
            start: write.start,
            end: write.acked.map_or(u64::MAX, |(end, _)| end),
        })
        .chain(history.reads.iter().map(|read| Operation {
            act: Act::Read(&read.seen),
            start: read.start,
            end: read.end,
        }))
        .collect();
    operations.sort_by_key(|o| o.start);
    search(&operations)
}

fn search(operations: &[Operation<'_>]) -> Option<bool> {
    let placed = |set: &[u64], i: usize| set[i / 64] >> (i % 64) & 1 == 1;
    let writer = |i: usize| match &operations[i].act {
        Act::Write(id, write) => (*id, *write),
        Act::Read(_) => unreachable!("only a write is the last write"),
    };
    let start: Node = (vec![0; operations.len().div_ceil(64)].into(), None);
    let (mut tried, mut stack) = (HashSet::from([start.clone()]), vec![start]);
    while let Some((set, last)) = stack.pop() {
        if tried.len() > STEPS_MAX {
            return None;
        }
        let open = || (0..operations.len()).filter(|i| !placed(&set, *i));
        let first_end = open().map(|i| operations[i].end).min();
        if first_end.is_none_or(|end| end == u64::MAX) {
            return Some(true);
        }
        let value = last.map(writer);
        let candidates = || open().take_while(|i| Some(operations[*i].start) < first_end);
        let with = |i: usize| {
            let mut set = set.clone();
            set[i / 64] |= 1 << (i % 64);
            set
        };
        // A read of the present value changes nothing: placed at once it stands in nobody's way.
        let fits = |i: &usize| match &operations[*i].act {
            Act::Read(seen) => shows(value.as_ref(), seen),
            Act::Write(..) => false,
        };
        if let Some(read) = candidates().find(fits) {
            let node = (with(read), last);
            if tried.insert(node.clone()) {
                stack.push(node);
            }
            continue;
        }
        let follows = |i: &usize| match &operations[*i].act {
            Act::Read(_) => false,
            Act::Write(_, write) => write.may_follow(value.as_ref()),
        };
        // The last pushed is tried first: those of known outcome, which have to be placed.
        let unknown = |i: &usize| operations[*i].end == u64::MAX;
        let (late, soon): (Vec<usize>, Vec<usize>) =
            candidates().filter(follows).partition(unknown);
        for i in late.into_iter().chain(soon) {
            let node = (with(i), Some(i));
            if tried.insert(node.clone()) {
                stack.push(node);
            }
        }
    }
    Some(false)
}
