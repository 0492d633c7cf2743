//! Lookups by members that all know each other, if late: one step, unless the table is behind.
//!
//! What is looked up runs the shipping functions; how fast news travel is acted out with the shipping numbers
//! (`core::config`). A join is known at once to the member after it, which is notified. A death is found by the first ping
//! that meets it, and believed after the suspicion time. Both then spread as SWIM's rumours do: in each period every
//! member exchanges what it knows with one other at random.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;
use peernet_core::config::{SUCCESSORS, Settings};
use peernet_core::fingers::Fingers;
use peernet_core::key::Position;
use peernet_core::lookup::{Lookup, Next, Referral, refer, refer_among};
use peernet_core::member::PeerId;
use peernet_core::ring::Point;

use super::Lookups;

/// `node` hears that `who` has come, or has gone.
type News = (u64, usize, usize, bool);

struct Network {
    rng: Rng,
    points: Vec<Point>,
    alive: Vec<bool>,
    /// By member, everybody it believes in, itself too, in ring order.
    tables: Vec<Vec<Point>>,
    news: BinaryHeap<Reverse<News>>,
}

/// Looks up ten random keys a second for so many seconds, while so many members join and as many fail per second.
pub fn run(nodes: usize, churn: f64, seconds: u64, seed: u64) -> Lookups {
    let mut rng = Rng::with_seed(seed);
    let place = |i| (Position(rng.u64(..)), PeerId(i as u128));
    let points: Vec<Point> = (0..nodes).map(place).collect();
    let mut everybody = points.clone();
    everybody.sort_unstable();
    let mut network = Network {
        alive: vec![true; nodes],
        tables: vec![everybody; nodes],
        news: BinaryHeap::new(),
        points,
        rng,
    };
    let mut seen = Lookups::default();
    let (mut join, mut fail) = (0.0, 0.0);
    for now in (0..seconds * 1_000).step_by(100) {
        network.deliver(now);
        while churn > 0.0 && join <= now as f64 {
            network.join(now);
            join += -(1.0 - network.rng.f64()).ln() * 1_000.0 / churn;
        }
        while churn > 0.0 && fail <= now as f64 {
            network.fail(now);
            fail += -(1.0 - network.rng.f64()).ln() * 1_000.0 / churn;
        }
        network.look_up(&mut seen);
    }
    seen
}

impl Network {
    fn living(&self) -> Vec<usize> {
        (0..self.alive.len()).filter(|i| self.alive[*i]).collect()
    }

    fn someone(&mut self) -> usize {
        loop {
            let id = self.rng.usize(0..self.alive.len());
            if self.alive[id] {
                return id;
            }
        }
    }

    fn owner(&self, key: Position) -> Option<Point> {
        let living = self.points.iter().filter(|p| self.alive[p.1.0 as usize]);
        living.copied().min_by_key(|p| (key.distance_to(p.0), p.1))
    }

    fn deliver(&mut self, now: u64) {
        while let Some(Reverse((at, node, who, came))) = self.news.peek().copied() {
            if at > now {
                return;
            }
            self.news.pop();
            let (table, who) = (&mut self.tables[node], self.points[who]);
            match (table.binary_search(&who), came) {
                (Err(at), true) => table.insert(at, who),
                (Ok(at), false) => drop(table.remove(at)),
                _ => {}
            }
        }
    }

    fn join(&mut self, now: u64) {
        let (id, bootstrap) = (self.points.len(), self.someone());
        let me = (Position(self.rng.u64(..)), PeerId(id as u128));
        let after = self.owner(me.0).expect("somebody lives").1.0 as usize;
        self.points.push(me);
        self.alive.push(true);
        self.tables.push(self.tables[bootstrap].clone());
        self.news.push(Reverse((now, id, id, true)));
        self.news.push(Reverse((now, after, id, true)));
        self.spread(now, id, true, vec![id, after]);
        self.deliver(now);
    }

    fn fail(&mut self, now: u64) {
        let id = self.someone();
        if self.living().len() == 1 {
            return;
        }
        self.alive[id] = false;
        let settings = Settings::default();
        let n = self.living().len() as f64;
        // Each of n others pings one at random in each period.
        let missed = (1.0 - 1.0 / n).powf(n);
        let mut met = settings.ping_period;
        while self.rng.f64() < missed {
            met += settings.ping_period;
        }
        let finder = self.someone();
        let suspected = now + met + 2 * settings.ping_timeout;
        self.spread(suspected + settings.suspicion, id, false, vec![finder]);
    }

    /// News spread from those who know, period by period, until everybody living now has them.
    fn spread(&mut self, from: u64, who: usize, came: bool, knowing: Vec<usize>) {
        let living = self.living();
        let mut knows = vec![false; self.alive.len()];
        let mut at = from;
        for id in knowing {
            knows[id] = true;
            self.news.push(Reverse((at, id, who, came)));
        }
        while living.iter().any(|id| !knows[*id]) {
            at += Settings::default().ping_period;
            let before = knows.clone();
            for id in &living {
                let other = living[self.rng.usize(0..living.len())];
                for (told, by) in [(*id, other), (other, *id)] {
                    if before[by] && !knows[told] {
                        knows[told] = true;
                        self.news.push(Reverse((at, told, who, came)));
                    }
                }
            }
        }
    }

    fn refer(&self, key: Position, id: usize) -> Referral {
        let (me, table) = (self.points[id], &self.tables[id]);
        let here = table.binary_search(&me).unwrap_or_else(|at| at);
        let others = table.len() - 1;
        let successors = (1..=SUCCESSORS.min(others)).map(|k| table[(here + k) % table.len()]);
        let predecessor = (others > 0).then(|| table[(here + others) % table.len()]);
        let successors: Vec<Point> = successors.collect();
        refer(key, me, predecessor, &successors, &Fingers::new())
    }

    fn look_up(&mut self, seen: &mut Lookups) {
        let (from, key) = (self.someone(), Position(self.rng.u64(..)));
        let me = self.points[from];
        let own = Referral {
            mine: self.refer(key, from).mine,
            ..refer_among(key, &self.tables[from])
        };
        let mut lookup = Lookup::new(key, me, own);
        while let Next::Ask(at) = lookup.next() {
            match at.1.0 as usize {
                id if self.alive[id] => lookup.on_referral(at, self.refer(key, id)),
                _ => lookup.on_timeout(at),
            }
        }
        seen.hops.push(lookup.hops());
        seen.timeouts.push(lookup.timeouts());
        match lookup.next() {
            Next::Found { owner, .. } => {
                seen.wrong += u32::from(Some(owner) != self.owner(key));
            }
            Next::Failed | Next::Ask(_) => seen.failed += 1,
        }
    }
}
