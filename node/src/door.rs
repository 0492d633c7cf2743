//! The doors: connections from outside, so many at once, and none that stays without a word.
//!
//! Who finds all places taken waits in the system's queue until somebody goes, which silent guests do after a while. So
//! what strangers can make this process hold is bounded before they have said anything, and files and peers keep the
//! descriptors they need.
//!
//! Peers and their clients come by the same door for gRPC, and nobody can tell who comes before the first call. So some
//! places are kept: whoever finds only these is let in for as long as a first call takes, and stays if it is one of those
//! that peers make of each other ([`Seat::admits`]). A client is told to come again there, and has the next place that
//! others leave. Over HTTP there are only clients, and a peer that is full answers nobody there until one goes: a probe that may
//! end the process has to come over gRPC.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::link::{Moved, take_little};

/// Pause after the system refused a connection, usually for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// One place of so many is kept for peers, where they share them with clients (guess).
const KEPT: usize = 4;
/// How long who is in such a place may take to show that it belongs there (guess: a peer that connects has something to
/// say).
const FIRST_CALL: Duration = Duration::from_secs(5);

/// All doors of a peer.
pub(crate) struct Doors {
    /// For clients.
    pub(crate) http: Door,
    /// For clients and peers.
    pub(crate) grpc: Door,
}

impl Doors {
    /// With places for so many `connections` at each; see [`Door::new`].
    pub(crate) fn new(connections: u32, write: Duration) -> Self {
        let places = places(connections);
        Doors {
            http: Door::new(places, 0, write),
            grpc: Door::new(places, places / KEPT, write),
        }
    }
}

/// Where connections come in.
pub(crate) struct Door {
    places: Arc<Semaphore>,
    /// For peers, when there are no others.
    kept: Arc<Semaphore>,
    /// Held once by each guest.
    guests: Arc<()>,
    /// How long a guest may take nothing of what is sent to it.
    write: Duration,
}

impl Door {
    /// With `places` for connections, of which so many are `kept` for peers. Each takes what is sent to it within `write` or
    /// is closed.
    fn new(places: usize, kept: usize, write: Duration) -> Self {
        Door {
            places: Arc::new(Semaphore::new(places - kept)),
            kept: Arc::new(Semaphore::new(kept)),
            guests: Arc::default(),
            write,
        }
    }

    /// Connections now.
    pub(crate) fn guests(&self) -> usize {
        Arc::strong_count(&self.guests) - 1
    }

    /// Connections as they come, without end. One on which nothing comes for `silence` is closed, if that is given.
    pub(crate) fn open(
        &self,
        listener: TcpListener,
        silence: Option<Duration>,
    ) -> impl Stream<Item = io::Result<Guest>> {
        stream::unfold(listener, move |listener| async move {
            loop {
                match self.admit(&listener, silence).await {
                    Ok(guest) => return Some((Ok(guest), listener)),
                    Err(error) => {
                        warn!("a connection could not be accepted: {error}");
                        sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        })
    }

    async fn admit(&self, listener: &TcpListener, silence: Option<Duration>) -> io::Result<Guest> {
        let (place, is_kept) = tokio::select! {
            biased;
            place = self.places.clone().acquire_owned() => (place, false),
            place = self.kept.clone().acquire_owned() => (place, true),
        };
        let place = place.map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        take_little(&stream);
        let held = Held {
            _place: place,
            for_now: is_kept,
        };
        Ok(Guest {
            stream,
            reads: silence.map(Waiting::new),
            writes: Waiting::new(self.write),
            seat: Seat(Arc::new(Taken {
                held: Mutex::new(held),
                came: Moved::default(),
                places: self.places.clone(),
            })),
            first_call: is_kept.then(|| Box::pin(sleep(FIRST_CALL))),
            _counted: self.guests.clone(),
        })
    }
}

/// A connection with its place.
pub(crate) struct Guest {
    stream: TcpStream,
    /// For bytes that come, where silence is limited.
    reads: Option<Waiting>,
    /// For room for those that go.
    writes: Waiting,
    seat: Seat,
    /// Until it has shown that its place is its own.
    first_call: Option<Pin<Box<Sleep>>>,
    _counted: Arc<()>,
}

/// How long a guest has kept this side waiting.
///
/// The clock is wound up when it has run down and not with each byte: a timer that is set anew wakes the task that waits for
/// the next one, and a peer at rest is woken by little else (measured: docs/benchmarks.md, "At rest").
struct Waiting {
    patience: Duration,
    /// Since when, if it does.
    since: Option<Instant>,
    /// Runs down at the latest when the patience is at its end; none before the first wait.
    clock: Option<Pin<Box<Sleep>>>,
}

impl Waiting {
    fn new(patience: Duration) -> Self {
        Waiting {
            patience,
            since: None,
            clock: None,
        }
    }

    /// What a read or a write has come to: an error, when it has waited for too long.
    fn passed<T>(
        &mut self,
        done: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.since = None;
            return done;
        }
        let end = *self.since.get_or_insert_with(Instant::now) + self.patience;
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(end)));
        while clock.as_mut().poll(cx).is_ready() {
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            clock.as_mut().reset(end);
        }
        Poll::Pending
    }
}

/// The place of a connection.
#[derive(Clone)]
pub(crate) struct Seat(Arc<Taken>);

struct Taken {
    held: Mutex<Held>,
    /// What has come on this connection.
    came: Moved,
    /// For clients.
    places: Arc<Semaphore>,
}

struct Held {
    _place: OwnedSemaphorePermit,
    /// It is kept for peers, and nobody knows yet who this is.
    for_now: bool,
}

impl Seat {
    /// Whether who sits here may make a call: one that peers make of each other, or a client's.
    pub(crate) fn admits(&self, of_peers: bool) -> bool {
        let mut held = self.held();
        if held.for_now && of_peers {
            held.for_now = false;
        } else if held.for_now
            && let Ok(place) = self.0.places.clone().try_acquire_owned()
        {
            *held = Held {
                _place: place,
                for_now: false,
            };
        }
        !held.for_now
    }

    /// What has come on this connection.
    pub(crate) fn came(&self) -> Moved {
        self.0.came.clone()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected for Guest {
    type ConnectInfo = Seat;
    fn connect_info(&self) -> Seat {
        self.seat.clone()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(first_call) = &mut self.first_call
            && first_call.as_mut().poll(cx).is_ready()
        {
            if self.seat.held().for_now {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.first_call = None;
        }
        let before = buffer.filled().len();
        let Guest { stream, reads, .. } = &mut *self;
        let read = Pin::new(stream).poll_read(cx, buffer);
        ready!(match reads {
            Some(reads) => reads.passed(read, cx),
            None => read,
        })?;
        self.seat.0.came.add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.writes.passed(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.writes.passed(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.writes.passed(shut, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.writes.passed(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Places for `wanted` connections at each of two doors, or as many as leave half of this process's file descriptors to
/// files and to connections it makes itself. The process may use all that the system grants it, from now on.
fn places(wanted: u32) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let granted = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    let room = granted.map_or(usize::MAX, |n| usize::try_from(n / 4).unwrap_or(usize::MAX));
    let wanted = wanted as usize;
    if room < wanted {
        warn!(
            "{wanted} connections were asked for, but with the limit of open files there is room for {room} each over \
             HTTP and gRPC: raise it (ulimit -n)"
        );
    }
    wanted.min(room.max(1))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn waits(waiting: &mut Waiting) -> io::Result<()> {
        poll_fn(|cx| waiting.passed(Poll::Pending, cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_something_in_time_may_stay_and_who_does_not_may_not() {
        let mut waiting = Waiting::new(PATIENCE);
        for _ in 0..5 {
            assert!(waits(&mut waiting).now_or_never().is_none());
            sleep(PATIENCE * 2 / 3).await;
            assert!(waits(&mut waiting).now_or_never().is_none());
            let came = poll_fn(|cx| waiting.passed(Poll::Ready(Ok(7)), cx)).await;
            assert_eq!(came.unwrap(), 7);
            // Nobody waits for it.
            sleep(PATIENCE / 2).await;
        }
        let begin = Instant::now();
        let error = waits(&mut waiting).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed().as_secs(), PATIENCE.as_secs());
    }
}
