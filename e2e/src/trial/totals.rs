//! What happened in a trial, in figures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Fault;
use crate::memory::Memory;
use crate::recovery::Back;

/// How long one fault took to pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Took {
    /// Until files went in and out again through peers that were not hit; from the moment of the fault.
    pub back: Back,
    /// Until all peers were one ring and everything had all its copies; from when the fault was undone.
    pub redundancy: Duration,
    /// Longest that any client waited for a get, with all its attempts at whatever peers were ready by Kubernetes.
    pub slowest_get: Duration,
    /// The same for a put or delete.
    pub slowest_put: Duration,
}

/// Faults, operations and the worst of everything.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How often each kind of fault was done.
    pub faults: BTreeMap<String, u32>,
    /// Puts, gets and deletes in the history.
    pub operations: usize,
    /// The longest of each, and after which fault.
    pub longest: BTreeMap<&'static str, (Duration, String)>,
    /// The most that any peer, or the operator, used at any check.
    pub memory: u64,
}

impl Totals {
    pub(super) fn count(&mut self, fault: Fault, took: &Took, operations: usize) {
        let Took {
            back: Back { reads, writes },
            redundancy,
            slowest_get,
            slowest_put,
        } = *took;
        *self.faults.entry(fault.kind().to_owned()).or_default() += 1;
        self.operations = operations;
        let of_each = [
            ("reads", reads),
            ("writes", writes),
            ("redundancy", redundancy),
            ("one get", slowest_get),
            ("one put", slowest_put),
        ];
        for (what, took) in of_each {
            let longest = self.longest.entry(what).or_default();
            if took >= longest.0 {
                *longest = (took, fault.to_string());
            }
        }
    }

    pub(super) fn saw(&mut self, memory: &Memory) {
        self.memory = self.memory.max(memory.largest());
    }
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Took {
            back,
            redundancy,
            slowest_get,
            slowest_put,
        } = self;
        let seconds = Duration::as_secs_f64;
        write!(
            f,
            "{back}, full redundancy {:.1} s after the end; slowest get {:.1} s, put {:.1} s",
            seconds(redundancy),
            seconds(slowest_get),
            seconds(slowest_put)
        )
    }
}

/// One line.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals {
            faults,
            operations,
            longest,
            memory,
        } = self;
        let kinds: Vec<_> = faults
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        let all: u32 = faults.values().sum();
        let kinds = kinds.join(", ");
        write!(
            f,
            "{operations} operations; {all} faults ({kinds}); longest until"
        )?;
        for (what, (took, fault)) in longest {
            write!(f, " {what} {:.1} s ({fault})", took.as_secs_f64())?;
        }
        write!(f, "; at most {} MiB resident", memory >> 20)
    }
}
