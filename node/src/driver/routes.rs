//! The route cache: who holds which slot, as the peer's thread said last, so that not every chunk and every lookup has to
//! wait for its turn there.
//!
//! What a route is made of, the slot's configuration and the members, has a version that only grows
//! ([`Peer::routes_version`](peernet_core::peer::Peer::routes_version)); the thread publishes it after each batch. Whoever asks
//! reads the version first, so an answer that is kept under it was right as long as the version is the same: the cache tells
//! what the thread would, or would have told a batch before. It holds at most one route a slot.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use peernet_core::io::Route;
use peernet_core::key::Slot;

/// Nothing is told, and nothing kept: the thread has not begun, has ended or has left.
const CLOSED: u64 = 0;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    version: AtomicU64,
    known: RwLock<Known>,
}

/// Routes of one version.
#[derive(Debug, Default)]
struct Known {
    version: u64,
    routes: HashMap<Slot, Route>,
}

impl RouteCache {
    /// What holds from now on; at least 1.
    pub(super) fn publish(&self, version: u64) {
        self.version.store(version, Ordering::Release);
    }

    /// The thread alone answers from now on.
    pub(super) fn close(&self) {
        self.publish(CLOSED);
    }

    /// To be given back with what is then learned.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The routes of all these slots in their order, if all are known.
    pub(super) fn get(&self, slots: &[Slot]) -> Option<Vec<Route>> {
        let version = self.version();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if version == CLOSED || known.version != version {
            return None;
        }
        slots.iter().map(|s| known.routes.get(s).cloned()).collect()
    }

    /// Keeps what the thread has answered to a question that was asked when this was the version.
    pub(super) fn keep(&self, version: u64, routes: &[Route]) {
        if version == CLOSED || version != self.version() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.version != version {
            known.routes.clear();
            known.version = version;
        }
        let routes = routes.iter().map(|route| (route.slot, route.clone()));
        known.routes.extend(routes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(slot: u16) -> Route {
        Route {
            slot: Slot::new(slot).unwrap(),
            config: None,
            holders: Vec::new(),
        }
    }

    #[test]
    fn what_was_kept_is_told_until_something_changes() {
        let cache = RouteCache::default();
        let (one, two) = (route(1), route(2));
        let alone = std::slice::from_ref(&one);
        cache.keep(cache.version(), alone);
        assert_eq!(cache.get(&[one.slot]), None, "before the thread begins");
        cache.publish(7);
        cache.keep(7, &[one.clone(), two.clone()]);
        let both = Some(vec![two.clone(), one.clone()]);
        assert_eq!(cache.get(&[two.slot, one.slot]), both);
        assert_eq!(
            cache.get(&[one.slot, route(3).slot]),
            None,
            "one is unknown"
        );
        cache.publish(8);
        assert_eq!(cache.get(&[one.slot]), None, "it may have changed");
        cache.keep(7, alone);
        assert_eq!(cache.get(&[one.slot]), None, "asked before it changed");
        cache.keep(8, alone);
        assert_eq!(cache.get(&[one.slot]), Some(vec![one.clone()]));
        assert_eq!(cache.get(&[two.slot]), None, "of the version before");
        cache.close();
        assert_eq!(cache.get(&[one.slot]), None);
    }
}
