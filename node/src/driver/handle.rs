//! How the rest of the daemon asks the peer.

use std::sync::Arc;
use std::time::Duration;

use peernet_core::collect::{Referrer, Upload};
use peernet_core::flood::{self, Ask, Cost, Found};
use peernet_core::io::{
    Answer, ChunkOutcome, Given, IndexCost, Input, Request, RequestError, Route, Search, Status,
    Time,
};
use peernet_core::key::{Key, Name, Slot};
use peernet_core::leave::Report;
use peernet_core::member::{Hint, Member, PeerId};
use peernet_core::message::{Listed, Message};
use peernet_core::outbox::{Consumer, Effect};
use peernet_core::recover::Recovery;
use peernet_core::register::{Condition, Register, Value, WriteId};
use peernet_core::share::Offer;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::routes::RouteCache;
use super::seat::Seat;
use super::{Command, Driver};
use crate::chunks::writes::WriteGuard;

/// How long an answer may take. The core gives up on its own after ten seconds; this only catches a thread that is
/// stuck on its volume.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why the peer gave no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// It says so itself.
    #[error(transparent)]
    Refused(#[from] RequestError),
    /// Its volume is stuck.
    #[error("this peer did not answer within {} seconds; its disk may be stuck: ask another peer", DEADLINE.as_secs())]
    Stuck,
    /// It is stopping, or has left.
    #[error("this peer is stopping or has left; ask another peer")]
    Stopped,
    /// A bug.
    #[error("this peer answered something that was not asked; please report this as a bug")]
    Confused,
}

/// What became of a write.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per write, taken apart at once"
)]
pub(crate) enum Written {
    /// A majority has it.
    Done {
        /// In the place of a file; otherwise the name was free.
        replaced: bool,
    },
    /// The condition does not hold of this, which the name holds.
    Unmet(Option<Register>),
}

/// A handle of the peer's thread; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PeerHandle {
    commands: mpsc::Sender<Command>,
    seat: Arc<Seat<Driver>>,
    news: watch::Receiver<u64>,
    routes: Arc<RouteCache>,
}

/// Takes the wanted kind of answer.
macro_rules! expect {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer {
            $pattern => Ok($value),
            _ => Err(PeerError::Confused),
        }
    };
}

impl PeerHandle {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        seat: Arc<Seat<Driver>>,
        news: watch::Receiver<u64>,
        routes: Arc<RouteCache>,
    ) -> Self {
        PeerHandle {
            commands,
            seat,
            news,
            routes,
        }
    }

    /// Changes when the table of members does; ends with the peer.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.clone()
    }

    /// Asks and waits for the answer, at most 15 seconds. [`Answer::Failed`] becomes an error.
    pub(crate) async fn request(&self, request: Request) -> Result<Answer, PeerError> {
        self.request_guarded(request, None).await
    }

    async fn request_guarded(
        &self,
        request: Request,
        guard: Option<WriteGuard>,
    ) -> Result<Answer, PeerError> {
        match self
            .ask(|answer| Command::Request(request, answer, guard))
            .await?
        {
            Answer::Failed(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, PeerError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.give(command(answer)).await?;
            answered.await.map_err(|_| PeerError::Stopped)
        };
        timeout(DEADLINE, asked)
            .await
            .map_err(|_| PeerError::Stuck)?
    }

    /// Tells the peer something; waits while its inbox is full.
    pub(crate) async fn tell(
        &self,
        input: Input,
        guard: Option<WriteGuard>,
    ) -> Result<(), PeerError> {
        self.give(Command::Input(input, guard)).await
    }

    /// Messages came in.
    pub(crate) async fn deliver(
        &self,
        from: PeerId,
        messages: Vec<Message>,
    ) -> Result<(), PeerError> {
        for message in messages {
            let input = Input::Message { from, message };
            self.put(Command::Input(input, None)).await?;
        }
        self.seat.attend();
        Ok(())
    }

    /// Has a command carried out.
    async fn give(&self, command: Command) -> Result<(), PeerError> {
        self.put(command).await?;
        self.seat.attend();
        Ok(())
    }

    /// Puts a command into the inbox, in which it lies until somebody attends to it; waits while the inbox is full.
    async fn put(&self, command: Command) -> Result<(), PeerError> {
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(PeerError::Stopped),
            Err(TrySendError::Full(command)) => {
                self.seat.attend();
                let sent = self.commands.send(command).await;
                sent.map_err(|_| PeerError::Stopped)
            }
        }
    }

    /// Ends the thread after what is already in its inbox.
    pub(crate) async fn stop(&self) {
        // A thread that has ended needs no telling.
        let _ = self.give(Command::Stop).await;
    }

    /// Removes the chunk's file unless it is indexed or being written.
    pub(crate) async fn forget(&self, key: Key) {
        // A thread that has ended leaves the file as a cache.
        let _ = self.give(Command::Forget(key)).await;
    }

    /// Which of these chunks the index names.
    pub(crate) async fn holds(&self, keys: Vec<Key>) -> Result<Vec<bool>, PeerError> {
        self.ask(|answer| Command::Holds(keys, answer)).await
    }

    /// Which chunks of this slot the index names; a few hundred where a peer has a million in 4,096 slots.
    pub(crate) async fn indexed(&self, slot: Slot) -> Result<Vec<Key>, PeerError> {
        self.ask(|answer| Command::Indexed(slot, answer)).await
    }

    /// What a name holds by the copy of this peer alone, if `me` is one of those that hold it: perhaps not the last that was
    /// acknowledged, perhaps what never was. Nothing while this peer is not sure of its copies.
    pub(crate) async fn look_at(
        &self,
        key: Key,
        me: PeerId,
    ) -> Result<Option<Register>, PeerError> {
        let config = self.route(key.slot()).await?.config;
        if !config.is_some_and(|config| config.replicas.contains(&me)) {
            return Ok(None);
        }
        self.ask(|answer| Command::Look(key, answer)).await
    }

    /// What a name holds, read from a majority.
    pub(crate) async fn read_name(&self, name: Name) -> Result<Option<Register>, PeerError> {
        expect!(self.request(Request::ReadName(name)).await?, Answer::Register(register) => register)
    }

    /// The same, for a reader of that upload, or of the one that the name holds now; whether a majority knows of it.
    pub(crate) async fn hold_name(
        &self,
        name: Name,
        upload: Option<Upload>,
    ) -> Result<(Option<Register>, bool), PeerError> {
        let request = Request::HoldName { name, upload };
        expect!(self.request(request).await?, Answer::Held { register, held } => (register, held))
    }

    /// Writes a name at a majority, if the condition holds.
    pub(crate) async fn write_name(
        &self,
        name: Name,
        value: Value,
        condition: Condition,
    ) -> Result<Written, PeerError> {
        let request = Request::WriteName {
            name,
            value,
            condition,
        };
        match self.request(request).await? {
            Answer::Written { replaced, .. } => Ok(Written::Done { replaced }),
            Answer::Unmet(register) => Ok(Written::Unmet(register)),
            _ => Err(PeerError::Confused),
        }
    }

    /// A page of names, and where the next begins.
    pub(crate) async fn list(
        &self,
        prefix: String,
        after: Option<Name>,
        limit: u32,
    ) -> Result<(Vec<Listed>, Option<Name>), PeerError> {
        let request = Request::List {
            prefix,
            after,
            limit,
        };
        expect!(self.request(request).await?, Answer::Names { items, next } => (items, next))
    }

    /// Effects of writes that this consumer has to perform; none when nothing came up for a while.
    pub(crate) async fn effects(
        &self,
        consumer: Consumer,
        limit: u32,
    ) -> Result<Vec<Effect>, PeerError> {
        let request = Request::Effects { consumer, limit };
        expect!(self.request(request).await?, Answer::Effects(effects) => effects)
    }

    /// A consumer has performed the effects of these writes.
    pub(crate) async fn settle(
        &self,
        consumer: Consumer,
        writes: Vec<(Key, WriteId)>,
    ) -> Result<(), PeerError> {
        expect!(self.request(Request::Settle { consumer, writes }).await?, Answer::Done => ())
    }

    /// A page of a search, where the next begins, and what it cost.
    pub(crate) async fn matching(
        &self,
        search: Search,
    ) -> Result<(Vec<Listed>, Option<Key>, IndexCost), PeerError> {
        expect!(
            self.request(Request::Search(search)).await?,
            Answer::Matches { items, next, cost } => (items, next, cost)
        )
    }

    /// Who holds a slot.
    pub(crate) async fn route(&self, slot: Slot) -> Result<Route, PeerError> {
        let routes = self.routes(vec![slot]).await?;
        routes.into_iter().next().ok_or(PeerError::Confused)
    }

    /// Who holds each of these slots, in their order.
    pub(crate) async fn routes(&self, slots: Vec<Slot>) -> Result<Vec<Route>, PeerError> {
        if let Some(known) = self.routes.get(&slots) {
            return Ok(known);
        }
        let (asked, version) = (slots.len(), self.routes.version());
        let routes =
            expect!(self.request(Request::Routes(slots)).await?, Answer::Routes(routes) => routes)?;
        if routes.len() != asked {
            return Err(PeerError::Confused);
        }
        self.routes.keep(version, &routes);
        Ok(routes)
    }

    /// Counts a chunk that is durable here, or should be, with its reference and under the writer's epoch.
    pub(crate) async fn pin_chunk(
        &self,
        key: Key,
        given: Given,
        epoch: u64,
        by: Referrer,
        guard: WriteGuard,
    ) -> Result<ChunkOutcome, PeerError> {
        let request = Request::PinChunk {
            key,
            given,
            epoch,
            by,
        };
        expect!(self.request_guarded(request, Some(guard)).await?, Answer::Chunk(outcome) => outcome)
    }

    /// A chunk's bytes here are missing or wrong.
    pub(crate) async fn chunk_bad(&self, key: Key) -> Result<(), PeerError> {
        expect!(self.request(Request::ChunkBad(key)).await?, Answer::Done => ())
    }

    /// A replica did not take a chunk of this slot.
    pub(crate) async fn missed(&self, slot: Slot, peer: PeerId) -> Result<(), PeerError> {
        expect!(self.request(Request::Missed { slot, peer }).await?, Answer::Done => ())
    }

    /// All members in ring order, this peer included.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, PeerError> {
        expect!(self.request(Request::Members).await?, Answer::Members(members) => members)
    }

    /// The same, each with when its liveness last changed, by the peer's clock.
    pub(crate) async fn registry(&self) -> Result<Vec<(Member, Time)>, PeerError> {
        expect!(self.request(Request::Registry).await?, Answer::Registry(members) => members)
    }

    /// What the peer knows of itself.
    pub(crate) async fn status(&self) -> Result<Status, PeerError> {
        expect!(self.request(Request::Status).await?, Answer::Status(status) => *status)
    }

    /// Publishes a shared file.
    pub(crate) async fn offer(&self, offer: Offer) -> Result<(), PeerError> {
        let request = Request::Flood(flood::Command::Offer(offer));
        expect!(self.request(request).await?, Answer::Done => ())
    }

    /// Publishes it no more.
    pub(crate) async fn withdraw(&self, name: Name) -> Result<(), PeerError> {
        let request = Request::Flood(flood::Command::Withdraw(name));
        expect!(self.request(request).await?, Answer::Done => ())
    }

    /// Searches among shared files.
    pub(crate) async fn search(&self, ask: Ask) -> Result<Found, PeerError> {
        let request = Request::Flood(flood::Command::Search(ask));
        expect!(self.request(request).await?, Answer::Found(found) => found)
    }

    /// Who has announced a content, and what it cost to ask.
    pub(crate) async fn providers(&self, content: Key) -> Result<(Vec<PeerId>, Cost), PeerError> {
        let request = Request::Flood(flood::Command::Providers(content));
        expect!(self.request(request).await?, Answer::Providers { peers, cost, .. } => (peers, cost))
    }

    /// Orders drains: identity, epoch, leaving.
    pub(crate) async fn drain(&self, orders: Vec<(PeerId, u64, bool)>) -> Result<(), PeerError> {
        expect!(self.request(Request::Drain(orders)).await?, Answer::Done => ())
    }

    /// What is said of other peers' processes.
    pub(crate) async fn hint(&self, hints: Vec<(PeerId, Hint)>) -> Result<(), PeerError> {
        expect!(self.request(Request::Hint(hints)).await?, Answer::Done => ())
    }

    /// Gives peers up for good; who of them is alive, in which case nothing was done.
    pub(crate) async fn recover(&self, recovery: Recovery) -> Result<Vec<PeerId>, PeerError> {
        expect!(self.request(Request::Recover(recovery)).await?, Answer::Recovered(alive) => alive)
    }

    /// What the peer can prove about these leavers.
    pub(crate) async fn leave_report(&self, leavers: Vec<PeerId>) -> Result<Report, PeerError> {
        expect!(self.request(Request::LeaveReport(leavers)).await?, Answer::LeaveReport(report) => *report)
    }
}
