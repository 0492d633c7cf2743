//! The verdict on a leave: may this pod go?
//!
//! Whoever lowers the number of peers (the operator, the local runner, the simulator) asks *every* remaining member for
//! a [`Report`] and hands them to [`verdict`], a pure function. Absence of evidence never counts: a slot that nobody
//! reports on, a report that is missing or a receipt that is missing each keep the leaver.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::Slot;
use crate::member::{Liveness, Member, PeerId};
use crate::message::Root;

/// A receiver's word that it durably holds each entry of a leaver's frozen copy of a slot, at that or a newer version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Who goes.
    pub leaver: PeerId,
    /// Its drain epoch; 0 when it was displaced by a join.
    pub drain_epoch: u64,
    /// Which slot.
    pub slot: Slot,
    /// Epoch of the first configuration without the leaver.
    pub epoch: u64,
    /// Root of the frozen copy that the receiver compared with.
    pub root: Root,
    /// Who holds the data now.
    pub receiver: PeerId,
    /// Chunks in the frozen copy.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What one peer can say towards the leaves it was asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Who reports.
    pub peer: PeerId,
    /// Every slot it is a replica of.
    pub slots: Vec<SlotReport>,
    /// One for each leaver asked about.
    pub leavers: Vec<LeaverReport>,
    /// Members as it knows them.
    pub members: Vec<Member>,
    /// Greatest epoch of any slot that it knows of.
    pub greatest_epoch: u64,
}

/// One slot in a [`Report`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotReport {
    /// Which slot.
    pub slot: Slot,
    /// Epoch of the newest committed configuration known to the reporter.
    pub epoch: u64,
    /// Its replicas.
    pub replicas: Vec<PeerId>,
    /// Its replicas to be, while it moves.
    pub next: Option<Vec<PeerId>>,
    /// The reporter has caught up with all other live replicas within this epoch.
    pub synced: bool,
}

/// One leaver in a [`Report`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaverReport {
    /// Who goes.
    pub leaver: PeerId,
    /// The drain epoch known to the reporter.
    pub drain_epoch: u64,
    /// The leaver's own account; only in its own report.
    pub own: Option<LeaverProgress>,
    /// Receipts the reporter has issued for this leaver: number, chunks, bytes.
    pub receipts: (u32, u64, u64),
}

/// A leaver's account of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaverProgress {
    /// Slots it is still a replica of.
    pub held: u32,
    /// Slots it no longer serves but for which receipts are missing.
    pub frozen: u32,
    /// Slots with all receipts.
    pub receipted: u32,
    /// Bytes of chunks in held and frozen slots.
    pub bytes_left: u64,
    /// `Left` is durable on its volume.
    pub left: bool,
    /// What it waits for, a sentence; empty when nothing.
    pub blocker: String,
}

/// What is to happen with a leaver's pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The ring has proved that all it held lives elsewhere: it may go.
    Proved,
    /// It has to stay.
    Stay {
        /// Slots that still name it, are moving or lack proof.
        slots_left: u32,
        /// Bytes it still has to hand over, by its own account.
        bytes_left: u64,
        /// What is being waited for, a sentence naming the peer or slot.
        blocker: String,
    },
}

/// Decides whether `leaver` may go, from the reports of all `remaining` members (those that stay) and of the leaver
/// itself if it answered.
///
/// `reports` holds what was answered, by peer. A remaining member without a report keeps the leaver if a slot depends on
/// it.
pub fn verdict(
    leaver: PeerId,
    remaining: &BTreeSet<PeerId>,
    reports: &BTreeMap<PeerId, Report>,
) -> Verdict {
    verdict_over(Slot::all(), leaver, remaining, reports)
}

/// [`verdict`] of a key space that consists of these slots only: for models, which have one.
pub fn verdict_over(
    slots: impl IntoIterator<Item = Slot>,
    leaver: PeerId,
    remaining: &BTreeSet<PeerId>,
    reports: &BTreeMap<PeerId, Report>,
) -> Verdict {
    let own = reports
        .get(&leaver)
        .and_then(|r| r.leavers.iter().find(|l| l.leaver == leaver)?.own.clone());
    let bytes_left = own.as_ref().map_or(0, |o| o.bytes_left);
    let mut left = 0;
    let mut blocker = None;
    for slot in slots {
        if let Err(reason) = slot_is_proved(slot, leaver, reports) {
            left += 1;
            blocker.get_or_insert(reason);
        }
    }
    match own {
        // A leaver that answers must itself say that it is done.
        Some(own) if !own.left => {
            left = left.max(own.held + own.frozen);
            let silent = own.blocker.is_empty();
            blocker.get_or_insert(if silent {
                "the leaver has not yet written down that it left".into()
            } else {
                own.blocker
            });
        }
        Some(_) => {}
        // One that is dead is judged by the survivors' merged trees, but only once all of them know that it is.
        None => {
            if let Some(reason) = remaining
                .iter()
                .find_map(|id| thinks_alive(leaver, *id, reports))
            {
                blocker.get_or_insert(reason);
            }
        }
    }
    match blocker {
        None => Verdict::Proved,
        Some(blocker) => Verdict::Stay {
            slots_left: left,
            bytes_left,
            blocker,
        },
    }
}

/// Why `peer` does not count the silent `leaver` as gone.
fn thinks_alive(
    leaver: PeerId,
    peer: PeerId,
    reports: &BTreeMap<PeerId, Report>,
) -> Option<String> {
    // Who does not report is caught by the slots that depend on it.
    let member = reports
        .get(&peer)?
        .members
        .iter()
        .find(|m| m.id == leaver)?;
    let alive = member.liveness != Liveness::Down && !member.is_gone();
    alive.then(|| {
        format!(
            "{} does not answer, but is not yet known to be down",
            member.name
        )
    })
}

fn slot_is_proved(
    slot: Slot,
    leaver: PeerId,
    reports: &BTreeMap<PeerId, Report>,
) -> Result<(), String> {
    let find = |peer: &PeerId| {
        let slots = &reports.get(peer)?.slots;
        slots
            .binary_search_by_key(&slot, |s| s.slot)
            .ok()
            .map(|i| &slots[i])
    };
    let newest = reports.keys().filter_map(find).max_by_key(|s| s.epoch);
    let newest = newest.ok_or_else(|| format!("no peer reports on slot {slot}"))?;
    if newest.next.is_some() {
        return Err(format!("slot {slot} is moving"));
    }
    if newest.replicas.contains(&leaver) {
        return Err(format!("slot {slot} is still held by the leaver"));
    }
    for replica in &newest.replicas {
        let report = find(replica)
            .ok_or_else(|| format!("replica {replica} of slot {slot} does not answer"))?;
        if report.epoch != newest.epoch || !report.synced {
            return Err(format!(
                "replica {replica} of slot {slot} has not caught up"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Position;
    use crate::member::Drain;

    const LEAVER: PeerId = PeerId(9);

    fn report(peer: u128, replicas: &[u128], synced: bool, leaver_is: Liveness) -> Report {
        let replicas: Vec<PeerId> = replicas.iter().copied().map(PeerId).collect();
        let slots = Slot::all().map(|slot| SlotReport {
            slot,
            epoch: 4,
            replicas: replicas.clone(),
            next: None,
            synced,
        });
        let leaver = Member {
            id: LEAVER,
            name: "demo-9".into(),
            address: String::new(),
            http: String::new(),
            zone: String::new(),
            position: Position(0),
            incarnation: 1,
            liveness: leaver_is,
            drain: Drain {
                epoch: 1,
                leaving: true,
            },
            version: String::new(),
        };
        Report {
            peer: PeerId(peer),
            slots: slots.collect(),
            leavers: vec![],
            members: vec![leaver],
            greatest_epoch: 4,
        }
    }

    fn judge(reports: Vec<Report>) -> Verdict {
        let remaining = BTreeSet::from([PeerId(1), PeerId(2), PeerId(3)]);
        verdict(
            LEAVER,
            &remaining,
            &reports.into_iter().map(|r| (r.peer, r)).collect(),
        )
    }

    fn three(synced: bool, leaver_is: Liveness) -> Vec<Report> {
        [1, 2, 3]
            .map(|p| report(p, &[1, 2, 3], synced, leaver_is))
            .into()
    }

    #[test]
    fn proved_when_all_survivors_hold_everything_and_know_the_leaver_is_gone() {
        assert_eq!(judge(three(true, Liveness::Left)), Verdict::Proved);
        assert_eq!(judge(three(true, Liveness::Down)), Verdict::Proved);
    }

    #[test]
    fn absence_of_evidence_never_counts() {
        let stays = |reports| matches!(judge(reports), Verdict::Stay { .. });
        assert!(stays(vec![]), "no report at all");
        assert!(
            stays(three(true, Liveness::Left)[..2].to_vec()),
            "one replica is silent"
        );
        let behind = judge(three(false, Liveness::Left));
        let all = u32::from(crate::key::SLOTS);
        assert!(matches!(behind, Verdict::Stay { slots_left, .. } if slots_left == all));
        assert!(
            stays(three(true, Liveness::Active)),
            "silent, but thought to be alive"
        );
        assert!(
            stays(
                [1, 2, 3]
                    .map(|p| report(p, &[1, 2, 9], true, Liveness::Left))
                    .into()
            ),
            "still holds slots"
        );
        let mut hole = three(true, Liveness::Left);
        hole.iter_mut()
            .for_each(|r| r.slots.retain(|s| s.slot.number() != 17));
        assert!(stays(hole), "a slot nobody reports on");
    }

    #[test]
    fn a_live_leaver_must_say_itself_that_it_left() {
        let mut reports = three(true, Liveness::Left);
        let own = LeaverProgress {
            frozen: 2,
            ..LeaverProgress::default()
        };
        let own = LeaverReport {
            leaver: LEAVER,
            drain_epoch: 1,
            own: Some(own),
            receipts: (0, 0, 0),
        };
        reports.push(Report {
            peer: LEAVER,
            slots: vec![],
            leavers: vec![own],
            members: vec![],
            greatest_epoch: 4,
        });
        assert!(matches!(
            judge(reports.clone()),
            Verdict::Stay { slots_left: 2, .. }
        ));
        reports[3].leavers[0].own.as_mut().unwrap().left = true;
        assert_eq!(judge(reports), Verdict::Proved);
    }
}
