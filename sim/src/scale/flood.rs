//! Unstructured search at scale: what flooding and random walks find, and what they cost.
//!
//! The machine that ships ([`peernet_core::flood::finder`]) runs once per peer, on links that ship
//! ([`peernet_core::flood::overlay`]) among peers that stand where they would. Messages take 1 to 20 ms each, so that a
//! flood's branches overtake each other as they do in a network.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use fastrand::Rng;
use peernet_core::flood::finder::{Effect, Finder};
use peernet_core::flood::overlay::{Circles, Neighbours};
use peernet_core::flood::{Ask, Found, Step};
use peernet_core::io::Time;
use peernet_core::key::{Key, Name};
use peernet_core::member::PeerId;
use peernet_core::ring::Point;
use peernet_core::share::Offer;

use super::balance::{Standing, dealt};

/// Peers that may be searched.
pub struct Town {
    rng: Rng,
    peers: Vec<Standing>,
    zones: u32,
    finders: Vec<Finder>,
    around: Vec<Neighbours>,
}

/// What happened in one search.
#[derive(Clone, PartialEq, Debug)]
pub struct Trip {
    /// As the asker was told.
    pub found: Found,
    /// Messages that really were sent.
    pub messages: u32,
    /// Of them, those that left the asker's zone.
    pub abroad: u32,
    /// Questions that crossed a link for the second time in the same direction.
    pub repeated: u32,
}

impl Town {
    /// So many peers, dealt to so many zones in turn.
    pub fn new(peers: u32, zones: u32, seed: u64) -> Self {
        let standing = dealt(peers, zones);
        let point = |p: &Standing| -> Point { (p.position, p.id) };
        let all = Circles::new(standing.iter().map(point).collect());
        let zonal: Vec<Circles> = (0..zones as usize)
            .map(|z| standing.iter().skip(z).step_by(zones as usize).map(point))
            .map(|points| Circles::new(points.collect()))
            .collect();
        let around = standing.iter().enumerate().map(|(i, me)| Neighbours {
            zone: zonal[i % zones as usize].beside(me.id),
            all: all.beside(me.id),
        });
        let mut rng = Rng::with_seed(seed);
        let finders = standing
            .iter()
            .map(|p| Finder::new(p.id, p.zone.clone(), 0, rng.u64(..)))
            .collect();
        Town {
            around: around.collect(),
            finders,
            peers: standing,
            zones,
            rng,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Links within a zone; each counts once, though messages may cross it in both directions.
    pub fn links(&self, zone: u32) -> u32 {
        let zone = format!("zone-{zone}");
        let ends = self.peers.iter().zip(&self.around);
        let ends = ends
            .filter(|(p, _)| p.zone == zone)
            .map(|(_, n)| n.zone.len());
        ends.sum::<usize>() as u32 / 2
    }

    /// A peer of the zone at random.
    pub fn someone(&mut self, zone: u32) -> usize {
        let (zones, of_zone) = (self.zones as usize, self.len() / self.zones as usize);
        self.rng.usize(0..of_zone) * zones + zone as usize
    }

    /// Lets so many peers of the zone, drawn at random, share a file of that name.
    pub fn share(&mut self, name: &str, zone: u32, copies: usize) {
        let mut of_zone: Vec<usize> = (zone as usize..self.len())
            .step_by(self.zones as usize)
            .collect();
        self.rng.shuffle(&mut of_zone);
        for peer in of_zone.into_iter().take(copies) {
            self.finders[peer].share(offer(name));
        }
    }

    /// Searches from `from` until it is done.
    pub fn search(&mut self, from: usize, ask: Ask) -> Trip {
        let mut trip = Trip {
            found: Found::default(),
            messages: 0,
            abroad: 0,
            repeated: 0,
        };
        let mut crossed = BTreeSet::new();
        let mut queue: BinaryHeap<Reverse<(u64, u64, usize)>> = BinaryHeap::new();
        let mut events: Vec<Option<Event>> = Vec::new();
        let around = self.around[from].clone();
        let started = self.finders[from].start(0, ask, &around, |_| true, Time(0));
        let mut fresh = vec![(from, started.unwrap_or_default())];
        let mut now = 0;
        loop {
            for (at, effects) in fresh.drain(..) {
                for effect in effects {
                    let (delay, event) = match effect {
                        Effect::Done(_, found) => {
                            trip.found = found;
                            return trip;
                        }
                        Effect::Wait(op) => (1_000, Event::Patience(at, op)),
                        Effect::Send(to, step) => {
                            let to = to.0 as usize;
                            trip.messages += 1;
                            trip.abroad += u32::from(self.peers[at].zone != self.peers[to].zone);
                            if let Step::Ask(query) = &step
                                && query.walk.is_none()
                            {
                                trip.repeated += u32::from(!crossed.insert((query.id, at, to)));
                            }
                            (self.rng.u64(1..=20), Event::Step(at, to, step))
                        }
                    };
                    let number = events.len();
                    events.push(Some(event));
                    queue.push(Reverse((now + delay, number as u64, number)));
                }
            }
            let Some(Reverse((at, _, number))) = queue.pop() else {
                return trip;
            };
            now = at;
            match events[number].take() {
                Some(Event::Step(from, to, step)) => {
                    let around = &self.around[to];
                    let from = PeerId(from as u128);
                    let effects = self.finders[to].on_step(from, step, around, Time(now));
                    fresh.push((to, effects));
                }
                Some(Event::Patience(at, op)) => {
                    let effects = self.finders[at].on_patience(op, &self.around[at]);
                    fresh.push((at, effects));
                }
                None => {}
            }
        }
    }
}

enum Event {
    Step(usize, usize, Step),
    Patience(usize, u64),
}

fn offer(name: &str) -> Offer {
    Offer {
        name: Name::new(name).expect("a name of our own making"),
        size: 1,
        content: Key::of_bytes(name.as_bytes()),
        content_type: String::new(),
        tags: Vec::new(),
        since: 0,
    }
}

/// Messages of a keyword search by index when the asker knows the slots, as bounded by its design: 2 for the final read of
/// the records, and one per shard of each word's posting list at each replica read.
pub fn index_messages(words: u32, shards: u32, replicas_read: u32) -> u32 {
    2 + words * shards * replicas_read
}
