//! How an operation begins, and what a slot's owner does: its own writes and those that are passed on to it.

use stateright::semantics::ConsistencyTester;

use super::steps::{abandon, insert};
use super::{
    Ask, Base, Carried, Condition, FIRST, Names, Operation, Phase, State, Told, Variant, Version,
    Want, peer, register, write_id,
};

impl Names {
    pub(super) fn start(&self, state: &mut State, op: u8) -> Option<()> {
        let wanted = self.wanted[usize::from(op)];
        let ask = match wanted.want {
            Want::Read => Ask::Read,
            Want::Put => Ask::Write(op, None),
            Want::Create => Ask::Write(op, Some(None)),
            Want::Replace(of) => Ask::Write(op, Some(Some(of.unwrap_or(FIRST)))),
        };
        state.history.on_invoke(op, ask).ok()?;
        let config = state.replicas[usize::from(wanted.at)].config;
        state.operations[usize::from(op)].config = config;
        let leads = self.leads(state, wanted.at);
        let operation = &mut state.operations[usize::from(op)];
        if wanted.want == Want::Read {
            operation.phase = Phase::Read(Vec::new());
        } else if leads {
            return self.lead(state, op);
        } else if wanted.forward && self.owner(config) != wanted.at {
            operation.phase = Phase::Forward;
            operation.base = Some(Base {
                since: Version::least_of(self.configs[usize::from(config)].epoch),
                replaces: match self.condition(op) {
                    Condition::Unchanged(write) => Some(Some(write)),
                    Condition::Unwritten => Some(None),
                    Condition::Always | Condition::Absent => None,
                },
            });
            operation.carried = Some(Carried {
                config,
                store: None,
                over: false,
            });
        } else {
            return self.claim(state, op);
        }
        Some(())
    }

    /// Whether the owner carries out a write on the name already.
    pub(super) fn is_busy(&self, state: &State, owner: u8) -> bool {
        let own = |(op, o): (usize, &Operation)| {
            let leads = matches!(o.phase, Phase::Store { version, .. } if version.round == 0);
            leads && self.wanted[op].at == owner
        };
        let carried = |o: &Operation| {
            o.carried
                .as_ref()
                .is_some_and(|c| !c.over && c.store.is_some() && self.owner(c.config) == owner)
        };
        state.operations.iter().enumerate().any(own) || state.operations.iter().any(carried)
    }

    /// The owner's next ballot.
    pub(super) fn next_led(&self, state: &mut State, config: u8, by: u8) -> Version {
        state.led += 1;
        Version {
            epoch: self.configs[usize::from(config)].epoch,
            round: 0,
            writer: peer(by),
            op: state.led,
        }
    }

    pub(super) fn lead(&self, state: &mut State, op: u8) -> Option<()> {
        let at = self.wanted[usize::from(op)].at;
        let current = state.replicas[usize::from(at)].held;
        let config = state.replicas[usize::from(at)].config;
        if self.is_busy(state, at) {
            return None;
        }
        if !self.condition(op).admits(current.map(register).as_ref()) {
            state.operations[usize::from(op)].phase = Phase::Read(Vec::new());
            return Some(());
        }
        let version = self.next_led(state, config, at);
        if !self.keep_own(state, at, version, op) {
            return self.claim(state, op);
        }
        let operation = &mut state.operations[usize::from(op)];
        operation.base = Some(Base {
            since: version,
            replaces: Some(current.map(|(_, write)| write_id(write))),
        });
        operation.phase = Phase::Store {
            version,
            write: op,
            by: self.kept_by(at),
            ours: true,
        };
        Some(())
    }

    /// The owner stores what it is about to propose; false when a promise forbids it.
    pub(super) fn keep_own(&self, state: &mut State, at: u8, version: Version, write: u8) -> bool {
        let may_restart = state.restarts < self.restarts;
        let replica = &mut state.replicas[usize::from(at)];
        let allowed = self.acceptor(replica).admit(version).is_ok();
        if self.variant == Variant::LeadUnstored {
            return true;
        }
        if allowed {
            let durable = replica.held.replace((version, write));
            replica.unsynced = may_restart.then_some(durable);
        }
        allowed
    }

    pub(super) fn kept_by(&self, owner: u8) -> Vec<u8> {
        let kept = self.variant != Variant::LeadUnstored;
        kept.then_some(owner).into_iter().collect()
    }

    pub(super) fn carry(&self, state: &mut State, op: u8) -> Option<()> {
        let carried = state.operations[usize::from(op)].carried.clone()?;
        let owner = self.owner(carried.config);
        let replica = &state.replicas[usize::from(owner)];
        let able = replica.config == carried.config && self.leads(state, owner);
        let current = replica.held.map(register);
        let admits = self.condition(op).admits(current.as_ref());
        if carried.over || carried.store.is_some() || !able || !admits || self.is_busy(state, owner)
        {
            return None;
        }
        let version = self.next_led(state, carried.config, owner);
        if !self.keep_own(state, owner, version, op) {
            return abandon(state, op);
        }
        let store = Some((version, self.kept_by(owner)));
        state.operations[usize::from(op)].carried.as_mut()?.store = store;
        Some(())
    }

    pub(super) fn serve_carried(&self, state: &mut State, op: u8, n: u8) -> Option<()> {
        let Carried {
            config,
            store,
            over,
        } = state.operations[usize::from(op)].carried.clone()?;
        let (version, by) = store?;
        if over || by.contains(&n) {
            return None;
        }
        self.store(state, n, config, version, op)?;
        let carried = state.operations[usize::from(op)].carried.as_mut()?;
        insert(&mut carried.store.as_mut()?.1, n);
        Some(())
    }

    pub(super) fn carried(&self, state: &mut State, op: u8) -> Option<()> {
        let operation = state.operations[usize::from(op)].clone();
        let Carried {
            config,
            store,
            over,
        } = operation.carried?;
        let (_, by) = store?;
        if over || !self.is_quorum(config, &by) {
            return None;
        }
        abandon(state, op)?;
        // Who has gone on to claim it does not listen any more.
        if operation.phase == Phase::Forward {
            self.answer(state, op, Told::Written)?;
        }
        Some(())
    }
}
