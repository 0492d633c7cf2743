//! One chunk that several files have in common: is it ever collected while one of them is live or being read?
//!
//! What a reference's holder concludes ([`judge`]), on what condition a name is written ([`Condition::admits`]) and when
//! a chunk is acknowledged ([`chunk_acknowledged`]) are the functions that ship. Around them anything may happen in any
//! order: a writer stops at any point, and what it has sent arrives later or never; files are deleted and replaced; an
//! upload is ended by a fence at any time (so no clock is believed); replicas of the chunk compare their copies, drop
//! references long after they have found out, or are replaced by a newcomer; replicas of a name restart and forget their
//! readers.
//!
//! That names are linearizable registers is shown in [`crate::names`]. Here a name is a list of values; the last one may
//! have been admitted by a few of its replicas only, and no other follows before a majority has it.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::collect::{Referrer, Upload, Verdict, judge};
use peernet_core::key::Name;
use peernet_core::member::PeerId;
use peernet_core::quorum::{catch_up_quorum, chunk_acknowledged, count, majority};
use peernet_core::register::{Condition, Register, Value, Version, WriteId};
use peernet_core::slot::SlotConfig;
use stateright::{Model, Property};

use crate::report::Tell;

/// The protocol as it ships, or one of the wrong ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// As it ships.
    Shipped,
    /// A replica is asked whether it has the chunk, and told of the reference later.
    CheckThenPin,
    /// The name is written whatever was written since the chunk was pinned.
    Unconditional,
    /// One pinned copy is enough to write the name.
    PinOfOne,
    /// An upload that takes too long is taken for dead, without a fence.
    Clock,
    /// A single replica's word on the name is enough to drop a reference.
    WordOfOne,
    /// Readers are not asked for.
    ReadersIgnored,
    /// A replica that has restarted takes readers it does not know of for gone.
    ReadersForgotten,
    /// With one reference the chunk goes, though others are left.
    OtherReferencesIgnored,
    /// References do not move along, and so neither do chunks.
    ReferencesStay,
    /// A newcomer becomes a replica before it has caught up.
    NewcomerUncompared,
    /// An upload that begins anew keeps its number.
    SameNumber,
}

/// Copies of the chunk before a write is acknowledged.
const WRITE: u32 = 2;
/// Replicas of each name.
const REPLICAS: usize = 3;

/// What may happen.
#[derive(Clone, PartialEq, Debug)]
pub struct Collect {
    /// The name that each upload is for.
    pub uploads: Vec<u8>,
    /// Deletes of each name at most; there are as many names.
    pub deletes: Vec<u8>,
    /// Fences at most.
    pub fences: u8,
    /// How often an upload begins anew with another base.
    pub retries: u8,
    /// Somebody reads the first name.
    pub reader: bool,
    /// Restarts of replicas of the first name, at most.
    pub restarts: u8,
    /// The third replica of the chunk is replaced by a fourth.
    pub moves: bool,
    /// All replicas of the chunk compare their copies, not only a newcomer.
    pub copies: bool,
    /// As it ships, or not.
    pub variant: Variant,
}

/// A value in a name's history: which write, and which upload's.
type Written = (u8, Option<u8>);
/// A reference: which upload, in the place of which write of its name.
type Reference = (u8, Option<u8>);

/// The writer of an upload.
fn writer_of(upload: u8) -> usize {
    usize::from(upload & 0xf)
}

/// A name.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Named {
    history: Vec<Written>,
    /// How much of the history each replica has admitted.
    admitted: [u8; REPLICAS],
    /// Uploads that the replica knows a reader for.
    readers: [BTreeSet<u8>; REPLICAS],
    /// It has restarted since the reader began.
    blind: [bool; REPLICAS],
    deletes: u8,
}

/// A replica of the chunk.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Holder {
    has: bool,
    references: BTreeSet<Reference>,
    /// Found to be over.
    dead: BTreeSet<Reference>,
    /// Answered a writer that it has the chunk.
    told: BTreeSet<Reference>,
}

/// A writer.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Writer {
    /// What it replaces, once it has read the name.
    base: Option<Option<u8>>,
    /// Who has acknowledged the chunk with the present reference, under the present configuration.
    pinned: BTreeSet<u8>,
    /// Enough have.
    durable: bool,
    retries: u8,
    done: bool,
}

/// A reader of the first name.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Reader {
    /// How much of the history each replica said it has.
    heard: BTreeMap<u8, u8>,
    reads: Option<u8>,
    over: bool,
}

/// All there is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    names: Vec<Named>,
    holders: Vec<Holder>,
    writers: Vec<Writer>,
    reader: Reader,
    /// 0: before the move, 1: both sets, 2: after it.
    step: u8,
    /// With whom the newcomer has compared.
    compared: BTreeSet<u8>,
    writes: u8,
    fences: u8,
    restarts: u8,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The writer reads its name.
    Begin(u8),
    /// The chunk (or, for a later reference, only that) arrives at a replica.
    Pin(u8, u8),
    /// A replica is asked whether it has the chunk; only where that is a step of its own.
    Ask(u8, u8),
    /// The writer writes the name.
    Commit(u8),
    /// The name is deleted.
    Delete(u8),
    /// The upload of this reference at this replica of the chunk is ended.
    Fence(u8, Reference),
    /// A replica of a name admits the newest value.
    Admit(u8, u8),
    /// A replica of the chunk looks at a reference; these replicas of the name are heard.
    Look(u8, Reference, u8),
    /// It drops a reference that it knows to be over.
    Drop(u8, Reference),
    /// The first replica of the chunk takes over what it lacks from the second.
    Copy(u8, u8),
    /// The next configuration of the chunk's slot.
    Move,
    /// The reader asks a replica of the first name.
    Read(u8),
    /// The reader is done, and its replicas forget it.
    Done,
    /// A replica of the first name restarts.
    Restart(u8),
}

fn write_id(write: u8) -> WriteId {
    WriteId {
        peer: PeerId(1),
        op: write.into(),
    }
}

fn register(written: Option<&Written>) -> Option<Register> {
    let (write, upload) = written?;
    let number = |u: u8| Upload(u128::from(u) + 1);
    Some(Register {
        name: Name::new("n").expect("a valid name"),
        version: Version::least_of(1),
        write: write_id(*write),
        value: match upload {
            Some(u) => Value::Present {
                head: Default::default(),
                body: Default::default(),
                upload: Some(number(*u)),
            },
            None => Value::Deleted,
        },
        trail: Default::default(),
    })
}

fn referrer((upload, base): Reference) -> Referrer {
    Referrer {
        name: Name::new("n").expect("a valid name"),
        upload: Upload(u128::from(upload) + 1),
        base: base.map(write_id),
    }
}

fn peers(all: impl IntoIterator<Item = u8>) -> Vec<PeerId> {
    all.into_iter().map(|n| PeerId(n.into())).collect()
}

impl Named {
    /// What a replica holds, or with all of them: the newest.
    fn value(&self, admitted: u8) -> Option<&Written> {
        admitted
            .checked_sub(1)
            .map(|at| &self.history[usize::from(at)])
    }

    /// How much of the history a majority has.
    fn decided(&self) -> u8 {
        let mut sorted = self.admitted;
        sorted.sort_unstable();
        sorted[REPLICAS - majority(REPLICAS)]
    }

    fn is_settled(&self) -> bool {
        usize::from(self.decided()) == self.history.len()
    }
}

impl Collect {
    /// The number of a writer's upload, which is a new one each time that it begins anew.
    fn number(&self, u: u8, retries: u8) -> u8 {
        let again = if self.variant == Variant::SameNumber {
            0
        } else {
            retries
        };
        again << 4 | u
    }

    fn config(&self, step: u8) -> SlotConfig {
        let (old, new) = (peers([0, 1, 2]), peers([0, 1, 3]));
        SlotConfig {
            epoch: u64::from(step) + 1,
            replicas: if step < 2 { old } else { new.clone() },
            next: (step == 1).then_some(new),
        }
    }

    /// What the reference's holder concludes from those replicas of the name, one bit each.
    fn verdict(&self, named: &Named, reference: Reference, heard: u8) -> Option<Verdict> {
        let by: Vec<usize> = (0..REPLICAS).filter(|n| heard >> n & 1 == 1).collect();
        let admitted = named.admitted[*by.first()?];
        let needed = match self.variant {
            Variant::WordOfOne => 1,
            _ => majority(REPLICAS),
        };
        if by.len() < needed || by.iter().any(|n| named.admitted[*n] != admitted) {
            return None;
        }
        let knows = |n: &usize| {
            let blind = named.blind[*n] && self.variant != Variant::ReadersForgotten;
            blind || named.readers[*n].contains(&reference.0)
        };
        let read = by.iter().any(knows) && self.variant != Variant::ReadersIgnored;
        let found = register(named.value(admitted));
        match judge(&referrer(reference), found.as_ref(), read) {
            Verdict::Pinned if self.variant == Variant::Clock => Some(Verdict::Dead),
            verdict => Some(verdict),
        }
    }

    fn append(&self, state: &mut State, name: u8, upload: Option<u8>) {
        state.writes += 1;
        let write = state.writes;
        state.names[usize::from(name)].history.push((write, upload));
    }

    fn step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Begin(u) => {
                let named = &state.names[usize::from(self.uploads[usize::from(u)])];
                let base = named.value(named.decided()).map(|(write, _)| *write);
                let writer = &mut state.writers[usize::from(u)];
                writer.base = Some(base);
            }
            Action::Ask(u, at) => {
                let writer = &state.writers[usize::from(u)];
                let reference = (self.number(u, writer.retries), writer.base?);
                let holder = &mut state.holders[usize::from(at)];
                let asked = holder.has && holder.told.insert(reference);
                asked.then_some(())?;
            }
            Action::Pin(u, at) => self.pin(state, u, at)?,
            Action::Commit(u) => self.commit(state, u)?,
            Action::Delete(n) => {
                state.names[usize::from(n)].deletes += 1;
                self.append(state, n, None);
            }
            Action::Fence(_, (upload, base)) => {
                let name = self.uploads[writer_of(upload)];
                let named = &state.names[usize::from(name)];
                let last = named.history.last().copied();
                let condition = Condition::still(base.map(write_id));
                condition
                    .admits(register(last.as_ref()).as_ref())
                    .then_some(())?;
                state.fences += 1;
                self.append(state, name, last.and_then(|(_, upload)| upload));
            }
            Action::Admit(n, at) => {
                let named = &mut state.names[usize::from(n)];
                named.admitted[usize::from(at)] = named.history.len() as u8;
            }
            Action::Look(at, reference, heard) => {
                let named = &state.names[usize::from(self.uploads[writer_of(reference.0)])];
                let verdict = self.verdict(named, reference, heard)?;
                (verdict == Verdict::Dead).then_some(())?;
                state.holders[usize::from(at)].dead.insert(reference);
            }
            Action::Drop(at, reference) => {
                let holder = &mut state.holders[usize::from(at)];
                holder.references.remove(&reference);
                if holder.references.is_empty() || self.variant == Variant::OtherReferencesIgnored {
                    holder.has = false;
                }
            }
            Action::Copy(to, from) => self.copy(state, to, from)?,
            Action::Move => self.go_on(state)?,
            Action::Read(at) => {
                let named = &mut state.names[0];
                let admitted = named.admitted[usize::from(at)];
                if let Some((_, Some(upload))) = named.value(admitted).copied() {
                    named.readers[usize::from(at)].insert(upload);
                }
                state.reader.heard.insert(at, admitted);
                let same = state.reader.heard.values().filter(|a| **a == admitted);
                if same.count() >= majority(REPLICAS) {
                    let upload = state.names[0].value(admitted).and_then(|(_, u)| *u);
                    state.reader.reads = upload;
                    state.reader.over = upload.is_none();
                }
            }
            Action::Done => {
                state.reader.over = true;
                state.reader.reads = None;
                state.names[0].readers = Default::default();
                state.names[0].blind = Default::default();
            }
            Action::Restart(at) => {
                state.restarts += 1;
                state.names[0].readers[usize::from(at)].clear();
                state.names[0].blind[usize::from(at)] = true;
            }
        }
        Some(())
    }

    /// A replica keeps the chunk and the reference in one step; a reference that was sent later than the bytes is kept
    /// only where they are.
    fn pin(&self, state: &mut State, u: u8, at: u8) -> Option<()> {
        let config = self.config(state.step);
        config.involves(PeerId(at.into())).then_some(())?;
        let writer = &mut state.writers[usize::from(u)];
        let holder = &mut state.holders[usize::from(at)];
        let base = writer.base?;
        let reference = (self.number(u, writer.retries), base);
        let first = writer.retries == 0;
        if self.variant == Variant::CheckThenPin {
            // The bytes are sent only to those that do not have them.
            let told = holder.told.contains(&reference);
            (told || (first && !holder.has)).then_some(())?;
            holder.has |= !told;
        } else {
            (first || holder.has).then_some(())?;
            holder.has = true;
        }
        holder.references.insert(reference);
        if !writer.done && !writer.durable {
            writer.pinned.insert(at);
            let pinned = peers(writer.pinned.iter().copied());
            writer.durable =
                chunk_acknowledged(&config, &pinned, WRITE) || self.variant == Variant::PinOfOne;
        }
        Some(())
    }

    fn commit(&self, state: &mut State, u: u8) -> Option<()> {
        let name = self.uploads[usize::from(u)];
        let named = &state.names[usize::from(name)];
        let last = register(named.history.last());
        let writer = &mut state.writers[usize::from(u)];
        let condition = match self.variant {
            Variant::Unconditional => Condition::Always,
            _ => Condition::still(writer.base?.map(write_id)),
        };
        if condition.admits(last.as_ref()) {
            writer.done = true;
            let upload = self.number(u, writer.retries);
            self.append(state, name, Some(upload));
        } else if writer.retries < self.retries {
            // Once more, in the place of what is there now.
            let base = named.value(named.decided()).map(|(write, _)| *write);
            writer.base = Some(base);
            writer.retries += 1;
            writer.pinned.clear();
            writer.durable = false;
        } else {
            writer.done = true;
        }
        Some(())
    }

    fn copy(&self, state: &mut State, to: u8, from: u8) -> Option<()> {
        let theirs = state.holders[usize::from(from)].clone();
        let ours = &mut state.holders[usize::from(to)];
        if self.variant != Variant::ReferencesStay {
            let new = theirs.references.difference(&ours.dead).copied();
            let new: Vec<Reference> = new.collect();
            // A chunk is fetched only for the sake of a reference.
            ours.has |= theirs.has && !new.is_empty();
            ours.references.extend(new);
        }
        if to == 3 {
            state.compared.insert(from);
        }
        Some(())
    }

    fn go_on(&self, state: &mut State) -> Option<()> {
        if state.step == 1 {
            let old = self.config(1).replicas;
            let compared = count(&old, &peers(state.compared.iter().copied()));
            let enough = compared >= catch_up_quorum(old.len(), WRITE);
            (enough || self.variant == Variant::NewcomerUncompared).then_some(())?;
            state.holders[2] = Holder::default();
        }
        state.step += 1;
        // What was acknowledged under another epoch does not count for a write that is not complete.
        for writer in state.writers.iter_mut().filter(|w| !w.durable) {
            writer.pinned.clear();
        }
        Some(())
    }

    fn writers_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let holders = || {
            self.config(state.step)
                .participants()
                .into_iter()
                .map(|id| id.0 as u8)
        };
        for (u, writer) in (0..).zip(&state.writers) {
            if writer.base.is_none() {
                actions.push(Action::Begin(u));
                continue;
            }
            for at in holders() {
                actions.push(Action::Pin(u, at));
                if self.variant == Variant::CheckThenPin {
                    actions.push(Action::Ask(u, at));
                }
            }
            let named = &state.names[usize::from(self.uploads[usize::from(u)])];
            if writer.durable && !writer.done && named.is_settled() {
                actions.push(Action::Commit(u));
            }
        }
    }

    fn holders_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let members = self.config(state.step).participants();
        let members: Vec<u8> = members.into_iter().map(|id| id.0 as u8).collect();
        for at in members.iter().copied() {
            let holder = &state.holders[usize::from(at)];
            for reference in holder.references.iter().copied() {
                if holder.dead.contains(&reference) {
                    actions.push(Action::Drop(at, reference));
                    continue;
                }
                // A third replica that agrees adds nothing.
                let few = match self.variant {
                    Variant::WordOfOne => 1,
                    _ => majority(REPLICAS) as u32,
                };
                let heard = (1..1 << REPLICAS).filter(|heard: &u8| heard.count_ones() == few);
                actions.extend(heard.map(|heard| Action::Look(at, reference, heard)));
                let named = &state.names[usize::from(self.uploads[writer_of(reference.0)])];
                if state.fences < self.fences && named.is_settled() {
                    actions.push(Action::Fence(at, reference));
                }
            }
            let copies = at == 3 || self.copies;
            let others = members.iter().filter(|from| **from != at && copies);
            actions.extend(others.map(|from| Action::Copy(at, *from)));
        }
        if self.moves && state.step < 2 {
            actions.push(Action::Move);
        }
    }
}

impl Model for Collect {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            names: vec![Named::default(); self.deletes.len()],
            holders: vec![Holder::default(); 4],
            writers: vec![Writer::default(); self.uploads.len()],
            reader: Reader::default(),
            step: 0,
            compared: BTreeSet::new(),
            writes: 0,
            fences: 0,
            restarts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.writers_actions(state, actions);
        self.holders_actions(state, actions);
        for (n, named) in (0..).zip(&state.names) {
            if named.deletes < self.deletes[usize::from(n)] && named.is_settled() {
                actions.push(Action::Delete(n));
            }
            let behind =
                |at: &u8| usize::from(named.admitted[usize::from(*at)]) < named.history.len();
            let admit = (0..REPLICAS as u8).filter(behind);
            actions.extend(admit.map(|at| Action::Admit(n, at)));
        }
        if self.reader && !state.reader.over {
            match state.reader.reads {
                Some(_) => actions.push(Action::Done),
                None => {
                    let new = |at: &u8| !state.reader.heard.contains_key(at);
                    actions.extend((0..REPLICAS as u8).filter(new).map(Action::Read));
                }
            }
            if state.restarts < self.restarts {
                actions.extend((0..REPLICAS as u8).map(Action::Restart));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("live chunks stay", |model: &Collect, state: &State| {
                let live = state.names.iter().any(|named| {
                    let values = [named.value(named.decided()), named.history.last()];
                    values
                        .into_iter()
                        .flatten()
                        .any(|(_, upload)| upload.is_some())
                });
                let has = (0..4).filter(|n| state.holders[usize::from(*n)].has);
                // While it moves, the newcomer need not have caught up.
                let step = if state.step == 1 { 0 } else { state.step };
                !live || chunk_acknowledged(&model.config(step), &peers(has), WRITE)
            }),
            Property::always("what is read stays", |_, state: &State| {
                state.reader.reads.is_none() || state.holders.iter().any(|holder| holder.has)
            }),
        ];
        // Most wrong variants break this one first, long before a chunk is lost.
        if matches!(self.variant, Variant::Shipped | Variant::SameNumber) {
            properties.push(Property::always(
                "over is for good",
                |model: &Collect, state: &State| {
                    let mut dead = state.holders.iter().flat_map(|holder| &holder.dead);
                    dead.all(|reference| {
                        let named =
                            &state.names[usize::from(model.uploads[writer_of(reference.0)])];
                        let last = register(named.history.last());
                        judge(&referrer(*reference), last.as_ref(), false) == Verdict::Dead
                    })
                },
            ));
        }
        properties
    }
}

impl Tell for Collect {
    fn tell(&self, _: &State, action: &Action) -> String {
        format!("{action:?}")
    }

    fn tell_end(&self, state: &State) -> String {
        format!("{state:?}")
    }
}
