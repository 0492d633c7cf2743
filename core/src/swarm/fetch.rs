//! What a fetcher asks of whom. See [`super`] for the rules.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::pieces::Pieces;
use super::{
    ASKS, CANDIDATES, LIARS, MOVING, PER_SOURCE, REST, SLOW, SLOW_LEAST, SOURCES, SPARE, STRIKES,
};
use crate::io::Time;
use crate::member::PeerId;

/// One request for a turn, and what comes of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AskId(pub u64);

/// Something that happened. What is about an ask that is over has no effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A source, new or not, has exactly these. Its map is of the content's size.
    Has(PeerId, Pieces),
    /// A source has these too.
    More(PeerId, Vec<u32>),
    /// A source is not there any more.
    Gone(PeerId),
    /// It is our turn there.
    Turn(AskId),
    /// Of the pieces named, this one is on its way.
    Comes(AskId, u32),
    /// The piece has the right hash and is durable here.
    Got(AskId),
    /// The piece has another hash, or was not among those named.
    Wrong(AskId),
    /// The source did not deliver.
    Failed(AskId),
    /// The source has too many who wait; so many milliseconds later it may not.
    ComeBack(AskId, u64),
    /// Time has passed. Wanted about every second.
    Tick,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Ask that source for a turn.
    Ask(AskId, PeerId),
    /// It is our turn: name these pieces, best first.
    Want(AskId, Vec<u32>),
    /// This turn, or what comes of it, is not wanted any more.
    Cancel(AskId),
    /// Have nothing more to do with that source.
    Leave(PeerId),
}

/// A content on its way here. See [`super`].
#[derive(Debug)]
pub struct Fetch {
    rng: Rng,
    here: Pieces,
    /// Named or on their way.
    taken: Pieces,
    /// By piece, how many sources have it.
    held: Vec<u16>,
    sources: BTreeMap<PeerId, Source>,
    asks: BTreeMap<AskId, Ask>,
    liars: BTreeSet<PeerId>,
    next: u64,
    /// Pieces that may still be asked of a second source.
    spare: u32,
    /// How long a piece took lately, in milliseconds.
    typical: Option<u64>,
}

#[derive(Debug)]
struct Source {
    has: Pieces,
    strikes: u32,
    /// Not asked before.
    rests: Time,
    slow: bool,
}

#[derive(Debug)]
struct Ask {
    source: PeerId,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    /// These were named; as a second source for what comes already, or not.
    Named(Vec<u32>, bool),
    Moving(u32, Time),
}

impl Ask {
    /// Whether it may bring that piece.
    fn takes(&self, piece: u32) -> bool {
        match &self.stage {
            Stage::Waiting => false,
            Stage::Named(named, _) => named.contains(&piece),
            Stage::Moving(moving, _) => *moving == piece,
        }
    }
}

impl Fetch {
    /// A fetch of what is not in `here`.
    pub fn new(here: Pieces, seed: u64) -> Self {
        let total = here.total();
        Fetch {
            rng: Rng::with_seed(seed),
            taken: Pieces::none(total),
            held: vec![0; total as usize],
            spare: total / SPARE,
            here,
            sources: BTreeMap::new(),
            asks: BTreeMap::new(),
            liars: BTreeSet::new(),
            next: 0,
            typical: None,
        }
    }

    /// What is here.
    pub fn here(&self) -> &Pieces {
        &self.here
    }

    /// Whether that peer may become a source: it is none, has not lied, and there is room.
    pub fn welcomes(&self, peer: PeerId) -> bool {
        self.sources.len() < SOURCES
            && !self.sources.contains_key(&peer)
            && !self.liars.contains(&peer)
    }

    /// Something that is missing can be had from a source as far as is known.
    pub fn is_hopeful(&self) -> bool {
        let none = Pieces::none(self.here.total());
        let mut sources = self.sources.values();
        sources.any(|s| s.has.without(&self.here, &none).next().is_some())
    }

    /// Takes note of what happened, and says what to do.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Request> {
        let mut requests = Vec::new();
        match event {
            Event::Has(peer, has) => self.on_has(peer, has),
            Event::More(peer, more) => self.on_more(peer, &more),
            Event::Gone(peer) => self.forget(peer, &mut requests),
            Event::Turn(ask) => self.on_turn(ask, &mut requests),
            Event::Comes(ask, piece) => self.on_comes(ask, piece, now, &mut requests),
            Event::Got(ask) => self.on_got(ask, now, &mut requests),
            Event::Wrong(ask) => self.on_wrong(ask, &mut requests),
            Event::Failed(ask) => self.on_failed(ask, now, &mut requests),
            Event::ComeBack(ask, millis) => self.on_come_back(ask, now.after(millis)),
            Event::Tick => self.pass_over(now, &mut requests),
        }
        self.ask_more(now, &mut requests);
        requests
    }

    fn on_has(&mut self, peer: PeerId, has: Pieces) {
        if has.total() != self.here.total() || self.liars.contains(&peer) {
            return;
        }
        if let Some(old) = self.sources.get(&peer) {
            old.has.iter().for_each(|p| self.held[p as usize] -= 1);
        } else if self.sources.len() >= SOURCES {
            return;
        }
        has.iter().for_each(|p| self.held[p as usize] += 1);
        let source = self.sources.entry(peer).or_insert(Source {
            has: Pieces::default(),
            strikes: 0,
            rests: Time(0),
            slow: false,
        });
        source.has = has;
    }

    fn on_more(&mut self, peer: PeerId, more: &[u32]) {
        if let Some(source) = self.sources.get_mut(&peer) {
            for piece in more {
                if source.has.insert(*piece) {
                    self.held[*piece as usize] += 1;
                }
            }
        }
    }

    fn on_turn(&mut self, id: AskId, requests: &mut Vec<Request>) {
        let Some(ask) = self.asks.get(&id) else {
            return;
        };
        if !matches!(ask.stage, Stage::Waiting) {
            return;
        }
        let source = ask.source;
        let (mut named, mut second) = (Vec::new(), false);
        if self.in_use() < MOVING {
            named = self.rarest_of(source);
            if named.is_empty() {
                named.extend(self.second_of(source));
                second = true;
            }
        }
        if named.is_empty() {
            self.asks.remove(&id);
            return requests.push(Request::Cancel(id));
        }
        if second {
            self.spare -= 1;
        }
        named.iter().for_each(|piece| {
            self.taken.insert(*piece);
        });
        if let Some(ask) = self.asks.get_mut(&id) {
            ask.stage = Stage::Named(named.clone(), second);
        }
        requests.push(Request::Want(id, named));
    }

    /// Turns that have come.
    fn in_use(&self) -> usize {
        let used = |ask: &&Ask| !matches!(ask.stage, Stage::Waiting);
        self.asks.values().filter(used).count()
    }

    /// What is missing and not taken, rarest first, at random among equals.
    fn rarest_of(&mut self, source: PeerId) -> Vec<u32> {
        let Some(source) = self.sources.get(&source) else {
            return Vec::new();
        };
        let (rng, held) = (&mut self.rng, &self.held);
        let free = source.has.without(&self.here, &self.taken);
        let mut ranked: Vec<(u16, u32, u32)> = free
            .map(|piece| (held[piece as usize], rng.u32(..), piece))
            .collect();
        // What is named is no other turn's for a round trip, so not everything.
        let few = (ranked.len() / 4).clamp(1, CANDIDATES);
        if ranked.len() > few {
            ranked.select_nth_unstable(few);
            ranked.truncate(few);
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, piece)| piece).collect()
    }

    /// End-game: all that is missing is taken, and this is taken once, from another source, for longest.
    fn second_of(&self, source: PeerId) -> Option<u32> {
        if self.spare == 0 || !self.is_end_game() {
            return None;
        }
        let has = &self.sources.get(&source)?.has;
        let moving = self.asks.values().filter_map(|ask| match ask.stage {
            Stage::Moving(piece, since) => Some((since, piece, ask.source)),
            _ => None,
        });
        let once = |piece: u32| self.asks.values().filter(|a| a.takes(piece)).count() == 1;
        moving
            .filter(|(_, piece, from)| *from != source && has.has(*piece) && once(*piece))
            .min()
            .map(|(_, piece, _)| piece)
    }

    fn is_end_game(&self) -> bool {
        let open = self.here.total() - self.here.count();
        open > 0 && self.taken.count() >= open
    }

    fn on_comes(&mut self, id: AskId, piece: u32, now: Time, requests: &mut Vec<Request>) {
        let Some(ask) = self.asks.get_mut(&id) else {
            return;
        };
        let Stage::Named(named, _) = &mut ask.stage else {
            return;
        };
        if !named.contains(&piece) {
            return self.on_wrong(id, requests);
        }
        let named = std::mem::take(named);
        ask.stage = Stage::Moving(piece, now);
        self.release(&named);
    }

    /// Whatever of these no ask takes any more is free.
    fn release(&mut self, named: &[u32]) {
        for piece in named {
            if !self.asks.values().any(|ask| ask.takes(*piece)) {
                self.taken.remove(*piece);
            }
        }
    }

    fn on_got(&mut self, id: AskId, now: Time, requests: &mut Vec<Request>) {
        let Some((source, Stage::Moving(piece, since))) = self.end(id) else {
            return;
        };
        self.here.insert(piece);
        let took = now.0.saturating_sub(since.0);
        // As a round-trip time is smoothed (RFC 6298, with its eighth).
        let typical = self.typical.map_or(took, |t| (t * 7 + took) / 8);
        self.typical = Some(typical);
        if let Some(source) = self.sources.get_mut(&source) {
            source.strikes = 0;
            source.slow = took > self.typical.map_or(u64::MAX, too_long);
        }
        let others = self.asks.iter().filter(|(_, ask)| ask.takes(piece));
        let others: Vec<AskId> = others.map(|(id, _)| *id).collect();
        for other in others {
            self.end(other);
            requests.push(Request::Cancel(other));
        }
    }

    fn on_wrong(&mut self, id: AskId, requests: &mut Vec<Request>) {
        let Some((source, _)) = self.end(id) else {
            return;
        };
        requests.push(Request::Cancel(id));
        if self.liars.len() >= LIARS {
            self.liars.pop_first();
        }
        self.liars.insert(source);
        self.forget(source, requests);
    }

    fn on_failed(&mut self, id: AskId, now: Time, requests: &mut Vec<Request>) {
        let Some((peer, _)) = self.end(id) else {
            return;
        };
        if let Some(source) = self.sources.get_mut(&peer) {
            source.rests = now.after(REST << source.strikes.min(STRIKES));
            source.strikes += 1;
            if source.strikes >= STRIKES {
                self.forget(peer, requests);
            }
        }
    }

    fn on_come_back(&mut self, id: AskId, at: Time) {
        if let Some((source, _)) = self.end(id)
            && let Some(source) = self.sources.get_mut(&source)
        {
            source.rests = at;
        }
    }

    /// Cuts off what takes far too long and can be had elsewhere.
    fn pass_over(&mut self, now: Time, requests: &mut Vec<Request>) {
        let Some(limit) = self.typical.map(too_long) else {
            return;
        };
        let late = self.asks.iter().filter_map(|(id, ask)| match ask.stage {
            Stage::Moving(piece, since) if now.0.saturating_sub(since.0) > limit => {
                let better = |(peer, s): (&PeerId, &Source)| {
                    *peer != ask.source && !s.slow && s.has.has(piece)
                };
                self.sources.iter().any(better).then_some((*id, ask.source))
            }
            _ => None,
        });
        let late: Vec<(AskId, PeerId)> = late.collect();
        for (id, peer) in late {
            self.end(id);
            requests.push(Request::Cancel(id));
            if let Some(source) = self.sources.get_mut(&peer) {
                source.slow = true;
            }
        }
    }

    /// An ask is over, whatever came of it.
    fn end(&mut self, id: AskId) -> Option<(PeerId, Stage)> {
        let Ask { source, stage } = self.asks.remove(&id)?;
        match &stage {
            Stage::Waiting => {}
            Stage::Named(named, second) => {
                // Nothing came of it.
                self.spare += u32::from(*second);
                self.release(named);
            }
            Stage::Moving(piece, _) => self.release(&[*piece]),
        }
        Some((source, stage))
    }

    fn forget(&mut self, peer: PeerId, requests: &mut Vec<Request>) {
        if let Some(source) = self.sources.remove(&peer) {
            source.has.iter().for_each(|p| self.held[p as usize] -= 1);
            let its = self.asks.iter().filter(|(_, ask)| ask.source == peer);
            let its: Vec<AskId> = its.map(|(id, _)| *id).collect();
            for id in its {
                self.end(id);
                requests.push(Request::Cancel(id));
            }
            requests.push(Request::Leave(peer));
        }
    }

    /// Asks for as many turns as there is something to take: where the fewest are waited for, at random among equals.
    fn ask_more(&mut self, now: Time, requests: &mut Vec<Request>) {
        let open = self.here.total() - self.here.count();
        let in_use = self.in_use();
        let waiting = (self.asks.len() - in_use) as u32;
        let free = open.saturating_sub(self.taken.count());
        let mut wanted = (free + self.spare.min(open)).saturating_sub(waiting);
        if wanted == 0 || in_use >= MOVING || self.asks.len() >= ASKS {
            return;
        }
        let mut useful = self.useful(now);
        while wanted > 0 && self.asks.len() < ASKS {
            let fresh = useful.iter_mut().filter(|(_, _, asks)| *asks < PER_SOURCE);
            let rng = &mut self.rng;
            let Some(best) = fresh.min_by_key(|(slow, _, asks)| (*slow, *asks, rng.u32(..))) else {
                return;
            };
            best.2 += 1;
            self.next += 1;
            let (id, source) = (AskId(self.next), best.1);
            let stage = Stage::Waiting;
            self.asks.insert(id, Ask { source, stage });
            requests.push(Request::Ask(id, source));
            wanted -= 1;
        }
    }

    /// Sources that have something to take, each with whether it is slow and how many turns there are asked for.
    fn useful(&self, now: Time) -> Vec<(bool, PeerId, usize)> {
        let mut useful = Vec::new();
        for (peer, source) in self.sources.iter().filter(|(_, s)| s.rests <= now) {
            let mut free = source.has.without(&self.here, &self.taken);
            if free.next().is_some() || self.second_of(*peer).is_some() {
                let asks = self.asks.values().filter(|a| a.source == *peer).count();
                useful.push((source.slow, *peer, asks));
            }
        }
        useful
    }
}

/// How long is far too long, where pieces take `typical`.
fn too_long(typical: u64) -> u64 {
    typical.saturating_mul(SLOW).max(SLOW_LEAST)
}

#[cfg(test)]
mod tests;
