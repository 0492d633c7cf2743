//! All machines and the network between them.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use peernet_core::boot::{Assignment, BootError, boot};
use peernet_core::config::Settings;
use peernet_core::io::{Endpoint, Input, Output};
use peernet_core::key::Position;
use peernet_core::member::PeerId;
use peernet_core::message::Message;

use crate::check;
use crate::model::Violation;
use crate::network::{Conditions, HostId, Network};
use crate::peer::{Host, Next, Process, Unsynced};
use crate::world::World;

mod calls;
mod chunks;
mod faults;

pub use calls::{CALL_TIMEOUT, CallError};

/// UUID of the only network there is.
pub const NETWORK: &str = "5a0cb7c2-0f5e-4b8e-9d43-0d7c6b0a1e11";
/// How often a driver resolves its seeds, in milliseconds.
const SEEDS_PERIOD: u64 = 5_000;
/// A commit takes up to so many milliseconds.
const COMMIT: u64 = 3;
/// Faults built into the driver, the writer or the operator on purpose, to show that they would be noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flaws {
    /// A chunk counts as stored when its bytes are written; they are synced only when the kernel gets round to it.
    pub count_before_sync: bool,
    /// A writer is content with one copy of each chunk.
    pub one_copy: bool,
    /// The operator takes leavers away without a verdict.
    pub no_verdict: bool,
    /// A consumer of effects settles them before it performs them.
    pub settle_first: bool,
    /// A writer names its file whatever was written since its chunks were pinned.
    pub unconditional: bool,
    /// Whoever answers a listing says that its table of epochs is the asker's.
    pub one_table: bool,
}

struct Inner {
    world: World,
    network: RefCell<Network>,
    hosts: RefCell<Vec<Host>>,
    settings: Settings,
    flaws: Flaws,
    /// The table that each listing named, for [`Flaws::one_table`].
    tables: RefCell<BTreeMap<(HostId, u64), u64>>,
    /// How many identities there have been.
    identities: Cell<usize>,
    /// Chunks have rotted: their copies are not what the metadata says.
    rotten: Cell<bool>,
    violations: RefCell<Vec<Violation>>,
    /// How fast the clocks of processes that start go, in ‰.
    clocks: RefCell<Range<u64>>,
}

/// The machines and their network. A handle: clones share it.
#[derive(Clone)]
pub struct Fleet(Rc<Inner>);

impl Fleet {
    /// No machines yet.
    pub fn new(world: World, conditions: Conditions, settings: Settings, flaws: Flaws) -> Self {
        let network = RefCell::new(Network::new(conditions));
        Fleet(Rc::new(Inner {
            world,
            network,
            hosts: RefCell::default(),
            settings,
            flaws,
            tables: RefCell::default(),
            identities: Cell::new(0),
            rotten: Cell::new(false),
            violations: RefCell::default(),
            clocks: RefCell::new(1_000..1_001),
        }))
    }

    /// The clock and the dice.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// The settings of all peers.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// What is wrong on purpose.
    pub fn flaws(&self) -> Flaws {
        self.0.flaws
    }

    /// The network, to be changed.
    pub fn network(&self) -> RefMut<'_, Network> {
        self.0.network.borrow_mut()
    }

    /// What peers did that they must never do.
    pub fn violations(&self) -> Vec<Violation> {
        self.0.violations.borrow().clone()
    }

    /// How many identities there have been.
    pub fn identities(&self) -> usize {
        self.0.identities.get()
    }

    /// Another machine, with an empty volume.
    pub fn add(&self, name: String, zone: String) -> HostId {
        let mut hosts = self.0.hosts.borrow_mut();
        let id = HostId(hosts.len() as u32);
        hosts.push(Host::new(id, name, zone));
        id
    }

    /// A machine, to be looked at or changed.
    pub fn host(&self, id: HostId) -> RefMut<'_, Host> {
        RefMut::map(self.0.hosts.borrow_mut(), |hosts| &mut hosts[id.0 as usize])
    }

    /// All machines, to be looked at.
    pub fn hosts(&self) -> Ref<'_, [Host]> {
        Ref::map(self.0.hosts.borrow(), Vec::as_slice)
    }

    /// All machines' numbers.
    pub fn ids(&self) -> Vec<HostId> {
        self.0.hosts.borrow().iter().map(|h| h.id).collect()
    }

    /// Those whose process runs.
    pub fn running(&self) -> Vec<HostId> {
        self.0
            .hosts
            .borrow()
            .iter()
            .filter(|h| h.process.is_some())
            .map(|h| h.id)
            .collect()
    }

    /// Boots and starts the process on `id`, as the daemon does when it is assigned to the network or finds that its
    /// volume was.
    pub fn start(&self, id: HostId, position: Position, found: bool) -> Result<PeerId, BootError> {
        let world = self.world();
        self.crash(id);
        let mut host = self.host(id);
        let told = Assignment {
            network: NETWORK.into(),
            name: host.name.clone(),
            address: host.address(),
            http: format!("{}:8080", host.name),
            zone: host.zone.clone(),
            position,
            version: "sim".into(),
        };
        let mut disk = host.volume.disk.clone();
        disk.reopen(false);
        let fresh = PeerId(world.random_id());
        let identity = boot(&mut disk, told, fresh)?;
        let peer = identity.member.id;
        if peer == fresh {
            self.0.identities.set(self.identities() + 1);
        }
        world.note((id, peer, "start"), || {
            format!("{} starts as {peer:?}", host.name)
        });
        let seed = world.random(0..u64::MAX);
        let rate = world.random(self.0.clocks.borrow().clone());
        let now = world.now();
        let mut process = Process::start(disk, identity, found, self.0.settings, seed, now, rate)?;
        let timer = process.arm(now);
        host.process = Some(process);
        let run = host.run;
        drop(host);
        self.follow(
            id,
            run,
            Next {
                batch: false,
                timer,
            },
        );
        self.resolve_seeds(id, run);
        Ok(peer)
    }

    /// Ends the process on `id` without warning.
    pub fn crash(&self, id: HostId) {
        let world = self.world();
        let mut host = self.host(id);
        if host.process.is_some() {
            world.note((id, "crash"), || format!("{} crashes", host.name));
        }
        host.crash(|| match world.random(0..3) {
            0 => Unsynced::Kept,
            1 => Unsynced::Lost,
            _ => Unsynced::Torn,
        });
    }

    /// Ends the process on `id` and loses its volume.
    pub fn wipe(&self, id: HostId) {
        let mut host = self.host(id);
        self.world()
            .note((id, "wipe"), || format!("{} is lost for good", host.name));
        host.wipe();
    }

    /// What a resolver of the headless Service's name would give: all machines' addresses, for as long as they run.
    fn resolve_seeds(&self, id: HostId, run: u64) {
        let seeds = self.0.hosts.borrow().iter().map(Host::address).collect();
        if self.input(id, run, Input::Seeds(seeds)) {
            let fleet = self.clone();
            self.world()
                .after(SEEDS_PERIOD, move || fleet.resolve_seeds(id, run));
        }
    }

    /// Queues an input for a run of a process; false when that run is over.
    fn input(&self, id: HostId, run: u64, input: Input) -> bool {
        let mut host = self.host(id);
        if host.run != run {
            return false;
        }
        let Some(process) = &mut host.process else {
            return false;
        };
        let next = process.push(input);
        drop(host);
        self.follow(id, run, next);
        true
    }

    fn follow(&self, id: HostId, run: u64, next: Next) {
        let world = self.world();
        if let Some(at) = next.timer {
            let fleet = self.clone();
            world.after(at - world.now(), move || fleet.woken(id, run, at));
        }
        if next.batch {
            let fleet = self.clone();
            world.after(0, move || fleet.batch(id, run));
        }
    }

    fn with_process<T>(
        &self,
        id: HostId,
        run: u64,
        act: impl FnOnce(&mut Process) -> T,
    ) -> Option<T> {
        let mut host = self.host(id);
        if host.run != run {
            return None;
        }
        host.process.as_mut().map(act)
    }

    fn woken(&self, id: HostId, run: u64, at: u64) {
        let fleet = self.clone();
        if self.put_off(id, run, move || fleet.woken(id, run, at)) {
            return;
        }
        if let Some(next) = self.with_process(id, run, |p| p.woken(at)) {
            self.follow(id, run, next);
        }
    }

    fn batch(&self, id: HostId, run: u64) {
        let fleet = self.clone();
        if self.put_off(id, run, move || fleet.batch(id, run)) {
            return;
        }
        let now = self.world().now();
        match self.with_process(id, run, |p| p.batch(now)) {
            Some(Ok(early)) => {
                for output in early {
                    self.perform(id, run, output);
                }
                let fleet = self.clone();
                self.world()
                    .after(self.world().random(0..COMMIT + 1), move || {
                        fleet.committed(id, run)
                    });
            }
            Some(Err(error)) => self.disk_failed(id, &error),
            None => {}
        }
    }

    fn committed(&self, id: HostId, run: u64) {
        let fleet = self.clone();
        if self.put_off(id, run, move || fleet.committed(id, run)) {
            return;
        }
        let now = self.world().now();
        match self.with_process(id, run, |p| p.committed(now)) {
            Some(Ok((outputs, next))) => {
                let cleared = self.host(id).volume.disk.take_cleared();
                let found = check::released(self, id, &cleared, !self.0.rotten.get());
                self.0.violations.borrow_mut().extend(found);
                for output in outputs {
                    self.perform(id, run, output);
                }
                self.follow(id, run, next);
            }
            Some(Err(error)) => self.disk_failed(id, &error),
            None => {}
        }
    }

    fn perform(&self, id: HostId, run: u64, output: Output) {
        match output {
            Output::Send {
                address, message, ..
            } => self.send(id, &address, message),
            Output::FetchChunk { key, len, sources } => {
                let fleet = self.clone();
                drop(
                    self.world()
                        .spawn(async move { fleet.fetch(id, run, key, len, sources).await }),
                );
            }
            Output::DropChunks(keys) => {
                let mut host = self.host(id);
                let host = &mut *host;
                let Some(process) = &mut host.process else {
                    return;
                };
                for key in keys.iter().filter(|key| process.may_drop(key)) {
                    host.volume.files.remove(key);
                }
            }
            Output::Answer {
                id: request,
                answer,
            } => {
                self.with_process(id, run, |p| p.answer(request, answer));
            }
            Output::Left => {
                self.world()
                    .note((id, "left"), || format!("{id:?} has left"));
                self.with_process(id, run, |p| p.left = true);
            }
        }
    }

    fn find(&self, address: &str) -> Option<HostId> {
        self.0
            .hosts
            .borrow()
            .iter()
            .find(|h| address.strip_suffix(":7000") == Some(&h.name))
            .map(|h| h.id)
    }

    fn send(&self, from: HostId, address: &str, mut message: Message) {
        let Some(to) = self.find(address) else { return };
        if self.flaws().one_table {
            self.pretend_one_table(from, to, &mut message);
        }
        let sender = match &self.host(from).process {
            Some(process) => process.id,
            None => return,
        };
        self.network().sent += 1;
        let delays = self.0.network.borrow().deliveries(self.world(), from, to);
        for delay in delays {
            let (fleet, message) = (self.clone(), message.clone());
            self.world()
                .after(delay, move || fleet.arrive(from, to, sender, message));
        }
    }

    fn pretend_one_table(&self, from: HostId, to: HostId, message: &mut Message) {
        let mut tables = self.0.tables.borrow_mut();
        match message {
            Message::List { op, table, .. } => drop(tables.insert((from, *op), *table)),
            Message::ListReply {
                op, table, epochs, ..
            } => {
                *table = tables.get(&(to, *op)).copied().unwrap_or(*table);
                epochs.clear();
            }
            _ => {}
        }
    }

    fn arrive(&self, from: HostId, to: HostId, sender: PeerId, message: Message) {
        let kind = std::mem::discriminant(&message);
        self.world().note((from, to, kind), || {
            format!("{} -> {}: {}", from.0, to.0, brief(&message))
        });
        let run = self.host(to).run;
        self.input(
            to,
            run,
            Input::Message {
                from: sender,
                message,
            },
        );
    }

    /// The machine behind an endpoint, if the name resolves.
    pub fn resolve(&self, endpoint: &Endpoint) -> Option<HostId> {
        self.find(&endpoint.address)
    }
}

fn brief(message: &Message) -> String {
    let mut text = format!("{message:?}");
    if let Some((end, _)) = text.char_indices().nth(300) {
        text.truncate(end);
    }
    text
}
