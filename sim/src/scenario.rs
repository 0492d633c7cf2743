//! A scenario: a cluster, its operator, clients that write and read all the while, and the verdict at the end.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use peernet_core::config::Settings;
use thiserror::Error;

use crate::check::{self, Unsettled};
use crate::cluster::Cluster;
use crate::fleet::{Flaws, Fleet};
use crate::model::{Model, Violation};
use crate::network::{Conditions, HostId};
use crate::operator::Operator;
use crate::world::{Stuck, World};

mod load;

pub use load::{Load, Precondition};

/// How long a client tries one peer after another before it complains, in milliseconds: longer than any restart.
const PATIENCE: u64 = 60_000;
/// Pause between tries, in milliseconds.
const PAUSE: u64 = 500;

/// What a scenario begins with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Of everything random.
    pub seed: u64,
    /// The network.
    pub conditions: Conditions,
    /// Number of zones.
    pub zones: u32,
    /// Of all peers.
    pub settings: Settings,
    /// What is wrong on purpose.
    pub flaws: Flaws,
    /// How long an upload waits between its chunks and its name, in milliseconds of virtual time.
    pub linger: u64,
}

impl Setup {
    /// A good network, three zones, and the settings by default but for a grace period of 20 s, so that less virtual
    /// time passes idly.
    pub fn new(seed: u64) -> Self {
        let settings = Settings {
            grace: 20_000,
            ..Settings::default()
        };
        Setup {
            seed,
            conditions: Conditions::good(),
            zones: 3,
            settings,
            flaws: Flaws::default(),
            linger: 0,
        }
    }

    /// Every second seed over a bad network.
    pub fn good_or_bad(seed: u64) -> Self {
        let setup = Setup::new(seed);
        if seed.is_multiple_of(2) {
            setup.over_bad_network()
        } else {
            setup
        }
    }

    /// The same over a bad network.
    pub fn over_bad_network(self) -> Self {
        Setup {
            conditions: Conditions::bad(),
            ..self
        }
    }
}

/// How a run failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Failure {
    /// It did not end.
    #[error(transparent)]
    Stuck(#[from] Stuck),
    /// The end state was not reached in time.
    #[error("after {waited} ms: {unsettled}")]
    Unsettled {
        /// Milliseconds of virtual time.
        waited: u64,
        /// What is missing.
        unsettled: Box<Unsettled>,
    },
    /// Something happened that must not.
    #[error("{} violations, first: {}", .0.len(), .0[0])]
    Violations(Vec<Violation>),
    /// The scenario itself expected something else.
    #[error("{0}")]
    Unexpected(String),
}

/// What a good run amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Hash of all events.
    pub trace: u64,
    /// Milliseconds of virtual time.
    pub time: u64,
    /// Acknowledged writes.
    pub writes: usize,
    /// Answered reads.
    pub reads: usize,
    /// How long the slowest of them took, tries through other peers included, in milliseconds of virtual time.
    pub slowest: u64,
}

/// A running scenario. A handle: clones share it.
#[derive(Clone)]
pub struct Scenario {
    /// The world.
    pub world: World,
    /// The machines.
    pub fleet: Fleet,
    /// The pods.
    pub cluster: Cluster,
    /// What clients know.
    pub model: Rc<RefCell<Model>>,
    linger: u64,
}

/// Runs `script` in a fresh world and judges it. `limit` is in milliseconds of virtual time.
pub fn run<F>(
    setup: Setup,
    limit: u64,
    script: impl FnOnce(Scenario) -> F,
) -> Result<Summary, Failure>
where
    F: Future<Output = Result<(), Failure>> + 'static,
{
    let Setup {
        seed,
        conditions,
        zones,
        settings,
        flaws,
        linger,
    } = setup;
    let world = World::new(seed);
    let fleet = Fleet::new(world.clone(), conditions, settings, flaws);
    let model = Rc::new(RefCell::new(Model::default()));
    let cluster = Cluster::new(fleet.clone(), Rc::clone(&model), zones);
    let scenario = Scenario {
        world: world.clone(),
        fleet: fleet.clone(),
        cluster,
        model: Rc::clone(&model),
        linger,
    };
    let ended = world.run(limit, script(scenario));
    world.end();
    let mut violations = model.borrow().violations();
    violations.extend(fleet.violations());
    violations.extend(check::disagreements(&fleet));
    if !violations.is_empty() {
        return Err(Failure::Violations(violations));
    }
    ended??;
    let (writes, reads) = model.borrow().counts();
    let slowest = model.borrow().slowest();
    Ok(Summary {
        trace: world.trace(),
        time: world.now(),
        writes,
        reads,
        slowest,
    })
}

/// Runs a scenario for each seed, and stops at the first that fails, telling how to see it again. The environment
/// variable `SEED` chooses a single one, `SEEDS` how many.
///
/// # Panics
/// If a run fails.
pub fn for_each_seed(
    name: &str,
    seeds: Range<u64>,
    mut run: impl FnMut(u64) -> Result<Summary, Failure>,
) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    let seeds = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => seeds.start..seeds.start + count,
        (None, None) => seeds,
    };
    for seed in seeds {
        println!("{name}: SEED={seed}");
        match run(seed) {
            Ok(Summary {
                trace,
                time,
                writes,
                reads,
                slowest,
            }) => {
                println!(
                    "  trace {trace:016x}, {time} ms of virtual time, {writes} writes, {reads} reads, \
                     the slowest in {slowest} ms"
                );
            }
            Err(failure) => panic!("{name} fails with SEED={seed}: {failure}"),
        }
    }
}

impl Scenario {
    /// Starts the operator and asks for so many replicas.
    pub fn apply(&self, replicas: u32) {
        self.cluster.scale(replicas);
        drop(self.world.spawn(self.cluster.clone().keep_running()));
        drop(self.world.spawn(Operator::new(self.cluster.clone()).run()));
    }

    /// Machines of the pods that are wanted.
    pub fn wanted(&self) -> Vec<HostId> {
        let replicas = self.cluster.replicas();
        self.cluster
            .pods()
            .iter()
            .filter(|p| p.ordinal < replicas)
            .map(|p| p.host)
            .collect()
    }

    /// Waits until the pods wanted, and only these, are as they should be, for at most so many milliseconds.
    pub async fn settle(&self, limit: u64) -> Result<(), Failure> {
        self.wait(limit, async || {
            let replicas = self.cluster.replicas();
            let hosts = self.wanted();
            check::settled(&self.fleet, &hosts).await?;
            if self.cluster.statefulset() != replicas || hosts.len() != replicas as usize {
                return Err(Unsettled::Pods {
                    wanted: replicas,
                    found: self.cluster.statefulset(),
                });
            }
            if let Some(sentence) = self.cluster.under_replacement() {
                return Err(Unsettled::Replacing(sentence));
            }
            if let Some(peer) = self.cluster.returned() {
                self.model.borrow_mut().report(Violation::Returned { peer });
            }
            self.cluster.restored();
            Ok(())
        })
        .await
    }

    /// Waits until these machines, and no others, hold everything as they should.
    pub async fn settle_hosts(&self, hosts: &[HostId], limit: u64) -> Result<(), Failure> {
        self.wait(limit, async || check::settled(&self.fleet, hosts).await)
            .await
    }

    /// Waits until a process runs in each of the pods that are wanted.
    pub async fn settle_started(&self, limit: u64) -> Result<(), Failure> {
        self.wait(limit, async || {
            let running = self.fleet.running();
            match self
                .wanted()
                .into_iter()
                .find(|host| !running.contains(host))
            {
                Some(host) => Err(Unsettled::Stopped(self.fleet.host(host).name.clone())),
                None => Ok(()),
            }
        })
        .await
    }

    /// Waits until no peer keeps more than it may at rest.
    pub async fn settle_tables(&self) -> Result<(), Failure> {
        // Who was to be replaced, and came back while that was decided, may leave even now and begin anew.
        self.wait(PATIENCE, async || {
            check::tables(&self.fleet, self.fleet.identities())
        })
        .await
    }

    /// Waits until as many pods are there as wanted and all are ready; clients may be at work.
    pub async fn settle_under_load(&self, limit: u64) -> Result<(), Failure> {
        self.wait(limit, async || {
            check::ready(&self.fleet, &self.wanted()).await?;
            let (wanted, found) = (self.cluster.replicas(), self.cluster.statefulset());
            if wanted == found {
                Ok(())
            } else {
                Err(Unsettled::Pods { wanted, found })
            }
        })
        .await
    }

    /// Waits until the pods wanted have given back what was replaced and deleted.
    pub async fn settle_space(&self, limit: u64) -> Result<(), Failure> {
        self.wait(limit, async || {
            check::collected(&self.fleet, &self.wanted())
        })
        .await
    }

    async fn wait(
        &self,
        limit: u64,
        check: impl AsyncFn() -> Result<(), Unsettled>,
    ) -> Result<(), Failure> {
        let start = self.world.now();
        while let Err(unsettled) = check().await {
            let waited = self.world.now() - start;
            if waited > limit {
                return Err(Failure::Unsettled {
                    waited,
                    unsettled: unsettled.into(),
                });
            }
            self.world.sleep(1_000).await;
        }
        Ok(())
    }
}
