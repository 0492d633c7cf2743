//! The way in for calls over gRPC: who may call while places are short, and how much of messages lies here half.
//!
//! A request of one message is heard when all of it has come; until then tonic gathers it, and nothing in HTTP/2 says how
//! many senders may stop half-way. So a message that does not come in one frame first takes its length, which it announces,
//! out of a [`Room`], waits where there is none left, and has to be whole within a time. Peers' messages, their chunks and
//! clients' requests have a room each, so that none of these keeps the others out. Nothing may follow the message: tonic would
//! read that too, and gather a second one that counts nowhere. Peers' messages come as a stream, each message of which is
//! treated so; other streams are bounded where they are read ([`Files`](crate::files::Files)).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, Ready, ready as answered};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::status;
use crate::chunks::remote::TRANSFER;
use crate::door::Seat;
use crate::files::{Budget, Share};
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
/// The stream whose messages take room like those that come alone.
const MESSAGES: &str = "/peernet.v1.Ring/Deliver";
/// The other calls whose request is a stream.
const STREAMS: [&str; 4] = [
    "/peernet.v1.Files/Put",
    "/peernet.v1.Shares/Share",
    "/peernet.v1.Swarm/Take",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// Memory for messages that have not come in whole.
struct Room {
    budget: Budget,
    waiting: Arc<Semaphore>,
    /// How long one may wait for room, and then take to come.
    patience: Duration,
}

impl Room {
    fn new(bytes: usize, patience: Duration) -> Arc<Self> {
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
        let share = timeout(self.patience, self.budget.take(bytes)).await;
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
    /// Clients' messages have to be whole within `patience`, those of peers before their sender gives up.
    pub(super) fn new(patience: Duration) -> Self {
        Entrance {
            ring: Room::new(RING, DELIVERY),
            chunks: Room::new(CHUNKS, TRANSFER),
            requests: Room::new(REQUESTS, patience),
        }
    }

    fn room(&self, path: &str) -> Option<&Arc<Room>> {
        if STREAMS.contains(&path) {
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let of_peers = OF_PEERS.iter().any(|prefix| path.starts_with(prefix));
        let seat = request.extensions().get::<Seat>();
        if seat.is_some_and(|seat| !seat.admits(of_peers)) {
            let full = status::busy(
                "this peer has as many clients as it takes; try again in a moment, or through another peer",
            );
            return Either::Left(answered(Ok(full.into_http())));
        }
        let request = match self.entrance.room(path).cloned() {
            Some(room) => {
                let repeats = path == MESSAGES;
                request.map(|body| Body::new(Whole::new(body, room, repeats)))
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
    /// Other messages may follow.
    repeats: bool,
    state: State,
    /// Bytes of the message that have not come, once its length is known.
    left: usize,
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
    Coming {
        _share: Share,
        late: Pin<Box<Sleep>>,
    },
    /// All is there, or what is not would be refused.
    Passing,
}

impl Whole {
    fn new(body: Body, room: Arc<Room>, repeats: bool) -> Self {
        Whole {
            body,
            room,
            repeats,
            state: State::Prefix([0; PREFIX], 0),
            left: 0,
        }
    }

    /// What follows on a frame: room is to be taken for so many bytes, if that is more than to pass it on.
    fn after(&mut self, mut data: &[u8]) -> Result<Option<usize>, Status> {
        loop {
            if let State::Prefix(prefix, seen) = &mut self.state {
                let new = data.len().min(PREFIX - *seen);
                prefix[*seen..*seen + new].copy_from_slice(&data[..new]);
                *seen += new;
                if *seen < PREFIX {
                    return Ok(None);
                }
                let [_, length @ ..] = *prefix;
                let length = u32::from_be_bytes(length) as usize;
                data = &data[new..];
                self.state = State::Passing;
                if length > MESSAGE_MAX {
                    // What no service takes is left to the service to refuse.
                    self.left = usize::MAX;
                } else if data.len() < length {
                    self.left = length - data.len();
                    return Ok(Some(length));
                } else {
                    self.left = length;
                }
            }
            let here = data.len().min(self.left);
            self.left -= here;
            data = &data[here..];
            match (self.left, self.repeats, data) {
                (0, false, [_, ..]) => return Err(Status::invalid_argument(MORE)),
                (0, true, _) => self.state = State::Prefix([0; PREFIX], 0),
                _ => return Ok(None),
            }
        }
    }
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
                body, room, state, ..
            } = &mut *self;
            if let State::Waiting(share, first) = state {
                let share = ready!(share.as_mut().poll(cx));
                let first = first.take();
                *state = State::Passing;
                return Poll::Ready(match share {
                    Ok(share) => {
                        *state = State::Coming {
                            _share: share,
                            late: Box::pin(sleep(room.patience)),
                        };
                        first.map(Ok)
                    }
                    Err(full) => Some(Err(full)),
                });
            }
            let frame = match Pin::new(body).poll_frame(cx) {
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
            let half = data.map_or(Ok(None), |data| self.after(data));
            match (half, frame) {
                (Err(more), _) => return Poll::Ready(Some(Err(more))),
                (Ok(Some(length)), Some(Ok(first))) => {
                    let share = Box::pin(self.room.clone().take(length));
                    self.state = State::Waiting(share, Some(first));
                }
                (_, frame) => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.state, State::Waiting(..)) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::{BodyExt, StreamBody};
    use peernet_proto::DESCRIPTORS;
    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorSet};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// Whoever adds a call whose request is a stream has to say so here.
    #[test]
    fn streams_are_known() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let mut streams = Vec::new();
        for file in &files {
            for service in &file.service {
                let calls = service.method.iter().filter(|m| m.client_streaming());
                let path = |name| format!("/{}.{}/{}", file.package(), service.name(), name);
                streams.extend(calls.map(|m| path(m.name())));
            }
        }
        streams.sort();
        let mut known = [&STREAMS[..3], &[MESSAGES]].concat();
        known.sort_unstable();
        assert_eq!(streams, known);
    }

    /// Whoever adds a call between peers has to say so here, or a full peer would refuse its own kind.
    #[test]
    fn calls_between_peers_are_known() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let messages = files.iter().flat_map(|file| &file.message_type);
        let messages: Vec<&DescriptorProto> = messages.collect();
        let (mut between_peers, mut all) = (Vec::new(), Vec::new());
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let input = method.input_type().rsplit('.').next();
                    let request = messages.iter().find(|m| Some(m.name()) == input).unwrap();
                    if names_network(request) {
                        between_peers.push(path.clone());
                    }
                    all.push(path);
                }
            }
        }
        let listed = |path: &String| OF_PEERS.iter().any(|prefix| path.starts_with(prefix));
        let strangers: Vec<&String> = between_peers.iter().filter(|p| !listed(p)).collect();
        assert!(strangers.is_empty(), "not in OF_PEERS: {strangers:?}");
        for prefix in OF_PEERS {
            assert!(all.iter().any(|path| path.starts_with(prefix)), "{prefix}");
        }
        for known in ["Ring/Deliver", "Chunks/Have", "Swarm/Take", "Shares/Bring"] {
            let path = format!("/peernet.v1.{known}");
            assert!(between_peers.contains(&path), "{path} names no network");
        }
    }

    fn names_network(message: &DescriptorProto) -> bool {
        message.field.iter().any(|f| f.name() == "network_id")
            || message.nested_type.iter().any(names_network)
    }

    fn message(length: u32, here: usize) -> Bytes {
        let prefix = [&[0][..], &length.to_be_bytes()].concat();
        prefix
            .into_iter()
            .chain(std::iter::repeat_n(7, here))
            .collect()
    }

    fn whole(room: &Arc<Room>) -> (mpsc::Sender<Bytes>, Whole) {
        request(room, false)
    }

    fn request(room: &Arc<Room>, repeats: bool) -> (mpsc::Sender<Bytes>, Whole) {
        let (frames, receiver) = mpsc::channel(8);
        let frames_in = futures::StreamExt::map(ReceiverStream::new(receiver), |data| {
            Ok::<_, Status>(Frame::data(data))
        });
        let body = Body::new(StreamBody::new(frames_in));
        (frames, Whole::new(body, room.clone(), repeats))
    }

    #[tokio::test(start_paused = true)]
    async fn half_messages_take_room_until_they_are_whole_or_late() {
        let room = Room::new(100 * 1024, Duration::from_secs(5));
        let length = |n: usize| (n * 1024) as u32;
        // What comes at once takes none, whatever is before it.
        let (frames, small) = whole(&room);
        let mut data = message(3, 3);
        frames.send(data.split_to(4)).await.unwrap();
        frames.send(data).await.unwrap();
        drop(frames);
        assert_eq!(small.collect().await.unwrap().to_bytes(), message(3, 3));
        assert_eq!(room.budget.taken(), 0);

        let (frames, mut first) = whole(&room);
        frames.send(message(length(60), 1024)).await.unwrap();
        assert!(first.frame().await.unwrap().is_ok());
        assert_eq!(room.budget.taken(), 60 * 1024);
        let (others, mut second) = whole(&room);
        others.send(message(length(60), 1024)).await.unwrap();
        assert!(second.frame().now_or_never().is_none(), "there is no room");
        frames.send(Bytes::from(vec![7; 59 * 1024])).await.unwrap();
        drop(frames);
        first.collect().await.unwrap();
        assert!(second.frame().await.unwrap().is_ok());
        // Now and then a byte does not make it come in time.
        let late = loop {
            others.send(Bytes::from_static(b"7")).await.unwrap();
            assert!(second.frame().await.unwrap().is_ok());
            sleep(Duration::from_secs(1)).await;
            if let Some(late) = second.frame().now_or_never() {
                break late.unwrap().unwrap_err();
            }
        };
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
        drop(second);
        assert_eq!(room.budget.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_message_of_a_stream_takes_room_until_it_is_whole_or_late() {
        let room = Room::new(100 * 1024, Duration::from_secs(5));
        let (frames, mut stream) = request(&room, true);
        let next = async |stream: &mut Whole| stream.frame().await.unwrap().map(|_| ());
        // Two, the beginning of a third and its end with a fourth.
        let two = [message(3, 3), message(0, 0), message(2, 2)].concat();
        frames.send(two.into()).await.unwrap();
        next(&mut stream).await.unwrap();
        assert_eq!(room.budget.taken(), 0);
        let third = [message(1, 1), message(60 * 1024, 1024)].concat();
        frames.send(third.into()).await.unwrap();
        next(&mut stream).await.unwrap();
        assert_eq!(room.budget.taken(), 60 * 1024);
        let end = [&[7; 59 * 1024][..], &message(50 * 1024, 9)].concat();
        frames.send(end.into()).await.unwrap();
        next(&mut stream).await.unwrap();
        assert_eq!(room.budget.taken(), 50 * 1024);
        frames.send(vec![7; 50 * 1024 - 9].into()).await.unwrap();
        next(&mut stream).await.unwrap();
        assert_eq!(room.budget.taken(), 0);
        // Silence between messages is no fault, within one it is.
        assert!(stream.frame().now_or_never().is_none());
        sleep(Duration::from_secs(60)).await;
        assert!(stream.frame().now_or_never().is_none());
        frames.send(message(100, 9)).await.unwrap();
        next(&mut stream).await.unwrap();
        let late = next(&mut stream).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
        drop(stream);
        assert_eq!(room.budget.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_may_follow_the_message() {
        let room = Room::new(100 * 1024, Duration::from_secs(5));
        let second = message(10_000, 5_000);
        // In a frame of its own, in the first one, and after a message that came in two.
        let cases = [
            vec![message(3, 3), second.clone()],
            vec![[&message(3, 3)[..], &second].concat().into()],
            vec![message(3, 1), Bytes::from_static(b"77"), second],
        ];
        for frames_sent in cases {
            let (frames, body) = whole(&room);
            for frame in frames_sent {
                frames.send(frame).await.unwrap();
            }
            let refused = body.collect().await.map(|_| ()).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert_eq!(room.budget.taken(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_to_come_again() {
        let room = Room::new(100 * 1024, Duration::from_secs(5));
        let held = room.budget.take_now(90 * 1024).unwrap();
        let mut waiting = Vec::new();
        for n in 0..=WAITING {
            let (frames, mut body) = whole(&room);
            frames.send(message(20 * 1024, 1)).await.unwrap();
            match body.frame().now_or_never() {
                None => waiting.push((frames, body)),
                Some(refused) => {
                    let refused = refused.unwrap().unwrap_err();
                    assert_eq!(
                        (n, refused.code()),
                        (WAITING, tonic::Code::ResourceExhausted)
                    );
                }
            }
        }
        assert_eq!(waiting.len(), WAITING);
        let (_, mut first) = waiting.remove(0);
        let refused = first.frame().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let (_, mut last) = waiting.remove(0);
        assert!(last.frame().await.unwrap().is_err(), "it waited as long");
        drop((waiting, held));
        // What no service takes is left to the service to refuse.
        let (frames, mut body) = whole(&room);
        frames.send(message(u32::MAX, 1)).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(room.budget.taken(), 0);
    }
}
