//! Which pod is started anew because the template of the pods has changed: one at a time, and none that serves while another
//! does not.
//!
//! Kubernetes' own rolling update of a StatefulSet looks only at the pods that it has passed on its way from the highest
//! ordinal down (before its `maxUnavailable`, KEP-961). With a peer down somewhere below, or when the template changes again
//! during a rollout, it would take away a second replica of the same slots. So the set's strategy is `OnDelete`.

use peernet_core::member::Liveness;

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

fn serves(pod: &PeerPod) -> bool {
    let life = pod.answer.as_ref().and_then(|a| a.life.as_ref());
    pod.ready && life.is_none_or(|life| life.ready)
}

/// How far the pods follow the template.
#[derive(Default)]
pub(crate) struct Rollout {
    /// How many pods are of an earlier one.
    pub(crate) outdated: u32,
    /// The next to go.
    pub(crate) next: Option<Restart>,
}

pub(crate) fn rollout(observed: &Observed) -> Rollout {
    let mut rollout = Rollout::default();
    let set = observed.set.as_ref();
    let (Some(set), Some(revision)) = (set, set.and_then(|set| set.revision.as_ref())) else {
        return rollout;
    };
    let founded = observed.network.status.founded;
    let somebody_answers = observed.pods.values().any(|pod| pod.answer.is_some());
    // Somebody is away, and may be on the way; somebody is there and does not serve; somebody serves.
    let (mut away, mut unready, mut served) = (false, false, false);
    // The highest outdated pods of each kind.
    let (mut idle, mut stuck, mut serving) = (None, None, None);
    // A set that was lowered by hand is about to be raised again.
    for ordinal in 0..set.replicas.max(observed.last()) {
        let pod = observed.pods.get(&ordinal).filter(|pod| !pod.deleting);
        let Some(pod) = pod.filter(|pod| !is_lost(observed, pod)) else {
            away = true;
            continue;
        };
        if pod.has_left() {
            continue;
        }
        let outdated = pod.revision.as_ref().is_some_and(|r| r != revision);
        rollout.outdated += u32::from(outdated);
        // Kubernetes takes the better part of a minute to notice that a node is gone.
        if pod.started && pod.answer.is_none() && somebody_answers {
            away = true;
            continue;
        }
        served |= serves(pod);
        let place = match (outdated, serves(pod)) {
            (true, true) => &mut serving,
            // Before there is a ring nobody serves anything.
            (true, false) if !pod.started || !founded => &mut idle,
            (true, false) => &mut stuck,
            (false, ready) => {
                unready |= !ready;
                continue;
            }
        };
        *place = Some((ordinal, pod));
    }
    let is_whole = |(ordinal, _): &(u32, &PeerPod)| !away && !is_short(observed, *ordinal);
    // What does not run serves nobody. What runs and is not ready may still hold the only copy at hand; but where nobody
    // serves, those that follow the template may wait for it.
    let stuck = stuck.map(|at| (at, !unready || !served));
    let serving = serving.map(|at| (at, !unready));
    let next = stuck.or(serving).filter(|(at, may)| *may && is_whole(at));
    rollout.next = idle
        .or(next.map(|(at, _)| at))
        .map(|(ordinal, pod)| Restart {
            pod: names::pod(&observed.network.name, ordinal),
            uid: pod.uid.clone(),
        });
    rollout
}

/// Its node is gone: nobody could confirm its end.
fn is_lost(observed: &Observed, pod: &PeerPod) -> bool {
    let lost = |node| observed.lost_nodes.contains(node);
    pod.node.as_ref().is_some_and(lost)
}

/// Whether the ring counts on a member that is down, other than that pod's own: one whose volume was lost, for instance, while
/// its pod is back as somebody else.
fn is_short(observed: &Observed, ordinal: u32) -> bool {
    let own = names::pod(&observed.network.name, ordinal);
    let mut members = observed.members.values();
    members.any(|m| m.liveness == Liveness::Down && m.name != own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{founded, id, set};

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
        rollout(observed).next.map(|r| r.uid)
    }

    fn change(observed: &mut Observed, ordinal: u32, change: impl FnOnce(&mut PeerPod)) {
        change(observed.pods.get_mut(&ordinal).unwrap());
    }

    #[test]
    fn one_at_a_time_from_the_highest_down_and_none_while_another_is_away() {
        assert_eq!(next(&outdated(&[])), None);
        assert_eq!(next(&outdated(&[0, 1, 3])).as_deref(), Some("pod-3"));
        let away: [fn(&mut Observed); 8] = [
            |o| drop(o.pods.remove(&4)),
            |o| change(o, 4, |pod| pod.deleting = true),
            |o| change(o, 4, |pod| pod.ready = false),
            |o| change(o, 0, |pod| pod.ready = false),
            |o| change(o, 0, |pod| pod.answer = None),
            |o| o.members.get_mut(&id(2)).unwrap().liveness = Liveness::Down,
            |o| o.network.status.replicas = 6,
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
        let mut unreachable = outdated(&[1]);
        unreachable
            .pods
            .values_mut()
            .for_each(|pod| pod.answer = None);
        assert_eq!(
            next(&unreachable).as_deref(),
            Some("pod-1"),
            "as far as Kubernetes knows"
        );
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
    fn what_was_put_right_goes_on_though_the_others_wait_for_it() {
        let mut observed = outdated(&[4]);
        for ordinal in 0..5 {
            change(&mut observed, ordinal, |pod| pod.ready = false);
        }
        observed.members.get_mut(&id(4)).unwrap().liveness = Liveness::Down;
        assert_eq!(next(&observed).as_deref(), Some("pod-4"));
        change(&mut observed, 0, |pod| pod.ready = true);
        assert_eq!(next(&observed), None, "somebody serves");
    }

    #[test]
    fn before_there_is_a_ring_all_may_go() {
        let mut observed = outdated(&[0, 1]);
        for ordinal in 0..4 {
            change(&mut observed, ordinal, |pod| pod.ready = false);
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
