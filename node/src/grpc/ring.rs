//! `Ring`: messages from other peers.

use std::sync::Arc;

use peernet_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::status::{check_network, not_serving, of_peer, of_wire};
use crate::daemon::Life;
use crate::wire::{Delivery, Fault};

pub(super) struct Ring {
    life: Arc<Life>,
    stop: CancellationToken,
}

impl Ring {
    /// Hears others until `stop`, which is the end of the server: clients who wait for something may need what others say.
    pub(super) fn new(life: Arc<Life>, stop: CancellationToken) -> Self {
        Ring { life, stop }
    }

    /// The next batch; none when the sender has ended, or the server does, which no call must hold up.
    async fn next(
        &self,
        batches: &mut Streaming<v1::DeliverRequest>,
    ) -> Result<Option<v1::DeliverRequest>, Status> {
        tokio::select! {
            biased;
            next = batches.message() => next,
            () = self.stop.cancelled() => Ok(None),
        }
    }

    async fn take(&self, batch: v1::DeliverRequest) -> Result<(), Status> {
        let running = self.life.member().map_err(not_serving)?;
        let delivery = Delivery::from_wire(batch).map_err(|error| match error.fault {
            Fault::Version(_) => Status::failed_precondition(error.to_string()),
            _ => of_wire(error),
        })?;
        let Delivery {
            network,
            from,
            messages,
        } = delivery;
        check_network(&network, &running.network)?;
        running.peer.deliver(from, messages).await.map_err(of_peer)
    }
}

#[tonic::async_trait]
impl v1::ring_server::Ring for Ring {
    async fn deliver(
        &self,
        request: Request<Streaming<v1::DeliverRequest>>,
    ) -> Result<Response<v1::DeliverResponse>, Status> {
        let mut batches = request.into_inner();
        while let Some(batch) = self.next(&mut batches).await? {
            self.take(batch).await?;
        }
        Ok(Response::new(v1::DeliverResponse {}))
    }
}
