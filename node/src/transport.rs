//! Outgoing messages: one task, one connection and one request in flight per destination.
//!
//! Whatever gathers while a request is under way goes out as the next batch, so a busy link needs few requests and a
//! quiet one adds no delay. Messages may be lost: a full queue refuses, and a batch that fails is not sent again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peernet_core::member::PeerId;
use peernet_core::message::Message;
use peernet_proto::v1;
use peernet_proto::v1::ring_client::RingClient;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};

use crate::faults::{MessageFaults, MessagePlan};
use crate::wire::{self, Wire};

/// Largest gRPC message sent or taken anywhere; tonic's own limit of 4 MiB is less than a chunk and its envelope.
pub(crate) const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Messages are put into one batch up to this size (guess: well below a default receiver's 4 MiB).
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Messages waiting for one destination (guess).
const QUEUE: usize = 4096;
/// Their bytes (guess: several batches).
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// How long a batch may take; a peer that needs longer is suspected anyway.
pub(crate) const DELIVERY: Duration = Duration::from_secs(2);
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
        let mut queues = self
            .shared
            .queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
        let link = Link {
            shared: self.shared.clone(),
            address: address.to_owned(),
            client,
            receiver,
            bytes: bytes.clone(),
            held: None,
            refused: false,
        };
        self.shared.runtime.spawn(link.run());
        Some(Queue { sender, bytes })
    }
}

/// The task of one destination.
struct Link {
    shared: Arc<Shared>,
    address: String,
    client: RingClient<Channel>,
    receiver: mpsc::Receiver<Queued>,
    bytes: Arc<AtomicUsize>,
    /// Did not fit the last batch.
    held: Option<Queued>,
    /// The other side refuses us; said once.
    refused: bool,
}

impl Link {
    async fn run(mut self) {
        loop {
            let first = match self.held.take() {
                Some(held) => held,
                None => match timeout(IDLE, self.receiver.recv()).await {
                    Ok(Some(first)) => first,
                    Ok(None) => return,
                    Err(_) if self.retire() => return,
                    Err(_) => continue,
                },
            };
            let messages = self.batch(first);
            self.deliver(messages).await;
        }
    }

    /// All that waits, up to [`BATCH_BYTES`].
    fn batch(&mut self, first: Queued) -> Vec<v1::Message> {
        let mut total = first.len;
        let mut messages = vec![first.message];
        while let Ok(next) = self.receiver.try_recv() {
            if total + next.len > BATCH_BYTES {
                self.held = Some(next);
                break;
            }
            total += next.len;
            messages.push(next.message);
        }
        self.bytes.fetch_sub(total, Ordering::Relaxed);
        messages
    }

    async fn deliver(&mut self, messages: Vec<v1::Message>) {
        let count = messages.len();
        let request = wire::deliver_request(&self.shared.network, self.shared.me, messages);
        match timeout(DELIVERY, self.client.deliver(request)).await {
            Ok(Ok(_)) => self.refused = false,
            Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                if !self.refused {
                    warn!(
                        address = self.address,
                        "messages are refused: {}",
                        status.message()
                    );
                }
                self.refused = true;
            }
            Ok(Err(status)) => debug!(
                address = self.address,
                count,
                "messages lost: {}",
                status.message()
            ),
            Err(_) => debug!(
                address = self.address,
                count, "messages lost: no answer in time"
            ),
        }
    }

    /// Forgets this destination if nothing came meanwhile. Senders hold the same lock, so nothing can be queued and
    /// lost in between.
    fn retire(&self) -> bool {
        let mut queues = self
            .shared
            .queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let idle = self.receiver.is_empty();
        if idle {
            queues.remove(&self.address);
        }
        idle
    }
}
