//! The registry as its listeners hear of it: all peers first, then each that is not as it was told last.
//!
//! The peer's thread raises a number with each change of the table of members. A listener that sees it rise asks for the
//! table and takes what differs from what it was told last; it does so only when its client has taken all of that. So
//! changes that come faster than they can be told are told together, and what waits for a slow client is one table.

use std::collections::HashMap;
use std::sync::Arc;

use peernet_core::io::Time;
use peernet_core::member::{Member, PeerId};
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::warn;

use crate::daemon::{Life, Running};

/// Listeners of this process at once, over gRPC and HTTP together (guess: far more than operators and dashboards need).
const LISTENERS: usize = 256;

static PLACES: Semaphore = Semaphore::const_new(LISTENERS);

/// No place for one more.
#[derive(Debug, Error)]
#[error("{LISTENERS} others listen to this peer already; ask another peer")]
pub(crate) struct Crowded;

/// A peer, and when its liveness last changed, by this peer's clock.
pub(crate) type Entry = (Member, Time);

/// One who hears of the registry; gives its place back when dropped.
pub(crate) struct Listener {
    life: Arc<Life>,
    running: Arc<Running>,
    changes: watch::Receiver<u64>,
    told: Told,
    _place: SemaphorePermit<'static>,
}

impl Listener {
    /// Begins to listen.
    pub(crate) fn new(life: Arc<Life>, running: Arc<Running>) -> Result<Self, Crowded> {
        let place = PLACES.try_acquire().map_err(|_| Crowded)?;
        let mut changes = running.peer.news();
        // The first look does not wait for a change.
        changes.mark_changed();
        Ok(Listener {
            life,
            running,
            changes,
            told: Told::default(),
            _place: place,
        })
    }

    /// Waits for peers that are news, at least one; `None` when this peer stops.
    pub(crate) async fn next(&mut self) -> Option<Vec<Entry>> {
        loop {
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                // It must not hold up the end of the server.
                () = self.life.stops() => return None,
            }
            match self.running.peer.registry().await {
                Ok(registry) => {
                    let news = self.told.news(registry);
                    if !news.is_empty() {
                        return Some(news);
                    }
                }
                Err(error) => {
                    warn!("a listener is cut off: {error}");
                    return None;
                }
            }
        }
    }

    /// The peer that it listens to.
    pub(crate) fn running(&self) -> &Running {
        &self.running
    }
}

/// What a listener knows. Those that the registry has forgotten were told of as left.
#[derive(Default)]
struct Told(HashMap<PeerId, Entry>);

impl Told {
    /// Takes over the table; those in it that are not as they were known.
    fn news(&mut self, registry: Vec<Entry>) -> Vec<Entry> {
        let known = std::mem::take(&mut self.0);
        let new = |entry: &&Entry| known.get(&entry.0.id) != Some(*entry);
        let news = registry.iter().filter(new).cloned().collect();
        self.0 = registry.into_iter().map(|e| (e.0.id, e)).collect();
        news
    }
}

#[cfg(test)]
mod tests {
    use peernet_core::key::Position;
    use peernet_core::member::{Drain, Liveness};

    use super::*;

    fn peer(id: u128, incarnation: u64) -> Entry {
        let member = Member {
            id: PeerId(id),
            name: format!("p-{id}"),
            address: String::new(),
            http: String::new(),
            zone: String::new(),
            position: Position(0),
            incarnation,
            liveness: Liveness::Active,
            drain: Drain::default(),
            version: String::new(),
        };
        (member, Time(0))
    }

    #[test]
    fn a_listener_hears_of_all_and_then_of_what_changed() {
        let mut told = Told::default();
        assert_eq!(told.news(vec![peer(1, 1), peer(2, 1)]).len(), 2);
        assert_eq!(told.news(vec![peer(1, 1), peer(2, 1)]), []);
        let news = told.news(vec![peer(1, 1), peer(2, 2), peer(3, 1)]);
        assert_eq!(news, [peer(2, 2), peer(3, 1)]);
        assert_eq!(told.news(vec![peer(2, 2)]), []);
        assert_eq!(told.news(vec![peer(1, 1), peer(2, 2)]), [peer(1, 1)]);
    }
}
