//! The network between the simulated machines: delay, loss, repetition, reordering, cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::world::World;

/// A machine on the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub u32);

impl HostId {
    /// Where the operator runs.
    pub const OPERATOR: HostId = HostId(u32::MAX);
}

/// How well the network works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conditions {
    /// One way, in milliseconds.
    pub latency: Range<u64>,
    /// Of a million messages, so many are lost.
    pub loss: u32,
    /// Of a million messages, so many arrive twice.
    pub duplication: u32,
    /// Of a million messages, so many are held up by `detour`, and thus overtaken.
    pub reordering: u32,
    /// In milliseconds.
    pub detour: Range<u64>,
}

impl Conditions {
    /// Machines of one site: nothing is lost, but messages on the way together may overtake each other.
    pub fn good() -> Self {
        Conditions {
            latency: 1..5,
            loss: 0,
            duplication: 0,
            reordering: 0,
            detour: 0..0,
        }
    }

    /// Every tenth message is lost, some come twice, some much later.
    pub fn bad() -> Self {
        Conditions {
            latency: 1..30,
            loss: 100_000,
            duplication: 50_000,
            reordering: 50_000,
            detour: 50..1_000,
        }
    }
}

/// The network.
pub struct Network {
    /// May be changed at any time.
    pub conditions: Conditions,
    /// Messages that were sent so far, lost ones included.
    pub sent: u64,
    cuts: BTreeSet<(HostId, HostId)>,
    /// What everything to and from these takes longer, in milliseconds.
    slow: BTreeMap<HostId, Range<u64>>,
}

impl Network {
    /// Everybody reaches everybody.
    pub fn new(conditions: Conditions) -> Self {
        Network {
            conditions,
            sent: 0,
            cuts: BTreeSet::new(),
            slow: BTreeMap::new(),
        }
    }

    /// Nothing gets from `from` to `to` any more; the other way stays open.
    pub fn cut(&mut self, from: HostId, to: HostId) {
        self.cuts.insert((from, to));
    }

    /// Nothing passes between the two sides in either direction.
    pub fn partition(&mut self, one: &[HostId], other: &[HostId]) {
        for a in one {
            for b in other {
                self.cut(*a, *b);
                self.cut(*b, *a);
            }
        }
    }

    /// Removes a cut.
    pub fn mend(&mut self, from: HostId, to: HostId) {
        self.cuts.remove(&(from, to));
    }

    /// Everything to and from this machine takes longer from now on.
    pub fn slow_down(&mut self, host: HostId, by: Range<u64>) {
        self.slow.insert(host, by);
    }

    /// Removes all cuts, and all slowness of single machines.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.slow.clear();
    }

    /// Whether something sent now could arrive.
    pub fn reaches(&self, from: HostId, to: HostId) -> bool {
        from == to || !self.cuts.contains(&(from, to))
    }

    /// When the copies of a message sent now arrive, in milliseconds from now: none, one or two.
    pub fn deliveries(
        &self,
        world: &World,
        from: HostId,
        to: HostId,
    ) -> impl Iterator<Item = u64> + use<> {
        let Conditions {
            latency,
            loss,
            duplication,
            reordering,
            detour,
        } = &self.conditions;
        let chance = |per_million: u32| world.chance(f64::from(per_million) / 1e6);
        let delay = || {
            let detour = if chance(*reordering) {
                world.random(detour.clone())
            } else {
                0
            };
            let ends = [from, to].into_iter().filter_map(|end| self.slow.get(&end));
            let slow: u64 = ends.map(|by| world.random(by.clone())).sum();
            world.random(latency.clone()) + slow + detour
        };
        let arrives = self.reaches(from, to) && !(from != to && chance(*loss));
        let first = arrives.then(delay);
        let second = (arrives && chance(*duplication)).then(delay);
        first.into_iter().chain(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0);
    const B: HostId = HostId(1);

    fn count(network: &Network, world: &World, from: HostId, to: HostId) -> usize {
        (0..10_000)
            .map(|_| network.deliveries(world, from, to).count())
            .sum()
    }

    #[test]
    fn a_good_network_delivers_each_message_once_within_its_latency() {
        let (world, network) = (World::new(1), Network::new(Conditions::good()));
        assert_eq!(count(&network, &world, A, B), 10_000);
        assert!(
            network
                .deliveries(&world, A, B)
                .all(|d| (1..5).contains(&d))
        );
    }

    #[test]
    fn a_bad_network_loses_and_repeats_as_told() {
        let (world, network) = (World::new(1), Network::new(Conditions::bad()));
        let arrived = count(&network, &world, A, B);
        assert!(
            (9_200..9_700).contains(&arrived),
            "0.9 × 1.05 of 10,000, but {arrived}"
        );
    }

    #[test]
    fn cuts_have_a_direction_and_heal() {
        let (world, mut network) = (World::new(1), Network::new(Conditions::good()));
        network.cut(A, B);
        assert_eq!(
            (count(&network, &world, A, B), count(&network, &world, B, A)),
            (0, 10_000)
        );
        network.partition(&[A], &[B]);
        assert_eq!(count(&network, &world, B, A), 0);
        network.heal();
        assert!(network.reaches(A, B));
    }
}
