//! Membership: the table of all members, and how changes to it spread (SWIM: Das, Gupta, Motivala, 2002).
//!
//! Changes travel on pings and acks (section 4.1). A deviation: tables whose fingerprints differ are exchanged whole, so
//! that a lost rumour does not matter. How failures are noticed is in `probe`.

use std::collections::BTreeMap;

use super::probe::Probe;
use super::{Done, Peer, Timer};
use crate::config::{MEMBERS, RUMOR_FACTOR, RUMORS};
use crate::io::{Endpoint, Output, Time};
use crate::key::Key;
use crate::member::{Drain, LEAP, Liveness, Member, PeerId};
use crate::message::Message;
use crate::reconfigure::Standing;
use crate::store::Store;

/// The table of members and what is being done to keep it true.
pub(super) struct Gossip {
    pub(super) me: PeerId,
    pub(super) members: BTreeMap<PeerId, Member>,
    /// When each member's liveness last changed, by our clock.
    pub(super) since: BTreeMap<PeerId, Time>,
    /// Changes to pass on, with how many times still.
    pub(super) rumors: BTreeMap<PeerId, u32>,
    pub(super) probes: BTreeMap<u64, Probe>,
    /// Who is pinged next, from the end.
    pub(super) order: Vec<PeerId>,
    pub(super) seq: u64,
    /// When who may hold slots last changed.
    pub(super) changed: Time,
    /// Counts changes of who may hold slots.
    pub(super) version: u64,
    pub(super) digest: u64,
    /// What of the digest is each member's, so that a change costs one hash and not one for each of a thousand.
    prints: BTreeMap<PeerId, u64>,
    /// Counts changes of any kind.
    pub(super) news: u64,
    /// When the table of slots was last offered.
    pub(super) offered: Time,
    /// The order under which others said last that this peer is gone.
    pub(super) retired: Drain,
}

impl Gossip {
    pub(super) fn new(me: Member, others: Vec<Member>, now: Time) -> Self {
        let id = me.id;
        let mut members: BTreeMap<PeerId, Member> = others.into_iter().map(|m| (m.id, m)).collect();
        members.insert(id, me);
        let since = members.keys().map(|id| (*id, now)).collect();
        let mut gossip = Gossip {
            me: id,
            members,
            since,
            rumors: BTreeMap::new(),
            probes: BTreeMap::new(),
            order: Vec::new(),
            seq: 0,
            changed: now,
            version: 1,
            digest: 0,
            prints: BTreeMap::new(),
            news: 1,
            offered: Time(0),
            retired: Drain::default(),
        };
        let ids: Vec<PeerId> = gossip.members.keys().copied().collect();
        ids.into_iter().for_each(|id| gossip.print(id));
        gossip
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// When a member's liveness last changed, by our clock.
    pub(super) fn since(&self, id: PeerId) -> Time {
        self.since.get(&id).copied().unwrap_or_default()
    }

    pub(super) fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|m| m.id != self.me)
    }

    /// Members that are part of the ring now, this peer included if it is.
    pub(super) fn present(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|m| m.is_present())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(super) fn in_ring_order(&self) -> Vec<Member> {
        let mut all: Vec<Member> = self.members.values().cloned().collect();
        all.sort_by_key(Member::ring_key);
        all
    }

    pub(super) fn address(&self, id: PeerId) -> Option<String> {
        self.members.get(&id).map(|m| m.address.clone())
    }

    pub(super) fn is_gone(&self, id: PeerId) -> bool {
        self.members.get(&id).is_some_and(Member::is_gone)
    }

    pub(super) fn is_up(&self, id: PeerId) -> bool {
        self.members.get(&id).is_some_and(Member::is_present)
    }

    /// Answered when it was last asked.
    pub(super) fn answers(&self, id: PeerId) -> bool {
        self.members
            .get(&id)
            .is_some_and(|m| m.liveness == Liveness::Active)
    }

    pub(super) fn endpoint(&self, id: PeerId) -> Option<Endpoint> {
        let m = self.members.get(&id)?;
        Some(Endpoint {
            id,
            name: m.name.clone(),
            address: m.address.clone(),
            up: m.is_present(),
        })
    }

    /// What a member may be used for as a replica.
    pub(super) fn standing(&self, id: PeerId) -> Standing {
        match self.members.get(&id) {
            None => Standing::Absent,
            Some(m) if m.is_gone() => Standing::Gone,
            Some(m) if !m.is_present() && m.drain.leaving => Standing::Lost,
            Some(m) if !m.is_present() => Standing::Absent,
            Some(m) if m.drain.leaving => Standing::Leaving,
            Some(_) => Standing::Eligible,
        }
    }

    /// Whether a member should keep the slots it has: present, or away for less than `grace`, and not leaving.
    pub(super) fn is_wanted(&self, m: &Member, now: Time, grace: u64) -> bool {
        let returning = matches!(m.liveness, Liveness::Down)
            || (m.liveness == Liveness::Joining && m.incarnation > 1);
        let recent = self
            .since
            .get(&m.id)
            .is_none_or(|since| since.after(grace) > now);
        !m.drain.leaving && (m.is_present() || (returning && recent))
    }

    /// Takes a member's record as it is now, or that it is forgotten, into the digest.
    pub(super) fn print(&mut self, id: PeerId) {
        let before = match self.members.get(&id).map(fingerprint) {
            Some(print) => {
                self.digest ^= print;
                self.prints.insert(id, print)
            }
            None => self.prints.remove(&id),
        };
        self.digest ^= before.unwrap_or(0);
    }

    /// Notes that a member's record has changed from `before`.
    fn note(&mut self, id: PeerId, before: Option<(Liveness, bool)>, now: Time) {
        let passes = RUMOR_FACTOR * (self.members.len() as u32 + 1).ilog2().max(1);
        self.rumors.insert(id, passes);
        self.print(id);
        debug_assert_eq!(
            self.digest,
            self.members
                .values()
                .map(fingerprint)
                .fold(0, |sum, m| sum ^ m),
            "a record was changed without a note"
        );
        self.news += 1;
        let m = &self.members[&id];
        let after = (m.liveness, m.drain.leaving);
        if before.map(|b| b.0) != Some(after.0) {
            // A restart does not prolong the grace of one that was away already.
            let away = |l| matches!(l, Liveness::Down | Liveness::Joining);
            if !(before.is_some_and(|b| away(b.0)) && away(after.0)) {
                self.since.insert(id, now);
            }
        }
        let holds = |l: Liveness| matches!(l, Liveness::Active | Liveness::Suspect);
        if before.is_none_or(|b| holds(b.0) != holds(after.0) || b.1 != after.1) {
            self.changed = now;
            self.version += 1;
        }
    }

    pub(super) fn take_rumors(&mut self) -> Vec<Member> {
        let ids: Vec<PeerId> = self.rumors.keys().copied().take(RUMORS).collect();
        for id in &ids {
            if let Some(left) = self.rumors.get_mut(id) {
                *left -= 1;
                if *left == 0 {
                    self.rumors.remove(id);
                }
            }
        }
        ids.iter()
            .filter_map(|id| self.members.get(id).cloned())
            .collect()
    }
}

/// 64 bits of BLAKE3 over what matters of a record.
fn fingerprint(m: &Member) -> u64 {
    let mut h = blake3::Hasher::new();
    h.update(&m.id.0.to_be_bytes())
        .update(&m.incarnation.to_be_bytes());
    h.update(&[m.liveness as u8, m.drain.leaving.into()])
        .update(&m.drain.epoch.to_be_bytes());
    Key::of(&h).number()
}

/// Whether what is told of a member may be true. Incarnations and orders count up one by one, and whoever was told of one
/// at the end of the range could go no further: its refutation would be refused, and its volume with it.
fn is_credible(known: Option<&Member>, told: &Member) -> bool {
    let (incarnation, order) = known.map_or((0, 0), |m| (m.incarnation, m.drain.epoch));
    let furthest = if known.is_some() { LEAP } else { LEAP << 10 };
    told.incarnation <= incarnation + furthest && told.drain.epoch <= order + furthest
}

impl<S: Store> Peer<S> {
    /// Takes in what another peer says of members.
    pub(super) fn learn(&mut self, members: Vec<Member>) -> Done {
        for member in members {
            if member.id == self.me {
                self.hear_of_myself(member)?;
                continue;
            }
            let known = self.gossip.members.get(&member.id);
            let before = known.map(|m| (m.liveness, m.drain.leaving));
            // Far more than are let in: who is known to some has to be known to all.
            let is_full = known.is_none() && self.gossip.members.len() >= 2 * MEMBERS;
            if is_full || !is_credible(known, &member) {
                continue;
            }
            let changed = match self.gossip.members.get_mut(&member.id) {
                Some(known) => known.merge(&member),
                None => {
                    self.gossip.members.insert(member.id, member.clone());
                    true
                }
            };
            if changed {
                self.changed_member(member.id, before)?;
            }
        }
        Ok(())
    }

    pub(super) fn changed_member(&mut self, id: PeerId, before: Option<(Liveness, bool)>) -> Done {
        self.gossip.note(id, before, self.now);
        let member = self.gossip.members[&id].clone();
        let suspect = member.liveness == Liveness::Suspect;
        if suspect {
            self.schedule(
                self.settings.suspicion,
                Timer::Suspicion(id, member.incarnation),
            );
        }
        // A suspicion is not remembered, but an order to leave or to stay that comes with one is.
        let ordered = before.is_none_or(|b| b.1 != member.drain.leaving);
        if id != self.me && (!suspect || ordered) {
            let liveness = match suspect {
                true => Liveness::Active,
                false => member.liveness,
            };
            let remembered = Member {
                liveness,
                ..member.clone()
            };
            self.store.put_member(&remembered)?;
        }
        if id != self.me
            && member.is_present()
            && !before.is_some_and(|b| matches!(b.0, Liveness::Active | Liveness::Suspect))
        {
            self.on_peer_back(id);
        }
        match member.is_gone().then(|| self.gossip.forget_one_gone()) {
            Some(Some(id)) => self.store.remove_member(id),
            _ => Ok(()),
        }
    }

    /// Changes our own record and passes it on.
    fn change_myself(&mut self, change: impl FnOnce(&mut Member)) -> Done {
        let me = self
            .gossip
            .members
            .get_mut(&self.me)
            .expect("this peer is in its own table");
        let before = (me.liveness, me.drain.leaving);
        let incarnation = me.incarnation;
        change(me);
        if me.incarnation != incarnation {
            self.raised = self.now;
        }
        self.gossip.note(self.me, Some(before), self.now);
        self.persist_identity()
    }

    pub(super) fn raise_incarnation(&mut self) -> Done {
        self.change_myself(|m| m.incarnation += 1)
    }

    fn hear_of_myself(&mut self, told: Member) -> Done {
        let me = self.myself().clone();
        if !is_credible(Some(&me), &told) {
            return Ok(());
        }
        if told.liveness == Liveness::Left {
            return self.leave_for_good();
        }
        if told.drain.epoch > me.drain.epoch {
            self.obey(told.drain)?;
        }
        if told.liveness == Liveness::Retired {
            self.gossip.retired = told.drain;
            if self.gossip.am_retired() {
                return Ok(());
            }
        }
        // Suspected, believed down or gone, or an echo of a life before a lost volume: refute (SWIM, section 4.2).
        if told.incarnation > me.incarnation
            || (told.incarnation == me.incarnation && told.liveness > me.liveness)
        {
            self.change_myself(|m| m.incarnation = told.incarnation + 1)?;
        }
        Ok(())
    }

    /// Takes an order to leave or to stay. Who stays after all is ready again when it has its slots back.
    fn obey(&mut self, order: Drain) -> Done {
        let stays = self.myself().drain.leaving && !order.leaving;
        self.caught_up &= !stays;
        self.change_myself(|m| m.drain = order)
    }

    /// We are part of the ring from now on.
    pub(super) fn set_active(&mut self) -> Done {
        if self.myself().liveness == Liveness::Joining {
            self.change_myself(|m| m.liveness = Liveness::Active)?;
            self.introduce();
        }
        Ok(())
    }

    /// This identity is gone: durable first, then everyone hears of it.
    pub(super) fn leave_for_good(&mut self) -> Done {
        self.change_myself(|m| m.liveness = Liveness::Left)?;
        self.introduce();
        self.give_up_operations();
        self.out.push(Output::Left);
        Ok(())
    }

    /// Tells everyone about us at once.
    fn introduce(&mut self) {
        let message = Message::Members {
            members: vec![self.myself().clone()],
            reply: false,
        };
        let to: Vec<PeerId> = self
            .gossip
            .others()
            .filter(|m| !m.is_gone())
            .map(|m| m.id)
            .collect();
        self.send_all(&to, &message);
    }

    pub(super) fn on_seeds(&mut self, addresses: Vec<String>) {
        let mine = self.myself().clone();
        let known: Vec<String> = self
            .gossip
            .others()
            .filter(|m| m.is_present())
            .map(|m| m.address.clone())
            .collect();
        for address in addresses {
            if address != mine.address && !known.contains(&address) {
                let message = Message::Hello {
                    member: mine.clone(),
                };
                self.out.push(Output::Send {
                    address,
                    message,
                    early: false,
                });
            }
        }
    }

    pub(super) fn on_hello(&mut self, from: PeerId, member: Member) -> Done {
        if member.id != from {
            return Ok(());
        }
        let is_new = !self.gossip.members.contains_key(&from);
        if is_new && self.gossip.members.len() >= MEMBERS {
            return Ok(());
        }
        let address = member.address.clone();
        self.learn(vec![member])?;
        let members = self.gossip.members.values().cloned().collect();
        self.out.push(Output::Send {
            address,
            message: Message::Members {
                members,
                reply: false,
            },
            early: false,
        });
        self.try_join()
    }

    pub(super) fn on_members(&mut self, from: PeerId, members: Vec<Member>, reply: bool) -> Done {
        let gone = |m: &Member| m.id == self.me && m.liveness == Liveness::Retired;
        let retired = members.iter().any(gone);
        self.learn(members)?;
        if retired && !self.has_left() {
            self.answer_retirement(from);
        }
        if reply {
            let members = self.gossip.members.values().cloned().collect();
            self.send(
                from,
                Message::Members {
                    members,
                    reply: false,
                },
            );
        }
        self.try_join()
    }

    /// Changes what we think of another member, at its present incarnation.
    pub(super) fn believe(&mut self, id: PeerId, liveness: Liveness) -> Done {
        let Some(m) = self.gossip.members.get_mut(&id) else {
            return Ok(());
        };
        let before = (m.liveness, m.drain.leaving);
        m.liveness = liveness;
        self.changed_member(id, Some(before))
    }

    /// An operator's orders to leave, or to stay after all.
    pub(super) fn on_drain_orders(&mut self, orders: Vec<(PeerId, u64, bool)>) -> Done {
        for (id, epoch, leaving) in orders {
            let Some(m) = self.gossip.members.get_mut(&id) else {
                continue;
            };
            if epoch <= m.drain.epoch {
                continue;
            }
            let order = Drain { epoch, leaving };
            if id == self.me {
                self.obey(order)?;
            } else {
                let before = (m.liveness, m.drain.leaving);
                m.order(order);
                self.changed_member(id, Some(before))?;
            }
            // All must know before slots move; do not wait for the rumour to spread.
            let message = Message::Members {
                members: self.gossip.get(id).cloned().into_iter().collect(),
                reply: false,
            };
            let to: Vec<PeerId> = self
                .gossip
                .others()
                .filter(|m| m.is_present())
                .map(|m| m.id)
                .collect();
            self.send_all(&to, &message);
        }
        Ok(())
    }
}
