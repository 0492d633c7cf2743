//! Pods whose volume or node is gone for good: what a person asks for by annotation, and what becomes of claims and pods.
//!
//! A claim that is deleted stays for as long as a pod uses it. When it goes, the volume goes, and the StatefulSet makes a
//! new claim; a pod that was bound to a node by its volume can then be scheduled to another.

use peernet_core::member::{Liveness, PeerId};
use peernet_core::store::Store;
use peernet_plan::names;
use peernet_plan::observed::{Asked, Claim};

use super::{Cluster, RESTART};
use crate::check;
use crate::model::Violation;
use crate::network::HostId;

impl Cluster {
    /// `kubectl peernet replace`, or its contrary.
    pub fn ask_to_replace(&self, ordinal: Option<u32>) {
        self.fleet.world().note(("replace", ordinal), || {
            format!("replacement asked for: {ordinal:?}")
        });
        let mut state = self.state.borrow_mut();
        state.asked.replace = ordinal.map(|ordinal| names::pod("demo", ordinal));
        state.version += 1;
    }

    /// Gives up for good what only these pods held (`peernet.dev/recover-accept-loss`).
    pub fn ask_to_recover(&self, ordinals: &[u32]) {
        self.fleet.world().note(("recover", ordinals), || {
            format!("recovery asked for: {ordinals:?}")
        });
        let pods: Vec<String> = ordinals.iter().map(|o| names::pod("demo", *o)).collect();
        let mut state = self.state.borrow_mut();
        state.asked.recover = Some(pods.join(","));
        state.version += 1;
    }

    /// What the annotations say.
    pub fn asked(&self) -> Asked {
        self.state.borrow().asked.clone()
    }

    /// Removes annotations, unless they say something else by now.
    pub fn forget(&self, answered: &Asked) {
        let mut state = self.state.borrow_mut();
        let before = state.asked.clone();
        let Asked { replace, recover } = &mut state.asked;
        replace.take_if(|asked| answered.replace.as_ref() == Some(asked));
        recover.take_if(|asked| answered.recover.as_ref() == Some(asked));
        if state.asked != before {
            state.version += 1;
        }
    }

    /// What is asked for or under way.
    pub fn under_replacement(&self) -> Option<String> {
        let state = self.state.borrow();
        let under_way = state.status.replacement.as_ref();
        let asked = || state.asked.replace.clone();
        under_way.map(|r| r.message.clone()).or_else(asked)
    }

    /// The machine of a pod is gone for good, with the volume. Until somebody has the pod replaced it can run nowhere
    /// else.
    pub fn strand(&self, ordinal: u32) {
        self.destroy(ordinal, None);
        let mut state = self.state.borrow_mut();
        if let Some(pod) = state.pods.get_mut(&ordinal) {
            pod.stranded = true;
        }
    }

    /// Pods that are wanted and will not run again by themselves.
    pub fn hopeless(&self) -> Vec<u32> {
        let state = self.state.borrow();
        let wanted = state.pods.range(..state.replicas.min(state.statefulset));
        let hopeless = wanted.filter(|(_, pod)| pod.stranded);
        hopeless.map(|(ordinal, _)| *ordinal).collect()
    }

    /// The volume claim of a pod by that name.
    pub fn claim(&self, pod: &str) -> Option<Claim> {
        let ordinal = names::ordinal("demo", pod)?;
        let state = self.state.borrow();
        let pod = state.pods.get(&ordinal)?;
        Some(Claim {
            uid: pod.claim.to_string(),
            deleting: pod.claim_deleting,
        })
    }

    /// Tells a pod from others of its name.
    pub fn uid(&self, ordinal: u32) -> String {
        let run = self.fleet.host(self.pod(ordinal).host).run;
        format!("{ordinal}-{run}")
    }

    /// Deletes the claim of a pod if it is this one; it goes when no pod uses it any more.
    pub fn delete_claim(&self, ordinal: u32, uid: &str) {
        let mut state = self.state.borrow_mut();
        let unused = ordinal >= state.statefulset;
        let pod = state.pods.get_mut(&ordinal);
        let Some(pod) = pod.filter(|pod| pod.claim.to_string() == uid) else {
            return;
        };
        pod.claim_deleting = true;
        drop(state);
        if unused {
            self.renew(ordinal);
        }
    }

    /// Deletes a pod if it is this one; the StatefulSet makes another.
    pub fn delete_pod(&self, ordinal: u32, uid: &str) {
        if self.uid(ordinal) == uid {
            self.kill(ordinal, self.fleet.world().random(RESTART));
        }
    }

    /// The claim goes, and with it the volume. Nothing may depend on that, and it must be the volume of the identity that
    /// is retired, or of one of the same name that no slot names.
    pub(super) fn renew(&self, ordinal: u32) {
        let pod = self.pod(ordinal);
        self.fleet.world().note(("renew", ordinal), || {
            format!("demo-{ordinal} gets an empty volume")
        });
        let retired = self.status().replacement;
        let retired = retired.and_then(|r| r.peer.parse::<PeerId>().ok());
        let identity = self.fleet.host(pod.host).store().identity();
        let identity = identity.expect("a store in memory does not fail");
        let living = identity.map(|identity| identity.member);
        let living = living.filter(|member| member.liveness != Liveness::Left);
        let others = self.pods().into_iter().filter(|p| p.ordinal != ordinal);
        let others: Vec<HostId> = others.map(|p| p.host).collect();
        if let Some(member) = living
            && Some(member.id) != retired
            && check::is_named(&self.fleet, &others, member.id)
        {
            let violation = Violation::WrongVolume { peer: member.id };
            self.model.borrow_mut().report(violation);
        }
        // Where nobody else could take its slots, what it holds with one other may go: of W copies one is left.
        if retired.is_some_and(|id| check::is_named(&self.fleet, &others, id)) {
            self.note_loss();
        }
        self.audit(others);
        self.fleet.wipe(pod.host);
        if pod.stranded {
            let zone = self.fleet.world().random(0..u64::from(self.zones)) as u32;
            self.fleet.host(pod.host).zone = self.zone(zone);
        }
        let mut state = self.state.borrow_mut();
        state.replaced.extend(retired);
        if let Some(pod) = state.pods.get_mut(&ordinal) {
            (pod.stranded, pod.claim_deleting) = (false, false);
            pod.claim += 1;
        }
    }

    /// An identity whose volume was deleted, and that runs nevertheless.
    pub fn returned(&self) -> Option<PeerId> {
        let state = self.state.borrow();
        let hosts = self.fleet.hosts();
        let running = hosts.iter().filter_map(|h| h.process.as_ref());
        let mut ids = running.map(|process| process.id);
        ids.find(|id| state.replaced.contains(id))
    }
}
