//! `Search`: files by keywords.

use std::sync::Arc;

use peernet_proto::v1;
use tonic::{Request, Response, Status};

use super::status::{not_serving, of_file};
use crate::daemon::Life;

pub(super) struct Search {
    life: Arc<Life>,
}

impl Search {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Search { life }
    }
}

#[tonic::async_trait]
impl v1::search_server::Search for Search {
    async fn find(
        &self,
        request: Request<v1::FindRequest>,
    ) -> Result<Response<v1::FindResponse>, Status> {
        let running = self.life.serving().map_err(not_serving)?;
        let found = running.files.search(request.into_inner());
        let found = found.await.map_err(of_file)?;
        let cost = v1::SearchCost {
            peers: found.cost.peers,
            messages: found.cost.messages,
            shards: found.cost.shards,
            ..Default::default()
        };
        Ok(Response::new(v1::FindResponse {
            files: found.files,
            next: found.next.map(|key| key.to_string()).unwrap_or_default(),
            cost: Some(cost),
        }))
    }
}
