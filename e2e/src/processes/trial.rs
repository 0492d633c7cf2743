//! What every test against processes is made of: a ring of five, files, clients that never stop, faults, and the judges.
//!
//! After each fault the same questions are asked: could what the clients saw have happened, does everything have three
//! copies again, does memory stay bounded. How long it took until reads, writes and full redundancy were back is
//! printed, not judged: this machine has other things to do.

use std::env;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{HEALING, Processes};
use crate::files::{FileSet, MIB};
use crate::load::Load;
use crate::peer::Peer;
use crate::recovery::Probes;

/// Peers of a ring, so that two may die at once and a majority of them is left.
pub const PEERS: usize = 5;
/// A peer's memory, MiB. Guess: four times what one needs that holds little, in a build without optimisation.
const MEMORY_MAX: u64 = 600;
/// One network at a time.
static TURN: Semaphore = Semaphore::const_new(1);

/// A ring under load.
pub struct Trial {
    /// The peers.
    pub ring: Arc<Processes>,
    /// Files that were put at the beginning and stay.
    pub files: FileSet,
    /// The clients.
    pub load: Load,
    /// What is random in the test.
    pub random: Mutex<Rng>,
    title: &'static str,
    probes: Probes,
    deadline: Option<Instant>,
}

/// Runs a test: a ring of five with `grace` seconds before copies are rebuilt elsewhere, and `faults` that happen to it.
/// `PEERNET_SEED` repeats a test's choices; `PEERNET_SOAK_MINUTES` gives [`Trial::rounds`] so long.
///
/// # Panics
/// The test fails; logs are printed before.
pub async fn trial(
    title: &'static str,
    grace: u64,
    faults: impl AsyncFnOnce(&Trial) -> Result<()>,
) {
    let _turn = TURN.acquire().await.expect("never closed");
    let seed = match env::var("PEERNET_SEED") {
        Ok(seed) => seed.parse().expect("PEERNET_SEED is a number"),
        Err(_) => fastrand::u64(..1 << 32),
    };
    eprintln!("{title}: repeat with PEERNET_SEED={seed}");
    let begin = Instant::now();
    let ring = Processes::start(PEERS, grace)
        .await
        .expect("a ring of five");
    let judged = async {
        let trial = Trial::begin(title, seed, ring.clone()).await?;
        faults(&trial).await?;
        trial.end().await
    };
    if let Err(error) = judged.await {
        ring.print_logs();
        panic!("{title} (PEERNET_SEED={seed}): {error:?}");
    }
    eprintln!("{title}: {:.0} s in all", begin.elapsed().as_secs_f64());
}

impl Trial {
    async fn begin(title: &'static str, seed: u64, ring: Arc<Processes>) -> Result<Self> {
        let clients = ring.clone();
        let load = Load::among(move || clients.serving(), seed);
        let files = FileSet::small("kept", seed, 16, 4 * MIB);
        files.put(|| ring.serving()).await?;
        let probes = Probes::put(load.recorder().clone(), seed, || ring.serving()).await?;
        let minutes: Option<u64> = match env::var("PEERNET_SOAK_MINUTES") {
            Ok(minutes) => Some(minutes.parse().context("PEERNET_SOAK_MINUTES")?),
            Err(_) => None,
        };
        Ok(Trial {
            ring,
            files,
            load,
            random: Mutex::new(Rng::with_seed(seed)),
            title,
            probes,
            deadline: minutes.map(|m| Instant::now() + Duration::from_secs(60 * m)),
        })
    }

    /// Once, or again and again for as long as a soak lasts.
    ///
    /// # Errors
    /// Those of a round.
    pub async fn rounds(&self, round: impl AsyncFn() -> Result<()>) -> Result<()> {
        loop {
            round().await?;
            if self
                .deadline
                .is_none_or(|deadline| Instant::now() > deadline)
            {
                return Ok(());
            }
        }
    }

    /// So many different peers.
    pub fn some_peers<const N: usize>(&self) -> [usize; N] {
        let mut peers: Vec<usize> = (0..PEERS).collect();
        let mut random = self.random.lock().expect("nobody panics with it");
        random.shuffle(&mut peers);
        std::array::from_fn(|i| peers[i])
    }

    /// Waits until files go in and out again at all peers that run, and prints how long it took since now.
    ///
    /// # Errors
    /// They do not in time.
    pub async fn served(&self, fault: &str) -> Result<()> {
        self.served_by(fault, || self.ring.serving()).await
    }

    /// The same, asking only these.
    ///
    /// # Errors
    /// They do not in time.
    pub async fn served_by(&self, fault: &str, peers: impl Fn() -> Vec<Peer>) -> Result<()> {
        let (title, begin) = (self.title, Instant::now());
        loop {
            let seconds = begin.elapsed().as_secs();
            match self.probes.back(&peers).await {
                Ok(back) if seconds == 0 => eprintln!("  {title}: {fault}: {back}"),
                Ok(back) => eprintln!("  {title}: {fault}: {seconds} s too busy, then {back}"),
                // A machine with ten times the work it can do may need longer than the probes have patience.
                Err(error) if begin.elapsed() < HEALING => {
                    eprintln!("  {title}: {fault}: not yet: {error:#}");
                    continue;
                }
                Err(error) => return Err(error.context(format!("after {fault}"))),
            }
            return Ok(());
        }
    }

    /// Waits until everything has three copies again on the peers that run, judges what the clients saw, and prints how
    /// long it took since now.
    ///
    /// # Errors
    /// It does not in time, what they saw cannot have happened, or a peer's memory grew too much.
    pub async fn healed(&self, fault: &str) -> Result<()> {
        let begin = Instant::now();
        let healed = async {
            self.ring.three_copies(&self.files).await?;
            let redundant = begin.elapsed().as_secs_f64();
            self.ring.at_rest().await?;
            self.files.verify(|| self.ring.serving()).await?;
            let judged = self.load.judge().await?;
            let memory = self.ring.memory();
            let title = self.title;
            eprintln!(
                "  {title}: {fault}: three copies after {redundant:.1} s, {judged} operations fit; MiB now/most: {}",
                shown(&memory)
            );
            let within = memory.iter().all(|(_, _, most)| *most <= MEMORY_MAX);
            ensure!(within, "a peer took more than {MEMORY_MAX} MiB");
            anyhow::Ok(())
        };
        healed.await.with_context(|| format!("after {fault}"))
    }

    async fn end(self) -> Result<()> {
        self.load.went_on(self.title)?;
        self.load.finish().await
    }
}

fn shown(memory: &[(String, u64, u64)]) -> String {
    let each = memory
        .iter()
        .map(|(name, now, most)| format!("{name} {now}/{most}"));
    each.collect::<Vec<_>>().join(", ")
}
