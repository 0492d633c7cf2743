//! The state machine of one peer: inputs in, outputs out.
//!
//! [`Peer::handle`] is a dispatcher; each concern has its room below this module:
//! `gossip`, `probe` and `hints` (membership and failure detection), `chord` (the ring), `slots` (the table of configurations), `moves`
//! (proposing and deciding configurations), `names` (registers), `listing`, `sync` and `chunks` (catch-up and anti-entropy),
//! `collect` (giving back what no file refers to), `outbox` (effects of writes), `index` and `search` (keywords),
//! `handover` (receipts and leaving), `recovery` (majorities that are gone for good), `flood` (shared files), `report`
//! (what it says of itself).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::chord::Chord;
use crate::config::{SUCCESSORS, Settings};
use crate::io::{Answer, Input, Output, Request, RequestId, Time};
use crate::member::{Liveness, Member, PeerId};
use crate::message::Message;
use crate::store::{Identity, Store, StoreError};

mod chord;
mod chunks;
mod collect;
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
    sync: sync::Sync,
    handover: handover::Handover,
    flood: flood::Room,
    collect: collect::Collect,
    /// No room for new files.
    disk_full: bool,
    /// Caught up once since the start; see [`crate::io::Status::ready`].
    caught_up: bool,
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
            sync: sync::Sync::default(),
            handover: handover::Handover::default(),
            collect: collect::Collect::new(now),
            disk_full: false,
            caught_up: false,
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

    /// Handles one input and appends what is to be done to `out`. The driver may hand in several inputs, then commits
    /// the [`Peer::store`] once and only then performs the outputs.
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
                    self.on_message(self.me, message)?;
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

    /// Who this peer is.
    pub fn id(&self) -> PeerId {
        self.me
    }

    /// Grows with each change of any member's record.
    pub fn news(&self) -> u64 {
        self.gossip.news
    }

    /// The peer's memory.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// Takes the peer apart; its memory may be started again.
    pub fn into_store(self) -> S {
        self.store
    }

    fn on_message(&mut self, from: PeerId, message: Message) -> Done {
        if self.gossip.is_gone(from) && !self.hear_departed(from, &message)? {
            // A departed identity says nothing; it is told that it has left.
            self.tell_departed(from, &message);
            return Ok(());
        }
        match message {
            Message::Hello { member } => self.on_hello(from, member),
            Message::Members { members, reply } => self.on_members(from, members, reply),
            Message::Ping {
                seq,
                target,
                rumors,
                digest,
            } => self.on_ping(from, seq, target, rumors, digest),
            Message::Ack {
                seq,
                rumors,
                digest,
            } => self.on_ack(from, seq, rumors, digest),
            Message::PingReq { seq, target } => {
                self.on_ping_req(from, seq, target);
                Ok(())
            }
            Message::RingQuery { seq } => {
                self.on_ring_query(from, seq);
                Ok(())
            }
            Message::RingState {
                seq,
                predecessor,
                successors,
            } => self.on_ring_state(from, seq, predecessor, successors),
            Message::RingNotify => {
                self.on_ring_notify(from);
                Ok(())
            }
            Message::Prepare { slot, base, ballot } => self.on_prepare(from, slot, base, ballot),
            Message::Promise {
                slot,
                epoch,
                ballot,
                accepted,
            } => self.on_promise(from, slot, epoch, ballot, accepted),
            Message::Accept {
                slot,
                base,
                ballot,
                config,
            } => self.on_accept(from, slot, base, ballot, config),
            Message::Accepted {
                slot,
                epoch,
                ballot,
            } => self.on_accepted(from, slot, epoch, ballot),
            Message::Refuse {
                slot,
                epoch,
                promised,
            } => {
                self.on_refuse(slot, epoch, promised);
                Ok(())
            }
            Message::Commit { configs } => self.on_commit(configs),
            Message::SlotEpochs { epochs } => {
                self.on_slot_epochs(from, epochs);
                Ok(())
            }
            Message::Read {
                op,
                epoch,
                key,
                ballot,
                about,
                hold,
            } => self.on_read(from, op, epoch, key, ballot, about, hold),
            Message::ReadReply { op, register, read } => {
                self.on_read_reply(from, op, register, read)
            }
            Message::Write {
                op,
                epoch,
                register,
                repair,
            } => self.on_write(from, op, epoch, register, repair),
            Message::NoRoom { op } => self.on_no_room(from, op),
            Message::Outbid { op, version } => self.on_outbid(from, op, version),
            Message::Propose {
                op,
                epoch,
                write,
                name,
                value,
                condition,
            } => self.on_propose(from, op, epoch, write, name, value, condition),
            Message::Proposed { op, outcome } => self.on_proposed(from, op, outcome),
            Message::WriteReply { op } => self.on_write_reply(from, op),
            Message::Stale { op, slot, config } => self.on_stale(from, op, slot, config),
            Message::List {
                op,
                prefix,
                after,
                limit,
            } => self.on_list(from, op, &prefix, after, limit),
            Message::ListReply { op, items, done } => {
                self.on_list_reply(from, op, items, done);
                Ok(())
            }
            Message::SyncRequest { items } => self.on_sync_request(from, items),
            Message::SyncReply {
                slot,
                epoch,
                root,
                entries,
                after,
                more,
            } => {
                let page = sync::Page {
                    entries,
                    after,
                    more,
                };
                self.on_sync_reply(from, slot, epoch, root, page)
            }
            Message::SyncMore { slot, epoch, after } => self.on_sync_more(from, slot, epoch, after),
            Message::FetchNames { slot, keys } => self.on_fetch_names(from, slot, keys),
            Message::Names {
                slot,
                registers,
                marks,
            } => self.on_names(from, slot, registers, marks),
            Message::Settled { marks } => self.on_settled(marks),
            Message::Unsettled { marks } => self.on_unsettled(from, marks),
            Message::CaughtUp { slots } => {
                self.on_caught_up(from, slots);
                Ok(())
            }
            Message::SyncHint { slots } => {
                self.on_sync_hint(slots);
                Ok(())
            }
            Message::Released { names } => self.on_released(names),
            Message::Prove {
                slot,
                epoch,
                root,
                drain_epoch,
            } => self.on_prove(from, slot, epoch, root, drain_epoch),
            Message::Proved { receipt } => self.on_proved(from, receipt),
            Message::Flood { step } => {
                self.on_flood(from, step);
                Ok(())
            }
        }
    }

    fn on_request(&mut self, id: RequestId, request: Request) -> Done {
        match request {
            Request::ReadName(name) => self.start_read(id, name)?,
            Request::HoldName { name, upload } => self.start_hold(id, name, upload)?,
            Request::WriteName {
                name,
                value,
                condition,
            } => self.start_write(id, name, value, condition)?,
            Request::List {
                prefix,
                after,
                limit,
            } => self.start_list(id, prefix, after, limit)?,
            Request::Search(search) => self.start_find(id, search)?,
            Request::Effects { consumer, limit } => self.start_effects(id, consumer, limit)?,
            Request::Settle { consumer, writes } => {
                self.settle_effects(consumer, writes)?;
                self.answer(id, Answer::Done);
            }
            Request::Routes(slots) => {
                let routes = slots.into_iter().map(|slot| self.route(slot)).collect();
                self.answer(id, Answer::Routes(routes));
            }
            Request::PinChunk {
                key,
                len,
                epoch,
                by,
            } => {
                let outcome = self.on_chunk_pinned(key, len, epoch, &by)?;
                self.answer(id, Answer::Chunk(outcome));
            }
            Request::ChunkBad(key) => {
                self.on_chunk_bad(key)?;
                self.answer(id, Answer::Done);
            }
            Request::Missed { slot, peer } => {
                self.send(peer, Message::SyncHint { slots: vec![slot] });
                self.answer(id, Answer::Done);
            }
            Request::Members => {
                let members = self.gossip.in_ring_order();
                self.answer(id, Answer::Members(members));
            }
            Request::Registry => {
                let with_since = |m: Member| {
                    let since = self.gossip.since(m.id);
                    (m, since)
                };
                let members = self.gossip.in_ring_order().into_iter();
                let members = members.map(with_since).collect();
                self.answer(id, Answer::Registry(members));
            }
            Request::Status => {
                let status = self.status()?;
                self.answer(id, Answer::Status(Box::new(status)));
            }
            Request::Drain(orders) => {
                self.on_drain_orders(orders)?;
                self.answer(id, Answer::Done);
            }
            Request::Hint(hints) => {
                self.on_hints(hints)?;
                self.answer(id, Answer::Done);
            }
            Request::Recover(recovery) => {
                let alive = self.on_recovery(recovery)?;
                self.answer(id, Answer::Recovered(alive));
            }
            Request::Flood(command) => self.on_flood_command(id, command),
            Request::LeaveReport(leavers) => {
                let report = self.leave_report(&leavers)?;
                self.answer(id, Answer::LeaveReport(Box::new(report)));
            }
        }
        Ok(())
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
        self.schedule_anti_entropy();
        self.ask_owners()?;
        self.refresh_shares();
        self.drive_collection()?;
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
            self.out.push(Output::Send { address, message });
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

    fn fresh_op(&mut self) -> u64 {
        self.next_op += 1;
        // Unique across restarts: the incarnation is raised at each.
        (self.myself().incarnation << 32) | (self.next_op & 0xffff_ffff)
    }
}
