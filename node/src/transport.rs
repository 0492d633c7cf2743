//! Outgoing messages: one task, one connection and one call per destination.
//!
//! A call is a stream of batches. Whatever has gathered when the connection takes more goes out as the next batch, so a busy
//! link needs few of them and a quiet one adds no delay; a link that falls silent ends its call, and the next message begins
//! another ([ADR 8](../../docs/adr/0008-transport.md)). Messages may be lost: a full queue refuses, and what a call had on its
//! way when it failed is not sent again.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use peernet_core::member::PeerId;
use peernet_core::message::Message;
use peernet_proto::v1;
use peernet_proto::v1::ring_client::RingClient;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};

use crate::faults::{MessageFaults, MessagePlan};
use crate::wire::{self, Wire};

/// Largest gRPC message sent or taken anywhere; tonic's own limit of 4 MiB is less than a chunk and its envelope.
pub(crate) const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Messages are put into one batch up to this size. It is in memory several times over at both ends, as messages and as bytes;
/// with 256 KiB a peer that had just joined kept a megabyte more. Guess: still many messages in each batch.
const BATCH_BYTES: usize = 64 * 1024;
/// And so many: the shortest is twenty times as large in memory. As many as the peer's thread handles at once.
const BATCH_MESSAGES: usize = 256;
/// Messages waiting for one destination (guess).
const QUEUE: usize = 4096;
/// Their bytes (guess: several batches).
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// How long a message may take to come once it has begun; a peer that needs longer is suspected anyway.
pub(crate) const DELIVERY: Duration = Duration::from_secs(2);
/// A call on which nothing was to be said for so long ends. Guess: longer than the pauses of a link that is in use, also between
/// peers at rest in a small network, where each pings each other one every second or two.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a connection may take to be made, everywhere in the daemon.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);
/// A destination that nothing is sent to for so long is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// How to reach a peer's gRPC port: `address` is `host:port`. The connection is made when it is first used.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        // A peer whose node lost power never closes its connections: find out while requests wait.
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3)))
}

/// Sends messages; cheap to clone.
#[derive(Clone)]
pub(crate) struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    network: String,
    me: PeerId,
    runtime: Handle,
    queues: Mutex<HashMap<String, Queue>>,
    /// Only in tests.
    faults: Option<MessageFaults>,
}

struct Queue {
    sender: mpsc::Sender<Queued>,
    bytes: Arc<AtomicUsize>,
}

struct Queued {
    message: v1::Message,
    len: usize,
}

impl Transport {
    /// Sends as `me` of `network`, with tasks on `runtime`. What goes wrong on purpose is planned by `faults`.
    pub(crate) fn new(network: String, me: PeerId, runtime: Handle, faults: MessagePlan) -> Self {
        Transport {
            shared: Arc::new(Shared {
                network,
                me,
                runtime,
                queues: Mutex::default(),
                faults: MessageFaults::new(faults),
            }),
        }
    }

    /// Queues a message for `address`. Never waits; drops the message when too many wait already.
    pub(crate) fn send(&self, address: &str, message: &Message) {
        let message = message.to_wire();
        let Some(faults) = &self.shared.faults else {
            return self.queue(address, message);
        };
        for delay in faults.fate() {
            let (transport, address, message) = (self.clone(), address.to_owned(), message.clone());
            self.shared.runtime.spawn(async move {
                sleep(delay).await;
                transport.queue(&address, message);
            });
        }
    }

    fn queue(&self, address: &str, message: v1::Message) {
        let len = message.encoded_len();
        let mut queues = locked(&self.shared.queues);
        if !queues.contains_key(address) {
            let Some(queue) = self.open(address) else {
                return;
            };
            queues.insert(address.to_owned(), queue);
        }
        let queue = &queues[address];
        if queue.bytes.load(Ordering::Relaxed) + len > QUEUE_BYTES {
            return debug!(
                address,
                "too many bytes wait for this peer: message dropped"
            );
        }
        match queue.sender.try_send(Queued { message, len }) {
            Ok(()) => drop(queue.bytes.fetch_add(len, Ordering::Relaxed)),
            Err(_) => debug!(
                address,
                "too many messages wait for this peer: message dropped"
            ),
        }
    }

    fn open(&self, address: &str) -> Option<Queue> {
        let endpoint = match endpoint(address) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                warn!(address, "this is not an address: {error}");
                return None;
            }
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let bytes = Arc::new(AtomicUsize::new(0));
        let _entered = self.shared.runtime.enter();
        let client = RingClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let feed = Feed {
            network: self.shared.network.clone(),
            me: self.shared.me,
            receiver,
            bytes: bytes.clone(),
            held: None,
            call: 0,
            began: false,
        };
        let link = Link {
            shared: self.shared.clone(),
            address: address.to_owned(),
            client,
            feed: Arc::new(Mutex::new(feed)),
            refused: false,
        };
        self.shared.runtime.spawn(link.run());
        Some(Queue { sender, bytes })
    }
}

/// What waits for one destination.
struct Feed {
    network: String,
    me: PeerId,
    receiver: mpsc::Receiver<Queued>,
    bytes: Arc<AtomicUsize>,
    /// Taken from the queue, and not yet in a batch.
    held: Option<Queued>,
    /// The number of the call that takes batches; an earlier one may live on for a moment after it has failed.
    call: u64,
    /// That call has taken one.
    began: bool,
}

impl Feed {
    /// Waits for a message; `None` when there will be none any more.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if self.held.is_none() {
            self.held = ready!(self.receiver.poll_recv(cx));
        }
        Poll::Ready(self.held.is_some().then_some(()))
    }

    /// All that waits, up to [`BATCH_BYTES`] and [`BATCH_MESSAGES`].
    fn batch(&mut self) -> Vec<v1::Message> {
        let mut total = 0;
        let mut messages = Vec::new();
        while messages.len() < BATCH_MESSAGES
            && let Some(next) = self.held.take().or_else(|| self.receiver.try_recv().ok())
        {
            if total > 0 && total + next.len > BATCH_BYTES {
                self.held = Some(next);
                break;
            }
            total += next.len;
            messages.push(next.message);
        }
        self.bytes.fetch_sub(total, Ordering::Relaxed);
        messages
    }

    /// Drops all that waits now, but not what comes meanwhile; how many those are.
    fn drop_all(&mut self) -> usize {
        let waiting = self.receiver.len() + usize::from(self.held.is_some());
        let mut dropped = 0;
        while dropped < waiting {
            match self.batch().len() {
                0 => break,
                batch => dropped += batch,
            }
        }
        dropped
    }
}

/// The batches of one call.
struct Batches {
    feed: Arc<Mutex<Feed>>,
    call: u64,
    /// When there was something to say.
    last: Instant,
    silence: Pin<Box<Sleep>>,
}

impl Batches {
    fn new(feed: &Arc<Mutex<Feed>>) -> Self {
        let mut next = locked(feed);
        next.call += 1;
        next.began = false;
        let last = Instant::now();
        Batches {
            feed: feed.clone(),
            call: next.call,
            last,
            silence: Box::pin(sleep_until(last + SILENCE)),
        }
    }
}

impl Stream for Batches {
    type Item = v1::DeliverRequest;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<v1::DeliverRequest>> {
        let this = &mut *self;
        let mut feed = locked(&this.feed);
        if feed.call != this.call {
            return Poll::Ready(None);
        }
        match feed.poll_first(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(())) => {
                this.last = Instant::now();
                feed.began = true;
                let messages = feed.batch();
                Poll::Ready(Some(wire::deliver_request(
                    &feed.network,
                    feed.me,
                    messages,
                )))
            }
            Poll::Pending => loop {
                ready!(this.silence.as_mut().poll(cx));
                let end = this.last + SILENCE;
                if end <= Instant::now() {
                    return Poll::Ready(None);
                }
                this.silence.as_mut().reset(end);
            },
        }
    }
}

/// The task of one destination.
struct Link {
    shared: Arc<Shared>,
    address: String,
    client: RingClient<Channel>,
    feed: Arc<Mutex<Feed>>,
    /// The other side refuses us; said once.
    refused: bool,
}

impl Link {
    async fn run(mut self) {
        loop {
            let first = poll_fn(|cx| locked(&self.feed).poll_first(cx));
            match timeout(IDLE, first).await {
                Ok(Some(())) => self.call().await,
                Ok(None) => return,
                Err(_) if self.retire() => return,
                Err(_) => {}
            }
        }
    }

    /// One call, until it falls silent or fails.
    async fn call(&mut self) {
        let batches = Batches::new(&self.feed);
        let Err(status) = self.client.deliver(batches).await else {
            self.refused = false;
            return;
        };
        let lost = {
            let mut feed = locked(&self.feed);
            // Whoever cannot be reached is not tried without end for one and the same message, nor told what is old by then.
            if feed.began { 0 } else { feed.drop_all() }
        };
        if status.code() != tonic::Code::FailedPrecondition {
            let (address, reason) = (&self.address, status.message());
            return debug!(
                address,
                lost, "a call failed, and what was on its way: {reason}"
            );
        }
        if !self.refused {
            warn!(
                address = self.address,
                "messages are refused: {}",
                status.message()
            );
        }
        self.refused = true;
    }

    /// Forgets this destination if nothing came meanwhile. Senders hold the same lock, so nothing can be queued and
    /// lost in between.
    fn retire(&self) -> bool {
        let mut queues = locked(&self.shared.queues);
        let feed = locked(&self.feed);
        let idle = feed.held.is_none() && feed.receiver.is_empty();
        if idle {
            queues.remove(&self.address);
        }
        idle
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use peernet_core::message::Message;

    use super::*;

    fn feed() -> (mpsc::Sender<Queued>, Arc<Mutex<Feed>>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let feed = Feed {
            network: "a-network".into(),
            me: PeerId(1),
            receiver,
            bytes: Arc::default(),
            held: None,
            call: 0,
            began: false,
        };
        (sender, Arc::new(Mutex::new(feed)))
    }

    async fn say(sender: &mpsc::Sender<Queued>, len: usize) {
        let message = Message::RingNotify {}.to_wire();
        sender.send(Queued { message, len }).await.ok().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_takes_what_waits_and_ends_in_silence() {
        let (sender, feed) = feed();
        let begin = Instant::now();
        let mut call = Batches::new(&feed);
        for _ in 0..3 {
            say(&sender, 100).await;
        }
        assert_eq!(call.next().await.unwrap().messages.len(), 3);
        // Too much for one batch, unless it is one message.
        for len in [BATCH_BYTES + 1, 1, BATCH_BYTES, 1] {
            say(&sender, len).await;
        }
        for expected in [1, 1, 1, 1] {
            assert_eq!(call.next().await.unwrap().messages.len(), expected);
        }
        for _ in 0..=BATCH_MESSAGES {
            say(&sender, 1).await;
        }
        for expected in [BATCH_MESSAGES, 1] {
            assert_eq!(call.next().await.unwrap().messages.len(), expected);
        }
        // Pauses that are shorter do not end it.
        for _ in 0..3 {
            sleep(SILENCE * 2 / 3).await;
            say(&sender, 1).await;
            assert!(call.next().await.is_some());
        }
        assert!(call.next().await.is_none());
        assert!(begin.elapsed() >= SILENCE * 3);
    }

    #[tokio::test]
    async fn all_that_waited_for_who_was_not_reached_is_dropped() {
        let (sender, feed) = feed();
        let count = 3 * BATCH_MESSAGES + 1;
        let mut feed = locked(&feed);
        feed.bytes.store(count, Ordering::Relaxed);
        for _ in 0..count {
            let message = Message::RingNotify {}.to_wire();
            sender.try_send(Queued { message, len: 1 }).ok().unwrap();
        }
        assert!(poll_fn(|cx| feed.poll_first(cx)).now_or_never().is_some());
        assert_eq!(feed.drop_all(), count);
        assert!(feed.held.is_none() && feed.receiver.is_empty());
        assert_eq!(feed.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(feed.drop_all(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_failed_takes_nothing_from_the_next() {
        let (sender, feed) = feed();
        let (mut failed, mut next) = (Batches::new(&feed), Batches::new(&feed));
        say(&sender, 1).await;
        assert!(failed.next().await.is_none());
        assert!(!locked(&feed).began);
        assert_eq!(next.next().await.unwrap().messages.len(), 1);
        assert!(locked(&feed).began);
    }
}
