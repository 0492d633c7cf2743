//! Which pod is started anew because the template of the pods has changed: one at a time, and none that serves while another
//! does not.
//!
//! Kubernetes' own rolling update of a StatefulSet looks only at the pods that it has passed on its way from the highest
//! ordinal down (before its `maxUnavailable`, KEP-961). With a peer down somewhere below, or when the template changes again
//! during a rollout, it would take away a second replica of the same slots. So the set's strategy is `OnDelete`.

use crate::names;
use crate::observed::{Observed, PeerPod};

/// A pod that is to go, so that the set makes it anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restart {
    /// Its name.
    pub pod: String,
    /// Tells it from its successor.
    pub uid: String,
}

/// Whoever has left for good is neither ready nor needed, and stays as it is until the set is lowered.
fn has_left(pod: &PeerPod) -> bool {
    pod.answer.as_ref().is_some_and(|a| a.volume.left)
}

fn serves(pod: &PeerPod) -> bool {
    let life = pod.answer.as_ref().and_then(|a| a.life.as_ref());
    pod.ready && life.is_none_or(|life| life.ready)
}

pub(crate) fn restart(observed: &Observed) -> Option<Restart> {
    let set = observed.set.as_ref()?;
    let revision = set.revision.as_ref()?;
    let founded = observed.network.status.founded;
    // Somebody is missing and may be on the way; the highest outdated pods of each kind.
    let mut waits = false;
    let (mut idle, mut stuck, mut serving) = (None, None, None);
    for ordinal in 0..set.replicas {
        let pod = observed.pods.get(&ordinal).filter(|pod| !pod.deleting);
        let lost = |pod: &&PeerPod| {
            pod.node
                .as_ref()
                .is_some_and(|n| observed.lost_nodes.contains(n))
        };
        let Some(pod) = pod.filter(|pod| !lost(pod)) else {
            waits = true;
            continue;
        };
        if has_left(pod) {
            continue;
        }
        let outdated = pod.revision.as_ref().is_some_and(|r| r != revision);
        let place = match (outdated, serves(pod)) {
            (true, true) => &mut serving,
            // Before there is a ring nobody serves anything.
            (true, false) if !pod.started || !founded => &mut idle,
            (true, false) => &mut stuck,
            (false, true) => continue,
            (false, false) => {
                waits = true;
                continue;
            }
        };
        *place = Some((ordinal, pod));
    }
    // What does not run serves nobody. What runs and is not ready may still hold the only copy at hand.
    let (ordinal, pod) = idle.or_else(|| stuck.or(serving).filter(|_| !waits))?;
    Some(Restart {
        pod: names::pod(&observed.network.name, ordinal),
        uid: pod.uid.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{founded, set};

    /// Five peers, of which these are outdated.
    fn outdated(old: &[u32]) -> Observed {
        let mut observed = founded(5, 5);
        let mut set = set(5);
        set.revision = Some("new".into());
        observed.set = Some(set);
        for (ordinal, pod) in &mut observed.pods {
            let revision = if old.contains(ordinal) { "old" } else { "new" };
            pod.revision = Some(revision.into());
        }
        observed
    }

    fn next(observed: &Observed) -> Option<String> {
        restart(observed).map(|r| r.uid)
    }

    fn change(observed: &mut Observed, ordinal: u32, change: impl FnOnce(&mut PeerPod)) {
        change(observed.pods.get_mut(&ordinal).unwrap());
    }

    #[test]
    fn one_at_a_time_from_the_highest_down_and_none_while_another_is_away() {
        assert_eq!(next(&outdated(&[])), None);
        assert_eq!(next(&outdated(&[0, 1, 3])).as_deref(), Some("pod-3"));
        let away: [fn(&mut Observed); 5] = [
            |o| drop(o.pods.remove(&4)),
            |o| change(o, 4, |pod| pod.deleting = true),
            |o| change(o, 4, |pod| pod.ready = false),
            |o| change(o, 0, |pod| pod.ready = false),
            |o| {
                let life = |pod: &mut PeerPod| {
                    pod.answer.as_mut().unwrap().life.as_mut().unwrap().ready = false
                };
                change(o, 2, life);
            },
        ];
        for (n, away) in away.into_iter().enumerate() {
            let mut observed = outdated(&[1, 3]);
            away(&mut observed);
            assert_eq!(next(&observed), None, "{n}");
        }
        let mut unseen = outdated(&[1]);
        unseen.set.as_mut().unwrap().revision = None;
        assert_eq!(next(&unseen), None, "its controller has not looked yet");
    }

    #[test]
    fn what_is_outdated_and_does_not_serve_goes_first() {
        let mut observed = outdated(&[0, 1, 3]);
        change(&mut observed, 1, |pod| pod.ready = false);
        assert_eq!(next(&observed).as_deref(), Some("pod-1"));
        // Not while another is away, unless it does not even run, as with an image that is not to be had.
        change(&mut observed, 4, |pod| pod.ready = false);
        assert_eq!(next(&observed), None);
        change(&mut observed, 1, |pod| pod.started = false);
        assert_eq!(next(&observed).as_deref(), Some("pod-1"));
        observed.lost_nodes.extend(observed.pods[&1].node.clone());
        assert_eq!(next(&observed), None, "nobody could confirm its end");
    }

    #[test]
    fn before_there_is_a_ring_all_may_go() {
        let mut observed = outdated(&[0, 1]);
        for pod in observed.pods.values_mut() {
            pod.ready = false;
        }
        assert_eq!(next(&observed), None);
        observed.network.status.founded = false;
        assert_eq!(next(&observed).as_deref(), Some("pod-1"));
    }

    #[test]
    fn who_has_left_is_in_nobodys_way() {
        let mut observed = outdated(&[2, 4]);
        change(&mut observed, 4, |pod| {
            pod.ready = false;
            pod.answer.as_mut().unwrap().volume.left = true;
        });
        assert_eq!(next(&observed).as_deref(), Some("pod-2"));
    }
}
