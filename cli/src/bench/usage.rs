//! What processes have used: CPU time and memory, from the clock of this one and from /proc of others (proc(5)).

use std::{fs, io};

use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

/// A process cannot be looked at.
#[derive(Debug, Error)]
#[error("process {pid} cannot be looked at: {reason}; name running ones with --pid, on Linux")]
pub struct UsageError {
    /// Which.
    pub pid: u32,
    /// What the system said.
    reason: io::Error,
}

/// Of the servers that are watched.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Servers {
    /// CPU time of all, in seconds, to 1/100 s each.
    pub(crate) cpu_seconds: f64,
    /// Resident memory of the one that has most, in bytes.
    pub(crate) resident: u64,
}

/// CPU seconds of this process so far.
pub(crate) fn own_cpu() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// What these processes have used so far.
pub(crate) fn of(pids: &[u32]) -> Result<Servers, UsageError> {
    let mut all = Servers::default();
    for &pid in pids {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}"))
                .map_err(|reason| UsageError { pid, reason })
        };
        let odd = |what: &str| UsageError {
            pid,
            reason: io::Error::other(format!("no {what}")),
        };
        let ticks = ticks(&read("stat")?).ok_or_else(|| odd("CPU time"))?;
        all.cpu_seconds += ticks as f64 / clock_ticks_per_second() as f64;
        let resident = resident(&read("status")?).ok_or_else(|| odd("VmRSS"))?;
        all.resident = all.resident.max(resident);
    }
    Ok(all)
}

/// `utime` and `stime`, the 14th and 15th field; the second is the program's name, which may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 9";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("42 (a) S 1"), None);
        assert_eq!(resident("Name:\ta\nVmRSS:\t  2048 kB\n"), Some(2 << 20));
        assert_eq!(resident("Name:\ta\n"), None);
    }

    #[test]
    fn this_process_can_be_looked_at_and_none_cannot() {
        let own = of(&[std::process::id()]).unwrap();
        assert!(own.resident > 0 && own_cpu() > 0.0);
        let error = of(&[u32::MAX]).unwrap_err();
        assert!(error.to_string().contains("--pid"), "{error}");
    }
}
