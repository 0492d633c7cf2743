//! Fetching a shared file: found, brought here by a [`swarm`], and handed on in order while it comes.
//!
//! A fetch belongs to this peer: once begun it goes on without the client that asked for it, and after a restart, until all
//! of it is here or its name is unshared. What is here already is offered to others as soon as there is something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peernet_core::flood::Cost;
use peernet_core::key::Key;
use peernet_core::member::Member;
use peernet_core::share::{Offer, Wanted};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::holding::{Holding, Layout, Survey};
use super::shelf::{Draft, Kept, Shared};
use super::{PATIENCE, ShareError, Sharer, Shares, endpoint, flood, on_disk};
use crate::chunks::ChunkError;
use crate::disk::Chunk;
use crate::files::cutter::STALL;
use crate::files::manifest::Manifest;
use crate::files::outlet::{Outgoing, Sink, Stop, outlet};
use crate::files::record::Content;

mod swarm;
mod transfer;

use swarm::{Ended, Round};

/// Providers of one file that a search asks for; more are found on record.
const ENOUGH: usize = 8;

/// A shared file's bytes, in order. An error ends it.
pub(crate) type Bytestream = Outgoing<ShareError>;

/// How a fetch stands, for those who wait for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlook {
    /// Peers it is brought from.
    providers: usize,
    /// What failed last.
    reason: Option<String>,
    /// This peer cannot keep it: nothing comes any more.
    failure: Option<ChunkError>,
}

/// The fetches of this peer, by content.
#[derive(Default)]
pub(super) struct Fetches {
    under_way: Mutex<HashMap<Key, UnderWay>>,
}

struct UnderWay {
    outlook: watch::Receiver<Outlook>,
    _task: AbortOnDropHandle<()>,
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, UnderWay>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, if it is under way.
    pub(super) fn end(&self, content: Key) {
        let ended = self.lock().remove(&content);
        drop(ended);
    }
}

impl Shares {
    /// Finds a shared file and begins to bring it here. Returns what it is, and its bytes.
    pub(crate) async fn fetch(
        &self,
        wanted: Wanted,
        everywhere: bool,
    ) -> Result<(Offer, Bytestream), ShareError> {
        let ((shared, holding), outlook) = self.obtain(wanted, everywhere).await?;
        let (outlet, stream) = outlet();
        let (shares, offer, sink) = (self.clone(), shared.offer.clone(), outlet.sink());
        self.tasks.spawn(async move {
            let work = shares.deliver(shared, holding, outlook, &sink);
            outlet.fill(work, STALL, None).await;
        });
        Ok((offer, stream))
    }

    /// What was asked for, here or on its way.
    pub(super) async fn obtain(
        &self,
        wanted: Wanted,
        everywhere: bool,
    ) -> Result<(Kept, Option<watch::Receiver<Outlook>>), ShareError> {
        if let Some(kept) = self.shelf.kept(&wanted) {
            let partial = !kept.1.here().is_full();
            let outlook = partial.then(|| self.pursue(&kept, Vec::new()));
            return Ok((kept, outlook));
        }
        let (shared, peers) = self.locate(wanted, everywhere).await?;
        let draft = self.shelf.draft();
        if matches!(shared.content, Content::Inline(_)) {
            let kept = (shared.clone(), Arc::new(Holding::whole(Layout::default())));
            self.publish(draft, shared).await?;
            return Ok((kept, None));
        }
        let draft = match &shared.content {
            Content::Chunks(manifest) => {
                let bring = |key| self.bring_node(key, &peers);
                bring_nodes(draft, manifest, bring).await?
            }
            Content::Inline(_) => draft,
        };
        let kept = on_disk(move || draft.begin(shared)).await?;
        let outlook = self.pursue(&kept, peers);
        Ok((kept, Some(outlook)))
    }

    /// Brings on what was on its way here when this peer stopped.
    pub(super) async fn resume(&self) -> Result<(), crate::driver::PeerError> {
        for kept in self.shelf.partial() {
            let (offer, holding) = (&kept.0.offer, &kept.1);
            info!(name = %offer.name, missing = holding.missing(), "goes on to be fetched");
            if holding.here().count() > 0 {
                self.peer.offer(offer.clone()).await?;
            }
            self.pursue(&kept, Vec::new());
        }
        Ok(())
    }

    /// Who has it, and what it consists of.
    async fn locate(
        &self,
        wanted: Wanted,
        everywhere: bool,
    ) -> Result<(Shared, Vec<Member>), ShareError> {
        let what = match &wanted {
            Wanted::Name(name) => format!("'{name}'"),
            Wanted::Content(content) => format!("content {content}"),
            Wanted::Words(words) => words.join(" "),
        };
        let known = match &wanted {
            Wanted::Content(content) => self.providers(*content).await?.0,
            _ => Vec::new(),
        };
        let mut found: Vec<Sharer> = Vec::new();
        if known.is_empty() {
            found = self
                .find(flood(wanted.clone(), everywhere, ENOUGH))
                .await?
                .0;
        }
        let content = match (&wanted, found.first()) {
            (Wanted::Content(content), _) => *content,
            (_, Some(sharer)) => sharer.offer.content,
            (_, None) => {
                let hint = if everywhere {
                    "its peer may be down, or it is stored and not shared: try get"
                } else {
                    "look in all zones with --everywhere"
                };
                return Err(ShareError::Nobody {
                    what,
                    everywhere,
                    hint,
                });
            }
        };
        let same = found.iter().filter(|s| s.offer.content == content);
        let mut peers: Vec<Member> = same.map(|s| s.member.clone()).collect();
        let announced = match known.is_empty() {
            true => self.providers(content).await?.0,
            false => known,
        };
        for member in announced {
            if !peers.iter().any(|m| m.id == member.id) {
                peers.push(member);
            }
        }
        peers.retain(|m| m.id != self.me);
        let shared = self.ask_what(content, &peers, &wanted, &what).await?;
        Ok((shared, peers))
    }

    /// The content's manifest, from the first who has the right one.
    async fn ask_what(
        &self,
        content: Key,
        peers: &[Member],
        wanted: &Wanted,
        what: &str,
    ) -> Result<Shared, ShareError> {
        let mut reason = "nobody is left to ask".to_owned();
        for peer in peers {
            match self.chunks.describe(&endpoint(peer), content).await {
                Ok((mut offer, body)) => match Content::decode(&body) {
                    Ok(found) if Key(found.etag()) == content => {
                        // Names are each peer's own; ours is the one that was asked for.
                        if let Wanted::Name(name) = wanted {
                            offer.name = name.clone();
                        }
                        offer.size = found.size();
                        offer.content = content;
                        return Ok(Shared {
                            offer,
                            content: found,
                        });
                    }
                    Ok(_) => reason = format!("{} sent another content", peer.name),
                    Err(error) => reason = format!("{}: {error}", peer.name),
                },
                Err(error) => reason = format!("{}: {error}", peer.name),
            }
            debug!(%content, "{reason}");
        }
        Err(ShareError::Silent {
            providers: peers.len(),
            what: what.to_owned(),
            reason,
        })
    }

    async fn bring_node(&self, key: Key, peers: &[Member]) -> Result<Chunk, ShareError> {
        let mut reason = "nobody is left to ask".to_owned();
        for peer in peers {
            match self.chunks.get(&endpoint(peer), key).await {
                Ok(chunk) => return Ok(chunk),
                Err(error) => reason = format!("{}: {error}", peer.name),
            }
        }
        Err(ShareError::Silent {
            providers: peers.len(),
            what: format!("chunk {key}"),
            reason,
        })
    }

    /// Sees to it that what is here in part comes here whole.
    pub(super) fn pursue(&self, kept: &Kept, peers: Vec<Member>) -> watch::Receiver<Outlook> {
        let content = kept.0.offer.content;
        let mut under_way = self.fetches.lock();
        if let Some(known) = under_way.get(&content) {
            return known.outlook.clone();
        }
        let (tell, outlook) = watch::channel(Outlook::default());
        let (shares, kept) = (self.clone(), kept.clone());
        let task = tokio::spawn(async move { shares.bring(kept, peers, tell).await });
        let known = UnderWay {
            outlook: outlook.clone(),
            _task: AbortOnDropHandle::new(task),
        };
        under_way.insert(content, known);
        outlook
    }

    /// Round after round, until all is here or this peer cannot keep it.
    async fn bring(self, kept: Kept, mut peers: Vec<Member>, tell: watch::Sender<Outlook>) {
        let (Shared { offer, .. }, holding) = &kept;
        let content = offer.content;
        let failure = loop {
            // Never closed.
            let Ok(turn) = self.transfers.acquire().await else {
                return;
            };
            let round = Round::new(&self, offer, holding, &tell);
            match round.run(std::mem::take(&mut peers)).await {
                // Unless one of them was lost meanwhile.
                Ended::Whole if holding.here().is_full() => {
                    let shelf = self.shelf.clone();
                    match on_disk(move || shelf.finish(content)).await {
                        Ok(()) => info!(name = %offer.name, "is here whole"),
                        Err(error) => {
                            warn!(name = %offer.name, "is not shared as a whole: {error}")
                        }
                    }
                    break None;
                }
                Ended::Failed(failure) => break Some(failure),
                Ended::Whole | Ended::Stalled => {
                    debug!(name = %offer.name, "nobody delivers; tried again later")
                }
            }
            drop(turn);
            // Others have their turn.
            sleep(PATIENCE).await;
        };
        if let Some(failure) = failure {
            warn!(name = %offer.name, "a shared file cannot be kept: {failure}");
            tell.send_modify(|outlook| outlook.failure = Some(failure));
            // Its bytes must not fill the disk for nothing. Fails only with the volume, or when the peer stops.
            let _ = self.peer.withdraw(offer.name.clone()).await;
            let (shelf, name) = (self.shelf.clone(), offer.name.clone());
            let _ = on_disk(move || shelf.remove(&name)).await;
        }
        self.fetches.end(content);
    }

    /// Hands on all bytes, in order, as they come.
    async fn deliver(
        &self,
        shared: Shared,
        holding: Arc<Holding>,
        outlook: Option<watch::Receiver<Outlook>>,
        client: &Sink<ShareError>,
    ) -> Result<(), Stop<ShareError>> {
        if let Content::Inline(bytes) = &shared.content {
            return client.send(bytes.clone(), None).await;
        }
        let layout = holding.layout();
        for piece in layout.order() {
            wait_for(*piece, &shared.offer, &holding, outlook.clone()).await?;
            let chunk = self.piece(&holding, *piece).await?;
            client.send(chunk.into_data(), None).await?;
        }
        Ok(())
    }
}

/// Brings the nodes of a manifest and makes them durable, so that all its pieces are known.
pub(super) async fn bring_nodes<B: Future<Output = Result<Chunk, ShareError>>>(
    mut draft: Draft,
    manifest: &Manifest,
    bring: impl Fn(Key) -> B,
) -> Result<Draft, ShareError> {
    let mut survey = Survey::new(manifest);
    while let Some(key) = survey.next_node()? {
        let node = bring(key).await?;
        let data = node.data().clone();
        draft = on_disk(move || {
            draft.add(&node)?;
            Ok(draft)
        })
        .await?;
        survey.enter(key, data)?;
    }
    Ok(draft)
}

/// Waits for a piece, as long as others come.
async fn wait_for(
    piece: u32,
    offer: &Offer,
    holding: &Holding,
    outlook: Option<watch::Receiver<Outlook>>,
) -> Result<(), ShareError> {
    let mut here = holding.follow();
    loop {
        if here.borrow_and_update().has(piece) {
            return Ok(());
        }
        let failure = outlook.as_ref().and_then(|o| o.borrow().failure.clone());
        if let Some(failure) = failure {
            return Err(ShareError::Chunk(failure));
        }
        // A failure is seen when nothing comes any more at the latest.
        if timeout(STALL, here.changed()).await.is_err() {
            let outlook = outlook.map(|o| o.borrow().clone()).unwrap_or_default();
            if let Some(failure) = outlook.failure {
                return Err(ShareError::Chunk(failure));
            }
            return Err(ShareError::Silent {
                providers: outlook.providers,
                what: format!("'{}'", offer.name),
                reason: outlook.reason.unwrap_or("nobody has more of it".into()),
            });
        }
    }
}

/// Costs of several questions together; those asked twice count once.
pub(crate) fn sum(costs: &[Cost]) -> Cost {
    costs.iter().fold(Cost::default(), |sum, cost| Cost {
        peers: sum.peers.max(cost.peers),
        messages: sum.messages + cost.messages,
        silent: sum.silent + cost.silent,
        full: sum.full + cost.full,
    })
}
