//! Chord's lookup: who is the first member at or after a key?
//!
//! Iterative, as the paper's evaluation has it (Stoica et al., ToN 2003, sections IV.C and V.A): whoever wants to know
//! asks one member after the other, and each refers it to others nearer to the key. [`refer`] is the answering side
//! (*find_successor* and *closest_preceding_node*), [`Lookup`] the asking side. Both are pure.
//!
//! Think of the ring as cut open at the key: its owner is the first member behind the cut, its predecessor the last one
//! before it. A lookup closes in on the cut from both sides:
//!
//! - *Forward.* It asks the member nearest before the key of whom it has heard, until somebody's list of successors
//!   spans the key.
//! - *Owner.* It asks the first successor past the key. That one is the owner if its own predecessor lies before the key;
//!   otherwise the predecessor is asked, which finds a newcomer of whom the list did not know yet.
//! - *Failures.* Who does not answer is passed over for the next best of whom anybody has told: fingers and list entries
//!   before the key, list entries past it. An owner whose predecessor has died cannot vouch for itself; then the nearest
//!   live member before the key must have named nobody nearer.
//!
//! Where all members are known by gossip the first referral ([`refer_among`]) is to the owner itself, and the lookup
//! takes one step. Deviations from the paper: a referral names several members, not one, so that a failure costs no
//! second question; and the answer is checked with its owner, which costs one step and avoids nearly all wrong answers
//! under churn.

use std::collections::BTreeMap;

use crate::fingers::Fingers;
use crate::key::Position;
use crate::member::PeerId;
use crate::ring::Point;

/// Members named on each side of the key in one referral: all that a member knows, with a list of 20 successors and as
/// many fingers as 4,096 members need. With half of all members dead, one referral in four thousand million then names
/// nobody alive; with 8 it was one in 256, and one lookup in 36 got stuck (measured).
pub const REFERRALS: usize = 32;

/// Questions one lookup asks at most, timeouts included: some ten times what 100,000 members need.
pub const QUESTIONS: usize = 128;

/// A member's place on the ring cut open at a key: owners first, predecessors last.
type Cut = (u64, PeerId);

fn cut(key: Position, point: Point) -> Cut {
    (key.distance_to(point.0), point.1)
}

/// What a member tells who looks for a key's owner.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Referral {
    /// The one who answers owns the key.
    pub mine: bool,
    /// The member before the one who answers.
    pub predecessor: Option<Point>,
    /// The first members at or after the key, if its list of successors spans the key; nearest first.
    pub owners: Vec<Point>,
    /// Members before the key but after the one who answers, nearest to the key first.
    pub preceding: Vec<Point>,
}

/// Find successor, one step of it, on the state of the member `me`.
pub fn refer(
    key: Position,
    me: Point,
    predecessor: Option<Point>,
    successors: &[Point],
    fingers: &Fingers,
) -> Referral {
    let here = cut(key, me);
    let mine = match predecessor {
        Some(before) => here < cut(key, before),
        None => successors.is_empty(),
    };
    // The list goes clockwise from here; what lies past the key is beyond the cut.
    let owners = successors.iter().filter(|p| cut(key, **p) < here);
    let owners = owners.copied().take(REFERRALS).collect();
    let known = successors.iter().copied().chain(fingers.iter());
    let before: BTreeMap<Cut, Point> = known
        .map(|p| (cut(key, p), p))
        .filter(|(at, _)| *at > here)
        .collect();
    let preceding = before.into_values().rev().take(REFERRALS).collect();
    Referral {
        mine,
        predecessor,
        owners,
        preceding,
    }
}

/// The referral of a member that knows all others. `members` in ring order, without the one that asks.
pub fn refer_among(key: Position, members: &[Point]) -> Referral {
    let first = members.partition_point(|p| p.0 < key);
    let (before, after) = members.split_at(first);
    let clockwise = after.iter().chain(before);
    Referral {
        owners: clockwise.clone().copied().take(REFERRALS).collect(),
        preceding: clockwise.rev().copied().take(REFERRALS).collect(),
        ..Referral::default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Unasked,
    Answered,
    Dead,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Ask this member for a referral.
    Ask(Point),
    /// The owner is found.
    Found {
        /// The first member at or after the key.
        owner: Point,
        /// The member before it, as far as it is known.
        predecessor: Option<Point>,
    },
    /// Nobody is left to ask: try again when the ring has stabilised.
    Failed,
}

/// A lookup under way.
#[derive(Clone, Debug)]
pub struct Lookup {
    key: Position,
    me: Point,
    /// Members heard of as being past the key, nearest first.
    owners: BTreeMap<Cut, (Point, Standing)>,
    /// Members heard of as being before the key, nearest last. With ourselves, so never empty.
    preceding: BTreeMap<Cut, (Point, Standing)>,
    found: Option<(Point, Option<Point>)>,
    hops: u32,
    timeouts: u32,
}

impl Lookup {
    /// Begins with what `me` itself would refer another to.
    pub fn new(key: Position, me: Point, own: Referral) -> Self {
        let mut lookup = Lookup {
            key,
            me,
            owners: BTreeMap::new(),
            preceding: BTreeMap::from([(cut(key, me), (me, Standing::Answered))]),
            found: None,
            hops: 0,
            timeouts: 0,
        };
        lookup.learn(me, own);
        lookup
    }

    /// Members that answered; the length of the path. Ourselves do not count.
    pub fn hops(&self) -> u32 {
        self.hops
    }

    /// Members that did not answer.
    pub fn timeouts(&self) -> u32 {
        self.timeouts
    }

    /// What to do next. Ask one at a time, and report with [`Lookup::on_referral`] or [`Lookup::on_timeout`].
    pub fn next(&self) -> Next {
        if let Some((owner, predecessor)) = self.found {
            return Next::Found { owner, predecessor };
        }
        if (self.hops + self.timeouts) as usize >= QUESTIONS {
            return Next::Failed;
        }
        let alive = |c: &&(Point, Standing)| c.1 != Standing::Dead;
        let owner = self.owners.values().find(alive);
        let before = self.preceding.values().rev().find(alive);
        match (owner, before) {
            (Some((owner, Standing::Unasked)), _) => Next::Ask(*owner),
            (_, Some((before, Standing::Unasked))) => Next::Ask(*before),
            // Nobody between the two has been named by either.
            (Some((owner, _)), Some((before, _))) => Next::Found {
                owner: *owner,
                predecessor: Some(*before),
            },
            _ => Next::Failed,
        }
    }

    /// `from`, which was asked, answers.
    pub fn on_referral(&mut self, from: Point, referral: Referral) {
        self.hops += 1;
        let at = cut(self.key, from);
        let as_owner = self.owners.get_mut(&at).map(|c| c.1 = Standing::Answered);
        if let Some(candidate) = self.preceding.get_mut(&at) {
            candidate.1 = Standing::Answered;
        }
        if as_owner.is_some() {
            // Of a member before the key the predecessor only leads back.
            let nearer = referral.predecessor.filter(|p| cut(self.key, *p) < at);
            self.hear_of_owners(nearer);
        }
        self.learn(from, referral);
    }

    /// `at`, which was asked, does not answer.
    pub fn on_timeout(&mut self, at: Point) {
        self.timeouts += 1;
        let at = cut(self.key, at);
        for candidates in [&mut self.owners, &mut self.preceding] {
            if let Some(candidate) = candidates.get_mut(&at) {
                candidate.1 = Standing::Dead;
            }
        }
    }

    fn learn(&mut self, from: Point, referral: Referral) {
        if referral.mine {
            self.found = Some((from, referral.predecessor));
        }
        self.hear_of_owners(referral.owners);
        for point in referral.preceding.into_iter().take(REFERRALS) {
            let at = cut(self.key, point);
            self.preceding
                .entry(at)
                .or_insert((point, Standing::Unasked));
        }
    }

    fn hear_of_owners(&mut self, points: impl IntoIterator<Item = Point>) {
        for point in points.into_iter().take(REFERRALS) {
            // We need not ask ourselves.
            let standing = if point == self.me {
                Standing::Answered
            } else {
                Standing::Unasked
            };
            let at = cut(self.key, point);
            self.owners.entry(at).or_insert((point, standing));
        }
    }
}

#[cfg(test)]
mod tests;
