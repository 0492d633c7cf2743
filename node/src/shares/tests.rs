use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, stream};
use tempfile::TempDir;

use super::*;
use crate::chunks::alone::{Alone, NETWORK};

/// Bytes of a piece: more than are kept inline.
const PIECE: usize = 64 * 1024;

/// The shared files of a peer that is alone in its network.
struct Lone {
    shares: Shares,
    alone: Alone,
    volume: TempDir,
}

impl Lone {
    fn new() -> Self {
        let (alone, volume) = (Alone::with(&[]), tempfile::tempdir().unwrap());
        let shares = open(&alone, &volume);
        Lone {
            shares,
            alone,
            volume,
        }
    }

    /// The same volume once more, as after a restart.
    fn restarted(self) -> Self {
        let Lone {
            shares,
            alone,
            volume,
        } = self;
        drop(shares);
        let shares = open(&alone, &volume);
        Lone {
            shares,
            alone,
            volume,
        }
    }

    /// Shares a file of pieces that are filled with these bytes.
    async fn share(&self, name: &str, pieces: &[u8]) -> Offer {
        let bodies = pieces
            .iter()
            .map(|with| Ok(Bytes::from(vec![*with; PIECE])));
        let bodies: Vec<_> = bodies.collect();
        let shared = self.shares.share(header(name), stream::iter(bodies));
        shared.await.unwrap()
    }

    /// Takes a piece away.
    fn lose(&self, with: u8) {
        let key = Key::of_bytes(&vec![with; PIECE]).to_string();
        let folder = self.volume.path().join("shared/chunks").join(&key[..2]);
        std::fs::remove_file(folder.join(key)).unwrap();
    }

    /// Waits until others would find it here.
    async fn offers(&self, wanted: &Wanted) {
        let offered = async {
            while (self.shares.find(flood(wanted.clone(), true, 1)).await)
                .is_ok_and(|(found, _)| found.is_empty())
            {
                tokio::task::yield_now().await;
            }
        };
        let offered = timeout(PATIENCE, offered).await;
        assert!(offered.is_ok(), "{wanted:?} is offered");
    }

    fn missing(&self, name: &str) -> u64 {
        let kept = self.shares.kept(&Wanted::Name(Name::new(name).unwrap()));
        kept.unwrap().1.missing()
    }
}

fn open(alone: &Alone, volume: &TempDir) -> Shares {
    open_with(alone.handle.clone(), alone, volume)
}

fn open_with(handle: PeerHandle, alone: &Alone, volume: &TempDir) -> Shares {
    Shares::new(
        handle,
        NETWORK.into(),
        PeerId(1),
        alone.chunks.clone(),
        Arc::new(Shelf::open(volume.path(), 0).unwrap()),
        (PIECE as u32, Budget::new(PIECES)),
        TaskTracker::new(),
    )
}

fn header(name: &str) -> Header {
    Header {
        name: Name::new(name).unwrap(),
        content_type: String::new(),
        tags: Vec::new(),
        announced: None,
    }
}

#[tokio::test]
async fn a_fetch_goes_on_until_no_share_needs_it() {
    let lone = Lone::new();
    let offer = lone.share("a", &[1, 2]).await;
    assert_eq!(lone.share("b", &[1, 2]).await.content, offer.content);
    lone.lose(2);
    let lone = lone.restarted();
    lone.shares.restore().await.unwrap();
    let name = |name: &str| Name::new(name).unwrap();
    assert!(lone.shares.fetches.is_under_way(offer.content));
    lone.shares.unshare(name("a")).await.unwrap();
    assert!(lone.shares.fetches.is_under_way(offer.content));
    assert_eq!(lone.missing("b"), PIECE as u64);
    lone.shares.unshare(name("b")).await.unwrap();
    assert!(!lone.shares.fetches.is_under_way(offer.content));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_stuck_for_a_while_ends_neither_offers_nor_healing() {
    let lone = Lone::new();
    let offer = lone.share("a", &[1, 2]).await;
    let rotten = Key::of_name(&Name::new("rotten").unwrap()).to_string();
    std::fs::write(lone.volume.path().join("shared/files").join(rotten), b"rot").unwrap();
    let Lone {
        shares,
        alone,
        volume,
    } = lone;
    drop(shares);
    // It answers nothing while the inbox is there, and has stopped when it is not.
    let (handle, inbox) = crate::driver::channel();
    let shares = open_with(handle, &alone, &volume);
    let restoring = {
        let shares = shares.clone();
        tokio::spawn(async move { shares.restore().await })
    };
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(!restoring.is_finished(), "a record is to be healed");
    assert!(shares.fetches.is_under_way(offer.content), "it is not said");
    drop(inbox);
    timeout(PATIENCE * 20, restoring)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_comes_for_one_name_is_there_for_all_of_them() {
    let lone = Lone::new();
    let offer = lone.share("a", &[1, 2]).await;
    lone.share("b", &[1, 2]).await;
    lone.lose(2);
    let lone = lone.restarted();
    let (_, holding) = lone.shares.kept(&Wanted::Content(offer.content)).unwrap();
    assert_eq!(
        (lone.missing("a"), lone.missing("b")),
        (PIECE as u64, PIECE as u64)
    );
    holding.add(1);
    assert_eq!((lone.missing("a"), lone.missing("b")), (0, 0));
}

#[tokio::test]
async fn a_disk_without_room_ends_a_fetch_but_not_what_the_user_shares() {
    let lone = Lone::new();
    let offer = lone.share("a", &[1, 2]).await;
    let wanted = Wanted::Content(offer.content);
    let kept = lone.shares.kept(&wanted).unwrap();
    let ends = async |shares: &Shares| {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (own, offer) = (shares.clone(), offer.clone());
        let subject = (offer.content, &kept.1);
        shares.fetches.start(subject, true, |errand| async move {
            let _ = tell.send(own.fail(&offer, ChunkError::Full, &errand).await);
        });
        let ended = told.await.unwrap();
        shares.fetches.end(subject.0);
        ended
    };
    assert!(!ends(&lone.shares).await, "it is tried again later");
    assert!(lone.shares.kept(&wanted).is_some());
    // The same content on its way to another peer.
    let other = Lone::new();
    let shelf = other.shares.shelf.clone();
    shelf.draft().begin(kept.0.clone()).unwrap();
    assert!(ends(&other.shares).await);
    assert!(other.shares.kept(&wanted).is_none());
}

#[tokio::test]
async fn what_is_begun_is_finished_though_the_client_goes_away() {
    let lone = Lone::new();
    for n in 0..10 {
        let (name, pieces) = (format!("f/{n}"), [n, 100]);
        let wanted = Wanted::Name(Name::new(&*name).unwrap());
        let mut sharing = Box::pin(lone.share(&name, &pieces));
        // Until it is on the volume, and not told yet.
        while lone.shares.kept(&wanted).is_none() && (&mut sharing).now_or_never().is_none() {
            tokio::task::yield_now().await;
        }
        drop(sharing);
        lone.offers(&wanted).await;
    }
}

#[tokio::test]
async fn what_is_here_of_a_fetch_from_the_start_is_offered_at_once() {
    let (lone, other) = (Lone::new(), Lone::new());
    lone.share("a", &[1, 2]).await;
    // One piece is here, or all are.
    for (name, pieces, missing) in [("b", [1, 3], PIECE), ("c", [2, 1], 0)] {
        let offer = other.share(name, &pieces).await;
        let wanted = Wanted::Content(offer.content);
        let (shared, _) = other.shares.kept(&wanted).unwrap();
        lone.shares.shelf.draft().begin(shared).unwrap();
        assert_eq!(lone.missing(name), missing as u64);
        let ((_, holding), outlook) = lone.shares.obtain(wanted.clone(), true).await.unwrap();
        assert!(outlook.is_some(), "it is not shared as a whole yet");
        lone.offers(&wanted).await;
        if holding.missing() == 0 {
            while lone.shares.shelf.is_coming(offer.content) {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_for_a_turn_is_refused() {
    let turns = Semaphore::new(1);
    let first = turn(&turns).await.unwrap();
    let refused = turn(&turns).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.to_string().contains("try again"), "{refused}");
    let (second, ()) = tokio::join!(turn(&turns), async { drop(first) });
    assert!(second.is_ok(), "one that ends makes room for who waits");
}
