//! A network to which harm is done, again and again, while clients read, write and delete; and what has to be true after
//! each time.
//!
//! After every [`Fault`]: what was acknowledged is readable and the history of all operations so far can have happened,
//! all peers are one ring again, every chunk and name of a set of files that are never touched has its copies, files
//! that were deleted before are still gone, nobody ran out of memory or panicked. How long it took is told, not judged.

mod faults;
mod harm;
mod totals;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use peernet_crd::{PeerNetworkSpec, Repair};

use crate::client::{self, Protocol};
use crate::cluster::Scenario;
use crate::content::Content;
use crate::copies::Copies;
use crate::files::{self, FileSet, MIB};
use crate::load::Load;
use crate::memory::Memory;
use crate::network::{Network, RESIZING};
use crate::patience::eventually;
use crate::peer::Peer;
use crate::recovery::Probes;

use harm::Harm;

pub use faults::{Fault, Step, Victim};
pub use totals::{Took, Totals};

/// Files that are put before the first fault and never touched again.
const FILES: u32 = 40;
const LARGEST: u64 = 4 * MIB;
/// Files that are deleted before the first fault.
const GONE: usize = 12;
/// What a peer may use; measured in these tests: 15 to 60 MiB. The kernel ends whoever needs more.
const MEMORY_LIMIT: &str = "256Mi";
/// A program that ends so has panicked (Rust's standard library).
const PANICKED: i32 = 101;

/// The network, its clients and its judges.
pub struct Trial<'a> {
    /// Where it runs.
    pub scenario: &'a Scenario,
    /// The network.
    pub network: Arc<Network>,
    /// How many peers it has between faults.
    pub size: i32,
    /// Chooses victims and moments.
    pub random: Rng,
    /// What happened so far.
    pub totals: Totals,
    load: Load,
    probes: Probes,
    files: FileSet,
}

impl<'a> Trial<'a> {
    /// Founds a network, starts its clients and puts the files. Copies are rebuilt `grace_seconds` after a peer went away.
    ///
    /// # Errors
    /// It does not become ready, or a file cannot be put.
    pub async fn begin(
        scenario: &'a Scenario,
        size: i32,
        grace_seconds: i32,
        seed: u64,
    ) -> Result<Self> {
        scenario.note(&format!("SEED={seed}"));
        let spec = spec(size, grace_seconds);
        let network = Arc::new(Network::create(scenario, "demo", spec).await?);
        let load = Load::start(&network, seed);
        let files = FileSet::small("trial", seed, FILES, LARGEST);
        files.put(|| network.serving()).await?;
        let probes = Probes::put(load.recorder().clone(), seed, || network.serving()).await?;
        let mut trial = Trial {
            scenario,
            network,
            size,
            random: Rng::with_seed(seed),
            totals: Totals::default(),
            load,
            probes,
            files,
        };
        trial.delete_some().await?;
        trial.whole().await?;
        let memory = Memory::of(scenario, &trial.network).await?;
        trial.totals.saw(&memory);
        scenario.note(&format!("all is well; {memory}"));
        Ok(trial)
    }

    /// Does one kind of harm, undoes it where it does not undo itself, and waits until all is well.
    ///
    /// # Errors
    /// Something was lost, came back or did not become well again.
    pub async fn suffer(&mut self, fault: Fault) -> Result<Took> {
        self.scenario.note(&format!("{fault}"));
        self.load.since_last();
        let Harm { back, undone } = self.inject(fault).await?;
        self.whole()
            .await
            .with_context(|| format!("after {fault}"))?;
        let redundancy = undone.elapsed();
        let tally = self.load.went_on(&fault.to_string())?;
        let took = Took {
            back,
            redundancy,
            slowest_get: tally.slowest_get,
            slowest_put: tally.slowest_put,
        };
        let operations = self
            .load
            .judge()
            .await
            .with_context(|| format!("after {fault}"))?;
        let memory = Memory::of(self.scenario, &self.network).await?;
        self.totals.count(fault, &took, operations);
        self.totals.saw(&memory);
        self.scenario.note(&format!("{fault}: {took}; {memory}"));
        Ok(took)
    }

    /// Stops the clients, reads everything once more and judges the whole history.
    ///
    /// # Errors
    /// Something was lost, or came back.
    pub async fn finish(self) -> Result<Totals> {
        self.files.verify(|| self.network.serving()).await?;
        self.files
            .listed(&self.network.peers()[0], "trial/")
            .await?;
        self.load.finish().await?;
        Ok(self.totals)
    }

    /// Every copy of the files that are never touched.
    ///
    /// # Errors
    /// One is missing.
    pub async fn copies(&self) -> Result<Copies> {
        self.network.copies(&self.files).await
    }

    /// All peers are there and one ring, everything has three copies, and what was deleted is gone.
    async fn whole(&self) -> Result<()> {
        let Trial { network, size, .. } = self;
        network.ready(*size, RESIZING).await?;
        network.pods_are(*size).await?;
        network.one_ring(*size).await?;
        network.settled().await?;
        let copies = || async { self.copies().await };
        eventually("three copies", RESIZING, copies).await?;
        self.still_gone().await?;
        self.nobody_broke()
    }

    async fn delete_some(&mut self) -> Result<()> {
        for number in 0..GONE {
            let content = Content {
                seed: self.random.u64(..),
                len: 1 << self.random.u32(4..18),
            };
            let name = gone(number);
            let peers = || self.network.serving();
            let put = async |peer: Peer, how| client::put(&peer, how, &name, content).await;
            files::persist(number, peers, put).await?;
            let delete = async |peer: Peer, how| match client::delete(&peer, how, &name).await {
                Err(error) if error.is_not_found() => Ok(()), // by an attempt that broke off
                done => done,
            };
            files::persist(number, peers, delete).await?;
        }
        Ok(())
    }

    /// Asks every peer for every deleted file.
    async fn still_gone(&self) -> Result<()> {
        for peer in self.network.serving() {
            for number in 0..GONE {
                let name = gone(number);
                let look = || async {
                    match client::get(&peer, Protocol::of(number), &name).await {
                        Err(error) if error.is_not_found() => Ok(None),
                        Ok(value) => Ok(Some(value)),
                        Err(error) => Err(error.into()),
                    }
                };
                let found = eventually("an answer", RESIZING, look).await?;
                if let Some(value) = found {
                    bail!(
                        "{name} was deleted and came back from {}: {value:?}",
                        peer.name
                    );
                }
            }
        }
        Ok(())
    }

    /// No container was ended for its memory, and none panicked.
    fn nobody_broke(&self) -> Result<()> {
        for pod in self.network.pod_objects() {
            let statuses = pod
                .status
                .iter()
                .flat_map(|s| &s.container_statuses)
                .flatten();
            let states = statuses.flat_map(|s| [&s.state, &s.last_state]).flatten();
            for ended in states.filter_map(|s| s.terminated.as_ref()) {
                let killed = ended.reason.as_deref() == Some("OOMKilled");
                let broke = killed || ended.exit_code == PANICKED;
                ensure!(!broke, "{} broke: {ended:?}", pod.name_any());
            }
        }
        Ok(())
    }

    /// The peers that are not among these.
    fn others(&self, hit: &[String]) -> Vec<Peer> {
        let peers = self.network.peers().into_iter();
        peers.filter(|p| !hit.contains(&p.name)).collect()
    }
}

fn gone(number: usize) -> String {
    format!("gone/{number:02}")
}

fn spec(replicas: i32, grace_seconds: i32) -> PeerNetworkSpec {
    let memory = |value: &str| Some([("memory".into(), Quantity(value.into()))].into());
    PeerNetworkSpec {
        replicas,
        repair: Repair { grace_seconds },
        resources: Some(ResourceRequirements {
            requests: memory("64Mi"),
            limits: memory(MEMORY_LIMIT),
            ..ResourceRequirements::default()
        }),
        ..PeerNetworkSpec::default()
    }
}
