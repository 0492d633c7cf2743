//! Over REST.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use blake3::Hasher;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Received, TransferError};
use crate::content::Content;
use crate::peer::Peer;

/// A peer that is off answers nothing, not even a refusal.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest body of an error that is read.
const PROBLEM_MAX: usize = 64 * 1024;

/// An answer without its body, or with it when it is a short one.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The header `content-type`.
    pub content_type: String,
    /// The header `content-length`.
    pub content_length: Option<u64>,
    /// The body.
    pub body: String,
}

pub(super) async fn put(peer: &Peer, name: &str, content: Content) -> Result<(), TransferError> {
    let blocks = content
        .blocks()
        .map(|block| Ok::<_, Infallible>(Frame::data(block)));
    let body = StreamBody::new(stream::iter(blocks));
    let answer = send(peer, Method::PUT, &file(name), Some(content.len), body).await?;
    refused(answer).await.map(drop)
}

pub(super) async fn get(peer: &Peer, name: &str) -> Result<Received, TransferError> {
    let answer = send(peer, Method::GET, &file(name), None, Empty::<Bytes>::new()).await?;
    let mut body = refused(answer).await?.into_body();
    let (mut hasher, mut len) = (Hasher::new(), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            hasher.update(&data);
            len += data.len() as u64;
        }
    }
    Ok(Received {
        hash: hasher.finalize(),
        len,
    })
}

pub(super) async fn delete(peer: &Peer, name: &str) -> Result<(), TransferError> {
    let answer = send(
        peer,
        Method::DELETE,
        &file(name),
        None,
        Empty::<Bytes>::new(),
    )
    .await?;
    refused(answer).await.map(drop)
}

/// Any request without a body.
///
/// # Errors
/// The connection fails, or the body is longer than 64 KiB.
pub async fn request(peer: &Peer, method: Method, path: &str) -> Result<Answer, TransferError> {
    let answer = send(peer, method, path, None, Empty::<Bytes>::new()).await?;
    let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok());
    let content_type = header(CONTENT_TYPE).unwrap_or_default().to_owned();
    let content_length = header(CONTENT_LENGTH).and_then(|v| v.parse().ok());
    let status = answer.status().as_u16();
    Ok(Answer {
        status,
        content_type,
        content_length,
        body: short(answer).await?,
    })
}

/// Begins to put a file of the announced size and hangs up after `sent` bytes of it. The peer may or may not answer.
///
/// # Errors
/// The connection fails before that.
pub async fn put_and_hang_up(
    peer: &Peer,
    name: &str,
    content: Content,
    sent: u64,
) -> Result<(), TransferError> {
    let mut connection = dial(peer).await?;
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n",
        file(name),
        peer.http,
        content.len
    );
    connection.write_all(head.as_bytes()).await?;
    let mut left = sent as usize;
    for block in content
        .blocks()
        .take_while(|_| left > 0)
        .collect::<Vec<_>>()
    {
        let part = &block[..block.len().min(left)];
        connection.write_all(part).await?;
        left -= part.len();
    }
    connection.shutdown().await?;
    // The peer has seen the end once it closes its side, with or without an answer.
    let mut answer = Vec::new();
    let _ = timeout(CONNECT * 5, connection.read_to_end(&mut answer)).await;
    Ok(())
}

/// The path of a file. Names in tests need no escapes.
pub fn file(name: &str) -> String {
    format!("/v1/files/{name}")
}

async fn dial(peer: &Peer) -> Result<TcpStream, TransferError> {
    let connection = timeout(CONNECT, TcpStream::connect(peer.http)).await;
    let connection = connection.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    connection.set_nodelay(true)?;
    Ok(connection)
}

async fn send<B>(
    peer: &Peer,
    method: Method,
    path: &str,
    length: Option<u64>,
    body: B,
) -> Result<Response<Incoming>, TransferError>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let io = TokioIo::new(dial(peer).await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    // Ends when the sender and the answer's body are dropped.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, peer.http.to_string());
    if let Some(length) = length {
        request = request.header(CONTENT_LENGTH, length);
    }
    let request = request
        .body(body)
        .map_err(|_| TransferError::Contract("not a request"))?;
    Ok(sender.send_request(request).await?)
}

/// Turns a status of 400 and above into an error.
async fn refused(answer: Response<Incoming>) -> Result<Response<Incoming>, TransferError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = short(answer).await?;
    // A problem document (RFC 9457), or whatever else it is.
    let problem: Option<Value> = serde_json::from_str(&body).ok();
    let detail = problem.and_then(|p| p["detail"].as_str().map(String::from));
    Err(TransferError::Rest {
        status: status.as_u16(),
        detail: detail.unwrap_or(body),
    })
}

async fn short(answer: Response<Incoming>) -> Result<String, TransferError> {
    let body = Limited::new(answer.into_body(), PROBLEM_MAX)
        .collect()
        .await;
    let body = body.map_err(|_| TransferError::Contract("a long or broken body"))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
