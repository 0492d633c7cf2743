use std::collections::BTreeSet;

use super::*;

/// A ring whose members have all pointers right but do not know who died since.
struct Still {
    members: Vec<Point>,
    r: usize,
    dead: BTreeSet<Point>,
}

fn point(n: u64) -> Point {
    (Position(n), PeerId(n.into()))
}

impl Still {
    fn new(mut positions: Vec<u64>, r: usize) -> Self {
        positions.sort_unstable();
        positions.dedup();
        Still {
            members: positions.into_iter().map(point).collect(),
            r,
            dead: BTreeSet::new(),
        }
    }

    fn drawn(n: usize, r: usize, rng: &mut fastrand::Rng) -> Self {
        Still::new((0..n).map(|_| rng.u64(..)).collect(), r)
    }

    fn owner_among(&self, key: Position, alive: impl Fn(&Point) -> bool) -> Option<Point> {
        let members = || self.members.iter().copied().filter(&alive);
        members().min_by_key(|p| cut(key, *p))
    }

    fn refer(&self, at: Point, key: Position) -> Referral {
        let i = self.members.binary_search(&at).expect("a member");
        let others = self.members[i + 1..].iter().chain(&self.members[..i]);
        let successors: Vec<Point> = others.clone().copied().take(self.r).collect();
        let mut fingers = Fingers::new();
        for exponent in 0..64 {
            let start = Fingers::start(at.0, exponent);
            let owner = self.owner_among(start, |_| true).expect("somebody");
            fingers.set(at, exponent, owner);
        }
        refer(key, at, others.last().copied(), &successors, &fingers)
    }

    /// Where the lookup ends and what it took; `None` when it failed.
    fn look_up(&self, from: Point, key: Position) -> (Option<Point>, Lookup) {
        let mut lookup = Lookup::new(key, from, self.refer(from, key));
        loop {
            match lookup.next() {
                Next::Ask(at) if self.dead.contains(&at) => lookup.on_timeout(at),
                Next::Ask(at) => lookup.on_referral(at, self.refer(at, key)),
                Next::Found { owner, .. } => return (Some(owner), lookup),
                Next::Failed => return (None, lookup),
            }
        }
    }
}

#[test]
fn everybody_finds_every_owner() {
    let mut rng = fastrand::Rng::with_seed(1);
    for n in [1, 2, 3, 5, 40] {
        let ring = Still::drawn(n, 3, &mut rng);
        for from in &ring.members {
            let around = ring.members.iter().map(|p| p.0.0);
            let keys = around.flat_map(|p| [p.wrapping_sub(1), p, p.wrapping_add(1)]);
            for key in keys.map(Position) {
                let (found, lookup) = ring.look_up(*from, key);
                assert_eq!(found, ring.owner_among(key, |_| true), "{from:?} {key:?}");
                assert_eq!(lookup.timeouts(), 0);
                assert!(lookup.hops() <= 8, "{}", lookup.hops());
            }
        }
    }
}

#[test]
fn peers_at_one_position_are_told_apart_by_identity() {
    let mut ring = Still::new(vec![10, 30], 3);
    ring.members.insert(1, (Position(10), PeerId(11)));
    for from in ring.members.clone() {
        let (found, _) = ring.look_up(from, Position(10));
        assert_eq!(found, Some(point(10)));
        let (found, _) = ring.look_up(from, Position(11));
        assert_eq!(found, Some(point(30)));
    }
}

#[test]
fn with_half_of_all_dead_no_answer_is_wrong() {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut found = 0;
    for _ in 0..20 {
        let mut ring = Still::drawn(60, 6, &mut rng);
        let half = |_: &Point| rng.bool();
        ring.dead = ring.members.iter().copied().filter(half).collect();
        let alive = |p: &Point| !ring.dead.contains(p);
        for from in ring.members.iter().copied().filter(alive) {
            let key = Position(rng.u64(..));
            let (answer, lookup) = ring.look_up(from, key);
            if answer.is_some() {
                assert_eq!(answer, ring.owner_among(key, alive), "{key:?}");
                found += 1;
                continue;
            }
            // It ended at a member that has lost its whole list: there the ring itself is broken.
            let mut known = lookup.preceding.values().rev();
            let last = known.find(|c| c.1 != Standing::Dead).expect("ourselves").0;
            let place = ring.members.binary_search(&last).expect("a member");
            let mut list = (1..=6).map(|k| &ring.members[(place + k) % ring.members.len()]);
            assert!(list.all(|p| !alive(p)), "{last:?} knows the way to {key:?}");
        }
    }
    assert!(found > 500, "{found} of some 600 found");
}

#[test]
fn a_newcomer_that_its_predecessor_has_not_heard_of_is_found() {
    let ring = Still::new((1..=20).map(|n| n * 100).collect(), 3);
    let newcomer = point(1050);
    let key = Position(1020);
    let state_of = |at: Point| match at {
        // Its successor has been notified, and it has joined itself.
        p if p == point(1100) => refer(key, p, Some(newcomer), &[point(1200)], &Fingers::new()),
        p if p == newcomer => refer(key, p, Some(point(1000)), &[point(1100)], &Fingers::new()),
        p => ring.refer(p, key),
    };
    let mut lookup = Lookup::new(key, point(100), state_of(point(100)));
    let mut asked = Vec::new();
    while let Next::Ask(at) = lookup.next() {
        asked.push(at);
        lookup.on_referral(at, state_of(at));
    }
    let owner = newcomer;
    let predecessor = Some(point(1000));
    assert_eq!(lookup.next(), Next::Found { owner, predecessor });
    assert!(
        asked.contains(&point(1100)),
        "the list knew only of this one: {asked:?}"
    );
}

#[test]
fn an_owner_whose_predecessor_died_is_confirmed_by_the_member_before() {
    let mut ring = Still::new((1..=20).map(|n| n * 100).collect(), 3);
    ring.dead = BTreeSet::from([point(1000), point(1100)]);
    let (found, lookup) = ring.look_up(point(1300), Position(1050));
    assert_eq!(found, Some(point(1200)));
    assert_eq!(lookup.timeouts(), 2, "both of the dead were tried");
}

#[test]
fn a_lookup_ends() {
    // Whoever is asked names ever more members nearer to the key.
    let key = Position(0);
    let mut lookup = Lookup::new(key, point(1), Referral::default());
    let mut at = 2;
    let mut asked = 0;
    lookup.hear_of_owners([point(u64::MAX)]);
    while let Next::Ask(next) = lookup.next() {
        asked += 1;
        at += 1;
        let referral = Referral {
            preceding: vec![point(u64::MAX / 2 + at)],
            ..Referral::default()
        };
        lookup.on_referral(next, referral);
    }
    assert_eq!((lookup.next(), asked), (Next::Failed, QUESTIONS));
}

#[test]
fn who_knows_everybody_asks_the_owner_first() {
    let ring = Still::new((1..=1000).map(|n| n * 1_000_003).collect(), 4);
    let me = ring.members[500];
    let others: Vec<Point> = ring.members.iter().copied().filter(|p| *p != me).collect();
    for n in [0, 1, 499_000_000, 501_500_000, u64::MAX] {
        let key = Position(n);
        let mut lookup = Lookup::new(key, me, refer_among(key, &others));
        while let Next::Ask(at) = lookup.next() {
            lookup.on_referral(at, ring.refer(at, key));
        }
        let Next::Found { owner, .. } = lookup.next() else {
            panic!("not found")
        };
        assert_eq!(Some(owner), ring.owner_among(key, |_| true));
        assert_eq!(lookup.hops(), 1);
    }
}
