//! The outbox: what an acknowledged write still has to bring about, whatever peer crashes in between.
//!
//! A write of a name has *effects* outside its register: the keyword index follows it, an event tells the world. They
//! must happen at least once and in order per name, so what is pending is committed together with the write (the
//! transactional outbox of Richardson, "Microservices Patterns", 2018, section 3.3.7, kept per name and replicated):
//!
//! - Beside its value a register carries a [`Trail`]: the former states whose effects are not known to be done, oldest
//!   first, after the last one whose effects are. The proposer derives it from the register it replaces.
//! - In the same commit that stores a register, a replica stores a [`Pending`] mark for it: which [`Consumer`]s still have
//!   to see this write. Whoever copies the register copies the mark as the sender has it, so every replica that holds a
//!   write with effects undone has the mark, and the lack of a mark proves that they are done.
//! - The slot's owner lets its consumers perform the effects of writes that are *decided*, then tells the other replicas,
//!   which clear the marks that are still for this write. A new owner finds its own marks and performs what they say
//!   again: effects must be idempotent.
//!
//! [`crate::peer`] has the machine (room `outbox`); the rules are here.

use crate::key::{Key, Name};
use crate::register::{Head, Register, Value, Version, WriteId};

/// Largest trail, in bytes as [`Trail::size`] counts them. Guess: seven states with the longest heads, or a hundred with
/// usual ones, while a register stays well below two pages of the wire's limit.
pub const TRAIL_MAX: usize = 16 * 1024;

/// What a state weighs in a trail besides its head: its version and write on the wire.
const STATE: usize = 96;

/// Who performs effects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Consumer {
    /// The keyword index.
    Index,
    /// Events for the world outside.
    Events,
}

impl Consumer {
    /// All there are.
    pub const ALL: [Consumer; 2] = [Consumer::Index, Consumer::Events];
}

/// A set of consumers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Consumers(u8);

impl Consumers {
    /// Nobody.
    pub const NONE: Consumers = Consumers(0);

    const ALL: u8 = 0b11;

    const fn bit(consumer: Consumer) -> u8 {
        match consumer {
            Consumer::Index => 1,
            Consumer::Events => 2,
        }
    }

    /// These and that one.
    #[must_use]
    pub const fn with(self, consumer: Consumer) -> Self {
        Consumers(self.0 | Self::bit(consumer))
    }

    /// These but for those.
    #[must_use]
    pub const fn without(self, those: Consumers) -> Self {
        Consumers(self.0 & !those.0)
    }

    /// Whether that one is among them.
    pub const fn has(self, consumer: Consumer) -> bool {
        self.0 & Self::bit(consumer) != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As a number: 1 for the index, 2 for events.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From [`Consumers::bits`]; `None` for a number with other bits.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::ALL == 0 {
            Some(Consumers(bits))
        } else {
            None
        }
    }
}

impl From<Consumer> for Consumers {
    fn from(consumer: Consumer) -> Self {
        Consumers::NONE.with(consumer)
    }
}

/// The mark of a register at one replica: the effects of this write are not known to be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pending {
    /// The write that the register holds.
    pub write: WriteId,
    /// Who has not performed its effects. Never empty in a store.
    pub consumers: Consumers,
}

impl Pending {
    /// What is left of the mark once `done` is done; `None` when nothing is.
    pub fn after(self, done: Pending) -> Option<Pending> {
        if done.write != self.write {
            return Some(self);
        }
        let consumers = self.consumers.without(done.consumers);
        (!consumers.is_empty()).then_some(Pending { consumers, ..self })
    }
}

/// A state of a name: what its effects are derived from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// Under which ballot it was proposed. Grows from state to state.
    pub version: Version,
    /// Who wrote it.
    pub write: WriteId,
    /// The value's head; `None`: deleted.
    pub head: Option<Head>,
}

impl State {
    /// What a register holds now.
    pub fn of(register: &Register) -> Self {
        State {
            version: register.version,
            write: register.write,
            head: match &register.value {
                Value::Present { head, .. } => Some(head.clone()),
                Value::Deleted => None,
            },
        }
    }

    fn size(&self) -> usize {
        STATE + self.head.as_ref().map_or(0, |head| head.bytes.len())
    }
}

/// The former states of a name whose effects may be undone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Trail {
    /// The last state whose effects are known to be done; `None` when the name did not exist.
    pub settled: Option<State>,
    /// The states after that, oldest first.
    pub unsettled: Vec<State>,
    /// So many states between the two are left out for want of room: their effects are coalesced into those that follow.
    pub coalesced: u64,
}

impl Trail {
    /// The trail of what replaces `current`, whose effects are known to be done (`settled`) or not. Past [`TRAIL_MAX`]
    /// bytes the oldest unsettled states are left out and counted.
    pub fn after(current: Option<&Register>, settled: bool) -> Self {
        let Some(current) = current.filter(|r| !r.name.is_internal()) else {
            return Trail::default();
        };
        let state = State::of(current);
        if settled {
            return Trail {
                settled: Some(state),
                ..Trail::default()
            };
        }
        let mut trail = Trail::clone(&current.trail);
        trail.unsettled.push(state);
        let mut excess = trail.size().saturating_sub(TRAIL_MAX);
        let mut dropped = 0;
        while excess > 0 && dropped < trail.unsettled.len() {
            excess = excess.saturating_sub(trail.unsettled[dropped].size());
            dropped += 1;
        }
        trail.unsettled.drain(..dropped);
        trail.coalesced = trail.coalesced.saturating_add(dropped as u64);
        trail
    }

    /// Whether the state that was replaced was a file. Nothing of a name that the network uses itself has a trail.
    pub fn ends_in_file(&self) -> bool {
        let last = self.unsettled.last().or(self.settled.as_ref());
        last.is_some_and(|state| state.head.is_some())
    }

    /// Bytes it takes in a register, about.
    pub fn size(&self) -> usize {
        let states = self.settled.iter().chain(&self.unsettled);
        states.map(State::size).sum()
    }
}

/// Effects to be performed: those of all states after the trail's settled one, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effect {
    /// The name's key.
    pub key: Key,
    /// The name.
    pub name: Name,
    /// How it came to its state; see [`Trail`].
    pub trail: Trail,
    /// What the name holds. Its write is what to settle when all is done.
    pub state: State,
}

impl Effect {
    /// Of a register.
    pub fn of(register: &Register) -> Self {
        Effect {
            key: Key::of_name(&register.name),
            name: register.name.clone(),
            trail: Trail::clone(&register.trail),
            state: State::of(register),
        }
    }

    /// The states whose effects may be undone, oldest first; the last is what the name holds.
    pub fn states(&self) -> impl DoubleEndedIterator<Item = &State> {
        self.trail.unsettled.iter().chain([&self.state])
    }

    /// The states that are no more: the settled one first.
    pub fn former(&self) -> impl Iterator<Item = &State> {
        self.trail.settled.iter().chain(&self.trail.unsettled)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::member::PeerId;

    fn register(op: u64, trail: Trail) -> Register {
        Register {
            name: Name::new("f").unwrap(),
            version: Version {
                op,
                ..Version::least_of(1)
            },
            write: WriteId {
                peer: PeerId(1),
                op,
            },
            value: Value::Present {
                head: Bytes::from(vec![0; 2_000]).into(),
                body: Bytes::new(),
                upload: None,
            },
            trail: trail.into(),
        }
    }

    #[test]
    fn a_trail_begins_with_the_last_state_that_is_settled() {
        assert_eq!(Trail::after(None, false), Trail::default());
        let first = register(1, Trail::default());
        let second = register(2, Trail::after(Some(&first), true));
        assert_eq!(second.trail.settled, Some(State::of(&first)));
        let third = register(3, Trail::after(Some(&second), false));
        assert_eq!(third.trail.settled, Some(State::of(&first)));
        assert_eq!(third.trail.unsettled, [State::of(&second)]);
        let writes = |e: &Effect| e.states().map(|s| s.write.op).collect::<Vec<_>>();
        assert_eq!(writes(&Effect::of(&third)), [2, 3]);
    }

    #[test]
    fn a_trail_that_is_full_counts_what_it_leaves_out() {
        let mut now = register(1, Trail::default());
        for op in 2..100 {
            now = register(op, Trail::after(Some(&now), false));
            assert!(now.trail.size() <= TRAIL_MAX);
        }
        let kept: Vec<u64> = now.trail.unsettled.iter().map(|s| s.write.op).collect();
        assert_eq!(kept.last(), Some(&98));
        assert!(kept.is_sorted());
        assert_eq!(now.trail.coalesced + kept.len() as u64, 98);
    }

    #[test]
    fn a_mark_is_cleared_only_by_what_it_is_for() {
        let write = |op| WriteId {
            peer: PeerId(1),
            op,
        };
        let both = Consumers::from(Consumer::Index).with(Consumer::Events);
        let mark = Pending {
            write: write(2),
            consumers: both,
        };
        let done = |op, consumer: Consumer| Pending {
            write: write(op),
            consumers: consumer.into(),
        };
        assert_eq!(mark.after(done(1, Consumer::Index)), Some(mark));
        let left = mark.after(done(2, Consumer::Index));
        assert_eq!(left, Some(done(2, Consumer::Events)));
        assert_eq!(left.and_then(|m| m.after(done(2, Consumer::Events))), None);
        assert_eq!(Consumers::from_bits(4), None);
    }
}
