//! The pointers of a whole network, small enough to be kept by the million, and what is to be true of them.

use std::fmt;

use peernet_core::key::Position;
use peernet_core::member::PeerId;
use peernet_core::ring::{Point, Ring, View, between};

/// Identifiers at most.
pub const MOST: usize = 5;
/// Entries in a list of successors at most.
pub const LONGEST: usize = 3;

/// An identifier: place on the ring and identity at once.
pub type Id = u8;

/// An identifier as the product's point.
pub fn point(id: Id) -> Point {
    (Position(id.into()), peer(id))
}

/// An identifier as the product's identity.
pub fn peer(id: Id) -> PeerId {
    PeerId(id.into())
}

/// The identifier of a peer of a model.
pub fn id(peer: PeerId) -> Id {
    Id::try_from(peer.0).expect("identifiers of models are small")
}

/// A set of identifiers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Set(u8);

impl Set {
    /// All sets of the identifiers below `n`.
    pub fn all(n: Id) -> impl Iterator<Item = Set> {
        (0..1u16 << n).map(|bits| Set(bits as u8))
    }

    /// Those below `n` that are not in this set.
    pub fn rest(self, n: Id) -> Set {
        Set(!self.0 & ((1u16 << n) - 1) as u8)
    }

    /// Whether `id` is in it.
    pub fn has(self, id: Id) -> bool {
        self.0 & (1 << id) != 0
    }

    /// With `id`.
    pub fn with(self, id: Id) -> Set {
        Set(self.0 | (1 << id))
    }

    /// Without `id`.
    pub fn without(self, id: Id) -> Set {
        Set(self.0 & !(1 << id))
    }

    /// How many.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its identifiers, ascending.
    pub fn iter(self) -> impl Iterator<Item = Id> + Clone {
        (0..8).filter(move |id| self.has(*id))
    }

    /// The `steps`-th of the set after `id`, clockwise; with 0 steps `id` itself.
    fn after(self, id: Id, steps: usize) -> Option<Id> {
        let around = self.iter().filter(|x| *x > id).chain(self.iter());
        std::iter::once(id).chain(around).nth(steps)
    }
}

impl FromIterator<Id> for Set {
    fn from_iter<T: IntoIterator<Item = Id>>(ids: T) -> Self {
        ids.into_iter().fold(Set::default(), Set::with)
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What one peer knows of the others at one step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Knowledge {
    /// Who lives and who does not; nobody is pointed out.
    Exact,
    /// It has not heard of any failure yet.
    Late,
    /// Gossip points this member out.
    Hint(Id),
    /// It has not heard of this live member yet.
    Unaware(Id),
    /// Gossip points every member out.
    Full,
}

/// [`Knowledge`] of a network.
pub struct Sight {
    /// Who is in the ring.
    pub members: Set,
    /// Who is alive, in the ring or not yet.
    pub alive: Set,
    /// How much of it is known.
    pub knowledge: Knowledge,
    /// [`super::Variant::UnheardIsGone`].
    pub unheard_is_gone: bool,
}

impl View for Sight {
    fn members(&self) -> impl Iterator<Item = Point> {
        let pointed_out = |id: &Id| match self.knowledge {
            Knowledge::Hint(hint) => *id == hint,
            Knowledge::Full => true,
            Knowledge::Exact | Knowledge::Late | Knowledge::Unaware(_) => false,
        };
        self.members.iter().filter(pointed_out).map(point)
    }

    fn point(&self, peer: PeerId) -> Option<Point> {
        let unheard = self.knowledge == Knowledge::Unaware(id(peer));
        (!unheard && !self.is_gone(peer)).then(|| point(id(peer)))
    }

    fn member(&self, peer: PeerId) -> Option<Point> {
        let late = self.knowledge == Knowledge::Late;
        self.point(peer)
            .filter(|_| late || self.members.has(id(peer)))
    }

    fn is_gone(&self, peer: PeerId) -> bool {
        let id = id(peer);
        match self.knowledge {
            Knowledge::Late => false,
            Knowledge::Unaware(x) if x == id => self.unheard_is_gone,
            _ => !self.alive.has(id),
        }
    }
}

/// One member's pointers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// The member before.
    pub predecessor: Option<Id>,
    successors: [Option<Id>; LONGEST],
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.predecessor {
            Some(id) => write!(f, "{id}<")?,
            None => write!(f, "-<")?,
        }
        f.debug_list().entries(self.successors()).finish()
    }
}

impl Node {
    /// The product's pointers, packed.
    pub fn of(ring: &Ring) -> Self {
        let mut successors = [None; LONGEST];
        for (entry, peer) in successors.iter_mut().zip(&ring.successors) {
            *entry = Some(id(*peer));
        }
        Node {
            predecessor: ring.predecessor.map(id),
            successors,
        }
    }

    /// The pointers as the product keeps them.
    pub fn ring(&self, r: usize) -> Ring {
        let mut ring = Ring::new(r);
        ring.joined = true;
        ring.predecessor = self.predecessor.map(peer);
        ring.successors = self.successors().map(peer).collect();
        ring
    }

    /// With every identifier replaced.
    fn map(&self, to: impl Fn(Id) -> Id) -> Self {
        Node {
            predecessor: self.predecessor.map(&to),
            successors: self.successors.map(|id| id.map(&to)),
        }
    }

    /// The list of successors.
    pub fn successors(&self) -> impl Iterator<Item = Id> {
        self.successors.iter().map_while(|id| *id)
    }
}

/// Every identifier's pointers, where there is a live member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network([Option<Node>; MOST]);

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.nodes()).finish()
    }
}

impl Network {
    /// Nobody.
    pub const EMPTY: Network = Network([None; MOST]);

    /// The ideal ring of these members.
    pub fn ideal(members: Set, r: usize) -> Self {
        let sight = Sight {
            members,
            alive: members,
            knowledge: Knowledge::Full,
            unheard_is_gone: false,
        };
        let mut network = Network::EMPTY;
        for id in members.iter() {
            let mut ring = Ring::new(r);
            ring.found(point(id), &sight);
            network.set(id, Some(Node::of(&ring)));
        }
        network
    }

    /// The network with every identifier moved on by one of `n`. The ring looks the same from everywhere: only the order
    /// of identifiers around it matters.
    pub fn turned(&self, n: Id) -> Self {
        let to = |id: Id| (id + 1) % n;
        let mut turned = Network::EMPTY;
        for (id, node) in self.nodes() {
            turned.set(to(id), Some(node.map(to)));
        }
        turned
    }

    /// A member's pointers; `None` if it is not a live member.
    pub fn get(&self, id: Id) -> Option<Node> {
        self.0[usize::from(id)]
    }

    /// Changes a member's pointers.
    pub fn set(&mut self, id: Id, node: Option<Node>) {
        self.0[usize::from(id)] = node;
    }

    /// The live members.
    pub fn members(&self) -> Set {
        self.nodes().map(|(id, _)| id).collect()
    }

    fn nodes(&self) -> impl Iterator<Item = (Id, &Node)> {
        (0..)
            .zip(&self.0)
            .filter_map(|(id, node)| Some((id, node.as_ref()?)))
    }

    /// The first live successor, Zave's `bestSucc`.
    fn next(&self, id: Id) -> Option<Id> {
        self.get(id)?
            .successors()
            .find(|id| self.get(*id).is_some())
    }

    /// First half of Zave's invariant.
    pub fn everyone_has_a_live_successor(&self) -> bool {
        self.nodes().all(|(id, _)| self.next(id).is_some())
    }

    /// Members that no adjacent pair of another's extended list (itself, then its successors) skips.
    pub fn principals(&self) -> usize {
        let skips = |id: Id, node: &Node, x: Id| {
            let mut from = id;
            node.successors().any(|to| {
                let pair = std::mem::replace(&mut from, to);
                between(point(pair), point(x), point(to))
            })
        };
        let is_principal = |x: &Id| {
            !self
                .nodes()
                .any(|(id, node)| id != *x && skips(id, node, *x))
        };
        self.members().iter().filter(is_principal).count()
    }

    /// Zave's `OneOrderedRing` and `ConnectedAppendages`, which her invariant implies: first live successors lead from
    /// everyone onto one cycle, and the cycle goes once around.
    pub fn is_one_ordered_ring(&self) -> bool {
        let onto_cycle = |start: Id| (0..MOST).try_fold(start, |at, _| self.next(at));
        let Some(anchor) = self.members().iter().next().and_then(onto_cycle) else {
            return false;
        };
        let (mut cycle, mut at, mut descents) = (Set::default(), anchor, 0);
        while !cycle.has(at) {
            cycle = cycle.with(at);
            let next = self.next(at).expect("it is on a cycle");
            descents += usize::from(next <= at);
            at = next;
        }
        let joins = |id: Id| onto_cycle(id).is_some_and(|at| cycle.has(at));
        descents == 1 && self.members().iter().all(joins)
    }

    /// Zave's `Ideal`, for a network of any size: everyone's predecessor and list are those of the ring of all members.
    pub fn is_ideal(&self, r: usize) -> bool {
        let members = self.members();
        let others = members.len().saturating_sub(1);
        self.nodes().all(|(id, node)| {
            let list = (1..=others.min(r)).filter_map(|steps| members.after(id, steps));
            let before = members.after(id, others);
            node.successors().eq(list) && (others == 0 || node.predecessor == before)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(nodes: &[(Id, Option<Id>, &[Id])]) -> Network {
        let mut network = Network::EMPTY;
        for (id, predecessor, list) in nodes {
            let mut ring = Ring::new(LONGEST);
            ring.predecessor = predecessor.map(peer);
            ring.successors = list.iter().copied().map(peer).collect();
            network.set(*id, Some(Node::of(&ring)));
        }
        network
    }

    #[test]
    fn an_ideal_ring_is_everything_it_should_be() {
        let members: Set = [0, 1, 3, 4].into_iter().collect();
        let ring = Network::ideal(members, 2);
        assert_eq!(
            ring,
            network(&[
                (0, Some(4), &[1, 3]),
                (1, Some(0), &[3, 4]),
                (3, Some(1), &[4, 0]),
                (4, Some(3), &[0, 1]),
            ])
        );
        assert!(ring.is_ideal(2) && !ring.is_ideal(3));
        assert!(ring.everyone_has_a_live_successor() && ring.is_one_ordered_ring());
        assert_eq!(ring.principals(), 4);
        assert!(
            Network::ideal(Set::default().with(2), 2).is_ideal(2),
            "alone"
        );
    }

    #[test]
    fn a_skipped_member_is_no_principal() {
        let ring = network(&[
            (0, Some(4), &[2, 4]),
            (2, Some(0), &[4, 0]),
            (4, Some(2), &[0, 1]),
        ]);
        assert_eq!(ring.principals(), 3);
        let with_appendage = network(&[
            (0, Some(4), &[2, 4]),
            (1, Some(0), &[2, 4]),
            (2, Some(0), &[4, 0]),
            (4, Some(2), &[0, 2]),
        ]);
        assert_eq!(with_appendage.principals(), 3, "1 is skipped by 0 and by 4");
        assert!(with_appendage.is_one_ordered_ring() && !with_appendage.is_ideal(2));
    }

    #[test]
    fn two_rings_and_a_ring_twice_around_are_told_from_one() {
        let two = network(&[
            (0, None, &[1]),
            (1, None, &[0]),
            (2, None, &[3]),
            (3, None, &[2]),
        ]);
        assert!(!two.is_one_ordered_ring());
        let twice = network(&[
            (0, None, &[2]),
            (2, None, &[1]),
            (1, None, &[3]),
            (3, None, &[0]),
        ]);
        assert!(!twice.is_one_ordered_ring());
        let lost = network(&[(0, None, &[1]), (1, None, &[0]), (2, None, &[4])]);
        assert!(!lost.is_one_ordered_ring() && !lost.everyone_has_a_live_successor());
    }
}
