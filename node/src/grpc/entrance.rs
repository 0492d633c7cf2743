//! The way in for calls over gRPC: who may call while places are short, and how much of messages lies here half.
//!
//! A request of one message is heard when all of it has come; until then tonic gathers it, and nothing in HTTP/2 says how
//! many senders may stop half-way. So a message that does not come in one frame first takes its length, which it announces,
//! out of a [`Room`], waits where there is none left, and has to be whole within a time, or for a chunk as long as its connection
//! moves and no longer than a longer time ([`Late`]). Peers' messages, their chunks and clients' requests have a room each, so that none of these keeps the others out. Nothing may follow the message: tonic would
//! read that too, and gather a second one that counts nowhere. Peers' messages come as a stream, each message of which is
//! treated so; so are those of other streams but what their place covers ([`Covered`]), which an upload has from its first message
//! on.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, Ready, ready as answered};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Code, Extensions, Status};
use tower::{Layer, Service};

use super::status;
use crate::door::Seat;
use crate::files::{Budget, Share};
use crate::link::{Late, Moved, Patience};
use crate::transport::{DELIVERY, MESSAGE_MAX};

/// Bytes of half messages of the ring (guess: two of the largest, sixteen usual full batches).
const RING: usize = 2 * MESSAGE_MAX;
/// Bytes of half chunks (guess: what four peers have on their way at once).
const CHUNKS: usize = 128 * 1024 * 1024;
/// Bytes of clients' half requests; those of one message are small (guess).
const REQUESTS: usize = 2 * MESSAGE_MAX;
/// Messages that wait for room at once, each with its first frame (guess: with [`super::FRAME`] 64 MiB at most).
const WAITING: usize = 64;
/// Said to those who go on after their message.
const MORE: &str = "more came than the one message that this call takes";
/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What peers and those who run the network need, whoever else is there. A call between peers begins by naming the network.
const OF_PEERS: [&str; 6] = [
    "/peernet.v1.Ring/",
    "/peernet.v1.Chunks/",
    "/peernet.v1.Swarm/",
    "/peernet.v1.Admin/",
    "/peernet.v1.Shares/Bring",
    "/peernet.v1.Shares/Describe",
];
/// Asked by whoever restarts a process that serves nobody (Kubernetes). It is answered also in places that are kept for peers,
/// or a crowd of clients would end the peer; but who asks only this gets no such place by it, and soon has to go.
const ALIVE: &str = "/grpc.health.v1.Health/Check";
/// The calls whose request is a stream, each message of which takes room like one that comes alone.
const STREAMS: [&str; 2] = [
    "/peernet.v1.Ring/Deliver",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];
/// Those of them that have a place once their first message is here.
const UPLOADS: [&str; 2] = ["/peernet.v1.Files/Put", "/peernet.v1.Shares/Share"];
/// The stream that has a place before its first message, and whose messages are short.
const TAKE: &str = "/peernet.v1.Swarm/Take";

/// What may follow a call's first message.
enum Follows {
    Nothing,
    /// Others that take room.
    Alike,
    /// Others that take room if they are longer than this.
    Covered(Covered),
}

impl Follows {
    fn on(path: &str) -> Self {
        if STREAMS.contains(&path) {
            Follows::Alike
        } else if UPLOADS.contains(&path) {
            Follows::Covered(Covered::default())
        } else {
            Follows::Nothing
        }
    }

    fn covered(&self) -> usize {
        match self {
            Follows::Nothing | Follows::Alike => 0,
            Follows::Covered(Covered(bytes)) => bytes.load(Ordering::Relaxed),
        }
    }
}

/// Bytes up to which messages of a stream take no room, since its place counts for them; none until it has one.
#[derive(Clone, Debug, Default)]
pub(super) struct Covered(Arc<AtomicUsize>);

impl Covered {
    /// From now on, for the stream of that request.
    pub(super) fn set(request: &Extensions, bytes: usize) {
        if let Some(Covered(covered)) = request.get() {
            covered.store(bytes, Ordering::Relaxed);
        }
    }
}

/// Memory for messages that have not come in whole.
struct Room {
    budget: Budget,
    waiting: Arc<Semaphore>,
    /// How long one may wait for room, which is as long as it may stand still, and then take to come.
    patience: Patience,
}

impl Room {
    fn new(bytes: usize, patience: Patience) -> Arc<Self> {
        Arc::new(Room {
            budget: Budget::new(bytes),
            waiting: Arc::new(Semaphore::new(WAITING)),
            patience,
        })
    }

    async fn take(self: Arc<Self>, bytes: usize) -> Result<Share, Status> {
        if let Some(share) = self.budget.take_now(bytes) {
            return Ok(share);
        }
        let full = || status::busy("too many messages lie here half; send it again in a moment");
        let _waiting = self.waiting.try_acquire().map_err(|_| full())?;
        let share = timeout(self.patience.still, self.budget.take(bytes)).await;
        share.ok().flatten().ok_or_else(full)
    }
}

/// Lets calls in.
#[derive(Clone)]
pub(super) struct Entrance {
    ring: Arc<Room>,
    chunks: Arc<Room>,
    requests: Arc<Room>,
}

impl Entrance {
    /// Clients' messages have to be whole within `patience`, those of peers before their sender gives up: chunks may come as slowly
    /// as they do while they move.
    pub(super) fn new(patience: Duration, chunks: Patience) -> Self {
        Entrance {
            ring: Room::new(RING, Patience::fixed(DELIVERY)),
            chunks: Room::new(CHUNKS, chunks),
            requests: Room::new(REQUESTS, Patience::fixed(patience)),
        }
    }

    fn room(&self, path: &str) -> Option<&Arc<Room>> {
        if path == TAKE {
            None
        } else if path.starts_with(OF_PEERS[0]) {
            Some(&self.ring)
        } else if path.starts_with(OF_PEERS[1]) {
            Some(&self.chunks)
        } else {
            Some(&self.requests)
        }
    }
}

#[cfg(test)]
impl Entrance {
    /// Leaves no room for chunks.
    pub(super) fn fill_chunks(&self) -> Option<Share> {
        self.chunks.budget.take_now(CHUNKS)
    }
}

impl<S> Layer<S> for Entrance {
    type Service = Entered<S>;

    fn layer(&self, inner: S) -> Entered<S> {
        let entrance = self.clone();
        Entered { entrance, inner }
    }
}

/// The services behind it.
#[derive(Clone)]
pub(super) struct Entered<S> {
    entrance: Entrance,
    inner: S,
}

impl<S> Service<Request<Body>> for Entered<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let of_peers = OF_PEERS.iter().any(|prefix| path.starts_with(prefix));
        let seat = request.extensions().get::<Seat>();
        if path != ALIVE && seat.is_some_and(|seat| !seat.admits(of_peers)) {
            let full = status::busy(
                "this peer has as many clients as it takes; try again in a moment, or through another peer",
            );
            return Either::Left(answered(Ok(full.into_http())));
        }
        let came = seat.map(Seat::came).unwrap_or_default();
        let request = match self.entrance.room(path).cloned() {
            Some(room) => {
                let follows = Follows::on(path);
                if let Follows::Covered(covered) = &follows {
                    request.extensions_mut().insert(covered.clone());
                }
                request.map(|body| Body::new(Whole::new(body, room, came, follows)))
            }
            None => request,
        };
        Either::Right(self.inner.call(request))
    }
}

/// A request of one message, or of several of which each has to be whole in time.
struct Whole {
    body: Body,
    room: Arc<Room>,
    /// On the connection, for this message and all others.
    came: Moved,
    follows: Follows,
    state: State,
    /// Bytes of the message that have not come, once its length is known.
    left: usize,
    /// Came with the end of an upload's first message, which is handed on alone: what follows may be covered then.
    rest: Option<Bytes>,
    /// That has been handed on.
    began: bool,
}

enum State {
    /// So many bytes of what is before the message have come.
    Prefix([u8; PREFIX], usize),
    /// The first frame waits for room.
    Waiting(
        BoxFuture<'static, Result<Share, Status>>,
        Option<Frame<Bytes>>,
    ),
    /// The rest is to come.
    Coming { _share: Share, late: Pin<Box<Late>> },
    /// All is there, or what is not would be refused.
    Passing,
}

impl Whole {
    fn new(body: Body, room: Arc<Room>, came: Moved, follows: Follows) -> Self {
        Whole {
            body,
            room,
            came,
            follows,
            state: State::Prefix([0; PREFIX], 0),
            left: 0,
            rest: None,
            began: false,
        }
    }

    /// What follows on a frame.
    fn after(&mut self, frame: &[u8]) -> Result<After, Status> {
        let mut data = frame;
        loop {
            if let State::Prefix(prefix, seen) = &mut self.state {
                let new = data.len().min(PREFIX - *seen);
                prefix[*seen..*seen + new].copy_from_slice(&data[..new]);
                *seen += new;
                if *seen < PREFIX {
                    return Ok(After::Pass);
                }
                let [_, length @ ..] = *prefix;
                let length = u32::from_be_bytes(length) as usize;
                data = &data[new..];
                self.state = State::Passing;
                if length > MESSAGE_MAX {
                    // What no service takes is left to the service to refuse.
                    self.left = usize::MAX;
                } else if data.len() < length && length > self.follows.covered() {
                    self.left = length - data.len();
                    return Ok(After::Take(length));
                } else {
                    self.left = length;
                }
            }
            let here = data.len().min(self.left);
            self.left -= here;
            data = &data[here..];
            if self.left > 0 {
                return Ok(After::Pass);
            }
            match (&self.follows, data) {
                (Follows::Nothing, []) => return Ok(After::Pass),
                (Follows::Nothing, [_, ..]) => return Err(Status::invalid_argument(MORE)),
                (Follows::Alike | Follows::Covered(_), _) => {
                    self.state = State::Prefix([0; PREFIX], 0);
                }
            }
            let first = !std::mem::replace(&mut self.began, true);
            if first && !data.is_empty() && matches!(self.follows, Follows::Covered(_)) {
                return Ok(After::Split(frame.len() - data.len()));
            }
        }
    }
}

/// A request that its sender gave up. tonic takes `Cancelled` for the end of a request, and hyper a reset without an error, so half
/// an upload would be stored as if it were whole.
fn broken_off() -> Status {
    Status::aborted("the request was broken off before its end")
}

/// What becomes of a frame.
enum After {
    Pass,
    /// Once there is room for so many bytes.
    Take(usize),
    /// So much of it, and what is left when that has been heard.
    Split(usize),
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let Whole {
                body,
                room,
                came,
                state,
                rest,
                ..
            } = &mut *self;
            if let State::Waiting(share, first) = state {
                let share = ready!(share.as_mut().poll(cx));
                let first = first.take();
                *state = State::Passing;
                return Poll::Ready(match share {
                    Ok(share) => {
                        *state = State::Coming {
                            _share: share,
                            late: Box::pin(Late::new(room.patience, came.clone())),
                        };
                        first.map(Ok)
                    }
                    Err(full) => Some(Err(full)),
                });
            }
            let next = match rest.take() {
                Some(rest) => Poll::Ready(Some(Ok(Frame::data(rest)))),
                None => match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Err(status))) if status.code() == Code::Cancelled => {
                        Poll::Ready(Some(Err(broken_off())))
                    }
                    Poll::Ready(None) if !body.is_end_stream() => {
                        Poll::Ready(Some(Err(broken_off())))
                    }
                    next => next,
                },
            };
            let frame = match next {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    if let State::Coming { late, .. } = state {
                        ready!(late.as_mut().poll(cx));
                        let late = "the message was not whole in time; send it again";
                        return Poll::Ready(Some(Err(Status::deadline_exceeded(late))));
                    }
                    return Poll::Pending;
                }
            };
            let data = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref());
            let after = data.map_or(Ok(After::Pass), |data| self.after(data));
            match (after, frame) {
                (Err(more), _) => return Poll::Ready(Some(Err(more))),
                (Ok(After::Take(length)), Some(Ok(first))) => {
                    let share = Box::pin(self.room.clone().take(length));
                    self.state = State::Waiting(share, Some(first));
                }
                (Ok(After::Split(at)), Some(Ok(frame))) => {
                    let frame = frame.map_data(|mut data| {
                        self.rest = Some(data.split_off(at));
                        data
                    });
                    return Poll::Ready(Some(Ok(frame)));
                }
                (_, frame) => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let more = self.rest.is_some() || matches!(self.state, State::Waiting(..));
        !more && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
