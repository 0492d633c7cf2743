//! What a peer has to be careful of where writes may be durable late (ADR 27).
//!
//! - *When all is synced*: half a second after the first commit that was not. What chunks have left in the system's
//!   memory is brought to the disk by a thread of its own first ([`Flush`]), so that the peer's thread waits for little.
//! - *What is synced at once*, besides what the store knows itself: all that is known here, before it is told to somebody
//!   who acts on it for good. Of a name, when the question is whether an upload is over: references and chunks are dropped
//!   on that word, and a name that went back afterwards would be a file without its bytes. Of a slot, when it is proved or
//!   said to be held whole: others drop their copies then.
//! - *Who says nothing yet*: a peer that may have forgotten what it acknowledged. Until it has compared its copies with
//!   the other replicas it neither votes on names nor tells of them ([`Gate`]), so that what one peer has forgotten the
//!   others have not.

use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use peernet_core::io::{Answer, Input, Output, Request, RequestId, Time};
use peernet_core::message::Message;
use peernet_core::store::{Store, StoreError};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tracing::{info, warn};

use super::Driver;
use crate::disk::{DiskStore, Late};

/// How often a peer that may have forgotten something looks whether it has caught up. Guess: unnoticed beside a restart.
const LOOK: Duration = Duration::from_millis(200);
/// After so long it speaks even so, since the others may be waiting for it in turn, or gone: most of a minute, in which
/// slots that differ by a second's writes are compared many times over (guess).
const PATIENCE: Duration = Duration::from_secs(45);

/// What the system holds of chunks, on its way to the disk.
#[derive(Default)]
pub(super) enum Flush {
    /// Nothing is.
    #[default]
    Idle,
    /// Ends when it is there, or the thread that does it.
    Runs(oneshot::Receiver<()>),
    /// It was there a moment ago.
    Done,
}

impl Flush {
    /// `ended` is called when it has.
    fn start(late: Arc<Late>, ended: impl FnOnce() + Send + 'static) -> Self {
        let (tell, told) = oneshot::channel();
        let flush = move || {
            if let Err(error) = late.flush() {
                // The peer's own sync says so too, and stops it.
                warn!("chunks could not be brought to the disk: {error}");
            }
            // The peer may be gone.
            let _ = tell.send(());
            ended();
        };
        match thread::Builder::new().name("flush".into()).spawn(flush) {
            Ok(_) => Flush::Runs(told),
            Err(_) => Flush::Done,
        }
    }

    /// Notices that one that ran has ended.
    fn look(&mut self) {
        if let Flush::Runs(told) = self
            && !matches!(told.try_recv(), Err(TryRecvError::Empty))
        {
            *self = Flush::Done;
        }
    }
}

/// Whether this peer says what it knows of names.
pub(super) enum Gate {
    /// It does.
    Open,
    /// It may have forgotten something.
    Shut(Shut),
}

pub(super) struct Shut {
    /// When it speaks at the latest.
    until: Instant,
    /// When it looks again.
    next: Instant,
    asked: Option<RequestId>,
    caught_up: bool,
}

impl Gate {
    pub(super) fn of(store: &DiskStore) -> Result<Self, StoreError> {
        let next = Instant::now();
        Ok(match store.is_behind()? {
            false => Gate::Open,
            true => Gate::Shut(Shut {
                until: next + PATIENCE,
                next,
                asked: None,
                caught_up: false,
            }),
        })
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        match self {
            Gate::Open => None,
            Gate::Shut(shut) => Some(shut.next),
        }
    }

    /// Whether this is our own question.
    pub(super) fn asked(&self, id: RequestId) -> bool {
        matches!(self, Gate::Shut(shut) if shut.asked == Some(id))
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Gate::Open)
    }

    pub(super) fn refuses(&self, request: &Request) -> bool {
        let of_names = matches!(
            request,
            Request::ReadName(_)
                | Request::HoldName { .. }
                | Request::WriteName { .. }
                | Request::List { .. }
        );
        of_names && !self.is_open()
    }
}

impl Driver {
    /// When to begin syncing, unless that has begun.
    pub(super) fn sync_due(&mut self) -> Option<Instant> {
        self.flush.look();
        match self.flush {
            Flush::Runs(_) => None,
            Flush::Idle | Flush::Done => self.peer.store().sync_due(),
        }
    }

    /// Whether something has to be committed before the outputs are performed.
    pub(super) fn waits(&mut self) -> bool {
        self.require_proofs();
        self.peer.store().waits()
    }

    /// What is about to be proved to others has to be on the disk.
    fn require_proofs(&mut self) {
        if self.outputs.iter().any(is_a_proof) {
            self.peer.store().require_sync();
        }
    }

    /// Commits what the batch has written, and what is due, before its outputs are performed.
    pub(super) fn commit(&mut self) -> Result<(), StoreError> {
        self.require_proofs();
        let now = Instant::now();
        if self.sync_due().is_some_and(|due| due <= now) {
            let late = self.peer.store().late();
            match mem::take(&mut self.flush) {
                Flush::Idle if late.waits() => {
                    let seat = self.seat.clone();
                    let look = move || seat.upgrade().into_iter().for_each(|s| s.attend());
                    self.flush = Flush::start(late, look);
                }
                Flush::Idle | Flush::Done => self.peer.store().require_checkpoint(),
                runs @ Flush::Runs(_) => self.flush = runs,
            }
        }
        self.peer.store().commit()
    }

    /// Whether the peer may hear this. What it must not act on is as if it had been lost on the way.
    pub(super) fn admits(&mut self, input: &Input) -> bool {
        let Input::Message { message, .. } = input else {
            return true;
        };
        if let Message::Read {
            about: Some(_),
            hold: false,
            ..
        } = message
        {
            self.peer.store().require_sync();
        }
        let of_names = matches!(
            message,
            Message::Read { .. }
                | Message::Write { .. }
                | Message::Propose { .. }
                | Message::List { .. }
        );
        !of_names || self.gate.is_open()
    }

    /// Asks, now and then, whether what may have been forgotten is here again.
    pub(super) fn look(&mut self, now: Time) -> Result<(), StoreError> {
        let at = Instant::now();
        let Gate::Shut(shut) = &mut self.gate else {
            return Ok(());
        };
        if shut.caught_up || at >= shut.until {
            match shut.caught_up {
                true => info!("compared with the other replicas: this peer tells of names again"),
                false => {
                    warn!("not caught up in {PATIENCE:?}; this peer tells of names all the same")
                }
            }
            self.gate = Gate::Open;
            self.peer.set_forgetful(false);
            return self.peer.store().caught_up();
        }
        if at < shut.next {
            return Ok(());
        }
        self.requests += 1;
        let id = RequestId(self.requests);
        (shut.next, shut.asked) = (at + LOOK, Some(id));
        let request = Request::Status;
        self.handle(Input::Request { id, request }, now)
    }

    /// Hears the answer; the next batch, which begins at once, may act on it.
    pub(super) fn looked(&mut self, answer: &Answer) {
        if let (Gate::Shut(shut), Answer::Status(status)) = (&mut self.gate, answer)
            && status.ready
        {
            (shut.caught_up, shut.next) = (true, Instant::now());
        }
    }
}

/// Whether others give something up on the strength of this.
fn is_a_proof(output: &Output) -> bool {
    let Output::Send { message, .. } = output else {
        return false;
    };
    matches!(message, Message::Proved { .. } | Message::CaughtUp { .. })
}
