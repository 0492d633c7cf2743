//! The state machine of one peer: inputs in, outputs out.
//!
//! [`Peer::handle`] is a dispatcher, with `dispatch` for messages and requests; each concern has its room below this module:
//! `gossip`, `departed`, `probe` and `hints` (membership and failure detection), `chord` (the ring), `slots` (the table of configurations), `moves`
//! (proposing and deciding configurations), `names` (registers), `listing`, `sync` and `chunks` (catch-up and anti-entropy),
//! `collect` (giving back what no file refers to), `outbox` (effects of writes), `index` and `search` (keywords),
//! `handover` (receipts and leaving), `recovery` (majorities that are gone for good), `flood` (shared files), `report`
//! (what it says of itself).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::chord::Chord;
use crate::config::{SUCCESSORS, Settings};
use crate::io::{Answer, Input, Output, RequestId, Time};
use crate::member::{Liveness, Member, PeerId};
use crate::message::Message;
use crate::store::{Identity, Store, StoreError};

mod chord;
mod chunks;
mod collect;
mod departed;
mod dispatch;
mod flood;
mod gossip;
mod handover;
mod hints;
mod index;
mod listing;
mod moves;
mod names;
mod outbox;
mod probe;
mod recovery;
mod report;
mod search;
mod slots;
mod sync;

type Done = Result<(), StoreError>;

/// Numbers of operations under one incarnation; those above it are for searches among shared files.
const OPS: u64 = 1 << 31;

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    /// Start a probe (SWIM's protocol period).
    Ping,
    /// No direct answer to this probe yet.
    PingTimeout(u64),
    /// No answer at all to this probe.
    PingFailed(u64),
    /// The suspect of this incarnation did not refute.
    Suspicion(PeerId, u64),
    /// Chord's stabilise.
    Stabilise,
    /// Propose slot configurations, start synchronisations, send what is collected.
    Drive,
    /// Look after what rarely happens.
    Housekeeping,
    /// A client's operation waits too long for answers.
    Operation(u64),
    /// A search among shared files waits too long for answers.
    Search(u64),
}

/// One peer of the network.
pub struct Peer<S> {
    store: S,
    settings: Settings,
    network: String,
    me: PeerId,
    /// Seed of all randomness.
    rng: fastrand::Rng,
    now: Time,
    timers: BTreeSet<(Time, Timer)>,
    out: Vec<Output>,
    /// Messages to ourselves, handled before the input ends.
    loopback: VecDeque<Message>,
    gossip: gossip::Gossip,
    chord: Chord,
    /// When the open question of `chord` was asked.
    chord_asked: Time,
    slots: slots::Slots,
    moves: moves::Moves,
    names: names::Names,
    outbox: outbox::Outbox,
    index: index::Index,
    lists: BTreeMap<u64, listing::Listing>,
    next_op: u64,
    /// When this peer's incarnation was raised last; as of later inputs it is on the volume.
    raised: Time,
    sync: sync::Sync,
    handover: handover::Handover,
    flood: flood::Room,
    collect: collect::Collect,
    /// No room for new files.
    disk_full: bool,
    /// Caught up once since the start; see [`crate::io::Status::ready`].
    caught_up: bool,
    /// See [`Peer::set_forgetful`].
    forgetful: bool,
}

impl<S: Store> Peer<S> {
    /// A peer that [`crate::boot::boot`] has prepared. `found`: the volume was empty and this peer founds the ring; a
    /// volume that remembers slots or members ignores it. `seed` is the source of all its randomness.
    pub fn start(
        store: S,
        identity: Identity,
        found: bool,
        settings: Settings,
        seed: u64,
        now: Time,
    ) -> Result<Self, StoreError> {
        let remembered = store.remembered()?;
        let fresh = remembered.members.is_empty() && remembered.slots.is_empty();
        let me = identity.member.id;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut peer = Peer {
            store,
            settings,
            network: identity.network,
            me,
            flood: flood::Room::new(&identity.member, rng.u64(..)),
            rng,
            now,
            timers: BTreeSet::new(),
            out: Vec::new(),
            loopback: VecDeque::new(),
            gossip: gossip::Gossip::new(identity.member, remembered.members, now),
            chord: Chord::new(SUCCESSORS),
            chord_asked: now,
            slots: slots::Slots::new(me, remembered.slots),
            moves: moves::Moves::default(),
            names: names::Names::default(),
            outbox: outbox::Outbox::default(),
            index: index::Index::default(),
            lists: BTreeMap::new(),
            next_op: 0,
            raised: now,
            sync: sync::Sync::new(),
            handover: handover::Handover::default(),
            collect: collect::Collect::new(now),
            disk_full: false,
            caught_up: false,
            forgetful: false,
        };
        if found && fresh {
            peer.found()?;
        } else if !fresh && peer.gossip.others().next().is_none() {
            // The only member there ever was.
            peer.set_active()?;
        }
        peer.resume_sync();
        peer.resume_outbox()?;
        for timer in [
            Timer::Ping,
            Timer::Stabilise,
            Timer::Drive,
            Timer::Housekeeping,
        ] {
            let delay = peer.rng.u64(1..=peer.settings.ping_period);
            peer.schedule(delay, timer);
        }
        peer.store.commit()?;
        Ok(peer)
    }

    /// Handles one input and appends what is to be done to `out`. The driver may hand in several inputs, all with the same
    /// time, then commits the [`Peer::store`] once and only then performs the outputs, but for messages that may go early:
    /// these may be performed once the last of the inputs was handed in, since what is proposed on the strength of an answer
    /// rests on what the question rested on, this peer's own promise.
    pub fn handle(
        &mut self,
        input: Input,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        self.now = self.now.max(now);
        if self.has_left() {
            self.handle_after_left(input)?;
        } else {
            match input {
                Input::Timer => self.fire_timers()?,
                Input::Message { from, message } => self.on_message(from, message)?,
                Input::Seeds(addresses) => self.on_seeds(addresses),
                Input::DiskFull(full) => self.disk_full = full,
                Input::FoundIfAlone => self.found_if_alone()?,
                Input::Request { id, request } => self.on_request(id, request)?,
                Input::ChunkFetched { key, len } => self.on_chunk_fetched(key, len)?,
                Input::ChunkMissed { key } => self.on_chunk_missed(key)?,
            }
            loop {
                if let Some(message) = self.loopback.pop_front() {
                    if !(self.forgetful && message.asks()) {
                        self.on_message(self.me, message)?;
                    }
                } else if let Some(key) = self.names.freed.pop() {
                    self.lead_next(key)?;
                } else {
                    break;
                }
            }
        }
        out.append(&mut self.out);
        Ok(())
    }

    /// When [`Input::Timer`] is due.
    pub fn next_deadline(&self) -> Time {
        self.timers.first().map_or(Time(u64::MAX), |(at, _)| *at)
    }

    /// Whether this peer may have forgotten what it acknowledged. While it may, its own word on names counts nowhere: it does
    /// not lead, and what it claims needs a majority of others. What others ask of it the driver keeps away.
    pub fn set_forgetful(&mut self, forgetful: bool) {
        self.forgetful = forgetful;
    }

    /// Who this peer is.
    pub fn id(&self) -> PeerId {
        self.me
    }

    /// Grows with each change of any member's record.
    pub fn news(&self) -> u64 {
        self.gossip.news
    }

    /// Grows with each change of what [`crate::io::Route`]s are made of: a member's record or a slot's configuration.
    /// At least 1.
    pub fn routes_version(&self) -> u64 {
        // Both only grow, so that their sum stays the same only if both do.
        self.gossip.news + self.slots.version()
    }

    /// The peer's memory.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// Takes the peer apart; its memory may be started again.
    pub fn into_store(self) -> S {
        self.store
    }

    fn fire_timers(&mut self) -> Done {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= self.now
        {
            self.timers.pop_first();
            match timer {
                Timer::Ping => self.on_ping_timer(),
                Timer::PingTimeout(seq) => self.on_ping_timeout(seq),
                Timer::PingFailed(seq) => self.on_ping_failed(seq)?,
                Timer::Suspicion(id, incarnation) => self.on_suspicion(id, incarnation)?,
                Timer::Stabilise => self.on_stabilise_timer()?,
                Timer::Drive => {
                    self.drive_moves()?;
                    self.drive_sync()?;
                    self.drive_outbox()?;
                    self.drive_index()?;
                    self.drive_handover()?;
                    self.tell_released();
                    self.schedule(self.settings.drive_period, Timer::Drive);
                }
                Timer::Housekeeping => {
                    self.housekeep()?;
                    self.schedule(1_000, Timer::Housekeeping);
                }
                Timer::Operation(op) => self.on_operation_timer(op)?,
                Timer::Search(op) => self.on_search_timer(op),
            }
        }
        Ok(())
    }

    fn housekeep(&mut self) -> Done {
        self.retire_drained_dead()?;
        self.readmit_needed()?;
        self.schedule_anti_entropy();
        self.ask_owners()?;
        self.refresh_shares();
        self.drive_collection()?;
        self.renew_numbers()?;
        self.note_caught_up();
        Ok(())
    }

    fn schedule(&mut self, delay: u64, timer: Timer) {
        self.timers.insert((self.now.after(delay), timer));
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        self.out.push(Output::Answer { id, answer });
    }

    fn send(&mut self, to: PeerId, message: Message) {
        if to == self.me {
            self.loopback.push_back(message);
        } else if let Some(address) = self.gossip.address(to) {
            // Others must not hear of a number under an incarnation that this peer may forget.
            let early = message.asks() && self.raised < self.now;
            self.out.push(Output::Send {
                address,
                message,
                early,
            });
        }
    }

    fn send_all(&mut self, to: &[PeerId], message: &Message) {
        for id in to {
            self.send(*id, message.clone());
        }
    }

    fn myself(&self) -> &Member {
        self.gossip
            .get(self.me)
            .expect("this peer is in its own table")
    }

    fn has_left(&self) -> bool {
        self.myself().liveness == Liveness::Left
    }

    fn persist_identity(&mut self) -> Done {
        let identity = Identity {
            network: self.network.clone(),
            member: self.myself().clone(),
        };
        self.store.put_identity(&identity)
    }

    /// Unique across restarts, as the incarnation is raised at each, and before the numbers under one run out.
    fn fresh_op(&mut self) -> u64 {
        self.next_op += 1;
        debug_assert!(self.next_op < OPS);
        (self.myself().incarnation << 32) | self.next_op
    }

    /// Begins a new incarnation when half of the numbers of operations under this one are used: no second has as many as
    /// are left. It is on the volume before anybody hears of a number under it.
    fn renew_numbers(&mut self) -> Done {
        if self.next_op < OPS / 2 {
            return Ok(());
        }
        self.next_op = 0;
        self.raise_incarnation()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::tests::member;
    use crate::store::memory::MemoryStore;

    #[test]
    fn numbers_of_operations_never_come_again() {
        let identity = Identity {
            network: "n".into(),
            member: member(1),
        };
        let settings = Settings::default();
        let store = MemoryStore::default();
        let mut peer = Peer::start(store, identity, true, settings, 7, Time(0)).unwrap();
        peer.next_op = OPS / 2 - 1;
        let first = peer.fresh_op();
        let (mut last, before) = (peer.fresh_op(), peer.myself().incarnation);
        assert!(first < last);
        peer.handle(Input::Timer, Time(2_000), &mut Vec::new())
            .unwrap();
        let incarnation = peer.myself().incarnation;
        assert!(before < incarnation);
        let stored = peer.store.identity().unwrap().unwrap().member;
        assert_eq!(stored.incarnation, incarnation, "known to the volume first");
        for _ in 0..3 {
            let next = peer.fresh_op();
            assert!(last < next);
            last = next;
        }
        assert!(peer.next_op < OPS / 4);
    }
}
