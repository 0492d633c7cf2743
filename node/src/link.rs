//! Connections that carry chunks, and how long a transfer on one may take: as long as bytes move.
//!
//! How long a megabyte takes is the link's affair, and how many share it; a fixed time for it fails the slow link that works and
//! waits for nothing on the fast one that does not. So what is counted is what moves on the connection of a transfer,
//! whichever transfer it belongs to: many that share a link stand still in turn while it carries the others. A transfer is given up
//! ([`Late`]) when its connection stands still, when its last byte has left and no answer comes, and after [`Patience::whole`] in
//! any case, so that whoever sends a little now and then holds nothing for ever.
//!
//! What has left is what the system took from this process. By default it takes megabytes, which on a slow link are
//! still on their way half a minute later, with every ping behind them; so it is told to take no more than [`UNSENT`] beyond what
//! it has sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::debug;

/// How long moving one chunk may take.
pub(crate) const TRANSFER: Patience = Patience {
    // A busy disk at the other end (guess).
    still: Duration::from_secs(10),
    // 1 MiB when 32 share 1 Mbit/s.
    whole: Duration::from_secs(300),
};
/// What moves less in [`Patience::still`] stands still: pings and what else HTTP/2 says of itself are far less, a link on which
/// chunks are worth sending carries far more (guess).
pub(crate) const LEAST: u64 = 4 * 1024;
/// Looks in [`Patience::still`]: so much too late stillness is noticed.
const LOOKS: u32 = 4;
/// Bytes that the system takes before it can send them (guess: two seconds at 1 Mbit/s, a quarter of the usual chunk).
const UNSENT: u32 = 256 * 1024;
/// A connection whose other end has confirmed nothing of what was sent for so long is closed: a node that lost power says
/// nothing. As long as [`endpoint`](crate::transport::endpoint)'s pings take to find out elsewhere.
const UNCONFIRMED: Duration = Duration::from_secs(5);
/// A ping may wait behind a frame and what the system took ([`UNSENT`]), so its answer takes longer on a slow link: 1.25 MiB at 0.5
/// Mbit/s, and some more. Only a process that stands still is found out by it.
const PONG: Duration = Duration::from_secs(30);

/// How long a transfer is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// While nothing moves.
    pub(crate) still: Duration,
    /// In all.
    pub(crate) whole: Duration,
}

impl Patience {
    /// So long, whatever moves.
    pub(crate) const fn fixed(whole: Duration) -> Self {
        let still = whole;
        Patience { still, whole }
    }
}

/// Bytes that have moved on a connection, or on those made in its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved(Arc<AtomicU64>);

impl Moved {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes on their way out, where they lie; they have left when all that hold them are gone.
pub(crate) fn leaving(data: Bytes) -> (Bytes, Weak<()>) {
    struct Leaving {
        data: Bytes,
        _held: Arc<()>,
    }
    impl AsRef<[u8]> for Leaving {
        fn as_ref(&self) -> &[u8] {
            &self.data
        }
    }
    let held = Arc::new(());
    let left = Arc::downgrade(&held);
    (Bytes::from_owner(Leaving { data, _held: held }), left)
}

/// Ends when a transfer is to be given up.
pub(crate) struct Late {
    patience: Patience,
    moved: Moved,
    /// What leaves with this transfer, if it is one out.
    leaves: Option<Weak<()>>,
    /// It has: from then on what moves is others'.
    has_left: bool,
    /// Bytes that had moved when that was last much.
    mark: u64,
    since: Instant,
    end: Instant,
    look: Pin<Box<Sleep>>,
}

impl Late {
    /// A transfer that begins now, on the connection where this `moved`.
    pub(crate) fn new(patience: Patience, moved: Moved) -> Self {
        let now = Instant::now();
        Late {
            patience,
            mark: moved.bytes(),
            moved,
            leaves: None,
            has_left: false,
            since: now,
            end: now + patience.whole,
            look: Box::pin(sleep(patience.still / LOOKS)),
        }
    }

    /// The same for one that waits for an answer once all has left.
    pub(crate) fn after(self, leaves: Weak<()>) -> Self {
        let leaves = Some(leaves);
        Late { leaves, ..self }
    }

    /// Why it is to be given up.
    pub(crate) fn reason(&self) -> String {
        let Patience { still, whole } = self.patience;
        if self.since + still <= self.end {
            format!("nothing moved for {} s", still.as_secs_f32())
        } else {
            format!("it did not end within {} s", whole.as_secs_f32())
        }
    }

    fn look(&mut self, now: Instant) {
        if self.has_left {
            return;
        }
        let leaves = self.leaves.as_ref();
        self.has_left = leaves.is_some_and(|leaves| leaves.strong_count() == 0);
        let moved = self.moved.bytes();
        if self.has_left || moved - self.mark >= LEAST {
            (self.mark, self.since) = (moved, now);
        }
    }
}

impl Future for Late {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let now = Instant::now();
            self.look(now);
            let give_up = self.end.min(self.since + self.patience.still);
            if give_up <= now {
                return Poll::Ready(());
            }
            let next = give_up.min(now + self.patience.still / LOOKS);
            self.look.as_mut().reset(next);
        }
    }
}

/// A connection, made when it is first used, on which what moves is counted.
pub(crate) fn counted(endpoint: Endpoint, address: &str, moved: &Moved) -> Channel {
    let (address, moved) = (address.to_owned(), moved.clone());
    endpoint
        .keep_alive_timeout(PONG)
        .connect_with_connector_lazy(service_fn(move |_| {
            let (address, moved) = (address.clone(), moved.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                take_little(&stream);
                if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNCONFIRMED)) {
                    debug!("a node that loses power will be noticed late: {error}");
                }
                io::Result::Ok(TokioIo::new(Counted { stream, moved }))
            }
        }))
}

/// Has the system take no more than [`UNSENT`] before it can send it, where it knows how.
pub(crate) fn take_little(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        debug!("on slow links pings will be late: {error}");
    }
}

struct Counted {
    stream: TcpStream,
    moved: Moved,
}

impl Counted {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.moved.add(*bytes);
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.moved.add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const PATIENCE: Patience = Patience {
        still: Duration::from_secs(10),
        whole: Duration::from_secs(60),
    };

    /// Seconds until it is given up when so much moves in each.
    async fn given_up_after(mut late: Late, moved: Moved, each_second: usize) -> u64 {
        let begin = Instant::now();
        let moves = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                moved.add(each_second);
            }
        };
        tokio::select! {
            () = &mut late => begin.elapsed().as_secs(),
            () = moves => unreachable!("it moves for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_given_up_what_moves_in_the_end_too() {
        let late = |moved: &Moved| Late::new(PATIENCE, moved.clone());
        let moved = Moved::default();
        assert_eq!(given_up_after(late(&moved), moved.clone(), 0).await, 10);
        // Pings, and one byte now and then.
        assert_eq!(given_up_after(late(&moved), moved.clone(), 50).await, 10);
        let slow = LEAST as usize / 4;
        assert_eq!(given_up_after(late(&moved), moved.clone(), slow).await, 60);
        // It moves, and stops.
        let stopping = late(&moved);
        let mut stopping = std::pin::pin!(stopping);
        for _ in 0..30 {
            sleep(Duration::from_secs(1)).await;
            moved.add(slow);
            assert!(stopping.as_mut().now_or_never().is_none());
        }
        let stopped = Instant::now();
        stopping.await;
        let waited = stopped.elapsed();
        assert!(
            PATIENCE.still <= waited + PATIENCE.still / LOOKS,
            "{waited:?}"
        );
        assert!(
            waited <= PATIENCE.still + PATIENCE.still / LOOKS,
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_sent_all_waits_for_an_answer_whatever_moves_for_others() {
        let moved = Moved::default();
        let (data, leaves) = leaving(Bytes::from_static(b"bytes"));
        let place = data.as_ptr();
        let parts = [data.slice(..2), data.slice(2..)];
        assert_eq!(parts[0].as_ptr(), place, "they were copied");
        drop(data);
        let late = Late::new(PATIENCE, moved.clone()).after(leaves);
        let sending = async {
            sleep(Duration::from_secs(20)).await;
            drop(parts);
            std::future::pending::<()>().await;
        };
        let seconds = tokio::select! {
            seconds = given_up_after(late, moved, LEAST as usize) => seconds,
            () = sending => unreachable!("it never ends"),
        };
        assert!((30..33).contains(&seconds), "{seconds} s");
    }
}
