//! In how many zones copies stand: fewer peers, or a node that is gone, may leave fewer zones than copies.

use std::collections::BTreeSet;

use crate::observed::Observed;

/// Zones that hold copies, of those that could.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// Zones of members that stay.
    pub zones: usize,
    /// As many as there are copies and zones with nodes.
    pub possible: usize,
}

impl Spread {
    /// Copies could stand further apart.
    pub fn is_narrow(self) -> bool {
        self.zones < self.possible
    }
}

fn zones(observed: &Observed) -> BTreeSet<&str> {
    let staying = observed
        .members
        .values()
        .filter(|m| m.is_present() && !m.drain.leaving);
    staying.map(|m| m.zone.as_str()).collect()
}

fn factor(observed: &Observed) -> usize {
    usize::try_from(observed.network.spec.replication.factor).unwrap_or(0)
}

/// Whether copies stand in fewer zones than there are copies; only then it matters how many zones the nodes offer.
pub(crate) fn is_narrow(observed: &Observed) -> bool {
    observed.network.status.founded && zones(observed).len() < factor(observed)
}

/// Counts the zones, once there is a ring.
pub(crate) fn spread(observed: &Observed) -> Spread {
    if !observed.network.status.founded {
        return Spread::default();
    }
    let zones = zones(observed);
    let offered: BTreeSet<&str> = observed.zone_of.values().map(String::as_str).collect();
    let known = zones.union(&offered).count();
    Spread {
        zones: zones.len(),
        possible: known.min(factor(observed)),
    }
}
