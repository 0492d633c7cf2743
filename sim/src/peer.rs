//! A simulated machine: a volume that outlives its process, and the process, which is a real [`Peer`] and its driver.
//!
//! The driver does what the daemon's does. Inputs queue up while a commit is under way; when it is durable the outputs
//! are performed and all inputs that came in meanwhile are handled as the next batch. A crash loses the inputs that
//! wait, what was handled but not committed together with its outputs, and the bytes of chunks that were not synced.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use peernet_core::config::Settings;
use peernet_core::io::{Answer, Input, Output, Request, RequestId, Time};
use peernet_core::key::Key;
use peernet_core::member::PeerId;
use peernet_core::peer::Peer;
use peernet_core::store::memory::MemoryStore;
use peernet_core::store::{Identity, Store};

use crate::network::HostId;
use crate::promise::{Promise, Resolver, promise};

/// A chunk's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// What is in it.
    pub bytes: Bytes,
    /// It would survive a crash.
    pub synced: bool,
}

/// What outlives a process.
#[derive(Default)]
pub struct Volume {
    /// The metadata, while no process holds it.
    pub store: MemoryStore,
    /// The chunks' bytes.
    pub files: BTreeMap<Key, File>,
}

/// A running peer and its driver.
pub struct Process {
    peer: Peer<MemoryStore>,
    /// Who it is.
    pub id: PeerId,
    /// It said [`Output::Left`].
    pub left: bool,
    /// Its clock is so many milliseconds ahead of the world's.
    skew: u64,
    inbox: VecDeque<Input>,
    outputs: Vec<Output>,
    committing: bool,
    timer: Option<u64>,
    waiting: BTreeMap<RequestId, Resolver<Answer>>,
    next_request: u64,
    /// Chunks whose bytes are being written: they must not be dropped under the writer's hands.
    pins: BTreeMap<Key, u32>,
}

/// What has to be done after an input was queued or a batch was performed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Next {
    /// Handle the batch now.
    pub batch: bool,
    /// Wake the driver at this world time.
    pub timer: Option<u64>,
}

impl Process {
    /// Starts the real peer on a booted store.
    pub fn start(
        store: MemoryStore,
        identity: Identity,
        found: bool,
        settings: Settings,
        seed: u64,
        now: u64,
    ) -> Self {
        let id = identity.member.id;
        // A process's clock starts anywhere.
        let skew = seed % 1_000_000;
        let peer = Peer::start(store, identity, found, settings, seed, Time(now + skew));
        Process {
            peer: peer.expect("a store in memory does not fail"),
            id,
            left: false,
            skew,
            inbox: VecDeque::new(),
            outputs: Vec::new(),
            committing: false,
            timer: None,
            waiting: BTreeMap::new(),
            next_request: 0,
            pins: BTreeMap::new(),
        }
    }

    /// Queues an input.
    pub fn push(&mut self, input: Input) -> Next {
        self.inbox.push_back(input);
        Next {
            batch: !self.committing && self.inbox.len() == 1,
            timer: None,
        }
    }

    /// Queues a request.
    pub fn request(&mut self, request: Request) -> (Promise<Answer>, Next) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let (resolver, promise) = promise();
        self.waiting.insert(id, resolver);
        (promise, self.push(Input::Request { id, request }))
    }

    /// Handles what waits. The batch ends with [`Process::committed`], some milliseconds later.
    pub fn batch(&mut self, now: u64) {
        self.committing = true;
        let time = Time(now + self.skew);
        for input in std::mem::take(&mut self.inbox) {
            self.peer
                .handle(input, time, &mut self.outputs)
                .expect("a store in memory does not fail");
        }
    }

    /// The batch is durable: hands out its outputs.
    pub fn committed(&mut self, now: u64) -> (Vec<Output>, Next) {
        self.peer
            .store()
            .commit()
            .expect("a store in memory does not fail");
        self.committing = false;
        (
            std::mem::take(&mut self.outputs),
            Next {
                batch: !self.inbox.is_empty(),
                timer: self.arm(now),
            },
        )
    }

    /// When to be woken, unless an earlier call is already on its way.
    pub fn arm(&mut self, now: u64) -> Option<u64> {
        let deadline = self.peer.next_deadline().0;
        if deadline == u64::MAX {
            return None;
        }
        let due = deadline.saturating_sub(self.skew).max(now);
        if self.timer.is_some_and(|t| t <= due) {
            return None;
        }
        self.timer = Some(due);
        Some(due)
    }

    /// The driver was woken at `now`, as armed.
    pub fn woken(&mut self, now: u64) -> Next {
        if self.timer != Some(now) {
            return Next::default(); // armed again for an earlier time since
        }
        self.timer = None;
        if self.committing {
            return Next::default(); // armed again when the commit is done
        }
        if self.peer.next_deadline().0 <= now + self.skew {
            return self.push(Input::Timer);
        }
        Next {
            batch: false,
            timer: self.arm(now),
        }
    }

    /// Fulfils what was asked with `id`.
    pub fn answer(&mut self, id: RequestId, answer: Answer) {
        let resolver = self.waiting.remove(&id);
        resolver
            .expect("each request is answered exactly once")
            .resolve(answer);
    }

    /// The peer's memory.
    pub fn store(&mut self) -> &mut MemoryStore {
        self.peer.store()
    }

    /// Holds the bytes of a chunk until [`Process::unpin`].
    pub fn pin(&mut self, key: Key) {
        *self.pins.entry(key).or_default() += 1;
    }

    /// Lets go of them.
    pub fn unpin(&mut self, key: Key) {
        if let Some(count) = self.pins.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(&key);
            }
        }
    }

    /// Whether the bytes of a chunk may be deleted now. Not while it is being written, and not when it came back after
    /// the peer let go of it.
    pub fn may_drop(&mut self, key: &Key) -> bool {
        !self.pins.contains_key(key)
            && self
                .peer
                .store()
                .chunk(key)
                .is_ok_and(|held| held.is_none())
    }
}

/// A machine, or a pod with its volume.
pub struct Host {
    /// Its number.
    pub id: HostId,
    /// The pod's name, such as `demo-3`.
    pub name: String,
    /// Failure domain.
    pub zone: String,
    /// The volume.
    pub volume: Volume,
    /// The process, when it runs.
    pub process: Option<Process>,
    /// Counts starts and crashes: what was under way for an earlier run means nothing to this one.
    pub run: u64,
}

impl Host {
    /// A machine with an empty volume, not running.
    pub fn new(id: HostId, name: String, zone: String) -> Self {
        Host {
            id,
            name,
            zone,
            volume: Volume::default(),
            process: None,
            run: 0,
        }
    }

    /// `host:port` for gRPC.
    pub fn address(&self) -> String {
        format!("{}:7000", self.name)
    }

    /// The process ends without warning.
    pub fn crash(&mut self) {
        self.run += 1;
        let Some(mut process) = self.process.take() else {
            return;
        };
        self.volume.store = std::mem::take(process.store());
        self.volume.store.crash();
        self.volume.files.retain(|_, file| file.synced);
    }

    /// The volume is lost.
    pub fn wipe(&mut self) {
        self.crash();
        self.volume = Volume::default();
    }

    /// The metadata, whether or not a process holds it.
    pub fn store(&mut self) -> &mut MemoryStore {
        match &mut self.process {
            Some(process) => process.store(),
            None => &mut self.volume.store,
        }
    }

    /// Whether this chunk would survive a crash: known to the store, and its file synced and right.
    pub fn holds(&mut self, key: &Key) -> bool {
        let known = self.store().chunk(key).is_ok_and(|held| held.is_some());
        known
            && self
                .volume
                .files
                .get(key)
                .is_some_and(|f| f.synced && Key::of_bytes(&f.bytes) == *key)
    }
}
