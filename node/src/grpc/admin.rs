//! `Admin`: what an operator tells and asks.

use std::sync::Arc;

use peernet_core::member::Liveness;
use peernet_proto::v1;
use tonic::{Request, Response, Status};

use super::status::{check_orders, not_serving, of_assign, of_peer, of_wire};
use crate::config::Place;
use crate::daemon::{Life, Remembered};
use crate::wire::{drain_orders, hints, peer_ids, recovery, report_response};

pub(super) struct Admin {
    life: Arc<Life>,
}

impl Admin {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Admin { life }
    }

    /// Refuses what is meant for a process that had this address before, or will have it.
    fn meant(&self, instance: &str) -> Result<(), Status> {
        match &self.life.setup().instance {
            Some(own) if !instance.is_empty() && own != instance => {
                Err(Status::failed_precondition(format!(
                    "{}, instance {own}, was asked for instance {}: addresses change hands",
                    self.life.setup().name,
                    instance.escape_debug()
                )))
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Admin {
    async fn identify(
        &self,
        request: Request<v1::IdentifyRequest>,
    ) -> Result<Response<v1::IdentifyResponse>, Status> {
        self.meant(&request.get_ref().instance)?;
        let response = match self.life.remembered() {
            Remembered::Nothing => v1::IdentifyResponse::default(),
            Remembered::Before(identity) => v1::IdentifyResponse {
                network_id: identity.network,
                peer_id: identity.member.id.to_string(),
                left: identity.member.liveness == Liveness::Left,
                running: false,
                zone: identity.member.zone,
                position: identity.member.position.0,
            },
            Remembered::Now(running) => {
                let member = running.peer.status().await.map_err(of_peer)?.member;
                let left = running.has_left();
                v1::IdentifyResponse {
                    network_id: running.network.clone(),
                    peer_id: running.id.to_string(),
                    left,
                    running: !left,
                    zone: member.zone,
                    position: member.position.0,
                }
            }
        };
        Ok(Response::new(response))
    }

    async fn assign(
        &self,
        request: Request<v1::AssignRequest>,
    ) -> Result<Response<v1::AssignResponse>, Status> {
        let v1::AssignRequest {
            network_id,
            zone,
            position,
            found,
            instance,
        } = request.into_inner();
        self.meant(&instance)?;
        let place = Place::new(network_id, zone, Some(position), found);
        let place = place.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let life = self.life.clone();
        // On a task of its own: a caller that goes away must not leave an assignment half carried out.
        let assigned = tokio::spawn(async move { life.assign(place).await }).await;
        let id = assigned
            .map_err(|panic| Status::internal(panic.to_string()))?
            .map_err(of_assign)?;
        Ok(Response::new(v1::AssignResponse {
            peer_id: id.to_string(),
        }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        let orders = drain_orders(request.into_inner()).map_err(of_wire)?;
        check_orders(&orders, &running.peer.members().await.map_err(of_peer)?)?;
        running.peer.drain(orders).await.map_err(of_peer)?;
        Ok(Response::new(v1::DrainResponse {}))
    }

    async fn leave_report(
        &self,
        request: Request<v1::LeaveReportRequest>,
    ) -> Result<Response<v1::LeaveReportResponse>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        let leavers = peer_ids(
            &request.into_inner().leaver_ids,
            "LeaveReportRequest.leaver_ids",
        )
        .map_err(of_wire)?;
        let report = running.peer.leave_report(leavers).await.map_err(of_peer)?;
        Ok(Response::new(report_response(&report)))
    }

    async fn hint(
        &self,
        request: Request<v1::HintRequest>,
    ) -> Result<Response<v1::HintResponse>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        let hints = hints(request.into_inner()).map_err(of_wire)?;
        running.peer.hint(hints).await.map_err(of_peer)?;
        Ok(Response::new(v1::HintResponse {}))
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverRequest>,
    ) -> Result<Response<v1::RecoverResponse>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        let recovery = recovery(request.into_inner()).map_err(of_wire)?;
        let alive = running.peer.recover(recovery).await.map_err(of_peer)?;
        Ok(Response::new(v1::RecoverResponse {
            alive: alive.iter().map(ToString::to_string).collect(),
        }))
    }
}
