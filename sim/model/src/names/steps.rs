//! What can happen to one name, and what comes of it.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use super::{
    Action, Ask, Carried, FIRST, Held, Names, ORPHAN, Operation, Phase, Replica, Sequential, State,
    Told, Variant, Version, peer, peers,
};

impl Names {
    pub(super) fn first(&self) -> State {
        let ballot = |op| Version {
            epoch: 0,
            round: 0,
            writer: peer(0),
            op,
        };
        let held = |n: u8| {
            if self.orphans.contains(&n) {
                Some((ballot(2), ORPHAN))
            } else {
                self.holders.contains(&n).then(|| (ballot(1), FIRST))
            }
        };
        let replica = |n| Replica {
            config: 0,
            promised: None,
            held: held(n),
            compared: Vec::new(),
            fresh: true,
            unsynced: None,
        };
        let operation = Operation {
            phase: Phase::New,
            config: 0,
            base: None,
            claims: 0,
            carried: None,
        };
        let value = (!self.holders.is_empty()).then_some(FIRST);
        let mut history = LinearizabilityTester::new(Sequential(value));
        if !self.orphans.is_empty() {
            // Its client was never answered.
            let orphan = Ask::Write(ORPHAN, None);
            history.on_invoke(ORPHAN, orphan).expect("the first of it");
        }
        State {
            replicas: (0..self.replicas()).map(replica).collect(),
            operations: vec![operation; self.wanted.len()],
            late: Vec::new(),
            decided: 1,
            restarts: 0,
            led: 0,
            history,
            legal: true,
        }
    }

    pub(super) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        let all = || 0..self.replicas();
        // Once everything is answered nothing can go wrong any more.
        if state.operations.iter().all(|o| o.phase == Phase::Done) {
            return;
        }
        for op in 0..self.wanted.len() as u8 {
            self.possible_of(state, op, actions);
        }
        for n in all() {
            let replica = &state.replicas[usize::from(n)];
            for (m, (config, version, _)) in state.late.iter().enumerate() {
                if self.serves(n, state, *config) && replica.held.is_none_or(|h| h.0 < *version) {
                    actions.push(Action::Late(m as u8, n));
                }
            }
            let other =
                |m: &u8| *m != n && state.replicas[usize::from(*m)].config == replica.config;
            actions.extend(all().filter(other).map(|m| Action::Compare(n, m)));
            if replica.config + 1 < state.decided {
                actions.push(Action::Adopt(n));
            }
            if state.restarts < self.restarts {
                actions.push(Action::Restart(n));
            }
            if replica.unsynced.is_some() {
                actions.push(Action::Sync(n));
            }
        }
        if usize::from(state.decided) < self.configs.len() {
            actions.push(Action::Commit);
        }
    }

    pub(super) fn possible_of(&self, state: &State, op: u8, actions: &mut Vec<Action>) {
        let operation = &state.operations[usize::from(op)];
        let told: Vec<u8> = match &operation.phase {
            Phase::New => return actions.push(Action::Start(op)),
            Phase::Read(heard) | Phase::Claim(_, heard) => heard.iter().map(|(n, _)| *n).collect(),
            Phase::Store { by, .. } => by.clone(),
            Phase::Forward | Phase::Done => Vec::new(),
        };
        let open = |by: &[u8], config| {
            let serves = move |n: &u8| self.serves(*n, state, config);
            let silent: Vec<u8> = (0..self.replicas()).filter(|n| !by.contains(n)).collect();
            silent.into_iter().filter(serves)
        };
        if !matches!(operation.phase, Phase::Forward | Phase::Done) {
            let serving = open(&told, operation.config);
            actions.extend(serving.map(|n| Action::Serve(op, n)));
            if self.is_quorum(operation.config, &told) {
                actions.push(Action::Decide(op));
            }
        }
        if operation.phase != Phase::Done && operation.claims < self.claims {
            actions.push(Action::Claim(op));
        }
        match &operation.carried {
            Some(Carried {
                store: None,
                over: false,
                ..
            }) => {
                actions.extend([Action::Carry(op), Action::Abandon(op)]);
            }
            Some(Carried {
                store: Some((_, by)),
                over: false,
                config,
            }) => {
                actions.extend([Action::Carried(op), Action::Abandon(op)]);
                actions.extend(open(by, *config).map(|n| Action::ServeCarried(op, n)));
            }
            Some(_) | None => {}
        }
    }

    /// Does it; `None` when it cannot happen now, or changes nothing.
    pub(super) fn step(&self, state: &mut State, action: Action) -> Option<()> {
        if self.waits(state, action) {
            return None;
        }
        match action {
            Action::Start(op) => self.start(state, op),
            Action::Serve(op, n) => self.serve(state, op, n),
            Action::Carry(op) => self.carry(state, op),
            Action::ServeCarried(op, n) => self.serve_carried(state, op, n),
            Action::Carried(op) => self.carried(state, op),
            Action::Abandon(op) => abandon(state, op),
            Action::Decide(op) => self.decide(state, op),
            Action::Claim(op) => self.claim(state, op),
            Action::Late(m, n) => {
                let (config, version, write) = state.late[usize::from(m)];
                let before = state.replicas[usize::from(n)].held;
                self.store(state, n, config, version, write)?;
                (before != state.replicas[usize::from(n)].held).then_some(())
            }
            Action::Commit => self.commit(state),
            Action::Adopt(n) => {
                let replica = &mut state.replicas[usize::from(n)];
                (replica.config + 1 < state.decided).then_some(())?;
                replica.config += 1;
                replica.compared.clear();
                replica.fresh = true;
                Some(())
            }
            Action::Compare(n, other) => self.compare(state, n, other),
            Action::Sync(n) => {
                state.replicas[usize::from(n)].unsynced = None;
                Some(())
            }
            Action::Restart(n) => self.restart(state, n),
        }
    }

    /// Whether one of those who would do it is waiting for its disk.
    fn waits(&self, state: &State, action: Action) -> bool {
        let asked = |op: u8| self.wanted[usize::from(op)].at;
        let owner = |op: u8| {
            let carried = state.operations[usize::from(op)].carried.as_ref();
            carried.map_or(asked(op), |c| self.owner(c.config))
        };
        let waits = |n: u8| state.replicas[usize::from(n)].unsynced.is_some();
        let hasty = self.variant == Variant::CountUnsynced;
        match action {
            Action::Decide(op) => !hasty && waits(asked(op)),
            Action::Carried(op) => !hasty && waits(owner(op)),
            Action::Start(op) | Action::Claim(op) => waits(asked(op)),
            Action::Carry(op) | Action::Abandon(op) => waits(owner(op)),
            Action::Serve(_, n)
            | Action::ServeCarried(_, n)
            | Action::Late(_, n)
            | Action::Adopt(n) => waits(n),
            Action::Compare(n, other) => waits(n) || waits(other),
            Action::Commit | Action::Sync(_) | Action::Restart(_) => false,
        }
    }

    /// A replica stores something, unless it must not.
    pub(super) fn store(
        &self,
        state: &mut State,
        n: u8,
        config: u8,
        version: Version,
        write: u8,
    ) -> Option<()> {
        if !self.serves(n, state, config) {
            return None;
        }
        let replica = &mut state.replicas[usize::from(n)];
        self.acceptor(replica).admit(version).ok()?;
        replica.held = Some((version, write));
        Some(())
    }

    pub(super) fn serve(&self, state: &mut State, op: u8, n: u8) -> Option<()> {
        let Operation { phase, config, .. } = state.operations[usize::from(op)].clone();
        match phase {
            Phase::Read(mut heard) => {
                let held = self.heard(state, n, config, &heard)?;
                heard.push((n, held));
                heard.sort();
                state.operations[usize::from(op)].phase = Phase::Read(heard);
            }
            Phase::Claim(ballot, mut heard) => {
                let held = self.heard(state, n, config, &heard)?;
                let replica = &mut state.replicas[usize::from(n)];
                self.acceptor(replica).claim(ballot).ok()?;
                replica.promised = Some(ballot);
                heard.push((n, held));
                heard.sort();
                state.operations[usize::from(op)].phase = Phase::Claim(ballot, heard);
            }
            Phase::Store {
                version,
                write,
                mut by,
                ours,
            } => {
                if by.contains(&n) {
                    return None;
                }
                self.store(state, n, config, version, write)?;
                insert(&mut by, n);
                state.operations[usize::from(op)].phase = Phase::Store {
                    version,
                    write,
                    by,
                    ours,
                };
            }
            Phase::New | Phase::Forward | Phase::Done => return None,
        }
        Some(())
    }

    /// What the replica tells that it holds, if it serves and has not told yet.
    pub(super) fn heard(
        &self,
        state: &State,
        n: u8,
        config: u8,
        heard: &[(u8, Held)],
    ) -> Option<Held> {
        let told = heard.iter().any(|(m, _)| *m == n);
        (!told && self.serves(n, state, config)).then(|| state.replicas[usize::from(n)].held)
    }

    /// Under the configuration now known, with a greater round.
    pub(super) fn claim(&self, state: &mut State, op: u8) -> Option<()> {
        let at = self.wanted[usize::from(op)].at;
        let known = state.replicas[usize::from(at)].config;
        if state.operations[usize::from(op)].claims >= self.claims {
            return None;
        }
        self.leave_store(state, op);
        let operation = &mut state.operations[usize::from(op)];
        operation.claims += 1;
        operation.config = known;
        let ballot = Version {
            epoch: self.configs[usize::from(known)].epoch,
            round: operation.claims.into(),
            writer: peer(at),
            op: op.into(),
        };
        operation.phase = Phase::Claim(ballot, Vec::new());
        Some(())
    }

    /// What was asked to be stored may still arrive.
    pub(super) fn leave_store(&self, state: &mut State, op: u8) {
        let Operation { phase, config, .. } = &state.operations[usize::from(op)];
        if let Phase::Store {
            version, write, by, ..
        } = phase
        {
            let all = self.configs[usize::from(*config)].participants();
            if by.len() < all.len() {
                insert(&mut state.late, (*config, *version, *write));
            }
        }
    }

    pub(super) fn answer(&self, state: &mut State, op: u8, told: Told) -> Option<()> {
        state.operations[usize::from(op)].phase = Phase::Done;
        state.history.on_return(op, told).ok()?;
        state.legal = state.history.is_consistent();
        Some(())
    }

    pub(super) fn commit(&self, state: &mut State) -> Option<()> {
        let now = self.configs.get(usize::from(state.decided) - 1)?;
        let next = self.configs.get(usize::from(state.decided))?;
        let current = state.decided - 1;
        let knows = |n: &u8| state.replicas[usize::from(*n)].config == current;
        let informed: Vec<u8> = (0..self.replicas()).filter(knows).collect();
        let informed = peers(&informed);
        let majority = peernet_core::quorum::count(&now.replicas, &informed)
            >= peernet_core::quorum::majority(now.replicas.len());
        // The newcomer of a moving configuration becomes a replica only once it says that it has caught up.
        let ready = match (now.newcomer(), &next.next) {
            (Some(id), None) if next.replicas.contains(&id) => {
                let n = id.0 as u8;
                knows(&n) && self.is_synced(state, n) || self.variant == Variant::NewcomerUncompared
            }
            _ => true,
        };
        if !majority || !ready {
            return None;
        }
        state.decided += 1;
        Some(())
    }

    pub(super) fn compare(&self, state: &mut State, n: u8, other: u8) -> Option<()> {
        let (mine, theirs) = (
            &state.replicas[usize::from(n)],
            &state.replicas[usize::from(other)],
        );
        let config = &self.configs[usize::from(mine.config)];
        let comparable = n != other
            && mine.config == theirs.config
            && config.involves(peer(n))
            && config.involves(peer(other));
        let held = theirs.held;
        if !comparable {
            return None;
        }
        let newer = mine.held < held;
        if newer {
            let (version, _) = held?;
            let allowed = self.acceptor(mine).admit(version).is_ok();
            if !allowed && self.variant != Variant::CopyAgainstPromise {
                return None;
            }
        }
        // Only an owner that may lead and a newcomer have to know that they have compared.
        let matters =
            config.owner() == Some(peer(n)) && mine.fresh || config.newcomer() == Some(peer(n));
        let notes = matters && !mine.compared.contains(&other);
        let replica = &mut state.replicas[usize::from(n)];
        if newer {
            replica.held = held;
        }
        if notes {
            insert(&mut replica.compared, other);
        }
        (newer || notes).then_some(())
    }

    pub(super) fn restart(&self, state: &mut State, n: u8) -> Option<()> {
        if state.restarts >= self.restarts {
            return None;
        }
        state.restarts += 1;
        let replica = &mut state.replicas[usize::from(n)];
        replica.fresh = false;
        replica.compared.clear();
        if let Some(durable) = replica.unsynced.take() {
            replica.held = durable;
        }
        for op in 0..self.wanted.len() as u8 {
            let operation = state.operations[usize::from(op)].clone();
            if self.wanted[usize::from(op)].at == n && operation.phase != Phase::New {
                self.leave_store(state, op);
                state.operations[usize::from(op)].phase = Phase::Done;
            }
            let owner = operation.carried.map(|c| self.owner(c.config));
            if owner == Some(n) {
                abandon(state, op);
            }
        }
        Some(())
    }
}

/// The owner gives up a write that was passed on to it; what it has sent may still arrive.
pub(super) fn abandon(state: &mut State, op: u8) -> Option<()> {
    let carried = state.operations[usize::from(op)].carried.as_mut()?;
    if carried.over {
        return None;
    }
    carried.over = true;
    let config = carried.config;
    if let Some((version, _)) = carried.store.take() {
        insert(&mut state.late, (config, version, op));
    }
    Some(())
}

/// Keeps a list sorted and without duplicates, so that equal states look equal.
pub(super) fn insert<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Err(at) = list.binary_search(&item) {
        list.insert(at, item);
    }
}
