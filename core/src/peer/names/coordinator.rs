//! The phases of an operation, on the side of the peer that coordinates it.

use super::{ASK_AGAIN, Client, FORWARDS, HEDGE, Heard, OUTBID_WAIT, Operation, Phase};
use crate::key::Slot;
use crate::member::PeerId;
use crate::message::{Message, Outcome};
use crate::outbox::Trail;
use crate::peer::{Done, Peer, Timer};
use crate::quorum::{count, has_majority, majority};
use crate::register::{Base, Register, Step, Version, after_claim, after_read};
use crate::slot::SlotConfig;
use crate::store::Store;

impl<S: Store> Peer<S> {
    /// Begins a phase.
    pub(super) fn ask(&mut self, mut operation: Operation, phase: Phase) -> Done {
        let op = self.fresh_op();
        operation.phase = phase;
        operation.answered.clear();
        operation.full.clear();
        let (mut to, message) = self.question(op, &operation);
        let patience = match self.fewest(&operation) {
            Some(few) => {
                to = few;
                HEDGE
            }
            None => {
                operation.wide = true;
                ASK_AGAIN
            }
        };
        operation.messages += self.exchanges(&to);
        self.names.operations.insert(op, operation);
        self.send_all(&to, &message);
        self.schedule(patience, Timer::Operation(op));
        Ok(())
    }

    /// The replicas that a read asks first: a bare majority, the owner among them since its word settles most, and this
    /// peer if it is a replica. `None` when all have to be asked: one of those does not answer pings, the slot is moving,
    /// or these have been asked already.
    fn fewest(&self, operation: &Operation) -> Option<Vec<PeerId>> {
        let config = &operation.config;
        let simple = matches!(operation.phase, Phase::Read(_)) && config.next.is_none();
        if operation.wide || !simple {
            return None;
        }
        let owner = config.owner()?;
        let well = |id: &PeerId| *id == self.me || self.gossip.answers(*id);
        let (all, enough) = (config.replicas.len(), majority(config.replicas.len()));
        let mut few = config.replicas.clone();
        few.retain(well);
        few.sort_by_key(|id| (*id != self.me, *id != owner));
        few.truncate(enough);
        (enough < all && few.len() == enough && few.contains(&owner)).then_some(few)
    }

    /// Begins phase one with a ballot above all that was heard of.
    pub(super) fn claim(&mut self, mut operation: Operation) -> Done {
        operation.round += 1;
        let ballot = Version {
            epoch: operation.config.epoch,
            round: operation.round,
            writer: self.me,
            op: self.fresh_op(),
        };
        self.ask(operation, Phase::Claim(ballot, Heard::default()))
    }

    /// What is asked in the operation's phase, and whom of those that have not answered.
    fn question(&self, op: u64, operation: &Operation) -> (Vec<PeerId>, Message) {
        let (epoch, key) = (operation.config.epoch, operation.key);
        let message = match (&operation.phase, &operation.change) {
            (Phase::Forward { .. }, Some(change)) => {
                let owner = operation.config.owner();
                let message = Message::Propose {
                    op,
                    epoch,
                    write: change.write,
                    name: operation.name.clone(),
                    value: change.value.clone(),
                    condition: change.condition,
                };
                return (owner.into_iter().collect(), message);
            }
            (Phase::Claim(ballot, _), _) => Message::Read {
                op,
                epoch,
                key,
                ballot: Some(*ballot),
                about: operation.about,
                hold: operation.hold,
            },
            (
                Phase::Store {
                    register, repair, ..
                },
                _,
            ) => Message::Write {
                op,
                epoch,
                register: register.clone(),
                repair: *repair,
            },
            (Phase::Read(_) | Phase::Forward { .. } | Phase::Outbid, _) => Message::Read {
                op,
                epoch,
                key,
                ballot: None,
                about: operation.about,
                hold: operation.hold,
            },
        };
        let mut to = operation.config.participants();
        to.retain(|id| !operation.answered.contains(id));
        (to, message)
    }

    /// Takes the operation out; it goes on under another number.
    fn take(&mut self, op: u64) -> Operation {
        let operation = self.names.operations.remove(&op);
        operation.expect("the caller has looked it up")
    }

    pub(in crate::peer) fn on_operation_timer(&mut self, op: u64) -> Done {
        if self.lists.contains_key(&op) {
            return self.on_list_timer(op);
        }
        let Some(operation) = self.names.operations.get(&op) else {
            return Ok(());
        };
        let known = self.slots.config(operation.slot()).map_or(0, |c| c.epoch);
        let owner = operation.config.owner();
        if operation.deadline <= self.now {
            let operation = self.take(op);
            return self.expire(operation);
        }
        if known > operation.config.epoch {
            let operation = self.take(op);
            return self.begin(operation);
        }
        let hasty = !operation.wide;
        if !hasty && self.is_hopeless(operation) {
            let operation = self.take(op);
            return self.expire(operation);
        }
        match &operation.phase {
            Phase::Outbid => {
                let operation = self.take(op);
                return self.claim(operation);
            }
            // A quorum disagrees, or the owner, whose word is needed, is silent.
            Phase::Read(_) if !hasty && has_majority(&operation.config, &operation.answered) => {
                let operation = self.take(op);
                return self.claim_instead(operation);
            }
            Phase::Forward { tries, known } => {
                let (tries, known) = (*tries, *known);
                if tries >= FORWARDS || !owner.is_some_and(|id| self.gossip.answers(id)) {
                    let operation = self.take(op);
                    return self.claim(operation);
                }
                if let Some(operation) = self.names.operations.get_mut(&op) {
                    let tries = tries + 1;
                    operation.phase = Phase::Forward { tries, known };
                }
            }
            Phase::Read(_) | Phase::Claim(..) | Phase::Store { .. } => {}
        }
        let Some(operation) = self.names.operations.get(&op) else {
            return Ok(());
        };
        let (to, message) = self.question(op, operation);
        let messages = self.exchanges(&to);
        if let Some(operation) = self.names.operations.get_mut(&op) {
            operation.messages += messages;
            operation.wide = true;
        }
        self.send_all(&to, &message);
        self.schedule(ASK_AGAIN, Timer::Operation(op));
        Ok(())
    }

    /// Who takes part in a slot, besides ourselves.
    pub(super) fn others(&self, config: &SlotConfig) -> Vec<PeerId> {
        let mut others = config.participants();
        others.retain(|id| *id != self.me);
        others
    }

    /// Messages that asking these peers costs: a question and an answer each, but for ourselves.
    fn exchanges(&self, to: &[PeerId]) -> u32 {
        2 * to.iter().filter(|id| **id != self.me).count() as u32
    }

    /// What was asked cannot be told without a ballot of our own.
    pub(super) fn claim_instead(&mut self, operation: Operation) -> Done {
        match operation.client {
            // That is for the peer which passed it on.
            Client::Peer { .. } => {
                let outcome = self.declined(operation.base.is_some());
                self.conclude(operation, outcome)
            }
            // Whether it is replaced can be seen later; claims would take the owner's ballots their ease.
            Client::Check(_) => self.conclude(operation, Outcome::Unknown),
            Client::Request(_)
            | Client::Settle
            | Client::Decide
            | Client::Index(_)
            | Client::Fence => self.claim(operation),
        }
    }

    pub(in crate::peer) fn on_proposed(&mut self, from: PeerId, op: u64, outcome: Outcome) -> Done {
        let Some(operation) = self.names.operations.get(&op) else {
            return Ok(());
        };
        let owner = operation.config.owner();
        let Phase::Forward { known, .. } = operation.phase else {
            return Ok(());
        };
        if owner != Some(from) {
            return Ok(());
        }
        let mut operation = self.take(op);
        match outcome {
            Outcome::Declined { untouched } => {
                if untouched == Some(known) {
                    // It never proposed it, and never will: under this epoch it refuses every copy of the message.
                    operation.base = None;
                }
                self.claim(operation)
            }
            outcome => self.conclude(operation, outcome),
        }
    }

    pub(in crate::peer) fn on_read_reply(
        &mut self,
        from: PeerId,
        op: u64,
        register: Option<Register>,
        read: bool,
    ) -> Done {
        let factor = self.settings.replication.factor;
        let Some(operation) = self.names.operations.get_mut(&op) else {
            return Ok(());
        };
        if operation.answered.contains(&from) || !operation.config.involves(from) {
            return Ok(());
        }
        if let Some(register) = &register {
            operation.note(register.version);
        }
        let (Phase::Read(heard) | Phase::Claim(_, heard)) = &mut operation.phase else {
            return Ok(());
        };
        heard.add(from, register, read);
        operation.answered.push(from);
        if !operation.is_quorum(factor) {
            return Ok(());
        }
        match operation.phase.clone() {
            Phase::Claim(ballot, heard) => {
                let operation = self.take(op);
                self.on_claimed(operation, ballot, heard)
            }
            Phase::Read(heard) => self.on_heard(op, heard),
            Phase::Forward { .. } | Phase::Outbid | Phase::Store { .. } => Ok(()),
        }
    }

    /// A quorum, or more, has told what it holds.
    fn on_heard(&mut self, op: u64, heard: Heard) -> Done {
        let operation = &self.names.operations[&op];
        let config = &operation.config;
        let decided = operation.is_decided(&heard);
        let best = heard.best;
        let step = after_read(best.as_ref(), decided, config.epoch);
        let change = operation.change.as_ref();
        let admits = change.is_some_and(|c| c.admits(best.as_ref()));
        match step {
            // The write may go on after all; our copy was behind.
            Some(_) if admits => {
                let operation = self.take(op);
                self.claim_instead(operation)
            }
            Some(Step::Found) => {
                let mut operation = self.take(op);
                operation.agreed = Some(heard.read);
                self.conclude(operation, Outcome::Found(best))
            }
            Some(_) if matches!(operation.client, Client::Check(_)) => {
                let operation = self.take(op);
                self.claim_instead(operation)
            }
            Some(_) => {
                let (operation, Some(register)) = (self.take(op), best) else {
                    return Ok(());
                };
                let phase = Phase::Store {
                    register,
                    ours: false,
                    repair: true,
                };
                self.ask(operation, phase)
            }
            None if !operation.wide => {
                let mut operation = self.take(op);
                operation.wide = true;
                self.ask(operation, Phase::Read(Heard::default()))
            }
            None => {
                let open = |id: &PeerId| !operation.answered.contains(id) && self.gossip.is_up(*id);
                if config.participants().iter().any(open) {
                    // Those that are still to answer may agree.
                    return Ok(());
                }
                let operation = self.take(op);
                self.claim_instead(operation)
            }
        }
    }

    /// A quorum has promised.
    fn on_claimed(&mut self, mut operation: Operation, ballot: Version, heard: Heard) -> Done {
        let decided = operation.is_decided(&heard);
        let best = heard.best;
        let change = operation.change.as_ref();
        let intent = change.map(|c| (c.write, c.admits(best.as_ref())));
        let mut step = after_claim(best.as_ref(), decided, intent, operation.base);
        if operation.client == Client::Settle && step == Step::Found {
            step = Step::Settle;
        }
        let holds = best.as_ref().map(|r| r.write);
        let settled = self.is_settled(&operation.key, best.as_ref())?;
        let (register, ours, repair) = match (step, best, change) {
            (Step::Unknown, ..) => return self.conclude(operation, Outcome::Unknown),
            (Step::Apply, best, Some(change)) => {
                let register = Register {
                    name: operation.name.clone(),
                    version: ballot,
                    write: change.write,
                    value: change.value.clone(),
                    trail: Trail::after(best.as_ref(), settled).into(),
                };
                operation.base = Some(Base::again(operation.base, ballot, holds));
                // These store nothing new: a fence frees what an upload holds, also where there is no room.
                let stored = matches!(operation.client, Client::Settle | Client::Fence);
                (register, true, stored)
            }
            (Step::Settle | Step::Finish, Some(best), _) => {
                let register = Register {
                    version: ballot,
                    ..best
                };
                (register, step == Step::Finish, true)
            }
            (_, best, _) => return self.conclude(operation, Outcome::Found(best)),
        };
        let phase = Phase::Store {
            register,
            ours,
            repair,
        };
        self.ask(operation, phase)
    }

    pub(in crate::peer) fn on_write_reply(&mut self, from: PeerId, op: u64) -> Done {
        let factor = self.settings.replication.factor;
        let Some(operation) = self.names.operations.get_mut(&op) else {
            return Ok(());
        };
        let Phase::Store { register, ours, .. } = operation.phase.clone() else {
            return Ok(());
        };
        if operation.answered.contains(&from) || !operation.config.involves(from) {
            return Ok(());
        }
        operation.answered.push(from);
        if !operation.is_quorum(factor) {
            return Ok(());
        }
        let operation = self.take(op);
        let outcome = if ours {
            Outcome::Written {
                version: register.version,
                write: register.write,
                replaced: register.trail.ends_in_file(),
            }
        } else {
            Outcome::Found(Some(register))
        };
        self.conclude(operation, outcome)
    }

    /// A replica has promised or admitted a greater ballot.
    pub(in crate::peer) fn on_outbid(&mut self, from: PeerId, op: u64, version: Version) -> Done {
        let Some(operation) = self.names.operations.get(&op) else {
            return Ok(());
        };
        let ballot = match &operation.phase {
            Phase::Claim(ballot, _) => *ballot,
            Phase::Store { register, .. } => register.version,
            Phase::Forward { .. } | Phase::Read(_) | Phase::Outbid => return Ok(()),
        };
        if version <= ballot || !operation.config.involves(from) {
            return Ok(());
        }
        let mut operation = self.take(op);
        operation.note(version);
        if matches!(operation.client, Client::Peer { .. }) {
            let outcome = self.declined(true);
            return self.conclude(operation, outcome);
        }
        operation.outbid += 1;
        if ballot.round == 0 {
            return self.claim(operation);
        }
        let wait = self.rng.u64(1..=OUTBID_WAIT * operation.outbid.min(8));
        let op = self.fresh_op();
        operation.phase = Phase::Outbid;
        operation.answered.clear();
        self.names.operations.insert(op, operation);
        self.schedule(wait, Timer::Operation(op));
        Ok(())
    }

    /// A replica took nothing for want of room. The operation fails once the others cannot make a quorum.
    pub(in crate::peer) fn on_no_room(&mut self, from: PeerId, op: u64) -> Done {
        let Some(operation) = self.names.operations.get_mut(&op) else {
            return Ok(());
        };
        if !operation.full.contains(&from) && operation.config.involves(from) {
            operation.full.push(from);
        }
        let config = &operation.config;
        let lost = |set: &[PeerId]| set.len() - count(set, &operation.full) < majority(set.len());
        let hopeless = config.quorum_sets().any(lost);
        if hopeless {
            let operation = self.take(op);
            return self.conclude(operation, Outcome::Full);
        }
        Ok(())
    }

    pub(in crate::peer) fn on_stale(
        &mut self,
        from: PeerId,
        op: u64,
        slot: Slot,
        config: Option<SlotConfig>,
    ) -> Done {
        let theirs = config.as_ref().map_or(0, |c| c.epoch);
        if let Some(config) = config {
            self.adopt(slot, config)?;
        }
        let Some(operation) = self.names.operations.get(&op) else {
            return Ok(());
        };
        if operation.slot() != slot {
            return Ok(());
        }
        let known = self.slots.config(slot).map_or(0, |c| c.epoch);
        if known > operation.config.epoch {
            let operation = self.take(op);
            return self.begin(operation);
        }
        if theirs < operation.config.epoch {
            // The replica is behind: what it has missed, then the question again.
            let configs = vec![(slot, operation.config.clone())];
            let (_, message) = self.question(op, operation);
            self.send(from, Message::Commit { configs });
            self.send(from, message);
        }
        Ok(())
    }
}
