//! Names: the operations of clients on registers, and the way each takes. The algorithm is in [`crate::register`].
//!
//! A read asks the replicas (`Read`). A write is carried out by the slot's owner in one round (`owner`); other peers pass
//! it on to the owner (`Forward`). Whenever that does not work out (the owner is away, somebody interfered, replicas
//! disagree) the peer that was asked claims a ballot itself (`Claim`, then `Store`). `coordinator` has these phases,
//! `replica` the other side of them.

use std::collections::{BTreeMap, VecDeque};

use super::index::Step;
use super::{Done, Peer};
use crate::collect::Upload;
use crate::io::{Answer, RequestError, RequestId, Time, value_len};
use crate::key::{Key, Name, Slot};
use crate::member::PeerId;
use crate::message::{Message, Outcome};
use crate::quorum::{has_majority, majority, name_acknowledged};
use crate::register::{
    Base, Condition, HEAD_MAX, REGISTER_MAX, Register, Value, Version, WriteId, is_decided,
};
use crate::slot::SlotConfig;
use crate::store::Store;

mod coordinator;
mod owner;
mod replica;

/// How long to wait for answers before asking again, in milliseconds. Guess: many round trips, still unnoticed.
const ASK_AGAIN: u64 = 400;
/// How long the fewest replicas that can answer a read may take before the others are asked too, in milliseconds. Guess:
/// more than a read takes under load, still unnoticed.
const HEDGE: u64 = 50;
/// How often a write is passed on to an owner that answers to pings, but not to this, before it is claimed here instead:
/// for 4 s of the 10 s that an operation has. An owner that is down is not waited for; one with a slow disk is, since a
/// claim beside it may end in doubt (guess).
const FORWARDS: u32 = 10;
/// Longest wait before a ballot that was outbid is followed by a greater one, in milliseconds, times the number of times
/// that it happened. Guess: some syncs of a disk, so that one of two proposers gets through.
const OUTBID_WAIT: u64 = 20;

/// Who waits for the outcome.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// A client of this peer.
    Request(RequestId),
    /// The peer that passed its write on to us, its operation, and the epoch under which we are the slot's owner.
    Peer { from: PeerId, op: u64, epoch: u64 },
    /// A task of the keyword index.
    Index(u64),
    /// The outbox: what the name holds must be decided before its effects are performed.
    Decide,
    /// This peer itself: it may not store what another replica holds, because it has promised a ballot that never came.
    Settle,
    /// This peer itself: it ends an upload that takes too long.
    Fence,
    /// This peer itself, for the look of that number at a reference.
    Check(u64),
}

/// What a name that was looked at holds, as decided.
pub(super) struct Checked {
    pub(super) found: Option<Register>,
    /// One of those that agree on it has, or may have, a reader.
    pub(super) read: bool,
}

/// What a write does.
#[derive(Clone)]
pub(super) struct Change {
    write: WriteId,
    value: Value,
    condition: Condition,
}

impl Change {
    /// Whether it may take the place of what a name holds.
    fn admits(&self, current: Option<&Register>) -> bool {
        self.condition.admits(current) && self.value.may_follow(current)
    }
}

/// What replicas have said they hold.
#[derive(Clone, Default)]
struct Heard {
    best: Option<Register>,
    /// Who holds the best.
    holders: Vec<PeerId>,
    /// One of these has, or may have, a reader for the upload asked about.
    read: bool,
}

impl Heard {
    fn add(&mut self, from: PeerId, register: Option<Register>, read: bool) {
        let version = |r: &Option<Register>| r.as_ref().map(|r| r.version);
        if version(&self.best) < version(&register) {
            self.best = register;
            self.holders = vec![from];
            self.read = read;
        } else if version(&self.best) == version(&register) {
            self.holders.push(from);
            self.read |= read;
        }
    }
}

#[derive(Clone)]
enum Phase {
    /// Passed on to the slot's owner so many times; what its incarnation was, as far as known, before the first.
    Forward { tries: u32, known: u64 },
    /// Asking what replicas hold.
    Read(Heard),
    /// Asking replicas to promise a ballot.
    Claim(Version, Heard),
    /// Waiting before the next claim.
    Outbid,
    /// Storing a register at a quorum; whether it is the client's value, and whether that was proposed by someone before.
    Store {
        register: Register,
        ours: bool,
        repair: bool,
    },
}

/// A read or write that this peer coordinates. Its number changes whenever it takes another way, so that late answers to
/// an earlier attempt are not counted.
struct Operation {
    client: Client,
    name: Name,
    key: Key,
    /// `None` for a read.
    change: Option<Change>,
    /// Which upload it is about.
    about: Option<Upload>,
    /// Somebody reads that, or what the name holds.
    hold: bool,
    /// A quorum agreed without a claim; whether one of it has a reader.
    agreed: Option<bool>,
    /// When our value may be stored somewhere.
    base: Option<Base>,
    phase: Phase,
    config: SlotConfig,
    answered: Vec<PeerId>,
    /// Messages to others so far, an answer to each included.
    messages: u32,
    /// Replicas that have no room for it.
    full: Vec<PeerId>,
    /// A read that asks all replicas, since the fewest have not answered or do not agree.
    wide: bool,
    /// Greatest round of this epoch that was heard of.
    round: u64,
    /// How often it was outbid.
    outbid: u64,
    /// It is the one operation that this peer, as the owner, carries out on its name.
    leads: bool,
    deadline: Time,
}

impl Operation {
    fn slot(&self) -> Slot {
        self.key.slot()
    }

    fn is_quorum(&self, factor: u32) -> bool {
        if matches!(self.phase, Phase::Store { .. }) {
            name_acknowledged(&self.config, &self.answered, factor)
        } else {
            has_majority(&self.config, &self.answered)
        }
    }

    /// Whether what a quorum has told is decided.
    fn is_decided(&self, heard: &Heard) -> bool {
        let agreed = has_majority(&self.config, &heard.holders);
        let owner = self.config.owner();
        let owner_agrees = owner.is_some_and(|id| heard.holders.contains(&id));
        is_decided(heard.best.as_ref(), agreed, owner_agrees, self.config.epoch)
    }

    /// Notes a version, as the next claim has to exceed it.
    fn note(&mut self, version: Version) {
        if version.epoch == self.config.epoch {
            self.round = self.round.max(version.round);
        }
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Names {
    operations: BTreeMap<u64, Operation>,
    /// Names on which this peer, as the owner, carries out an operation, and those that wait for it.
    queues: BTreeMap<Key, VecDeque<Operation>>,
    waiting: usize,
    /// Names on which an operation that led is over.
    pub(super) freed: Vec<Key>,
    done: owner::Done,
}

impl Names {
    /// Operations under way.
    pub(super) fn len(&self) -> usize {
        self.operations.len() + self.waiting
    }
}

impl<S: Store> Peer<S> {
    pub(super) fn start_read(&mut self, id: RequestId, name: Name) -> Done {
        self.start_operation(Client::Request(id), name, None, (None, false))
    }

    /// Reads a name, and lets its replicas know of the reader.
    pub(super) fn start_hold(&mut self, id: RequestId, name: Name, upload: Option<Upload>) -> Done {
        self.start_operation(Client::Request(id), name, None, (upload, true))
    }

    /// Reads a name for [`Peer::on_checked`], and asks for readers of that upload.
    pub(super) fn start_check(&mut self, id: u64, name: Name, upload: Upload) -> Done {
        self.start_operation(Client::Check(id), name, None, (Some(upload), false))
    }

    /// Writes a name anew with the value it has, so that no upload follows on the write it has now.
    pub(super) fn start_fence(&mut self, name: Name, value: Value, condition: Condition) -> Done {
        let change = self.change(value, condition);
        self.start_operation(Client::Fence, name, Some(change), (None, false))
    }

    pub(super) fn start_write(
        &mut self,
        id: RequestId,
        name: Name,
        value: Value,
        condition: Condition,
    ) -> Done {
        if is_too_large(&value) {
            self.answer(id, Answer::Failed(RequestError::TooLarge));
            return Ok(());
        }
        let change = self.change(value, condition);
        self.start_operation(Client::Request(id), name, Some(change), (None, false))
    }

    /// A write of this peer's.
    pub(super) fn change(&mut self, value: Value, condition: Condition) -> Change {
        let write = WriteId {
            peer: self.me,
            op: self.fresh_op(),
        };
        Change {
            write,
            value,
            condition,
        }
    }

    /// Lets a name be decided again, so that this peer may store it. Where a quorum holds nothing, what another replica
    /// holds was proposed and never decided: it is proposed again, for of a write that was proposed anywhere nobody is told
    /// that it had no effect before something else is decided. Else whoever alone holds it, a leaver perhaps, would differ
    /// from the others for ever.
    fn settle(&mut self, theirs: &Register) -> Done {
        let (name, key) = (theirs.name.clone(), Key::of_name(&theirs.name));
        let under_way = |o: &Operation| o.key == key && o.client == Client::Settle;
        if self.names.operations.values().any(under_way) {
            return Ok(());
        }
        let change = Change {
            write: theirs.write,
            value: theirs.value.clone(),
            condition: Condition::Unwritten,
        };
        self.start_operation(Client::Settle, name, Some(change), (None, false))
    }

    /// Reads a name for the outbox, which decides it.
    pub(super) fn start_decide(&mut self, name: Name) -> Done {
        self.start_operation(Client::Decide, name, None, (None, false))
    }

    pub(super) fn start_operation(
        &mut self,
        client: Client,
        name: Name,
        change: Option<Change>,
        (about, hold): (Option<Upload>, bool),
    ) -> Done {
        let key = Key::of_name(&name);
        let refusal = if self.names.len() >= self.settings.operations {
            Some(RequestError::Busy)
        } else if self.slots.config(key.slot()).is_none() {
            Some(RequestError::NotReady)
        } else {
            None
        };
        let (Some(config), None) = (self.slots.config(key.slot()).cloned(), refusal) else {
            match client {
                Client::Request(id) => {
                    let error = refusal.unwrap_or(RequestError::NotReady);
                    self.answer(id, Answer::Failed(error));
                }
                Client::Decide => {
                    self.outbox.reading.remove(&key);
                }
                Client::Check(id) => self.on_checked(id, None)?,
                Client::Index(task) => {
                    let error = refusal.unwrap_or(RequestError::NotReady);
                    self.on_step(task, Step::failed(error))?;
                }
                Client::Peer { .. } | Client::Settle | Client::Fence => {}
            }
            return Ok(());
        };
        let deadline = self.now.after(self.settings.operation);
        self.begin(Operation {
            client,
            name,
            key,
            change,
            about,
            hold,
            agreed: None,
            base: None,
            phase: Phase::Outbid,
            config,
            answered: Vec::new(),
            messages: 0,
            full: Vec::new(),
            wide: false,
            round: 0,
            outbid: 0,
            leads: false,
            deadline,
        })
    }

    /// Whether so many of the replicas are down that those left are no majority: whoever asked had better ask another
    /// peer, which may see more of the ring, than wait. Asked only of operations whose question went unanswered for a
    /// while, since the answer may be that the configuration is another by now.
    fn is_hopeless(&self, operation: &Operation) -> bool {
        let mut left = operation.config.participants();
        left.retain(|id| {
            *id == self.me || self.gossip.is_up(*id) || operation.answered.contains(id)
        });
        !has_majority(&operation.config, &left)
    }

    /// (Re)starts an operation under the configuration now known.
    fn begin(&mut self, mut operation: Operation) -> Done {
        if let Some(config) = self.slots.config(operation.slot()) {
            if config.epoch > operation.config.epoch {
                operation.round = 0;
            }
            operation.config = config.clone();
        }
        let Some(change) = &operation.change else {
            return self.ask(operation, Phase::Read(Heard::default()));
        };
        let owner = operation.config.owner();
        if let Client::Peer { epoch, .. } = operation.client {
            // Whoever passed it on may have claimed since: only a ballot that such a claim outbids may carry it.
            return if operation.config.epoch == epoch && self.leads(operation.slot()) {
                self.lead(operation)
            } else {
                let outcome = self.declined(operation.base.is_some());
                self.conclude(operation, outcome)
            };
        }
        let inward = matches!(operation.client, Client::Settle | Client::Fence);
        if operation.base.is_some() || inward {
            self.claim(operation)
        } else if self.leads(operation.slot()) {
            self.lead(operation)
        } else if owner.is_some_and(|id| id != self.me && self.gossip.answers(id)) {
            let replaces = match change.condition {
                Condition::Unchanged(write) => Some(Some(write)),
                Condition::Unwritten => Some(None),
                Condition::Always | Condition::Absent => None,
            };
            operation.base = Some(Base {
                since: Version::least_of(operation.config.epoch),
                replaces,
            });
            let known = owner.and_then(|id| self.gossip.get(id));
            let known = known.map_or(0, |m| m.incarnation);
            self.ask(operation, Phase::Forward { tries: 1, known })
        } else {
            self.claim(operation)
        }
    }

    /// What we, as the owner, say of a write that we do not carry out.
    fn declined(&self, proposed: bool) -> Outcome {
        let untouched = (!proposed).then(|| self.myself().incarnation);
        Outcome::Declined { untouched }
    }

    /// Ends an operation and tells whoever waits.
    fn conclude(&mut self, operation: Operation, outcome: Outcome) -> Done {
        self.note_decided(operation.key, &outcome)?;
        match operation.client {
            Client::Request(id) => {
                let answer = match (outcome, &operation.change) {
                    (Outcome::Found(register), None) if operation.hold => Answer::Held {
                        register,
                        held: operation.agreed.is_some(),
                    },
                    (Outcome::Found(register), None) => Answer::Register(register),
                    (Outcome::Found(register), Some(_)) => Answer::Unmet(register),
                    (
                        Outcome::Written {
                            version,
                            write,
                            replaced,
                        },
                        _,
                    ) => Answer::Written {
                        version,
                        write,
                        replaced,
                    },
                    (Outcome::Full, _) => Answer::Failed(RequestError::Full {
                        slot: operation.slot(),
                    }),
                    (Outcome::Unknown | Outcome::Declined { .. }, _) => {
                        Answer::Failed(RequestError::Unknown)
                    }
                };
                self.answer(id, answer);
            }
            Client::Peer { from, op, .. } => {
                if let Some(change) = &operation.change {
                    self.names.done.add(change.write, &outcome);
                }
                self.send(from, Message::Proposed { op, outcome });
            }
            Client::Decide => {
                self.outbox.reading.remove(&operation.key);
            }
            Client::Check(id) => {
                let checked = match (outcome, operation.agreed) {
                    (Outcome::Found(found), Some(read)) => Some(Checked { found, read }),
                    _ => None,
                };
                self.on_checked(id, checked)?;
            }
            Client::Index(task) => {
                let step = Step {
                    outcome: Ok(outcome),
                    messages: operation.messages,
                    peers: self.others(&operation.config),
                };
                self.on_step(task, step)?;
            }
            Client::Settle | Client::Fence => {}
        }
        if operation.leads {
            self.names.freed.push(operation.key);
        }
        Ok(())
    }

    /// The time of an operation is over.
    fn expire(&mut self, operation: Operation) -> Done {
        if let Client::Request(_) | Client::Index(_) = operation.client {
            let replicas = operation.config.replicas.len();
            let needed = majority(replicas.max(self.settings.replication.factor as usize));
            let error = RequestError::NoQuorum {
                slot: operation.slot(),
                answered: operation.answered.len() as u32,
                needed: needed as u32,
            };
            match operation.client {
                Client::Request(id) => self.answer(id, Answer::Failed(error)),
                Client::Index(task) => self.on_step(task, Step::failed(error))?,
                _ => {}
            }
        } else if let (Client::Peer { .. }, Some(change)) = (operation.client, &operation.change) {
            self.names.done.add(change.write, &Outcome::Unknown);
        } else if operation.client == Client::Decide {
            self.outbox.reading.remove(&operation.key);
        } else if let Client::Check(id) = operation.client {
            self.on_checked(id, None)?;
        }
        if operation.leads {
            self.names.freed.push(operation.key);
        }
        Ok(())
    }

    /// Nothing will be heard any more: whoever waits is told to ask another peer.
    pub(super) fn give_up_operations(&mut self) {
        let names = std::mem::take(&mut self.names);
        let lists = std::mem::take(&mut self.lists).into_values();
        let effects = self.give_up_effects();
        let queued = names.queues.into_values().flatten();
        let clients = names
            .operations
            .into_values()
            .chain(queued)
            .map(|o| o.client);
        let waiting: Vec<RequestId> = clients
            .filter_map(|client| match client {
                Client::Request(id) => Some(id),
                Client::Index(task) => self.index.searched(task),
                Client::Peer { .. }
                | Client::Settle
                | Client::Decide
                | Client::Fence
                | Client::Check(_) => None,
            })
            .chain(lists.map(|l| l.request))
            .chain(effects)
            .collect();
        for id in waiting {
            self.answer(id, Answer::Failed(RequestError::Left));
        }
    }
}

fn is_too_large(value: &Value) -> bool {
    let head = match value {
        Value::Present { head, .. } => head.bytes.len(),
        Value::Deleted => 0,
    };
    value_len(value) > REGISTER_MAX || head > HEAD_MAX
}

#[cfg(test)]
pub(super) mod tests;
