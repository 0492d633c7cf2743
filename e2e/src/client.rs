//! Files in and out of one peer, over either protocol, streamed and hashed on the way.

pub mod grpc;
pub mod rest;

use std::time::Duration;

use blake3::Hash;
use thiserror::Error;
use tokio::time::timeout;
use tonic::Code;

use crate::content::Content;
use crate::peer::Peer;

/// Longest that one attempt may take; the largest file on the busiest machine takes seconds.
const ATTEMPT: Duration = Duration::from_secs(60);

/// How to talk to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// `peernet.v1.Files`.
    Grpc,
    /// `/v1/files/{name}`.
    Rest,
}

impl Protocol {
    /// Each in turn.
    pub fn of(turn: usize) -> Self {
        if turn.is_multiple_of(2) {
            Protocol::Grpc
        } else {
            Protocol::Rest
        }
    }
}

/// What a get returned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Received {
    /// BLAKE3 of the bytes.
    pub hash: Hash,
    /// How many there were.
    pub len: u64,
}

/// Why an attempt failed. Unless it says that the peer refused, a put may still take effect.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum TransferError {
    #[error("no connection: {0:?}")]
    Connect(#[from] tonic::transport::Error),
    #[error("no connection: {0}")]
    Dial(#[from] std::io::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Grpc(#[from] tonic::Status),
    #[error("HTTP {status}: {detail}")]
    Rest { status: u16, detail: String },
    #[error("HTTP broke off: {0:?}")]
    Http(#[from] hyper::Error),
    #[error("no answer within {} s", ATTEMPT.as_secs())]
    TooLong,
    #[error("the answer is not what the interface says: {0}")]
    Contract(&'static str),
}

impl TransferError {
    /// There is no such file.
    pub fn is_not_found(&self) -> bool {
        match self {
            TransferError::Grpc(status) => status.code() == Code::NotFound,
            TransferError::Rest { status, .. } => *status == 404,
            _ => false,
        }
    }

    /// Trying again, perhaps another peer, may help: the interface says so, or the connection broke.
    pub fn is_retryable(&self) -> bool {
        match self {
            TransferError::Grpc(status) => !matches!(
                status.code(),
                Code::NotFound
                    | Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::Unimplemented
                    | Code::OutOfRange
                    | Code::DataLoss
                    | Code::Internal
            ),
            TransferError::Rest { status, .. } => matches!(status, 408 | 429 | 502 | 503 | 504),
            TransferError::Connect(_)
            | TransferError::Dial(_)
            | TransferError::Http(_)
            | TransferError::TooLong => true,
            TransferError::Contract(_) => false,
        }
    }

    /// A word for tallies.
    pub fn kind(&self) -> String {
        match self {
            TransferError::Connect(_) | TransferError::Dial(_) => "no connection".into(),
            TransferError::Grpc(status) => format!("{:?}", status.code()),
            TransferError::Rest { status, .. } => format!("HTTP {status}"),
            TransferError::Http(_) => "HTTP broke off".into(),
            TransferError::TooLong => "no answer".into(),
            TransferError::Contract(_) => "contract".into(),
        }
    }
}

/// Puts a file, one attempt. When this succeeds, the file was acknowledged.
///
/// # Errors
/// See [`TransferError`].
pub async fn put(
    peer: &Peer,
    protocol: Protocol,
    name: &str,
    content: Content,
) -> Result<(), TransferError> {
    let attempt = async {
        match protocol {
            Protocol::Grpc => grpc::put(peer, name, content).await,
            Protocol::Rest => rest::put(peer, name, content).await,
        }
    };
    timeout(ATTEMPT, attempt)
        .await
        .unwrap_or(Err(TransferError::TooLong))
}

/// Gets a whole file, one attempt.
///
/// # Errors
/// See [`TransferError`].
pub async fn get(peer: &Peer, protocol: Protocol, name: &str) -> Result<Received, TransferError> {
    let attempt = async {
        match protocol {
            Protocol::Grpc => grpc::get(peer, name).await,
            Protocol::Rest => rest::get(peer, name).await,
        }
    };
    timeout(ATTEMPT, attempt)
        .await
        .unwrap_or(Err(TransferError::TooLong))
}

/// Deletes a file, one attempt.
///
/// # Errors
/// See [`TransferError`].
pub async fn delete(peer: &Peer, protocol: Protocol, name: &str) -> Result<(), TransferError> {
    let attempt = async {
        match protocol {
            Protocol::Grpc => grpc::delete(peer, name).await,
            Protocol::Rest => rest::delete(peer, name).await,
        }
    };
    timeout(ATTEMPT, attempt)
        .await
        .unwrap_or(Err(TransferError::TooLong))
}
