//! One peer, as reached from outside, and what only peers themselves can say.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use peernet_proto::v1::admin_client::AdminClient;
use peernet_proto::v1::chunks_client::ChunksClient;
use peernet_proto::v1::files_client::FilesClient;
use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::{
    ExplainRequest, ExplainResponse, FileInfo, HaveChunksRequest, LeaveReportRequest,
    LeaveReportResponse, ListPeersRequest, ListRequest, PeerInfo, StatusRequest, StatusResponse,
};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// A peer that is off answers nothing, not even a refusal.
const CONNECT: Duration = Duration::from_secs(2);
/// Whoever listens accepts within this time: the kernel does.
const REFUSAL: Duration = Duration::from_millis(500);
/// Between two looks at whether somebody listens.
const AGAIN: Duration = Duration::from_millis(10);
/// Longest that a question may take. Reading back many chunks is the slowest.
const ANSWER: Duration = Duration::from_secs(60);
/// A report names every slot with its replicas, and an explanation every chunk with its holders.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Chunks asked after at once: about 16 MiB to read back and hash within [`ANSWER`].
const HASHES: usize = 256;

/// Where a peer listens, and on which pod and node it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The pod's name; also the peer's.
    pub name: String,
    /// The pod's number.
    pub ordinal: i32,
    /// The node's name; empty when unknown.
    pub node: String,
    /// gRPC.
    pub grpc: SocketAddr,
    /// REST.
    pub http: SocketAddr,
}

impl Peer {
    /// The peer in a pod with this address.
    pub fn in_pod(name: &str, ordinal: i32, node: &str, address: IpAddr) -> Self {
        Peer {
            name: name.into(),
            ordinal,
            node: node.into(),
            grpc: SocketAddr::new(address, 7000),
            http: SocketAddr::new(address, 8080),
        }
    }

    /// A connection of its own, so that nothing of an earlier failure lingers.
    ///
    /// # Errors
    /// Nobody answers there within two seconds.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc))?;
        endpoint
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .tcp_nodelay(true)
            .connect()
            .await
    }

    /// Returns once nobody listens there any more: a pod that was deleted runs on for a moment.
    pub async fn ended(&self) {
        while let Ok(Ok(_)) = timeout(REFUSAL, TcpStream::connect(self.grpc)).await {
            sleep(AGAIN).await;
        }
    }

    /// A client for files over gRPC.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn files(&self) -> Result<FilesClient<Channel>, tonic::transport::Error> {
        Ok(FilesClient::new(self.connect().await?).max_decoding_message_size(MESSAGE_MAX))
    }

    /// What the peer knows of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> Result<StatusResponse> {
        let mut client = PeersClient::new(self.channel().await?);
        let answer = client.status(StatusRequest {}).await;
        Ok(answer
            .with_context(|| format!("{}: Status", self.name))?
            .into_inner())
    }

    /// The peers it knows, in ring order.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn members(&self) -> Result<Vec<PeerInfo>> {
        let mut client = PeersClient::new(self.channel().await?);
        let answer = client.list(ListPeersRequest {}).await;
        Ok(answer
            .with_context(|| format!("{}: List", self.name))?
            .into_inner()
            .peers)
    }

    /// What it can prove about the leave of these peers.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn leave_report(&self, leaver_ids: Vec<String>) -> Result<LeaveReportResponse> {
        let client = AdminClient::new(self.channel().await?);
        let answer = client
            .max_decoding_message_size(MESSAGE_MAX)
            .leave_report(LeaveReportRequest { leaver_ids })
            .await;
        Ok(answer
            .with_context(|| format!("{}: LeaveReport", self.name))?
            .into_inner())
    }

    /// Who holds what of a file.
    ///
    /// # Errors
    /// It does not answer, or has no such file.
    pub async fn explain(&self, name: &str) -> Result<ExplainResponse> {
        let answer = self
            .files()
            .await?
            .explain(ExplainRequest { name: name.into() })
            .await;
        Ok(answer
            .with_context(|| format!("{}: Explain {name}", self.name))?
            .into_inner())
    }

    /// Every file whose name begins so.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<FileInfo>> {
        let mut client = self.files().await?;
        let (mut files, mut after) = (Vec::new(), String::new());
        loop {
            let request = ListRequest {
                prefix: prefix.into(),
                after,
                limit: 0,
            };
            let page = client.list(request).await;
            let page = page
                .with_context(|| format!("{}: List files", self.name))?
                .into_inner();
            files.extend(page.files);
            if page.next.is_empty() {
                return Ok(files);
            }
            after = page.next;
        }
    }

    /// Which of these chunks it reads back whole from its disk.
    ///
    /// # Errors
    /// It does not answer, or not for each.
    pub async fn holds(&self, network_id: &str, hashes: &[blake3::Hash]) -> Result<Vec<bool>> {
        let mut client = ChunksClient::new(self.channel().await?);
        let mut held = Vec::with_capacity(hashes.len());
        for batch in hashes.chunks(HASHES) {
            let request = HaveChunksRequest {
                network_id: network_id.into(),
                hashes: batch.iter().map(|h| h.as_bytes().to_vec().into()).collect(),
                verify: true,
                when: false,
            };
            let answer = client.have(request).await;
            let answer = answer
                .with_context(|| format!("{}: Have", self.name))?
                .into_inner();
            anyhow::ensure!(
                answer.held.len() == batch.len(),
                "{} was asked after {} chunks and answered for {}",
                self.name,
                batch.len(),
                answer.held.len()
            );
            held.extend(answer.held);
        }
        Ok(held)
    }

    async fn channel(&self) -> Result<Channel> {
        let channel = self.connect().await;
        channel.with_context(|| format!("{} does not answer at {}", self.name, self.grpc))
    }
}
