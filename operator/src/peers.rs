//! The operator as a client of peers: asks and tells single peers, with a deadline for each call.
//!
//! A call that fails is only ever "did not answer"; what that means is for `peernet-plan` to say.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use peernet_core::key::Position;
use peernet_core::leave::Report;
use peernet_core::member::{Member, PeerId};
use peernet_plan::observed::{Answer, Disk, Life, Volume};
use peernet_proto::v1;
use peernet_proto::v1::admin_client::AdminClient;
use peernet_proto::v1::peers_client::PeersClient;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::wire::{self, Malformed};

/// Guess: a peer in the same cluster is reached in milliseconds, if at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For questions that are answered from memory (guess).
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// For what a peer writes to its disk first, and for reports on all slots (guess).
const TELL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection in use is checked (guess).
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Calls under way at once. Bounds memory: a report on all slots takes about half a megabyte.
const CALLS_AT_ONCE: usize = 32;
/// Idle connections kept. The largest network has 1,000 peers.
const CHANNELS: usize = 2_048;
/// A report names up to 4,096 slots with up to 14 identities each: below 3 MiB.
const MESSAGE_MAX: usize = 8 * 1024 * 1024;

/// Why a peer was not heard.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The address is not one.
    #[error("{address} is not an address")]
    Address {
        /// As the pod's status has it.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// No answer within the deadline.
    #[error("{address} did not answer within {limit:?}")]
    Late {
        /// Who was asked.
        address: String,
        /// The deadline.
        limit: Duration,
    },
    /// Unreachable, or it refused.
    #[error("{address} answered {:?}: {}", source.code(), source.message())]
    Refused {
        /// Who was asked.
        address: String,
        /// What came back.
        source: Box<tonic::Status>,
    },
    /// It answered nonsense.
    #[error("{address} answered nonsense")]
    Malformed {
        /// Who was asked.
        address: String,
        /// What was wrong.
        source: Malformed,
    },
}

/// Connections to peers, kept between calls.
#[derive(Default)]
pub struct Peers {
    channels: Mutex<HashMap<String, Channel>>,
}

impl Peers {
    /// Asks the peer at `address` (`host:port`) who it is and how it is, if that is the process of the pod with UID `instance`.
    ///
    /// # Errors
    /// When it does not say who it is. One that says only that is not ready yet.
    pub async fn probe(&self, address: &str, instance: &str) -> Result<Answer, PeerError> {
        let mut admin = self.admin(address)?;
        let question = v1::IdentifyRequest {
            instance: instance.to_owned(),
        };
        let answer = call(address, ASK_TIMEOUT, admin.identify(question)).await?;
        let v1::IdentifyResponse {
            network_id,
            peer_id,
            left,
            running,
            zone: _,
            position,
        } = answer;
        let peer = match peer_id.as_str() {
            "" => None,
            id => Some(
                id.parse()
                    .map_err(|e| malformed(address, Malformed::Id(e)))?,
            ),
        };
        let network = Some(network_id).filter(|id| !id.is_empty());
        let volume = Volume {
            network,
            peer,
            left,
            running,
            position: Position(position),
        };
        let life = if running {
            self.life(address).await.ok()
        } else {
            None
        };
        Ok(Answer { volume, life })
    }

    async fn life(&self, address: &str) -> Result<Life, PeerError> {
        let mut registry = self.registry(address)?;
        let status = call(address, ASK_TIMEOUT, registry.status(v1::StatusRequest {})).await?;
        let member = match status.self_ {
            Some(own) => wire::member(own),
            None => Err(Malformed::Missing("the peer itself")),
        };
        Ok(Life {
            network: status.network_id,
            member: member.map_err(|e| malformed(address, e))?,
            ready: status.ready,
            reason: status.reason,
            disk: Disk {
                held: status.bytes_held,
                free: status.disk_free,
                total: status.disk_total,
            },
            broker: status.broker.map(|broker| match broker.connected {
                true => Ok(()),
                false => Err(broker.reason),
            }),
        })
    }

    /// All members as the peer at `address` knows them.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn members(&self, address: &str) -> Result<Vec<Member>, PeerError> {
        let mut registry = self.registry(address)?;
        let list = call(address, ASK_TIMEOUT, registry.list(v1::ListPeersRequest {})).await?;
        let members: Result<Vec<Member>, Malformed> =
            list.peers.into_iter().map(wire::member).collect();
        members.map_err(|e| malformed(address, e))
    }

    /// What the peer at `address` can prove about the leave of `leavers`.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn report(&self, address: &str, leavers: &[PeerId]) -> Result<Report, PeerError> {
        let leaver_ids = leavers.iter().map(PeerId::to_string).collect();
        let mut admin = self.admin(address)?;
        let question = v1::LeaveReportRequest { leaver_ids };
        let report = call(address, TELL_TIMEOUT, admin.leave_report(question)).await?;
        wire::report(report).map_err(|e| malformed(address, e))
    }

    /// Gives the peer at `address` its place. Idempotent.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn assign(&self, address: &str, place: v1::AssignRequest) -> Result<(), PeerError> {
        let mut admin = self.admin(address)?;
        call(address, TELL_TIMEOUT, admin.assign(place))
            .await
            .map(drop)
    }

    /// Gives drain orders to the peer at `address`, which spreads them.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn drain(&self, address: &str, orders: Vec<v1::DrainOrder>) -> Result<(), PeerError> {
        let mut admin = self.admin(address)?;
        call(
            address,
            TELL_TIMEOUT,
            admin.drain(v1::DrainRequest { orders }),
        )
        .await
        .map(drop)
    }

    /// Tells the peer at `address` what Kubernetes says of other peers' processes.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn hint(&self, address: &str, hints: Vec<v1::PeerHint>) -> Result<(), PeerError> {
        let mut admin = self.admin(address)?;
        call(address, ASK_TIMEOUT, admin.hint(v1::HintRequest { hints }))
            .await
            .map(drop)
    }

    /// Has the peer at `address` give peers up for good, and says who of them is alive to it: if anybody is, it did
    /// nothing.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn recover(
        &self,
        address: &str,
        request: v1::RecoverRequest,
    ) -> Result<Vec<PeerId>, PeerError> {
        let mut admin = self.admin(address)?;
        let answer = call(address, TELL_TIMEOUT, admin.recover(request)).await?;
        let alive = answer.alive.iter().map(|id| id.parse());
        let alive: Result<_, _> = alive.collect();
        alive.map_err(|e| malformed(address, Malformed::Id(e)))
    }

    fn admin(&self, address: &str) -> Result<AdminClient<Channel>, PeerError> {
        let client = AdminClient::new(self.channel(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_MAX))
    }

    fn registry(&self, address: &str) -> Result<PeersClient<Channel>, PeerError> {
        let client = PeersClient::new(self.channel(address)?);
        Ok(client.max_decoding_message_size(MESSAGE_MAX))
    }

    /// Connects on first use and again when the connection broke.
    fn channel(&self, address: &str) -> Result<Channel, PeerError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|source| {
            PeerError::Address {
                address: address.into(),
                source,
            }
        })?;
        // Without pings, a connection to a node that lost its power would be used until TCP gives up.
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(ASK_TIMEOUT)
            .connect_lazy();
        if channels.len() >= CHANNELS {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Makes calls, a bounded number at once; answers in no particular order.
pub(crate) async fn all<F: Future>(calls: Vec<F>) -> Vec<F::Output> {
    stream::iter(calls)
        .buffer_unordered(CALLS_AT_ONCE)
        .collect()
        .await
}

/// The deadline covers connecting, the question and the whole answer.
async fn call<T>(
    address: &str,
    limit: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, PeerError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(PeerError::Refused {
            address: address.into(),
            source: Box::new(status),
        }),
        Err(_) => Err(PeerError::Late {
            address: address.into(),
            limit,
        }),
    }
}

fn malformed(address: &str, source: Malformed) -> PeerError {
    PeerError::Malformed {
        address: address.into(),
        source,
    }
}
