//! `Peers`: the registry, and what this peer knows of itself.

use std::sync::Arc;

use peernet_core::io::Time;
use peernet_core::member::Member;
use peernet_proto::v1;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::status::{not_serving, of_peer};
use crate::daemon::{Life, NotServing, Remembered, Running};
use crate::driver::PeerError;
use crate::wire::{peer_info, status_response};

mod watch;

pub(super) struct Peers {
    life: Arc<Life>,
    /// For those who watch.
    places: Arc<Semaphore>,
}

impl Peers {
    pub(super) fn new(life: Arc<Life>) -> Self {
        let places = Arc::new(Semaphore::new(watch::WATCHERS));
        Peers { life, places }
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

    type WatchStream = watch::Changes;

    async fn watch(
        &self,
        _: Request<v1::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        watch::watch(self.life.clone(), running, &self.places).map(Response::new)
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
        Ok(Response::new(v1::StatusResponse { broker, ..response }))
    }
}

/// Everybody, as this peer knows them.
async fn registry(running: &Running) -> Result<Vec<v1::PeerInfo>, PeerError> {
    let members = running.peer.registry().await?.into_iter();
    let info = |(member, since): (Member, Time)| v1::PeerInfo {
        since_unix_ms: running.origin_unix_ms + since.0,
        ..peer_info(&member)
    };
    Ok(members.map(info).collect())
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
