//! The registry and this peer's status as JSON, and the probes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use peernet_core::io::Status;
use peernet_core::member::Member;
use peernet_proto::v1::PeerState;
use serde::Serialize;

use super::problem::Problem;
use crate::daemon::Life;
use crate::wire::{Disk, peer_info};

/// A peer as JSON. Positions are text, since JavaScript's numbers lose their last digits.
#[derive(Serialize)]
pub(super) struct PeerView {
    id: String,
    name: String,
    address: String,
    http_address: String,
    zone: String,
    position: String,
    state: &'static str,
    leaving: bool,
    version: String,
}

impl From<&Member> for PeerView {
    fn from(member: &Member) -> Self {
        let info = peer_info(member);
        let state = match info.state() {
            PeerState::Unspecified => "unknown",
            PeerState::Joining => "joining",
            PeerState::Active => "active",
            PeerState::Suspect => "suspect",
            PeerState::Down => "down",
            PeerState::Leaving => "leaving",
            PeerState::Left => "left",
        };
        PeerView {
            id: info.id,
            name: info.name,
            address: info.address,
            http_address: info.http_address,
            zone: info.zone,
            position: info.position.to_string(),
            state,
            leaving: info.leaving,
            version: info.version,
        }
    }
}

/// The registry as JSON.
#[derive(Serialize)]
pub(super) struct PeersView {
    peers: Vec<PeerView>,
}

/// `GET /v1/peers`, in ring order.
pub(super) async fn peers(State(life): State<Arc<Life>>) -> Result<Json<PeersView>, Problem> {
    let members = life.member()?.peer.members().await?;
    Ok(Json(PeersView {
        peers: members.iter().map(PeerView::from).collect(),
    }))
}

/// A peer's status as JSON; what only a member has is left out before it is one.
#[derive(Serialize)]
pub(super) struct StatusView {
    ready: bool,
    reason: String,
    disk_free: u64,
    disk_total: u64,
    disk_full: bool,
    #[serde(flatten)]
    member: Option<MemberStatusView>,
}

#[derive(Serialize)]
struct MemberStatusView {
    network_id: String,
    #[serde(rename = "self")]
    myself: PeerView,
    slots_held: u32,
    slots_behind: u32,
    slots_moving: u32,
    chunks_held: u64,
    bytes_held: u64,
    chunks_missing: u64,
    predecessor: Option<String>,
    successors: Vec<String>,
}

impl From<Status> for MemberStatusView {
    fn from(status: Status) -> Self {
        MemberStatusView {
            network_id: status.network,
            myself: PeerView::from(&status.member),
            slots_held: status.slots_held,
            slots_behind: status.slots_behind,
            slots_moving: status.slots_moving,
            chunks_held: status.chunks.0,
            bytes_held: status.chunks.1,
            chunks_missing: status.chunks_missing,
            predecessor: status.predecessor.map(|id| id.to_string()),
            successors: status.successors.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `GET /v1/status`: also answered by a peer that waits for its network, or has left it.
pub(super) async fn status(State(life): State<Arc<Life>>) -> Json<StatusView> {
    let Disk { free, total, full } = life.disk();
    let (ready, reason, member) = match life.status().await {
        Ok(status) => (status.ready, status.reason.clone(), Some(status.into())),
        Err(reason) => (false, reason.to_string(), None),
    };
    Json(StatusView {
        ready,
        reason,
        disk_free: free,
        disk_total: total,
        disk_full: full,
        member,
    })
}

/// `GET /healthz`: the process serves.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the peer is a member of the ring and has caught up since its start.
pub(super) async fn ready(State(life): State<Arc<Life>>) -> Result<&'static str, Problem> {
    let status = life.status().await?;
    if status.ready {
        Ok("ready\n")
    } else {
        Err(Problem::unavailable(status.reason))
    }
}
