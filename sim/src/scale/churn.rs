//! Members join, fail without a word, and stabilise, while keys are looked up.
//!
//! Each member runs the machine that ships ([`Chord`], the steps of `core::ring`), its [`Fingers`] and the lookups of
//! `core::lookup`. What surrounds them is acted out here with the numbers of the paper (section V.A and V.D, from memory):
//! messages take an exponential time of 50 ms in the mean, who does not answer within 500 ms is given up, and every
//! member stabilises, checks its predecessor and refreshes one finger each 15 to 45 s. Members know of each other only
//! what the ring told them.
//!
//! One thing is added to the paper: who is displaced as a predecessor is told so, and stabilises at once. Otherwise a
//! newcomer is known to a single member for half a minute, and to nobody when that one dies.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use fastrand::Rng;
use peernet_core::chord::{Action, Chord, State};
use peernet_core::fingers::Fingers;
use peernet_core::key::Position;
use peernet_core::lookup::{Lookup, Next, Referral, refer};
use peernet_core::member::PeerId;
use peernet_core::ring::{Point, View};

use super::Lookups;

mod event;

use event::Event;

/// What is to be acted out. Times in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Setup {
    /// Members at first.
    pub nodes: usize,
    /// Entries in a list of successors.
    pub r: usize,
    /// Members that join, and members that fail, per second.
    pub churn: f64,
    /// Lookups per second, each by a random member.
    pub lookups: f64,
    /// Mean time of a message.
    pub delay: f64,
    /// When an answer is given up.
    pub timeout: u64,
    /// Between two stabilisations of a member: at least and at most.
    pub stabilise: (u64, u64),
}

impl Setup {
    /// As in the paper's section V.D, with so many joins and failures per second; ten lookups per second instead of one,
    /// to see rare failures.
    pub fn paper(churn: f64) -> Self {
        Setup {
            nodes: 1_000,
            r: 20,
            churn,
            lookups: 10.0,
            delay: 50.0,
            timeout: 500,
            stabilise: (15_000, 45_000),
        }
    }
}

struct Node {
    chord: Chord,
    fingers: Fingers,
    /// Found not to answer.
    gone: BTreeSet<PeerId>,
    /// Where to join: the member before, as looked up.
    entry: Option<Point>,
    alive: bool,
}

/// What a member knows of others: where those are whom it was told of, and who did not answer.
struct Sight<'a> {
    points: &'a [Point],
    gone: &'a BTreeSet<PeerId>,
    entry: Option<Point>,
}

impl View for Sight<'_> {
    fn members(&self) -> impl Iterator<Item = Point> {
        self.entry.into_iter()
    }
    fn point(&self, id: PeerId) -> Option<Point> {
        (!self.is_gone(id)).then(|| self.points[id.0 as usize])
    }
    fn member(&self, id: PeerId) -> Option<Point> {
        self.point(id)
    }
    fn is_gone(&self, id: PeerId) -> bool {
        self.gone.contains(&id)
    }
}

/// All members, as the first of them see each other.
struct Founders<'a>(&'a [Point]);

impl View for Founders<'_> {
    fn members(&self) -> impl Iterator<Item = Point> {
        self.0.iter().copied()
    }
    fn point(&self, id: PeerId) -> Option<Point> {
        self.0.get(id.0 as usize).copied()
    }
    fn member(&self, id: PeerId) -> Option<Point> {
        self.point(id)
    }
    fn is_gone(&self, _: PeerId) -> bool {
        false
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Purpose {
    Measure,
    Finger(u8),
    Join,
}

struct Running {
    lookup: Lookup,
    from: usize,
    purpose: Purpose,
    /// Who owned the key when the last answer was given.
    owner: Option<Point>,
}

/// The network, its clock and what is under way.
pub struct Churn {
    setup: Setup,
    rng: Rng,
    now: u64,
    /// Where everybody is that ever was, by identity.
    points: Vec<Point>,
    nodes: Vec<Node>,
    /// Live members whose join is complete: the member after them knows.
    current: BTreeSet<Point>,
    events: BinaryHeap<Reverse<Scheduled>>,
    running: BTreeMap<u64, Running>,
    /// Numbers for events, questions and lookups.
    numbers: u64,
    seen: Lookups,
}

struct Scheduled {
    at: (u64, u64),
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl Churn {
    /// A whole ring, about to change.
    pub fn new(setup: Setup, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let place = |i| (Position(rng.u64(..)), PeerId(i as u128));
        let points: Vec<Point> = (0..setup.nodes).map(place).collect();
        let mut churn = Churn {
            setup,
            rng,
            now: 0,
            current: points.iter().copied().collect(),
            nodes: Vec::new(),
            points,
            events: BinaryHeap::new(),
            running: BTreeMap::new(),
            numbers: 0,
            seen: Lookups::default(),
        };
        for id in 0..setup.nodes {
            let mut node = churn.blank();
            node.chord.found(churn.points[id], &Founders(&churn.points));
            node.fingers = churn.right_fingers(id);
            churn.nodes.push(node);
            churn.stabilise_again(id);
        }
        churn.next_lookup();
        churn.next_join();
        churn.next_failure();
        churn
    }

    /// Lets so much time pass; what became of the lookups that ended in it.
    pub fn run(&mut self, millis: u64) -> Lookups {
        let until = self.now + millis;
        self.seen = Lookups::default();
        while self.events.peek().is_some_and(|e| e.0.at.0 <= until) {
            let Reverse(next) = self.events.pop().expect("just seen");
            self.now = next.at.0;
            self.handle(next.event);
        }
        self.now = until;
        std::mem::take(&mut self.seen)
    }

    /// Each member dies with probability `fraction`, all at once.
    pub fn kill(&mut self, fraction: f64) {
        for id in 0..self.nodes.len() {
            if self.rng.f64() < fraction {
                self.die(id);
            }
        }
    }

    /// Members whose first live successor is not the one it should be, and members there are.
    pub fn astray(&self) -> (usize, usize) {
        let wrong = |p: &&Point| {
            let node = &self.nodes[p.1.0 as usize];
            let mut list = node.chord.ring().successors.iter();
            let first = list.find(|id| self.nodes[id.0 as usize].alive);
            let next = self.owner(Position(p.0.0.wrapping_add(1)));
            first.copied() != next.map(|p| p.1)
        };
        (
            self.current.iter().filter(wrong).count(),
            self.current.len(),
        )
    }

    fn owner(&self, key: Position) -> Option<Point> {
        let first = self.current.range((key, PeerId(0))..).next();
        first.or(self.current.first()).copied()
    }

    fn blank(&self) -> Node {
        Node {
            chord: Chord::new(self.setup.r),
            fingers: Fingers::new(),
            gone: BTreeSet::new(),
            entry: None,
            alive: true,
        }
    }

    fn right_fingers(&self, id: usize) -> Fingers {
        let me = self.points[id];
        let successor = self.owner(Position(me.0.0.wrapping_add(1)));
        let mut fingers = Fingers::new();
        for _ in 0..u64::BITS {
            if let Some((exponent, start)) = fingers.due(me, successor)
                && let Some(found) = self.owner(start)
            {
                fingers.set(me, exponent, found);
            }
        }
        fingers
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn after(&mut self, millis: u64, event: Event) {
        let at = (self.now + millis, self.number());
        self.events.push(Reverse(Scheduled { at, event }));
    }

    /// Exponentially distributed, in whole milliseconds.
    fn exponential(&mut self, mean: f64) -> u64 {
        (-mean * (1.0 - self.rng.f64()).ln()).round() as u64
    }

    fn send(&mut self, event: Event) {
        let delay = self.exponential(self.setup.delay);
        self.after(delay, event);
    }

    fn next_lookup(&mut self) {
        let wait = self.exponential(1_000.0 / self.setup.lookups);
        self.after(wait, Event::LookUp);
    }

    fn next_join(&mut self) {
        if self.setup.churn > 0.0 {
            let wait = self.exponential(1_000.0 / self.setup.churn);
            self.after(wait, Event::Join);
        }
    }

    fn next_failure(&mut self) {
        if self.setup.churn > 0.0 {
            let wait = self.exponential(1_000.0 / self.setup.churn);
            self.after(wait, Event::Fail);
        }
    }

    fn stabilise_again(&mut self, id: usize) {
        let (least, most) = self.setup.stabilise;
        let wait = self.rng.u64(least..=most);
        self.after(wait, Event::Stabilise { id });
    }

    fn someone(&mut self) -> usize {
        // Somebody is always alive: failures stop before the last.
        loop {
            let id = self.rng.usize(0..self.nodes.len());
            if self.current.contains(&self.points[id]) {
                return id;
            }
        }
    }

    fn die(&mut self, id: usize) {
        if self.current.len() > 1 {
            self.nodes[id].alive = false;
            self.current.remove(&self.points[id]);
        }
    }

    fn refer(&self, key: Position, id: usize) -> Referral {
        let node = &self.nodes[id];
        let known = |id: &&PeerId| !node.gone.contains(id);
        let point = |id: &PeerId| self.points[id.0 as usize];
        let ring = node.chord.ring();
        let successors: Vec<Point> = ring.successors.iter().filter(known).map(point).collect();
        let predecessor = ring.predecessor.as_ref().filter(known).map(point);
        refer(
            key,
            self.points[id],
            predecessor,
            &successors,
            &node.fingers,
        )
    }

    /// A member finds that another does not answer.
    fn notice(&mut self, id: usize, gone: PeerId) {
        if !self.nodes[gone.0 as usize].alive {
            self.nodes[id].gone.insert(gone);
            self.nodes[id].fingers.fail(gone);
        }
    }

    /// One input to a member's machine, and what it wants sent.
    fn chord(
        &mut self,
        id: usize,
        input: impl FnOnce(&mut Chord, Point, u64, &Sight<'_>) -> Action,
    ) {
        let seq = self.number();
        let (me, node) = (self.points[id], &mut self.nodes[id]);
        let view = Sight {
            points: &self.points,
            gone: &node.gone,
            entry: node.entry,
        };
        match input(&mut node.chord, me, seq, &view) {
            Action::Nothing => {}
            Action::Ask { to, seq } => self.send(Event::Query { from: id, to, seq }),
            Action::Notify { to } => self.send(Event::Notify { from: me.1, to }),
        }
    }

    fn tick(&mut self, id: usize) {
        self.chord(id, |chord, me, seq, view| chord.tick(me, false, seq, view));
    }

    fn begin(&mut self, from: usize, key: Position, purpose: Purpose, own: Referral) {
        let number = self.number();
        let lookup = Lookup::new(key, self.points[from], own);
        let running = Running {
            lookup,
            from,
            purpose,
            owner: self.owner(key),
        };
        self.running.insert(number, running);
        self.proceed(number, key);
    }

    /// Does what a lookup wants done next.
    fn proceed(&mut self, number: u64, key: Position) {
        let Some(running) = self.running.get(&number) else {
            return;
        };
        let next = running.lookup.next();
        if let Next::Ask(at) = next {
            return self.send(Event::Question { number, key, at });
        }
        let Running {
            lookup,
            from,
            purpose,
            owner: then,
        } = self.running.remove(&number).expect("just seen");
        match (purpose, next) {
            (Purpose::Measure, _) => self.judge(key, &lookup, next, then),
            (Purpose::Finger(exponent), Next::Found { owner, .. }) => {
                let me = self.points[from];
                self.nodes[from].fingers.set(me, exponent, owner);
            }
            (Purpose::Join, Next::Found { owner, predecessor }) => {
                self.nodes[from].entry = predecessor.or(Some(owner));
                self.tick(from);
            }
            (Purpose::Join, _) => self.after(self.setup.timeout, Event::Enter { id: from }),
            (Purpose::Finger(_), _) => {}
        }
    }

    fn judge(&mut self, key: Position, lookup: &Lookup, end: Next, then: Option<Point>) {
        self.seen.hops.push(lookup.hops());
        self.seen.timeouts.push(lookup.timeouts());
        match end {
            Next::Found { owner, .. } if self.owner(key) == Some(owner) => {}
            Next::Found { owner, .. } if then == Some(owner) => self.seen.overtaken += 1,
            Next::Found { .. } => self.seen.wrong += 1,
            Next::Failed | Next::Ask(_) => self.seen.failed += 1,
        }
    }
}
