//! How harm is done, and how it is undone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::FutureExt;
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PropagationPolicy};
use peernet_crd::PeerNetwork;
use peernet_proto::v1::{PeerInfo, PeerState};
use tokio::time::Instant;

use super::{Fault, Step, Trial, Victim};
use crate::census::Census;
use crate::cluster::Cut;
use crate::departures::Departures;
use crate::kubectl;
use crate::network::RESIZING;
use crate::patience::{eventually, watched, within};
use crate::peer::Peer;
use crate::recovery::Back;
use crate::volumes;

/// Nodes of `dev/cluster`.
const NODES: u8 = 3;
/// Replicas of all slots, summed: 4,096 slots times three copies.
const REPLICAS: i32 = 4096 * 3;
/// Fewer peers than copies are refused.
const FEWEST: i32 = 3;
/// A storm takes the network this far beyond its size: two more per node here.
const BEYOND: i32 = 3;
/// Most times that a peer begins anew before its node is to be one that has none.
const MOVES: usize = 3;
/// Operations that clients do while a cut lasts: about 6 to 25 s, so that shorter ones end before copies are rebuilt
/// elsewhere and longer ones after.
const WHILE_CUT: std::ops::Range<u64> = 60..240;
/// Operations between two changes of size: one to four seconds.
const BETWEEN_SIZES: std::ops::Range<u64> = 10..45;
/// What the API server answers when a rule of the resource is broken.
const INVALID: u16 = 422;
/// Longest that a fault may take to show, or to pass.
const PASSING: Duration = Duration::from_secs(600);

/// What a fault did.
pub(super) struct Harm {
    /// How soon files went in and out again.
    pub(super) back: Back,
    /// When nothing was left to undo.
    pub(super) undone: Instant,
}

/// Whether all pods of a set are of its newest revision, and ready.
fn is_rolled_out(set: Option<&StatefulSet>) -> bool {
    let Some((set, status)) = set.and_then(|set| Some((set, set.status.as_ref()?))) else {
        return false;
    };
    status.observed_generation == set.metadata.generation
        && status.updated_replicas == set.spec.as_ref().and_then(|spec| spec.replicas)
        && status.ready_replicas == status.updated_replicas
}

impl Trial<'_> {
    pub(super) async fn inject(&mut self, fault: Fault) -> Result<Harm> {
        // Each on the heap: a test's thread has no stack for the largest of them within all that waits for it.
        match fault {
            Fault::Kill(count) => {
                let pods = self.any_pods(count);
                Box::pin(self.kill(&pods, false)).await
            }
            Fault::RestartAll { gently } => {
                let pods: Vec<_> = (0..self.size).map(|n| self.pod(n)).collect();
                Box::pin(self.kill(&pods, gently)).await
            }
            Fault::Roll => Box::pin(self.roll()).await,
            Fault::Cut(how) => Box::pin(self.cut(how)).await,
            Fault::PowerOff => Box::pin(self.power_off()).await,
            Fault::Storm(changes) => Box::pin(self.storm(changes)).await,
            Fault::CrashInLeave(victim, step) => Box::pin(self.crash_in_leave(victim, step)).await,
            Fault::Reconsider => Box::pin(self.reconsider()).await,
            Fault::DeleteSet { orphan } => Box::pin(self.delete_set(orphan)).await,
            Fault::OperatorAway => Box::pin(self.operator_away()).await,
            Fault::Replace => Box::pin(self.replace()).await,
        }
    }

    async fn kill(&mut self, pods: &[String], gently: bool) -> Result<Harm> {
        self.note(&format!("delete {}", pods.join(", ")));
        let before = try_join_all(pods.iter().map(|p| self.network.pods.get(p))).await?;
        let params = DeleteParams {
            grace_period_seconds: (!gently).then_some(0),
            ..DeleteParams::default()
        };
        let doomed = self.network.peers().into_iter();
        let doomed: Vec<_> = doomed.filter(|p| pods.contains(&p.name)).collect();
        let deletions = pods.iter().map(|p| self.network.pods.delete(p, &params));
        try_join_all(deletions).await?;
        let ends = join_all(doomed.iter().map(Peer::ended));
        within("the processes end", PASSING, ends.map(anyhow::Ok)).await?;
        let undone = Instant::now();
        let everybody = pods.len() as i32 == self.size;
        let hit = if everybody { &[] } else { pods };
        let back = self.back(hit).await?;
        try_join_all(before.iter().map(|old| self.ready_again(old))).await?;
        Ok(Harm { back, undone })
    }

    async fn roll(&mut self) -> Result<Harm> {
        let namespace = &self.scenario.namespace;
        let set = format!("statefulset/{}", self.network.name);
        kubectl::run(namespace, &["rollout", "restart", &set]).await?;
        let waiting = watched(self.network.sets.clone(), &self.network.name, is_rolled_out);
        within("all pods are started anew", PASSING, waiting).await?;
        self.undone(&[]).await
    }

    async fn cut(&mut self, how: Cut) -> Result<Harm> {
        Box::pin(self.spread_out()).await?;
        let (node, hit) = self.any_node(&BTreeSet::new())?;
        self.scenario.cut_node(node, how).await?;
        let back = self.back(&hit).await?;
        self.note(&format!("without {}: {back}", hit.join(", ")));
        self.noticed(&hit).await?;
        self.load.serves(self.random.u64(WHILE_CUT)).await?;
        self.scenario.heal_node(node).await?;
        let undone = Instant::now();
        Ok(Harm { back, undone })
    }

    async fn power_off(&mut self) -> Result<Harm> {
        Box::pin(self.spread_out()).await?;
        let (node, hit) = self.any_node(&BTreeSet::new())?;
        self.scenario.kill_node(node).await?;
        let back = self.back(&hit).await?;
        self.note(&format!("without {}: {back}", hit.join(", ")));
        self.noticed(&hit).await?;
        self.load.serves(self.random.u64(WHILE_CUT)).await?;
        self.scenario.start_node(node).await?;
        let undone = Instant::now();
        Ok(Harm { back, undone })
    }

    async fn storm(&mut self, changes: u32) -> Result<Harm> {
        let departures = Departures::start(&self.network).await?;
        let mut wanted = self.size;
        let mut sizes = Vec::new();
        for _ in 0..changes {
            let others: Vec<_> = (FEWEST..=self.size + BEYOND)
                .filter(|n| *n != wanted)
                .collect();
            wanted = others[self.random.usize(..others.len())];
            match self.network.scale(wanted).await {
                Ok(()) => sizes.push(wanted.to_string()),
                // A peer that stays was not ready: the resource says so at once.
                Err(kube::Error::Api(status)) if status.code == INVALID => {
                    sizes.push(format!("{wanted} refused"));
                }
                Err(error) => return Err(error.into()),
            }
            self.load.serves(self.random.u64(BETWEEN_SIZES)).await?;
        }
        self.network.scale_when_allowed(self.size).await?;
        self.note(&format!("sizes {}", sizes.join(", ")));
        let harm = self.undone(&[]).await?;
        self.network.ready(self.size, RESIZING).await?;
        let lowered = departures.finish().await?;
        self.note(&format!("the set was lowered {lowered:?}"));
        Ok(harm)
    }

    async fn crash_in_leave(&mut self, victim: Option<Victim>, step: Step) -> Result<Harm> {
        let departures = Departures::start(&self.network).await?;
        let fewer = self.size - 1;
        let leaver = self.pod(fewer);
        self.network.scale_when_allowed(fewer).await?;
        self.reaches(step).await?;
        let receiver = self.random.i32(0..fewer);
        let hit = match victim {
            Some(Victim::Leaver) => Some(leaver),
            Some(Victim::Receiver) => Some(self.pod(receiver)),
            Some(Victim::Operator) | None => None,
        };
        if victim == Some(Victim::Operator) {
            self.scenario.kill_operator().await?;
        }
        let mut killed = None;
        if let Some(pod) = &hit {
            // A leaver may be gone already, when its leave has come to that.
            killed = self.network.pods.get_opt(pod).await?;
            let there = killed.is_some() || victim == Some(Victim::Leaver);
            ensure!(there, "there is no {pod}");
        }
        if let Some(pod) = &killed {
            self.delete_at_once(&pod.name_any()).await?;
        }
        let back = self.back(hit.as_slice()).await?;
        self.network.ready(fewer, RESIZING).await?;
        self.network.pods_are(fewer).await?;
        if let Some(receiver) = killed.filter(|_| victim == Some(Victim::Receiver)) {
            self.ready_again(&receiver).await?;
        }
        let lowered = departures.finish().await?;
        ensure!(lowered == [(self.size, fewer)], "lowered {lowered:?}");
        self.copies().await.context("after the leave")?;
        self.network.scale(self.size).await?;
        let undone = Instant::now();
        Ok(Harm { back, undone })
    }

    /// Waits for a moment of a leave. A leave that is over sooner is past all of them.
    async fn reaches(&self, step: Step) -> Result<()> {
        if step == Step::Lowered {
            let (sets, fewer) = (self.network.sets.clone(), self.size - 1);
            let asks = |s: &StatefulSet| s.spec.as_ref().and_then(|s| s.replicas);
            let lowered = move |s: Option<&StatefulSet>| s.and_then(asks) == Some(fewer);
            let waiting = watched(sets, &self.network.name, lowered);
            return within("the set is lowered", RESIZING, waiting).await;
        }
        let (half, fewer) = (REPLICAS / self.size / 2, self.size - 1);
        let state = |n: &PeerNetwork| {
            n.status.as_ref().is_some_and(|status| match &status.drain {
                Some(drain) => step == Step::Ordered || drain.slots_left <= half,
                None => status.replicas == fewer,
            })
        };
        self.network.becomes("a peer leaves", RESIZING, state).await
    }

    async fn reconsider(&mut self) -> Result<Harm> {
        let census = Census::start(&self.network);
        self.scenario.remove_operator().await?;
        self.network.scale(self.size - 1).await?;
        self.network.scale(self.size).await?;
        self.scenario.return_operator().await?;
        let harm = self.undone(&[]).await?;
        self.network.ready(self.size, RESIZING).await?;
        let counts = census.finish().await?;
        let nothing = counts == crate::census::Counts::default();
        ensure!(nothing, "nothing had to be done, but {counts}: {counts:?}");
        Ok(harm)
    }

    async fn delete_set(&mut self, orphan: bool) -> Result<Harm> {
        let Trial { network, size, .. } = self;
        let old = network.sets.get(&network.name).await?.uid();
        let params = DeleteParams {
            propagation_policy: Some(match orphan {
                true => PropagationPolicy::Orphan,
                false => PropagationPolicy::Background,
            }),
            ..DeleteParams::default()
        };
        network.sets.delete(&network.name, &params).await?;
        let (sets, name, size) = (network.sets.clone(), network.name.clone(), *size);
        let harm = self.undone(&[]).await?;
        let another = move |s: Option<&StatefulSet>| {
            let ready = |s: &StatefulSet| s.status.as_ref().and_then(|s| s.ready_replicas);
            s.is_some_and(|s| s.uid() != old && ready(s) == Some(size))
        };
        let waiting = watched(sets, &name, another);
        within("the set is made anew, with all its pods", PASSING, waiting).await?;
        Ok(harm)
    }

    async fn operator_away(&mut self) -> Result<Harm> {
        self.scenario.remove_operator().await?;
        let pods = self.any_pods(2);
        let mut harm = self.kill(&pods, false).await?;
        self.network.one_ring(self.size).await?;
        self.note("they came back without it");
        self.scenario.return_operator().await?;
        harm.undone = Instant::now();
        Ok(harm)
    }

    /// The fault is one: peers that were not hit do not count on one that was, or the other way round.
    async fn noticed(&self, hit: &[String]) -> Result<()> {
        let doubts = |by: &Peer, member: &PeerInfo| {
            member.state() != PeerState::Active
                && hit.contains(&by.name) != hit.contains(&member.name)
        };
        eventually("somebody notices", PASSING, || async {
            let asked = self.network.peers().into_iter().map(|peer| async move {
                let members = peer.members().await.unwrap_or_default(); // out of reach
                members.iter().any(|member| doubts(&peer, member))
            });
            let doubted = join_all(asked).await.contains(&true);
            ensure!(doubted, "everybody counts on {}", hit.join(", "));
            Ok(())
        })
        .await
    }

    async fn replace(&mut self) -> Result<Harm> {
        Box::pin(self.spread_out()).await?;
        // Kubernetes moves an operator from a dead node only after minutes.
        let operators = self.scenario.operator_nodes().await?;
        let (node, hit) = self.any_node(&operators)?;
        let given_up = hit[self.random.usize(..hit.len())].clone();
        let old = self.network.pods.get(&given_up).await?;
        self.scenario.kill_node(node).await?;
        let back = self.back(&hit).await?;
        self.noticed(&hit).await?;
        self.network
            .annotate("peernet.dev/replace", &given_up)
            .await?;
        self.note(&format!("replace {given_up}"));
        let over = |n: &PeerNetwork| {
            let mut conditions = n.status.iter().flat_map(|s| &s.conditions);
            let replaced = conditions.any(|c| c.type_ == "Replacing" && c.reason == "Replaced");
            replaced && !n.annotations().contains_key("peernet.dev/replace")
        };
        self.network
            .becomes("it is replaced", RESIZING, over)
            .await?;
        self.ready_again(&old).await?;
        self.note("it is another peer, on another node");
        self.scenario.start_node(node).await?;
        let undone = Instant::now();
        Ok(Harm { back, undone })
    }

    /// Files go in and out again, through peers that were not hit.
    async fn back(&self, hit: &[String]) -> Result<Back> {
        self.probes.back(|| self.others(hit)).await
    }

    /// Nothing is left to undo.
    async fn undone(&self, hit: &[String]) -> Result<Harm> {
        let undone = Instant::now();
        let back = self.back(hit).await?;
        Ok(Harm { back, undone })
    }

    async fn delete_at_once(&self, pod: &str) -> Result<()> {
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        self.network.pods.delete(pod, &at_once).await?;
        Ok(())
    }

    /// The successor of a deleted pod is ready.
    async fn ready_again(&self, old: &Pod) -> Result<()> {
        let (name, uid) = (old.name_any(), old.uid());
        let ready = move |pod: Option<&Pod>| {
            let Some(pod) = pod.filter(|p| p.uid() != uid) else {
                return false;
            };
            let conditions = pod.status.iter().filter_map(|s| s.conditions.as_ref());
            let mut ready = conditions.flatten().filter(|c| c.type_ == "Ready");
            ready.any(|c| c.status == "True")
        };
        let waiting = watched(self.network.pods.clone(), &name, ready);
        let what = format!("{name} is ready again");
        within(&what, PASSING, waiting).await
    }

    fn pod(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.network.name)
    }

    fn any_pods(&mut self, count: usize) -> Vec<String> {
        let ordinals = self.random.choose_multiple(0..self.size, count);
        ordinals.into_iter().map(|n| self.pod(n)).collect()
    }

    /// Gives a peer to a node that has none, so that no node has a majority of a slot's copies. One that was replaced while its
    /// node was off is on another, where its new volume keeps it.
    async fn spread_out(&self) -> Result<()> {
        for _ in 0..MOVES {
            let peers = self.network.peers();
            let nodes: BTreeSet<_> = peers.iter().map(|p| &p.node).collect();
            if nodes.len() == usize::from(NODES) {
                return Ok(());
            }
            let fewer = self.size - 1;
            let pod = self.pod(fewer);
            self.note(&format!("a node has no peers: {pod} begins anew"));
            self.network.scale_when_allowed(fewer).await?;
            self.network.ready(fewer, RESIZING).await?;
            self.network.pods_are(fewer).await?;
            volumes::delete(self.scenario, &pod).await?;
            self.network.scale(self.size).await?;
            self.network.ready(self.size, RESIZING).await?;
            self.network.settled().await?;
            self.network.spread_over_zones(&self.files).await?;
        }
        bail!("the scheduler leaves a node without peers")
    }

    /// A random node that has peers and is none of these, and its peers.
    fn any_node(&mut self, except: &BTreeSet<String>) -> Result<(u8, Vec<String>)> {
        let node = |number: u8| format!("node{number}");
        let peers = self.network.peers();
        let on = |number: u8| {
            let there = peers.iter().filter(|p| p.node == node(number));
            there.map(|p| p.name.clone()).collect::<Vec<_>>()
        };
        let fits = |n: &u8| !on(*n).is_empty() && !except.contains(&node(*n));
        let nodes: Vec<u8> = (1..=NODES).filter(fits).collect();
        ensure!(!nodes.is_empty(), "no node is left, except {except:?}");
        let number = nodes[self.random.usize(..nodes.len())];
        Ok((number, on(number)))
    }

    fn note(&self, text: &str) {
        self.scenario.note(&format!("  {text}"));
    }
}
