//! Misfortune on purpose: what a real machine does once a year, done when a test asks for it.
//!
//! Off unless `PEERNET_FAULTS` (or the hidden `--faults`) names faults, comma-separated; meant for tests only. The faults
//! sit where the daemon touches the world, so that everything behind them is the code that ships:
//!
//! | fault | what happens |
//! |---|---|
//! | `chunk-sync-fails=N` | the N-th sync of a chunk's file or folder fails, once; those after it "succeed", as on a real disk |
//! | `meta-sync-fails=N` | the same for the database |
//! | `slow-disk=200ms` | every sync takes so much longer |
//! | `clock-offset=3600s` | the peer's clock jumps ahead by so much right after its start |
//! | `delay=0..500ms` | each message to another peer waits that long, so messages overtake each other |
//! | `duplicate=5%` | so many messages are sent twice |
//! | `drop=5%` | so many messages are never sent |
//! | `crash=rename` | the process ends between the two halves of a rename |
//! | `seed=7` | of all that is random here; 0 unless given |
//!
//! A sync that fails once and then succeeds is the fault on which databases lost acknowledged data (Rebello et al., "Can
//! Applications Recover from fsync Failures?", 2020, section 4): the pages that could not be written are marked clean.

use std::io;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use thiserror::Error;

/// Longest delay of a message, so that those that wait are few.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// All that may go wrong on purpose; nothing by default.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Faults {
    /// See [`DiskFaults`].
    pub disk: DiskPlan,
    /// See [`MessageFaults`].
    pub messages: MessagePlan,
    /// How far ahead the peer's clock is.
    pub clock_offset: Duration,
    /// See [`rename_is_half_done`].
    pub crash_in_rename: bool,
}

/// What goes wrong with the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskPlan {
    /// Which sync of a chunk's file or folder fails, counted from 1.
    pub chunk_sync_fails: Option<u64>,
    /// Which sync of the database fails, counted from 1.
    pub meta_sync_fails: Option<u64>,
    /// How much longer each sync takes.
    pub slow: Duration,
}

/// What goes wrong with messages to other peers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MessagePlan {
    /// How long each waits.
    pub delay: Option<RangeInclusive<Duration>>,
    /// Share sent twice, 0 to 1.
    pub duplicate: f64,
    /// Share never sent, 0 to 1.
    pub drop: f64,
    /// Of what is random.
    pub seed: u64,
}

/// What cannot be read as a fault.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "'{0}' is not a fault such as drop=5%, delay=0..500ms, slow-disk=200ms or meta-sync-fails=100"
)]
pub struct NotAFault(String);

impl FromStr for Faults {
    type Err = NotAFault;

    fn from_str(text: &str) -> Result<Self, NotAFault> {
        let mut faults = Faults::default();
        for fault in text.split(',').map(str::trim).filter(|f| !f.is_empty()) {
            faults
                .add(fault)
                .ok_or_else(|| NotAFault(fault.to_owned()))?;
        }
        Ok(faults)
    }
}

impl Faults {
    /// Nothing goes wrong.
    pub fn is_none(&self) -> bool {
        *self == Faults::default()
    }

    fn add(&mut self, fault: &str) -> Option<()> {
        let (key, value) = fault.split_once('=')?;
        match key {
            "chunk-sync-fails" => self.disk.chunk_sync_fails = Some(nth(value)?),
            "meta-sync-fails" => self.disk.meta_sync_fails = Some(nth(value)?),
            "slow-disk" => self.disk.slow = duration(value)?,
            "clock-offset" => self.clock_offset = duration(value)?,
            "delay" => {
                let (least, most) = value.split_once("..")?;
                let most = duration(most).filter(|most| *most <= DELAY_MAX)?;
                let least = if least == "0" {
                    Duration::ZERO
                } else {
                    duration(least).filter(|least| *least <= most)?
                };
                self.messages.delay = Some(least..=most);
            }
            "duplicate" => self.messages.duplicate = share(value)?,
            "drop" => self.messages.drop = share(value)?,
            "crash" => self.crash_in_rename = (value == "rename").then_some(true)?,
            "seed" => self.messages.seed = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

fn nth(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n| *n > 0)
}

fn duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => Some(Duration::from_secs(text.strip_suffix('s')?.parse().ok()?)),
    }
}

fn share(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// The new name is there, and the old one is too: ends the process as a power cut would, if that `crashes`.
pub(crate) fn rename_is_half_done(crashes: bool) {
    if crashes {
        tracing::warn!("this process ends on purpose");
        std::process::abort();
    }
}

/// Which part of the volume is synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Synced {
    /// A chunk's file or folder.
    Chunks,
    /// The database.
    Meta,
}

/// Stands before every sync of a volume.
#[derive(Debug, Default)]
pub(crate) struct DiskFaults {
    plan: DiskPlan,
    chunk_syncs: AtomicU64,
    meta_syncs: AtomicU64,
}

impl DiskFaults {
    pub(crate) fn new(plan: DiskPlan) -> Self {
        DiskFaults {
            plan,
            ..DiskFaults::default()
        }
    }

    /// Something goes wrong with the database's syncs.
    pub(crate) fn touch_meta(&self) -> bool {
        self.plan.meta_sync_fails.is_some() || !self.plan.slow.is_zero()
    }

    /// A sync is about to begin: waits if the disk is slow, and says EIO if it is this one's turn to fail.
    pub(crate) fn before_sync(&self, what: Synced) -> io::Result<()> {
        if !self.plan.slow.is_zero() {
            thread::sleep(self.plan.slow);
        }
        let (count, fails) = match what {
            Synced::Chunks => (&self.chunk_syncs, self.plan.chunk_sync_fails),
            Synced::Meta => (&self.meta_syncs, self.plan.meta_sync_fails),
        };
        if fails == Some(count.fetch_add(1, Ordering::Relaxed) + 1) {
            tracing::warn!(?what, "this sync fails on purpose");
            return Err(rustix::io::Errno::IO.into());
        }
        Ok(())
    }
}

/// Decides the fate of each message.
#[derive(Debug)]
pub(crate) struct MessageFaults {
    plan: MessagePlan,
    random: Mutex<fastrand::Rng>,
}

impl MessageFaults {
    /// `None` when nothing goes wrong.
    pub(crate) fn new(plan: MessagePlan) -> Option<Self> {
        let calm = plan.delay.is_none() && plan.duplicate == 0.0 && plan.drop == 0.0;
        let random = Mutex::new(fastrand::Rng::with_seed(plan.seed));
        (!calm).then_some(MessageFaults { plan, random })
    }

    /// After which delays a message is sent: once, twice or never.
    pub(crate) fn fate(&self) -> Vec<Duration> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = if random.f64() < self.plan.drop {
            0
        } else {
            1 + usize::from(random.f64() < self.plan.duplicate)
        };
        let mut delay = || match &self.plan.delay {
            Some(range) => {
                let micros = |d: &Duration| d.as_micros() as u64;
                Duration::from_micros(random.u64(micros(range.start())..=micros(range.end())))
            }
            None => Duration::ZERO,
        };
        (0..copies).map(|_| delay()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Faults, NotAFault> {
        text.parse()
    }

    #[test]
    fn nothing_goes_wrong_unless_asked_for() {
        assert!(parse("").unwrap().is_none());
        assert!(MessageFaults::new(Faults::default().messages).is_none());
        let calm = DiskFaults::default();
        assert!((0..1000).all(|_| calm.before_sync(Synced::Meta).is_ok()));
    }

    #[test]
    fn faults_are_read_or_named_as_unreadable() {
        let faults = parse("drop=5%, duplicate=100%,delay=0..500ms,slow-disk=200ms,clock-offset=3600s,meta-sync-fails=7,seed=3,crash=rename").unwrap();
        assert!(faults.crash_in_rename);
        assert_eq!(faults.messages.drop, 0.05);
        assert_eq!(faults.messages.duplicate, 1.0);
        assert_eq!(
            faults.messages.delay,
            Some(Duration::ZERO..=Duration::from_millis(500))
        );
        assert_eq!(faults.disk.slow, Duration::from_millis(200));
        assert_eq!(faults.disk.meta_sync_fails, Some(7));
        assert_eq!(faults.clock_offset, Duration::from_secs(3600));
        for wrong in [
            "drop",
            "drop=5",
            "drop=101%",
            "delay=5ms",
            "delay=9..1ms",
            "delay=0..11s",
            "slow-disk=1h",
            "meta-sync-fails=0",
            "fsync=1",
            "crash=now",
        ] {
            assert_eq!(
                parse(&format!("seed=1,{wrong}")),
                Err(NotAFault(wrong.into())),
                "{wrong}"
            );
        }
    }

    #[test]
    fn exactly_one_sync_fails() {
        let faults = DiskFaults::new(parse("chunk-sync-fails=3").unwrap().disk);
        let outcomes = [1, 2, 3, 4, 5].map(|_| faults.before_sync(Synced::Chunks).is_ok());
        assert_eq!(outcomes, [true, true, false, true, true]);
        assert!((0..10).all(|_| faults.before_sync(Synced::Meta).is_ok()));
    }

    #[test]
    fn messages_meet_their_fates_in_the_shares_asked_for() {
        let plan = parse("drop=10%,duplicate=20%,delay=5ms..10ms,seed=11").unwrap();
        let faults = MessageFaults::new(plan.messages).unwrap();
        let fates: Vec<Vec<Duration>> = (0..10_000).map(|_| faults.fate()).collect();
        let count = |copies| fates.iter().filter(|f| f.len() == copies).count();
        // A tenth, a fifth of the rest; the seed is fixed, the bounds are four standard deviations.
        assert!((880..1120).contains(&count(0)), "{}", count(0));
        assert!((1640..1960).contains(&count(2)), "{}", count(2));
        let within = Duration::from_millis(5)..=Duration::from_millis(10);
        assert!(fates.iter().flatten().all(|d| within.contains(d)));
    }
}
