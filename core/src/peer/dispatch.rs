//! Which room a message or a request is for.

use super::{Done, Peer, listing, sync};
use crate::io::{Answer, Request, RequestId};
use crate::member::{Member, PeerId};
use crate::message::Message;
use crate::store::Store;

impl<S: Store> Peer<S> {
    pub(super) fn on_message(&mut self, from: PeerId, message: Message) -> Done {
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
                table,
            } => self.on_list(from, op, &prefix, after, limit, table),
            Message::ListReply {
                op,
                items,
                done,
                table,
                epochs,
            } => {
                self.on_list_reply(from, op, listing::Part { items, done }, table, &epochs);
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

    pub(super) fn on_request(&mut self, id: RequestId, request: Request) -> Done {
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
                given,
                epoch,
                by,
            } => {
                let outcome = self.on_chunk_pinned(key, given, epoch, &by)?;
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
}
