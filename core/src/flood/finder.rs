//! The machine that asks, and passes on and answers what others ask. See [`super`] for the algorithms.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::overlay::Neighbours;
use super::seen::Seen;
use super::{
    Ask, Cost, FLOOD_TTL_MAX, Found, HITS_MAX, Hit, Method, OFFERS_MAX, Query, QueryId,
    SEARCHES_MAX, Step, WALK_TTL_MAX, WALKERS_MAX, Walk,
};
use crate::io::Time;
use crate::key::Name;
use crate::member::PeerId;
use crate::share::{Offer, Wanted};

mod others;

/// How long what was heard in answers may answer later searches, in milliseconds. Guess: a person's next question.
const FRESH: u64 = 60_000;
/// Hits remembered for that.
const HEARD: usize = 1_024;

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a message.
    Send(PeerId, Step),
    /// Call [`Finder::on_patience`] with this number, again and again, until the search is done.
    Wait(u64),
    /// The search that was started under this tag is done.
    Done(u64, Found),
}

/// A search of this peer.
#[derive(Debug)]
struct Search {
    /// The caller's number.
    tag: u64,
    ask: Ask,
    /// TTL of the present ring.
    ttl: u32,
    found: Found,
    /// Looked through their shares, in all rings.
    peers: BTreeSet<PeerId>,
    /// Flood: told, as far as heard, and not heard of yet.
    awaited: BTreeSet<PeerId>,
    /// Flood: answered in this ring.
    answered: BTreeSet<PeerId>,
    /// Walk: those on their way, and the TTL they were last heard of with.
    walkers: BTreeMap<u32, u32>,
    /// Told as many matches as fit into an answer.
    full: BTreeSet<PeerId>,
    /// Something came since the last look.
    progress: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Finder {
    me: PeerId,
    zone: String,
    offers: BTreeMap<Name, Offer>,
    seen: Seen,
    searches: BTreeMap<u64, Search>,
    next_op: u64,
    /// What others were heard to share, the oldest first, with whether the search went everywhere.
    heard: VecDeque<(Time, bool, Hit)>,
    rng: fastrand::Rng,
}

impl Finder {
    /// `first_op` is greater than any number used before a restart.
    pub fn new(me: PeerId, zone: String, first_op: u64, seed: u64) -> Self {
        Finder {
            me,
            zone,
            offers: BTreeMap::new(),
            seen: Seen::default(),
            searches: BTreeMap::new(),
            next_op: first_op,
            heard: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// What this peer shares.
    pub fn offers(&self) -> &BTreeMap<Name, Offer> {
        &self.offers
    }

    /// Shares a file, or one more under a name that was shared.
    pub fn share(&mut self, offer: Offer) {
        self.offers.insert(offer.name.clone(), offer);
    }

    /// Shares it no more.
    pub fn unshare(&mut self, name: &Name) -> Option<Offer> {
        self.offers.remove(name)
    }

    /// Searches under way and queries remembered, to show that they are bounded.
    pub fn entries(&self) -> usize {
        self.searches.len() + self.seen.len() + self.heard.len()
    }

    /// Starts a search; `None` when too many are under way. Asks nobody if what is wanted is here, or was heard of a
    /// moment ago from a peer that is still `up`.
    pub fn start(
        &mut self,
        tag: u64,
        mut ask: Ask,
        around: &Neighbours,
        up: impl Fn(PeerId) -> bool,
        now: Time,
    ) -> Option<Vec<Effect>> {
        if self.searches.len() >= SEARCHES_MAX {
            return None;
        }
        ask.want = if ask.want == 0 {
            HITS_MAX
        } else {
            ask.want.min(HITS_MAX)
        };
        ask.ttl = match ask.method {
            Method::Flood => ask.ttl.clamp(1, FLOOD_TTL_MAX),
            Method::Walk(_) => ask.ttl.clamp(1, WALK_TTL_MAX),
        };
        let mut search = Search {
            tag,
            ttl: ask.ttl,
            found: Found::default(),
            peers: BTreeSet::from([self.me]),
            awaited: BTreeSet::new(),
            answered: BTreeSet::new(),
            walkers: BTreeMap::new(),
            full: BTreeSet::new(),
            progress: false,
            ask,
        };
        let own = self.matches(&search.ask.wanted, search.ask.want);
        search.gather(self.me, own);
        if search.ask.want < HITS_MAX && !search.is_satisfied() {
            self.remember(&mut search, up, now);
        }
        if search.is_satisfied() {
            return Some(vec![search.done()]);
        }
        let mut effects = Vec::new();
        match search.ask.method {
            Method::Flood => {
                // Who wants everything floods once; who wants some looks near first.
                if search.ask.want < HITS_MAX {
                    search.ttl = 1;
                }
                self.flood(search, around, &mut effects);
            }
            Method::Walk(walkers) => {
                self.send_walkers(search, walkers.clamp(1, WALKERS_MAX), around, &mut effects)
            }
        }
        Some(effects)
    }

    /// Handles a message about a search. `from` is a member that is present, and so is everybody in `around`.
    pub fn on_step(
        &mut self,
        from: PeerId,
        step: Step,
        around: &Neighbours,
        now: Time,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        match step {
            Step::Ask(query) => self.on_query(from, query, around, &mut effects),
            Step::Tell { op, told, offers } => {
                self.on_tell(from, op, told, offers, around, now, &mut effects)
            }
            Step::Check { query, offers } => self.on_check(from, query, offers, now, &mut effects),
            Step::Announce { .. } | Step::Providers { .. } | Step::Provided { .. } => {}
        }
        effects
    }

    /// Ends a search that nothing came for since the last call: whoever did not answer by now is gone.
    pub fn on_patience(&mut self, op: u64, around: &Neighbours) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(search) = self.searches.get_mut(&op) {
            if std::mem::take(&mut search.progress) {
                effects.push(Effect::Wait(op));
            } else {
                self.round_over(op, around, &mut effects);
            }
        }
        effects
    }

    fn matches(&self, wanted: &Wanted, most: usize) -> Vec<Offer> {
        let all = self.offers.values().filter(|o| wanted.matches(o));
        all.take(most).cloned().collect()
    }

    /// Adds what was heard lately.
    fn remember(&mut self, search: &mut Search, up: impl Fn(PeerId) -> bool, now: Time) {
        self.heard.retain(|(at, _, _)| at.after(FRESH) > now);
        let Ask {
            wanted, everywhere, ..
        } = search.ask.clone();
        let known = self.heard.iter().filter(|(_, wide, hit)| {
            *wide == everywhere && wanted.matches(&hit.offer) && up(hit.peer)
        });
        let known: Vec<Hit> = known.map(|(_, _, hit)| hit.clone()).collect();
        let own = search.found.hits.clone();
        for hit in known {
            search.gather(hit.peer, vec![hit.offer]);
        }
        // Half an answer is asked for again, whole.
        if !search.is_satisfied() {
            search.found.hits = own;
        }
    }

    fn fresh_op(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op
    }

    fn query(&self, op: u64, search: &Search, walk: Option<Walk>) -> Query {
        Query {
            id: QueryId { asker: self.me, op },
            zone: (!search.ask.everywhere).then(|| self.zone.clone()),
            wanted: search.ask.wanted.clone(),
            ttl: search.ttl,
            walk,
        }
    }

    /// Asks all neighbours, under a new number.
    fn flood(&mut self, mut search: Search, around: &Neighbours, effects: &mut Vec<Effect>) {
        let op = self.fresh_op();
        let query = self.query(op, &search, None);
        let to = around.within(search.ask.everywhere);
        search.awaited = to.iter().copied().collect();
        search.answered.clear();
        search.found.cost.messages += to.len() as u32;
        effects.extend(
            to.iter()
                .map(|id| Effect::Send(*id, Step::Ask(query.clone()))),
        );
        if to.is_empty() {
            effects.push(search.done());
        } else {
            effects.push(Effect::Wait(op));
            self.searches.insert(op, search);
        }
    }

    fn send_walkers(
        &mut self,
        mut search: Search,
        walkers: u32,
        around: &Neighbours,
        effects: &mut Vec<Effect>,
    ) {
        let op = self.fresh_op();
        let mut to = around.within(search.ask.everywhere).to_vec();
        if to.is_empty() {
            return effects.push(search.done());
        }
        self.rng.shuffle(&mut to);
        for walker in 0..walkers {
            let walk = Walk {
                walker,
                trail: Vec::new(),
                resume: false,
            };
            let query = self.query(op, &search, Some(walk));
            // Each message is counted when its walker tells where it has been.
            search.walkers.insert(walker, query.ttl + 1);
            effects.push(Effect::Send(
                to[walker as usize % to.len()],
                Step::Ask(query),
            ));
        }
        effects.push(Effect::Wait(op));
        self.searches.insert(op, search);
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one call, from the dispatcher above"
    )]
    fn on_tell(
        &mut self,
        from: PeerId,
        op: u64,
        told: Vec<PeerId>,
        offers: Vec<Offer>,
        around: &Neighbours,
        now: Time,
        effects: &mut Vec<Effect>,
    ) {
        let me = self.me;
        let Some(search) = self.searches.get_mut(&op) else {
            return;
        };
        if search.ask.method != Method::Flood || !search.answered.insert(from) {
            return;
        }
        search.progress = true;
        search.peers.insert(from);
        search.found.cost.messages += 1 + told.len() as u32;
        search.awaited.remove(&from);
        let answered = &search.answered;
        let open = told
            .into_iter()
            .filter(|id| *id != me && !answered.contains(id));
        search.awaited.extend(open);
        let everywhere = search.ask.everywhere;
        search.note_full(from, &offers);
        let new = search.gather(from, offers);
        let over = search.awaited.is_empty();
        self.hear(new, everywhere, now);
        if over {
            self.round_over(op, around, effects);
        }
    }

    fn on_check(
        &mut self,
        from: PeerId,
        query: Query,
        offers: Vec<Offer>,
        now: Time,
        effects: &mut Vec<Effect>,
    ) {
        let op = query.id.op;
        let (Some(walk), Some(search)) = (query.walk, self.searches.get_mut(&op)) else {
            return;
        };
        // Heard of before, or not one of ours.
        match search.walkers.get_mut(&walk.walker) {
            Some(last) if query.ttl < *last && query.id.asker == self.me => *last = query.ttl,
            _ => return,
        }
        search.progress = true;
        search.found.cost.messages += 1 + walk.trail.len() as u32;
        search.peers.extend(walk.trail);
        let everywhere = search.ask.everywhere;
        search.note_full(from, &offers);
        let new = search.gather(from, offers);
        if search.is_satisfied() || query.ttl == 0 {
            search.walkers.remove(&walk.walker);
        } else {
            search.found.cost.messages += 1;
            let walk = Walk {
                trail: Vec::new(),
                resume: true,
                ..walk
            };
            // What it looks for is what we asked for, whatever came back.
            let query = Query {
                zone: (!everywhere).then(|| self.zone.clone()),
                wanted: search.ask.wanted.clone(),
                walk: Some(walk),
                ..query
            };
            effects.push(Effect::Send(from, Step::Ask(query)));
        }
        let over = search.walkers.is_empty();
        self.hear(new, everywhere, now);
        if over && let Some(search) = self.searches.remove(&op) {
            effects.push(search.done());
        }
    }

    fn hear(&mut self, hits: Vec<Hit>, everywhere: bool, now: Time) {
        for hit in hits {
            if self.heard.len() == HEARD {
                self.heard.pop_front();
            }
            self.heard.push_back((now, everywhere, hit));
        }
    }

    /// All that will answer has: the search is done, or the ring grows.
    fn round_over(&mut self, op: u64, around: &Neighbours, effects: &mut Vec<Effect>) {
        let Some(mut search) = self.searches.remove(&op) else {
            return;
        };
        search.found.cost.silent += (search.awaited.len() + search.walkers.len()) as u32;
        let floods = search.ask.method == Method::Flood;
        if floods && !search.is_satisfied() && search.ttl < search.ask.ttl {
            search.ttl = (search.ttl * 2).min(search.ask.ttl);
            self.flood(search, around, effects);
        } else {
            effects.push(search.done());
        }
    }
}

impl Search {
    fn is_satisfied(&self) -> bool {
        self.found.hits.len() >= self.ask.want
    }

    /// An answer with no room left may not be all.
    fn note_full(&mut self, from: PeerId, offers: &[Offer]) {
        if offers.len() >= OFFERS_MAX {
            self.full.insert(from);
        }
    }

    /// Takes what was not known yet, as far as it is wanted, and returns it.
    fn gather(&mut self, peer: PeerId, offers: Vec<Offer>) -> Vec<Hit> {
        let mut new = Vec::new();
        for offer in offers.into_iter().take(OFFERS_MAX.max(HITS_MAX)) {
            let known = |h: &Hit| h.peer == peer && h.offer.name == offer.name;
            let fits = self.ask.wanted.matches(&offer) && !self.found.hits.iter().any(known);
            if fits && !self.is_satisfied() {
                let hit = Hit { peer, offer };
                self.found.hits.push(hit.clone());
                new.push(hit);
            }
        }
        new
    }

    fn done(mut self) -> Effect {
        self.found.cost = Cost {
            peers: self.peers.len() as u32,
            full: self.full.len() as u32,
            ..self.found.cost
        };
        Effect::Done(self.tag, self.found)
    }
}

#[cfg(test)]
mod tests;
