//! Watching a graceful leave: no pod may go before all it held lives elsewhere.
//!
//! A [`Guard`] watches the StatefulSet. Each time its replicas are lowered, it asks all peers that stay whether any slot
//! still names, or is moving to, one of those that were let go. A leaver is never chosen again, so a slot that names one
//! after the lowering named it at the lowering.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use peernet_crd::{DrainStatus, PeerNetwork};
use peernet_proto::v1::{LeaveReportResponse, SlotReport};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::network::Network;
use crate::patience::eventually;

/// Slots of the key space (design: fixed).
const SLOTS: u32 = 4096;
/// Longest that the peers that stay may take to answer.
const REPORTS: Duration = Duration::from_secs(120);

/// Why peers were let go too early.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum TooEarly {
    #[error("nobody who stays holds slot {0}")]
    Orphaned(u32),
    #[error("slot {slot} (epoch {epoch}) still names {peer}")]
    Named { slot: u32, epoch: u64, peer: String },
    #[error("slot {slot} (epoch {epoch}) has only {copies} replicas")]
    Few {
        slot: u32,
        epoch: u64,
        copies: usize,
    },
}

/// What was seen of a leave.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// From how many replicas to how many, each time the StatefulSet was lowered.
    pub lowered: Vec<(i32, i32)>,
    /// Each state of `.status.drain`.
    pub progress: Vec<DrainStatus>,
}

/// Watches until it is told to stop.
#[derive(Debug)]
pub struct Guard {
    watching: JoinHandle<Result<Seen>>,
    stop: watch::Sender<bool>,
}

/// Checks, from the reports of all that stay, that each slot has at least `factor` replicas of which none is, or is
/// about to be, one that departed. The newest configuration counts.
///
/// # Errors
/// The first slot of which that is not true.
pub fn departed_hold_nothing(
    departed: &BTreeSet<String>,
    factor: usize,
    reports: &[LeaveReportResponse],
) -> Result<(), TooEarly> {
    let mut newest = BTreeMap::<u32, &SlotReport>::new();
    for report in reports.iter().flat_map(|r| &r.slots) {
        let known = newest.entry(report.slot).or_insert(report);
        if known.epoch < report.epoch {
            *known = report;
        }
    }
    for slot in 0..SLOTS {
        let SlotReport {
            epoch,
            replicas,
            next,
            ..
        } = newest.get(&slot).ok_or(TooEarly::Orphaned(slot))?;
        if let Some(peer) = replicas
            .iter()
            .chain(next)
            .find(|id| departed.contains(*id))
        {
            return Err(TooEarly::Named {
                slot,
                epoch: *epoch,
                peer: peer.clone(),
            });
        }
        if replicas.len() < factor {
            return Err(TooEarly::Few {
                slot,
                epoch: *epoch,
                copies: replicas.len(),
            });
        }
    }
    Ok(())
}

impl Guard {
    /// Begins to watch a network in which three copies are kept. Whose pods may go is read from the peers now.
    ///
    /// # Errors
    /// A peer does not answer.
    pub async fn start(network: &Arc<Network>) -> Result<Self> {
        let mut identities = BTreeMap::new();
        for peer in network.peers() {
            let me = peer
                .status()
                .await?
                .self_
                .context("a status without a self")?;
            identities.insert(peer.ordinal, me.id);
        }
        let (stop, stopped) = watch::channel(false);
        let watching = tokio::spawn(watch_leave(network.clone(), identities, stopped));
        Ok(Guard { watching, stop })
    }

    /// What was seen.
    ///
    /// # Errors
    /// Somebody was let go too early, or watching failed.
    pub async fn finish(self) -> Result<Seen> {
        self.stop.send_replace(true);
        self.watching.await.context("the guard panicked")?
    }
}

async fn watch_leave(
    network: Arc<Network>,
    identities: BTreeMap<i32, String>,
    mut stopped: watch::Receiver<bool>,
) -> Result<Seen> {
    let mut sets = changes::<StatefulSet>(network.sets.clone(), &network.name);
    let mut resources = changes::<PeerNetwork>(network.resources.clone(), &network.name);
    let mut seen = Seen::default();
    let mut before = identities.len() as i32;
    let mut least_wanted = before;
    loop {
        tokio::select! {
            // In this order, so that what has already happened is judged before the guard stops.
            biased;
            Some(set) = sets.next() => {
                let now = set.spec.and_then(|s| s.replicas).unwrap_or(before);
                if now < before {
                    let departed = (now..before).filter_map(|n| identities.get(&n).cloned());
                    least_wanted = least_wanted.min(network.resource().await?.spec.replicas);
                    ensure!(now >= least_wanted, "lowered to {now}, though {least_wanted} were wanted");
                    judge(&network, now, departed.collect()).await
                        .with_context(|| format!("the StatefulSet was lowered from {before} to {now}"))?;
                    seen.lowered.push((before, now));
                }
                before = now;
            }
            Some(resource) = resources.next() => {
                least_wanted = least_wanted.min(resource.spec.replicas);
                let drain = resource.status.and_then(|s| s.drain);
                seen.progress.extend(drain.filter(|d| seen.progress.last() != Some(d)));
            }
            _ = stopped.changed() => return Ok(seen),
        }
    }
}

async fn judge(network: &Network, stay: i32, departed: BTreeSet<String>) -> Result<()> {
    let reports = eventually("all that stay report", REPORTS, || async {
        let peers = network.peers().into_iter().filter(|p| p.ordinal < stay);
        let mut reports = Vec::new();
        for peer in peers {
            reports.push(
                peer.leave_report(departed.iter().cloned().collect())
                    .await?,
            );
        }
        ensure!(
            reports.len() as i32 == stay,
            "{} of {stay} pods have an address",
            reports.len()
        );
        Ok(reports)
    });
    departed_hold_nothing(&departed, 3, &reports.await?).map_err(|early| anyhow!(early))
}

fn changes<K>(api: Api<K>, name: &str) -> impl Stream<Item = K> + Unpin + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let objects = watcher(api, only).default_backoff().applied_objects();
    // It goes on by itself after an error.
    Box::pin(objects.filter_map(|object| {
        let object = object.inspect_err(|error| eprintln!("  watching: {error}"));
        futures::future::ready(object.ok())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports of peers a, b and c, which hold every slot.
    fn reports() -> Vec<LeaveReportResponse> {
        let slot = |slot| SlotReport {
            slot,
            epoch: 3,
            replicas: ["a", "b", "c"].map(String::from).into(),
            next: vec![],
            synced: true,
        };
        let report = |peer: &str| LeaveReportResponse {
            peer_id: peer.into(),
            slots: (0..SLOTS).map(slot).collect(),
            ..LeaveReportResponse::default()
        };
        ["a", "b", "c"].map(report).into()
    }

    fn judged(change: impl FnOnce(&mut Vec<LeaveReportResponse>)) -> Result<(), TooEarly> {
        let mut reports = reports();
        change(&mut reports);
        departed_hold_nothing(&BTreeSet::from(["x".into()]), 3, &reports)
    }

    #[test]
    fn whoever_holds_nothing_may_go() {
        assert_eq!(judged(|_| {}), Ok(()));
        let old = judged(|r| {
            r[1].slots[7].replicas[2] = "x".into();
            r[1].slots[7].epoch = 2;
        });
        assert_eq!(old, Ok(()), "only the newest configuration counts");
    }

    #[test]
    fn whoever_still_holds_a_slot_may_not() {
        let held = judged(|r| {
            r[2].slots[4095].replicas[0] = "x".into();
            r[2].slots[4095].epoch = 4;
        });
        assert_eq!(
            held,
            Err(TooEarly::Named {
                slot: 4095,
                epoch: 4,
                peer: "x".into()
            })
        );
        let moving = judged(|r| {
            r.iter_mut()
                .for_each(|r| r.slots[0].next = vec!["x".into()])
        });
        assert_eq!(
            moving,
            Err(TooEarly::Named {
                slot: 0,
                epoch: 3,
                peer: "x".into()
            })
        );
    }

    #[test]
    fn a_slot_that_nobody_or_too_few_hold_is_lost() {
        let orphaned = judged(|r| r.iter_mut().for_each(|r| drop(r.slots.remove(9))));
        assert_eq!(orphaned, Err(TooEarly::Orphaned(9)));
        assert_eq!(judged(Vec::clear), Err(TooEarly::Orphaned(0)));
        let few = judged(|r| r.iter_mut().for_each(|r| drop(r.slots[5].replicas.pop())));
        assert_eq!(
            few,
            Err(TooEarly::Few {
                slot: 5,
                epoch: 3,
                copies: 2
            })
        );
    }
}
