//! Random histories by the thousand: everything that can go wrong, one upon the other, under clients at work.
//!
//! A history forms a ring, plays some turns of [`chaos`] on it, heals all, waits for rest, and is judged: everything
//! acknowledged is readable, each name's history is linearizable, nothing deleted is back, every slot has its copies,
//! no copy stays frozen, there is one ring, and no table of a peer has grown. Everything follows from the seed.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use peernet_core::config::{Replication, Settings};

use crate::model::Kind;
use crate::network::Conditions;
use crate::scenario::{Failure, Setup, Summary, run};

pub mod chaos;

/// How long a history may take, in milliseconds of virtual time: far more than all its turns and waits together.
const LIMIT: u64 = 4 * 3_600_000;

/// Plays the history of this seed.
pub fn history(seed: u64) -> Result<Summary, Failure> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let settings = Settings {
        grace: dice.u64(5_000..30_000),
        replication: match dice.u32(0..10) {
            0 => Replication {
                factor: 3,
                write: 3,
            },
            1 => Replication {
                factor: 2,
                write: 2,
            },
            2 => Replication {
                factor: 5,
                write: 3,
            },
            _ => Replication::default(),
        },
        ..Settings::default()
    };
    let setup = Setup {
        conditions: if dice.bool() {
            Conditions::good()
        } else {
            Conditions::bad()
        },
        zones: dice.u32(1..5),
        settings,
        ..Setup::new(seed)
    };
    // The others stay what they were before there were replacements.
    let replaces = seed % 4 == 3;
    run(setup, LIMIT, move |s| chaos::play(s, replaces))
}

/// What many histories amount to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Played.
    pub histories: u64,
    /// Of clients, acknowledged or answered; those of failed histories are not counted.
    pub operations: u64,
    /// Acknowledged and gone.
    pub lost: u64,
    /// Deleted and back.
    pub resurrected: u64,
    /// Other promises broken, panics among them.
    pub violations: u64,
    /// Histories that did not come to rest.
    pub stuck: u64,
}

impl Totals {
    /// Nothing went wrong.
    pub fn is_clean(&self) -> bool {
        (self.lost, self.resurrected, self.violations, self.stuck) == (0, 0, 0, 0)
    }

    fn add(&mut self, outcome: &Result<Summary, Flop>) {
        self.histories += 1;
        match outcome {
            Ok(summary) => self.operations += (summary.writes + summary.reads) as u64,
            Err(Flop::Panic(_)) => self.violations += 1,
            Err(Flop::Failure(Failure::Violations(all))) => {
                for violation in all {
                    match violation.kind() {
                        Kind::Lost => self.lost += 1,
                        Kind::Resurrected => self.resurrected += 1,
                        Kind::Broken => self.violations += 1,
                        Kind::Stuck => self.stuck += 1,
                    }
                }
            }
            Err(Flop::Failure(
                Failure::Stuck(_) | Failure::Unsettled { .. } | Failure::Unexpected(_),
            )) => self.stuck += 1,
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Totals {
            histories,
            operations,
            lost,
            resurrected,
            violations,
            stuck,
        } = self;
        write!(
            f,
            "{histories} histories, {operations} operations, {lost} lost, {resurrected} resurrected, \
             {violations} violations, {stuck} stuck"
        )
    }
}

/// How a history failed.
#[derive(Debug, thiserror::Error)]
pub enum Flop {
    /// It was judged.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// A peer, or the simulation itself, panicked.
    #[error("panic: {0}")]
    Panic(String),
}

fn attempt(seed: u64) -> Result<Summary, Flop> {
    match catch_unwind(AssertUnwindSafe(|| history(seed))) {
        Ok(outcome) => Ok(outcome?),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(Flop::Panic(text.unwrap_or_default()))
        }
    }
}

/// Plays the histories of these seeds on so many threads. Each outcome is told as it comes, with the totals so far; no
/// new history begins once `tell` has returned false.
pub fn soak(
    seeds: Range<u64>,
    threads: usize,
    tell: impl Fn(u64, &Result<Summary, Flop>, &Totals) -> bool + Sync,
) -> Totals {
    let next = AtomicU64::new(seeds.start);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = attempt(seed);
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.add(&outcome);
                    if !tell(seed, &outcome, &totals) {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    totals.into_inner().unwrap_or_else(PoisonError::into_inner)
}
