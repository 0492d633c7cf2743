//! The slot's owner: carries out writes in one round, its own and those that other peers pass on.

use std::collections::{BTreeMap, VecDeque};

use super::{Change, Client, Heard, Operation, Phase, is_too_large};
use crate::key::{Key, Name, Slot};
use crate::member::PeerId;
use crate::message::{Message, Outcome};
use crate::outbox::Trail;
use crate::peer::{self, Peer};
use crate::register::{Base, Condition, Register, Value, Version, WriteId};
use crate::store::Store;

/// Writes of other peers whose outcome is remembered. A guess: they are remembered for as long as messages are repeated.
const REMEMBERED: usize = 1_024;

/// Writes passed on to us that are done, so that one that is repeated is not done again.
#[derive(Default)]
pub(super) struct Done {
    /// Where they were written: under which ballot, and whether in the place of a file.
    outcomes: BTreeMap<WriteId, Option<(Version, bool)>>,
    order: VecDeque<WriteId>,
    /// By peer: operations up to this one are forgotten.
    forgotten: BTreeMap<PeerId, u64>,
}

impl Done {
    pub(super) fn add(&mut self, write: WriteId, outcome: &Outcome) {
        let written = match outcome {
            Outcome::Written {
                version, replaced, ..
            } => Some((*version, *replaced)),
            Outcome::Found(_) | Outcome::Full | Outcome::Unknown | Outcome::Declined { .. } => None,
        };
        if self.outcomes.insert(write, written).is_none() {
            self.order.push_back(write);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.outcomes.remove(&oldest);
            let forgotten = self.forgotten.entry(oldest.peer).or_default();
            *forgotten = oldest.op.max(*forgotten);
        }
    }

    /// What became of a write that was here before; `None` for a new one.
    fn recall(&self, write: WriteId) -> Option<Outcome> {
        match self.outcomes.get(&write) {
            Some(Some((version, replaced))) => Some(Outcome::Written {
                version: *version,
                write,
                replaced: *replaced,
            }),
            Some(None) => Some(Outcome::Declined { untouched: None }),
            None => {
                let forgotten = self
                    .forgotten
                    .get(&write.peer)
                    .is_some_and(|op| write.op <= *op);
                forgotten.then_some(Outcome::Declined { untouched: None })
            }
        }
    }
}

impl<S: Store> Peer<S> {
    /// Whether this peer's ballots of round 0 need no claim: it owns the slot under an epoch that it has learned since it
    /// started and has compared its copy with a quorum within it. Not while it may have forgotten what it acknowledged.
    pub(super) fn leads(&mut self, slot: Slot) -> bool {
        let owns = self
            .slots
            .config(slot)
            .is_some_and(|c| c.owner() == Some(self.me));
        if owns && !self.sync.is_fresh(slot) {
            // It may have proposed under this epoch before it crashed. The next epoch makes it the owner again.
            self.renew(slot);
        }
        owns && !self.forgetful && self.sync.is_fresh(slot) && self.sync.is_synced(slot)
    }

    /// Carries a write out, once no other is under way on its name.
    pub(super) fn lead(&mut self, mut operation: Operation) -> peer::Done {
        if !operation.leads {
            if let Some(queue) = self.names.queues.get_mut(&operation.key) {
                queue.push_back(operation);
                self.names.waiting += 1;
                return Ok(());
            }
            self.names.queues.insert(operation.key, VecDeque::new());
            operation.leads = true;
        }
        let Some(change) = operation.change.clone() else {
            return self.ask(operation, Phase::Read(Heard::default()));
        };
        let current = self.store.register(&operation.key)?;
        if !change.admits(current.as_ref()) {
            // Our copy alone does not prove it.
            return self.ask(operation, Phase::Read(Heard::default()));
        }
        let Change { write, value, .. } = change;
        let version = Version {
            epoch: operation.config.epoch,
            round: 0,
            writer: self.me,
            op: self.fresh_op(),
        };
        operation.base = Some(Base {
            since: version,
            replaces: Some(current.as_ref().map(|r| r.write)),
        });
        let settled = self.is_settled(&operation.key, current.as_ref())?;
        let register = Register {
            name: operation.name.clone(),
            version,
            write,
            value,
            trail: Trail::after(current.as_ref(), settled).into(),
        };
        // Its own copy comes first: the owner's next proposal starts from there, whoever else has stored this one.
        let full = self.disk_full && register.is_present();
        if full || !self.keep_own(&operation.key, current.as_ref(), &register)? {
            operation.base = None;
            return self.claim_instead(operation);
        }
        let phase = Phase::Store {
            register,
            ours: true,
            repair: false,
        };
        self.ask(operation, phase)
    }

    /// Whether this peer, as the owner, carries an operation out on this name.
    pub(in crate::peer) fn is_led(&self, key: &Key) -> bool {
        self.names.queues.contains_key(key)
    }

    /// The operation that led on this name is over: the next one.
    pub(in crate::peer) fn lead_next(&mut self, key: Key) -> peer::Done {
        let Some(mut queue) = self.names.queues.remove(&key) else {
            return Ok(());
        };
        let Some(mut next) = queue.pop_front() else {
            return Ok(());
        };
        self.names.waiting -= 1;
        self.names.queues.insert(key, queue);
        next.leads = true;
        if next.deadline <= self.now {
            self.expire(next)
        } else {
            self.begin(next)
        }
    }

    /// Another peer passes a write on to us.
    #[allow(clippy::too_many_arguments, reason = "they are the message's fields")]
    pub(in crate::peer) fn on_propose(
        &mut self,
        from: PeerId,
        op: u64,
        epoch: u64,
        write: WriteId,
        name: Name,
        value: Value,
        condition: Condition,
    ) -> peer::Done {
        let key = Key::of_name(&name);
        if !self.serves(from, op, key.slot(), epoch) || is_too_large(&value) {
            return Ok(());
        }
        let outcome = self.names.done.recall(write);
        if let Some(outcome) = outcome {
            self.send(from, Message::Proposed { op, outcome });
            return Ok(());
        }
        let same = |o: &Operation| o.change.as_ref().is_some_and(|c| c.write == write);
        let queued = self.names.queues.values().flatten();
        if self.names.operations.values().chain(queued).any(same) {
            return Ok(());
        }
        if !self.leads(key.slot()) || self.names.len() >= self.settings.operations {
            let outcome = self.declined(false);
            self.names.done.add(write, &outcome);
            self.send(from, Message::Proposed { op, outcome });
            return Ok(());
        }
        let change = Change {
            write,
            value,
            condition,
        };
        self.start_operation(
            Client::Peer { from, op, epoch },
            name,
            Some(change),
            (None, false),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(op: u64) -> WriteId {
        WriteId {
            peer: PeerId(1),
            op,
        }
    }

    #[test]
    fn writes_that_are_done_are_remembered_and_those_before_them_are_declined() {
        let mut done = Done::default();
        let version = Version::least_of(3);
        let written = |op| Outcome::Written {
            version,
            write: write(op),
            replaced: op % 2 == 0,
        };
        let last = REMEMBERED as u64 + 1;
        for op in 1..=last {
            assert!(done.recall(write(op)).is_none(), "{op} is new");
            done.add(write(op), &written(op));
        }
        assert_eq!(done.recall(write(last)), Some(written(last)));
        assert_eq!(done.recall(write(2)), Some(written(2)));
        for forgotten in [0, 1] {
            let outcome = done.recall(write(forgotten));
            assert!(matches!(
                outcome,
                Some(Outcome::Declined { untouched: None })
            ));
        }
        assert_eq!(done.outcomes.len(), REMEMBERED);
        done.add(write(last + 1), &Outcome::Unknown);
        let unknown = done.recall(write(last + 1));
        assert!(matches!(
            unknown,
            Some(Outcome::Declined { untouched: None })
        ));
        let of_another = WriteId {
            peer: PeerId(2),
            op: 1,
        };
        assert!(done.recall(of_another).is_none());
    }
}
