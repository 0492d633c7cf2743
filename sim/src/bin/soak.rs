//! Plays random histories on all cores and ends with one line of totals: `dev/soak` is its front.

use std::process::ExitCode;

use peernet_sim::soak::{Totals, soak};

/// Failing histories told one by one; what fails more often than this needs no more examples.
const TOLD_MAX: u64 = 20;
/// A line of progress after so many histories.
const PROGRESS: u64 = 1_000;

fn usage() -> ExitCode {
    eprintln!("usage: soak [--seeds N] [--from SEED] [--threads N]");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut seeds, mut from, mut threads) = (100, 1, cores as u64);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().and_then(|text| text.parse::<u64>().ok());
        match (option.as_str(), value) {
            ("--seeds", Some(n)) => seeds = n,
            ("--from", Some(n)) => from = n,
            ("--threads", Some(n)) if n > 0 => threads = n,
            _ => return usage(),
        }
    }
    // Panics are told as failures of their history.
    std::panic::set_hook(Box::new(|_| {}));
    let end = from.saturating_add(seeds);
    let totals: Totals = soak(from..end, threads as usize, |seed, outcome, totals| {
        match outcome {
            Err(failure) => {
                println!("seed {seed}: {failure}\n  dev/soak --seeds 1 --from {seed}");
            }
            Ok(summary) if seeds == 1 => println!(
                "seed {seed}: trace {:016x}, {} ms of virtual time",
                summary.trace, summary.time
            ),
            Ok(_) if totals.histories.is_multiple_of(PROGRESS) => println!("{totals} so far"),
            Ok(_) => {}
        }
        totals.lost + totals.resurrected + totals.violations + totals.stuck < TOLD_MAX
    });
    println!("{totals}");
    if totals.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
