//! The doors: connections from outside, so many at once, and none that stays without a word.
//!
//! Who finds all places taken waits in the system's queue until somebody goes, which silent guests do after a while. So
//! what strangers can make this process hold is bounded before they have said anything, and files and peers keep the
//! descriptors they need.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;
use tonic::transport::server::Connected;
use tracing::warn;

/// Pause after the system refused a connection, usually for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

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
            http: Door::new(places, write),
            grpc: Door::new(places, write),
        }
    }
}

/// Where connections come in.
pub(crate) struct Door {
    places: Arc<Semaphore>,
    /// Held once by each guest.
    guests: Arc<()>,
    /// How long a guest may take nothing of what is sent to it.
    write: Duration,
}

impl Door {
    /// With `places` for connections, each of which takes what is sent to it within `write` or is closed.
    fn new(places: usize, write: Duration) -> Self {
        Door {
            places: Arc::new(Semaphore::new(places)),
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
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write));
        stream.set_read_timeout(silence);
        Ok(Guest {
            stream: Box::pin(stream),
            _place: place,
            _counted: self.guests.clone(),
        })
    }
}

/// A connection with its place.
pub(crate) struct Guest {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    _place: OwnedSemaphorePermit,
    _counted: Arc<()>,
}

impl Connected for Guest {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(cx, data)
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
