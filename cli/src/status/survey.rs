//! Asking every peer that can be reached how it is.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use peernet_proto::v1::admin_client::AdminClient;
use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::{
    LeaveReportRequest, LeaveReportResponse, ListPeersRequest, PeerInfo, PeerState, StatusRequest,
    StatusResponse,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::servers::{CallError, Servers, Way, connect};

/// How long one peer may take for everything it is asked. Guess: a person waits for the slowest.
const PATIENCE: Duration = Duration::from_secs(2);
/// Peers asked at once. Bounds sockets and memory.
const AT_ONCE: usize = 32;
/// A report names up to 4,096 slots with their replicas; far below this.
const REPORT_BYTES: usize = 16 << 20;

/// What was heard.
pub(crate) struct Survey {
    /// The peer that the server address led to.
    pub(crate) asked: Answer,
    /// All members as that peer knows them, in ring order.
    pub(crate) members: Vec<PeerInfo>,
    /// The answers of those reached directly, the asked one included, by identity.
    pub(crate) answers: BTreeMap<String, Answer>,
}

/// One peer's own word.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusResponse,
    /// The slots it holds; nothing when it did not say.
    pub(crate) report: Option<LeaveReportResponse>,
}

/// Asks the first server that answers who the members are, then each of them.
pub(crate) async fn survey(servers: &Servers) -> Result<Survey, CallError> {
    let heard = servers.call(async |channel| {
        let answer = ask(channel.clone()).await?;
        let members = PeersClient::new(channel)
            .list(ListPeersRequest {})
            .await?
            .into_inner()
            .peers;
        Ok((answer, members))
    });
    let (asked, members) = heard.await?;
    let asked_id = asked
        .status
        .self_
        .as_ref()
        .map(|s| s.id.clone())
        .unwrap_or_default();
    let others = members
        .iter()
        .filter(|m| m.id != asked_id && m.state() != PeerState::Left)
        .cloned();
    let mut answers: BTreeMap<String, Answer> = stream::iter(others)
        .map(async |member| {
            let answer = tokio::time::timeout(PATIENCE, reach(servers.way(), &member))
                .await
                .ok()
                .flatten()?;
            Some((member.id, answer))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |answer| answer)
        .collect()
        .await;
    answers.insert(asked_id, asked.clone());
    Ok(Survey {
        asked,
        members,
        answers,
    })
}

/// Asks a member itself; nothing if someone else answers there.
async fn reach(way: &Way, member: &PeerInfo) -> Option<Answer> {
    let connection = connect(way, &way.address(member), PATIENCE).await.ok()?;
    let answer = ask(connection.channel).await.ok()?;
    (answer.status.self_.as_ref()?.id == member.id).then_some(answer)
}

async fn ask(channel: Channel) -> Result<Answer, Status> {
    let status = PeersClient::new(channel.clone())
        .status(StatusRequest {})
        .await?
        .into_inner();
    let mut admin = AdminClient::new(channel).max_decoding_message_size(REPORT_BYTES);
    // Without it the page lacks only the copies of each slot.
    let report = admin
        .leave_report(LeaveReportRequest {
            leaver_ids: Vec::new(),
        })
        .await
        .ok();
    Ok(Answer {
        status,
        report: report.map(|r| r.into_inner()),
    })
}
