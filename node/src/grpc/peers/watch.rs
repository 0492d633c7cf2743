//! The registry as a stream: all peers first, then every change.
//!
//! The peer's thread raises a number with each change of the table of members; a watcher that sees it rise asks for the
//! table and is told what differs from what it was told last. So changes that come faster than they can be told are
//! told together, and what waits for a watcher is bounded. One that does not even take that is dropped, and told so.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt, once};
use peernet_proto::v1::{PeerInfo, WatchPeersResponse};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::daemon::{Life, Running};

/// Watchers of one peer at once (guess: far more than operators and dashboards need).
pub(super) const WATCHERS: usize = 256;
/// Answers that wait for one watcher.
const WAITING: usize = 64;

/// What a watcher gets.
pub(super) type Changes = BoxStream<'static, Result<WatchPeersResponse, Status>>;

/// Begins to tell a watcher, if there is room for one more.
pub(super) fn watch(
    life: Arc<Life>,
    running: Arc<Running>,
    places: &Arc<Semaphore>,
) -> Result<Changes, Status> {
    let place = places.clone().try_acquire_owned().map_err(|_| {
        Status::resource_exhausted(format!(
            "{WATCHERS} others watch this peer already; watch another one"
        ))
    })?;
    let (teller, changes) = Teller::new(place);
    tokio::spawn(tell(life, running, teller));
    Ok(changes)
}

async fn tell(life: Arc<Life>, running: Arc<Running>, mut teller: Teller) {
    let stopping = || Status::unavailable("this peer is stopping; watch another one");
    let mut news = running.peer.news();
    loop {
        news.borrow_and_update();
        let Ok(registry) = super::registry(&running).await else {
            return teller.end(stopping());
        };
        match teller.tell(registry) {
            Ok(()) => {}
            Err(Gone::Slow) => return teller.end(Status::resource_exhausted(format!(
                "this watcher is too slow: {WAITING} changes wait for it; watch again to begin with all peers"
            ))),
            Err(Gone::Left) => return,
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() {
                return teller.end(stopping());
            },
            // It must not hold up the end of the server.
            () = life.stops() => return teller.end(stopping()),
            () = teller.changes.closed() => return,
        }
    }
}

/// Why a watcher is told no more.
#[derive(PartialEq, Eq, Debug)]
enum Gone {
    /// It takes nothing.
    Slow,
    /// It has hung up.
    Left,
}

/// One watcher's end.
struct Teller {
    changes: mpsc::Sender<Result<WatchPeersResponse, Status>>,
    last_word: oneshot::Sender<Status>,
    told: HashMap<String, PeerInfo>,
    _place: OwnedSemaphorePermit,
}

impl Teller {
    fn new(place: OwnedSemaphorePermit) -> (Self, Changes) {
        let (changes, queue) = mpsc::channel(WAITING);
        let (last_word, end) = oneshot::channel();
        let teller = Teller {
            changes,
            last_word,
            told: HashMap::new(),
            _place: place,
        };
        // What waits comes first, then why there is no more.
        let end = once(end).filter_map(async |end| end.ok().map(Err));
        (teller, ReceiverStream::new(queue).chain(end).boxed())
    }

    /// Queues what differs from what was told before.
    fn tell(&mut self, registry: Vec<PeerInfo>) -> Result<(), Gone> {
        let new = |p: &PeerInfo| self.told.get(&p.id) != Some(p);
        let peers: Vec<PeerInfo> = registry.into_iter().filter(new).collect();
        if peers.is_empty() {
            return Ok(());
        }
        for peer in &peers {
            self.told.insert(peer.id.clone(), peer.clone());
        }
        match self.changes.try_send(Ok(WatchPeersResponse { peers })) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Gone::Left),
            Err(TrySendError::Full(_)) => Err(Gone::Slow),
        }
    }

    fn end(self, status: Status) {
        // It may have hung up.
        let _ = self.last_word.send(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, incarnation: u64) -> PeerInfo {
        PeerInfo {
            id: id.into(),
            incarnation,
            ..Default::default()
        }
    }

    fn begin() -> (Teller, Changes) {
        let places = Arc::new(Semaphore::new(1));
        Teller::new(places.try_acquire_owned().unwrap())
    }

    #[tokio::test]
    async fn a_watcher_hears_all_and_then_what_changed() {
        let (mut teller, mut changes) = begin();
        teller.tell(vec![peer("a", 1), peer("b", 1)]).unwrap();
        teller.tell(vec![peer("a", 1), peer("b", 1)]).unwrap();
        teller.tell(vec![peer("a", 1), peer("b", 2)]).unwrap();
        teller.end(Status::unavailable("stopping"));
        assert_eq!(changes.next().await.unwrap().unwrap().peers.len(), 2);
        let changed = changes.next().await.unwrap().unwrap().peers;
        assert_eq!(changed, [peer("b", 2)]);
        assert_eq!(
            changes.next().await.unwrap().unwrap_err().message(),
            "stopping"
        );
        assert!(changes.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_watcher_is_dropped_and_told_so() {
        let (mut teller, changes) = begin();
        let mut told = 0;
        while teller.tell(vec![peer("a", told)]) == Ok(()) {
            told += 1;
        }
        assert_eq!(told, WAITING as u64);
        assert_eq!(teller.tell(vec![peer("a", 99)]), Err(Gone::Slow));
        teller.end(Status::resource_exhausted("too slow"));
        let all: Vec<_> = changes.collect().await;
        assert_eq!(all.len(), WAITING + 1, "what waited is not lost");
        assert!(all[WAITING].is_err());
    }

    #[tokio::test]
    async fn one_that_hangs_up_is_forgotten() {
        let (mut teller, changes) = begin();
        drop(changes);
        assert_eq!(teller.tell(vec![peer("a", 1)]), Err(Gone::Left));
    }
}
