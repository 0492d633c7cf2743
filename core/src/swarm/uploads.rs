//! Whom a source serves next: few at a time, each fetcher in its turn.
//!
//! A free slot goes to the fetcher that uses the fewest of them, of those to the one that was served longest ago; what one
//! fetcher asks for many times waits behind what others ask for once. The queue is bounded; who does not fit comes back.

use std::collections::BTreeMap;

use super::{QUEUE, SLOTS};
use crate::member::PeerId;

/// One request for a turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TurnId(u64);

/// What becomes of a request for a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is its turn.
    Now(TurnId),
    /// It waits until [`Uploads::end`] names it.
    Waits(TurnId),
    /// Too many wait.
    ComeBack,
}

/// The turns of one source. Every one that was given, or waits, has to [`Uploads::end`].
#[derive(Debug, Default)]
pub struct Uploads {
    next: u64,
    active: BTreeMap<TurnId, PeerId>,
    waiting: BTreeMap<TurnId, PeerId>,
    /// By fetcher, when it was served last, as a count of turns. Only of those that wait or are served, or of few.
    served: BTreeMap<PeerId, u64>,
}

impl Uploads {
    /// `fetcher` asks for a turn.
    pub fn ask(&mut self, fetcher: PeerId) -> Admission {
        self.next += 1;
        let turn = TurnId(self.next);
        if self.active.len() < SLOTS {
            self.start(turn, fetcher);
            return Admission::Now(turn);
        }
        // No fetcher may fill the queue alone.
        let own = self.waiting.values().filter(|who| **who == fetcher).count();
        if self.waiting.len() >= QUEUE || own >= super::PER_SOURCE {
            return Admission::ComeBack;
        }
        self.waiting.insert(turn, fetcher);
        Admission::Waits(turn)
    }

    /// A turn is over, or whoever waited for it waits no more. Returns whose turn it is now.
    pub fn end(&mut self, turn: TurnId) -> Option<TurnId> {
        self.waiting.remove(&turn);
        self.active.remove(&turn);
        if self.active.len() >= SLOTS {
            return None;
        }
        let rank = |turn: &TurnId, who: &PeerId| {
            let active = self.active.values().filter(|other| *other == who).count();
            (active, self.served.get(who).copied(), *turn)
        };
        let (next, who) = self
            .waiting
            .iter()
            .min_by_key(|(turn, who)| rank(turn, who))
            .map(|(turn, who)| (*turn, *who))?;
        self.waiting.remove(&next);
        self.start(next, who);
        Some(next)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn start(&mut self, turn: TurnId, fetcher: PeerId) {
        self.next += 1;
        self.active.insert(turn, fetcher);
        self.served.insert(fetcher, self.next);
        if self.served.len() > QUEUE {
            let oldest = self.served.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(who, _)| *who) {
                self.served.remove(&oldest);
            }
        }
    }
}

/// How often a source has sent each piece of one content.
#[derive(Debug)]
pub struct Sent(Vec<u32>);

impl Sent {
    /// Of a content with so many pieces.
    pub fn none(total: u32) -> Self {
        Sent(vec![0; total as usize])
    }

    /// Of the pieces a fetcher would take, and that are here, the one sent least often; the first of equals. It counts as
    /// sent even if that fails: one that cannot be read must not be chosen before all others again and again.
    pub fn choose(&mut self, candidates: &[u32], here: impl Fn(u32) -> bool) -> Option<u32> {
        let there = candidates.iter().copied().filter(|piece| here(*piece));
        let known = there.filter(|piece| (*piece as usize) < self.0.len());
        let piece = known.min_by_key(|piece| self.0[*piece as usize])?;
        self.0[piece as usize] = self.0[piece as usize].saturating_add(1);
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(uploads: &mut Uploads, who: u128) -> TurnId {
        match uploads.ask(PeerId(who)) {
            Admission::Now(turn) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn waits(uploads: &mut Uploads, who: u128) -> TurnId {
        match uploads.ask(PeerId(who)) {
            Admission::Waits(turn) => turn,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_asks_much_waits_behind_who_asks_little() {
        let mut uploads = Uploads::default();
        let greedy: Vec<TurnId> = (0..SLOTS).map(|_| now(&mut uploads, 1)).collect();
        let more = waits(&mut uploads, 1);
        let (two, three) = (waits(&mut uploads, 2), waits(&mut uploads, 3));
        assert_eq!(uploads.end(greedy[0]), Some(two));
        assert_eq!(uploads.end(greedy[1]), Some(three));
        let again = waits(&mut uploads, 2);
        // Two, three and one use one, one and two slots; then one each: the one served longest ago.
        assert_eq!(uploads.end(three), Some(again));
        assert_eq!(uploads.end(two), Some(more));
        assert_eq!(uploads.end(greedy[2]), None);
        assert_eq!(uploads.waiting(), 0);
    }

    #[test]
    fn the_queue_is_bounded_for_all_and_for_each() {
        let mut uploads = Uploads::default();
        let first: Vec<TurnId> = (0..SLOTS).map(|_| now(&mut uploads, 1)).collect();
        let own: Vec<TurnId> = (0..super::super::PER_SOURCE)
            .map(|_| waits(&mut uploads, 1))
            .collect();
        assert_eq!(uploads.ask(PeerId(1)), Admission::ComeBack);
        for who in 2.. {
            if uploads.waiting() == QUEUE {
                break;
            }
            waits(&mut uploads, who);
        }
        assert_eq!(uploads.ask(PeerId(9_999)), Admission::ComeBack);
        // Who gives up makes room without being served.
        assert_eq!(uploads.end(own[0]), None);
        waits(&mut uploads, 9_999);
        assert!(uploads.end(first[0]).is_some());
    }

    #[test]
    fn everything_is_sent_once_before_anything_is_sent_twice() {
        let mut sent = Sent::none(4);
        let all = [3, 1, 0, 2];
        let order: Vec<u32> = (0..5).filter_map(|_| sent.choose(&all, |_| true)).collect();
        assert_eq!(order, [3, 1, 0, 2, 3]);
        assert_eq!(sent.choose(&all, |_| true), Some(1));
        assert_eq!(sent.choose(&all, |piece| piece == 3), Some(3));
        assert_eq!(sent.choose(&[4, 1_000], |_| true), None);
    }
}
