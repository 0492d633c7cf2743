//! How a slot could forget a deletion (ADR 26, which is not built): the rules are this model's own, only quorums and
//! configurations are those that ship.
//!
//! One name that was written and is deleted once, while its slot passes from one replica to another and back. Requests to store
//! are served at any time or never; copies are compared, proved and taken over at any time; who has left keeps its frozen copy
//! for ever. Once the deletion is acknowledged no quorum may find the value again.

use peernet_core::member::PeerId;
use peernet_core::quorum::{catch_up_quorum, count, has_majority, majority};
use peernet_core::slot::SlotConfig;
use stateright::{Model, Property};

use crate::report::Tell;

/// The proposed rules, or wrong ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    /// As proposed.
    Proposed,
    /// A replica forgets a deletion that it alone finds old enough.
    ByAge,
    /// A majority that holds the same suffices to draw the horizon.
    Majority,
    /// A deletion of the present epoch is forgotten too.
    SameEpoch,
    /// Frozen copies are taken over from below the horizon.
    FrozenBelow,
    /// A newcomer keeps what lies below the horizon that it takes over.
    NewcomerKeeps,
    /// A reader believes what one replica holds and another knows to be dead.
    HeardBelow,
}

/// A name and the configurations of its slot, in order.
#[derive(Clone, PartialEq, Debug)]
pub struct Forget {
    /// All configurations; the first is in force at the beginning, and all know it.
    pub configs: Vec<SlotConfig>,
    /// By which rules.
    pub rules: Rules,
}

/// What a copy says: the epoch of its ballot, and whether it is the deletion, which is decided after the value.
type Copy = Option<(u64, bool)>;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Replica {
    /// Index of the configuration it knows.
    config: u8,
    copy: Copy,
    /// What was written under an epoch below this, and is not held here, is dead.
    horizon: u64,
    /// As a newcomer: whom it has compared with.
    compared: Vec<u8>,
}

/// All there is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    replicas: Vec<Replica>,
    /// How many configurations are decided.
    decided: u8,
    /// The deletion: under which configuration, and who has stored it.
    deletion: Option<(u8, Vec<u8>)>,
    /// It is acknowledged.
    deleted: bool,
    /// Configurations whose replicas were seen to hold the same.
    agreed: Vec<u8>,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The next configuration is decided.
    Commit,
    /// This replica learns of the next one.
    Adopt(u8),
    /// Somebody deletes the name, under this configuration.
    Delete(u8),
    /// This replica stores the deletion.
    Store(u8),
    /// A request to store the value, from before the deletion, arrives.
    Late(u8),
    /// The deletion is acknowledged.
    Acknowledge,
    /// The first takes over what the second holds, both being of one configuration.
    Compare(u8, u8),
    /// The first takes over what the second holds as a frozen copy.
    Prove(u8, u8),
    /// Replicas of this configuration are seen to hold the same.
    Agree(u8),
    /// This replica draws the horizon and forgets.
    Forget(u8),
}

fn peer(n: u8) -> PeerId {
    PeerId(n.into())
}

fn peers(all: impl IntoIterator<Item = u8>) -> Vec<PeerId> {
    all.into_iter().map(peer).collect()
}

impl Forget {
    fn size(&self) -> u8 {
        let all = self.configs.iter().flat_map(SlotConfig::participants);
        all.map(|id| id.0 as u8 + 1).max().unwrap_or(0)
    }

    fn config(&self, index: u8) -> &SlotConfig {
        &self.configs[usize::from(index)]
    }

    fn takes_part(&self, state: &State, n: u8) -> bool {
        self.config(state.replicas[usize::from(n)].config)
            .involves(peer(n))
    }

    fn commit(&self, state: &mut State) -> Option<()> {
        let now = self.config(state.decided - 1);
        self.configs.get(usize::from(state.decided))?;
        let knows = |n: &u8| state.replicas[usize::from(*n)].config == state.decided - 1;
        let informed = peers((0..self.size()).filter(knows));
        let caught_up = |id: PeerId| {
            let newcomer = &state.replicas[id.0 as usize];
            let met = count(&now.replicas, &peers(newcomer.compared.iter().copied()));
            informed.contains(&id) && met >= catch_up_quorum(now.replicas.len(), 2)
        };
        let ready = now.newcomer().is_none_or(caught_up);
        if !ready || count(&now.replicas, &informed) < majority(now.replicas.len()) {
            return None;
        }
        state.decided += 1;
        Some(())
    }

    fn store(&self, state: &mut State, n: u8, config: u8, deletion: bool) -> Option<()> {
        let copy = Some((self.config(config).epoch, deletion));
        let replica = &mut state.replicas[usize::from(n)];
        let serves = replica.config == config && self.config(config).involves(peer(n));
        if !serves || replica.copy >= copy {
            return None;
        }
        replica.copy = copy;
        Some(())
    }

    fn compare(&self, state: &mut State, n: u8, other: u8) -> Option<()> {
        let theirs = state.replicas[usize::from(other)].clone();
        let config = self.config(theirs.config);
        let both = self.takes_part(state, n) && self.takes_part(state, other);
        let mine = &mut state.replicas[usize::from(n)];
        if n == other || !both || mine.config != theirs.config {
            return None;
        }
        let before = mine.clone();
        let outlived =
            |(epoch, _): (u64, bool)| epoch < theirs.horizon && theirs.copy < before.copy;
        if self.rules != Rules::NewcomerKeeps && mine.copy.is_some_and(outlived) {
            mine.copy = None;
        }
        mine.horizon = mine.horizon.max(theirs.horizon);
        let dead = |(epoch, _): (u64, bool)| epoch < before.horizon && before.copy < theirs.copy;
        if !theirs.copy.is_some_and(dead) {
            mine.copy = mine.copy.max(theirs.copy);
        }
        if config.newcomer() == Some(peer(n)) && !mine.compared.contains(&other) {
            mine.compared.push(other);
            mine.compared.sort_unstable();
        }
        (*mine != before).then_some(())
    }

    fn prove(&self, state: &mut State, n: u8, other: u8) -> Option<()> {
        let theirs = state.replicas[usize::from(other)].clone();
        let frozen = !self.takes_part(state, other);
        if !frozen || !self.takes_part(state, n) {
            return None;
        }
        let mine = &mut state.replicas[usize::from(n)];
        let (epoch, _) = theirs.copy?;
        let dead = epoch < mine.horizon && self.rules != Rules::FrozenBelow;
        if dead || mine.config < theirs.config || mine.copy >= theirs.copy {
            return None;
        }
        mine.copy = theirs.copy;
        Some(())
    }

    fn agree(&self, state: &mut State, index: u8) -> Option<()> {
        let config = self.config(index);
        if config.next.is_some() || state.agreed.contains(&index) {
            return None;
        }
        let here = |n: &u8| state.replicas[usize::from(*n)].config == index;
        let all = || (0..self.size()).filter(|n| config.replicas.contains(&peer(*n)));
        let first = |n: u8| state.replicas[usize::from(n)].copy;
        let same = |n: u8| all().filter(here).filter(|m| first(*m) == first(n)).count();
        let most = all().filter(here).map(same).max().unwrap_or(0);
        let needed = match self.rules {
            Rules::Majority => majority(config.replicas.len()),
            _ => config.replicas.len(),
        };
        (most >= needed).then(|| {
            state.agreed.push(index);
            state.agreed.sort_unstable();
        })
    }

    fn forget(&self, state: &mut State, n: u8) -> Option<()> {
        let takes_part = self.takes_part(state, n);
        let replica = &mut state.replicas[usize::from(n)];
        let epoch = self.config(replica.config).epoch;
        let old = replica
            .copy
            .is_some_and(|(written, deletion)| deletion && written < epoch);
        if self.rules == Rules::ByAge {
            return old.then(|| replica.copy = None);
        }
        if !takes_part || !state.agreed.contains(&replica.config) || replica.horizon >= epoch {
            return None;
        }
        replica.horizon = epoch;
        let deletion = replica.copy.is_some_and(|(_, deletion)| deletion);
        if old || (deletion && self.rules == Rules::SameEpoch) {
            replica.copy = None;
        }
        Some(())
    }

    /// Whether a quorum of some configuration that is or was in force finds the value.
    fn is_found(&self, state: &State) -> bool {
        let quorum = |index: u8, told: &[u8]| {
            let knows = |n: &u8| state.replicas[usize::from(*n)].config == index;
            told.iter().all(knows) && has_majority(self.config(index), &peers(told.to_vec()))
        };
        let sets = (0..1u16 << self.size()).map(|bits| {
            let all = (0..self.size()).filter(move |n| bits & (1 << n) != 0);
            all.collect::<Vec<u8>>()
        });
        let sets: Vec<Vec<u8>> = sets.collect();
        let mut asked =
            (0..state.decided).flat_map(|index| sets.iter().map(move |set| (index, set)));
        asked.any(|(index, told)| {
            let told: Vec<u8> = told
                .iter()
                .copied()
                .filter(|n| self.config(index).involves(peer(*n)))
                .collect();
            quorum(index, &told) && matches!(self.found(state, &told), Some((_, false)))
        })
    }

    /// The newest of what these hold and nobody of them knows to be dead.
    fn found(&self, state: &State, told: &[u8]) -> Copy {
        let heard = || told.iter().map(|n| &state.replicas[usize::from(*n)]);
        let buried = |copy: (u64, bool)| {
            let buries = |r: &Replica| copy.0 < r.horizon && r.copy < Some(copy);
            self.rules != Rules::HeardBelow && heard().any(buries)
        };
        heard()
            .map(|r| r.copy.filter(|copy| !buried(*copy)))
            .max()
            .flatten()
    }
}

impl Model for Forget {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let first = self.config(0);
        // One replica has missed the value.
        let copy =
            |n: u8| (first.replicas.contains(&peer(n)) && n > 0).then_some((first.epoch, false));
        let replica = |n| Replica {
            config: 0,
            copy: copy(n),
            horizon: 0,
            compared: Vec::new(),
        };
        vec![State {
            replicas: (0..self.size()).map(replica).collect(),
            decided: 1,
            deletion: None,
            deleted: false,
            agreed: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let all = || 0..self.size();
        actions.extend([Action::Commit, Action::Acknowledge]);
        let one = |n| {
            [
                Action::Adopt(n),
                Action::Store(n),
                Action::Late(n),
                Action::Forget(n),
            ]
        };
        actions.extend(all().flat_map(one));
        actions.extend((0..state.decided).flat_map(|c| [Action::Delete(c), Action::Agree(c)]));
        let two = all().flat_map(|n| all().map(move |m| (n, m)));
        actions.extend(two.flat_map(|(n, m)| [Action::Compare(n, m), Action::Prove(n, m)]));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Commit => self.commit(&mut next)?,
            Action::Adopt(n) => {
                let replica = &mut next.replicas[usize::from(n)];
                (replica.config + 1 < state.decided).then_some(())?;
                replica.config += 1;
                replica.compared.clear();
            }
            Action::Delete(config) => {
                // Whoever deletes has found the value, at a quorum of that configuration.
                let knows = |n: &u8| state.replicas[usize::from(*n)].config == config;
                let informed = peers((0..self.size()).filter(knows));
                let able = has_majority(self.config(config), &informed);
                (state.deletion.is_none() && able).then_some(())?;
                next.deletion = Some((config, Vec::new()));
            }
            Action::Store(n) => {
                let (config, by) = state.deletion.clone()?;
                (!by.contains(&n)).then_some(())?;
                self.store(&mut next, n, config, true)?;
                let (_, by) = next.deletion.as_mut()?;
                by.push(n);
                by.sort_unstable();
            }
            Action::Late(n) => self.store(&mut next, n, 0, false)?,
            Action::Acknowledge => {
                let (config, by) = state.deletion.as_ref()?;
                let decided = has_majority(self.config(*config), &peers(by.iter().copied()));
                (decided && !state.deleted).then_some(())?;
                next.deleted = true;
            }
            Action::Compare(n, other) => self.compare(&mut next, n, other)?,
            Action::Prove(n, other) => self.prove(&mut next, n, other)?,
            Action::Agree(config) => self.agree(&mut next, config)?,
            Action::Forget(n) => self.forget(&mut next, n)?,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(
            "deleted stays deleted",
            |model: &Forget, state: &State| !state.deleted || !model.is_found(state),
        )]
    }
}

impl Tell for Forget {
    fn tell(&self, _: &State, action: &Action) -> String {
        format!("{action:?}")
    }

    fn tell_end(&self, state: &State) -> String {
        format!("{:?}", state.replicas)
    }
}
