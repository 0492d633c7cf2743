//! `Swarm`: pieces of shared contents for other peers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use peernet_core::share::Wanted;
use peernet_core::swarm::COME_BACK;
use peernet_core::swarm::pieces::Pieces;
use peernet_proto::v1;
use peernet_proto::v1::take_request::Step as Hear;
use peernet_proto::v1::take_response::Step as Say;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::chunks::PART;
use super::status::{check_network, not_serving, of_share, of_wire};
use crate::daemon::{Life, Running};
use crate::files::STALL;
use crate::shares::Kept;
use crate::wire::Wire;
use crate::wire::swarm::{Ask, Follow, MORE_MAX, News, wanted};

/// Followers of one peer's contents at once (guess: a large swarm for some contents).
const FOLLOWERS: usize = 1_024;
/// Turns asked for and under way: bounds the calls, of which few are served and some wait.
const TAKERS: usize = 1_024;
/// What is new is told so much later, together (guess: short against a piece's time on a slow link), and again so much later
/// unless it is much ([`is_much`]): each of N fetchers tells each other one of each piece. Measured with 32 of them (`dev/bench
/// --swarm`, one run each, on a busy machine): what links carried beyond the file fell from 12.0 % to 9.8 % of it; CPU did not.
const NEWS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
/// News are much when they are one piece in so many of what was told before (guess).
const MUCH: u32 = 16;
/// How long a fetcher may take to name pieces once its turn has come, and how long to take in one (guess: 1 MiB at
/// 35 KB/s).
const PATIENCE: Duration = STALL;

pub(super) struct Swarm {
    life: Arc<Life>,
    followers: Arc<Semaphore>,
    takers: Arc<Semaphore>,
}

impl Swarm {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Swarm {
            life,
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            takers: Arc::new(Semaphore::new(TAKERS)),
        }
    }

    fn member(&self, network: &str) -> Result<Arc<Running>, Status> {
        let running = self.life.member().map_err(not_serving)?;
        check_network(network, &running.network)?;
        Ok(running)
    }
}

fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    let place = places.clone().try_acquire_owned();
    place.map_err(|_| {
        Status::resource_exhausted("this peer serves as many others as it can; try again")
    })
}

fn kept(running: &Running, content: peernet_core::key::Key) -> Result<Kept, Status> {
    let kept = running.shares.kept(&Wanted::Content(content));
    kept.ok_or_else(|| Status::not_found("this peer does not share it"))
}

#[tonic::async_trait]
impl v1::swarm_server::Swarm for Swarm {
    type FollowStream = BoxStream<'static, Result<v1::FollowResponse, Status>>;

    async fn follow(
        &self,
        request: Request<v1::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let Follow {
            network_id,
            content,
        } = Follow::from_wire(request.into_inner(), "FollowRequest").map_err(of_wire)?;
        let running = self.member(&network_id)?;
        let place = place(&self.followers)?;
        let here = kept(&running, content)?.1.follow();
        let (tell, told) = mpsc::channel(1);
        let life = self.life.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = tell_pieces(here, &tell) => {}
                () = tell.closed() => {}
                // It must not hold up the end of the server.
                () = life.stops() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(told).map(Ok).boxed()))
    }

    type TakeStream = BoxStream<'static, Result<v1::TakeResponse, Status>>;

    async fn take(
        &self,
        request: Request<Streaming<v1::TakeRequest>>,
    ) -> Result<Response<Self::TakeStream>, Status> {
        let place = place(&self.takers)?;
        let mut heard = request.into_inner();
        let Hear::Ask(ask) = next(&mut heard).await? else {
            return Err(Status::invalid_argument(
                "a turn begins with a question for it",
            ));
        };
        let ask = Ask::from_wire(ask, "TakeRequest.ask").map_err(of_wire)?;
        let running = self.member(&ask.network_id)?;
        kept(&running, ask.content)?;
        let (say, said) = mpsc::channel(1);
        let life = self.life.clone();
        tokio::spawn(async move {
            let _place = place;
            let serve = serve(&running, ask, heard, &say);
            let served = tokio::select! {
                served = serve => served,
                () = say.closed() => Ok(()),
                () = life.stops() => Err(Status::unavailable("this peer is stopping")),
            };
            if let Err(status) = served {
                // The fetcher may be gone.
                let _ = say.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(said).boxed()))
    }
}

/// Tells which pieces are here, until there is nobody to tell or nothing here any more.
async fn tell_pieces(mut here: watch::Receiver<Pieces>, tell: &mpsc::Sender<v1::FollowResponse>) {
    let mut known: Option<Pieces> = None;
    loop {
        let now = here.borrow_and_update().clone();
        let news = match &known {
            None => News::All(now.clone()),
            Some(known) => {
                let more: Vec<u32> = now.without(known, known).collect();
                let less = known.without(&now, &now).next().is_some();
                match more.len() {
                    0..=MORE_MAX if !less => News::More(more),
                    _ => News::All(now.clone()),
                }
            }
        };
        if tell.send(news.to_wire()).await.is_err() {
            return;
        }
        let told = now.count();
        known = Some(now);
        if here.changed().await.is_err() {
            return;
        }
        sleep(NEWS.0).await;
        // Whoever knows of many pieces has enough to ask for, so a few more can wait. A closed channel is seen above.
        let much = here.wait_for(|here| is_much(here, told));
        let _ = timeout(NEWS.1, much).await;
    }
}

/// Whether what is here is worth telling at once, when so many pieces were told before.
fn is_much(here: &Pieces, told: u32) -> bool {
    here.is_full() || here.count().abs_diff(told) > told / MUCH
}

type Said = mpsc::Sender<Result<v1::TakeResponse, Status>>;

/// One turn: waits for it, hears what is wanted, sends one piece. Whoever hangs up gives it back.
async fn serve(
    running: &Running,
    ask: Ask,
    mut heard: Streaming<v1::TakeRequest>,
    say: &Said,
) -> Result<(), Status> {
    let Some(mut turn) = running.shares.ask_turn(ask.fetcher) else {
        return speak(say, Say::ComeBackMs(COME_BACK as u32)).await;
    };
    turn.comes().await;
    speak(say, Say::Turn(v1::take_response::Turn {})).await?;
    let Hear::Want(want) = next(&mut heard).await? else {
        return Err(Status::invalid_argument(
            "one question for a turn is enough",
        ));
    };
    let want = wanted(want).map_err(of_wire)?;
    // As it is now, after however long a wait.
    let (_, holding) = kept(running, ask.content)?;
    let Some(number) = holding.choose(&want) else {
        return Err(Status::not_found("none of these pieces is here"));
    };
    let chunk = running.shares.piece(&holding, number).await;
    let data = chunk.map_err(of_share)?.into_data();
    drop(holding);
    speak(say, Say::Piece(number)).await?;
    for part in parts(data) {
        speak(say, Say::Data(part)).await?;
    }
    // What was handed to the connection is not there yet: the slot is free when the fetcher says so by hanging up.
    let _ = timeout(PATIENCE, heard.message()).await;
    Ok(())
}

async fn next(heard: &mut Streaming<v1::TakeRequest>) -> Result<Hear, Status> {
    let heard = timeout(PATIENCE, heard.message()).await;
    let heard = heard.map_err(|_| Status::deadline_exceeded("nothing was said for too long"))??;
    let step = heard.and_then(|h| h.step);
    step.ok_or_else(|| Status::invalid_argument("the fetcher hung up, or said nothing known here"))
}

async fn speak(say: &Said, step: Say) -> Result<(), Status> {
    let step = Ok(v1::TakeResponse { step: Some(step) });
    match timeout(PATIENCE, say.send(step)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Status::deadline_exceeded("the fetcher takes nothing")),
    }
}

fn parts(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let part = data.split_to(data.len().min(PART));
        (!part.is_empty()).then_some(part)
    })
}
