//! Keeps the keyword index: performs the outbox's effects for [`Consumer::Index`] by reading and conditionally writing
//! the nodes of terms' lists. See [`crate::index`].
//!
//! A term is worked on once at a time; what comes for it meanwhile waits and goes together, so that a burst of files
//! with the same term costs one write for many. An effect is settled when all its terms have taken it. What fails is
//! dropped and comes again from the outbox.

use std::collections::{BTreeMap, BTreeSet};

use super::names::Client;
use super::search::Query;
use super::{Done, Peer};
use crate::index::{Node, Path, Posting, updates};
use crate::io::{RequestError, RequestId, Time};
use crate::key::Key;
use crate::member::PeerId;
use crate::message::Outcome;
use crate::outbox::{Consumer, Effect};
use crate::register::{Condition, Register, Value, Version, WriteId};
use crate::store::Store;

/// Effects in hand at once (guess; with [`crate::index::TERMS_MAX`] it bounds memory).
const HAND: usize = 512;
/// Terms worked on at once (guess: one write each, of up to 64 KiB).
const TERMS: usize = 64;
/// How often a node is read again because somebody else has changed it, before the work is dropped. Guess: enough for
/// all peers of a ring to write the same term.
const TRIES: u32 = 32;
/// How long nothing new is taken in hand after something failed, in milliseconds. Guess: a full disk or a lost majority
/// lasts longer, and nobody waits for the index.
const PAUSE: u64 = 1_000;

/// What became of a register operation, and what it cost.
pub(super) struct Step {
    pub(super) outcome: Result<Outcome, RequestError>,
    /// Messages, answers included.
    pub(super) messages: u32,
    /// Others that were asked.
    pub(super) peers: Vec<PeerId>,
}

impl Step {
    pub(super) fn failed(error: RequestError) -> Self {
        Step {
            outcome: Err(error),
            messages: 0,
            peers: Vec::new(),
        }
    }
}

/// What an operation on a node is for.
pub(super) enum Task {
    Update(Update),
    Query(Query),
}

/// An effect on its way into the lists.
struct InHand {
    write: WriteId,
    version: Version,
    /// Terms that have not taken it.
    left: BTreeSet<String>,
}

/// Something to do to a term's list.
enum Work {
    /// These belong at that node or below.
    Apply { path: Path, postings: Vec<Posting> },
    /// All that the node held and `postings` are in the nodes below: it is split, if it still holds what it did.
    Close {
        path: Path,
        split: WriteId,
        condition: Condition,
        postings: Vec<Posting>,
    },
}

/// A term being worked on.
pub(super) struct Update {
    term: String,
    /// All that it will have taken at the end.
    postings: Vec<Posting>,
    /// The last first.
    work: Vec<Work>,
    /// The work under way, and whether it has come to its write.
    current: Option<(Work, bool)>,
    tries: u32,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Index {
    pub(super) tasks: BTreeMap<u64, Task>,
    hand: BTreeMap<Key, InHand>,
    /// Postings that wait, by term.
    queue: BTreeMap<String, Vec<Posting>>,
    /// Terms being worked on.
    busy: BTreeSet<String>,
    done: Vec<(Key, WriteId)>,
    /// Nothing new before.
    rest_until: Time,
}

impl Index {
    /// Who waits for the search that this task belongs to.
    pub(super) fn searched(&self, task: u64) -> Option<RequestId> {
        match self.tasks.get(&task) {
            Some(Task::Query(query)) => Some(query.request),
            _ => None,
        }
    }
}

impl<S: Store> Peer<S> {
    /// Takes effects in hand, begins with terms, settles what is done.
    pub(super) fn drive_index(&mut self) -> Done {
        if !self.settings.effects.has(Consumer::Index) {
            return Ok(());
        }
        let done = std::mem::take(&mut self.index.done);
        if !done.is_empty() {
            self.settle_effects(Consumer::Index, done)?;
        }
        let room = HAND - self.index.hand.len();
        if room > 0 && self.index.rest_until <= self.now {
            for effect in self.effects(Consumer::Index, room)? {
                self.take_in_hand(&effect);
            }
        }
        while self.index.busy.len() < TERMS {
            let busy = &self.index.busy;
            let Some(term) = self
                .index
                .queue
                .keys()
                .find(|t| !busy.contains(*t))
                .cloned()
            else {
                break;
            };
            let postings = self.index.queue.remove(&term).unwrap_or_default();
            self.index.busy.insert(term.clone());
            let all = Work::Apply {
                path: Path::root(&term),
                postings: postings.clone(),
            };
            self.go_on(Update {
                term,
                postings,
                work: vec![all],
                current: None,
                tries: 0,
            })?;
        }
        Ok(())
    }

    fn take_in_hand(&mut self, effect: &Effect) {
        if self.index.hand.contains_key(&effect.key) {
            return;
        }
        let former = effect.former();
        let found = updates(&effect.name, &effect.state, former, self.settings.labels);
        let (write, version) = (effect.state.write, effect.state.version);
        if found.is_empty() {
            self.index.done.push((effect.key, write));
            return;
        }
        let left = found.keys().cloned().collect();
        let in_hand = InHand {
            write,
            version,
            left,
        };
        self.index.hand.insert(effect.key, in_hand);
        for (term, posting) in found {
            self.index.queue.entry(term).or_default().push(posting);
        }
    }

    /// The next piece of work on a term, or the end of it.
    fn go_on(&mut self, mut update: Update) -> Done {
        let Some(work) = update.work.pop() else {
            self.index.busy.remove(&update.term);
            for posting in update.postings {
                self.posted(&update.term, &posting);
            }
            return Ok(());
        };
        let (path, write) = match &work {
            Work::Apply { path, .. } => (path, None),
            Work::Close {
                path,
                split,
                condition,
                ..
            } => (path, Some((Node::Split(*split).value(), *condition))),
        };
        let name = path.register();
        update.current = Some((work, write.is_some()));
        let task = self.fresh_op();
        self.index.tasks.insert(task, Task::Update(update));
        self.start_internal(Client::Index(task), name, write)
    }

    /// The term's list has this posting.
    fn posted(&mut self, term: &str, posting: &Posting) {
        let key = Key::of_name(&posting.name);
        let Some(in_hand) = self.index.hand.get_mut(&key) else {
            return;
        };
        if in_hand.version == posting.version {
            in_hand.left.remove(term);
        }
        if in_hand.left.is_empty() {
            let write = in_hand.write;
            self.index.hand.remove(&key);
            self.index.done.push((key, write));
        }
    }

    /// The outbox offers these again.
    fn drop_update(&mut self, update: Update) {
        self.index.rest_until = self.now.after(PAUSE);
        self.index.busy.remove(&update.term);
        for posting in update.postings {
            self.index.hand.remove(&Key::of_name(&posting.name));
        }
    }

    /// A register operation of a task is over.
    pub(super) fn on_step(&mut self, task: u64, step: Step) -> Done {
        match self.index.tasks.remove(&task) {
            Some(Task::Update(update)) => self.on_update_step(update, step.outcome),
            Some(Task::Query(query)) => self.on_query_step(query, step),
            None => Ok(()),
        }
    }

    fn on_update_step(
        &mut self,
        mut update: Update,
        outcome: Result<Outcome, RequestError>,
    ) -> Done {
        let Some((work, writing)) = update.current.take() else {
            return Ok(());
        };
        match (outcome, writing) {
            (Ok(Outcome::Written { .. }), true) => self.go_on(update),
            (Ok(Outcome::Found(register)), false) => self.on_node(update, work, register),
            (Ok(Outcome::Found(_)), true) if update.tries < TRIES => {
                // Somebody else was faster.
                update.tries += 1;
                let (Work::Apply { path, postings } | Work::Close { path, postings, .. }) = work;
                update.work.push(Work::Apply { path, postings });
                self.go_on(update)
            }
            _ => {
                self.drop_update(update);
                Ok(())
            }
        }
    }

    /// What a node holds: changes it, or goes below.
    fn on_node(&mut self, mut update: Update, work: Work, register: Option<Register>) -> Done {
        let (Work::Apply { path, postings } | Work::Close { path, postings, .. }) = work;
        let condition = match &register {
            Some(register) => Condition::Unchanged(register.write),
            None => Condition::Absent,
        };
        let mut leaf = match Node::of(register.as_ref()) {
            Node::Leaf(leaf) => leaf,
            Node::Split(split) => {
                let children = path.children(split).into_iter().flatten();
                update.work.extend(shares(children, &postings));
                return self.go_on(update);
            }
        };
        let changes = postings.iter().filter(|p| leaf.merge(p)).count();
        if changes == 0 {
            return self.go_on(update);
        }
        let split = WriteId {
            peer: self.me,
            op: self.fresh_op(),
        };
        if leaf.is_too_large()
            && let Some(children) = path.children(split)
        {
            let all: Vec<Posting> = leaf.postings().collect();
            update.work.push(Work::Close {
                path,
                split,
                condition,
                postings,
            });
            update.work.extend(shares(children, &all));
            return self.go_on(update);
        }
        let name = path.register();
        update.current = Some((Work::Apply { path, postings }, true));
        let task = self.fresh_op();
        self.index.tasks.insert(task, Task::Update(update));
        let write = (Node::Leaf(leaf).value(), condition);
        self.start_internal(Client::Index(task), name, Some(write))
    }

    /// Begins a register operation of this peer's own.
    pub(super) fn start_internal(
        &mut self,
        client: Client,
        name: crate::key::Name,
        write: Option<(Value, Condition)>,
    ) -> Done {
        let change = write.map(|(value, condition)| self.change(value, condition));
        self.start_operation(client, name, change, (None, false))
    }
}

/// What of the postings each node has to take.
fn shares(
    nodes: impl IntoIterator<Item = Path>,
    postings: &[Posting],
) -> impl Iterator<Item = Work> {
    nodes.into_iter().filter_map(|path| {
        let covered = |p: &&Posting| path.covers(&Key::of_name(&p.name));
        let postings: Vec<Posting> = postings.iter().filter(covered).cloned().collect();
        (!postings.is_empty()).then_some(Work::Apply { path, postings })
    })
}
