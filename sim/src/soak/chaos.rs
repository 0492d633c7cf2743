//! The turns of a random history.
//!
//! What destroys data (a lost volume, rotten chunks) happens to one machine at a time and again only when all copies
//! are back, as replication promises no more. Everything else may happen to anybody at any time.

use std::cell::Cell;
use std::rc::Rc;

use peernet_core::key::Name;
use peernet_core::quorum::majority;

use crate::client;
use crate::network::{Conditions, HostId};
use crate::operator::Operator;
use crate::promise::Promise;
use crate::scenario::{Failure, Scenario};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
/// How long it may take to come to rest once all is healed: several grace periods and suspicions one after another.
const REST: u64 = 15 * MINUTE;
/// How long a client waits for an answer, at most.
const CLIENT_PATIENCE: u64 = 15 * SECOND;
/// The greatest number of replicas.
const PEERS_MAX: u64 = 7;

/// A history that is being played. A handle: clones share it.
#[derive(Clone)]
struct Play {
    s: Scenario,
    /// No faults any more: operators live for ever.
    calm: Rc<Cell<bool>>,
    /// Data has been destroyed, and it is not known that all copies are back.
    hurt: Rc<Cell<bool>>,
    /// Clients go on.
    open: Rc<Cell<bool>>,
    /// Everybody wants the same few names, over a slow network, and turns follow one another at once.
    crowded: bool,
    /// Somebody has peers replaced: those that are gone for good, and others by mistake.
    replaces: bool,
}

/// Names that everybody wants in a crowded history.
const WANTED: u64 = 3;

/// Plays the whole history.
pub async fn play(s: Scenario, replaces: bool) -> Result<(), Failure> {
    let flag = |value| Rc::new(Cell::new(value));
    let play = Play {
        calm: flag(false),
        hurt: flag(false),
        open: flag(false),
        crowded: s.world.chance(0.5),
        replaces,
        s,
    };
    let Play { s, .. } = &play;
    let world = &s.world;
    if world.chance(0.3) {
        s.fleet.set_clocks(700..1_400);
    }
    let first = if world.chance(0.1) {
        world.random(1..play.factor()) as u32
    } else {
        play.some_replicas()
    };
    s.cluster.scale(first);
    drop(world.spawn(s.cluster.clone().keep_running()));
    drop(world.spawn(play.clone().operate()));
    if replaces {
        drop(world.spawn(play.clone().tend()));
    }
    if world.chance(0.8) {
        s.settle(REST).await?;
    }
    let (clients, pause) = if play.crowded {
        (world.random(4..12), 3 * SECOND)
    } else {
        (world.random(1..5), 10 * SECOND)
    };
    let mut load = play.load(clients);
    let turns = world.random(2..8);
    for _ in 0..turns {
        if play.crowded && world.chance(0.3) {
            play.weather();
        }
        if world.chance(0.15) {
            play.rest(load).await?;
            play.destroy();
            load = play.load(clients);
        }
        play.turn().await;
        world.sleep(world.random(0..pause)).await;
    }
    play.rest(load).await?;
    s.read_all().await;
    s.settle_tables().await
}

impl Play {
    fn factor(&self) -> u64 {
        self.s.fleet.settings().replication.factor.into()
    }

    /// A number of replicas to scale to. Below the replication factor is refused by the operator's preflight.
    fn some_replicas(&self) -> u32 {
        self.s.world.random(self.factor()..PEERS_MAX + 1) as u32
    }

    /// Operators come and go; each ends at any step.
    async fn operate(self) {
        let world = self.s.world.clone();
        let mortal = world.chance(0.5);
        loop {
            let life = if mortal {
                world.random(1..20 * SECOND)
            } else {
                MINUTE
            };
            let operator = Operator::new(self.s.cluster.clone());
            world.timeout(life, operator.run()).await;
            if mortal && !self.calm.get() {
                world.sleep(world.random(0..20 * SECOND)).await;
            }
        }
    }

    /// Clients that put, get, delete and list until [`Play::rest`].
    fn load(&self, clients: u64) -> Vec<Promise<()>> {
        self.open.set(true);
        let client = |_| {
            let play = self.clone();
            self.s.world.spawn(async move {
                let world = play.s.world.clone();
                while play.open.get() {
                    let (patience, pause) = if play.crowded {
                        (world.random(SECOND..CLIENT_PATIENCE), 50)
                    } else {
                        (CLIENT_PATIENCE, 300)
                    };
                    world.timeout(patience, play.operation()).await;
                    world.sleep(world.random(1..pause)).await;
                }
            })
        };
        (0..clients).map(client).collect()
    }

    async fn operation(&self) {
        let s = &self.s;
        let wanted = (self.crowded && s.world.chance(0.8)).then(|| {
            let number = s.world.random(0..WANTED);
            Name::new(format!("wanted/{number}")).expect("a valid name")
        });
        match s.world.random(0..20) {
            0..9 => match wanted {
                Some(name) => s.write_to(name).await,
                None => s.write_something().await,
            },
            9..19 => {
                let names = wanted.map_or_else(|| s.model.borrow().names(), |name| vec![name]);
                let at = s.world.choose(&s.fleet.running());
                if let (Some(name), Some(at)) = (s.world.choose(&names), at) {
                    // What fails in the midst of chaos proves nothing; at rest everything is read.
                    let _ = s.read_at(at, &name).await;
                }
            }
            _ => {
                if let Some(at) = s.world.choose(&s.fleet.running()) {
                    let _ = client::list(&s.fleet, at).await;
                }
            }
        }
    }

    /// Heals everything, lets the clients end, and waits until all is as it should be.
    async fn rest(&self, load: Vec<Promise<()>>) -> Result<(), Failure> {
        let s = &self.s;
        self.calm.set(true);
        s.fleet.network().heal();
        s.fleet.network().conditions = Conditions::good();
        for host in s.fleet.ids() {
            s.fleet.go_on(host);
            s.fleet.host(host).volume.disk.spare();
        }
        self.open.set(false);
        for client in load {
            client.await;
        }
        s.settle_started(REST).await?;
        s.fleet.read_every_copy(&s.wanted()).await;
        s.settle(REST).await?;
        self.hurt.set(false);
        self.calm.set(false);
        Ok(())
    }

    /// Loses a volume, or some of the chunks on one. All copies are there.
    fn destroy(&self) {
        let s = &self.s;
        let factor = self.factor() as usize;
        let pods = s.cluster.pods();
        // Where a majority of a slot's replicas would be lost with one, nothing is promised.
        let Some(pod) = s
            .world
            .choose(&pods)
            .filter(|_| pods.len() > factor && factor > majority(factor))
        else {
            return;
        };
        self.hurt.set(true);
        if self.replaces && s.world.chance(0.7) {
            s.cluster.strand(pod.ordinal);
        } else if s.world.chance(0.5) {
            let delay = s.world.random(0..40 * SECOND);
            s.cluster.destroy(pod.ordinal, Some(delay));
        } else {
            s.cluster.note_loss();
            s.fleet.rot(pod.host, s.world.random(1..5));
        }
    }

    fn some_hosts(&self, most: u64) -> Vec<HostId> {
        let mut hosts = self.s.fleet.running();
        self.s.world.shuffle(&mut hosts);
        hosts.truncate(self.s.world.random(1..most + 1) as usize);
        hosts
    }

    fn later(&self, delay: u64, act: impl FnOnce(&Scenario) + 'static) {
        let s = self.s.clone();
        self.s.world.after(delay, move || act(&s));
    }

    /// Has those replaced that will not come back by themselves.
    async fn tend(self) {
        let Play { s, .. } = &self;
        loop {
            s.world.sleep(s.world.random(SECOND..20 * SECOND)).await;
            if s.cluster.asked().replace.is_none()
                && let Some(ordinal) = s.world.choose(&s.cluster.hopeless())
            {
                s.cluster.ask_to_replace(Some(ordinal));
            }
        }
    }

    /// Asks to replace anybody, alive or not, and now and then thinks better of it.
    fn replace(&self) {
        let Play { s, .. } = self;
        let Some(pod) = s.world.choose(&s.cluster.pods()) else {
            return;
        };
        if s.world.chance(0.5) {
            let down = s.world.random(SECOND..MINUTE);
            s.cluster.kill(pod.ordinal, down);
        }
        if s.world.chance(0.3) {
            self.partition();
        }
        let asked = s.world.chance(0.9).then_some(pod.ordinal);
        self.later(s.world.random(0..5 * SECOND), move |s| {
            s.cluster.ask_to_replace(asked);
        });
    }

    async fn turn(&self) {
        let world = &self.s.world;
        if self.replaces && world.chance(0.4) {
            return self.replace();
        }
        let scales = if self.crowded { 8 } else { 3 };
        match world.random(0..11 + scales) {
            n if n >= 11 => self.s.cluster.scale(self.some_replicas()),
            0 | 1 => self.crash(2, 40 * SECOND),
            2 => self.crash(PEERS_MAX, 15 * SECOND),
            3 => self.roll().await,
            4 | 5 => self.pause(),
            6 | 7 => self.partition(),
            8 => self.weather(),
            9 => {
                for host in self.some_hosts(2) {
                    let disk = self.s.fleet.host(host).volume.disk.clone();
                    disk.fail_after(world.random(0..2_000) as u32);
                }
            }
            10 if world.chance(0.5) => {
                self.s.model.borrow_mut().expect_fences();
                for host in self.some_hosts(2) {
                    self.s
                        .fleet
                        .jump_clock(host, world.random(1..3_600 * SECOND));
                }
            }
            _ => {
                let hosts = self.some_hosts(1);
                for host in &hosts {
                    self.s
                        .fleet
                        .network()
                        .slow_down(*host, 0..world.random(50..3_000));
                }
            }
        }
    }

    /// Some pods end without warning and come back.
    fn crash(&self, most: u64, longest: u64) {
        let world = &self.s.world;
        let mut pods = self.s.cluster.pods();
        world.shuffle(&mut pods);
        pods.truncate(world.random(1..most + 1) as usize);
        for pod in pods {
            self.s.cluster.kill(pod.ordinal, world.random(200..longest));
        }
    }

    /// A rolling restart.
    async fn roll(&self) {
        let world = &self.s.world;
        for pod in self.s.cluster.pods().into_iter().rev() {
            self.s.cluster.kill(pod.ordinal, world.random(200..3_000));
            world.sleep(world.random(1_000..8_000)).await;
        }
    }

    /// Processes are stopped, and go on believing what they believed.
    fn pause(&self) {
        let world = &self.s.world;
        for host in self.some_hosts(2) {
            self.s.fleet.stop(host);
            let long = if world.chance(0.5) {
                MINUTE
            } else {
                5 * SECOND
            };
            self.later(world.random(1..long), move |s| s.fleet.go_on(host));
        }
    }

    /// Cuts the network in two, one way or both, or the operator from some; for a while.
    fn partition(&self) {
        let world = &self.s.world;
        let mut hosts = self.s.fleet.ids();
        world.shuffle(&mut hosts);
        let at = world.random(1..hosts.len().max(2) as u64) as usize;
        let other = hosts.split_off(at.min(hosts.len()));
        if world.chance(0.3) {
            hosts.push(HostId::OPERATOR);
        }
        let (there, back) = match world.random(0..4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let pairs: Vec<(HostId, HostId)> = hosts
            .iter()
            .flat_map(|a| other.iter().map(|b| (*a, *b)))
            .flat_map(|(a, b)| [(a, b, there), (b, a, back)])
            .filter_map(|(a, b, cut)| cut.then_some((a, b)))
            .collect();
        world.note(("cut", pairs.len()), || format!("cut: {pairs:?}"));
        for (a, b) in &pairs {
            self.s.fleet.network().cut(*a, *b);
        }
        self.later(world.random(1..MINUTE), move |s| {
            for (a, b) in pairs {
                s.fleet.network().mend(a, b);
            }
        });
    }

    /// The network gets better or worse.
    fn weather(&self) {
        let world = &self.s.world;
        let slowest = world.random(5..500);
        let conditions = Conditions {
            latency: 1..slowest,
            loss: world.random(0..300_000) as u32,
            duplication: world.random(0..200_000) as u32,
            reordering: world.random(0..200_000) as u32,
            detour: 0..world.random(100..20 * SECOND),
        };
        world.note(("weather", slowest), || format!("{conditions:?}"));
        self.s.fleet.network().conditions = conditions;
    }
}
