//! From the wire's messages to the core's nouns; done once, at the edge, so that nothing behind it meets a malformed one.

use peernet_core::key::{Position, Slot};
use peernet_core::leave::{LeaverProgress, LeaverReport, Report, SlotReport};
use peernet_core::member::{Drain, Hint, InvalidPeerId, Liveness, Member, PeerId};
use peernet_core::recover::Recovery;
use peernet_proto::v1;
use thiserror::Error;

/// A message that no peer of this version would send.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Not an identity.
    #[error(transparent)]
    Id(#[from] InvalidPeerId),
    /// A slot number beyond the last.
    #[error("there is no slot {0}")]
    Slot(u32),
    /// A part that every message of the kind has.
    #[error("the message lacks {0}")]
    Missing(&'static str),
}

/// A member as another peer knows it.
pub fn member(info: v1::PeerInfo) -> Result<Member, Malformed> {
    let state = info.state();
    let v1::PeerInfo {
        id,
        name,
        address,
        http_address,
        zone,
        position,
        state: _,
        incarnation,
        drain_epoch,
        leaving,
        version,
        since_unix_ms: _,
    } = info;
    Ok(Member {
        id: id.parse()?,
        name,
        address,
        http: http_address,
        zone,
        position: Position(position),
        incarnation,
        liveness: liveness(state)?,
        drain: Drain {
            epoch: drain_epoch,
            leaving,
        },
        version,
    })
}

/// A leaving peer is active in every other respect.
fn liveness(state: v1::PeerState) -> Result<Liveness, Malformed> {
    match state {
        v1::PeerState::Joining => Ok(Liveness::Joining),
        v1::PeerState::Active | v1::PeerState::Leaving => Ok(Liveness::Active),
        v1::PeerState::Suspect => Ok(Liveness::Suspect),
        v1::PeerState::Down => Ok(Liveness::Down),
        v1::PeerState::Left => Ok(Liveness::Left),
        v1::PeerState::Unspecified => Err(Malformed::Missing("a member's state")),
    }
}

/// What one peer can say towards the leaves it was asked about.
pub fn report(response: v1::LeaveReportResponse) -> Result<Report, Malformed> {
    let v1::LeaveReportResponse {
        peer_id,
        slots,
        leavers,
        members,
        greatest_epoch,
    } = response;
    let mut slots = slots
        .into_iter()
        .map(slot_report)
        .collect::<Result<Vec<_>, _>>()?;
    // The verdict looks slots up by bisection.
    slots.sort_by_key(|s| s.slot);
    Ok(Report {
        peer: peer_id.parse()?,
        slots,
        leavers: leavers
            .into_iter()
            .map(leaver_report)
            .collect::<Result<_, _>>()?,
        members: members.into_iter().map(member).collect::<Result<_, _>>()?,
        greatest_epoch,
    })
}

fn slot_report(report: v1::SlotReport) -> Result<SlotReport, Malformed> {
    let v1::SlotReport {
        slot,
        epoch,
        replicas,
        next,
        synced,
    } = report;
    let number = u16::try_from(slot).ok().and_then(Slot::new);
    Ok(SlotReport {
        slot: number.ok_or(Malformed::Slot(slot))?,
        epoch,
        replicas: ids(&replicas)?,
        next: if next.is_empty() {
            None
        } else {
            Some(ids(&next)?)
        },
        synced,
    })
}

fn leaver_report(report: v1::LeaverReport) -> Result<LeaverReport, Malformed> {
    let v1::LeaverReport {
        leaver_id,
        drain_epoch,
        own,
        receipts_issued,
        receipt_chunks,
        receipt_bytes,
    } = report;
    let own = own.map(|own| {
        let v1::LeaverProgress {
            slots_held,
            slots_frozen,
            slots_receipted,
            bytes_left,
            left,
            blocker,
        } = own;
        LeaverProgress {
            held: slots_held,
            frozen: slots_frozen,
            receipted: slots_receipted,
            bytes_left,
            left,
            blocker,
        }
    });
    Ok(LeaverReport {
        leaver: leaver_id.parse()?,
        drain_epoch,
        own,
        receipts: (receipts_issued, receipt_chunks, receipt_bytes),
    })
}

/// A hint as peers take it.
pub fn hint(peer: PeerId, hint: Hint) -> v1::PeerHint {
    let kind = match hint {
        Hint::Gone => v1::peer_hint::Kind::Gone,
        Hint::Back => v1::peer_hint::Kind::Back,
    };
    v1::PeerHint {
        peer_id: peer.to_string(),
        kind: kind.into(),
    }
}

/// A recovery as peers take it.
pub fn recover_request(recovery: &Recovery) -> v1::RecoverRequest {
    let Recovery { gone, configs } = recovery;
    let texts = |ids: &[PeerId]| ids.iter().map(PeerId::to_string).collect();
    let slots = configs.iter().map(|(slot, config)| v1::RecoveredSlot {
        slot: slot.number().into(),
        epoch: config.epoch,
        replicas: texts(&config.replicas),
    });
    v1::RecoverRequest {
        gone: texts(gone),
        slots: slots.collect(),
    }
}

fn ids(texts: &[String]) -> Result<Vec<PeerId>, Malformed> {
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_sorted_and_typed() {
        let slot = |slot: u32| v1::SlotReport {
            slot,
            epoch: 2,
            replicas: vec![PeerId(7).to_string()],
            next: vec![],
            synced: true,
        };
        let response = v1::LeaveReportResponse {
            peer_id: PeerId(7).to_string(),
            slots: vec![slot(9), slot(1)],
            leavers: vec![],
            members: vec![],
            greatest_epoch: 2,
        };
        let report = report(response).unwrap();
        let numbers: Vec<u16> = report.slots.iter().map(|s| s.slot.number()).collect();
        assert_eq!(numbers, [1, 9]);
        assert_eq!(report.slots[0].next, None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            slot_report(v1::SlotReport {
                slot: 4096,
                ..Default::default()
            }),
            Err(Malformed::Slot(4096))
        );
        assert!(matches!(
            member(v1::PeerInfo::default()),
            Err(Malformed::Id(_))
        ));
    }
}
