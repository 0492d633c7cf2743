//! The searches of others: looking at what is shared here, answering the asker, and passing the question on.

use super::{Effect, Finder};
use crate::flood::overlay::Neighbours;
use crate::flood::{CHECK, FLOOD_TTL_MAX, OFFERS_MAX, Query, QueryId, Step, WALK_TTL_MAX};
use crate::member::PeerId;

impl Finder {
    /// Somebody asks.
    pub(super) fn on_query(
        &mut self,
        from: PeerId,
        query: Query,
        around: &Neighbours,
        effects: &mut Vec<Effect>,
    ) {
        let foreign = query.zone.as_ref().is_some_and(|zone| *zone != self.zone);
        let most = match query.walk {
            None => FLOOD_TTL_MAX,
            Some(_) => WALK_TTL_MAX,
        };
        if foreign || query.ttl > most {
            return;
        }
        match query.walk {
            None => self.on_flood(from, query, around, effects),
            Some(_) => self.on_walker(from, query, around, effects),
        }
    }

    /// Gnutella 0.4: look, answer, pass on with the TTL lowered; once.
    fn on_flood(
        &mut self,
        from: PeerId,
        query: Query,
        around: &Neighbours,
        effects: &mut Vec<Effect>,
    ) {
        let QueryId { asker, op } = query.id;
        if asker == self.me || query.ttl == 0 || !self.seen.first(query.id) {
            return;
        }
        let mut told = Vec::new();
        if query.ttl > 1 {
            let others = around.within(query.zone.is_none()).iter().copied();
            told.extend(others.filter(|id| *id != from && *id != asker));
        }
        let offers = self.matches(&query.wanted, OFFERS_MAX);
        let further = Query {
            ttl: query.ttl - 1,
            ..query
        };
        for id in &told {
            effects.push(Effect::Send(*id, Step::Ask(further.clone())));
        }
        effects.push(Effect::Send(asker, Step::Tell { op, told, offers }));
    }

    /// A walker comes by, or is sent on after it has checked back.
    fn on_walker(
        &mut self,
        from: PeerId,
        mut query: Query,
        around: &Neighbours,
        effects: &mut Vec<Effect>,
    ) {
        let asker = query.id.asker;
        let Some(walk) = &mut query.walk else {
            return;
        };
        if asker == self.me || query.ttl == 0 || walk.trail.len() >= CHECK {
            return;
        }
        let first = self.seen.first(query.id);
        let mut offers = Vec::new();
        let resumed = std::mem::take(&mut walk.resume);
        if !resumed {
            query.ttl -= 1;
            walk.trail.push(self.me);
            if first {
                offers = self.matches(&query.wanted, OFFERS_MAX);
            }
        }
        let reports = walk.trail.len() == CHECK || query.ttl == 0 || !offers.is_empty();
        let next = self.next_step(from, &query, around);
        match next {
            Some(next) if !reports => {
                self.seen.note(query.id, next);
                effects.push(Effect::Send(next, Step::Ask(query)));
            }
            _ => {
                if next.is_none() {
                    query.ttl = 0;
                }
                effects.push(Effect::Send(asker, Step::Check { query, offers }));
            }
        }
    }

    /// A neighbour that this query's walkers were not sent to from here, else any; back only if there is no other.
    fn next_step(&mut self, from: PeerId, query: &Query, around: &Neighbours) -> Option<PeerId> {
        let asker = query.id.asker;
        let others = around.within(query.zone.is_none()).iter().copied();
        let others: Vec<PeerId> = others.filter(|id| *id != asker).collect();
        let used = self.seen.used(query.id);
        let new = |id: &&PeerId| **id != from && !used.contains(id);
        let fresh: Vec<PeerId> = others.iter().filter(new).copied().collect();
        let onward: Vec<PeerId> = others.iter().filter(|id| **id != from).copied().collect();
        let choice = [fresh, onward, others]
            .into_iter()
            .find(|choice| !choice.is_empty())?;
        Some(choice[self.rng.usize(0..choice.len())])
    }
}
