//! The fetcher's side of what peers of a swarm say to each other: following a source, and one turn at it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use peernet_core::key::Key;
use peernet_core::member::PeerId;
use peernet_core::swarm::COME_BACK;
use peernet_core::swarm::fetch::{AskId, Event};
use peernet_proto::v1;
use peernet_proto::v1::swarm_client::SwarmClient;
use peernet_proto::v1::take_request::Step as Say;
use peernet_proto::v1::take_response::Step as Hear;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::super::holding::Holding;
use super::super::on_disk;
use super::super::shelf::Shelf;
use crate::chunks::ChunkError;
use crate::disk::Chunk;
use crate::files::Budget;
use crate::files::cutter::STALL;
use crate::link::{LEAST, Late, Moved, Patience, TRANSFER};
use crate::shares::ShareError;
use crate::transport::MESSAGE_MAX;
use crate::wire::swarm::{Ask, Follow, News, away};
use crate::wire::{Wire, WireError};

/// How long a piece may take: as long as a chunk, and still for as long as a source may be silent.
const PIECE: Patience = Patience {
    still: STALL,
    whole: TRANSFER.whole,
};

/// How often a piece on its way is looked at (guess: a fraction of the time after which a fetch is given up).
const LOOK: Duration = Duration::from_secs(5);

/// What a round hears.
pub(super) enum Note {
    /// For the machine, and what went wrong if something did.
    Event(Event, Option<String>),
    /// This peer's disk.
    Disk(ChunkError),
    /// Who is on record.
    Found(Vec<peernet_core::member::Member>),
}

/// What is fetched, and from which network.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) network: String,
    pub(super) me: PeerId,
    pub(super) content: Key,
    pub(super) holding: Arc<Holding>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) memory: Budget,
    pub(super) notes: mpsc::Sender<Note>,
}

/// Why a source did not do its part.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("it did not answer within {} s", STALL.as_secs())]
    Silent,
    #[error("the piece stood still, or came too slowly")]
    Still,
    #[error("it hung up")]
    HungUp,
    #[error("{}", .0.message())]
    Refused(#[from] Status),
    #[error(transparent)]
    Nonsense(#[from] WireError),
}

/// How a turn ended.
enum Outcome {
    Got,
    ComeBack(u64),
    /// It sent what it should not.
    Lied,
    Disk(ChunkError),
}

impl Subject {
    async fn note(&self, event: Event, reason: Option<String>) {
        // Nobody listens when the round is over.
        let _ = self.notes.send(Note::Event(event, reason)).await;
    }

    /// A turn at a source that cannot be reached.
    pub(super) async fn failed(self, ask: AskId) {
        let reason = "its address is none".to_owned();
        self.note(Event::Failed(ask), Some(reason)).await;
    }

    /// Hears what a source has, until it is gone.
    pub(super) async fn follow(self, peer: PeerId, channel: Channel) {
        let ended = self.hear(peer, channel).await;
        let reason = ended.err().map(|fault| fault.to_string());
        self.note(Event::Gone(peer), reason).await;
    }

    async fn hear(&self, peer: PeerId, channel: Channel) -> Result<(), Fault> {
        let total = self.holding.layout().pieces().len() as u32;
        let request = Follow {
            network_id: self.network.clone(),
            content: self.content,
        };
        let mut client = SwarmClient::new(channel);
        let news = timeout(STALL, client.follow(request.to_wire())).await;
        let mut news = news.map_err(|_| Fault::Silent)??.into_inner();
        while let Some(form) = news.message().await? {
            let event = match News::from_wire(form, total)? {
                News::All(pieces) => Event::Has(peer, pieces),
                News::More(pieces) => Event::More(peer, pieces),
            };
            self.note(event, None).await;
        }
        Ok(())
    }

    /// Waits for a turn at a source, and takes a piece. Hanging up ends the turn.
    pub(super) async fn take(
        self,
        ask: AskId,
        connection: (Channel, Moved),
        want: oneshot::Receiver<Vec<u32>>,
    ) {
        let (event, reason) = match self.exchange(ask, connection, want).await {
            Ok(Outcome::Got) => (Event::Got(ask), None),
            Ok(Outcome::ComeBack(millis)) => (Event::ComeBack(ask, millis), None),
            Ok(Outcome::Lied) => (Event::Wrong(ask), Some("it sent wrong bytes".to_owned())),
            Ok(Outcome::Disk(error)) => {
                let _ = self.notes.send(Note::Disk(error)).await;
                return;
            }
            Err(fault) => (Event::Failed(ask), Some(fault.to_string())),
        };
        self.note(event, reason).await;
    }

    async fn exchange(
        &self,
        ask: AskId,
        (channel, moved): (Channel, Moved),
        want: oneshot::Receiver<Vec<u32>>,
    ) -> Result<Outcome, Fault> {
        let (say, said) = mpsc::channel(2);
        let step = |step| v1::TakeRequest { step: Some(step) };
        let question = Ask {
            network_id: self.network.clone(),
            content: self.content,
            fetcher: self.me,
        };
        // There is room for both.
        let _ = say.send(step(Say::Ask(question.to_wire()))).await;
        let mut client = SwarmClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        let heard = timeout(STALL, client.take(ReceiverStream::new(said))).await;
        let mut heard = heard.map_err(|_| Fault::Silent)??.into_inner();
        // However long the queue is.
        match heard.message().await?.and_then(|h| h.step) {
            Some(Hear::Turn(_)) => {}
            Some(Hear::ComeBackMs(millis)) => return Ok(Outcome::ComeBack(away(millis))),
            Some(Hear::Piece(_) | Hear::Data(_)) => return Ok(Outcome::Lied),
            None => return Err(Fault::HungUp),
        }
        self.note(Event::Turn(ask), None).await;
        let Ok(pieces) = want.await else {
            return Err(Fault::HungUp);
        };
        // Nobody waits at a source that others could use.
        let Some(_memory) = self.memory.take_now(self.largest(&pieces)) else {
            return Ok(Outcome::ComeBack(COME_BACK));
        };
        let _ = say
            .send(step(Say::Want(v1::take_request::Want { pieces })))
            .await;
        let piece = match next(&mut heard).await? {
            Hear::Piece(piece) => piece,
            Hear::ComeBackMs(_) | Hear::Turn(_) | Hear::Data(_) => return Ok(Outcome::Lied),
        };
        // The machine knows whether it was one of those wanted; here it has to exist.
        let Some(reference) = self.holding.layout().pieces().get(piece as usize).copied() else {
            return Ok(Outcome::Lied);
        };
        self.note(Event::Comes(ask, piece), None).await;
        let received = self.receive(&mut heard, reference.len as usize);
        let received = tokio::select! {
            received = received => received?,
            () = Late::new(PIECE, moved.clone()) => return Err(Fault::Still),
            never = stir(&self.holding, &moved) => match never {},
        };
        let Some(data) = received else {
            return Ok(Outcome::Lied);
        };
        let shelf = self.shelf.clone();
        let keep = move || Ok(shelf.arrived(&Chunk::claimed(&reference.key, data)?)?);
        let kept = on_disk(keep).await;
        match kept {
            Ok(()) => {
                self.holding.add(piece);
                Ok(Outcome::Got)
            }
            Err(ShareError::Chunk(ChunkError::Damaged)) => Ok(Outcome::Lied),
            Err(ShareError::Chunk(error)) => Ok(Outcome::Disk(error)),
            Err(error) => Ok(Outcome::Disk(ChunkError::Disk(error.to_string()))),
        }
    }

    /// Bytes of the largest of these.
    fn largest(&self, pieces: &[u32]) -> usize {
        let all = self.holding.layout().pieces();
        let named = pieces.iter().filter_map(|piece| all.get(*piece as usize));
        named.map(|piece| piece.len as usize).max().unwrap_or(0)
    }

    /// So many bytes; `None` when more or something else came.
    async fn receive(
        &self,
        heard: &mut Streaming<v1::TakeResponse>,
        len: usize,
    ) -> Result<Option<Bytes>, Fault> {
        let mut data = BytesMut::with_capacity(len);
        while data.len() < len {
            match step(heard.message().await?)? {
                // Nothing at all would go on for ever.
                Hear::Data(part) if !part.is_empty() && data.len() + part.len() <= len => {
                    self.holding.receive(part.len());
                    data.extend_from_slice(&part);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(data.freeze()))
    }
}

/// Tells those who wait for a content that it comes, as long as its connection carries something: a message of a piece may take
/// longer than their patience. Never ends.
async fn stir(holding: &Holding, moved: &Moved) -> Infallible {
    let mut before = moved.bytes();
    loop {
        sleep(LOOK).await;
        let now = moved.bytes();
        if now - before >= LEAST {
            before = now;
            holding.stir();
        }
    }
}

async fn next(heard: &mut Streaming<v1::TakeResponse>) -> Result<Hear, Fault> {
    let heard = timeout(STALL, heard.message()).await;
    step(heard.map_err(|_| Fault::Silent)??)
}

fn step(heard: Option<v1::TakeResponse>) -> Result<Hear, Fault> {
    heard.and_then(|h| h.step).ok_or(Fault::HungUp)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::shares::holding::Layout;

    #[tokio::test(start_paused = true)]
    async fn a_piece_on_its_way_is_told_of_while_its_connection_carries_something() {
        let (holding, moved) = (Holding::whole(Layout::default()), Moved::default());
        let mut stirs = Box::pin(stir(&holding, &moved));
        assert!(stirs.as_mut().now_or_never().is_none());
        let mut heard = Vec::new();
        for bytes in [LEAST, 0, LEAST - 1, 1] {
            moved.add(bytes as usize);
            tokio::time::advance(LOOK).await;
            assert!(stirs.as_mut().now_or_never().is_none());
            heard.push(holding.stirred());
        }
        assert_eq!(heard, [1, 1, 1, 2]);
    }
}
