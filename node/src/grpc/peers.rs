//! `Peers`: the registry, and what this peer knows of itself.

use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use peernet_proto::v1;
use tonic::{Request, Response, Status};

use super::status::{crowded, not_serving, of_peer, of_wire};
use crate::daemon::{Life, NotServing, Remembered, Running};
use crate::driver::PeerError;
use crate::registry::{Entry, Listener};
use crate::wire::{looked_up, lookup_response, peer_info, status_response};

pub(super) struct Peers {
    life: Arc<Life>,
}

impl Peers {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Peers { life }
    }
}

#[tonic::async_trait]
impl v1::peers_server::Peers for Peers {
    async fn list(
        &self,
        _: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        let peers = registry(&running).await.map_err(of_peer)?;
        Ok(Response::new(v1::ListPeersResponse { peers }))
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchPeersResponse, Status>>;

    async fn watch(
        &self,
        _: Request<v1::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        let listener = Listener::new(self.life.clone(), running).map_err(crowded)?;
        Ok(Response::new(told(listener).boxed()))
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let response = match self.life.status().await {
            Ok(status) => status_response(&status, self.life.disk()),
            Err(reason) => not_in_service(&self.life, reason),
        };
        let link = self.life.member().ok().and_then(|r| r.broker.now());
        let broker = link.map(|now| v1::Broker {
            connected: now.is_ok(),
            reason: now.err().unwrap_or_default(),
        });
        Ok(Response::new(v1::StatusResponse {
            broker,
            load: Some(self.life.load()),
            durability: v1::Durability::from(self.life.setup().durability).into(),
            compression: v1::Compression::from(self.life.setup().compression).into(),
            ..response
        }))
    }

    async fn lookup(
        &self,
        request: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        let slots = looked_up(request.into_inner()).map_err(of_wire)?;
        let running = self.life.member().map_err(not_serving)?;
        let routes = running.peer.routes(slots).await.map_err(of_peer)?;
        Ok(Response::new(lookup_response(routes)))
    }
}

/// Everybody, as this peer knows them.
async fn registry(running: &Running) -> Result<Vec<v1::PeerInfo>, PeerError> {
    let entries = running.peer.registry().await?;
    Ok(infos(running, entries))
}

fn infos(running: &Running, entries: Vec<Entry>) -> Vec<v1::PeerInfo> {
    let info = |(member, since): Entry| v1::PeerInfo {
        since_unix_ms: running.origin_unix_ms + since.0,
        ..peer_info(&member)
    };
    entries.into_iter().map(info).collect()
}

/// What a listener hears, and in the end why there is no more.
fn told(listener: Listener) -> impl Stream<Item = Result<v1::WatchPeersResponse, Status>> {
    stream::unfold(Some(listener), async |listener| {
        let mut listener = listener?;
        let Some(entries) = listener.next().await else {
            let stopping = Status::unavailable("this peer is stopping; watch another one");
            return Some((Err(stopping), None));
        };
        let peers = infos(listener.running(), entries);
        Some((Ok(v1::WatchPeersResponse { peers }), Some(listener)))
    })
}

/// The status of a peer that has none of its own.
fn not_in_service(life: &Life, reason: NotServing) -> v1::StatusResponse {
    let disk = life.disk();
    let (network_id, member) = match life.remembered() {
        Remembered::Before(identity) => (identity.network, Some(peer_info(&identity.member))),
        Remembered::Now(running) => (running.network.clone(), None),
        Remembered::Nothing => (String::new(), None),
    };
    v1::StatusResponse {
        network_id,
        self_: member,
        reason: reason.to_string(),
        disk_free: disk.free,
        disk_total: disk.total,
        disk_full: disk.full,
        ..Default::default()
    }
}
