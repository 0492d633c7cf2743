//! Fetching a shared file: found, brought here by a [`swarm`], and handed on in order while it comes.
//!
//! A fetch belongs to this peer: once begun it goes on without the client that asked for it, and after a restart, until all
//! of it is here or its name is unshared. What is here already is offered to others as soon as there is something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use peernet_core::flood::Cost;
use peernet_core::key::Key;
use peernet_core::member::Member;
use peernet_core::share::{Offer, Wanted};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::holding::{Holding, Layout, Survey};
use super::shelf::{Draft, Kept, Shared, Taken};
use super::{ShareError, Sharer, Shares, endpoint, flood, on_disk};
use crate::chunks::ChunkError;
use crate::disk::Chunk;
use crate::files::cutter::STALL;
use crate::files::manifest::Manifest;
use crate::files::outlet::{Outgoing, Sink, Stop, outlet};
use crate::files::record::Content;

mod swarm;
mod transfer;

use swarm::{Ended, Liars, Round};

/// Providers of one file that a search asks for; more are found on record.
const ENOUGH: usize = 8;

/// How long a fetch rests after a round in which nobody delivered, at first and at most; twice as long each time (guess:
/// whoever restarts is found soon, and what nobody has costs little for ever).
pub(super) const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

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
    /// It is copied from the ring.
    copies: bool,
}

impl Outlook {
    /// Why it is not copied from the ring any more, though not all of it is here.
    pub(super) fn trouble(outlook: &watch::Receiver<Outlook>) -> Option<String> {
        let now = outlook.borrow();
        match (&now.failure, &now.reason) {
            (Some(failure), _) => Some(failure.to_string()),
            _ if now.copies && outlook.has_changed().is_ok() => None,
            (None, Some(reason)) => Some(reason.clone()),
            (None, None) => Some("it was given up".into()),
        }
    }
}

/// The fetches of this peer, by content.
#[derive(Default)]
pub(super) struct Fetches {
    under_way: Mutex<HashMap<Key, UnderWay>>,
}

struct UnderWay {
    /// Of the task.
    number: u64,
    /// Where it puts what comes.
    holding: Arc<Holding>,
    outlook: watch::Receiver<Outlook>,
    /// The task's own, whose end closes it.
    tell: Weak<watch::Sender<Outlook>>,
    wake: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

/// What the task of a fetch is told.
pub(super) struct Errand {
    number: u64,
    tell: Arc<watch::Sender<Outlook>>,
    /// Somebody wants it now.
    wake: Arc<Notify>,
}

impl Errand {
    /// Others have to bring it now.
    pub(super) fn not_copied(&self, reason: String) {
        self.tell.send_modify(|outlook| {
            outlook.copies = false;
            outlook.reason = Some(reason);
        });
    }
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, UnderWay>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a content brought here: by who does so already, or else by this work. Who copies takes the place of who does not, and
    /// whoever brings it for a fetch that was given up, and begun anew, that of who brings it for nobody.
    pub(super) fn start<W: Future<Output = ()> + Send + 'static>(
        &self,
        (content, holding): (Key, &Arc<Holding>),
        copies: bool,
        work: impl FnOnce(Errand) -> W,
    ) -> watch::Receiver<Outlook> {
        let mut under_way = self.lock();
        if let Some(known) = under_way.get(&content)
            && Arc::ptr_eq(&known.holding, holding)
            && (known.outlook.borrow().copies || !copies)
        {
            // What failed before is tried again now, and says nothing of this.
            if let Some(tell) = known.tell.upgrade() {
                tell.send_if_modified(|outlook| outlook.failure.take().is_some());
            }
            // Or it rests no more after what it does now.
            known.wake.notify_one();
            return known.outlook.clone();
        }
        let (tell, outlook) = watch::channel(Outlook {
            copies,
            ..Outlook::default()
        });
        let (tell, wake) = (Arc::new(tell), Arc::new(Notify::new()));
        let told = Arc::downgrade(&tell);
        let number = fastrand::u64(..);
        let work = work(Errand {
            number,
            tell,
            wake: wake.clone(),
        });
        let known = UnderWay {
            number,
            holding: holding.clone(),
            outlook: outlook.clone(),
            tell: told,
            wake,
            _task: AbortOnDropHandle::new(tokio::spawn(work)),
        };
        under_way.insert(content, known);
        outlook
    }

    /// Whether it is being brought here.
    #[cfg(test)]
    pub(super) fn is_under_way(&self, content: Key) -> bool {
        self.lock().contains_key(&content)
    }

    /// The task of that errand has ended.
    pub(super) fn over(&self, content: Key, errand: &Errand) {
        let mut under_way = self.lock();
        let its = |known: &UnderWay| known.number == errand.number;
        if under_way.get(&content).is_some_and(its) {
            under_way.remove(&content);
        }
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
        let budget = self.downloads.clone();
        self.tasks.spawn(async move {
            let work = shares.deliver(shared, holding, outlook, &sink);
            outlet.fill(work, STALL, Some(&budget)).await;
        });
        Ok((offer, stream))
    }

    /// What was asked for, here or on its way.
    pub(super) async fn obtain(
        &self,
        wanted: Wanted,
        everywhere: bool,
    ) -> Result<(Kept, Option<watch::Receiver<Outlook>>), ShareError> {
        // Its manifest is wanted now.
        if let Some(record) = self.shelf.lost(&wanted)
            && let Err(error) = self.heal_one(&record).await
        {
            debug!("{}: {error}", record.advice());
        }
        if let Some(kept) = self.shelf.kept(&wanted) {
            // One that shares its last piece with another file may lack nothing from the start.
            let open = !kept.1.here().is_full() || self.shelf.is_coming(kept.0.offer.content);
            let outlook = open.then(|| self.pursue(&kept, Vec::new()));
            return Ok((kept, outlook));
        }
        let (shared, peers) = self.locate(wanted, everywhere).await?;
        let draft = self.shelf.draft();
        if matches!(shared.content, Content::Inline(_)) {
            let content = shared.content.clone();
            let offer = self.publish(draft, shared, Taken::MakeWay).await?;
            let holding = Arc::new(Holding::whole(Layout::default()));
            return Ok(((Shared { offer, content }, holding), None));
        }
        let draft = match &shared.content {
            Content::Chunks(manifest) => {
                let bring = |key| self.bring_node(key, &peers);
                bring_nodes(draft, manifest, bring).await?
            }
            Content::Inline(_) => draft,
        };
        let shares = self.clone();
        self.through(async move {
            let kept = on_disk(move || draft.begin(shared)).await?;
            let outlook = shares.pursue(&kept, peers);
            Ok((kept, Some(outlook)))
        })
        .await
    }

    /// Brings on what was on its way here when this peer stopped.
    pub(super) async fn resume(&self) {
        for kept in self.shelf.unfinished() {
            let (offer, holding) = (&kept.0.offer, &kept.1);
            info!(name = %offer.name, missing = holding.missing(), "goes on to be fetched");
            self.pursue(&kept, Vec::new());
        }
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
    pub(super) async fn ask_what(
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

    pub(super) async fn bring_node(&self, key: Key, peers: &[Member]) -> Result<Chunk, ShareError> {
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
        let (shares, holding) = (self.clone(), kept.1.clone());
        let (content, kept) = (kept.0.offer.content, kept.clone());
        self.fetches.start((content, &holding), false, |errand| {
            shares.bring(kept, peers, errand)
        })
    }

    /// Round after round, until all is here or this peer cannot keep it.
    pub(super) async fn bring(self, kept: Kept, mut peers: Vec<Member>, errand: Errand) {
        let (Shared { offer, .. }, holding) = &kept;
        let (content, mut liars, mut rest) = (offer.content, Liars::default(), REST.0);
        let mut offered = false;
        loop {
            // What it has in common with another file is here from the start.
            if !offered && holding.has_some() {
                offered = self.say(content).await;
            }
            // Never closed.
            let Ok(turn) = self.transfers.acquire().await else {
                return;
            };
            // Given up before this was known as what brings it.
            if !self.keeps(content, holding) {
                break;
            }
            // It may be kept by now.
            errand.tell.send_modify(|outlook| outlook.failure = None);
            let lacked = holding.missing();
            let known = (&mut liars, &mut offered);
            let round = Round::new(&self, content, holding, &errand.tell, known);
            match round.run(std::mem::take(&mut peers)).await {
                Ended::Whole => match self.finish(content).await {
                    Ok(true) if offered => {
                        info!(name = %offer.name, "is here whole");
                        break;
                    }
                    Ok(true) => debug!(name = %offer.name, "is not offered yet; tried again later"),
                    Ok(false) => debug!(name = %offer.name, "has lost a piece; fetched again"),
                    Err(error) => {
                        warn!(name = %offer.name, "is not shared as a whole yet: {error}")
                    }
                },
                Ended::Failed(failure) => {
                    if self.fail(offer, failure, &errand).await {
                        break;
                    }
                    rest = REST.1;
                }
                Ended::Stalled => debug!(name = %offer.name, "nobody delivers; tried again later"),
            }
            drop(turn);
            if holding.missing() < lacked {
                rest = REST.0;
            }
            // Others have their turn.
            let _ = timeout(rest, errand.wake.notified()).await;
            rest = (rest * 2).min(REST.1);
        }
        self.fetches.over(content, &errand);
    }

    /// Whether what comes is still wanted.
    fn keeps(&self, content: Key, holding: &Arc<Holding>) -> bool {
        let kept = self.kept(&Wanted::Content(content));
        kept.is_some_and(|(_, kept)| Arc::ptr_eq(&kept, holding))
    }

    /// Shares it as a whole, unless something of it is not here.
    pub(super) async fn finish(&self, content: Key) -> Result<bool, ShareError> {
        let shelf = self.shelf.clone();
        on_disk(move || shelf.finish(content)).await
    }

    /// This peer cannot keep it: gives up what was to come here; whether that is its end. What is shared from here stays as it is,
    /// and there may be room for what it lacks later.
    pub(super) async fn fail(&self, offer: &Offer, failure: ChunkError, errand: &Errand) -> bool {
        warn!(name = %offer.name, "a shared file cannot be kept: {failure}");
        // Its bytes must not fill the disk for nothing. Fails only with the volume, or when the peer stops.
        let _ = self.drop_fetch(offer.content).await;
        // Then: whoever starts it from now on starts another one, or tries this one again.
        let tell = |outlook: &mut Outlook| outlook.failure = Some(failure);
        errand.tell.send_modify(tell);
        self.kept(&Wanted::Content(offer.content)).is_none()
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
            let len = layout.pieces()[*piece as usize].len;
            let share = self.downloads.take(len as usize).await;
            let chunk = self.piece(&holding, *piece).await?;
            client.send(chunk.into_data(), share).await?;
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
        let stirred = holding.stirred();
        // A failure is seen when nothing comes any more at the latest. On a slow link a piece may take long.
        if timeout(STALL, here.changed()).await.is_err() && holding.stirred() == stirred {
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

#[cfg(test)]
mod tests;
