//! A simulated machine: a volume that outlives its process, and the process, which is a real [`Peer`] and its driver.
//!
//! The driver does what the daemon's does. Inputs queue up while a commit is under way; questions go out before it;
//! when it is durable the other outputs are performed, and all inputs that came in meanwhile are handled as the next
//! batch. A crash loses the inputs that wait, what was handled but not committed together with its other outputs, and
//! the bytes of chunks that were not synced. A disk that fails ends the process. A process that is stopped
//! (`kill -STOP`) does nothing until it goes on, and then finds everything that was sent to it meanwhile.

use std::cell::RefMut;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use peernet_core::config::Settings;
use peernet_core::io::{Answer, Input, Output, Request, RequestId, Time};
use peernet_core::key::{Key, Slot};
use peernet_core::member::PeerId;
use peernet_core::peer::Peer;
use peernet_core::store::memory::MemoryStore;
use peernet_core::store::{Entry, Identity, Store, StoreError};

use crate::disk::Disk;
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
    /// The metadata.
    pub disk: Disk,
    /// The chunks' bytes.
    pub files: BTreeMap<Key, File>,
}

/// How a process's clock runs: it starts anywhere, goes too fast or too slow, and may jump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Clock {
    /// World time at which it showed `local`.
    since: u64,
    local: u64,
    /// Its milliseconds per 1,000 of the world's.
    rate: u64,
}

impl Clock {
    fn read(&self, now: u64) -> u64 {
        self.local + (now - self.since) * self.rate / 1_000
    }

    /// The first world time at which it shows at least `local`.
    fn when(&self, local: u64) -> u64 {
        let ahead = local.saturating_sub(self.local);
        self.since
            .saturating_add(ahead.saturating_mul(1_000).div_ceil(self.rate))
    }

    fn jump(&mut self, now: u64, millis: u64) {
        (self.local, self.since) = (self.read(now) + millis, now);
    }
}

/// A running peer and its driver.
pub struct Process {
    peer: Peer<Disk>,
    disk: Disk,
    /// Who it is.
    pub id: PeerId,
    /// It said [`Output::Left`].
    pub left: bool,
    clock: Clock,
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
    /// Starts the real peer on a booted disk. Its clock starts anywhere and goes at `rate` ‰.
    pub fn start(
        disk: Disk,
        identity: Identity,
        found: bool,
        settings: Settings,
        seed: u64,
        now: u64,
        rate: u64,
    ) -> Result<Self, StoreError> {
        let id = identity.member.id;
        let clock = Clock {
            since: now,
            local: now + seed % 1_000_000,
            rate,
        };
        let time = Time(clock.local);
        let peer = Peer::start(disk.clone(), identity, found, settings, seed, time)?;
        Ok(Process {
            peer,
            disk,
            id,
            left: false,
            clock,
            inbox: VecDeque::new(),
            outputs: Vec::new(),
            committing: false,
            timer: None,
            waiting: BTreeMap::new(),
            next_request: 0,
            pins: BTreeMap::new(),
        })
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

    /// Handles what waits, and hands out what may be sent before it is durable. The batch ends with
    /// [`Process::committed`], some milliseconds later. After an error the process must end.
    pub fn batch(&mut self, now: u64) -> Result<Vec<Output>, StoreError> {
        let time = Time(self.clock.read(now));
        for input in std::mem::take(&mut self.inbox) {
            self.peer.handle(input, time, &mut self.outputs)?;
        }
        // Not before: of a batch that failed half-way nothing reaches the disk.
        self.committing = true;
        let early = |output: &mut Output| matches!(output, Output::Send { early: true, .. });
        Ok(self.outputs.extract_if(.., early).collect())
    }

    /// The batch is durable: hands out its outputs. After an error the process must end.
    pub fn committed(&mut self, now: u64) -> Result<(Vec<Output>, Next), StoreError> {
        self.disk.commit()?;
        self.committing = false;
        let next = Next {
            batch: !self.inbox.is_empty(),
            timer: self.arm(now),
        };
        Ok((std::mem::take(&mut self.outputs), next))
    }

    /// A commit is under way, of which it is not known whether it has reached the disk.
    pub fn is_committing(&self) -> bool {
        self.committing
    }

    /// The clock jumps ahead.
    pub fn jump(&mut self, now: u64, millis: u64) -> Next {
        self.clock.jump(now, millis);
        self.timer = None;
        Next {
            batch: false,
            timer: self.arm(now),
        }
    }

    /// When to be woken, unless an earlier call is already on its way.
    pub fn arm(&mut self, now: u64) -> Option<u64> {
        let deadline = self.peer.next_deadline().0;
        if deadline == u64::MAX {
            return None;
        }
        let due = self.clock.when(deadline).max(now);
        if self.timer.is_some_and(|t| t <= due) {
            return None;
        }
        self.timer = Some(due);
        Some(due)
    }

    /// The driver was woken, as armed for `at`.
    pub fn woken(&mut self, at: u64) -> Next {
        if self.timer != Some(at) {
            return Next::default(); // armed again for an earlier time since
        }
        self.timer = None;
        if self.committing {
            return Next::default(); // armed again when the commit is done
        }
        if self.peer.next_deadline().0 <= self.clock.read(at) {
            return self.push(Input::Timer);
        }
        Next {
            batch: false,
            timer: self.arm(at),
        }
    }

    /// Fulfils what was asked with `id`.
    pub fn answer(&mut self, id: RequestId, answer: Answer) {
        let resolver = self.waiting.remove(&id);
        resolver
            .expect("each request is answered exactly once")
            .resolve(answer);
    }

    /// See [`Peer::tables`]; with the driver's own.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let own = [("requests", self.waiting.len()), ("pins", self.pins.len())];
        self.peer.tables().into_iter().chain(own)
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
                .disk
                .contents()
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
    /// While the process is stopped: what it will do when it goes on.
    pub(crate) stopped: Option<Vec<Box<dyn FnOnce()>>>,
}

/// What becomes of something that was written but not synced, when the machine or the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsynced {
    /// It is on the disk.
    Kept,
    /// It is not.
    Lost,
    /// The first half of it is.
    Torn,
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
            stopped: None,
        }
    }

    /// `host:port` for gRPC.
    pub fn address(&self) -> String {
        format!("{}:7000", self.name)
    }

    /// The process ends without warning. `fate` decides over each thing that was not synced; of a commit there is no
    /// half.
    pub fn crash(&mut self, mut fate: impl FnMut() -> Unsynced) {
        self.run += 1;
        self.stopped = None;
        let Some(process) = self.process.take() else {
            return;
        };
        let keep = process.is_committing() && fate() == Unsynced::Kept;
        self.volume.disk.reopen(keep);
        self.volume.files.retain(|_, file| {
            if file.synced {
                return true;
            }
            let fate = fate();
            if fate == Unsynced::Torn {
                file.bytes.truncate(file.bytes.len() / 2);
            }
            fate != Unsynced::Lost
        });
    }

    /// The volume is lost.
    pub fn wipe(&mut self) {
        self.crash(|| Unsynced::Lost);
        self.volume = Volume::default();
    }

    /// No peer runs here, or one that has left for good.
    pub fn may_be_assigned(&self) -> bool {
        self.process.as_ref().is_none_or(|p| p.left)
    }

    /// The metadata on the volume.
    pub fn store(&self) -> RefMut<'_, MemoryStore> {
        self.volume.disk.contents()
    }

    /// The chunks that the metadata says are here.
    pub fn chunks(&self) -> Vec<Key> {
        let entries = |slot| self.store().entries(slot);
        let all =
            Slot::all().flat_map(|slot| entries(slot).expect("a store in memory does not fail"));
        all.filter_map(|entry| match entry {
            Entry::Chunk { key, .. } => Some(key),
            Entry::Reference { .. } | Entry::Name { .. } => None,
        })
        .collect()
    }

    /// Whether this chunk would survive a crash: known to the store, and its file synced and right.
    pub fn holds(&self, key: &Key) -> bool {
        let known = self.store().chunk(key).is_ok_and(|held| held.is_some());
        known
            && self
                .volume
                .files
                .get(key)
                .is_some_and(|f| f.synced && Key::of_bytes(&f.bytes) == *key)
    }
}
