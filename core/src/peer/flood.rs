//! Unstructured search ([`crate::flood`]) and who has which content ([`crate::providers`]), as one member of a network
//! does it: the table of members gives the neighbours and the addresses, the table of slots says who keeps records.

use std::collections::{BTreeMap, BTreeSet};

use super::{Peer, Timer};
use crate::flood::finder::{Effect, Finder};
use crate::flood::overlay::Neighbours;
use crate::flood::{Ask, Command, Cost, SEARCHES_MAX, Step};
use crate::io::{Answer, RequestError, RequestId, Time};
use crate::key::{Key, Name};
use crate::member::{Member, PeerId};
use crate::message::Message;
use crate::providers::{self, Providers};
use crate::store::Store;

/// A search that hears nothing for so long is over, in milliseconds. Guess: many round trips, and a person still waits.
const PATIENCE: u64 = 1_000;

/// See the module's documentation.
pub(super) struct Room {
    finder: Finder,
    around: Neighbours,
    /// The version of the table of members that `around` was worked out from; 0: never.
    around_of: u64,
    providers: Providers,
    /// When each share is to be announced again.
    due: BTreeMap<Name, Time>,
    lookups: BTreeMap<u64, Lookup>,
}

/// The question who has a content, put to the replicas of its slot.
struct Lookup {
    request: RequestId,
    content: Key,
    waiting: BTreeSet<PeerId>,
    found: BTreeSet<PeerId>,
    cost: Cost,
}

impl Room {
    pub(super) fn new(me: &Member, seed: u64) -> Self {
        let first_op = (me.incarnation << 32) | super::OPS;
        Room {
            finder: Finder::new(me.id, me.zone.clone(), first_op, seed),
            around: Neighbours::default(),
            around_of: 0,
            providers: Providers::default(),
            due: BTreeMap::new(),
            lookups: BTreeMap::new(),
        }
    }

    /// Entries of its tables.
    pub(super) fn entries(&self) -> usize {
        self.finder.entries() + self.providers.len() + self.due.len() + self.lookups.len()
    }
}

impl<S: Store> Peer<S> {
    pub(super) fn on_flood_command(&mut self, id: RequestId, command: Command) {
        match command {
            Command::Offer(offer) => {
                self.flood.due.insert(offer.name.clone(), self.now);
                self.flood.finder.share(offer);
                self.announce_due();
                self.answer(id, Answer::Done);
            }
            Command::Withdraw(name) => {
                self.withdraw(&name);
                self.answer(id, Answer::Done);
            }
            Command::Search(ask) => self.start_search(id, ask),
            Command::Providers(content) => self.start_lookup(id, content),
        }
    }

    pub(super) fn on_flood(&mut self, from: PeerId, step: Step) {
        if !self.gossip.is_up(from) {
            return;
        }
        match step {
            Step::Announce { contents, gone } => self.on_announce(from, contents, gone),
            Step::Providers { op, content } => {
                let peers = self.providers_of(content);
                self.step(from, Step::Provided { op, peers });
            }
            Step::Provided { op, peers } => self.on_provided(from, op, peers),
            Step::Tell {
                op,
                mut told,
                offers,
            } => {
                // Nobody waits for who is not there.
                told.retain(|id| self.gossip.is_up(*id));
                self.find(from, Step::Tell { op, told, offers });
            }
            step @ (Step::Ask(_) | Step::Check { .. }) => self.find(from, step),
        }
    }

    /// A search or a lookup has waited.
    pub(super) fn on_search_timer(&mut self, op: u64) {
        if let Some(lookup) = self.flood.lookups.remove(&op) {
            return self.finish_lookup(lookup);
        }
        self.look_around();
        let Room { finder, around, .. } = &mut self.flood;
        let effects = finder.on_patience(op, around);
        self.carry_out(effects);
    }

    /// Now and then: what is due is announced again, what was not refreshed is forgotten.
    pub(super) fn refresh_shares(&mut self) {
        self.flood.providers.expire(self.now);
        self.announce_due();
    }

    fn find(&mut self, from: PeerId, step: Step) {
        self.look_around();
        let Room { finder, around, .. } = &mut self.flood;
        let effects = finder.on_step(from, step, around, self.now);
        self.carry_out(effects);
    }

    fn start_search(&mut self, id: RequestId, ask: Ask) {
        self.look_around();
        let (Room { finder, around, .. }, gossip) = (&mut self.flood, &self.gossip);
        match finder.start(id.0, ask, around, |peer| gossip.is_up(peer), self.now) {
            Some(effects) => self.carry_out(effects),
            None => self.answer(id, Answer::Failed(RequestError::Busy)),
        }
    }

    /// Works out the neighbours again if the members have changed.
    fn look_around(&mut self) {
        if self.flood.around_of != self.gossip.version {
            let zone = self.myself().zone.clone();
            let present: Vec<&Member> = self.gossip.present().collect();
            self.flood.around = Neighbours::new(self.me, &zone, &present);
            self.flood.around_of = self.gossip.version;
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, step) => self.step(to, step),
                Effect::Wait(op) => self.schedule(PATIENCE, Timer::Search(op)),
                Effect::Done(tag, found) => self.answer(RequestId(tag), Answer::Found(found)),
            }
        }
    }

    fn step(&mut self, to: PeerId, step: Step) {
        self.send(to, Message::Flood { step });
    }

    // Providers' records.

    /// Those who keep records about a content: the participants of its slot.
    fn keepers(&self, content: Key) -> Vec<PeerId> {
        let config = self.slots.config(content.slot());
        config.map(|c| c.participants()).unwrap_or_default()
    }

    fn announce_due(&mut self) {
        let now = self.now;
        let due = self.flood.due.iter().filter(|(_, at)| **at <= now);
        let due: Vec<Name> = due.take(providers::BATCH).map(|(n, _)| n.clone()).collect();
        let mut contents = Vec::new();
        for name in due {
            let Some(offer) = self.flood.finder.offers().get(&name) else {
                self.flood.due.remove(&name);
                continue;
            };
            // Not all at once for ever after.
            let early = self.rng.u64(0..providers::REFRESH / 8);
            contents.push(offer.content);
            self.flood
                .due
                .insert(name, now.after(providers::REFRESH - early));
        }
        self.announce_shares(contents, false);
    }

    fn announce_shares(&mut self, contents: Vec<Key>, gone: bool) {
        let mut by_keeper: BTreeMap<PeerId, Vec<Key>> = BTreeMap::new();
        for content in contents {
            for keeper in self.keepers(content) {
                by_keeper.entry(keeper).or_default().push(content);
            }
        }
        for (keeper, contents) in by_keeper {
            self.step(keeper, Step::Announce { contents, gone });
        }
    }

    fn withdraw(&mut self, name: &Name) {
        self.flood.due.remove(name);
        if let Some(offer) = self.flood.finder.unshare(name) {
            let again = |o: &crate::share::Offer| o.content == offer.content;
            if !self.flood.finder.offers().values().any(again) {
                self.announce_shares(vec![offer.content], true);
            }
        }
    }

    fn on_announce(&mut self, from: PeerId, contents: Vec<Key>, gone: bool) {
        for content in contents {
            if gone {
                self.flood.providers.withdraw(content, from);
            } else if self.keepers(content).contains(&self.me) {
                self.flood.providers.announce(content, from, self.now);
            }
        }
    }

    fn providers_of(&self, content: Key) -> Vec<PeerId> {
        let all = self.flood.providers.of(content, self.now).into_iter();
        all.filter(|id| self.gossip.is_up(*id)).collect()
    }

    fn start_lookup(&mut self, request: RequestId, content: Key) {
        if self.flood.lookups.len() >= SEARCHES_MAX {
            return self.answer(request, Answer::Failed(RequestError::Busy));
        }
        let mut waiting: BTreeSet<PeerId> = self.keepers(content).into_iter().collect();
        waiting.retain(|id| self.gossip.is_up(*id));
        let mut found = BTreeSet::new();
        if waiting.remove(&self.me) {
            found.extend(self.providers_of(content));
        }
        let own = |o: &crate::share::Offer| o.content == content;
        if self.flood.finder.offers().values().any(own) {
            found.insert(self.me);
        }
        let cost = Cost {
            peers: 1,
            messages: waiting.len() as u32,
            ..Cost::default()
        };
        let lookup = Lookup {
            request,
            content,
            waiting,
            found,
            cost,
        };
        if lookup.waiting.is_empty() {
            return self.finish_lookup(lookup);
        }
        let op = self.fresh_op();
        for keeper in lookup.waiting.clone() {
            self.step(keeper, Step::Providers { op, content });
        }
        self.flood.lookups.insert(op, lookup);
        self.schedule(PATIENCE, Timer::Search(op));
    }

    fn on_provided(&mut self, from: PeerId, op: u64, peers: Vec<PeerId>) {
        let Some(lookup) = self.flood.lookups.get_mut(&op) else {
            return;
        };
        if !lookup.waiting.remove(&from) {
            return;
        }
        lookup.cost.peers += 1;
        lookup.cost.messages += 1;
        let room = providers::PER_CONTENT.saturating_sub(lookup.found.len());
        lookup.found.extend(peers.into_iter().take(room));
        if lookup.waiting.is_empty()
            && let Some(lookup) = self.flood.lookups.remove(&op)
        {
            self.finish_lookup(lookup);
        }
    }

    fn finish_lookup(&mut self, lookup: Lookup) {
        let Lookup {
            request,
            content,
            waiting,
            found,
            mut cost,
        } = lookup;
        cost.silent = waiting.len() as u32;
        let peers = found.into_iter().filter(|id| self.gossip.is_up(*id));
        let answer = Answer::Providers {
            content,
            peers: peers.collect(),
            cost,
        };
        self.answer(request, answer);
    }
}
