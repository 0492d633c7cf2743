//! Unstructured search among peers: flooding and random walks, zone first.
//!
//! Files that are only shared ([`crate::share`]) are in no index: to find one, peers are asked. Who asks whom is the
//! [`overlay`], a graph of few links per peer that everybody works out from the table of members. A [`Query`] travels
//! along its links, and whoever receives it looks through its own shares:
//!
//! - **Flooding** (Gnutella protocol 0.4: descriptors with an id and a TTL). A peer that sees a query for the first time
//!   passes it on to all its neighbours but the one it came from, with a TTL lowered by one; a repeated id is dropped. So
//!   a query crosses each link at most once in each direction. Deviations: answers go straight to the asker, since
//!   everybody knows everybody's address, and each answer names the neighbours that were told, so that the asker knows
//!   what the search cost and when the last one has answered. A search for a limited number of files floods in an
//!   *expanding ring* (Lv, Cao, Cohen, Li, Shenker, "Search and Replication in Unstructured Peer-to-Peer Networks", ICS
//!   2002): with TTL 1, then 2, 4 and so on, until enough is found.
//! - **Random walks** (same paper): a few walkers each go to one random neighbour after the other, which costs one
//!   message a step instead of a growing number. A walker *checks back* with the asker after every fourth step (the
//!   paper's number) or when something was found, and goes on only when told to. Peers remember which neighbours they
//!   sent a query's walkers to and prefer the others (the paper's state keeping).
//!
//! **Zone first**: a query names the zone of its asker, links lead within it, and a peer of another zone drops it. Only
//! a query asked for everywhere uses the links between zones.
//!
//! **The best case costs nothing**: the asker's own shares come first, then what it heard in the last minute; only what
//! is still missing is asked for.
//!
//! [`finder::Finder`] is the machine: messages in, messages out, without a table of members; the peer's room gives it
//! the neighbours, the simulator arrays.

use crate::key::{Key, Name};
use crate::member::PeerId;
use crate::share::{Offer, Wanted};

pub mod finder;
pub mod overlay;
pub mod seen;

/// Steps between two checks of a walker (Lv et al., section 5: every fourth step strikes a good balance).
pub const CHECK: usize = 4;
/// TTL of a flood unless asked otherwise (Gnutella 0.4 clients' usual value).
pub const FLOOD_TTL: u32 = 7;
/// Greatest TTL of a flood; more than the diameter of any overlay of our degree and size.
pub const FLOOD_TTL_MAX: u32 = 16;
/// Walkers of a search. The paper walks with 16 to 64 among 10,000; zones are smaller by a hundred (guess).
pub const WALKERS: u32 = 4;
/// Most walkers; the paper's greatest number.
pub const WALKERS_MAX: u32 = 64;
/// Steps of each walker unless asked otherwise: four of them cover a zone of fifty peers (measured, docs/unstructured-search.md).
pub const WALK_TTL: u32 = 64;
/// Greatest number of steps of a walker; the paper's.
pub const WALK_TTL_MAX: u32 = 1_024;
/// Offers in one answer: 64 of at most 2.5 KiB.
pub const OFFERS_MAX: usize = 64;
/// Offers one search gathers.
pub const HITS_MAX: usize = 1_000;
/// Searches of one peer under way.
pub const SEARCHES_MAX: usize = 256;

/// One search of one peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueryId {
    /// Who asks, and gets the answers.
    pub asker: PeerId,
    /// Unique at the asker, across restarts.
    pub op: u64,
}

/// A question on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// Whose, and which.
    pub id: QueryId,
    /// The only zone it may be in; `None`: everywhere.
    pub zone: Option<String>,
    /// What is looked for.
    pub wanted: Wanted,
    /// How many more links it may cross, the one it came over included.
    pub ttl: u32,
    /// `None`: it is flooded.
    pub walk: Option<Walk>,
}

/// A walker's baggage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Which of the search's walkers.
    pub walker: u32,
    /// Peers visited since it checked back, at most [`CHECK`].
    pub trail: Vec<PeerId>,
    /// It checked back here and may go on: not a visit.
    pub resume: bool,
}

/// What peers say to each other about shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A question, flooded or walking.
    Ask(Query),
    /// To the asker of a flood: what is here, and who was told further.
    Tell {
        /// The asker's number of the search.
        op: u64,
        /// Neighbours the query was passed on to.
        told: Vec<PeerId>,
        /// Matches, at most [`OFFERS_MAX`].
        offers: Vec<Offer>,
    },
    /// To the asker of a walk: where the walker stands, with a TTL of 0 when it can go no further.
    Check {
        /// The walker.
        query: Query,
        /// Matches at the peer where it stands, at most [`OFFERS_MAX`].
        offers: Vec<Offer>,
    },
    /// The sender has these contents, or has them no more; kept for a while ([`crate::providers`]).
    Announce {
        /// Which.
        contents: Vec<Key>,
        /// No more.
        gone: bool,
    },
    /// Who has this content?
    Providers {
        /// Repeated in the answer.
        op: u64,
        /// Which.
        content: Key,
    },
    /// Answer to [`Step::Providers`].
    Provided {
        /// From the question.
        op: u64,
        /// Who has announced it lately.
        peers: Vec<PeerId>,
    },
}

/// How to search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// To all neighbours of all neighbours.
    Flood,
    /// With so many walkers, 1 to [`WALKERS_MAX`].
    Walk(u32),
}

/// A search as a client asks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// What for.
    pub wanted: Wanted,
    /// How.
    pub method: Method,
    /// How many links away from the asker (a flood), or how many steps (a walker); clamped to the method's bounds.
    pub ttl: u32,
    /// In all zones.
    pub everywhere: bool,
    /// End with so many files found; 0: find all in reach.
    pub want: usize,
}

/// What a client of this peer wants with shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Publish this file, or one more under a name that was published; its bytes are here. `Answer::Done`.
    Offer(Offer),
    /// Publish it no more. `Answer::Done`.
    Withdraw(Name),
    /// Search. `Answer::Found`.
    Search(Ask),
    /// Who has this content, as announced at its slot? `Answer::Providers`.
    Providers(Key),
}

/// A file that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    /// Who shares it.
    pub peer: PeerId,
    /// What it is.
    pub offer: Offer,
}

/// What a search cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Peers that looked through their shares, the asker included.
    pub peers: u32,
    /// Messages between peers, answers included, as far as the asker was told.
    pub messages: u32,
    /// Peers or walkers that were sent out and not heard of.
    pub silent: u32,
    /// Peers that told as many matches as fit into an answer ([`OFFERS_MAX`]): they may have more.
    pub full: u32,
}

/// How a search ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// In the order heard, each peer and name once.
    pub hits: Vec<Hit>,
    /// See [`Cost`].
    pub cost: Cost,
}
