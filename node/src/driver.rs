//! Drives the peer: takes inputs, commits, performs outputs.
//!
//! Whoever brings an input handles it on the spot if nobody else is at it ([`seat`]), and performs its outputs if there is
//! nothing to commit, as for a read. Everything else is done by the peer's thread: all that has come in is drained into a
//! bounded batch, handled, and committed once: the sync on the volume is shared by the whole batch (group commit), and
//! while it runs the next batch gathers. Only then are the batch's outputs performed, so nothing is said that is not durable;
//! what only asks or proposes goes out before, so that other peers store what this one proposes while it does.
//!
//! Where writes may be durable late ([`Durability::Written`](crate::disk::Durability)), most commits need no sync, and
//! [`sync`] says which do and when all is synced; the order is the same.
//!
//! **Dropping a chunk's bytes** must not race with storing them again: a writer puts the file in place first and asks
//! the peer to index it after. So the peer's thread, which knows the index, also removes files, and it removes one only
//! if the index does not name it *and* no write of it is under way ([`Writes`]). A write registers before it touches
//! the disk and ends after its chunk was indexed and committed (or refused), so a chunk is either under way or indexed
//! whenever its file must stay.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use peernet_core::io::{Answer, Input, Output, RequestError, RequestId, Time};
use peernet_core::key::{Key, Slot};
use peernet_core::peer::Peer;
use peernet_core::register::Register;
use peernet_core::store::{Entry, Store, StoreError};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::chunks::fetch::Fetcher;
use crate::chunks::writes::{WriteGuard, Writes};
use crate::disk::{ChunkFiles, DiskStore};
use crate::transport::Transport;

mod handle;
mod routes;
mod seat;
mod sync;

pub(crate) use handle::{PeerError, PeerHandle, Written};
use routes::RouteCache;
use seat::{Next, Seat, Work};
use sync::{Flush, Gate};

/// Inputs waiting for the peer's thread; senders wait when it is full (guess).
const INBOX: usize = 1024;
/// Inputs handled before a commit, so that no answer waits behind too long a batch (guess).
const BATCH: usize = 256;
/// Those that a task handles at once before it looks at the clock again (guess).
const SOME: usize = 32;
/// Requests not yet answered; twice what the core takes, so that it is the core that says it is busy.
const PENDING: usize = 8192;
/// How long the thread may remove files before it looks at its inbox again.
const DROP_SLICE: Duration = Duration::from_millis(5);
/// What is due within so long of each other is done together while nobody waits for an answer, in milliseconds. The core's periods
/// are multiples of it, so they take no longer; without it the three timers of each ping wake the thread three times.
const TOGETHER: u64 = 5;
/// The longest sleep; only keeps arithmetic on deadlines within range.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// A batch that took longer than this is worth a line in the log: pings time out not much later.
const SLOW: Duration = Duration::from_millis(250);

/// What reaches the peer's thread.
pub(crate) enum Command {
    /// Something happened. The guard is held until it is committed.
    Input(Input, Option<WriteGuard>),
    /// Someone wants something. The guard is held until what it did is committed.
    Request(
        peernet_core::io::Request,
        oneshot::Sender<Answer>,
        Option<WriteGuard>,
    ),
    /// Which of these chunks are indexed here?
    Holds(Vec<Key>, oneshot::Sender<Vec<bool>>),
    /// What does this peer's own copy of a name hold?
    Look(Key, oneshot::Sender<Option<Register>>),
    /// Which chunks of this slot are indexed here?
    Indexed(Slot, oneshot::Sender<Vec<Key>>),
    /// A file was written that may not be indexed after all: remove it in that case.
    Forget(Key),
    /// End, with everything committed.
    Stop,
}

/// How the peer's thread ended.
pub(crate) enum Ended {
    /// It was told to, and gives back its memory, committed.
    Stopped(Box<DiskStore>),
    /// The volume failed, or the state machine did.
    Failed(Failure),
}

/// Why a peer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The volume failed; what was not committed is lost, and nothing was said about it.
    #[error(transparent)]
    Volume(#[from] StoreError),
    /// A sync of the chunks' folder failed: what is durable there is not certain any more.
    #[error(
        "the volume failed: a chunk could not be made durable ({0}), and what was written before it cannot be trusted \
         either; look at the disk, then start the peer again"
    )]
    Chunks(String),
    /// It could not even be started, and its volume is closed.
    #[error("the peer could not be started: {0}")]
    Start(String),
    /// A bug.
    #[error("the peer's thread panicked; see the log")]
    Panicked,
}

/// What outputs are performed with.
pub(crate) struct Effects {
    /// For [`Output::Send`].
    pub(crate) transport: Transport,
    /// For [`Output::FetchChunk`].
    pub(crate) fetcher: Fetcher,
    /// For [`Output::DropChunks`].
    pub(crate) files: Arc<ChunkFiles>,
    /// See the module's documentation.
    pub(crate) writes: Writes,
}

/// The driver's end of the inbox.
pub(crate) struct Inbox {
    seat: Arc<Seat<Driver>>,
    commands: mpsc::Receiver<Command>,
    /// Raised when the table of members has changed.
    news: watch::Sender<u64>,
    routes: Arc<RouteCache>,
}

/// A running thread, as its owner sees it.
pub(crate) struct Thread {
    /// Tells how the thread ended; dropped without a word when it panicked.
    pub(crate) ended: oneshot::Receiver<Ended>,
    /// Becomes true when this identity has left the network for good. The thread goes on: what has left still says so.
    pub(crate) left: watch::Receiver<bool>,
}

/// A handle and the inbox it feeds.
pub(crate) fn channel() -> (PeerHandle, Inbox) {
    let (sender, receiver) = mpsc::channel(INBOX);
    let (news, heard) = watch::channel(0);
    let routes = Arc::new(RouteCache::default());
    let seat = Arc::new(Seat::new());
    let inbox = Inbox {
        seat: seat.clone(),
        commands: receiver,
        news,
        routes: routes.clone(),
    };
    (PeerHandle::new(sender, seat, heard, routes), inbox)
}

/// Starts the thread. `origin` is the time the peer was started at, its time zero.
pub(crate) fn spawn(
    mut peer: Peer<DiskStore>,
    origin: Instant,
    inbox: Inbox,
    effects: Effects,
) -> io::Result<Thread> {
    let (report, ended) = oneshot::channel();
    let (departed, left) = watch::channel(false);
    let gate = Gate::of(peer.store()).map_err(io::Error::other)?;
    peer.set_forgetful(!gate.is_open());
    let driver = Driver {
        seat: Arc::downgrade(&inbox.seat),
        peer,
        origin,
        inbox: inbox.commands,
        news: inbox.news,
        routes: inbox.routes,
        effects,
        pending: HashMap::new(),
        requests: 0,
        begun: None,
        asked: false,
        outputs: Vec::new(),
        guards: Vec::new(),
        drops: VecDeque::new(),
        missed: Vec::new(),
        flush: Flush::default(),
        gate,
        departed,
        stopping: false,
        full: false,
        failed: None,
    };
    thread::Builder::new().name("peer".into()).spawn(move || {
        let Some(driver) = inbox.seat.run(driver) else {
            // A panic, of whoever had the seat: `report` is dropped, which says so.
            return;
        };
        let ended = driver.end();
        if let Ended::Failed(failure) = &ended {
            error!("this peer stops: {failure}");
        }
        // Nobody listens when the daemon itself is gone.
        let _ = report.send(ended);
    })?;
    Ok(Thread { ended, left })
}

struct Driver {
    seat: Weak<Seat<Driver>>,
    peer: Peer<DiskStore>,
    origin: Instant,
    inbox: mpsc::Receiver<Command>,
    news: watch::Sender<u64>,
    routes: Arc<RouteCache>,
    effects: Effects,
    pending: HashMap<RequestId, oneshot::Sender<Answer>>,
    requests: u64,
    /// When the batch began that is not committed yet.
    begun: Option<Time>,
    /// The batch's questions are out, and it takes no more inputs.
    asked: bool,
    outputs: Vec<Output>,
    /// Guards of the batch, held until it is committed.
    guards: Vec<WriteGuard>,
    /// Chunks whose bytes may have to go.
    drops: VecDeque<Key>,
    /// Fetches that could not even be started; told to the peer with the next batch.
    missed: Vec<Key>,
    flush: Flush,
    gate: Gate,
    departed: watch::Sender<bool>,
    stopping: bool,
    /// The inbox may hold more than the last batch took.
    full: bool,
    failed: Option<StoreError>,
}

impl Work for Driver {
    fn some(&mut self) -> Next {
        match self.answer_some() {
            Ok(Some(wake)) if wake > Instant::now() => Next::At(wake),
            Ok(_) => Next::Thread,
            Err(failure) => {
                self.failed = Some(failure);
                Next::Thread
            }
        }
    }

    fn all(&mut self) -> Next {
        let started = Instant::now();
        let done = match &self.failed {
            Some(_) => return Next::End,
            None => self.turn(),
        };
        if started.elapsed() > SLOW {
            warn!(
                millis = started.elapsed().as_millis(),
                "a batch took long: the disk or the whole machine is slow"
            );
        }
        match done {
            Ok(()) if self.stopping => Next::End,
            Ok(()) => Next::At(self.wake()),
            Err(failure) => {
                self.failed = Some(failure);
                Next::End
            }
        }
    }
}

impl Driver {
    fn end(mut self) -> Ended {
        self.routes.close();
        let ended = match self.failed.take() {
            Some(failure) => Err(failure),
            None => self.peer.store().rest(),
        };
        match ended {
            Ok(()) => Ended::Stopped(Box::new(self.peer.into_store())),
            Err(failure) => Ended::Failed(failure.into()),
        }
    }

    /// When to wake up though nothing came in.
    fn wake(&mut self) -> Instant {
        if self.full || !self.drops.is_empty() || !self.missed.is_empty() {
            return Instant::now();
        }
        let mut due = self.peer.next_deadline().0;
        if self.pending.is_empty() {
            due = due.checked_next_multiple_of(TOGETHER).unwrap_or(due);
        }
        let deadline = Duration::from_millis(due).min(self.origin.elapsed() + SLEEP_MAX);
        let due = self.sync_due().into_iter().chain(self.gate.next_look());
        due.fold(self.origin + deadline, Instant::min)
    }

    /// The time of the batch, the same until it is committed: by it the core knows what must not go out before that is
    /// (ADR 25).
    fn now(&mut self) -> Time {
        let now = || Time(self.origin.elapsed().as_millis() as u64);
        *self.begun.get_or_insert_with(now)
    }

    /// Handles some commands, and performs their outputs if that needs no commit. When there is more to do; none if that is
    /// the thread's.
    fn answer_some(&mut self) -> Result<Option<Instant>, StoreError> {
        let now = self.now();
        let emptied = self.take(SOME, now)?;
        if self.waits() {
            // Not a word yet: the thread may find answers to it in the inbox, and they would join this batch.
            return Ok(None);
        }
        // Nothing to commit: it only forgets what this batch asked of the next commit.
        self.peer.store().commit()?;
        self.perform_all();
        Ok((emptied && !self.stopping).then(|| self.wake()))
    }

    /// One batch: handle, ask, commit, perform.
    fn turn(&mut self) -> Result<(), StoreError> {
        let now = self.now();
        for key in mem::take(&mut self.missed) {
            self.handle(Input::ChunkMissed { key }, now)?;
        }
        self.full = !self.take(BATCH, now)?;
        if self.peer.next_deadline() <= now {
            self.handle(Input::Timer, now)?;
        }
        self.look(now)?;
        self.ask();
        self.commit()?;
        self.perform_all();
        self.drop_some()
    }

    /// Handles at most so many commands. Whether none is left.
    fn take(&mut self, most: usize, now: Time) -> Result<bool, StoreError> {
        for _ in 0..most {
            match self.inbox.try_recv() {
                Ok(command) => self.command(command, now)?,
                Err(nothing) => {
                    // Or all handles are gone.
                    self.stopping |= nothing == TryRecvError::Disconnected;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What only asks or proposes goes out before anything is committed, once the batch has all its inputs: what is proposed
    /// on the strength of an answer rests on what the question rested on, which has to be on the disk by then.
    fn ask(&mut self) {
        self.asked = true;
        let mut outputs = mem::take(&mut self.outputs);
        let early = |output: &mut Output| matches!(output, Output::Send { early: true, .. });
        for question in outputs.extract_if(.., early) {
            self.perform(question);
        }
        self.outputs = outputs;
    }

    /// What there is to be said, all of it committed.
    fn perform_all(&mut self) {
        (self.begun, self.asked) = (None, false);
        let mut outputs = mem::take(&mut self.outputs);
        outputs.drain(..).for_each(|output| self.perform(output));
        self.outputs = outputs;
        let news = self.peer.news();
        self.news
            .send_if_modified(|known| mem::replace(known, news) != news);
        if !*self.departed.borrow() {
            self.routes.publish(self.peer.routes_version());
        }
        self.guards.clear();
    }

    fn handle(&mut self, input: Input, now: Time) -> Result<(), StoreError> {
        debug_assert!(!self.asked, "an input joins a batch that has spoken");
        self.peer.handle(input, now, &mut self.outputs)
    }

    fn command(&mut self, command: Command, now: Time) -> Result<(), StoreError> {
        match command {
            Command::Input(input, guard) => {
                self.guards.extend(guard);
                if self.admits(&input) {
                    self.handle(input, now)?;
                }
            }
            Command::Request(request, answer, guard) => {
                self.guards.extend(guard);
                if self.gate.refuses(&request) {
                    // The asker may be gone; then nobody needs to know.
                    let _ = answer.send(Answer::Failed(RequestError::NotReady));
                    return Ok(());
                }
                if self.pending.len() >= PENDING {
                    // The asker may be gone; then nobody needs to know.
                    let _ = answer.send(Answer::Failed(RequestError::Busy));
                    return Ok(());
                }
                self.requests += 1;
                let id = RequestId(self.requests);
                self.pending.insert(id, answer);
                self.handle(Input::Request { id, request }, now)?;
            }
            Command::Holds(keys, answer) => {
                let store = self.peer.store();
                let held = keys.iter().map(|k| Ok(store.chunk(k)?.is_some()));
                let held: Result<Vec<bool>, StoreError> = held.collect();
                // The asker may be gone.
                let _ = answer.send(held?);
            }
            Command::Look(key, answer) => {
                let held = match self.gate.is_open() {
                    true => self.peer.store().register(&key)?,
                    false => None,
                };
                // The asker may be gone.
                let _ = answer.send(held);
            }
            Command::Indexed(slot, answer) => {
                let chunk = |entry| match entry {
                    Entry::Chunk { key, .. } => Some(key),
                    Entry::Reference { .. } | Entry::Name { .. } => None,
                };
                let entries = self.peer.store().entries(slot)?.into_iter();
                // The asker may be gone.
                let _ = answer.send(entries.filter_map(chunk).collect());
            }
            Command::Forget(key) => self.drops.push_back(key),
            Command::Stop => self.stopping = true,
        }
        Ok(())
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send {
                address, message, ..
            } => self.effects.transport.send(&address, &message),
            Output::FetchChunk { key, len, sources } => {
                if !self.effects.fetcher.start(key, len, sources) {
                    self.missed.push(key);
                }
            }
            Output::DropChunks(keys) => self.drops.extend(keys),
            Output::Answer { id, answer } if self.gate.asked(id) => self.looked(&answer),
            Output::Answer { id, answer } => match self.pending.remove(&id) {
                // The asker may have given up.
                Some(asker) => drop(asker.send(answer)),
                None => debug!(?id, "an answer that nobody asked for"),
            },
            Output::Left => {
                info!(peer = %self.peer.id(), "this peer has left the network for good");
                self.departed.send_replace(true);
                self.routes.close();
            }
        }
    }

    /// Removes files of chunks that are neither indexed nor being written, for a short while.
    fn drop_some(&mut self) -> Result<(), StoreError> {
        let until = Instant::now() + DROP_SLICE;
        while let Some(key) = self.drops.pop_front() {
            if self.peer.store().chunk(&key)?.is_none() {
                let files = &self.effects.files;
                self.effects.writes.unless_writing(&key, || {
                    if let Err(error) = files.remove(&key) {
                        warn!(%key, "a chunk's file could not be removed and wastes space: {error}");
                    }
                });
            }
            if Instant::now() > until {
                break;
            }
        }
        Ok(())
    }
}
