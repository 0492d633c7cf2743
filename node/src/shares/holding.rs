//! A content that is here, whole or in part: what it consists of, and which pieces of it there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use peernet_core::key::Key;
use peernet_core::swarm::pieces::Pieces;
use peernet_core::swarm::uploads::Sent;
use tokio::sync::watch;

use super::CHUNKS_MAX;
use crate::files::manifest::{ChunkRef, Manifest, Step, Walk};
use crate::files::record::{Content, RecordError};

/// What a content consists of.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// Its pieces, each once, in the order of the file.
    pieces: Vec<ChunkRef>,
    /// The pieces one after the other make the file.
    order: Vec<u32>,
    /// The nodes of its manifest, without those that are pieces as well.
    nodes: BTreeSet<Key>,
}

/// Builds a layout while nodes come in.
pub(crate) struct Survey {
    walk: Walk,
    layout: Layout,
    known: HashMap<Key, u32>,
}

impl Survey {
    /// Of a manifest.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        Survey {
            walk: Walk::new(manifest, 0..manifest.size()),
            layout: Layout::default(),
            known: HashMap::new(),
        }
    }

    /// The node wanted next; `None` when nothing is wanted any more.
    pub(crate) fn next_node(&mut self) -> Result<Option<Key>, SurveyError> {
        while let Some(step) = self.walk.step()? {
            let Layout {
                pieces,
                order,
                nodes,
            } = &mut self.layout;
            // A small manifest may describe more than there can be: each position counts.
            if order.len() + nodes.len() >= CHUNKS_MAX {
                return Err(SurveyError::TooLarge);
            }
            match step {
                Step::Node(node) => return Ok(Some(node.key)),
                Step::Piece(piece, _) => {
                    let new = pieces.len() as u32;
                    let number = *self.known.entry(piece.key).or_insert(new);
                    if number == new {
                        pieces.push(piece);
                    }
                    order.push(number);
                }
            }
        }
        Ok(None)
    }

    /// The node asked for.
    pub(crate) fn enter(&mut self, key: Key, node: Bytes) -> Result<(), SurveyError> {
        self.layout.nodes.insert(key);
        Ok(self.walk.enter(node)?)
    }

    /// When no node is wanted any more.
    pub(crate) fn done(mut self) -> Layout {
        self.layout
            .nodes
            .retain(|key| !self.known.contains_key(key));
        self.layout
    }
}

/// Why a content cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SurveyError {
    /// Its manifest makes no sense.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// More chunks than a shared file may have.
    #[error("it has more than {CHUNKS_MAX} chunks")]
    TooLarge,
}

impl Layout {
    /// Of a content whose nodes can be read.
    pub(crate) fn of<E: From<SurveyError>>(
        content: &Content,
        read: impl Fn(&Key) -> Result<Bytes, E>,
    ) -> Result<Self, E> {
        let Content::Chunks(manifest) = content else {
            return Ok(Layout::default());
        };
        let mut survey = Survey::new(manifest);
        while let Some(node) = survey.next_node()? {
            survey.enter(node, read(&node)?)?;
        }
        Ok(survey.done())
    }

    /// Its pieces.
    pub(crate) fn pieces(&self) -> &[ChunkRef] {
        &self.pieces
    }

    /// Which pieces, one after the other, make the file.
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Every chunk, each once.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let pieces = self.pieces.iter().map(|piece| piece.key);
        pieces.chain(self.nodes.iter().copied())
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Holding {
    layout: Layout,
    here: watch::Sender<Pieces>,
    sent: Mutex<Sent>,
    /// Bytes that came from other peers, whatever became of them.
    received: AtomicU64,
    /// Grows while a piece is on its way.
    stirred: AtomicU64,
}

impl Holding {
    /// Of that layout, these are here.
    pub(crate) fn new(layout: Layout, here: Pieces) -> Self {
        Holding {
            sent: Mutex::new(Sent::none(here.total())),
            here: watch::Sender::new(here),
            received: AtomicU64::new(0),
            stirred: AtomicU64::new(0),
            layout,
        }
    }

    /// All of that layout is here.
    pub(crate) fn whole(layout: Layout) -> Self {
        let total = layout.pieces.len() as u32;
        Holding::new(layout, Pieces::all(total))
    }

    /// What it consists of.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Which pieces are here.
    pub(crate) fn here(&self) -> Pieces {
        self.here.borrow().clone()
    }

    /// There is something of it to give to others, or nothing that it would take.
    pub(crate) fn has_some(&self) -> bool {
        let here = self.here.borrow();
        here.is_full() || here.count() > 0
    }

    /// Bytes of the pieces that are not here.
    pub(crate) fn missing(&self) -> u64 {
        let here = self.here.borrow();
        let open = self.layout.pieces.iter().zip(0..);
        let open = open.filter(|(_, piece)| !here.has(*piece));
        open.map(|(piece, _)| piece.len).sum()
    }

    /// Bytes of pieces that other peers sent since this peer started, those that came twice or were wrong included.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// So many more came.
    pub(crate) fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stir();
    }

    /// Bytes of a piece move, though they may not be here yet.
    pub(crate) fn stir(&self) {
        self.stirred.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that has grown since the last look if something was on its way meanwhile.
    pub(crate) fn stirred(&self) -> u64 {
        self.stirred.load(Ordering::Relaxed)
    }

    /// Which pieces are here, now and from now on; ends when the content is not here any more.
    pub(crate) fn follow(&self) -> watch::Receiver<Pieces> {
        self.here.subscribe()
    }

    /// A piece is durable here.
    pub(crate) fn add(&self, piece: u32) {
        self.here.send_if_modified(|here| here.insert(piece));
    }

    /// All of it is durable here.
    pub(crate) fn fill(&self) {
        let all = Pieces::all(self.layout.pieces.len() as u32);
        self.here.send_if_modified(|here| {
            let changed = *here != all;
            *here = all;
            changed
        });
    }

    /// A piece cannot be read any more: it is offered to nobody until it is shared anew, or found at the next start.
    pub(crate) fn lose(&self, piece: u32) {
        self.here.send_if_modified(|here| here.remove(piece));
    }

    /// Of the pieces that somebody would take, the one to send.
    pub(crate) fn choose(&self, wanted: &[u32]) -> Option<u32> {
        let here = self.here.borrow();
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.choose(wanted, |piece| here.has(piece))
    }
}
