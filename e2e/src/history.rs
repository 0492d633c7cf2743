//! Whether what clients saw can have happened: the judge of everything that was written and read while peers came,
//! went and died.
//!
//! Every put, delete and get of a name is recorded with its begin and end. [`check`] then asks, name by name, whether the
//! operations can be put in one order in which each takes effect at some instant between its begin and its end, and each
//! get returns what the last put or delete before it left: linearizability, by Wing and Gong's search with Lowe's memory of states
//! already seen. It implies what the tests promise: an acknowledged put is readable bit for bit ever after, until a later
//! one is, and what was deleted does not come back. What was not acknowledged may take effect at any time from its begin on, or never.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::client::Received as Value;

/// States looked at per name before the search gives up; real histories need a few per operation.
const STATES_MAX: usize = 200_000;
/// Operations shown before the one that does not fit.
const SHOWN: usize = 12;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Put this, or delete the file (`None`). No two puts put the same.
    Set(Option<Value>),
    /// A get that returned this; `None`: there is no such file.
    Got(Option<Value>),
}

/// One put, delete or get. Times count begins and ends of all operations, so that they never tie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Of the file.
    pub name: String,
    /// Which client, where it talked to, or both.
    pub by: String,
    /// What happened.
    pub action: Action,
    /// When it began.
    pub begin: u64,
    /// When it was acknowledged; `None`: it never was.
    pub end: Option<u64>,
}

/// Why a history cannot have happened.
#[derive(Debug, Error)]
pub enum Impossible {
    /// A get returned bytes that nobody had begun to put.
    #[error("{0}\n  returned bytes that nobody ever put under this name")]
    Corrupt(Box<Operation>),
    /// There is no order that explains all operations.
    #[error("{}\n  does not fit: before it\n{}", .misfit, Lines(.before))]
    Unexplained {
        /// The operation at which every attempt to explain the history ends.
        misfit: Box<Operation>,
        /// What precedes it.
        before: Vec<Operation>,
    },
    /// Too many orders to look at them all.
    #[error("the history of {0} is too tangled to be judged")]
    Undecided(String),
}

impl Impossible {
    /// What was acknowledged is gone: a get found nothing although the last word on the file, by all that could be
    /// explained, was a put.
    pub fn is_loss(&self) -> bool {
        self.found(|value, last| value.is_none() && last.is_some())
    }

    /// What was deleted came back: a get found something although the last word on the file was a delete.
    pub fn is_resurrection(&self) -> bool {
        self.found(|value, last| value.is_some() && last.is_none())
    }

    /// The misfit is a get: what it found, and what the last acknowledged put or delete before it left.
    fn found(&self, fits: impl Fn(Option<Value>, Option<Value>) -> bool) -> bool {
        let Impossible::Unexplained { misfit, before } = self else {
            return false;
        };
        let ended = before.iter().filter(|o| o.end < Some(misfit.begin));
        let sets = ended.filter_map(|o| match o.action {
            Action::Set(value) => Some((o.end?, value)),
            Action::Got(_) => None,
        });
        let last = sets.max_by_key(|(end, _)| *end);
        match (misfit.action, last) {
            (Action::Got(value), Some((_, last))) => fits(value, last),
            _ => false,
        }
    }
}

/// Writes a history down while it happens.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    clock: u64,
    operations: Vec<Operation>,
}

/// A put or delete that has begun. Dropped, it counts as never acknowledged.
#[derive(Debug)]
pub struct BegunSet {
    recorder: Recorder,
    index: usize,
}

/// A get that has begun. Dropped, it did not happen: a get that fails says nothing.
#[derive(Debug)]
pub struct BegunGet {
    recorder: Recorder,
    name: String,
    by: String,
    begin: u64,
}

impl Recorder {
    /// Call before the first byte is sent.
    pub fn set(&self, name: &str, by: &str, value: Option<Value>) -> BegunSet {
        let mut record = self.record();
        let begin = record.tick();
        let (name, by, action) = (name.into(), by.into(), Action::Set(value));
        record.operations.push(Operation {
            name,
            by,
            action,
            begin,
            end: None,
        });
        BegunSet {
            recorder: self.clone(),
            index: record.operations.len() - 1,
        }
    }

    /// Call before the request is sent.
    pub fn get(&self, name: &str, by: &str) -> BegunGet {
        let begin = self.record().tick();
        BegunGet {
            recorder: self.clone(),
            name: name.into(),
            by: by.into(),
            begin,
        }
    }

    /// Everything so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.record().operations.clone()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl BegunSet {
    /// It was acknowledged.
    pub fn acknowledged(self) {
        let mut record = self.recorder.record();
        let end = record.tick();
        record.operations[self.index].end = Some(end);
    }

    /// It was a delete, and the answer was that there is no such file, which is what a get might have found.
    pub fn found_nothing(self) {
        let mut record = self.recorder.record();
        let end = record.tick();
        let operation = &mut record.operations[self.index];
        (operation.action, operation.end) = (Action::Got(None), Some(end));
    }
}

impl BegunGet {
    /// The get ended well, or with the word that there is no such file.
    pub fn returned(self, value: Option<Value>) {
        let BegunGet {
            recorder,
            name,
            by,
            begin,
        } = self;
        let mut record = recorder.record();
        let end = Some(record.tick());
        record.operations.push(Operation {
            name,
            by,
            action: Action::Got(value),
            begin,
            end,
        });
    }
}

/// Judges a whole history.
///
/// # Errors
/// The first name whose operations cannot have happened.
pub fn check(operations: &[Operation]) -> Result<(), Impossible> {
    let mut by_name = BTreeMap::<&str, Vec<Operation>>::new();
    for operation in operations {
        by_name
            .entry(&operation.name)
            .or_default()
            .push(operation.clone());
    }
    by_name.into_values().try_for_each(check_name)
}

fn check_name(mut operations: Vec<Operation>) -> Result<(), Impossible> {
    operations.sort_by_key(|o| o.begin);
    let mut seen = HashSet::new();
    for operation in operations
        .iter()
        .filter(|o| matches!(o.action, Action::Got(Some(_))))
    {
        let Action::Got(Some(value)) = operation.action else {
            continue;
        };
        let set = |o: &&Operation| o.action == Action::Set(Some(value));
        match operations.iter().find(set) {
            Some(put) if Some(put.begin) < operation.end => seen.insert(value),
            _ => return Err(Impossible::Corrupt(Box::new(operation.clone()))),
        };
    }
    // What was not acknowledged and nobody saw may as well not have happened.
    operations.retain(|o| match o.action {
        Action::Set(Some(value)) => o.end.is_some() || seen.contains(&value),
        Action::Set(None) => true,
        Action::Got(_) => true,
    });
    Search::new(&operations).run()
}

/// A set of indices.
type Bits = Vec<u64>;

/// Which operations have taken effect, and what the file holds then.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    done: Bits,
    value: Option<Value>,
}

struct Search<'a> {
    operations: &'a [Operation],
    visited: HashSet<State>,
    /// Most acknowledged operations explained so far, and the one that then could not be.
    furthest: (usize, usize),
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        Search {
            operations,
            visited: HashSet::new(),
            furthest: (0, 0),
        }
    }

    fn run(mut self) -> Result<(), Impossible> {
        let done = vec![0; self.operations.len().div_ceil(64)];
        let mut stack = vec![State { done, value: None }];
        while let Some(mut state) = stack.pop() {
            self.take_fitting_gets(&mut state);
            let Some((horizon, next)) = self.horizon(&state.done) else {
                return Ok(());
            };
            if !self.visited.insert(state.clone()) {
                continue;
            }
            if self.visited.len() > STATES_MAX {
                return Err(Impossible::Undecided(self.operations[0].name.clone()));
            }
            let explained = state.done.iter().map(|w| w.count_ones() as usize).sum();
            if explained >= self.furthest.0 {
                self.furthest = (explained, next);
            }
            stack.extend(self.after(&state, horizon));
        }
        let misfit = &self.operations[self.furthest.1];
        let mut before: Vec<_> = self
            .operations
            .iter()
            .filter(|o| o.begin < misfit.begin)
            .cloned()
            .collect();
        before.drain(..before.len().saturating_sub(SHOWN));
        Err(Impossible::Unexplained {
            misfit: Box::new(misfit.clone()),
            before,
        })
    }

    /// What may come next, one state for each put or delete that may take effect now.
    fn after(&self, state: &State, horizon: u64) -> Vec<State> {
        let mut states = Vec::new();
        let mut may_delete = true;
        for (index, operation) in self.open(&state.done, horizon) {
            let Action::Set(value) = operation.action else {
                continue;
            };
            // Of deletes that may happen whenever they like, it does not matter which does.
            let whenever = operation.end.is_none() && value.is_none();
            if whenever && !std::mem::take(&mut may_delete) {
                continue;
            }
            let mut done = state.done.clone();
            done[index / 64] |= 1 << (index % 64);
            states.push(State { done, value });
        }
        states
    }

    /// A get that fits changes nothing, so taking it at once can never be wrong.
    fn take_fitting_gets(&self, state: &mut State) {
        while let Some((horizon, _)) = self.horizon(&state.done) {
            let fits = |(_, o): &(usize, &Operation)| o.action == Action::Got(state.value);
            let Some((index, _)) = self.open(&state.done, horizon).find(fits) else {
                return;
            };
            state.done[index / 64] |= 1 << (index % 64);
        }
    }

    /// The earliest end among acknowledged operations not done, and whose it is: nothing that begins later can come
    /// first. `None` when all are done.
    fn horizon(&self, done: &Bits) -> Option<(u64, usize)> {
        let open = self.open(done, u64::MAX);
        open.filter_map(|(index, o)| Some((o.end?, index))).min()
    }

    fn open(&self, done: &Bits, horizon: u64) -> impl Iterator<Item = (usize, &'a Operation)> {
        let begun = self
            .operations
            .iter()
            .enumerate()
            .take_while(move |(_, o)| o.begin < horizon);
        begun.filter(move |(index, _)| done[index / 64] & (1 << (index % 64)) == 0)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation {
            name,
            by,
            action,
            begin,
            end,
        } = self;
        let end = end.map_or("never".into(), |e| e.to_string());
        let value = |v: &Value| format!("{} ({} bytes)", &v.hash.to_hex()[..8], v.len);
        match action {
            Action::Set(Some(v)) => write!(f, "{begin}..{end} {by}: put {name} = {}", value(v)),
            Action::Set(None) => write!(f, "{begin}..{end} {by}: delete {name}"),
            Action::Got(Some(v)) => write!(f, "{begin}..{end} {by}: got {name} = {}", value(v)),
            Action::Got(None) => write!(f, "{begin}..{end} {by}: got {name} = no such file"),
        }
    }
}

struct Lines<'a>(&'a [Operation]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|o| writeln!(f, "    {o}"))
    }
}

#[cfg(test)]
mod tests;
