//! Consumers of effects, one beside each peer's process, as the daemon's are; and what they must have seen in the end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use peernet_core::io::{Answer, Request};
use peernet_core::key::Name;
use peernet_core::outbox::{Consumer, Effect};
use peernet_core::register::{Version, WriteId};

use crate::client::Stamp;
use crate::fleet::Fleet;
use crate::model::Violation;
use crate::network::HostId;
use crate::promise::Promise;

/// Pause after a peer did not answer, in milliseconds.
const PAUSE: u64 = 500;
/// Performing a batch takes up to so many milliseconds.
const WORK: u64 = 300;
/// Effects in a batch: few, so that there are several.
const BATCH: u32 = 8;

/// What happened to a name.
#[derive(Default)]
struct Seen {
    /// In the order performed, repetitions included.
    states: Vec<(Version, WriteId)>,
    /// Some were left out.
    coalesced: bool,
}

/// All effects that were performed anywhere. A handle: clones share it.
#[derive(Clone, Default)]
pub struct Performed(Rc<RefCell<BTreeMap<Name, Seen>>>);

impl Performed {
    /// Starts a consumer on that machine, for as long as the world lasts.
    pub fn consume(&self, fleet: &Fleet, at: HostId, consumer: Consumer) -> Promise<()> {
        let (seen, fleet) = (self.clone(), fleet.clone());
        let world = fleet.world().clone();
        world.spawn(async move {
            loop {
                if seen.turn(&fleet, at, consumer).await.is_none() {
                    fleet.world().sleep(PAUSE).await;
                }
            }
        })
    }

    /// One batch; `None` when the peer did not answer or went away meanwhile.
    async fn turn(&self, fleet: &Fleet, at: HostId, consumer: Consumer) -> Option<()> {
        let run = fleet.host(at).run;
        let request = Request::Effects {
            consumer,
            limit: BATCH,
        };
        let Ok(Answer::Effects(effects)) = fleet.request(at, request).await else {
            return None;
        };
        let writes = effects.iter().map(|e| (e.key, e.state.write)).collect();
        let settle = Request::Settle { consumer, writes };
        if fleet.flaws().settle_first {
            fleet.request(at, settle.clone()).await.ok()?;
        }
        for effect in &effects {
            fleet.world().sleep(fleet.world().random(0..WORK)).await;
            if fleet.host(at).run != run {
                // The consumer dies with the process.
                return None;
            }
            self.perform(effect);
        }
        fleet.request(at, settle).await.ok()?;
        Some(())
    }

    fn perform(&self, effect: &Effect) {
        let mut seen = self.0.borrow_mut();
        let seen = seen.entry(effect.name.clone()).or_default();
        seen.coalesced |= effect.trail.coalesced > 0;
        let states = effect.states().map(|s| (s.version, s.write));
        seen.states.extend(states);
    }

    /// How many effects were performed, repetitions included.
    pub fn count(&self) -> usize {
        self.0.borrow().values().map(|s| s.states.len()).sum()
    }

    /// Every acknowledged write was seen, and for the first time in the order of the writes.
    pub fn violations(&self, acknowledged: &[(Name, Stamp)]) -> Vec<Violation> {
        let seen = self.0.borrow();
        let lost = acknowledged.iter().filter(|(name, stamp)| {
            let seen = seen.get(name);
            seen.is_none_or(|s| !s.coalesced && s.states.iter().all(|(_, w)| *w != stamp.write))
        });
        let lost = lost.map(|(name, _)| Violation::EffectLost { name: name.clone() });
        let disordered = seen.iter().filter(|(_, s)| !s.first_times().is_sorted());
        let disordered =
            disordered.map(|(name, _)| Violation::EffectsDisordered { name: name.clone() });
        lost.chain(disordered).collect()
    }
}

impl Seen {
    fn first_times(&self) -> Vec<Version> {
        let mut known = Vec::new();
        let mut versions = Vec::new();
        for (version, write) in &self.states {
            if !known.contains(write) {
                known.push(*write);
                versions.push(*version);
            }
        }
        versions
    }
}
