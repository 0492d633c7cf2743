//! What Kubernetes does: it keeps the resource, starts and restarts pods, and keeps their volumes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use peernet_core::member::{Liveness, PeerId};
use peernet_core::store::Store;
use peernet_crd::PeerNetworkStatus;
use peernet_plan::observed::Asked;

use crate::check;
use crate::fleet::Fleet;
use crate::model::Model;
use crate::network::HostId;

mod replace;

/// How long a container takes to come back, in milliseconds.
pub const RESTART: std::ops::Range<u64> = 500..4_000;

/// A pod of the StatefulSet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its number; pods start together, and end from the greatest.
    pub ordinal: u32,
    /// Machine and volume.
    pub host: HostId,
    /// Its container runs, though the peer in it may still wait to be assigned.
    pub up: bool,
    /// Its node, which alone has its volume, is gone for good.
    pub stranded: bool,
    /// Tells its volume claim from those before it.
    pub claim: u32,
    /// The claim is deleted, and goes with the pod that uses it.
    pub claim_deleting: bool,
}

struct State {
    replicas: u32,
    statefulset: u32,
    status: PeerNetworkStatus,
    /// Counts changes of the resource.
    version: u64,
    /// The annotations.
    asked: Asked,
    pods: BTreeMap<u32, Pod>,
    lost: usize,
    /// Identities whose volumes were deleted.
    replaced: Vec<PeerId>,
}

/// The API server's and the kubelets' side of one PeerNetwork. A handle: clones share it.
#[derive(Clone)]
pub struct Cluster {
    fleet: Fleet,
    model: Rc<RefCell<Model>>,
    zones: u32,
    state: Rc<RefCell<State>>,
}

impl Cluster {
    /// A resource of no replicas in so many zones. What leaves is audited against `model`.
    pub fn new(fleet: Fleet, model: Rc<RefCell<Model>>, zones: u32) -> Self {
        let state = State {
            replicas: 0,
            statefulset: 0,
            status: PeerNetworkStatus::default(),
            version: 1,
            asked: Asked::default(),
            pods: BTreeMap::new(),
            lost: 0,
            replaced: Vec::new(),
        };
        Cluster {
            fleet,
            model,
            zones,
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// The machines.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Number of zones; a pod's is its ordinal modulo this.
    pub fn zones(&self) -> u32 {
        self.zones
    }

    /// The name of a zone.
    pub fn zone(&self, number: u32) -> String {
        char::from(b'a' + number as u8).to_string()
    }

    /// `spec.replicas`.
    pub fn replicas(&self) -> u32 {
        self.state.borrow().replicas
    }

    /// `kubectl scale`.
    pub fn scale(&self, replicas: u32) {
        self.fleet
            .world()
            .note(("scale", replicas), || format!("scale to {replicas}"));
        let mut state = self.state.borrow_mut();
        state.replicas = replicas;
        state.version += 1;
    }

    /// Replicas of the StatefulSet.
    pub fn statefulset(&self) -> u32 {
        self.state.borrow().statefulset
    }

    /// `status`.
    pub fn status(&self) -> PeerNetworkStatus {
        self.state.borrow().status.clone()
    }

    /// `metadata.resourceVersion`.
    pub fn version(&self) -> String {
        self.state.borrow().version.to_string()
    }

    /// Writes the status; false if the resource has changed since this version.
    pub fn answer(&self, version: &str, status: PeerNetworkStatus) -> bool {
        let mut state = self.state.borrow_mut();
        if state.version.to_string() != version {
            return false;
        }
        if state.status != status {
            let told = status.replacement.as_ref().map(|r| r.message.clone());
            self.fleet.world().note(("status", &told), || {
                format!("status: {} pods, replacement: {told:?}", status.replicas)
            });
            state.status = status;
            state.version += 1;
        }
        true
    }

    /// The StatefulSet's pods, by ordinal.
    pub fn pods(&self) -> Vec<Pod> {
        let state = self.state.borrow();
        state
            .pods
            .range(..state.statefulset)
            .map(|(_, pod)| *pod)
            .collect()
    }

    /// The pod of this ordinal, which may have been taken away.
    ///
    /// # Panics
    /// If there never was one.
    pub fn pod(&self, ordinal: u32) -> Pod {
        self.state.borrow().pods[&ordinal]
    }

    /// Sets the StatefulSet's replicas; pods of new ordinals start, on the volumes they had before.
    pub fn set_statefulset(&self, replicas: u32) {
        let before = self.statefulset();
        if before == replicas {
            return;
        }
        self.fleet.world().note(("statefulset", replicas), || {
            format!("statefulset has {replicas}")
        });
        self.state.borrow_mut().statefulset = replicas;
        for ordinal in before..replicas {
            let known = self.state.borrow().pods.get(&ordinal).copied();
            let pod = known.unwrap_or_else(|| Pod {
                ordinal,
                host: self.machine(ordinal),
                up: false,
                stranded: false,
                claim: 0,
                claim_deleting: false,
            });
            self.state.borrow_mut().pods.insert(ordinal, pod);
            self.restart(ordinal, self.fleet.world().random(RESTART));
        }
        for ordinal in replicas..before {
            self.stop(ordinal);
        }
        if replicas < before {
            let stay = self.pods().iter().map(|pod| pod.host).collect();
            self.audit(stay);
        }
    }

    fn machine(&self, ordinal: u32) -> HostId {
        let zone = self.zone(ordinal % self.zones);
        self.fleet.add(format!("demo-{ordinal}"), zone)
    }

    fn stop(&self, ordinal: u32) {
        let mut state = self.state.borrow_mut();
        let pod = state
            .pods
            .get_mut(&ordinal)
            .expect("pods are never forgotten");
        pod.up = false;
        let (host, claim_deleting) = (pod.host, pod.claim_deleting);
        drop(state);
        self.fleet.crash(host);
        if claim_deleting {
            self.renew(ordinal);
        }
    }

    fn restart(&self, ordinal: u32, delay: u64) {
        let cluster = self.clone();
        self.fleet.world().after(delay, move || {
            let mut state = cluster.state.borrow_mut();
            let wanted = ordinal < state.statefulset;
            let pod = state.pods.get_mut(&ordinal).filter(|_| wanted);
            if let Some(pod) = pod.filter(|pod| !pod.stranded) {
                pod.up = true;
            }
        });
    }

    /// `kubectl delete pod --force`: the process ends at once, and another starts on its volume after so many
    /// milliseconds.
    pub fn kill(&self, ordinal: u32, down: u64) {
        self.stop(ordinal);
        self.restart(ordinal, down);
    }

    /// The machine burns down with the volume. A pod with an empty volume takes its place after so many milliseconds,
    /// if at all.
    pub fn destroy(&self, ordinal: u32, replaced: Option<u64>) {
        self.stop(ordinal);
        self.fleet.wipe(self.pod(ordinal).host);
        self.state.borrow_mut().lost += 1;
        if let Some(delay) = replaced {
            self.restart(ordinal, delay);
        }
    }

    /// A pod that was taken for lost starts, on whatever its volume holds.
    pub fn revive(&self, ordinal: u32) {
        self.restart(ordinal, 0);
    }

    /// Starts containers whose process has ended, on volumes that know their network. Runs for ever.
    pub async fn keep_running(self) {
        loop {
            for pod in self.pods() {
                let host = self.fleet.host(pod.host);
                let identity = host.store().identity();
                let identity = identity.expect("a store in memory does not fail");
                let runs = host.process.is_some();
                drop(host);
                if let Some(known) = identity.filter(|_| pod.up && !runs)
                    && known.member.liveness != Liveness::Left
                {
                    // Fails only if the disk does, and then it is tried again.
                    let _ = self.fleet.start(pod.host, known.member.position, false);
                }
            }
            let world = self.fleet.world();
            world.sleep(world.random(RESTART)).await;
        }
    }

    /// Chunks on one machine have rotted: until they are found and replaced there is one copy less.
    pub fn note_loss(&self) {
        self.state.borrow_mut().lost += 1;
    }

    /// All copies have been rebuilt: what was lost before does not count any more.
    pub fn restored(&self) {
        self.state.borrow_mut().lost = 0;
    }

    /// What was acknowledged must live on with those that stay.
    fn audit(&self, stay: Vec<HostId>) {
        let copies = 2usize.saturating_sub(self.state.borrow().lost);
        let copies = copies.max(1).min(stay.len());
        let certain = self.model.borrow().certain();
        let missing = check::left_behind(&self.fleet, &stay, &certain, copies);
        missing
            .into_iter()
            .for_each(|violation| self.model.borrow_mut().report(violation));
    }
}
