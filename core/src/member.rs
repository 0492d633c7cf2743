//! Who is in the network: identities and the records that peers gossip of each other.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::key::Position;

/// So far an incarnation or an order may be ahead of what is known of a member. They count starts, suspicions and orders,
/// of which a peer misses no million; a thousand times that is the most that a stranger has.
pub const LEAP: u64 = 1 << 20;

/// A peer's 128-bit identity, drawn at random when a volume is first used and again after it has left, so that a
/// departed disk can never speak for a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u128);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// Text that is not 32 hex digits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a peer's identity is 32 hexadecimal digits")]
pub struct InvalidPeerId;

impl FromStr for PeerId {
    type Err = InvalidPeerId;
    fn from_str(s: &str) -> Result<Self, InvalidPeerId> {
        if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidPeerId);
        }
        u128::from_str_radix(s, 16)
            .map(PeerId)
            .map_err(|_| InvalidPeerId)
    }
}

/// How alive a member is thought to be. Ordered: at equal incarnation the greater one wins (SWIM, section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Liveness {
    /// Known, but not yet part of the ring.
    Joining,
    /// Part of the ring.
    Active,
    /// Did not answer lately; still treated as a member.
    Suspect,
    /// Did not answer for the suspicion time. Still probed, may return.
    Down,
    /// Others say that it is gone: it was down while it was to leave, and they knew of no slot that names it. Said under
    /// the drain's epoch, it is void once the order is taken back under a greater one; see
    /// [`crate::slot::handover::may_leave`] for what the peer makes of it.
    Retired,
    /// Gone for good, by its own word or a person's; this identity never returns.
    Left,
}

impl Liveness {
    /// No member any more, as far as is known.
    pub fn is_gone(self) -> bool {
        matches!(self, Liveness::Retired | Liveness::Left)
    }
}

/// What somebody who watches the processes (Kubernetes, the local runner) says of one. Worth a look, never a proof.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hint {
    /// Its pod or its node went away.
    Gone,
    /// Its pod is coming back.
    Back,
}

/// Whether a member is wanted. Only ever replaced by one of a greater epoch, by whoever orders it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Drain {
    /// Counts orders and their cancellations.
    pub epoch: u64,
    /// The peer is to hand over its slots and leave.
    pub leaving: bool,
}

/// What is known of a member; gossiped whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its identity.
    pub id: PeerId,
    /// The pod's or process's name, such as `demo-3`.
    pub name: String,
    /// `host:port` for gRPC.
    pub address: String,
    /// `host:port` for REST.
    pub http: String,
    /// Failure domain.
    pub zone: String,
    /// Place on the ring, fixed at the first join.
    pub position: Position,
    /// Raised only by the member itself: at each start, and to refute a suspicion.
    pub incarnation: u64,
    /// See [`Liveness`].
    pub liveness: Liveness,
    /// See [`Drain`].
    pub drain: Drain,
    /// Software version.
    pub version: String,
}

impl Member {
    /// Merges what another peer says of the same member into this record; true when something changed.
    ///
    /// Drain orders merge on their own epoch. `Left` is final, `Retired` under the newest order; under an older one it
    /// means no more than `Down`. Else the greater incarnation wins, then the worse liveness.
    pub fn merge(&mut self, other: &Member) -> bool {
        debug_assert_eq!(self.id, other.id);
        let before = (self.incarnation, self.liveness, self.drain);
        let drain = self.drain.max(other.drain);
        let (mine, theirs) = (self.liveness_under(drain), other.liveness_under(drain));
        self.liveness = mine;
        if (other.incarnation, theirs) > (self.incarnation, mine) {
            *self = other.clone();
            self.liveness = theirs;
        }
        self.drain = drain;
        if mine.is_gone() || theirs.is_gone() {
            self.liveness = mine.max(theirs);
        }
        before != (self.incarnation, self.liveness, self.drain)
    }

    /// Takes an order that is newer than the last.
    pub fn order(&mut self, order: Drain) {
        self.liveness = self.liveness_under(order);
        self.drain = order;
    }

    fn liveness_under(&self, order: Drain) -> Liveness {
        match self.liveness {
            Liveness::Retired if self.drain < order || !order.leaving => Liveness::Down,
            liveness => liveness,
        }
    }

    /// See [`Liveness::is_gone`].
    pub fn is_gone(&self) -> bool {
        self.liveness.is_gone()
    }

    /// In the ring and not known to be gone: may hold slots.
    pub fn is_present(&self) -> bool {
        matches!(self.liveness, Liveness::Active | Liveness::Suspect)
    }

    /// May be chosen as a new replica.
    pub fn is_eligible(&self) -> bool {
        self.liveness == Liveness::Active && !self.drain.leaving
    }

    /// Order on the ring.
    pub fn ring_key(&self) -> (Position, PeerId) {
        (self.position, self.id)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn member(n: u128) -> Member {
        Member {
            id: PeerId(n),
            name: format!("p-{n}"),
            address: format!("10.0.0.{n}:7000"),
            http: format!("10.0.0.{n}:8080"),
            zone: "a".into(),
            position: Position(n as u64),
            incarnation: 1,
            liveness: Liveness::Active,
            drain: Drain::default(),
            version: String::new(),
        }
    }

    #[test]
    fn merge_prefers_incarnation_then_worse_liveness_and_left_is_final() {
        let mut a = member(1);
        let suspect = Member {
            liveness: Liveness::Suspect,
            ..member(1)
        };
        assert!(a.merge(&suspect));
        assert!(!a.merge(&member(1)), "the same incarnation cannot refute");
        let refuted = Member {
            incarnation: 2,
            ..member(1)
        };
        assert!(a.merge(&refuted));
        assert_eq!(a.liveness, Liveness::Active);
        let left = Member {
            liveness: Liveness::Left,
            ..member(1)
        };
        assert!(a.merge(&left), "left wins over any incarnation");
        let back = Member {
            incarnation: 9,
            ..member(1)
        };
        a.merge(&back);
        assert_eq!(a.liveness, Liveness::Left);
    }

    #[test]
    fn who_is_retired_stays_so_until_the_order_is_taken_back() {
        let order = |epoch, leaving| Drain { epoch, leaving };
        let known = |incarnation, liveness, drain| Member {
            incarnation,
            liveness,
            drain,
            ..member(1)
        };
        let retired = known(1, Liveness::Retired, order(1, true));
        let restarted = known(2, Liveness::Joining, order(1, true));
        let stays = known(2, Liveness::Active, order(2, false));
        let left = known(1, Liveness::Left, order(1, true));
        let both = |a: &Member, b: &Member| {
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(b);
            ba.merge(a);
            assert_eq!(ab, ba, "whoever hears first");
            (ab.incarnation, ab.liveness, ab.drain)
        };
        let gone = (2, Liveness::Retired, order(1, true));
        assert_eq!(both(&retired, &restarted), gone);
        let back = (2, Liveness::Active, order(2, false));
        assert_eq!(both(&retired, &stays), back);
        assert_eq!(both(&left, &stays).1, Liveness::Left);
        assert_eq!(both(&left, &retired).1, Liveness::Left);
        let mut told = retired.clone();
        told.order(order(2, false));
        assert_eq!(told.liveness, Liveness::Down, "as far as is known");
        let senseless = known(1, Liveness::Retired, order(0, false));
        let refuted = known(2, Liveness::Active, order(0, false));
        assert_eq!(both(&senseless, &refuted).1, Liveness::Active);
    }

    #[test]
    fn drain_orders_merge_by_their_own_epoch() {
        let mut a = member(1);
        let drained = Member {
            drain: Drain {
                epoch: 1,
                leaving: true,
            },
            incarnation: 0,
            ..member(1)
        };
        assert!(a.merge(&drained));
        assert!(a.drain.leaving);
        let cancelled = Member {
            drain: Drain {
                epoch: 2,
                leaving: false,
            },
            ..member(1)
        };
        assert!(a.merge(&cancelled));
        assert!(!a.merge(&drained));
        assert!(!a.drain.leaving);
    }
}
