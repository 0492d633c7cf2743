//! Requests that one peer alone can answer, and that came to another: they are passed on, and the answer comes back.
//!
//! Who reaches a network through a Service, an Ingress or `kubectl port-forward` does not choose the peer, and often cannot
//! even resolve the names by which peers know each other. So this is a gateway's work (RFC 9110, section 7.6), not a
//! redirect's. The body passes through as it comes, a buffer at a time: a peer that takes nothing makes the client wait. A
//! request is passed on once: `Via` says that it was, so two peers that take each other for a third do not play ball.

use std::error::Error;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::{PathAndQuery, Uri};
use axum::response::Response;
use http_body_util::BodyExt;
use peernet_core::member::{Liveness, Member, PeerId};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::client::shake_hands;
use super::files::deepest;
use super::problem::Problem;
use crate::daemon::Running;
use crate::files::FileError;
use crate::transport::CONNECT;

/// Requests that this process passes on at once. Far fewer than a door has places, so that peers that pass on to each
/// other never fill each other's doors with what waits for the other (guess: four times the uploads a peer keeps).
const PASSED_ON: usize = 256;

static PLACES: Semaphore = Semaphore::const_new(PASSED_ON);

/// What is about one connection only (RFC 9110, section 7.6.1), besides what `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Before a peer's id in `Via`.
const PSEUDONYM: &str = "1.1 peernet-";

/// Why a request cannot be passed on.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub(super) enum ForwardError {
    #[error(
        "the peer that began this upload, {0}, is no member of the network any more, and what it kept of the upload is gone \
         with it; begin the upload again, with POST /v1/uploads?name=NAME"
    )]
    Gone(PeerId),
    #[error(
        "the peer that began this upload, '{name}', cannot be reached now ({reason}), and no other can go on with it; try \
         again when it is back, or begin the upload again, with POST /v1/uploads?name=NAME"
    )]
    Unreachable { name: String, reason: String },
    #[error(
        "this peer passes on as many requests as it may, {PASSED_ON}; try again in a moment, or through another peer"
    )]
    Busy,
}

impl From<ForwardError> for Problem {
    fn from(error: ForwardError) -> Self {
        let detail = error.to_string();
        match error {
            ForwardError::Gone(_) => Problem::gone(detail),
            ForwardError::Unreachable { .. } => Problem::unavailable(detail),
            ForwardError::Busy => Problem::busy(detail),
        }
    }
}

/// Has `peer` answer a request.
pub(super) async fn forward(
    running: &Running,
    peer: PeerId,
    request: Request,
) -> Result<Response, Problem> {
    let _place = PLACES.try_acquire().map_err(|_| ForwardError::Busy)?;
    let was_passed_on = request.headers().get_all(header::VIA).iter().any(|via| {
        via.to_str()
            .is_ok_and(|via| via.split(',').any(|v| v.trim().starts_with(PSEUDONYM)))
    });
    let known = member(running, peer).await?.filter(|_| !was_passed_on);
    // Whoever never was a member began nothing.
    let member = known.ok_or(FileError::NoParts)?;
    if member.liveness.is_gone() {
        return Err(ForwardError::Gone(peer).into());
    }
    let unreachable = |reason: String| ForwardError::Unreachable {
        name: member.name.clone(),
        reason,
    };
    tokio::select! {
        answered = ask(&member, running.id, request) => {
            Ok(answered.map_err(|error| unreachable(deepest(&*error)))?)
        }
        () = lost(running, peer) => Err(unreachable("it is down".into()).into()),
    }
}

/// A peer that belongs to the network or did, as far as is remembered.
async fn member(running: &Running, peer: PeerId) -> Result<Option<Member>, Problem> {
    let mut members = running.peer.members().await?.into_iter();
    Ok(members.find(|member| member.id == peer))
}

/// Waits until a peer is down: what was sent to it would never be answered, and its node may be unable to say so.
async fn lost(running: &Running, peer: PeerId) {
    let mut changes = running.peer.news();
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        match member(running, peer).await {
            Ok(Some(member)) if member.liveness < Liveness::Down => {}
            _ => return,
        }
    }
}

async fn ask(
    member: &Member,
    me: PeerId,
    request: Request,
) -> Result<Response, Box<dyn Error + Send + Sync>> {
    let stream = timeout(CONNECT, TcpStream::connect(&member.http)).await??;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = shake_hands(stream).await?;
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned();
    head.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    one_hop_more(&mut head.headers);
    head.headers
        .insert(header::HOST, HeaderValue::try_from(&member.http)?);
    // Whose page asks was looked at here, and is another one's than the next peer's.
    head.headers.remove(header::ORIGIN);
    let via = HeaderValue::try_from(format!("{PSEUDONYM}{me}"))?;
    head.headers.append(header::VIA, via);
    let response = sender.send_request(Request::from_parts(head, body)).await?;
    let (mut head, body) = response.into_parts();
    one_hop_more(&mut head.headers);
    let body = body.map_frame(move |frame| {
        let _as_long_as_it_comes = &connection;
        frame
    });
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Leaves out what was meant for this peer.
fn one_hop_more(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}
