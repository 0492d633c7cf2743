//! Watching a network whose size changes again and again: no pod may go before all it held lives elsewhere.
//!
//! The [`drain::Guard`](crate::drain::Guard) knows the peers of one leave beforehand. Here pods come and go and come back
//! as other peers, so identities are read all the time, and a pod that is let go stands for every identity it was ever
//! seen with. Each time the StatefulSet is lowered, those that were never let go are asked whether any slot still names,
//! or is moving to, one of those identities: a leaver is never chosen again, so a slot that names one after the lowering
//! named it at the lowering.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::runtime::{WatchStreamExt, watcher};
use peernet_proto::v1::{LeaveReportResponse, SlotReport};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::network::Network;
use crate::patience::eventually;

/// Between two readings of who is in which pod; a peer that joins holds no slot for longer than this (measured: seconds).
const READING: Duration = Duration::from_millis(250);
/// Longest that those that stay may take to answer.
const REPORTS: Duration = Duration::from_secs(120);
/// Lowerings waiting to be judged; a storm has tens.
const WAITING: usize = 1024;

/// A slot whose newest configuration names somebody who was let go.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("slot {slot} (epoch {epoch}) still names {peer}")]
pub struct StillNamed {
    /// The slot.
    pub slot: u32,
    /// Its newest epoch.
    pub epoch: u64,
    /// Who was let go.
    pub peer: String,
}

/// Watches until it is told to stop.
#[derive(Debug)]
pub struct Departures {
    judging: JoinHandle<Result<Vec<(i32, i32)>>>,
    stop: watch::Sender<bool>,
}

/// When each identity was first seen in a pod of that number.
type Seen = BTreeMap<i32, BTreeMap<String, Instant>>;

struct Lowered {
    from: i32,
    to: i32,
    at: Instant,
}

/// Checks the newest configuration of each slot that anyone reports.
///
/// # Errors
/// The first slot that names one of the departed.
pub fn nobody_named(
    departed: &BTreeSet<String>,
    reports: &[LeaveReportResponse],
) -> Result<(), StillNamed> {
    let mut newest = BTreeMap::<u32, &SlotReport>::new();
    for report in reports.iter().flat_map(|r| &r.slots) {
        let known = newest.entry(report.slot).or_insert(report);
        if known.epoch < report.epoch {
            *known = report;
        }
    }
    for (slot, report) in newest {
        let mut named = report.replicas.iter().chain(&report.next);
        if let Some(peer) = named.find(|id| departed.contains(*id)) {
            let (epoch, peer) = (report.epoch, peer.clone());
            return Err(StillNamed { slot, epoch, peer });
        }
    }
    Ok(())
}

impl Departures {
    /// Begins to watch.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn start(network: &Arc<Network>) -> Result<Self> {
        let set = network.sets.get(&network.name).await?;
        let size = set.spec.and_then(|s| s.replicas).unwrap_or_default();
        let (stop, stopped) = watch::channel(false);
        let judging = tokio::spawn(judge_all(network.clone(), size, stopped));
        Ok(Departures { judging, stop })
    }

    /// From how many to how many, each time the StatefulSet was lowered.
    ///
    /// # Errors
    /// Somebody was let go too early, or watching failed.
    pub async fn finish(self) -> Result<Vec<(i32, i32)>> {
        self.stop.send_replace(true);
        self.judging.await.context("the watch panicked")?
    }
}

async fn judge_all(
    network: Arc<Network>,
    size: i32,
    mut stopped: watch::Receiver<bool>,
) -> Result<Vec<(i32, i32)>> {
    let (sender, mut lowerings) = mpsc::channel(WAITING);
    let watching = tokio::spawn(watch_set(network.clone(), size, sender));
    let mut seen = Seen::new();
    let mut lowered = Vec::new();
    let mut floor = size;
    let mut ticks = interval(READING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // In this order, so that what has already happened is judged before the watch stops.
            biased;
            Some(Lowered { from, to, at }) = lowerings.recv() => {
                floor = floor.min(to);
                let departed = departed(&seen, to..from, at);
                judge(&network, floor, &departed)
                    .await
                    .with_context(|| format!("the StatefulSet was lowered from {from} to {to}"))?;
                lowered.push((from, to));
            }
            _ = stopped.changed() => break,
            _ = ticks.tick() => read(&network, &mut seen).await,
        }
    }
    watching.abort();
    Ok(lowered)
}

/// Tells of each lowering, and when it was seen.
async fn watch_set(network: Arc<Network>, size: i32, lowerings: mpsc::Sender<Lowered>) {
    let only = watcher::Config::default().fields(&format!("metadata.name={}", network.name));
    let sets = watcher(network.sets.clone(), only).default_backoff();
    let mut sets = Box::pin(sets.applied_objects());
    let mut from = size;
    while let Some(set) = sets.next().await {
        let StatefulSet { spec, .. } = match set {
            Ok(set) => set,
            // It goes on by itself.
            Err(error) => {
                eprintln!("  watching the StatefulSet: {error}");
                continue;
            }
        };
        let to = spec.and_then(|s| s.replicas).unwrap_or(from);
        let lowered = (to < from).then(|| Lowered {
            from,
            to,
            at: Instant::now(),
        });
        from = to;
        if let Some(lowered) = lowered
            && lowerings.send(lowered).await.is_err()
        {
            return;
        }
    }
}

/// Who is in which pod. Peers that do not answer now do later.
async fn read(network: &Network, seen: &mut Seen) {
    let asked = network.peers().into_iter().map(|peer| async move {
        let status = peer.status().await.ok()?;
        Some((peer.ordinal, status.self_?.id))
    });
    for (ordinal, id) in futures::future::join_all(asked).await.into_iter().flatten() {
        let known = seen.entry(ordinal).or_default();
        known.entry(id).or_insert_with(Instant::now);
    }
}

/// Every identity that these pods had before `at`: later ones joined after the lowering.
fn departed(seen: &Seen, pods: std::ops::Range<i32>, at: Instant) -> BTreeSet<String> {
    let known = pods.filter_map(|ordinal| seen.get(&ordinal)).flatten();
    known
        .filter(|(_, first)| **first < at)
        .map(|(id, _)| id.clone())
        .collect()
}

async fn judge(network: &Network, floor: i32, departed: &BTreeSet<String>) -> Result<()> {
    let reports = eventually("those that were never let go report", REPORTS, || async {
        let peers = network.peers().into_iter().filter(|p| p.ordinal < floor);
        let asked = peers.map(|peer| {
            let leavers = departed.iter().cloned().collect();
            async move { peer.leave_report(leavers).await }
        });
        let reports = futures::future::try_join_all(asked).await?;
        let count = reports.len();
        ensure!(count as i32 == floor, "{count} of {floor} have an address");
        Ok(reports)
    });
    Ok(nobody_named(departed, &reports.await?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(slot: u32, epoch: u64, replicas: &[&str], next: &[&str]) -> SlotReport {
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
        SlotReport {
            slot,
            epoch,
            replicas: ids(replicas),
            next: ids(next),
            synced: true,
        }
    }

    #[test]
    fn a_slot_that_names_a_departed_peer_is_noticed() {
        let departed = BTreeSet::from(["x".to_owned()]);
        let judged = |slots: Vec<SlotReport>| {
            let report = LeaveReportResponse {
                slots,
                ..LeaveReportResponse::default()
            };
            nobody_named(&departed, &[report])
        };
        let (old, new) = (
            report(3, 1, &["a", "b", "x"], &[]),
            report(3, 2, &["a", "b", "c"], &[]),
        );
        assert_eq!(judged(vec![old.clone(), new.clone()]), Ok(()));
        assert_eq!(judged(vec![new, old.clone()]), Ok(()));
        assert_eq!(judged(vec![old]).unwrap_err().slot, 3);
        let moving = judged(vec![report(4, 1, &["a", "b", "c"], &["a", "b", "x"])]);
        assert_eq!(moving.unwrap_err().slot, 4);
    }

    #[test]
    fn whoever_came_after_the_lowering_did_not_depart() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let ids = BTreeMap::from([("old".to_owned(), start), ("new".to_owned(), after(9))]);
        let seen = Seen::from([(5, ids)]);
        let wanted = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
        assert_eq!(departed(&seen, 5..7, after(5)), wanted(&["old"]));
        assert_eq!(departed(&seen, 5..7, after(10)), wanted(&["new", "old"]));
        assert_eq!(departed(&seen, 3..5, after(10)), wanted(&[]));
    }
}
