//! Names: coordinating reads and writes of registers, and answering as a replica. The algorithm is in
//! [`crate::register`].

use super::{Done, Peer, Timer};
use crate::io::{Answer, RequestError, RequestId, Time, value_len};
use crate::key::{Key, Name, Slot};
use crate::member::PeerId;
use crate::message::Message;
use crate::quorum::{count, has_majority, majority};
use crate::register::{HEAD_MAX, REGISTER_MAX, Register, Value, Version};
use crate::slot::SlotConfig;
use crate::store::Store;

/// How long to wait for answers before asking again, in milliseconds. Guess: many round trips, still unnoticed.
const ASK_AGAIN: u64 = 400;

#[derive(Clone)]
enum Phase {
    /// Asking for the greatest version; what was seen so far.
    Ask {
        best: Option<Register>,
        version: Option<Version>,
        unanimous: bool,
    },
    /// Storing a register at a quorum.
    Store(Register),
}

/// A read or write that this peer coordinates. Its number changes whenever it starts over, so late answers to an earlier
/// attempt are not counted.
pub(super) struct Operation {
    request: RequestId,
    name: Name,
    key: Key,
    /// What to write; `None` for a read.
    write: Option<Value>,
    phase: Phase,
    config: SlotConfig,
    answered: Vec<PeerId>,
    /// Replicas that have no room for it.
    full: Vec<PeerId>,
    deadline: Time,
}

impl Operation {
    fn slot(&self) -> Slot {
        self.key.slot()
    }

    fn is_quorum(&self, factor: u32) -> bool {
        // While a network is smaller than a majority of its factor, nothing can be acknowledged: one copy is no promise.
        let copies = count(&self.config.participants(), &self.answered);
        let enough = matches!(self.phase, Phase::Ask { .. }) || copies >= majority(factor as usize);
        enough && has_majority(&self.config, &self.answered)
    }
}

impl<S: Store> Peer<S> {
    pub(super) fn start_read(&mut self, id: RequestId, name: Name) -> Done {
        self.start_operation(id, name, None)
    }

    pub(super) fn start_write(&mut self, id: RequestId, name: Name, value: Value) -> Done {
        let head = match &value {
            Value::Present { head, .. } => head.len(),
            Value::Deleted => 0,
        };
        if value_len(&value) > REGISTER_MAX || head > HEAD_MAX {
            self.answer(id, Answer::Failed(RequestError::TooLarge));
            return Ok(());
        }
        self.start_operation(id, name, Some(value))
    }

    fn start_operation(&mut self, request: RequestId, name: Name, write: Option<Value>) -> Done {
        if self.names.len() >= self.settings.operations {
            self.answer(request, Answer::Failed(RequestError::Busy));
            return Ok(());
        }
        let key = Key::of_name(&name);
        let Some(config) = self.slots.config(key.slot()).cloned() else {
            self.answer(request, Answer::Failed(RequestError::NotReady));
            return Ok(());
        };
        let deadline = self.now.after(self.settings.operation);
        let phase = Phase::Ask {
            best: None,
            version: None,
            unanimous: true,
        };
        self.ask(Operation {
            request,
            name,
            key,
            write,
            phase,
            config,
            answered: Vec::new(),
            full: Vec::new(),
            deadline,
        });
        Ok(())
    }

    /// (Re)starts the phase an operation is in, under the configuration now known.
    fn ask(&mut self, mut operation: Operation) {
        let op = self.fresh_op();
        if let Some(config) = self.slots.config(operation.slot()) {
            operation.config = config.clone();
        }
        operation.answered.clear();
        operation.full.clear();
        if let Phase::Ask {
            best,
            version,
            unanimous,
        } = &mut operation.phase
        {
            (*best, *version, *unanimous) = (None, None, true);
        }
        let message = self.question(op, &operation);
        self.send_all(&operation.config.participants(), &message);
        self.names.insert(op, operation);
        self.schedule(ASK_AGAIN, Timer::Operation(op));
    }

    fn question(&self, op: u64, operation: &Operation) -> Message {
        let epoch = operation.config.epoch;
        match &operation.phase {
            Phase::Ask { .. } => Message::Read {
                op,
                epoch,
                key: operation.key,
                version_only: operation.write.is_some(),
            },
            Phase::Store(register) => Message::Write {
                op,
                epoch,
                register: register.clone(),
                repair: operation.write.is_none(),
            },
        }
    }

    pub(super) fn on_operation_timer(&mut self, op: u64) -> Done {
        if self.lists.contains_key(&op) {
            return self.on_list_timer(op);
        }
        let Some(operation) = self.names.get(&op) else {
            return Ok(());
        };
        if operation.deadline <= self.now {
            let operation = self.names.remove(&op).expect("looked up above");
            let needed = majority(
                operation
                    .config
                    .replicas
                    .len()
                    .max(self.settings.replication.factor as usize),
            );
            let answered = operation.answered.len() as u32;
            let error = RequestError::NoQuorum {
                slot: operation.slot(),
                answered,
                needed: needed as u32,
            };
            self.answer(operation.request, Answer::Failed(error));
            return Ok(());
        }
        let known = self.slots.config(operation.slot()).map_or(0, |c| c.epoch);
        if known > operation.config.epoch {
            let operation = self.names.remove(&op).expect("looked up above");
            self.ask(operation);
        } else {
            let message = self.question(op, operation);
            let silent = operation.config.participants();
            let silent: Vec<PeerId> = silent
                .into_iter()
                .filter(|id| !operation.answered.contains(id))
                .collect();
            self.send_all(&silent, &message);
            self.schedule(ASK_AGAIN, Timer::Operation(op));
        }
        Ok(())
    }

    /// Nothing will be heard any more: whoever waits is told to ask another peer.
    pub(super) fn give_up_operations(&mut self) {
        let names = std::mem::take(&mut self.names).into_values();
        let lists = std::mem::take(&mut self.lists).into_values();
        let waiting: Vec<RequestId> = names
            .map(|o| o.request)
            .chain(lists.map(|l| l.request))
            .collect();
        for id in waiting {
            self.answer(id, Answer::Failed(RequestError::Left));
        }
    }

    /// Replica: phase one.
    pub(super) fn on_read(
        &mut self,
        from: PeerId,
        op: u64,
        epoch: u64,
        key: Key,
        version_only: bool,
    ) -> Done {
        if !self.serves(from, op, key.slot(), epoch) {
            return Ok(());
        }
        let register = self.store.register(&key)?;
        let version = register.as_ref().map(|r| r.version);
        let register = register.filter(|_| !version_only);
        self.send(
            from,
            Message::ReadReply {
                op,
                version,
                register,
            },
        );
        Ok(())
    }

    /// Replica: phase two.
    pub(super) fn on_write(
        &mut self,
        from: PeerId,
        op: u64,
        epoch: u64,
        register: Register,
        repair: bool,
    ) -> Done {
        let slot = Key::of_name(&register.name).slot();
        if !self.serves(from, op, slot, epoch) {
            return Ok(());
        }
        let grows = matches!(register.value, Value::Present { .. });
        if self.disk_full && grows && !repair {
            self.send(from, Message::NoRoom { op });
            return Ok(());
        }
        self.keep_register(slot, &register)?;
        self.send(from, Message::WriteReply { op });
        Ok(())
    }

    /// A replica took nothing for want of room. The operation fails once the others cannot make a quorum.
    pub(super) fn on_no_room(&mut self, from: PeerId, op: u64) {
        let Some(operation) = self.names.get_mut(&op) else {
            return;
        };
        if !operation.full.contains(&from) && operation.config.involves(from) {
            operation.full.push(from);
        }
        let config = &operation.config;
        let lost = |set: &[PeerId]| set.len() - count(set, &operation.full) < majority(set.len());
        let hopeless = config.quorum_sets().any(lost);
        if hopeless {
            let operation = self.names.remove(&op).expect("looked up above");
            let slot = operation.slot();
            let error = RequestError::Full { slot };
            self.answer(operation.request, Answer::Failed(error));
        }
    }

    /// Stores a register unless something newer is here.
    pub(super) fn keep_register(&mut self, slot: Slot, register: &Register) -> Done {
        let known = self.store.register(&Key::of_name(&register.name))?;
        if known.is_none_or(|k| k.version < register.version) {
            self.store.put_register(register)?;
            self.slots.touch(slot);
        }
        Ok(())
    }

    /// Whether this replica may answer under that epoch; if not, the coordinator hears why.
    fn serves(&mut self, from: PeerId, op: u64, slot: Slot, epoch: u64) -> bool {
        let config = self.slots.config(slot);
        if config.is_some_and(|c| c.epoch == epoch && c.involves(self.me)) {
            return true;
        }
        let config = config.cloned();
        self.send(from, Message::Stale { op, slot, config });
        false
    }

    pub(super) fn on_stale(
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
        let Some(operation) = self.names.get(&op) else {
            return Ok(());
        };
        if operation.slot() != slot {
            return Ok(());
        }
        if self
            .slots
            .config(slot)
            .is_some_and(|c| c.epoch > operation.config.epoch)
        {
            let operation = self.names.remove(&op).expect("looked up above");
            self.ask(operation);
        } else if theirs < operation.config.epoch {
            // The replica is behind: what it has missed, then the question again.
            let configs = vec![(slot, operation.config.clone())];
            let message = self.question(op, operation);
            self.send(from, Message::Commit { configs });
            self.send(from, message);
        }
        Ok(())
    }

    pub(super) fn on_read_reply(
        &mut self,
        from: PeerId,
        op: u64,
        version: Option<Version>,
        register: Option<Register>,
    ) -> Done {
        let factor = self.settings.replication.factor;
        let Some(operation) = self.names.get_mut(&op) else {
            return Ok(());
        };
        let Phase::Ask {
            best,
            version: greatest,
            unanimous,
        } = &mut operation.phase
        else {
            return Ok(());
        };
        if operation.answered.contains(&from) || !operation.config.involves(from) {
            return Ok(());
        }
        *unanimous &= operation.answered.is_empty() || *greatest == version;
        if *greatest < version {
            *greatest = version;
            *best = register;
        }
        operation.answered.push(from);
        if !operation.is_quorum(factor) {
            return Ok(());
        }
        let mut operation = self.names.remove(&op).expect("looked up above");
        let Phase::Ask {
            best,
            version,
            unanimous,
        } = operation.phase.clone()
        else {
            return Ok(());
        };
        operation.phase = match operation.write.clone() {
            Some(value) => {
                let counter = version.map_or(0, |v| v.counter) + 1;
                let version = Version {
                    counter,
                    writer: self.me,
                    op,
                };
                Phase::Store(Register {
                    name: operation.name.clone(),
                    version,
                    value,
                })
            }
            // A quorum agrees: what it agrees on cannot be lost.
            None if unanimous => {
                self.answer(operation.request, Answer::Register(best));
                return Ok(());
            }
            // Some replicas are behind: the value must be at a quorum before anybody sees it.
            None => match best {
                Some(register) => Phase::Store(register),
                None => return Ok(()),
            },
        };
        self.ask(operation);
        Ok(())
    }

    pub(super) fn on_write_reply(&mut self, from: PeerId, op: u64) -> Done {
        let factor = self.settings.replication.factor;
        let Some(operation) = self.names.get_mut(&op) else {
            return Ok(());
        };
        let Phase::Store(register) = operation.phase.clone() else {
            return Ok(());
        };
        if operation.answered.contains(&from) || !operation.config.involves(from) {
            return Ok(());
        }
        operation.answered.push(from);
        if operation.is_quorum(factor) {
            let operation = self.names.remove(&op).expect("looked up above");
            let answer = match operation.write {
                Some(_) => Answer::Written(register.version),
                None => Answer::Register(Some(register)),
            };
            self.answer(operation.request, answer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
