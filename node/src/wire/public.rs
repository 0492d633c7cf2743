//! What operators and clients see of peers, slots and leaves: identities are hex digits there.

use std::collections::HashMap;

use peernet_core::io::{Endpoint, Route, Status};
use peernet_core::key::{Key, Position, Slot};
use peernet_core::leave::{LeaverProgress, LeaverReport, Report, SlotReport};
use peernet_core::member::{Drain, Hint, Liveness, Member, PeerId};
use peernet_core::recover::Recovery;
use peernet_core::slot::SlotConfig;
use peernet_proto::v1;

use crate::config::Compression;
use crate::disk::{Durability, Encoding};
use crate::files::Consistency;

use super::{Fault, REPLICAS_MAX, Wire, WireError, count, counted, distinct, text};

/// A peer's disk as its status shows it; bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Disk {
    /// Free for an unprivileged process.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
    /// Writes are refused.
    pub full: bool,
}

/// A member as the registry shows it.
pub fn peer_info(member: &Member) -> v1::PeerInfo {
    let Member {
        id,
        name,
        address,
        http,
        zone,
        position,
        incarnation,
        liveness,
        drain,
        version,
    } = member;
    let state = match liveness {
        Liveness::Joining => v1::PeerState::Joining,
        Liveness::Active if drain.leaving => v1::PeerState::Leaving,
        Liveness::Active => v1::PeerState::Active,
        Liveness::Suspect => v1::PeerState::Suspect,
        Liveness::Down => v1::PeerState::Down,
        Liveness::Retired | Liveness::Left => v1::PeerState::Left,
    };
    v1::PeerInfo {
        id: id.to_string(),
        name: name.clone(),
        address: address.clone(),
        http_address: http.clone(),
        zone: zone.clone(),
        position: position.0,
        state: state.into(),
        incarnation: *incarnation,
        drain_epoch: drain.epoch,
        leaving: drain.leaving,
        version: version.clone(),
        since_unix_ms: 0,
    }
}

/// The member behind an entry of the registry.
pub fn member_from_info(info: v1::PeerInfo) -> Result<Member, WireError> {
    let liveness = match v1::PeerState::try_from(info.state) {
        Ok(v1::PeerState::Joining) => Liveness::Joining,
        Ok(v1::PeerState::Active | v1::PeerState::Leaving) => Liveness::Active,
        Ok(v1::PeerState::Suspect) => Liveness::Suspect,
        Ok(v1::PeerState::Down) => Liveness::Down,
        Ok(v1::PeerState::Left) => Liveness::Left,
        Ok(v1::PeerState::Unspecified) | Err(_) => {
            return Err(Fault::Unknown(info.state).at("PeerInfo.state"));
        }
    };
    counted(info.incarnation, 0, "PeerInfo.incarnation")?;
    counted(info.drain_epoch, 0, "PeerInfo.drain_epoch")?;
    let text = |value, field| text(value).map_err(|fault| fault.at(field));
    Ok(Member {
        id: peer_id(&info.id, "PeerInfo.id")?,
        name: text(info.name, "PeerInfo.name")?,
        address: text(info.address, "PeerInfo.address")?,
        http: text(info.http_address, "PeerInfo.http_address")?,
        zone: text(info.zone, "PeerInfo.zone")?,
        position: Position(info.position),
        incarnation: info.incarnation,
        liveness,
        drain: Drain {
            epoch: info.drain_epoch,
            leaving: info.leaving,
        },
        version: text(info.version, "PeerInfo.version")?,
    })
}

impl From<Durability> for v1::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Synced => v1::Durability::Synced,
            Durability::Written => v1::Durability::Written,
        }
    }
}

impl From<Encoding> for v1::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Plain => v1::Encoding::Unspecified,
            Encoding::Zstd => v1::Encoding::Zstd,
        }
    }
}

/// How the bytes of a chunk are written, if it is known here.
pub(crate) fn encoding_of(wire: i32) -> Option<Encoding> {
    match v1::Encoding::try_from(wire).ok()? {
        v1::Encoding::Unspecified => Some(Encoding::Plain),
        v1::Encoding::Zstd => Some(Encoding::Zstd),
    }
}

impl From<Compression> for v1::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Never => v1::Compression::Never,
            Compression::Auto => v1::Compression::Auto,
        }
    }
}

/// What a client says of compression; nothing where it leaves that to the network, or says what is not known here.
pub(crate) fn compression_of(wire: i32) -> Option<Compression> {
    match v1::Compression::try_from(wire).unwrap_or_default() {
        v1::Compression::Unspecified => None,
        v1::Compression::Never => Some(Compression::Never),
        v1::Compression::Auto => Some(Compression::Auto),
    }
}

/// Whose word a read takes; a majority's where the client says what is not known here.
pub(crate) fn consistency_of(wire: i32) -> Consistency {
    match v1::Consistency::try_from(wire).unwrap_or_default() {
        v1::Consistency::Unspecified | v1::Consistency::Quorum => Consistency::Quorum,
        v1::Consistency::One => Consistency::One,
    }
}

/// What one peer says of itself.
pub fn status_response(status: &Status, disk: Disk) -> v1::StatusResponse {
    let Status {
        network,
        member,
        ready,
        reason,
        slots_held,
        slots_behind,
        slots_moving,
        chunks: (chunks_held, bytes_held),
        chunks_missing,
        predecessor,
        successors,
    } = status;
    v1::StatusResponse {
        network_id: network.clone(),
        self_: Some(peer_info(member)),
        ready: *ready,
        reason: reason.clone(),
        slots_held: *slots_held,
        slots_behind: *slots_behind,
        slots_moving: *slots_moving,
        chunks_held: *chunks_held,
        bytes_held: *bytes_held,
        chunks_missing: *chunks_missing,
        predecessor: predecessor.map(|id| id.to_string()).unwrap_or_default(),
        successors: hex(successors),
        disk_free: disk.free,
        disk_total: disk.total,
        disk_full: disk.full,
        broker: None,
        load: None,
        durability: v1::Durability::Unspecified.into(),
        compression: v1::Compression::Unspecified.into(),
    }
}

/// Keys in one lookup.
const KEYS_MAX: usize = 1_024;

/// The slots of the keys in a lookup.
pub fn looked_up(request: v1::LookupRequest) -> Result<Vec<Slot>, WireError> {
    count(request.keys.len(), 1, KEYS_MAX, "LookupRequest.keys")?;
    let slot = |key| Ok(Key::from_wire(key, "LookupRequest.keys")?.slot());
    request.keys.into_iter().map(slot).collect()
}

/// The answer to a lookup, with every holder once.
pub fn lookup_response(routes: Vec<Route>) -> v1::LookupResponse {
    let mut places: HashMap<PeerId, u32> = HashMap::new();
    let mut response = v1::LookupResponse::default();
    for Route {
        slot,
        config,
        holders,
    } in routes
    {
        let place = |holder: Endpoint| {
            let known = &mut response.holders;
            *places.entry(holder.id).or_insert_with(|| {
                let place = known.len() as u32;
                known.push(v1::Holder {
                    id: holder.id.to_string(),
                    name: holder.name,
                    address: holder.address,
                    up: holder.up,
                });
                place
            })
        };
        let holders = holders.into_iter().map(place).collect();
        response.located.push(v1::Located {
            slot: slot.to_wire(),
            epoch: config.map_or(0, |c| c.epoch),
            holders,
        });
    }
    response
}

/// Orders as the core takes them: identity, epoch, leaving.
pub fn drain_orders(request: v1::DrainRequest) -> Result<Vec<(PeerId, u64, bool)>, WireError> {
    let order = |v1::DrainOrder {
                     peer_id: id,
                     epoch,
                     leaving,
                 }| {
        counted(epoch, 1, "DrainOrder.epoch")?;
        Ok((peer_id(&id, "DrainOrder.peer_id")?, epoch, leaving))
    };
    request.orders.into_iter().map(order).collect()
}

/// What is said of processes, as the core takes it.
pub fn hints(request: v1::HintRequest) -> Result<Vec<(PeerId, Hint)>, WireError> {
    let hint = |v1::PeerHint { peer_id: id, kind }| {
        let hint = match v1::peer_hint::Kind::try_from(kind) {
            Ok(v1::peer_hint::Kind::Gone) => Hint::Gone,
            Ok(v1::peer_hint::Kind::Back) => Hint::Back,
            Ok(v1::peer_hint::Kind::Unspecified) | Err(_) => {
                return Err(Fault::Unknown(kind).at("PeerHint.kind"));
            }
        };
        Ok((peer_id(&id, "PeerHint.peer_id")?, hint))
    };
    request.hints.into_iter().map(hint).collect()
}

/// A recovery as the core takes it.
pub fn recovery(request: v1::RecoverRequest) -> Result<Recovery, WireError> {
    let v1::RecoverRequest { gone, slots } = request;
    let slots = slots.into_iter().map(|form| {
        let v1::RecoveredSlot {
            slot,
            epoch,
            replicas,
        } = form;
        counted(epoch, 1, "RecoveredSlot.epoch")?;
        let replicas = peer_ids(&replicas, "RecoveredSlot.replicas")?;
        distinct(&replicas, 1, REPLICAS_MAX, "RecoveredSlot.replicas")?;
        let config = SlotConfig {
            epoch,
            replicas,
            next: None,
        };
        Ok((Slot::from_wire(slot, "RecoveredSlot.slot")?, config))
    });
    Ok(Recovery {
        gone: peer_ids(&gone, "RecoverRequest.gone")?,
        configs: slots.collect::<Result<_, _>>()?,
    })
}

/// A recovery as it is asked of a peer.
pub fn recover_request(recovery: &Recovery) -> v1::RecoverRequest {
    let Recovery { gone, configs } = recovery;
    let slot = |(slot, config): &(Slot, SlotConfig)| v1::RecoveredSlot {
        slot: slot.to_wire(),
        epoch: config.epoch,
        replicas: hex(&config.replicas),
    };
    v1::RecoverRequest {
        gone: hex(gone),
        slots: configs.iter().map(slot).collect(),
    }
}

/// Identities in a request.
pub fn peer_ids(ids: &[String], field: &'static str) -> Result<Vec<PeerId>, WireError> {
    ids.iter().map(|id| peer_id(id, field)).collect()
}

/// A report as operators get it.
pub fn report_response(report: &Report) -> v1::LeaveReportResponse {
    let Report {
        peer,
        slots,
        leavers,
        members,
        greatest_epoch,
    } = report;
    v1::LeaveReportResponse {
        peer_id: peer.to_string(),
        slots: slots.iter().map(slot_report_form).collect(),
        leavers: leavers.iter().map(leaver_report_form).collect(),
        members: members.iter().map(peer_info).collect(),
        greatest_epoch: *greatest_epoch,
    }
}

/// The report behind a response.
pub fn report(response: v1::LeaveReportResponse) -> Result<Report, WireError> {
    let v1::LeaveReportResponse {
        peer_id: peer,
        slots,
        leavers,
        members,
        greatest_epoch,
    } = response;
    counted(greatest_epoch, 0, "LeaveReportResponse.greatest_epoch")?;
    let slots: Vec<SlotReport> = slots
        .into_iter()
        .map(slot_report)
        .collect::<Result<_, _>>()?;
    if !slots.is_sorted_by(|a, b| a.slot < b.slot) {
        return Err(Fault::Unordered.at("LeaveReportResponse.slots"));
    }
    Ok(Report {
        peer: peer_id(&peer, "LeaveReportResponse.peer_id")?,
        slots,
        leavers: leavers
            .into_iter()
            .map(leaver_report)
            .collect::<Result<_, _>>()?,
        members: members
            .into_iter()
            .map(member_from_info)
            .collect::<Result<_, _>>()?,
        greatest_epoch,
    })
}

fn slot_report_form(report: &SlotReport) -> v1::SlotReport {
    let SlotReport {
        slot,
        epoch,
        replicas,
        next,
        synced,
    } = report;
    v1::SlotReport {
        slot: slot.to_wire(),
        epoch: *epoch,
        replicas: hex(replicas),
        next: hex(next.as_deref().unwrap_or_default()),
        synced: *synced,
    }
}

fn slot_report(form: v1::SlotReport) -> Result<SlotReport, WireError> {
    let v1::SlotReport {
        slot,
        epoch,
        replicas,
        next,
        synced,
    } = form;
    counted(epoch, 1, "SlotReport.epoch")?;
    let replicas = peer_ids(&replicas, "SlotReport.replicas")?;
    distinct(&replicas, 1, REPLICAS_MAX, "SlotReport.replicas")?;
    let next = peer_ids(&next, "SlotReport.next")?;
    distinct(&next, 0, REPLICAS_MAX, "SlotReport.next")?;
    Ok(SlotReport {
        slot: Slot::from_wire(slot, "SlotReport.slot")?,
        epoch,
        replicas,
        next: (!next.is_empty()).then_some(next),
        synced,
    })
}

fn leaver_report_form(report: &LeaverReport) -> v1::LeaverReport {
    let LeaverReport {
        leaver,
        drain_epoch,
        own,
        receipts: (issued, chunks, bytes),
    } = report;
    v1::LeaverReport {
        leaver_id: leaver.to_string(),
        drain_epoch: *drain_epoch,
        own: own.as_ref().map(|own| {
            let LeaverProgress {
                held,
                frozen,
                receipted,
                bytes_left,
                left,
                blocker,
            } = own;
            v1::LeaverProgress {
                slots_held: *held,
                slots_frozen: *frozen,
                slots_receipted: *receipted,
                bytes_left: *bytes_left,
                left: *left,
                blocker: blocker.clone(),
            }
        }),
        receipts_issued: *issued,
        receipt_chunks: *chunks,
        receipt_bytes: *bytes,
    }
}

fn leaver_report(form: v1::LeaverReport) -> Result<LeaverReport, WireError> {
    let v1::LeaverReport {
        leaver_id,
        drain_epoch,
        own,
        receipts_issued,
        receipt_chunks,
        receipt_bytes,
    } = form;
    counted(drain_epoch, 0, "LeaverReport.drain_epoch")?;
    let own = own.map(|own| {
        let v1::LeaverProgress {
            slots_held,
            slots_frozen,
            slots_receipted,
            bytes_left,
            left,
            blocker,
        } = own;
        let blocker = text(blocker).map_err(|fault| fault.at("LeaverProgress.blocker"))?;
        Ok(LeaverProgress {
            held: slots_held,
            frozen: slots_frozen,
            receipted: slots_receipted,
            bytes_left,
            left,
            blocker,
        })
    });
    Ok(LeaverReport {
        leaver: peer_id(&leaver_id, "LeaverReport.leaver_id")?,
        drain_epoch,
        own: own.transpose()?,
        receipts: (receipts_issued, receipt_chunks, receipt_bytes),
    })
}

fn peer_id(id: &str, field: &'static str) -> Result<PeerId, WireError> {
    id.parse().map_err(|fault| Fault::PeerId(fault).at(field))
}

fn hex(ids: &[PeerId]) -> Vec<String> {
    ids.iter().map(PeerId::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_names_each_holder_once_and_has_bounds() {
        let ask = |keys: Vec<Vec<u8>>| {
            let keys = keys.into_iter().map(Into::into).collect();
            looked_up(v1::LookupRequest { keys })
        };
        for bad in [vec![], vec![vec![0; 31]], vec![vec![0; 32]; KEYS_MAX + 1]] {
            assert_eq!(ask(bad).unwrap_err().field, "LookupRequest.keys");
        }
        let slots = ask(vec![vec![0; 32]; KEYS_MAX]).unwrap();
        assert_eq!(slots.len(), KEYS_MAX);
        let holder = |n: u128| Endpoint {
            id: PeerId(n),
            name: format!("p-{n}"),
            address: format!("127.0.0.1:{n}"),
            up: n != 2,
        };
        let route = |holders: [u128; 2]| Route {
            slot: slots[0],
            config: None,
            holders: holders.map(holder).into(),
        };
        let answer = lookup_response(vec![route([1, 2]), route([2, 3])]);
        let places: Vec<&[u32]> = answer.located.iter().map(|l| &l.holders[..]).collect();
        assert_eq!(places, [[0, 1], [1, 2]]);
        let known: Vec<(&str, bool)> = answer.holders.iter().map(|h| (&h.name[..], h.up)).collect();
        assert_eq!(known, [("p-1", true), ("p-2", false), ("p-3", true)]);
        assert_eq!(answer.located[0].epoch, 0, "no configuration is known");
    }
}
