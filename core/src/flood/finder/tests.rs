use super::super::overlay::Circles;
use super::*;
use crate::key::Position;
use crate::ring::Point;
use crate::share::tests::offer;

/// Finders that hear each other at once, in zones of equal size.
struct Net {
    finders: Vec<Finder>,
    around: Vec<Neighbours>,
    zones: usize,
    dead: Vec<usize>,
    /// Messages by (from, to).
    sent: Vec<(usize, usize, Step)>,
}

impl Net {
    fn new(peers: usize, zones: usize) -> Net {
        let point = |i: usize| -> Point { (Position((i * 37 % peers) as u64), PeerId(i as u128)) };
        let all = Circles::new((0..peers).map(point).collect());
        let zonal: Vec<Circles> = (0..zones)
            .map(|z| Circles::new((z..peers).step_by(zones).map(point).collect()))
            .collect();
        let around = (0..peers).map(|i| Neighbours {
            zone: zonal[i % zones].beside(PeerId(i as u128)),
            all: all.beside(PeerId(i as u128)),
        });
        let finder = |i: usize| {
            Finder::new(
                PeerId(i as u128),
                format!("z{}", i % zones),
                0,
                i as u64 + 1,
            )
        };
        Net {
            finders: (0..peers).map(finder).collect(),
            around: around.collect(),
            zones,
            dead: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn search(&mut self, from: usize, ask: Ask) -> Found {
        let up = |_| true;
        let around = self.around[from].clone();
        let effects = self.finders[from].start(7, ask, &around, up, Time(0));
        let mut queue: VecDeque<(usize, Effect)> =
            effects.unwrap().into_iter().map(|e| (from, e)).collect();
        let mut waiting = VecDeque::new();
        loop {
            let Some((at, effect)) = queue.pop_front() else {
                // Nothing moves any more: time passes.
                let (at, op): (usize, u64) = waiting.pop_front().expect("an end");
                let around = self.around[at].clone();
                let effects = self.finders[at].on_patience(op, &around);
                queue.extend(effects.into_iter().map(|e| (at, e)));
                continue;
            };
            match effect {
                Effect::Done(tag, found) => {
                    assert_eq!(tag, 7);
                    assert!(self.finders[at].searches.is_empty());
                    return found;
                }
                Effect::Wait(op) => waiting.push_back((at, op)),
                Effect::Send(to, step) => {
                    let to = to.0 as usize;
                    self.sent.push((at, to, step.clone()));
                    if !self.dead.contains(&to) {
                        let around = self.around[to].clone();
                        let from = PeerId(at as u128);
                        let effects = self.finders[to].on_step(from, step, &around, Time(0));
                        queue.extend(effects.into_iter().map(|e| (to, e)));
                    }
                }
            }
        }
    }

    /// Links within the asker's zone, each direction counted.
    fn links(&self, zone: usize) -> usize {
        let of = self.around.iter().skip(zone).step_by(self.zones);
        of.map(|n| n.zone.len()).sum()
    }
}

fn ask(text: &str, method: Method, ttl: u32) -> Ask {
    Ask {
        wanted: Wanted::words(text).unwrap(),
        method,
        ttl,
        everywhere: false,
        want: 0,
    }
}

fn holders(found: &Found) -> Vec<u128> {
    let mut all: Vec<u128> = found.hits.iter().map(|h| h.peer.0).collect();
    all.sort_unstable();
    all
}

#[test]
fn who_may_have_more_than_fits_into_an_answer_is_counted() {
    let mut net = Net::new(9, 3);
    for n in 0..OFFERS_MAX {
        net.finders[4].share(offer(&format!("rain {n}"), &[]));
        net.finders[7].share(offer(&format!("rain {n}"), &[]));
    }
    net.finders[7].unshare(&Name::new("rain 0").unwrap());
    for method in [Method::Flood, Method::Walk(2)] {
        let found = net.search(1, ask("rain", method, 7));
        assert_eq!(found.hits.len(), OFFERS_MAX * 2 - 1);
        assert_eq!(found.cost.full, 1, "one was full, one was not: {method:?}");
    }
}

#[test]
fn a_flood_reaches_its_zone_and_no_other_and_crosses_each_link_once() {
    let mut net = Net::new(120, 3);
    for peer in [4, 7, 61, 64] {
        net.finders[peer].share(offer("songs/rain", &[]));
    }
    let found = net.search(1, ask("rain", Method::Flood, 7));
    assert_eq!(holders(&found), [4, 7, 61, 64], "1, 4, 7, … are one zone");
    assert_eq!(found.cost.peers, 40);
    assert_eq!(found.cost.silent, 0);
    assert_eq!(
        found.cost.messages as usize,
        net.sent.len(),
        "told the truth"
    );
    assert!(
        net.sent
            .iter()
            .all(|(from, to, _)| from % 3 == 1 && to % 3 == 1)
    );
    let mut asked: Vec<(usize, usize)> = net
        .sent
        .iter()
        .filter(|(_, _, step)| matches!(step, Step::Ask(_)))
        .map(|(from, to, _)| (*from, *to))
        .collect();
    let queries = asked.len();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), queries, "no link twice in a direction");
    assert!(net.sent.len() <= net.links(1), "answers included");
}

#[test]
fn everywhere_is_everywhere() {
    let mut net = Net::new(60, 3);
    net.finders[5].share(offer("rain", &[]));
    let near = net.search(0, ask("rain", Method::Flood, 7));
    assert_eq!((near.hits.len(), near.cost.peers), (0, 20));
    let wide = Ask {
        everywhere: true,
        ..ask("rain", Method::Flood, 16)
    };
    let found = net.search(0, wide);
    assert_eq!((holders(&found), found.cost.peers), (vec![5], 60));
}

#[test]
fn the_ttl_bounds_how_far_a_flood_goes() {
    let mut net = Net::new(200, 1);
    let near = net.search(0, ask("x", Method::Flood, 1));
    assert_eq!(near.cost.peers as usize, 1 + net.around[0].zone.len());
    let mut last = near.cost.peers;
    for ttl in 2..5 {
        let found = net.search(0, ask("x", Method::Flood, ttl));
        assert!(found.cost.peers > last && found.cost.peers < 200);
        last = found.cost.peers;
    }
}

#[test]
fn the_best_case_asks_nobody_and_the_next_its_neighbours() {
    let mut net = Net::new(50, 1);
    net.finders[0].share(offer("own", &[]));
    let one = |text| Ask {
        want: 1,
        ..ask(text, Method::Flood, 7)
    };
    let own = net.search(0, one("own"));
    assert_eq!((own.cost.peers, own.cost.messages), (1, 0));
    let beside = net.around[0].zone[0].0 as usize;
    net.finders[beside].share(offer("near", &[]));
    let near = net.search(0, one("near"));
    assert_eq!(near.cost.peers as usize, 1 + net.around[0].zone.len());
    let again = net.search(0, one("near"));
    assert_eq!((again.cost.peers, again.cost.messages), (1, 0), "heard");
    assert_eq!(holders(&again), holders(&near));
    // Who wants all that there is asks.
    assert!(net.search(0, ask("near", Method::Flood, 7)).cost.peers == 50);
}

#[test]
fn the_ring_grows_until_enough_is_found() {
    let mut net = Net::new(300, 1);
    net.finders[150].share(offer("far", &[]));
    let limited = Ask {
        want: 1,
        ..ask("far", Method::Flood, 8)
    };
    let found = net.search(0, limited);
    assert_eq!(holders(&found), [150]);
    assert_eq!(found.cost.messages as usize, net.sent.len());
}

#[test]
fn walkers_find_and_tell_what_they_cost() {
    let mut net = Net::new(50, 1);
    for peer in [9, 30] {
        net.finders[peer].share(offer("rain", &["wet"]));
    }
    let found = net.search(0, ask("wet", Method::Walk(4), 64));
    assert_eq!(holders(&found), [9, 30]);
    assert_eq!(found.cost.messages as usize, net.sent.len());
    assert!(found.cost.peers <= 50 && found.cost.silent == 0);
    let steps = |net: &Net, from: usize| {
        let asks = net.sent[from..].iter();
        asks.filter(
            |(_, _, s)| matches!(s, Step::Ask(q) if q.walk.as_ref().is_some_and(|w| !w.resume)),
        )
        .count()
    };
    assert!(steps(&net, 0) <= 4 * 64);
    let before = net.sent.len();
    let short = Ask {
        want: 1,
        wanted: Wanted::words("rain").unwrap(),
        ..ask("wet", Method::Walk(1), 64)
    };
    net.finders[0].heard.clear();
    let one = net.search(0, short);
    assert_eq!(one.hits.len(), 1);
    assert!(steps(&net, before) < 64, "it ends when told to");
}

#[test]
fn walkers_in_a_zone_of_two_turn_back_at_the_end() {
    let mut net = Net::new(2, 1);
    net.finders[1].share(offer("rain", &[]));
    let found = net.search(0, ask("rain", Method::Walk(3), 10));
    assert_eq!((holders(&found), found.cost.peers), (vec![1], 2));
    let alone = Net::new(1, 1).search(0, ask("rain", Method::Walk(3), 10));
    assert_eq!((alone.cost.peers, alone.cost.messages), (1, 0));
}

#[test]
fn the_dead_are_given_up_and_counted() {
    let mut net = Net::new(30, 1);
    net.dead = vec![3, 11];
    net.finders[20].share(offer("rain", &[]));
    let found = net.search(0, ask("rain", Method::Flood, 9));
    assert_eq!((holders(&found), found.cost.silent), (vec![20], 2));
    assert_eq!(found.cost.peers, 28);
    // Every walker that meets a dead peer is lost.
    let found = net.search(0, ask("nothing", Method::Walk(2), 200));
    assert!(found.cost.silent <= 2);
}

#[test]
fn liars_are_not_believed() {
    let mut net = Net::new(10, 1);
    let around = net.around[0].clone();
    let started =
        net.finders[0].start(7, ask("rain", Method::Flood, 3), &around, |_| true, Time(0));
    let op = match started.unwrap().last() {
        Some(Effect::Wait(op)) => *op,
        other => panic!("{other:?}"),
    };
    let tell = |offers| Step::Tell {
        op,
        told: vec![],
        offers,
    };
    let liar = around.zone[0];
    let finder = &mut net.finders[0];
    // What was not asked for, and a second answer, count for nothing.
    finder.on_step(liar, tell(vec![offer("sun", &[])]), &around, Time(0));
    finder.on_step(liar, tell(vec![offer("rain", &[])]), &around, Time(0));
    assert!(finder.searches[&op].found.hits.is_empty());
    // A walker that nobody sent.
    let forged = Step::Check {
        query: Query {
            id: QueryId {
                asker: PeerId(0),
                op,
            },
            zone: None,
            wanted: Wanted::words("rain").unwrap(),
            ttl: 5,
            walk: Some(Walk {
                walker: 0,
                trail: vec![],
                resume: false,
            }),
        },
        offers: vec![offer("rain", &[])],
    };
    assert!(finder.on_step(liar, forged, &around, Time(0)).is_empty());
    assert!(finder.searches[&op].found.hits.is_empty());
}

#[test]
fn the_same_seed_walks_the_same_way() {
    let walk = || {
        let mut net = Net::new(40, 1);
        net.search(0, ask("x", Method::Walk(2), 30));
        net.sent
    };
    assert_eq!(walk(), walk());
}
