//! Which ring this is. It is founded once: by ordinal 0, after the identity was written to the status, and only when no
//! volume remembers an earlier ring.

use std::collections::BTreeSet;

use peernet_core::member::Liveness;

use crate::names;
use crate::observed::Observed;

/// Which ring this is, and whether it exists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// UUID of the ring; `None` while it cannot be decided.
    pub network: Option<String>,
    /// It is in the status already; only then may pods be told.
    pub written: bool,
    /// The ring exists; from now on peers only join it.
    pub founded: bool,
    /// What the decision or the founding waits for, a sentence.
    pub waiting: Option<String>,
}

/// Decides the identity, or goes on waiting for those that have to be heard first.
pub(crate) fn decide(observed: &Observed) -> Identity {
    let status = &observed.network.status;
    if let Some(network) = &status.network_id {
        let founded = status.founded || founder_is_active(observed, network);
        let founder = names::pod(&observed.network.name, 0);
        let waiting = (!founded).then(|| format!("waiting for {founder} to found the ring"));
        return Identity {
            network: Some(network.clone()),
            written: true,
            founded,
            waiting,
        };
    }
    let waiting = |sentence: String| Identity {
        waiting: Some(sentence),
        ..Identity::default()
    };
    // Ordinal 0 founds, so it has to be there anyway; an old volume may remember a ring that still has files.
    let mut must_be_heard = std::iter::once(0).chain(observed.old_volumes.iter().copied());
    let answered = |o: &u32| observed.pods.get(o).is_some_and(|pod| pod.answer.is_some());
    if let Some(silent) = must_be_heard.find(|ordinal| !answered(ordinal)) {
        let pod = names::pod(&observed.network.name, silent);
        return waiting(format!(
            "waiting for {pod} to say what its volume remembers"
        ));
    }
    let volumes = || {
        observed
            .pods
            .values()
            .filter_map(|pod| Some(&pod.answer.as_ref()?.volume))
    };
    let remembered = |left: bool| -> BTreeSet<&String> {
        volumes()
            .filter(|v| v.left == left)
            .filter_map(|v| v.network.as_ref())
            .collect()
    };
    let living = remembered(false);
    if living.len() > 1 {
        let ids: Vec<&str> = living.into_iter().map(String::as_str).collect();
        return waiting(format!(
            "the volumes belong to different networks ({}); delete the claims of all but one",
            ids.join(", ")
        ));
    }
    if let Some(network) = living.first() {
        // The ring exists: its members come back and wait for each other.
        return Identity {
            network: Some((*network).clone()),
            founded: true,
            ..Identity::default()
        };
    }
    // Volumes of peers that left take part only under the old name. The resource's UID is as good as any other UUID, and
    // is the same in every attempt.
    let departed = remembered(true);
    let network = departed
        .first()
        .map_or(&observed.network.uid, |network| *network);
    Identity {
        network: Some(network.clone()),
        ..Identity::default()
    }
}

fn founder_is_active(observed: &Observed, network: &str) -> bool {
    let founder = observed
        .pods
        .get(&0)
        .and_then(|pod| pod.answer.as_ref()?.life.as_ref());
    founder.is_some_and(|l| l.network == network && l.member.liveness == Liveness::Active)
}
