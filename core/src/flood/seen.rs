//! Queries that came by lately, so that none is handled twice.

use std::collections::{BTreeMap, VecDeque};

use super::QueryId;
use crate::member::PeerId;

/// Queries remembered; the oldest is forgotten first. Guess: minutes of a busy network, 400 KiB. Forgetting too early
/// costs messages, bounded by the TTL, and nothing else.
pub const SEEN: usize = 4_096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Seen {
    /// By query, the neighbours its walkers were sent to.
    queries: BTreeMap<QueryId, Vec<PeerId>>,
    order: VecDeque<QueryId>,
}

impl Seen {
    /// Notes a query; true the first time.
    pub fn first(&mut self, id: QueryId) -> bool {
        if self.queries.contains_key(&id) {
            return false;
        }
        if self.order.len() == SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.queries.remove(&oldest);
        }
        self.queries.insert(id, Vec::new());
        self.order.push_back(id);
        true
    }

    /// Neighbours this query's walkers were sent to from here.
    pub fn used(&self, id: QueryId) -> &[PeerId] {
        self.queries.get(&id).map_or(&[], Vec::as_slice)
    }

    /// A walker is sent there.
    pub fn note(&mut self, id: QueryId, to: PeerId) {
        if let Some(used) = self.queries.get_mut(&id)
            && !used.contains(&to)
        {
            used.push(to);
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// None is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_new_once_and_the_oldest_is_forgotten() {
        let id = |op| QueryId {
            asker: PeerId(1),
            op,
        };
        let mut seen = Seen::default();
        assert!(seen.first(id(0)) && !seen.first(id(0)));
        seen.note(id(0), PeerId(2));
        seen.note(id(0), PeerId(2));
        assert_eq!(seen.used(id(0)), [PeerId(2)]);
        for op in 1..=SEEN as u64 {
            assert!(seen.first(id(op)));
        }
        assert_eq!(seen.len(), SEEN);
        assert!(seen.first(id(0)), "forgotten");
        assert!(!seen.first(id(SEEN as u64)));
    }
}
