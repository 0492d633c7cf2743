//! Who has which content, as announced: soft state at the replicas of the content's slot.
//!
//! A provider announces its contents again and again; what is not refreshed expires (Kademlia, Maymounkov and Mazières,
//! 2002, section 2.5; trackerless BitTorrent, BEP 5). So nothing has to be cleaned up after a provider that dies, and
//! nothing is written to disk: a replica that restarts hears it all again within a refresh. Records are hints. Whoever
//! follows one verifies every byte against its hash.

use std::collections::BTreeMap;

use crate::io::Time;
use crate::key::Key;
use crate::member::PeerId;

/// How often a provider announces each content, in milliseconds. Guess: short against a session, and 4,096 shares make
/// two hundred keys a second at most, in a few messages.
pub const REFRESH: u64 = 60_000;
/// How long an announcement counts. Two may be lost.
pub const LIFETIME: u64 = 3 * REFRESH;
/// Providers remembered of one content: more than a fetcher can use.
pub const PER_CONTENT: usize = 64;
/// Records of one peer: 65,536 of about 100 bytes (guess: 6 MiB).
pub const RECORDS: usize = 65_536;
/// Contents in one announcement.
pub const BATCH: usize = 1_024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Providers {
    records: BTreeMap<(Key, PeerId), Time>,
}

impl Providers {
    /// `peer` has `content`. Nothing is kept beyond the bounds.
    pub fn announce(&mut self, content: Key, peer: PeerId, now: Time) {
        let known = self.records.contains_key(&(content, peer));
        let room = self.records.len() < RECORDS && self.records_of(content).count() < PER_CONTENT;
        if known || room {
            self.records.insert((content, peer), now.after(LIFETIME));
        }
    }

    /// `peer` has it no more.
    pub fn withdraw(&mut self, content: Key, peer: PeerId) {
        self.records.remove(&(content, peer));
    }

    /// Forgets what was not refreshed.
    pub fn expire(&mut self, now: Time) {
        self.records.retain(|_, until| *until > now);
    }

    /// Who has it.
    pub fn of(&self, content: Key, now: Time) -> Vec<PeerId> {
        let fresh = self.records_of(content).filter(|(_, until)| *until > now);
        fresh.map(|(peer, _)| peer).collect()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn records_of(&self, content: Key) -> impl Iterator<Item = (PeerId, Time)> {
        let all = (content, PeerId(0))..=(content, PeerId(u128::MAX));
        self.records
            .range(all)
            .map(|((_, peer), until)| (*peer, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_refreshed_expires() {
        let (a, b) = (Key([1; 32]), Key([2; 32]));
        let mut providers = Providers::default();
        providers.announce(a, PeerId(1), Time(0));
        providers.announce(a, PeerId(2), Time(REFRESH));
        providers.announce(b, PeerId(3), Time(0));
        assert_eq!(providers.of(a, Time(REFRESH)), [PeerId(1), PeerId(2)]);
        providers.announce(a, PeerId(1), Time(LIFETIME - 1));
        let later = Time(LIFETIME + REFRESH);
        assert_eq!(providers.of(a, later), [PeerId(1)]);
        providers.expire(later);
        assert_eq!(providers.len(), 1);
        providers.withdraw(a, PeerId(1));
        assert!(providers.is_empty());
    }

    #[test]
    fn a_flood_of_announcements_is_bounded() {
        let mut providers = Providers::default();
        for id in 0..200 {
            providers.announce(Key([7; 32]), PeerId(id), Time(0));
        }
        assert_eq!(providers.len(), PER_CONTENT);
        // Who is known can always refresh.
        providers.announce(Key([7; 32]), PeerId(0), Time(5));
        providers.expire(Time(LIFETIME));
        assert_eq!(providers.of(Key([7; 32]), Time(LIFETIME)), [PeerId(0)]);
    }
}
