//! One measurement: what was counted, and what is said of it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Op;
use super::usage;
use crate::output;

/// The longest time that is told apart from longer ones, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;
/// Decimal digits that times are exact to.
const DIGITS: u8 = 3;
pub(super) const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;

/// What is counted while it runs. Its size does not depend on how many operations there are.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Microseconds per operation that succeeded.
    times: Histogram<u64>,
    bytes: u64,
    failed: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Tally {
            times: Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds are in order"),
            bytes: 0,
            failed: 0,
        }
    }

    /// An operation that succeeded.
    pub(crate) fn done(&mut self, took: Duration, bytes: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
        self.times.saturating_record(micros);
        self.bytes += bytes;
    }

    /// An operation that did not; how many by now.
    pub(crate) fn failed(&mut self) -> u64 {
        self.failed += 1;
        self.failed
    }

    /// What another has counted as well.
    pub(crate) fn join(&mut self, other: &Tally) {
        self.times += &other.times;
        self.bytes += other.bytes;
        self.failed += other.failed;
    }

    /// Operations that succeeded.
    pub(crate) fn count(&self) -> u64 {
        self.times.len()
    }

    /// The time that this share of the operations stayed below.
    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// What was measured: so many at once of one operation on objects of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Cell {
    /// Which operation.
    pub(crate) op: Op,
    /// Bytes of an object.
    pub(crate) size: u64,
    /// Operations under way at any time.
    pub(crate) concurrency: u32,
}

/// The resources of a measurement.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spent {
    /// From the first operation's start to the last one's end.
    pub(crate) wall: Duration,
    /// CPU seconds of this process.
    pub(crate) own_cpu: f64,
    /// Of the servers, where they are watched.
    pub(crate) servers: Option<usage::Servers>,
}

/// A result.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Measurement {
    /// What it is a result of.
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// Operations that succeeded.
    pub(crate) operations: u64,
    /// Operations that did not.
    pub(crate) failed: u64,
    /// Bytes of files that were moved by those that succeeded.
    pub(crate) bytes: u64,
    /// From the first operation's start to the last one's end.
    pub(crate) seconds: f64,
    /// Operations per second.
    pub(crate) operations_per_second: f64,
    /// MiB (2^20 bytes) per second.
    pub(crate) mib_per_second: f64,
    /// Time that half of the operations stayed below, in milliseconds.
    pub(crate) p50_ms: f64,
    /// Time that 99 in 100 stayed below, in milliseconds.
    pub(crate) p99_ms: f64,
    /// CPU time of this process, in seconds.
    pub(crate) client_cpu_seconds: f64,
    /// CPU time of the watched servers, in seconds.
    pub(crate) server_cpu_seconds: Option<f64>,
    /// Resident memory, at the end, of the watched server that had most, in bytes.
    pub(crate) server_resident_bytes: Option<u64>,
}

impl Measurement {
    /// Sums up.
    pub(crate) fn new(cell: Cell, tally: &Tally, spent: Spent) -> Self {
        let seconds = spent.wall.as_secs_f64().max(1e-9);
        let operations = tally.times.len();
        Measurement {
            cell,
            operations,
            failed: tally.failed,
            bytes: tally.bytes,
            seconds,
            operations_per_second: operations as f64 / seconds,
            mib_per_second: tally.bytes as f64 / MIB / seconds,
            p50_ms: tally.millis(0.5),
            p99_ms: tally.millis(0.99),
            client_cpu_seconds: spent.own_cpu,
            server_cpu_seconds: spent.servers.map(|s| s.cpu_seconds),
            server_resident_bytes: spent.servers.map(|s| s.resident),
        }
    }

    /// CPU seconds per GiB (2^30 bytes); nothing where no byte was moved.
    fn per_gib(&self, seconds: f64) -> String {
        match self.bytes {
            0 => "-".into(),
            bytes => significant(seconds * GIB / bytes as f64),
        }
    }

    /// CPU microseconds per operation.
    fn per_operation(&self, seconds: f64) -> String {
        match self.operations {
            0 => "-".into(),
            n => significant(seconds * 1e6 / n as f64),
        }
    }

    /// As a row of [`table`].
    fn row(&self, wide: bool) -> Vec<String> {
        let servers = |figure: &dyn Fn(f64) -> String| {
            self.server_cpu_seconds.map_or_else(|| "-".into(), figure)
        };
        let mut row = vec![
            self.cell.op.to_string(),
            output::bytes(self.cell.size),
            self.cell.concurrency.to_string(),
            significant(self.operations_per_second),
            significant(self.mib_per_second),
            significant(self.p50_ms),
            significant(self.p99_ms),
            self.per_gib(self.client_cpu_seconds),
            servers(&|s| self.per_gib(s)),
            self.server_resident_bytes
                .map_or_else(|| "-".into(), output::bytes),
            self.failed.to_string(),
        ];
        if wide {
            row.extend([
                self.per_operation(self.client_cpu_seconds),
                servers(&|s| self.per_operation(s)),
                self.operations.to_string(),
                format!("{:.2}", self.seconds),
            ]);
        }
        row
    }
}

/// Results for people.
pub(crate) fn table(results: &[Measurement], wide: bool) -> String {
    let mut header = vec![
        "OP",
        "SIZE>",
        "C>",
        "OPS/S>",
        "MIB/S>",
        "P50 MS>",
        "P99 MS>",
        "CLIENT S/GIB>",
        "SERVERS S/GIB>",
        "RESIDENT>",
        "FAILED>",
    ];
    if wide {
        header.extend(["CLIENT US/OP>", "SERVERS US/OP>", "OPS>", "SECONDS>"]);
    }
    output::table(&header, results.iter().map(|r| r.row(wide)))
}

/// Three digits where there are as many: more would only be noise.
pub(super) fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(times: impl IntoIterator<Item = u64>, bytes: u64, wall: u64) -> Measurement {
        let mut tally = Tally::new();
        for millis in times {
            tally.done(Duration::from_millis(millis), bytes);
        }
        tally.failed();
        let cell = Cell {
            op: Op::Put,
            size: bytes,
            concurrency: 8,
        };
        let spent = Spent {
            wall: Duration::from_secs(wall),
            own_cpu: 0.5,
            servers: Some(usage::Servers {
                cpu_seconds: 2.0,
                resident: 3 << 20,
            }),
        };
        Measurement::new(cell, &tally, spent)
    }

    #[test]
    fn half_of_the_operations_are_below_p50_and_one_in_a_hundred_above_p99() {
        let result = measured(1..=1000, 1 << 20, 4);
        assert!((result.p50_ms - 500.0).abs() < 1.0, "{}", result.p50_ms);
        assert!((result.p99_ms - 990.0).abs() < 1.0, "{}", result.p99_ms);
        assert_eq!((result.operations, result.failed), (1000, 1));
        assert_eq!(result.operations_per_second, 250.0);
        assert_eq!(result.mib_per_second, 250.0);
    }

    #[test]
    fn cpu_time_is_per_byte_and_per_operation() {
        let result = measured([3; 64], 16 << 20, 1);
        let row = result.row(true);
        assert_eq!(row[7..10], ["0.500", "2.00", "3.0 MiB"]);
        assert_eq!(row[11], "7812");
        let nothing = measured([], 1, 1);
        assert_eq!(nothing.row(true)[7], "-");
        assert_eq!(nothing.row(true)[11], "-");
        assert!((nothing.p99_ms, nothing.mib_per_second) == (0.0, 0.0));
    }

    #[test]
    fn the_table_says_nothing_of_servers_that_nobody_watched() {
        let mut result = measured([2; 10], 1024, 1);
        result.server_cpu_seconds = None;
        result.server_resident_bytes = None;
        let text = table(&[result], false);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells[..4], ["PUT", "1.0", "KiB", "8"]);
        assert_eq!(cells[cells.len() - 3..], ["-", "-", "1"]);
    }

    #[test]
    fn figures_have_three_digits() {
        let written = [0.0123, 0.9996, 1.234, 9.996, 99.94, 99.96, 12_345.6].map(significant);
        assert_eq!(
            written,
            ["0.012", "1.00", "1.23", "10.0", "99.9", "100", "12346"]
        );
    }

    #[test]
    fn times_past_the_longest_are_counted_as_that() {
        let mut tally = Tally::new();
        tally.done(Duration::from_secs(100_000), 1);
        assert!(tally.millis(1.0) >= 3_599_000.0);
    }
}
