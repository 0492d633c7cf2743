//! Members that are gone: who says so, what they may still say, how many of them are remembered.
//!
//! A peer that leaves says so itself, for good. One that died while it was to leave is *retired* by those who see most of
//! the peers that stay, under the order they know of; see [`Liveness`] and [`crate::slot::handover::may_leave`].

use super::gossip::Gossip;
use super::{Done, Peer};
use crate::io::Output;
use crate::member::{Drain, Liveness, Member, PeerId};
use crate::message::Message;
use crate::quorum::majority;
use crate::store::{Store, StoreError};

/// Identities remembered as gone, so that a whole table still fits a message. The same ones everywhere, else tables would
/// never be equal. It is safe to forget: a volume that was told that it has left begins anew by itself, and one that was not comes
/// back as a peer that holds old copies, of slots whose newer configurations do not name it, under versions that are
/// outbid (the model of leaves brings such volumes back).
const GONE: usize = 256;

impl Gossip {
    /// Whether a majority of the members that are not to leave is here.
    fn sees_most_of_those_who_stay(&self) -> bool {
        let stays = |m: &&Member| !m.is_gone() && !m.drain.leaving;
        let all = self.members.values().filter(stays);
        let here = all.clone().filter(|m| m.is_present());
        here.count() >= majority(all.count())
    }

    /// Whether others have said that this peer is gone, and knew its newest order.
    pub(super) fn am_retired(&self) -> bool {
        self.retired.leaving && self.retired == self.members[&self.me].drain
    }

    /// Forgets one that is gone, if there are too many; the least in an order on which all agree.
    pub(super) fn forget_one_gone(&mut self) -> Option<PeerId> {
        let gone = || self.others().filter(|m| m.is_gone());
        if gone().count() <= GONE {
            return None;
        }
        let id = gone().min_by_key(|m| (m.drain, m.id))?.id;
        self.members.remove(&id);
        self.since.remove(&id);
        self.rumors.remove(&id);
        self.print(id);
        Some(id)
    }
}

impl<S: Store> Peer<S> {
    /// What a departed identity still says counts if it has a newer order than those who retired it, asks what has
    /// become of the slots, or tells of configurations: whoever tells of them, they were decided. Whether to listen.
    pub(super) fn hear_departed(
        &mut self,
        from: PeerId,
        message: &Message,
    ) -> Result<bool, StoreError> {
        let said = match message {
            Message::Hello { member } => std::slice::from_ref(member),
            Message::Members { members, .. } => members,
            Message::SlotEpochs { .. } | Message::Commit { .. } => {
                let known = self.gossip.get(from);
                return Ok(known.is_some_and(|m| m.liveness == Liveness::Retired));
            }
            _ => return Ok(false),
        };
        if let Some(own) = said.iter().find(|m| m.id == from) {
            self.learn(vec![own.clone()])?;
        }
        Ok(!self.gossip.is_gone(from))
    }

    /// Somebody thinks that we are gone. It hears of the order that it has missed; or, if it has missed none, is asked
    /// what has become of the slots: this peer goes once no configuration that it knows of names it.
    pub(super) fn answer_retirement(&mut self, from: PeerId) {
        if !self.gossip.am_retired() {
            let members = vec![self.myself().clone()];
            let message = Message::Members {
                members,
                reply: false,
            };
            self.send(from, message);
        } else {
            self.offer_slots(from);
        }
    }

    /// A departed identity still talks: it hears from us that it has left. Not in answer to a table: who counts us as gone
    /// answers with one in turn, and that must not go on for ever.
    pub(super) fn tell_departed(&mut self, from: PeerId, message: &Message) {
        if matches!(message, Message::Members { .. }) {
            return;
        }
        let record = self.gossip.members.get(&from).cloned();
        let address = match message {
            Message::Hello { member } => Some(member.address.clone()),
            _ => self.gossip.address(from),
        };
        if let (Some(record), Some(address)) = (record, address) {
            let message = Message::Members {
                members: vec![record],
                reply: false,
            };
            self.out.push(Output::Send {
                address,
                message,
                early: false,
            });
        }
    }

    /// A dead leaver that no slot names any more is retired: its old volume must never bring back the past.
    ///
    /// Not said by the smaller side of a partition: on the other the order may have been taken back, and slots given to
    /// the leaver again. Nor is it final: who says so may have missed that all the same.
    pub(super) fn retire_drained_dead(&mut self) -> Done {
        if !self.gossip.sees_most_of_those_who_stay() {
            return Ok(());
        }
        let gone: Vec<PeerId> = self
            .gossip
            .others()
            .filter(|m| m.liveness == Liveness::Down && m.drain.leaving)
            .map(|m| m.id)
            .filter(|id| self.slots.all_known() && !self.slots.names(*id))
            .collect();
        gone.into_iter()
            .try_for_each(|id| self.believe(id, Liveness::Retired))
    }

    /// Who retired it knew too little: a slot names it still, and may need it. Its order is renewed, as a retirement holds
    /// under the order that those who said it knew of; whoever knows no better retires it again, until it does.
    pub(super) fn readmit_needed(&mut self) -> Done {
        let retired = |m: &&Member| m.liveness == Liveness::Retired && self.slots.names(m.id);
        let retired = self.gossip.others().filter(retired);
        let needed: Vec<(PeerId, Drain)> = retired.map(|m| (m.id, m.drain)).collect();
        let renewed = needed.into_iter().map(|(id, order)| {
            let epoch = order.epoch + 1;
            (id, epoch, order.leaving)
        });
        self.on_drain_orders(renewed.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MEMBERS, Settings};
    use crate::io::{Input, Time};
    use crate::key::Slot;
    use crate::member::tests::member;
    use crate::peer::names::tests::alone;
    use crate::slot::{SlotConfig, SlotRecord};
    use crate::store::Identity;
    use crate::store::memory::MemoryStore;

    fn seen_by_the_first(others: &[(Liveness, bool)]) -> bool {
        let others = (2..).zip(others).map(|(n, (liveness, leaving))| Member {
            liveness: *liveness,
            drain: Drain {
                epoch: 1,
                leaving: *leaving,
            },
            ..member(n)
        });
        Gossip::new(member(1), others.collect(), Time(0)).sees_most_of_those_who_stay()
    }

    #[test]
    fn the_smaller_side_of_a_partition_declares_nobody_gone() {
        use Liveness::{Active, Down, Left};
        let (here, away) = ((Active, false), (Down, false));
        assert!(!seen_by_the_first(&[away, away, away, (Down, true)]));
        assert!(!seen_by_the_first(&[here, away, away]));
        assert!(seen_by_the_first(&[here, here, away, away]));
        // Leavers that died at once do not count, however many.
        let dead = (Down, true);
        assert!(seen_by_the_first(&[
            here,
            away,
            dead,
            dead,
            dead,
            dead,
            (Left, false)
        ]));
    }

    /// The first of two members, in whose eyes the second has been retired, while these are the replicas of one slot.
    fn with_retired(replicas: &[u128]) -> Peer<MemoryStore> {
        let mut store = MemoryStore::default();
        let identity = Identity {
            network: "n".into(),
            member: member(1),
        };
        let retired = Member {
            liveness: Liveness::Retired,
            drain: order(4),
            ..member(2)
        };
        store.put_identity(&identity).unwrap();
        store.put_member(&retired).unwrap();
        let config = SlotConfig {
            epoch: 1,
            replicas: replicas.iter().copied().map(PeerId).collect(),
            next: None,
        };
        let slot = Slot::new(7).unwrap();
        store.put_slot(slot, &SlotRecord::of(config)).unwrap();
        store.commit().unwrap();
        Peer::start(store, identity, false, Settings::default(), 1, Time(0)).unwrap()
    }

    fn order(epoch: u64) -> Drain {
        let leaving = true;
        Drain { epoch, leaving }
    }

    #[test]
    fn who_was_retired_while_a_slot_names_it_is_so_no_more() {
        let known = |peer: &Peer<MemoryStore>| {
            let second = peer.gossip.get(PeerId(2)).unwrap();
            (second.liveness, second.drain)
        };
        let mut gone = with_retired(&[1, 3]);
        gone.housekeep().unwrap();
        assert_eq!(known(&gone), (Liveness::Retired, order(4)));
        let mut needed = with_retired(&[1, 2]);
        let said = needed.gossip.get(PeerId(2)).unwrap().clone();
        needed.housekeep().unwrap();
        assert_eq!(known(&needed), (Liveness::Down, order(5)));
        // Who has not heard of the new order says so again.
        needed.learn(vec![said]).unwrap();
        assert_eq!(known(&needed), (Liveness::Down, order(5)));
    }

    #[test]
    fn who_was_retired_by_those_that_had_missed_its_slots_tells_them() {
        let mut peer = with_retired(&[1, 3]);
        let mut hear = |message| {
            let mut out = Vec::new();
            let from = PeerId(2);
            peer.handle(Input::Message { from, message }, Time(1_000), &mut out)
                .unwrap();
            out
        };
        let asks = |out: &[Output]| {
            let is = |o: &&Output| {
                matches!(
                    o,
                    Output::Send {
                        message: Message::SlotEpochs { .. },
                        ..
                    }
                )
            };
            out.iter().filter(is).count()
        };
        let epochs = |newest| {
            let mut epochs = vec![0; Slot::all().count()];
            epochs[7] = newest;
            Message::SlotEpochs { epochs }
        };
        assert_eq!(asks(&hear(epochs(1))), 0, "it knows nothing newer");
        assert_eq!(asks(&hear(epochs(2))), 1);
        let config = SlotConfig {
            epoch: 2,
            replicas: vec![PeerId(2), PeerId(3)],
            next: None,
        };
        let configs = vec![(Slot::new(7).unwrap(), config)];
        hear(Message::Commit { configs });
        peer.housekeep().unwrap();
        let second = peer.gossip.get(PeerId(2)).unwrap();
        assert_eq!((second.liveness, second.drain), (Liveness::Down, order(5)));
    }

    #[test]
    fn two_that_count_each_other_as_gone_do_not_tell_each_other_so_for_ever() {
        let mut peer = with_retired(&[1, 3]);
        let said_to = |peer: &mut Peer<MemoryStore>, message| {
            let mut out = Vec::new();
            let from = PeerId(2);
            peer.handle(Input::Message { from, message }, Time(1_000), &mut out)
                .unwrap();
            out.iter()
                .filter(|o| matches!(o, Output::Send { .. }))
                .count()
        };
        assert_eq!(said_to(&mut peer, Message::RingNotify), 1);
        let members = vec![Member {
            liveness: Liveness::Left,
            ..member(1)
        }];
        let table = Message::Members {
            members: vec![member(3)],
            reply: false,
        };
        assert_eq!(said_to(&mut peer, table), 0);
        let of_us = Message::Members {
            members,
            reply: false,
        };
        assert_eq!(said_to(&mut peer, of_us), 0);
    }

    #[test]
    fn nobody_is_pushed_to_the_end_of_its_numbers() {
        let mut peer = with_retired(&[1, 3]);
        let most = i64::MAX as u64;
        let told = |id, change: fn(&mut Member, u64)| {
            let mut told = member(id);
            change(&mut told, most);
            told
        };
        for id in [1, 2, 3] {
            let lies = vec![
                told(id, |m, most| m.incarnation = most),
                told(id, |m, most| m.drain.epoch = most),
            ];
            peer.learn(lies).unwrap();
        }
        assert_eq!(peer.myself().incarnation, member(1).incarnation);
        assert_eq!(peer.gossip.get(PeerId(2)).unwrap().drain, order(4));
        assert_eq!(peer.gossip.get(PeerId(3)), None);
        // One that has been away for long is believed.
        let back = told(2, |m, _| m.incarnation = 1_000);
        peer.learn(vec![back]).unwrap();
        assert_eq!(peer.gossip.get(PeerId(2)).unwrap().incarnation, 1_000);
    }

    #[test]
    fn more_members_than_a_message_holds_are_not_taken_in() {
        let mut peer = alone();
        let fill = |peer: &mut Peer<MemoryStore>, until: usize| {
            for n in 2..=until as u128 {
                peer.gossip.members.insert(PeerId(n), member(n));
                peer.gossip.print(PeerId(n));
            }
        };
        let strange = member(1 << 64);
        fill(&mut peer, MEMBERS);
        peer.on_hello(strange.id, strange.clone()).unwrap();
        assert_eq!(peer.gossip.members.len(), MEMBERS, "nobody is let in");
        fill(&mut peer, 2 * MEMBERS);
        let known = Member {
            incarnation: 2,
            ..member(2)
        };
        peer.learn(vec![strange, known]).unwrap();
        assert_eq!(peer.gossip.members.len(), 2 * MEMBERS);
        assert_eq!(peer.gossip.get(PeerId(2)).unwrap().incarnation, 2);
    }

    #[test]
    fn all_remember_the_same_of_those_that_are_gone() {
        let gone = |n: u128| Member {
            liveness: if n.is_multiple_of(3) {
                Liveness::Left
            } else {
                Liveness::Retired
            },
            drain: Drain {
                epoch: (n % 7) as u64,
                leaving: true,
            },
            ..member(n)
        };
        let after = |order: Vec<u128>| {
            let mut gossip = Gossip::new(member(1), vec![member(2), member(3)], Time(0));
            for n in order {
                gossip.members.insert(PeerId(n), gone(n));
                gossip.print(PeerId(n));
                gossip.forget_one_gone();
            }
            gossip.members
        };
        let end = 10 + 2 * GONE as u128;
        let members = after((10..end).collect());
        assert_eq!(members.len(), 3 + GONE);
        assert_eq!(members, after((10..end).rev().collect()));
        assert!(
            members.contains_key(&PeerId(3)),
            "who stays is not forgotten"
        );
    }
}
