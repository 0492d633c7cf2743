//! A swarm on links of limited width: how long it takes until everybody has everything, and what came twice.
//!
//! The machines that ship ([`peernet_core::swarm`]) decide; here their messages take [`DELAY`] and bytes flow like water:
//! each transfer gets its fair share of its sender's and its receiver's link (max-min fairness, as TCP's flows roughly get;
//! Bertsekas and Gallager, "Data Networks", 6.5.2). A *round* is the time one piece needs on an empty link.
//!
//! The measure is the least time in which any schedule could be done, with links that send and receive one piece a round
//! (Kumar and Ross, "Peer-Assisted File Distribution: The Minimum Distribution Time", 2006):
//! `max(F/u_s, F/d_min, N·F/(u_s + Σ u_i))`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use fastrand::Rng;
use peernet_core::io::Time;
use peernet_core::member::PeerId;
use peernet_core::swarm::COME_BACK;
use peernet_core::swarm::fetch::{AskId, Event, Fetch, Request};
use peernet_core::swarm::pieces::Pieces;
use peernet_core::swarm::uploads::{Admission, Sent, TurnId, Uploads};

/// A round, in milliseconds: 1 MiB at 84 Mbit/s.
pub const ROUND: u64 = 100;
/// How long a message takes, in milliseconds.
pub const DELAY: u64 = 1;
/// How long it takes at most until a fetcher hears of a new source, or of what a source has more, in milliseconds.
const DISCOVERY: u64 = 1_000;
const NEWS: u64 = 50;
const TICK: u64 = 1_000;
/// A run that takes so many times as long as it should is given up.
const GIVE_UP: f64 = 100.0;

/// Who takes part, and what is wrong with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Swarm {
    /// How many fetch.
    pub fetchers: u32,
    /// Of how many pieces.
    pub pieces: u32,
    /// What does not go as it should.
    pub flaw: Flaw,
}

/// What does not go as it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Nothing.
    None,
    /// The first provider leaves as soon as every piece is somewhere else too.
    SeederLeaves,
    /// The first fetcher gives wrong bytes to all others.
    Liar,
    /// The first fetcher's link is a hundred times narrower in sending.
    Slow,
    /// Known bad: who fetches gives nothing to others.
    NobodyProvides,
    /// Known bad: pieces are taken in order, from the first [`WINDOW`] that are missing.
    InOrder,
}

/// Pieces looked at by who takes them in order.
pub const WINDOW: u32 = 4;

/// How it went.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outcome {
    /// Until the last fetcher had everything; `None`: not all of them ever.
    pub rounds: Option<f64>,
    /// The least that any schedule needs.
    pub bound: f64,
    /// Bytes that came to honest fetchers beyond one copy each, as a share of one copy each.
    pub twice: f64,
    /// Requests to a liar by those it had deceived.
    pub fooled_twice: u32,
}

impl Outcome {
    /// Time by the least time; infinite when it never ended.
    pub fn ratio(&self) -> f64 {
        self.rounds.map_or(f64::INFINITY, |r| r / self.bound)
    }
}

const SEEDER: usize = 0;

#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Notice {
    /// To a source.
    Ask(usize, AskId),
    Want(usize, AskId, Vec<u32>),
    Cancel(usize, AskId),
    /// To a fetcher.
    Turn(AskId),
    Comes(AskId, u32),
    Failed(AskId),
    ComeBack(AskId),
    Meet(usize),
    Map(usize),
    News(usize, u32),
    Gone(usize),
    Tick,
}

/// A piece on its way.
struct Flow {
    from: usize,
    to: usize,
    ask: AskId,
    piece: u32,
    /// Rounds of an empty link still to go.
    left: f64,
}

struct Peer {
    fetch: Fetch,
    uploads: Uploads,
    sent: Sent,
    turns: BTreeMap<(usize, AskId), TurnId>,
    followers: BTreeSet<usize>,
    /// Where each ask went.
    asked: BTreeMap<AskId, usize>,
    deceived_by: BTreeSet<usize>,
    received: f64,
    there: bool,
}

struct World {
    swarm: Swarm,
    rng: Rng,
    now: f64,
    number: u64,
    notices: BinaryHeap<Reverse<(u64, u64, usize, Notice)>>,
    flows: Vec<Flow>,
    /// Of the flows, in pieces a round; worked out again when others flow.
    rates: Vec<f64>,
    peers: Vec<Peer>,
    fooled_twice: u32,
}

impl Swarm {
    /// Lets everybody fetch everything.
    pub fn run(self, seed: u64) -> Outcome {
        let mut rng = Rng::with_seed(seed);
        let peer = |n: u32| Peer {
            fetch: Fetch::new(
                match n {
                    0 => Pieces::all(self.pieces),
                    _ => Pieces::none(self.pieces),
                },
                rng.u64(..),
            ),
            uploads: Uploads::default(),
            sent: Sent::none(self.pieces),
            turns: BTreeMap::new(),
            followers: BTreeSet::new(),
            asked: BTreeMap::new(),
            deceived_by: BTreeSet::new(),
            received: 0.0,
            there: true,
        };
        let peers = (0..=self.fetchers).map(peer).collect();
        let mut world = World {
            swarm: self,
            peers,
            rng,
            now: 0.0,
            number: 0,
            notices: BinaryHeap::new(),
            flows: Vec::new(),
            rates: Vec::new(),
            fooled_twice: 0,
        };
        for fetcher in 1..=self.fetchers as usize {
            world.tell(fetcher, DELAY, Notice::Meet(SEEDER));
            world.tell(fetcher, TICK, Notice::Tick);
        }
        world.run()
    }

    /// What any schedule needs, in rounds.
    fn bound(self) -> f64 {
        let (file, all) = (f64::from(self.pieces), f64::from(self.fetchers));
        file.max(all * file / (1.0 + all))
    }
}

impl World {
    fn run(mut self) -> Outcome {
        let bound = self.swarm.bound();
        let end = bound * GIVE_UP * ROUND as f64;
        let mut rounds = None;
        while self.now < end {
            if self.is_over() {
                rounds = Some(self.now / ROUND as f64);
                break;
            }
            self.step();
        }
        let honest = 1 + usize::from(self.swarm.flaw == Flaw::Liar);
        let fetchers = &self.peers[honest..];
        let once = fetchers.len() as f64 * f64::from(self.swarm.pieces);
        let received: f64 = fetchers.iter().map(|p| p.received).sum();
        Outcome {
            rounds,
            bound,
            twice: received / once - 1.0,
            fooled_twice: self.fooled_twice,
        }
    }

    fn is_over(&self) -> bool {
        self.peers.iter().all(|p| p.fetch.here().is_full())
    }

    /// To the next message, or the next piece's arrival, whatever comes first.
    fn step(&mut self) {
        if self.rates.len() != self.flows.len() {
            self.rates = self.fair();
        }
        let arrivals = self.flows.iter().zip(&self.rates).enumerate();
        let arrivals = arrivals.map(|(n, (flow, rate))| (flow.left / rate * ROUND as f64, n));
        let first = arrivals.min_by(|a, b| a.0.total_cmp(&b.0));
        let message = self.notices.peek().map(|Reverse((at, ..))| *at as f64);
        let until_message = message.map_or(f64::INFINITY, |at| (at - self.now).max(0.0));
        let (passes, arrived) = match first {
            Some((after, n)) if after < until_message => (after, Some(n)),
            _ => (until_message, None),
        };
        self.now += passes;
        for (flow, rate) in self.flows.iter_mut().zip(&self.rates) {
            let moved = (rate * passes / ROUND as f64).min(flow.left);
            flow.left -= moved;
            self.peers[flow.to].received += moved;
        }
        if let Some(n) = arrived {
            let flow = self.flows.swap_remove(n);
            self.rates.clear();
            return self.arrive(flow);
        }
        if let Some(Reverse((_, _, to, notice))) = self.notices.pop() {
            self.notice(to, notice);
        }
    }

    /// Max-min fair: the link with the least for each of its flows settles them, then the next.
    fn fair(&self) -> Vec<f64> {
        let links = self.peers.len();
        let ends = |flow: &Flow| [flow.from, links + flow.to];
        let mut left: Vec<f64> = (0..links * 2).map(|link| self.width(link)).collect();
        let mut flows = vec![0u32; links * 2];
        for flow in &self.flows {
            ends(flow).iter().for_each(|link| flows[*link] += 1);
        }
        let mut rates = vec![None; self.flows.len()];
        loop {
            let used = (0..links * 2).filter(|link| flows[*link] > 0);
            let share = |link: &usize| left[*link] / f64::from(flows[*link]);
            let Some(tightest) = used.min_by(|a, b| share(a).total_cmp(&share(b))) else {
                break;
            };
            let share = share(&tightest);
            for (flow, rate) in self.flows.iter().zip(&mut rates) {
                if rate.is_none() && ends(flow).contains(&tightest) {
                    *rate = Some(share);
                    for link in ends(flow) {
                        flows[link] -= 1;
                        left[link] = (left[link] - share).max(0.0);
                    }
                }
            }
        }
        // Whatever rounding left: never nothing.
        let rate = |r: Option<f64>| r.unwrap_or(0.0).max(1e-9);
        rates.into_iter().map(rate).collect()
    }

    /// Pieces a round. Links are numbered as senders, then as receivers.
    fn width(&self, link: usize) -> f64 {
        match self.swarm.flaw {
            Flaw::Slow if link == 1 => 0.01,
            _ => 1.0,
        }
    }

    fn tell(&mut self, to: usize, after: u64, notice: Notice) {
        self.number += 1;
        // Rounded up: nobody hears of what is still to come.
        let at = self.now.ceil() as u64 + after;
        self.notices.push(Reverse((at, self.number, to, notice)));
    }

    fn id(peer: usize) -> PeerId {
        PeerId(peer as u128)
    }

    fn happens(&mut self, to: usize, event: Event) {
        let now = Time(self.now as u64);
        let requests = self.peers[to].fetch.handle(event, now);
        for request in requests {
            match request {
                Request::Ask(ask, source) => {
                    let source = source.0 as usize;
                    self.peers[to].asked.insert(ask, source);
                    self.fooled_twice += u32::from(self.peers[to].deceived_by.contains(&source));
                    self.tell(source, DELAY, Notice::Ask(to, ask));
                }
                Request::Want(ask, pieces) => self.forward(to, ask, Notice::Want(to, ask, pieces)),
                Request::Cancel(ask) => self.forward(to, ask, Notice::Cancel(to, ask)),
                Request::Leave(source) => {
                    self.peers[source.0 as usize].followers.remove(&to);
                }
            }
        }
    }

    fn forward(&mut self, from: usize, ask: AskId, notice: Notice) {
        let source = self.peers[from].asked[&ask];
        self.tell(source, DELAY, notice);
    }

    fn notice(&mut self, me: usize, notice: Notice) {
        match notice {
            Notice::Ask(fetcher, ask) => self.on_ask(me, fetcher, ask),
            Notice::Want(fetcher, ask, pieces) => self.on_want(me, fetcher, ask, &pieces),
            Notice::Cancel(fetcher, ask) => {
                self.flows.retain(|f| f.to != fetcher || f.ask != ask);
                self.rates.clear();
                self.over(me, fetcher, ask);
            }
            Notice::Turn(ask) => self.happens(me, Event::Turn(ask)),
            Notice::Comes(ask, piece) => self.happens(me, Event::Comes(ask, piece)),
            Notice::Failed(ask) => self.happens(me, Event::Failed(ask)),
            Notice::ComeBack(ask) => self.happens(me, Event::ComeBack(ask, COME_BACK)),
            Notice::Meet(source) => {
                if self.peers[me].fetch.welcomes(World::id(source)) && self.peers[source].there {
                    self.peers[source].followers.insert(me);
                    self.tell(me, 2 * DELAY, Notice::Map(source));
                }
            }
            Notice::Map(source) => {
                let has = self.shown(source, me);
                self.happens(me, Event::Has(World::id(source), has));
            }
            Notice::News(source, piece) => {
                let event = match self.swarm.flaw {
                    Flaw::InOrder => Event::Has(World::id(source), self.shown(source, me)),
                    _ => Event::More(World::id(source), vec![piece]),
                };
                self.happens(me, event);
            }
            Notice::Gone(source) => self.happens(me, Event::Gone(World::id(source))),
            Notice::Tick => {
                self.happens(me, Event::Tick);
                self.tell(me, TICK, Notice::Tick);
            }
        }
    }

    /// What a fetcher gets to see of what a source has.
    fn shown(&self, source: usize, to: usize) -> Pieces {
        let has = self.peers[source].fetch.here();
        if self.swarm.flaw != Flaw::InOrder {
            return has.clone();
        }
        let (total, here) = (has.total(), self.peers[to].fetch.here());
        let missing = (0..total).filter(|piece| !here.has(*piece));
        let mut shown = Pieces::none(total);
        for piece in missing.take(WINDOW as usize).filter(|p| has.has(*p)) {
            shown.insert(piece);
        }
        shown
    }

    fn on_ask(&mut self, me: usize, fetcher: usize, ask: AskId) {
        if !self.peers[me].there {
            return self.tell(fetcher, DELAY, Notice::Failed(ask));
        }
        match self.peers[me].uploads.ask(World::id(fetcher)) {
            Admission::Now(turn) => {
                self.peers[me].turns.insert((fetcher, ask), turn);
                self.tell(fetcher, DELAY, Notice::Turn(ask));
            }
            Admission::Waits(turn) => {
                self.peers[me].turns.insert((fetcher, ask), turn);
            }
            Admission::ComeBack => self.tell(fetcher, DELAY, Notice::ComeBack(ask)),
        }
    }

    fn on_want(&mut self, me: usize, fetcher: usize, ask: AskId, pieces: &[u32]) {
        let Peer {
            sent,
            fetch,
            there,
            turns,
            ..
        } = &mut self.peers[me];
        let chosen = sent.choose(pieces, |piece| fetch.here().has(piece));
        match chosen {
            Some(piece) if *there && turns.contains_key(&(fetcher, ask)) => {
                self.rates.clear();
                self.flows.push(Flow {
                    from: me,
                    to: fetcher,
                    ask,
                    piece,
                    left: 1.0,
                });
                self.tell(fetcher, DELAY, Notice::Comes(ask, piece));
            }
            _ => {
                self.tell(fetcher, DELAY, Notice::Failed(ask));
                self.over(me, fetcher, ask);
            }
        }
    }

    /// A turn is over at its source.
    fn over(&mut self, me: usize, fetcher: usize, ask: AskId) {
        let Some(turn) = self.peers[me].turns.remove(&(fetcher, ask)) else {
            return;
        };
        let next = self.peers[me].uploads.end(turn);
        let turns = &self.peers[me].turns;
        let whose = turns.iter().find(|(_, turn)| Some(**turn) == next);
        if let Some((fetcher, ask)) = whose.map(|(whose, _)| *whose) {
            self.tell(fetcher, DELAY, Notice::Turn(ask));
        }
    }

    fn arrive(&mut self, flow: Flow) {
        let Flow {
            from,
            to,
            ask,
            piece,
            ..
        } = flow;
        self.over(from, to, ask);
        if self.swarm.flaw == Flaw::Liar && from == 1 {
            self.happens(to, Event::Wrong(ask));
            self.peers[to].deceived_by.insert(from);
            return;
        }
        let before = self.peers[to].fetch.here().count();
        self.happens(to, Event::Got(ask));
        if self.peers[to].fetch.here().count() == before {
            return;
        }
        for follower in self.peers[to].followers.clone() {
            let after = DELAY + self.rng.u64(0..NEWS);
            self.tell(follower, after, Notice::News(to, piece));
        }
        if self.swarm.flaw == Flaw::InOrder {
            for source in 0..self.peers.len() {
                if self.peers[source].followers.contains(&to) {
                    self.tell(to, 0, Notice::Map(source));
                }
            }
        }
        if before == 0 && self.swarm.flaw != Flaw::NobodyProvides {
            for other in (1..self.peers.len()).filter(|other| *other != to) {
                let after = self.rng.u64(DELAY..DISCOVERY);
                self.tell(other, after, Notice::Meet(to));
            }
        }
        if self.swarm.flaw == Flaw::SeederLeaves && self.peers[SEEDER].there {
            self.leave_when_out();
        }
    }

    fn leave_when_out(&mut self) {
        let fetchers = &self.peers[1..];
        let somewhere = |piece| fetchers.iter().any(|p| p.fetch.here().has(piece));
        if (0..self.swarm.pieces).all(somewhere) {
            self.peers[SEEDER].there = false;
            self.flows.retain(|f| f.from != SEEDER);
            self.rates.clear();
            for follower in self.peers[SEEDER].followers.clone() {
                self.tell(follower, DELAY, Notice::Gone(SEEDER));
            }
        }
    }
}
