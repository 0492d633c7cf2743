//! Files that stay with this peer: shared from it, found at others, fetched from whoever has them.
//!
//! [`shelf`] keeps their bytes apart from the ring's, [`publish`] takes them in, [`fetch`] brings them here from others
//! and so makes this peer one more who has them, [`turns`] says whom it serves next. Who has what is found by asking
//! (`peernet_core::flood`); what comes is believed only when it has the hash that was asked for, the manifest as well as
//! each chunk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use peernet_core::flood::{Ask, Cost, FLOOD_TTL, Found, Hit, Method};
use peernet_core::io::Endpoint;
use peernet_core::key::{InvalidName, Key, Name};
use peernet_core::member::{Member, PeerId};
use peernet_core::share::{InvalidShare, Offer, SHARES_MAX, Wanted};
use thiserror::Error;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::chunks::{ChunkError, Chunks};
use crate::disk::{self, Chunk};
use crate::driver::{PeerError, PeerHandle};
use crate::files::cutter::STALL;
use crate::files::record::RecordError;
use crate::files::{Budget, ErrorKind, FileError};

mod fetch;
mod heal;
mod holding;
mod prefetch;
mod publish;
pub(crate) mod shelf;
mod turns;

use fetch::Fetches;
pub(crate) use fetch::sum;
use holding::{Holding, SurveyError};
use prefetch::Invitations;
pub(crate) use publish::Header;
use shelf::Shelf;
pub(crate) use shelf::{Kept, Unread};
use turns::{Turn, Turns};

/// Chunks of one shared file, nodes included: 64 GiB in chunks of 1 MiB.
pub(crate) const CHUNKS_MAX: usize = 65_536;
/// Files fetched at once, and as many taken in to be shared; each holds a few chunks in memory (guess).
const TRANSFERS: usize = 8;
/// Files that may wait for that (guess: more than one peer brings in within a client's patience).
const WAITING: usize = 64;
/// Bytes of pieces on their way here at once (guess: four fetches at full width; the others take what is left).
const PIECES: usize = 32 * 1024 * 1024;
/// How long a transfer waits for others to end (guess: the time after which an idle client is cut off anyway).
const PATIENCE: Duration = STALL;

/// Why something could not be done with a shared file.
#[derive(Debug, Error)]
pub(crate) enum ShareError {
    /// This peer does not share it.
    #[error("this peer shares no file '{0}'")]
    NotShared(Name),
    /// Nothing of that name is on its way here.
    #[error("this peer does not fetch '{0}', or has all of it by now")]
    NotComing(Name),
    /// No peer that was asked shares it.
    #[error("no peer {} shares {what}; {hint}", if *everywhere { "in reach" } else { "of this zone" })]
    Nobody {
        /// What was looked for.
        what: String,
        /// In all zones.
        everywhere: bool,
        /// What to do.
        hint: &'static str,
    },
    /// Providers are known, but none delivers.
    #[error("none of the {providers} peers that share it delivers {what}: {reason}; try again")]
    Silent {
        /// How many.
        providers: usize,
        /// Of it.
        what: String,
        /// Of the last failure.
        reason: String,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Not a share or a search.
    #[error(transparent)]
    Invalid(#[from] InvalidShare),
    /// More than one peer shares.
    #[error(
        "this peer shares as much as it can ({SHARES_MAX} files); unshare some, or share from another peer"
    )]
    TooMany,
    /// As many transfers as there may be, and none of them ends.
    #[error(
        "this peer is busy with other shared files; try again in a moment, or ask another peer"
    )]
    Busy,
    /// More than one file may have.
    #[error("a shared file has at most {CHUNKS_MAX} chunks; store it with put instead")]
    TooLarge,
    /// Prefetched onto none, or more than there are.
    #[error("a file can be brought onto 1 to {0} peers, as many as there are now")]
    Peers(usize),
    /// Nothing to prefetch.
    #[error(
        "'{0}' is small: its bytes are kept with its name, and a reader needs no more than that"
    )]
    Small(Name),
    /// The manifest makes no sense.
    #[error("its manifest makes no sense: {0}")]
    Manifest(RecordError),
    /// The upload failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The disk of this peer.
    #[error("this peer cannot keep it: {0}")]
    Chunk(#[from] ChunkError),
    /// The records on this peer's volume.
    #[error("this peer's volume failed: {0}")]
    Volume(String),
    /// This peer's state machine.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl From<SurveyError> for ShareError {
    fn from(error: SurveyError) -> Self {
        match error {
            SurveyError::Record(error) => ShareError::Manifest(error),
            SurveyError::TooLarge => ShareError::TooLarge,
        }
    }
}

impl From<disk::ChunkError> for ShareError {
    fn from(error: disk::ChunkError) -> Self {
        ShareError::Chunk(error.into())
    }
}

impl ShareError {
    /// What kind of failure this is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            ShareError::NotShared(_) | ShareError::NotComing(_) | ShareError::Nobody { .. } => {
                ErrorKind::NotFound
            }
            ShareError::Silent { .. } => ErrorKind::Unavailable,
            ShareError::Name(_)
            | ShareError::Invalid(_)
            | ShareError::Peers(_)
            | ShareError::Small(_)
            | ShareError::TooLarge => ErrorKind::Invalid,
            ShareError::TooMany | ShareError::Chunk(ChunkError::Full) => ErrorKind::Full,
            ShareError::Busy => ErrorKind::Busy,
            ShareError::Manifest(_) => ErrorKind::DataLoss,
            ShareError::File(error) => error.kind(),
            ShareError::Chunk(_) | ShareError::Volume(_) => ErrorKind::Internal,
            ShareError::Peer(error) => error.kind(),
        }
    }
}

/// The shared files of this peer and the way to those of others; cheap to clone.
#[derive(Clone)]
pub(crate) struct Shares {
    peer: PeerHandle,
    network: String,
    me: PeerId,
    chunks: Arc<Chunks>,
    shelf: Arc<Shelf>,
    chunk_size: u32,
    /// Memory of what is read for clients, which all downloads share.
    downloads: Budget,
    /// Memory of what comes here.
    pieces: Budget,
    /// Fetches that have their turn.
    transfers: Arc<Semaphore>,
    /// Files that clients send: those who trickle must not hold up fetches, nor fetches them.
    intake: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Held while what is here and what is said of it change together, so that a name is never said of what had it before.
    saying: Arc<Mutex<()>>,
    fetches: Arc<Fetches>,
    /// What others are asked to fetch.
    invitations: Arc<Invitations>,
    turns: Arc<Turns>,
    tasks: TaskTracker,
}

/// Somebody who has a file, as clients see it.
#[derive(Clone, Debug)]
pub(crate) struct Sharer {
    /// What is shared.
    pub(crate) offer: Offer,
    /// By whom.
    pub(crate) member: Member,
}

impl Shares {
    /// What clients read takes its memory from `downloads`. Work that outlives its request is spawned on `tasks`.
    pub(crate) fn new(
        peer: PeerHandle,
        network: String,
        me: PeerId,
        chunks: Arc<Chunks>,
        shelf: Arc<Shelf>,
        (chunk_size, downloads): (u32, Budget),
        tasks: TaskTracker,
    ) -> Self {
        Shares {
            peer,
            network,
            me,
            chunks,
            shelf,
            chunk_size,
            downloads,
            pieces: Budget::new(PIECES),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            intake: Arc::new(Semaphore::new(TRANSFERS)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            saying: Arc::default(),
            fetches: Arc::default(),
            invitations: Arc::default(),
            turns: Arc::default(),
            tasks,
        }
    }

    /// Publishes what the volume remembers, goes on with what was on its way, and then heals what cannot be used, if there is any.
    /// Fails only when the peer stops.
    pub(crate) async fn restore(&self) -> Result<(), PeerError> {
        let mut stuck = false;
        for kept in self.shelf.whole() {
            let (shared, holding) = &kept;
            if !holding.has_some() {
                continue;
            }
            // Each would wait as long as the one before.
            if !stuck {
                match self.peer.offer(shared.offer.clone()).await {
                    Ok(()) => continue,
                    Err(PeerError::Stopped) => return Err(PeerError::Stopped),
                    Err(error) => {
                        stuck = error == PeerError::Stuck;
                        warn!(name = %shared.offer.name, "is not offered now: {error}");
                    }
                }
            }
            // Says it until that is heard.
            self.pursue(&kept, Vec::new());
        }
        self.resume().await;
        self.heal().await;
        Ok(())
    }

    /// What this peer would share if it could.
    pub(crate) fn unread(&self) -> Vec<Unread> {
        self.shelf.unread()
    }

    /// What this peer shares, in byte order of the names, and then what it brings here.
    pub(crate) fn list(&self) -> Vec<Kept> {
        let whole = self.shelf.whole().into_iter();
        whole.chain(self.shelf.partial()).collect()
    }

    /// Does what must not stop half-way when whoever asked for it goes away.
    async fn through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ShareError>> + Send + 'static,
    ) -> Result<T, ShareError> {
        let done = self.tasks.spawn(work).await;
        done.unwrap_or_else(|ended| Err(ShareError::Volume(ended.to_string())))
    }

    /// Gives up what is on its way here under that name; what is here stays.
    pub(crate) async fn give_up(&self, name: Name) -> Result<(), ShareError> {
        let shares = self.clone();
        self.through(async move { shares.give_up_now(name).await })
            .await
    }

    async fn give_up_now(&self, name: Name) -> Result<(), ShareError> {
        let Some(content) = self.shelf.coming(&name) else {
            return Err(ShareError::NotComing(name));
        };
        self.let_go(content);
        match self.drop_fetch(content).await? {
            true => Ok(()),
            false => Err(ShareError::NotComing(name)),
        }
    }

    /// A content is fetched no more, neither here nor, for this peer's sake, by others.
    fn let_go(&self, content: Key) {
        self.fetches.end(content);
        self.invitations.end(content);
    }

    /// Removes what is on its way here, whether there is such a thing, and says so.
    async fn drop_fetch(&self, content: Key) -> Result<bool, ShareError> {
        let _saying = self.saying.lock().await;
        let shelf = self.shelf.clone();
        let Some(gone) = on_disk(move || shelf.give_up(content)).await? else {
            return Ok(false);
        };
        self.peer.withdraw(gone.name).await?;
        Ok(true)
    }

    /// Says that a content is here, in part at least, under the names that it has now; whether that is said.
    async fn say(&self, content: Key) -> bool {
        let _saying = self.saying.lock().await;
        let offers = self.shelf.offers_of(content);
        let known = !offers.is_empty();
        for offer in offers {
            if let Err(error) = self.peer.offer(offer).await {
                debug!(%content, "is not offered now: {error}");
                return false;
            }
        }
        known
    }

    /// Shares a file no more, or gives up what is on its way here under that name.
    pub(crate) async fn unshare(&self, name: Name) -> Result<(), ShareError> {
        let shares = self.clone();
        self.through(async move { shares.unshare_now(name).await })
            .await
    }

    async fn unshare_now(&self, name: Name) -> Result<(), ShareError> {
        let _saying = self.saying.lock().await;
        // First no more fetched, then unsaid, then gone: nobody is sent here for what is no more.
        // Unless it is wanted under another name as well.
        if let Some((shared, _)) = self.kept(&Wanted::Name(name.clone()))
            && !self.shelf.is_kept_besides(shared.offer.content, &name)
        {
            self.let_go(shared.offer.content);
        }
        self.peer.withdraw(name.clone()).await?;
        let (shelf, gone) = (self.shelf.clone(), name.clone());
        match on_disk(move || shelf.remove(&gone)).await? {
            true => Ok(()),
            false => Err(ShareError::NotShared(name)),
        }
    }

    /// Searches among peers.
    pub(crate) async fn find(&self, ask: Ask) -> Result<(Vec<Sharer>, Cost), ShareError> {
        let Found { hits, cost } = self.peer.search(ask).await?;
        let members = self.members().await?;
        let known = |Hit { peer, offer }: Hit| {
            let member = members.get(&peer)?.clone();
            Some(Sharer { offer, member })
        };
        Ok((hits.into_iter().filter_map(known).collect(), cost))
    }

    /// Who has announced a content, this peer's zone first.
    pub(crate) async fn providers(&self, content: Key) -> Result<(Vec<Member>, Cost), ShareError> {
        let (peers, cost) = self.peer.providers(content).await?;
        let members = self.members().await?;
        let zone = members.get(&self.me).map(|m| m.zone.clone());
        let mut known: Vec<Member> = peers
            .iter()
            .filter_map(|id| members.get(id).cloned())
            .collect();
        known.sort_by_key(|m| (Some(&m.zone) != zone.as_ref(), m.name.clone()));
        Ok((known, cost))
    }

    /// What is here of a shared file, whole or in part.
    pub(crate) fn kept(&self, wanted: &Wanted) -> Option<Kept> {
        self.shelf.kept(wanted)
    }

    /// A turn for a fetcher to be sent a piece. `None`: too many wait.
    pub(crate) fn ask_turn(&self, fetcher: PeerId) -> Option<Turn> {
        self.turns.ask(fetcher)
    }

    /// A chunk of a file that this peer shares or fetches, checked.
    pub(crate) async fn chunk(&self, key: Key) -> Result<Chunk, ShareError> {
        let shelf = self.shelf.clone();
        on_disk(move || Ok(shelf.read(&key)?)).await
    }

    /// A piece of what is here, checked. One that cannot be read is withdrawn, so that nobody asks for it in vain.
    pub(crate) async fn piece(&self, holding: &Holding, piece: u32) -> Result<Chunk, ShareError> {
        let key = holding.layout().pieces()[piece as usize].key;
        let read = self.chunk(key).await;
        if let Err(ShareError::Chunk(ChunkError::Missing | ChunkError::Damaged)) = &read {
            warn!(%key, "a piece of a shared file cannot be read and is not offered any more");
            holding.lose(piece);
        }
        read
    }

    async fn members(&self) -> Result<BTreeMap<PeerId, Member>, PeerError> {
        let members = self.peer.members().await?;
        Ok(members.into_iter().map(|m| (m.id, m)).collect())
    }

    /// A place among the files that clients send.
    async fn intake(&self) -> Result<SemaphorePermit<'_>, ShareError> {
        let _place = self.waiting.try_acquire().map_err(|_| ShareError::Busy)?;
        turn(&self.intake).await
    }
}

async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, ShareError> {
    let turn = timeout(PATIENCE, turns.acquire()).await;
    // Never closed.
    let turn = turn.map_err(|_| ShareError::Busy)?;
    turn.map_err(|_| ShareError::Peer(PeerError::Stopped))
}

/// A search for all files that match, as far as a flood goes.
pub(crate) fn flood(wanted: Wanted, everywhere: bool, want: usize) -> Ask {
    Ask {
        wanted,
        method: Method::Flood,
        // The more there are the further away the last one is.
        ttl: if everywhere {
            peernet_core::flood::FLOOD_TTL_MAX
        } else {
            FLOOD_TTL
        },
        everywhere,
        want,
    }
}

fn endpoint(member: &Member) -> Endpoint {
    Endpoint {
        id: member.id,
        name: member.name.clone(),
        address: member.address.clone(),
        up: true,
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ShareError> + Send + 'static,
) -> Result<T, ShareError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => Err(ShareError::Volume(panic.to_string())),
    }
}

#[cfg(test)]
mod tests;
