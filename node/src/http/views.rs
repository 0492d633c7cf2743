//! The registry and this peer's status as JSON, and the probes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use peernet_core::io::Status;
use peernet_core::member::Member;
use peernet_proto::v1::{self, PeerState};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{Object, Ref, Schema};

use super::problem::Problem;
use crate::daemon::{Life, Running};
use crate::registry::Entry;
use crate::wire::{Disk, peer_info};

/// A peer, as the asked peer knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[schema(as = Peer)]
pub(super) struct PeerView {
    /// Identity, 32 hex digits; new whenever the peer starts from an empty or departed volume.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    id: String,
    /// The pod's or process's name.
    #[schema(examples("demo-3"))]
    name: String,
    /// `host:port` for gRPC.
    address: String,
    /// `host:port` for REST.
    http_address: String,
    /// Failure domain.
    zone: String,
    /// Place on the ring, 0 to 2^64-1; text, since JavaScript's numbers lose their last digits.
    #[schema(pattern = "^[0-9]{1,20}$")]
    position: String,
    /// One of unknown, joining, active, suspect, down, leaving and left.
    #[schema(examples("active"))]
    state: &'static str,
    /// It was told to leave.
    leaving: bool,
    /// Of its program.
    version: String,
    /// When it came into its state, in milliseconds since 1970, as the asked peer noticed and by its clock; left out where
    /// that is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    since_unix_ms: Option<u64>,
}

impl PeerView {
    /// One of the registry, which says since when.
    pub(super) fn of(running: &Running, (member, since): &Entry) -> Self {
        PeerView {
            since_unix_ms: Some(running.origin_unix_ms + since.0),
            ..PeerView::from(member)
        }
    }
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
            since_unix_ms: None,
        }
    }
}

/// The registry.
#[derive(Serialize, ToSchema)]
#[schema(as = Peers)]
pub(super) struct PeersView {
    /// In ring order.
    peers: Vec<PeerView>,
}

/// Lists the peers
///
/// The registry, as this peer knows it.
#[utoipa::path(
    get,
    path = "/v1/peers",
    operation_id = "listPeers",
    tag = "peers",
    responses(
        (status = 200, body = PeersView, description = "All members, and those that have left lately"),
        (status = 503, response = Problem),
    )
)]
pub(super) async fn peers(State(life): State<Arc<Life>>) -> Result<Json<PeersView>, Problem> {
    let running = life.member()?;
    let registry = running.peer.registry().await?;
    let peers = registry.iter().map(|entry| PeerView::of(&running, entry));
    Ok(Json(PeersView {
        peers: peers.collect(),
    }))
}

/// What a peer knows of itself; what only a member has is left out before it is one.
#[derive(Serialize, ToSchema)]
#[schema(as = Status)]
pub(super) struct StatusView {
    /// Member of the ring, and caught up since its start.
    ready: bool,
    /// Why it is not ready; empty when it is.
    reason: String,
    /// Bytes.
    disk_free: u64,
    /// Bytes.
    disk_total: u64,
    /// Writes are refused because the disk is too full.
    disk_full: bool,
    /// When it acknowledges that it has stored something: `synced`, once its disk has it, or `written`, once its operating
    /// system has it.
    durability: String,
    /// Whether it compresses the chunks of files whose clients do not say: `never`, or `auto`, where it pays.
    compression: String,
    load: LoadView,
    #[serde(flatten)]
    #[schema(schema_with = only_of_a_member)]
    member: Option<MemberStatusView>,
}

/// What goes on at a peer now.
#[derive(Serialize, ToSchema)]
#[schema(as = Load)]
pub(super) struct LoadView {
    /// Over HTTP.
    http_connections: u64,
    /// Over gRPC, those of other peers included.
    grpc_connections: u64,
    /// Of uploads, in memory.
    upload_bytes: u64,
    /// Of downloads, in memory.
    download_bytes: u64,
}

impl From<v1::Load> for LoadView {
    fn from(load: v1::Load) -> Self {
        let v1::Load {
            http_connections,
            grpc_connections,
            upload_bytes,
            download_bytes,
        } = load;
        LoadView {
            http_connections,
            grpc_connections,
            upload_bytes,
            download_bytes,
        }
    }
}

/// All of it or nothing: flattened, an `Option` has no schema of its own.
fn only_of_a_member() -> Schema {
    let member = Ref::from_schema_name("MemberStatus");
    AnyOfBuilder::new().item(member).item(Object::new()).into()
}

/// What a member of a ring knows of itself.
#[derive(Serialize, ToSchema)]
#[schema(as = MemberStatus)]
pub(super) struct MemberStatusView {
    /// UUID of the network.
    network_id: String,
    /// Itself in the registry.
    #[serde(rename = "self")]
    myself: PeerView,
    /// Slots whose records and chunks it holds.
    slots_held: u32,
    /// Those not yet caught up with their other replicas.
    slots_behind: u32,
    /// Those whose configuration is moving.
    slots_moving: u32,
    /// Chunks on its disk.
    chunks_held: u64,
    /// Their bytes.
    bytes_held: u64,
    /// Chunks known to be missing here and being fetched.
    chunks_missing: u64,
    /// Identity of the member before it on the ring.
    predecessor: Option<String>,
    /// Identities of those after it.
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

/// Tells this peer's status
///
/// Also answered by a peer that waits for its network, or has left it.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    tag = "peers",
    responses((status = 200, body = StatusView, description = "What the peer knows of itself"))
)]
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
        durability: life.setup().durability.to_string(),
        compression: life.setup().compression.to_string(),
        load: life.load().into(),
        member,
    })
}

/// Tells whether the process serves
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "alive",
    tag = "probes",
    responses((status = 200, body = str, content_type = "text/plain", description = "It does"))
)]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Tells whether the peer is ready
///
/// It is a member of the ring and has caught up since its start.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "ready",
    tag = "probes",
    responses(
        (status = 200, body = str, content_type = "text/plain", description = "It is"),
        (status = 503, response = Problem),
    )
)]
pub(super) async fn ready(State(life): State<Arc<Life>>) -> Result<&'static str, Problem> {
    let status = life.status().await?;
    if status.ready {
        Ok("ready\n")
    } else {
        Err(Problem::unavailable(status.reason))
    }
}
