//! What an operation does with what it has heard.

use peernet_core::register::{after_claim, after_read, is_decided};

use super::{
    Base, Held, Names, Operation, Phase, State, Step, Told, Variant, Version, Want, register,
    write_id,
};

impl Names {
    pub(super) fn decide(&self, state: &mut State, op: u8) -> Option<()> {
        let operation = state.operations[usize::from(op)].clone();
        let config = operation.config;
        match operation.phase {
            Phase::Read(heard) => self.decide_read(state, op, config, &heard),
            Phase::Claim(ballot, heard) => self.decide_claim(state, op, ballot, &heard),
            Phase::Store {
                write, by, ours, ..
            } if self.is_quorum(config, &by) => {
                self.leave_store(state, op);
                let told = if ours {
                    Told::Written
                } else {
                    Told::Holds(Some(write))
                };
                self.answer(state, op, told)
            }
            Phase::New | Phase::Forward | Phase::Store { .. } | Phase::Done => None,
        }
    }

    pub(super) fn decide_read(
        &self,
        state: &mut State,
        op: u8,
        config: u8,
        heard: &[(u8, Held)],
    ) -> Option<()> {
        let (found, holders) = self.greatest(config, heard)?;
        let decided =
            self.variant == Variant::ReadUndecided || self.is_decided(config, found, &holders);
        let epoch = self.configs[usize::from(config)].epoch;
        let step = after_read(found.map(register).as_ref(), decided, epoch)?;
        let is_write = self.wanted[usize::from(op)].want != Want::Read;
        if is_write && self.condition(op).admits(found.map(register).as_ref()) {
            return self.claim(state, op);
        }
        match (step, found) {
            (Step::Settle, Some((version, write))) => {
                state.operations[usize::from(op)].phase = Phase::Store {
                    version,
                    write,
                    by: Vec::new(),
                    ours: false,
                };
                Some(())
            }
            _ => self.answer(state, op, Told::Holds(found.map(|(_, write)| write))),
        }
    }

    pub(super) fn decide_claim(
        &self,
        state: &mut State,
        op: u8,
        ballot: Version,
        heard: &[(u8, Held)],
    ) -> Option<()> {
        let Operation { config, base, .. } = state.operations[usize::from(op)];
        let (mut found, holders) = self.greatest(config, heard)?;
        if self.variant == Variant::AnyOfTheFound {
            found = heard[0].1;
        }
        let decided = self.is_decided(config, found, &holders);
        let is_write = self.wanted[usize::from(op)].want != Want::Read;
        let admits = self.condition(op).admits(found.map(register).as_ref());
        let change = is_write.then_some((write_id(op), admits));
        let base = base.filter(|_| self.variant != Variant::CarriedOutTwice);
        let step = after_claim(found.map(register).as_ref(), decided, change, base);
        let (write, ours) = match (step, found) {
            (Step::Unknown, _) => {
                state.operations[usize::from(op)].phase = Phase::Done;
                return Some(());
            }
            (Step::Apply, _) => {
                let holds = found.map(|(_, write)| write_id(write));
                state.operations[usize::from(op)].base = Some(Base::again(base, ballot, holds));
                (op, true)
            }
            (Step::Settle | Step::Finish, Some((_, write))) => (write, step == Step::Finish),
            _ => {
                let holds = found.map(|(_, write)| write);
                return self.answer(state, op, Told::Holds(holds));
            }
        };
        state.operations[usize::from(op)].phase = Phase::Store {
            version: ballot,
            write,
            by: Vec::new(),
            ours,
        };
        Some(())
    }

    /// Whether what was found is decided; `holders` hold it.
    fn is_decided(&self, config: u8, found: Held, holders: &[u8]) -> bool {
        let agreed = self.is_quorum(config, holders);
        let owner_agrees =
            holders.contains(&self.owner(config)) || self.variant == Variant::ReadWithoutOwner;
        let epoch = self.configs[usize::from(config)].epoch;
        is_decided(found.map(register).as_ref(), agreed, owner_agrees, epoch)
    }

    /// The greatest of what a quorum has told, and who holds it.
    pub(super) fn greatest(&self, config: u8, heard: &[(u8, Held)]) -> Option<(Held, Vec<u8>)> {
        let told: Vec<u8> = heard.iter().map(|(n, _)| *n).collect();
        if !self.is_quorum(config, &told) {
            return None;
        }
        let best = heard.iter().map(|(_, held)| *held).max()?;
        let holders = heard.iter().filter(|(_, held)| *held == best);
        Some((best, holders.map(|(n, _)| *n).collect()))
    }
}
