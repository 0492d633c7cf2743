//! What a peer goes through: it waits for an assignment, runs as a member, has left, and may be assigned again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peernet_core::boot::{Assignment, BootError, boot};
use peernet_core::io::{Input, Status, Time};
use peernet_core::key::{Key, Position};
use peernet_core::member::{Liveness, PeerId};
use peernet_core::peer::Peer;
use peernet_core::store::{Identity, Store};
use peernet_proto::v1;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::chunks::Chunks;
use crate::chunks::fetch::Fetcher;
use crate::chunks::scrub::keep_scrubbing;
use crate::chunks::sweep::keep_sweeping;
use crate::chunks::writes::Writes;
use crate::config::{Place, Setup};
use crate::disk::{ChunkFiles, DiskStore, Purpose};
use crate::door::Doors;
use crate::driver::{self, Effects, Ended, Failure, PeerError, PeerHandle, Thread};
use crate::files::{Files, now_unix_ms};
use crate::seeds::Seeds;
use crate::shares::Shares;
use crate::shares::shelf::Shelf;
use crate::transport::Transport;
use crate::wire::Disk;
use crate::{config, events};

/// How long the peer's thread may take to commit its last batch.
pub(super) const LAST_COMMIT: Duration = Duration::from_secs(10);

/// How often the disk's room is looked at. Guess: short against the time it takes to write the reserve full.
const ROOM_PERIOD: Duration = Duration::from_secs(1);

/// Why an assignment was not taken. Nothing has changed.
#[derive(Debug, Error)]
pub enum AssignError {
    /// It runs as a member of another network.
    #[error("this peer is a member of network {running}, not of {told}")]
    OtherNetwork {
        /// The network it is in.
        running: String,
        /// The network it was told.
        told: String,
    },
    /// The volume cannot be used for it.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// An earlier failure has left no volume to run on.
    #[error("this peer is stopping")]
    Stopping,
    /// The system gave no thread or no randomness.
    #[error("this peer cannot run: {0}")]
    System(String),
}

/// Why a request is not served now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum NotServing {
    /// It has no network yet.
    #[error(
        "this peer is waiting for an assignment to a network; try again in a moment, or ask another peer"
    )]
    Waiting,
    /// It has left.
    #[error("this peer has left the network; ask another peer")]
    Left,
    /// The process is about to end.
    #[error("this peer is stopping; ask another peer")]
    Stopping,
}

/// A peer that is, or was, a member of a network.
pub(crate) struct Running {
    /// UUID of the network.
    pub(crate) network: String,
    /// Its identity.
    pub(crate) id: PeerId,
    /// Its state machine.
    pub(crate) peer: PeerHandle,
    /// Its chunks.
    pub(crate) chunks: Arc<Chunks>,
    /// Its view of the network's files.
    pub(crate) files: Files,
    /// The files that stay with it.
    pub(crate) shares: Shares,
    /// The origin of the peer's clock, in milliseconds since the Unix epoch.
    pub(crate) origin_unix_ms: u64,
    /// How it stands with the broker of events.
    pub(crate) broker: events::Link,
    left: watch::Receiver<bool>,
}

impl Running {
    /// This identity has left for good.
    pub(crate) fn has_left(&self) -> bool {
        *self.left.borrow()
    }
}

/// What the volume remembers of its peer.
pub(crate) enum Remembered {
    /// It has never been in a network.
    Nothing,
    /// As it was when this process started.
    Before(Box<Identity>),
    /// It runs, or has left.
    Now(Arc<Running>),
}

/// The peer of this process through all its lives.
pub(crate) struct Life {
    setup: Setup,
    /// `host:port` for gRPC and for HTTP, as others reach it.
    addresses: (String, String),
    before: Option<Identity>,
    /// It was a member before, and needs nobody to tell it where it belongs.
    was_member: bool,
    chunk_files: Arc<ChunkFiles>,
    shelf: Arc<Shelf>,
    running: watch::Sender<Option<Arc<Running>>>,
    doors: Doors,
    /// Held while an assignment is carried out.
    volume: Mutex<Volume>,
    failed: mpsc::Sender<Failure>,
    /// Clients' requests under way, and what they left to do.
    clients: TaskTracker,
    stopping: CancellationToken,
}

/// Where the metadata's store is.
enum Volume {
    /// Here: no peer runs.
    Idle(Box<DiskStore>),
    /// In the peer's thread, which gives it back here.
    Lent(oneshot::Receiver<Box<DiskStore>>),
    /// Gone with a failure.
    Lost,
}

impl Life {
    pub(super) fn new(
        setup: Setup,
        grpc_port: u16,
        http_port: u16,
        store: DiskStore,
        files: ChunkFiles,
        shelf: Shelf,
        failed: mpsc::Sender<Failure>,
    ) -> Result<Self, Failure> {
        let host = &setup.advertise_host;
        let known = store.remembered()?;
        let was_member = !known.members.is_empty() || !known.slots.is_empty();
        Ok(Life {
            addresses: (format!("{host}:{grpc_port}"), format!("{host}:{http_port}")),
            before: store.identity()?,
            was_member,
            doors: Doors::new(setup.connections, setup.client_timeout),
            setup,
            chunk_files: Arc::new(files),
            shelf: Arc::new(shelf),
            running: watch::Sender::new(None),
            volume: Mutex::new(Volume::Idle(Box::new(store))),
            failed,
            clients: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    pub(crate) fn doors(&self) -> &Doors {
        &self.doors
    }

    /// What goes on here now.
    pub(crate) fn load(&self) -> v1::Load {
        let held = self.running.borrow().as_ref().map(|r| r.files.held_bytes());
        let (upload_bytes, download_bytes) = held.unwrap_or_default();
        v1::Load {
            http_connections: self.doors.http.guests() as u64,
            grpc_connections: self.doors.grpc.guests() as u64,
            upload_bytes,
            download_bytes,
        }
    }

    /// Where this peer belongs without being told: as its flags say, or as a volume remembers that was in a ring. One
    /// that only began to found or join has to be told again.
    pub(super) fn place(&self) -> Option<Place> {
        let remembered = self
            .before
            .as_ref()
            .filter(|i| self.was_member && i.member.liveness != Liveness::Left);
        self.setup.place.clone().or_else(|| {
            remembered.map(|identity| Place {
                network: identity.network.clone(),
                zone: identity.member.zone.clone(),
                position: Some(identity.member.position),
                found: false,
            })
        })
    }

    /// What to answer to `Identify`.
    pub(crate) fn remembered(&self) -> Remembered {
        match (self.running.borrow().clone(), &self.before) {
            (Some(running), _) => Remembered::Now(running),
            (None, Some(identity)) => Remembered::Before(Box::new(identity.clone())),
            (None, None) => Remembered::Nothing,
        }
    }

    /// The peer, if it is or was a member: for those who speak with the ring or about leaving it.
    pub(crate) fn member(&self) -> Result<Arc<Running>, NotServing> {
        self.running.borrow().clone().ok_or(NotServing::Waiting)
    }

    /// The peer, if it takes requests of clients.
    pub(crate) fn serving(&self) -> Result<Arc<Running>, NotServing> {
        if self.stopping.is_cancelled() {
            return Err(NotServing::Stopping);
        }
        let running = self.member()?;
        if running.has_left() {
            Err(NotServing::Left)
        } else {
            Ok(running)
        }
    }

    /// Counts requests under way, so that they can finish before the peer stops.
    pub(crate) fn clients(&self) -> &TaskTracker {
        &self.clients
    }

    /// The peer's own view, or why it has none.
    pub(crate) async fn status(&self) -> Result<Status, NotServing> {
        let status = self
            .member()?
            .peer
            .status()
            .await
            .map_err(|_: PeerError| NotServing::Stopping)?;
        if self.stopping.is_cancelled() {
            Err(NotServing::Stopping)
        } else {
            Ok(status)
        }
    }

    /// The disk as it is now; zeros when it does not say.
    pub(crate) fn disk(&self) -> Disk {
        match self.chunk_files.space() {
            Ok(space) => {
                let most = u64::from(config::CHUNK_SIZE_MAX);
                let full = self.chunk_files.check_room(most, Purpose::Client).is_err();
                Disk {
                    free: space.free,
                    total: space.total,
                    full,
                }
            }
            Err(error) => {
                warn!("{error}");
                Disk {
                    free: 0,
                    total: 0,
                    full: true,
                }
            }
        }
    }

    /// Waits until a chunk could not be made durable, and returns why: the peer cannot go on then.
    pub(super) async fn chunks_failed(&self) -> String {
        tokio::select! {
            reason = self.chunk_files.failed() => reason,
            reason = self.shelf.failed() => reason,
        }
    }

    /// Joins (or founds) a network. The same assignment again changes nothing; after a leave it begins a new life.
    pub(crate) async fn assign(self: &Arc<Self>, place: Place) -> Result<PeerId, AssignError> {
        let mut volume = self.volume.lock().await;
        if self.stopping.is_cancelled() {
            return Err(AssignError::Stopping);
        }
        let running = self.running.borrow().clone();
        if let Some(running) = running {
            if running.network != place.network {
                return Err(AssignError::OtherNetwork {
                    running: running.network.clone(),
                    told: place.network,
                });
            }
            if !running.has_left() {
                return Ok(running.id);
            }
            running.peer.stop().await;
        }
        let store = match std::mem::replace(&mut *volume, Volume::Lost) {
            Volume::Idle(store) => store,
            Volume::Lent(back) => back.await.map_err(|_| AssignError::Stopping)?,
            Volume::Lost => return Err(AssignError::Stopping),
        };
        let told = self.clone();
        let started = spawn_blocking(move || told.start(store, place)).await;
        match started.map_err(|panic| AssignError::System(panic.to_string()))? {
            Ok((running, back)) => {
                *volume = Volume::Lent(back);
                let id = running.id;
                info!(peer = %id, network = running.network, "assigned");
                // Who is assigned is told whether to found.
                let decides = self.setup.place.is_some();
                let seeds = Seeds {
                    listed: self.setup.seeds.clone(),
                    file: self.setup.seeds_file.clone(),
                    founder: decides.then(|| self.addresses.0.clone()),
                };
                tokio::spawn(seeds.feed(running.peer.clone()));
                tokio::spawn(keep_sweeping(running.chunks.clone()));
                if let Some(rate) = self.setup.scrub {
                    tokio::spawn(keep_scrubbing(running.chunks.clone(), rate));
                }
                let shares = running.shares.clone();
                // Fails only when the peer stops.
                tokio::spawn(async move { shares.restore().await });
                tokio::spawn(self.clone().watch_room(running.peer.clone()));
                if let Some(told) = self.setup.events.clone() {
                    tokio::spawn(events::keep(running.clone(), told, self.stopping.clone()));
                }
                self.running.send_replace(Some(running));
                Ok(id)
            }
            Err((error, store)) => {
                match store {
                    Some(store) => *volume = Volume::Idle(store),
                    // Nothing can be done without the volume; a restart may find it well.
                    None => drop(self.failed.try_send(Failure::Start(error.to_string()))),
                }
                Err(error)
            }
        }
    }

    /// Tells the peer whether its disk has room for new files, until it stops.
    async fn watch_room(self: Arc<Self>, peer: PeerHandle) {
        let mut told = false;
        loop {
            let full = self.disk().full;
            if full != told && peer.tell(Input::DiskFull(full), None).await.is_err() {
                return;
            }
            told = full;
            tokio::select! {
                () = sleep(ROOM_PERIOD) => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Boots on the volume and starts the peer's thread. Blocks.
    #[allow(
        clippy::type_complexity,
        reason = "only one caller takes it apart at once"
    )]
    fn start(
        self: Arc<Self>,
        mut store: Box<DiskStore>,
        place: Place,
    ) -> Result<
        (Arc<Running>, oneshot::Receiver<Box<DiskStore>>),
        (AssignError, Option<Box<DiskStore>>),
    > {
        let fresh = match fresh_id() {
            Ok(id) => id,
            Err(error) => return Err((AssignError::System(error.to_string()), Some(store))),
        };
        let Place {
            network,
            zone,
            position,
            found,
        } = place;
        let told = Assignment {
            network,
            name: self.setup.name.clone(),
            address: self.addresses.0.clone(),
            http: self.addresses.1.clone(),
            zone,
            position: position.unwrap_or_else(|| drawn_position(fresh)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let has_left =
            matches!(&store.identity(), Ok(Some(i)) if i.member.liveness == Liveness::Left);
        let identity = match boot(&mut *store, told, fresh) {
            Ok(identity) => identity,
            Err(error @ BootError::OtherNetwork { .. }) => return Err((error.into(), Some(store))),
            Err(error) => return Err((error.into(), None)),
        };
        // A volume that was in the network before cannot found it; the core itself looks for members and slots.
        let found = found && !has_left;
        self.launch(*store, identity, found)
            .map_err(|error| (error, None))
    }

    fn launch(
        self: Arc<Self>,
        store: DiskStore,
        identity: Identity,
        found: bool,
    ) -> Result<(Arc<Running>, oneshot::Receiver<Box<DiskStore>>), AssignError> {
        let (network, id) = (identity.network.clone(), identity.member.id);
        let system = |error: &dyn std::error::Error| AssignError::System(error.to_string());
        let seed = random().map(u64::from_ne_bytes).map_err(|e| system(&e))?;
        let faults = &self.setup.faults;
        // A clock that is ahead has been running for longer.
        let now = Instant::now();
        let origin = now.checked_sub(faults.clock_offset).unwrap_or(now);
        let core = self.setup.core;
        let peer =
            Peer::start(store, identity, found, core, seed, Time(0)).map_err(BootError::from)?;
        let (handle, inbox) = driver::channel();
        let writes = Writes::default();
        let files = self.chunk_files.clone();
        let chunks = Chunks::new(
            network.clone(),
            id,
            files.clone(),
            handle.clone(),
            writes.clone(),
        );
        let chunks = Arc::new(chunks);
        let runtime = Handle::current();
        let effects = Effects {
            transport: Transport::new(
                network.clone(),
                id,
                runtime.clone(),
                faults.messages.clone(),
            ),
            fetcher: Fetcher::new(chunks.clone(), runtime.clone()),
            files,
            writes,
        };
        let Thread { ended, left } =
            driver::spawn(peer, origin, inbox, effects).map_err(|e| system(&e))?;
        let (give_back, back) = oneshot::channel();
        let failed = self.failed.clone();
        runtime.spawn(async move {
            let failure = match ended.await {
                Ok(Ended::Stopped(store)) => return drop(give_back.send(store)),
                Ok(Ended::Failed(failure)) => failure,
                Err(_) => Failure::Panicked,
            };
            // Only the first failure counts, and nobody listens once the peer stops.
            let _ = failed.try_send(failure);
        });
        let files = Files::new(
            handle.clone(),
            chunks.clone(),
            &self.setup,
            self.shelf.clone(),
            self.clients.clone(),
        );
        let shares = Shares::new(
            handle.clone(),
            network.clone(),
            id,
            chunks.clone(),
            self.shelf.clone(),
            (self.setup.chunk_size, files.memory()),
            self.clients.clone(),
        );
        Ok((
            Arc::new(Running {
                network,
                id,
                peer: handle,
                chunks,
                files,
                shares,
                origin_unix_ms: now_unix_ms().saturating_sub(origin.elapsed().as_millis() as u64),
                broker: events::Link::default(),
                left,
            }),
            back,
        ))
    }

    /// From now on clients are sent elsewhere.
    pub(super) fn refuse_clients(&self) {
        self.stopping.cancel();
        self.clients.close();
    }

    /// Waits until clients are sent elsewhere.
    pub(crate) async fn stops(&self) {
        self.stopping.cancelled().await;
    }

    /// All requests of clients are done.
    pub(super) async fn clients_done(&self) {
        self.clients.wait().await;
    }

    /// Stops the peer's thread and closes the volume.
    pub(super) async fn end(&self) {
        if timeout(LAST_COMMIT, self.close()).await.is_err() {
            warn!("the volume did not close in time");
        }
    }

    async fn close(&self) {
        // An assignment that is being carried out has it.
        let mut volume = self.volume.lock().await;
        let running = self.running.borrow().clone();
        if let Some(running) = running {
            running.peer.stop().await;
        }
        if let Volume::Lent(back) = std::mem::replace(&mut *volume, Volume::Lost) {
            // A peer that has failed has said so, and gives nothing back.
            drop(back.await);
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn fresh_id() -> Result<PeerId, getrandom::Error> {
    random().map(|bytes| PeerId(u128::from_ne_bytes(bytes)))
}

/// Outside of Kubernetes a position is the hash of the identity.
fn drawn_position(id: PeerId) -> Position {
    let Key([a, b, c, d, e, f, g, h, ..]) = Key::of_bytes(&id.0.to_be_bytes());
    Position(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}
