//! `Ring`: messages from other peers.

use std::sync::Arc;

use peernet_proto::v1;
use tonic::{Request, Response, Status};

use super::status::{check_network, not_serving, of_peer, of_wire};
use crate::daemon::Life;
use crate::wire::{Delivery, Fault};

pub(super) struct Ring {
    life: Arc<Life>,
}

impl Ring {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Ring { life }
    }
}

#[tonic::async_trait]
impl v1::ring_server::Ring for Ring {
    async fn deliver(
        &self,
        request: Request<v1::DeliverRequest>,
    ) -> Result<Response<v1::DeliverResponse>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        let delivery =
            Delivery::from_wire(request.into_inner()).map_err(|error| match error.fault {
                Fault::Version(_) => Status::failed_precondition(error.to_string()),
                _ => of_wire(error),
            })?;
        let Delivery {
            network,
            from,
            messages,
        } = delivery;
        check_network(&network, &running.network)?;
        for message in messages {
            running.peer.deliver(from, message).await.map_err(of_peer)?;
        }
        Ok(Response::new(v1::DeliverResponse {}))
    }
}
