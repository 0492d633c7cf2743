//! The other side of a comparison: listing what is here, and sending registers, to whoever asks.
//!
//! Questions come by the hundred, and a full slot's list is megabytes: what no connection would hold is not said at once.
//! So much is answered in one period of [`Timer::Drive`](crate::peer::Timer) as [`ANSWERED`] allows; the other questions
//! wait for their turn, the last of each peer about each slot, and those for which there is no room are asked again.

use std::collections::{BTreeMap, VecDeque};

use super::{Done, Peer};
use crate::config::{ENTRIES, NAMES_BYTES, REFERENCES_BYTES, SYNC_BATCH};
use crate::io::value_len;
use crate::key::{Key, Slot};
use crate::member::PeerId;
use crate::message::{Message, Root};
use crate::store::{Entry, Store, StoreError};

/// Bytes of answers after which the other questions wait, in one period. Guess: tens of megabytes a second, which leaves
/// most of a connection to clients; with one answer more still less than what waits for a connection at most.
const ANSWERED: usize = 2 * 1024 * 1024;
/// Questions that wait: as many as one peer asks at once, 16 KiB each at most.
const QUESTIONS: usize = 2 * SYNC_BATCH;
/// An entry on the wire, without the name of a reference.
const ENTRY_BYTES: usize = 90;

/// A part of a list of entries; see [`Message::SyncReply`].
#[derive(Default)]
pub(in crate::peer) struct Page {
    pub(in crate::peer) entries: Option<Vec<Entry>>,
    pub(in crate::peer) after: Option<Entry>,
    pub(in crate::peer) more: bool,
}

impl Page {
    /// Where to go on, if there is more.
    pub(super) fn last(&self) -> Option<Entry> {
        let last = self.entries.as_ref().and_then(|e| e.last());
        last.filter(|_| self.more).cloned()
    }
}

/// What is asked about a slot.
enum What {
    /// Its entries after this one, under that epoch.
    Entries(u64, Option<Entry>),
    /// These registers.
    Names(Vec<Key>),
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Questions {
    waiting: BTreeMap<(PeerId, Slot), What>,
    /// Those of `waiting`, in the order in which they came.
    order: VecDeque<(PeerId, Slot)>,
    /// Bytes answered in this period.
    answered: usize,
}

impl Questions {
    fn ask(&mut self, from: PeerId, slot: Slot, what: What) {
        if !self.waiting.contains_key(&(from, slot)) {
            if self.waiting.len() == QUESTIONS {
                return;
            }
            self.order.push_back((from, slot));
        }
        self.waiting.insert((from, slot), what);
    }

    /// What is to be answered now.
    fn next(&mut self) -> Option<(PeerId, Slot, What)> {
        if self.answered >= ANSWERED {
            return None;
        }
        let (from, slot) = self.order.pop_front()?;
        let what = self.waiting.remove(&(from, slot));
        what.map(|what| (from, slot, what))
    }
}

impl<S: Store> Peer<S> {
    pub(in crate::peer) fn on_sync_request(
        &mut self,
        from: PeerId,
        items: Vec<(Slot, u64, Root)>,
    ) -> Done {
        let mut newer = Vec::new();
        for (slot, epoch, root) in items {
            let known = self.slots.config(slot).map_or(0, |c| c.epoch);
            if known > epoch {
                newer.extend(self.slots.config(slot).map(|c| (slot, c.clone())));
                continue;
            }
            let mine = self.root(slot)?;
            if known == epoch && mine != root {
                let what = What::Entries(epoch, None);
                self.sync.questions.ask(from, slot, what);
            } else {
                // Under another epoch our entries prove nothing; the asker sends what we have missed and asks again.
                self.reply(from, slot, known, mine, Page::default());
            }
        }
        if !newer.is_empty() {
            self.send(from, Message::Commit { configs: newer });
        }
        self.answer_questions()
    }

    pub(in crate::peer) fn on_sync_more(
        &mut self,
        from: PeerId,
        slot: Slot,
        epoch: u64,
        after: Entry,
    ) -> Done {
        let what = What::Entries(epoch, Some(after));
        self.sync.questions.ask(from, slot, what);
        self.answer_questions()
    }

    pub(in crate::peer) fn on_fetch_names(
        &mut self,
        from: PeerId,
        slot: Slot,
        keys: Vec<Key>,
    ) -> Done {
        self.sync.questions.ask(from, slot, What::Names(keys));
        self.answer_questions()
    }

    /// A new period has begun.
    pub(super) fn answer_more(&mut self) -> Done {
        self.sync.questions.answered = 0;
        self.answer_questions()
    }

    fn answer_questions(&mut self) -> Done {
        while let Some((from, slot, what)) = self.sync.questions.next() {
            self.sync.questions.answered += match what {
                What::Entries(epoch, after) => self.list(from, slot, epoch, after)?,
                What::Names(keys) => self.send_names(from, slot, keys)?,
            };
        }
        Ok(())
    }

    /// Lists entries of a slot, unless its configuration has changed since that was asked for. How many bytes, about.
    fn list(
        &mut self,
        to: PeerId,
        slot: Slot,
        epoch: u64,
        after: Option<Entry>,
    ) -> Result<usize, StoreError> {
        match self.slots.config(slot) {
            Some(config) if config.epoch == epoch => {}
            Some(config) if config.epoch > epoch => {
                let configs = vec![(slot, config.clone())];
                self.send(to, Message::Commit { configs });
                return Ok(0);
            }
            _ => return Ok(0),
        }
        let (root, (page, bytes)) = (self.root(slot)?, self.page(slot, after)?);
        self.reply(to, slot, epoch, root, page);
        Ok(bytes)
    }

    fn reply(&mut self, to: PeerId, slot: Slot, epoch: u64, root: Root, page: Page) {
        let Page {
            entries,
            after,
            more,
        } = page;
        let message = Message::SyncReply {
            slot,
            epoch,
            root,
            entries,
            after,
            more,
        };
        self.send(to, message);
    }

    /// The entries of a slot after that one: at most [`ENTRIES`], and no more than fit a message. With how many bytes they
    /// have, about.
    fn page(&self, slot: Slot, after: Option<Entry>) -> Result<(Page, usize), StoreError> {
        fn place(entry: &Entry) -> (Key, &Entry) {
            (entry.key(), entry)
        }
        let mut entries = self.store.entries(slot)?;
        if let Some(after) = &after {
            entries.retain(|entry| place(entry) > place(after));
        }
        entries.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
        let (mut end, mut bytes) = (0, 0);
        while end < entries.len().min(ENTRIES) && bytes < REFERENCES_BYTES {
            if let Entry::Reference { by, .. } = &entries[end] {
                bytes += by.name.as_str().len() + 64;
            }
            end += 1;
        }
        let more = end < entries.len();
        entries.truncate(end);
        let page = Page {
            entries: Some(entries),
            after,
            more,
        };
        Ok((page, bytes + end * ENTRY_BYTES))
    }

    fn send_names(&mut self, to: PeerId, slot: Slot, keys: Vec<Key>) -> Result<usize, StoreError> {
        let (mut registers, mut marks) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for key in keys.into_iter().filter(|k| k.slot() == slot) {
            if let Some(register) = self.store.register(&key)? {
                bytes += value_len(&register.value) + register.name.as_str().len() + 64;
                bytes += register.trail.size();
                marks.extend(self.store.mark(&key)?.map(|mark| (key, mark)));
                registers.push(register);
            }
            if bytes > NAMES_BYTES {
                break;
            }
        }
        let message = Message::Names {
            slot,
            registers,
            marks,
        };
        self.send(to, message);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_again_is_answered_once_and_in_its_turn() {
        let slot = |n| Slot::new(n).unwrap();
        let mut questions = Questions::default();
        let names = |n: u8| What::Names(vec![Key([n; 32])]);
        questions.ask(PeerId(1), slot(0), names(1));
        questions.ask(PeerId(2), slot(0), names(2));
        questions.ask(PeerId(1), slot(0), names(3));
        let asked = |next: Option<(PeerId, Slot, What)>| match next {
            Some((from, _, What::Names(keys))) => Some((from, keys[0].0[0])),
            _ => None,
        };
        assert_eq!(asked(questions.next()), Some((PeerId(1), 3)));
        questions.answered = ANSWERED;
        assert_eq!(asked(questions.next()), None, "later");
        questions.answered = 0;
        assert_eq!(asked(questions.next()), Some((PeerId(2), 2)));
        assert_eq!(asked(questions.next()), None);
        for n in 0..2 * QUESTIONS {
            questions.ask(PeerId(n as u128), slot(0), names(0));
        }
        assert_eq!(questions.order.len(), QUESTIONS);
        assert_eq!(questions.waiting.len(), QUESTIONS);
    }
}
