//! A swarm: many peers fetch the same content at once, and each gives to the others what it has already.
//!
//! One provider alone serves N fetchers in N times the time it takes to send the content once. If all that was fetched is
//! passed on at once, everybody is done in little more than the time it takes the first provider to send each byte *once*
//! (Cohen, "Incentives Build Robustness in BitTorrent", 2003; Kumar and Ross, "Peer-Assisted File Distribution: The Minimum
//! Distribution Time", 2006, give the bound). There is no tracker: who has something is on record in the ring
//! ([`crate::providers`]), what each of them has it tells those who ask it. A *piece* is one chunk of the content.
//!
//! - **Maps.** Each source tells its fetchers which pieces it has ([`pieces::Pieces`]), first all, then what is new.
//! - **Rarest first, random among equals** (Cohen, 2.4): a fetcher takes the pieces that the fewest sources have, so that
//!   no piece depends on one peer for long, and no two fetchers take the same one without need.
//! - **Upload slots** ([`uploads`]): a source sends few pieces at a time, so that each arrives soon and can be passed on
//!   soon. Who waits is served in turn. Deviation: peers of one network do not bargain, so nobody is choked for not giving.
//! - **Chosen late.** A fetcher asks for a *turn*, not for a piece. When its turn comes it names several pieces that it
//!   would take now, and the source sends the one of them that it has sent least often. So a piece is never chosen by what
//!   was true when the queue was joined, and the first provider sends everything once before it sends anything twice, which
//!   is what BitTorrent's super-seeding (BEP 16) is for.
//! - **End-game** (Cohen, 2.4): when all that is missing is on its way, a few pieces are taken from a second source as well,
//!   and whoever comes second is cut off. At most one piece in [`SPARE`] may be taken twice.
//! - **Liars, and slow ones.** A piece that does not have its hash ends all dealings with its sender. One that takes far
//!   longer than others is passed over as long as another source has it.
//!
//! [`fetch::Fetch`] and [`uploads::Uploads`] are machines: events in, requests out. The daemon moves the bytes, the
//! simulator counts them.

pub mod fetch;
pub mod pieces;
pub mod uploads;

/// Pieces a source sends at a time. Fewer let each piece arrive sooner, more keep the link busy when some fetchers are slow.
/// Measured (sim/tests/swarm.rs, 32 fetchers): BitTorrent's four (Cohen, 2.4.1) end at 1.25 of the least time, two at more
/// than 1.5, six and eight at 1.15 to 1.18.
pub const SLOTS: usize = 6;
/// Turns that may be waited for at one source: so many that each fetcher of a large swarm may wait (guess).
pub const QUEUE: usize = 256;
/// How long whoever finds the queue full stays away, in milliseconds (guess: some pieces' time).
pub const COME_BACK: u64 = 500;
/// Sources of one fetch. Guess: enough that some of them have something new at any time.
pub const SOURCES: usize = 32;
/// Turns one fetch waits for or uses.
pub const ASKS: usize = 16;
/// Of them at one source: hides the round trips before each piece when there is only one.
pub const PER_SOURCE: usize = 4;
/// Pieces of one fetch on their way at once; times 1 MiB is memory.
pub const MOVING: usize = 8;
/// Pieces named when a turn has come (guess: more than a source was asked for in the round trip since its last news).
pub const CANDIDATES: usize = 16;
/// One piece in so many may be asked of two sources in the end-game: 5 % of the bytes at most.
pub const SPARE: u32 = 20;
/// Failures in a row after which a source is left (guess).
pub const STRIKES: u32 = 4;
/// How long a source rests after its first failure, in milliseconds; twice as long after each more (guess).
pub const REST: u64 = 250;
/// A piece is slow when it takes so many times as long as pieces did lately (guess: fair shares differ by less).
pub const SLOW: u64 = 8;
/// And at least so long, in milliseconds: below it there is nothing to win.
pub const SLOW_LEAST: u64 = 1_000;
/// Liars remembered by one fetch; far more than there are sources.
pub const LIARS: usize = 256;
