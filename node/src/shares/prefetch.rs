//! Warming up: copies of a stored file on so many peers, beside the ring's, before many read it there.
//!
//! The peer that was asked brings the file's chunks from the ring and shares them; the others fetch them in a swarm, from it
//! and from each other, so the ring's replicas are read once. That goes on without whoever asked for it, and once however many
//! ask, until all is here and each of the others has begun ([`invitations`]), or its name is unshared; only who asks hears how
//! far it is. What is fetched is a shared file like any other, listed, offered to others, and given up by `unshare`; a `get` at a
//! peer that has it reads it there.

use futures::StreamExt;
use futures::stream;
use peernet_core::key::{Key, Name};
use peernet_core::member::{Member, PeerId};
use peernet_core::share::{Offer, Wanted};
use peernet_proto::v1;
use peernet_proto::v1::shares_client::SharesClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::fetch::{Errand, Outlook, bring_nodes};
use super::shelf::{Kept, Shared};
use super::{ShareError, Shares, on_disk};
use crate::driver::PeerError;
use crate::files::cutter::STALL;
use crate::files::manifest::ChunkRef;
use crate::files::record::Content;
use crate::files::warm::Stored;
use crate::files::{Files, now_unix_ms};

mod invitations;

pub(super) use invitations::Invitations;
use invitations::{Guests, LOOK, choose};

/// Chunks of one file read from the ring at once while there is memory (guess: as many as a fetch brings).
const AHEAD: usize = peernet_core::swarm::MOVING;
/// How often pieces that are lost meanwhile are copied anew (guess: a disk that loses more is no place for them).
const COPIES: usize = 3;
/// How far those are that are asked, and which of them are told of.
type Invited = (watch::Receiver<Guests>, Vec<PeerId>);

/// How far each peer is.
pub(crate) type Progress = mpsc::Receiver<Result<v1::PrefetchResponse, ShareError>>;

impl Shares {
    /// Begins to bring a stored file onto `count` peers, this one included.
    pub(crate) async fn prefetch(
        &self,
        files: &Files,
        name: Name,
        count: usize,
    ) -> Result<Progress, ShareError> {
        let (shares, files) = (self.clone(), files.clone());
        self.through(async move { shares.begin_prefetch(&files, name, count).await })
            .await
    }

    async fn begin_prefetch(
        &self,
        files: &Files,
        name: Name,
        count: usize,
    ) -> Result<Progress, ShareError> {
        let mut members: Vec<Member> = self.members().await?.into_values().collect();
        members.retain(|m| m.is_present() && m.id != self.me);
        if count == 0 || count > members.len() + 1 {
            return Err(ShareError::Peers(members.len() + 1));
        }
        let stored = files.stored(name.clone()).await?;
        let Content::Chunks(manifest) = &stored.content else {
            return Err(ShareError::Small(name));
        };
        let content = Key(stored.content.etag());
        let members = choose(members, content, count - 1);
        let kept = match self.kept(&Wanted::Content(content)) {
            Some(kept) => kept,
            None => {
                let bring = |key| async move { Ok(files.chunk(key).await?) };
                let draft = bring_nodes(self.shelf.draft(), manifest, bring).await?;
                let offer = Offer {
                    name,
                    size: stored.summary.size,
                    content,
                    content_type: stored.summary.kind.content_type.clone(),
                    tags: stored.summary.kind.tags.clone(),
                    since: now_unix_ms(),
                };
                offer.check()?;
                let content = stored.content.clone();
                let shared = Shared { offer, content };
                on_disk(move || draft.begin(shared)).await?
            }
        };
        let (tell, progress) = mpsc::channel(1);
        let (shares, outlook) = (self.clone(), self.copy_here(files, stored, &kept));
        let invited = match members.is_empty() {
            true => None,
            false => Some(self.invite(&kept.0.offer, &members)?),
        };
        self.tasks.spawn(async move {
            let told = tokio::select! {
                told = shares.tell_progress(&kept, invited, outlook, &tell) => told,
                () = tell.closed() => Ok(()),
            };
            if let Err(error) = told {
                let _ = timeout(STALL, tell.send(Err(error))).await;
            }
        });
        Ok(progress)
    }

    /// Has these fetch it, whether or not anybody listens.
    fn invite(&self, offer: &Offer, members: &[Member]) -> Result<Invited, ShareError> {
        let (shares, content) = (self.clone(), offer.content);
        let ask = move |id| {
            let shares = shares.clone();
            async move { shares.ask_to_bring(id, content).await }
        };
        let told = (self.invitations).invite(content, offer.size, members, ask)?;
        Ok((told, members.iter().map(|m| m.id).collect()))
    }

    /// Copies what is missing here from the ring, unless that is being done.
    fn copy_here(
        &self,
        files: &Files,
        stored: Stored,
        kept: &Kept,
    ) -> Option<watch::Receiver<Outlook>> {
        if kept.1.missing() == 0 && !self.shelf.is_coming(kept.0.offer.content) {
            return None;
        }
        let (shares, files, holding) = (self.clone(), files.clone(), kept.1.clone());
        let (content, kept) = (kept.0.offer.content, kept.clone());
        let copy = |errand| shares.copy(files, stored, kept, errand);
        Some(self.fetches.start((content, &holding), true, copy))
    }

    /// The `stored` file's chunks are not collected meanwhile.
    async fn copy(self, files: Files, stored: Stored, kept: Kept, errand: Errand) {
        let offer = &kept.0.offer;
        match self.copy_all(&files, &kept).await {
            Ok(()) => info!(name = %offer.name, "is here whole"),
            Err(ShareError::Chunk(failure)) if self.fail(offer, failure.clone(), &errand).await => {
            }
            Err(error) => {
                // Perhaps others have it.
                warn!(name = %offer.name, "cannot be copied from the ring: {error}");
                errand.not_copied(error.to_string());
                drop(stored);
                return self.bring(kept, Vec::new(), errand).await;
            }
        }
        self.fetches.over(offer.content, &errand);
    }

    /// Until nothing is missing: a piece that was here may be lost meanwhile.
    async fn copy_all(&self, files: &Files, kept: &Kept) -> Result<(), ShareError> {
        // What it has in common with another file is here from the start.
        let mut offered = kept.1.has_some() && self.say(kept.0.offer.content).await;
        for _ in 0..COPIES {
            self.copy_missing(files, kept, &mut offered).await?;
            if self.finish(kept.0.offer.content).await? {
                return Ok(());
            }
        }
        let lost = "what was written is lost again and again".to_owned();
        Err(ShareError::Volume(lost))
    }

    async fn copy_missing(
        &self,
        files: &Files,
        (shared, holding): &Kept,
        offered: &mut bool,
    ) -> Result<(), ShareError> {
        let (content, here) = (shared.offer.content, holding.here());
        let pieces = holding.layout().pieces().iter().copied().zip(0..);
        let missing = pieces.filter(|(_, piece)| !here.has(*piece));
        let missing: Vec<(ChunkRef, u32)> = missing.collect();
        let bring = |(reference, piece): (ChunkRef, u32)| {
            let (key, shelf) = (reference.key, self.shelf.clone());
            async move {
                let _memory = self.pieces.take(reference.len as usize).await;
                let chunk = files.chunk(key).await?;
                on_disk(move || Ok(shelf.arrived(&chunk)?)).await?;
                holding.add(piece);
                Ok::<(), ShareError>(())
            }
        };
        let mut arrivals = stream::iter(missing.into_iter().map(bring)).buffer_unordered(AHEAD);
        while let Some(arrived) = arrivals.next().await {
            arrived?;
            *offered = *offered || self.say(content).await;
        }
        Ok(())
    }

    /// Tells how far all are until each is done or has failed.
    async fn tell_progress(
        &self,
        (shared, holding): &Kept,
        invited: Option<Invited>,
        outlook: Option<watch::Receiver<Outlook>>,
        tell: &mpsc::Sender<Result<v1::PrefetchResponse, ShareError>>,
    ) -> Result<(), ShareError> {
        let own = self.members().await?.remove(&self.me);
        let own = own.map(|m| m.name).unwrap_or_default();
        let size = shared.offer.size;
        loop {
            // Who only listens must not hold up the end of this peer.
            if self.tasks.is_closed() {
                return Err(PeerError::Stopped.into());
            }
            let mut peers = invited.as_ref().map(others).unwrap_or_default();
            let trouble = outlook.as_ref().and_then(Outlook::trouble);
            // As it is after that look: who has ended has brought it all, or has not.
            let missing = holding.missing();
            peers.push(v1::Prefetched {
                peer: own.clone(),
                missing,
                failure: trouble.filter(|_| missing > 0),
            });
            let over = peers.iter().all(|p| p.missing == 0 || p.failure.is_some());
            let response = v1::PrefetchResponse { size, peers };
            if tell.send(Ok(response)).await.is_err() || over {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Has a peer fetch a content; how much it lacks, or why it does not.
    async fn ask_to_bring(&self, id: PeerId, content: Key) -> Result<u64, String> {
        // It may have come back elsewhere.
        let members = self.members().await.map_err(|e| e.to_string())?;
        let member = members.get(&id).ok_or("it is no member any more")?;
        let channel = self.chunks.channel(&member.address);
        let mut client = SharesClient::new(channel.map_err(|e| e.to_string())?);
        let request = v1::BringRequest {
            network_id: self.network.clone(),
            content: bytes::Bytes::copy_from_slice(&content.0),
        };
        match timeout(STALL, client.bring(request)).await {
            Ok(Ok(brought)) => Ok(brought.into_inner().missing),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("it does not answer".into()),
        }
    }

    /// Fetches a content here if that is not under way. Returns the bytes that are missing.
    pub(crate) async fn bring_here(&self, content: Key) -> Result<u64, ShareError> {
        let ((_, holding), _) = self.obtain(Wanted::Content(content), true).await?;
        Ok(holding.missing())
    }
}

/// How far these are, in the order of their names.
fn others((told, ids): &Invited) -> Vec<v1::Prefetched> {
    // In this order: what was said last is heard.
    let ended = told.has_changed().is_err();
    let guests = told.borrow();
    let listed = ids.iter().filter_map(|id| guests.get(id));
    let mut listed: Vec<v1::Prefetched> = listed
        .map(|guest| {
            let given_up = || (ended && guest.missing > 0).then(|| "it was given up".to_owned());
            v1::Prefetched {
                peer: guest.name.clone(),
                missing: guest.missing,
                failure: guest.failure.clone().or_else(given_up),
            }
        })
        .collect();
    listed.sort_by(|a, b| a.peer.cmp(&b.peer));
    listed
}
