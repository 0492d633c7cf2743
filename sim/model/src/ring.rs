//! Models of the ring: the steps of [`peernet_core::ring`] and the conversation of [`peernet_core::chord`].
//!
//! What is to be true of every reachable state is Zave's invariant (`Invariant` in her Alloy model): everyone has a live
//! successor, and r + 1 members are principals, which no extended list of another skips. One ordered ring follows, and is
//! checked too, so that a wrong variant is seen to do harm and not only to miss a lemma. From every reachable state the
//! ring must also become ideal within N − 1 rounds if nothing else happens.
//!
//! What is assumed is hers too, in two forms: see [`Failures`].

pub mod atomic;
pub mod messages;
pub mod network;

/// The protocol, or one of the wrong variants that the checker must tell from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// What ships.
    Shipped,
    /// Original Chord: a newcomer takes over the first successor only.
    JoinCopiesOnlyTheHead,
    /// Original Chord: a newcomer is one of the ring, and answers, before it has a list.
    JoinWithoutList,
    /// A newcomer takes over the list of a member that is not the one just before.
    JoinAnywhere,
    /// Original Chord: a nearer predecessor is adopted without being asked for its list, or whether it is alive.
    AdoptUnasked,
    /// Original Chord: a dead predecessor keeps its place until one that is nearer notifies.
    RectifyUnchecked,
    /// Whom gossip has not told of counts as gone.
    UnheardIsGone,
}

/// Which failures the ring has to bear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failures {
    /// Fewer than `most` + 1 between ideal states, and r + 1 principals stay. The assumption an operator can work with:
    /// `most` is r − 1.
    Between {
        /// Failures between ideal states.
        most: u8,
    },
    /// Any that leave everyone a live successor and r + 1 principals: the weakest assumption of this kind (Zave's `Fail`).
    Survivable,
    /// As many as `most` between ideal states, however few stay.
    NoBase {
        /// Failures between ideal states.
        most: u8,
    },
    /// Any. The invariant is claimed only from an ideal state of r + 1 members on and while failures are as in
    /// `Between { most: r - 1 }`; before and afterwards the network lives on what gossip knows.
    Passage,
}
