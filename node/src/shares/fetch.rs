//! Fetching a shared file: from the peers that have it, nearest first, each chunk verified.
//!
//! What was found is kept here as it comes, so that this peer has it too, at first in part (its chunks are served as soon
//! as they are durable), and shares it when it is whole. A provider that fails is passed over from then on; one that
//! sends wrong bytes is caught by the hash and not asked again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use peernet_core::flood::Cost;
use peernet_core::key::{Key, Name};
use peernet_core::member::{Member, PeerId};
use peernet_core::share::{Offer, Wanted};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::shelf::{Draft, Shared};
use super::{ShareError, Sharer, Shares, endpoint, flood, on_disk};
use crate::chunks::ChunkError;
use crate::files::FileError;
use crate::files::cutter::STALL;
use crate::files::manifest::{ChunkRef, Step, Walk};
use crate::files::record::Content;

/// Chunks of one fetch under way at once (guess: hides a round trip and a sync).
const AHEAD: usize = 4;
/// Providers of one file that a fetch knows of; more are not looked for.
const ENOUGH: usize = 8;

/// A shared file's bytes, in order. An error ends it.
pub(crate) type Bytestream = ReceiverStream<Result<Bytes, ShareError>>;

/// Who has a content, without those that failed.
struct Sources {
    peers: Vec<Member>,
    failed: Mutex<BTreeSet<PeerId>>,
}

impl Sources {
    fn left(&self) -> Vec<Member> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.peers.iter().filter(|m| !failed.contains(&m.id));
        left.cloned().collect()
    }

    fn failed(&self, id: PeerId) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.insert(id);
    }
}

impl Shares {
    /// Finds a shared file and begins to bring it here. Returns what it is, and its bytes.
    pub(crate) async fn fetch(
        &self,
        wanted: Wanted,
        everywhere: bool,
    ) -> Result<(Offer, Bytestream), ShareError> {
        let own = match &wanted {
            Wanted::Name(name) => self.shelf.named(name),
            Wanted::Content(content) => self.shelf.of_content(*content),
            Wanted::Words(_) => None,
        };
        let (shared, sources) = match own {
            Some(shared) => (shared, Vec::new()),
            None => self.locate(wanted, everywhere).await?,
        };
        let sources = Arc::new(Sources {
            peers: sources,
            failed: Mutex::default(),
        });
        let (bytes, stream) = mpsc::channel(1);
        let (shares, offer) = (self.clone(), shared.offer.clone());
        self.tasks.spawn(async move {
            if let Err(error) = shares.deliver(shared, &sources, &bytes).await {
                // The client may be gone.
                let _ = timeout(STALL, bytes.send(Err(error))).await;
            }
        });
        Ok((offer, ReceiverStream::new(stream)))
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

    /// Brings all bytes, keeps them, and hands them on.
    async fn deliver(
        &self,
        shared: Shared,
        sources: &Arc<Sources>,
        client: &mpsc::Sender<Result<Bytes, ShareError>>,
    ) -> Result<(), ShareError> {
        let _turn = tokio::select! {
            turn = self.turn() => turn?,
            () = client.closed() => return Ok(()),
        };
        let foreign = !sources.peers.is_empty();
        let mut draft = foreign.then(|| self.shelf.draft());
        match &shared.content {
            Content::Inline(bytes) => {
                if !bytes.is_empty() && !send(client, bytes.clone()).await {
                    return Ok(());
                }
            }
            Content::Chunks(manifest) => {
                let mut walk = Walk::new(manifest, 0..manifest.size());
                let mut ahead: VecDeque<(Key, AbortOnDropHandle<Result<Bytes, ShareError>>)> =
                    VecDeque::new();
                let name = &shared.offer.name;
                loop {
                    while ahead.len() < AHEAD
                        && let Some(piece) = self
                            .next_piece(&mut walk, name, sources, &mut draft)
                            .await?
                    {
                        let (shares, sources) = (self.clone(), sources.clone());
                        let task = async move { shares.bring(piece.key, &sources).await };
                        ahead.push_back((piece.key, AbortOnDropHandle::new(tokio::spawn(task))));
                    }
                    let Some((key, task)) = ahead.pop_front() else {
                        break;
                    };
                    let data = task.await.map_err(|e| interrupted(&e))??;
                    draft = keep(draft, key, data.clone()).await;
                    if !send(client, data).await {
                        return Ok(());
                    }
                }
            }
        }
        let Some(draft) = draft else {
            return Ok(());
        };
        // What this peer shares under that name itself stays.
        if self.shelf.named(&shared.offer.name).is_none()
            && let Err(error) = self.publish(draft, shared).await
        {
            warn!("a fetched file is not shared from here: {error}");
        }
        Ok(())
    }

    async fn next_piece(
        &self,
        walk: &mut Walk,
        name: &Name,
        sources: &Arc<Sources>,
        draft: &mut Option<Draft>,
    ) -> Result<Option<ChunkRef>, ShareError> {
        let record = |reason| {
            ShareError::File(FileError::Record {
                name: name.clone(),
                reason,
            })
        };
        loop {
            match walk.step().map_err(record)? {
                None => return Ok(None),
                Some(Step::Piece(chunk, _)) => return Ok(Some(chunk)),
                Some(Step::Node(node)) => {
                    let data = self.bring(node.key, sources).await?;
                    *draft = keep(draft.take(), node.key, data.clone()).await;
                    walk.enter(data).map_err(record)?;
                }
            }
        }
    }

    /// A chunk from here, else from whoever still delivers.
    async fn bring(&self, key: Key, sources: &Sources) -> Result<Bytes, ShareError> {
        if let Ok(data) = self.chunk(key).await {
            return Ok(data);
        }
        let mut reason = "all of them have failed".to_owned();
        for peer in sources.left() {
            match self.chunks.get(&endpoint(&peer), key).await {
                Ok(data) => return Ok(data),
                Err(error) => {
                    if matches!(error, ChunkError::Damaged) {
                        warn!(%key, peer = peer.name, "sent wrong bytes and is not asked again");
                    }
                    reason = format!("{}: {error}", peer.name);
                    sources.failed(peer.id);
                }
            }
        }
        Err(ShareError::Silent {
            providers: sources.peers.len(),
            what: format!("chunk {key}"),
            reason,
        })
    }
}

/// Keeps a chunk as long as that works; without room the file is passed on and not shared.
async fn keep(draft: Option<Draft>, key: Key, data: Bytes) -> Option<Draft> {
    let mut draft = draft?;
    let kept = on_disk(move || {
        draft.add(key, &data)?;
        Ok(draft)
    });
    match kept.await {
        Ok(draft) => Some(draft),
        Err(error) => {
            debug!("a fetched file is not kept: {error}");
            None
        }
    }
}

/// Whether the client still listens.
async fn send(client: &mpsc::Sender<Result<Bytes, ShareError>>, data: Bytes) -> bool {
    matches!(timeout(STALL, client.send(Ok(data))).await, Ok(Ok(())))
}

fn interrupted(error: &tokio::task::JoinError) -> ShareError {
    ShareError::File(FileError::Interrupted(error.to_string()))
}

/// Costs of several questions together; those asked twice count once.
pub(crate) fn sum(costs: &[Cost]) -> Cost {
    costs.iter().fold(Cost::default(), |sum, cost| Cost {
        peers: sum.peers.max(cost.peers),
        messages: sum.messages + cost.messages,
        silent: sum.silent + cost.silent,
    })
}
