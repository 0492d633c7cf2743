//! Shares that could not be used when this peer started: their records are read again, and manifests that are lost are brought
//! from others that share the same.

use peernet_core::member::Member;
use peernet_core::share::{Offer, Wanted};
use tokio::time::sleep;
use tracing::debug;

use super::fetch::{REST, bring_nodes};
use super::shelf::{Healed, Lost, Shelf, Unread};
use super::{ShareError, Shares, on_disk};
use crate::driver::PeerError;
use crate::files::record::Content;

impl Shares {
    /// Tries now and then, until all are in order, the user has ended the rest, or this peer stops.
    pub(super) async fn heal(&self) {
        let mut rest = REST.0;
        loop {
            let unread = self.shelf.unread();
            // Anything else passes, as a disk that is stuck for a while does.
            let stopped = matches!(self.peer.members().await, Err(PeerError::Stopped));
            if unread.is_empty() || stopped {
                return;
            }
            for record in unread {
                match self.heal_one(&record).await {
                    Ok(true) => rest = REST.0,
                    Ok(false) => {}
                    Err(error) => debug!("{}; tried again later: {error}", record.advice()),
                }
            }
            sleep(rest).await;
            rest = (rest * 2).min(REST.1);
        }
    }

    /// Whether it is shared now.
    pub(super) async fn heal_one(&self, record: &Unread) -> Result<bool, ShareError> {
        let mut draft = self.shelf.draft();
        let mut root = None;
        if let Some(Lost { offer, content }) = &record.lost {
            let mut peers = self.providers(offer.content).await?.0;
            peers.retain(|m| m.id != self.me);
            let content = match content {
                Some(content) => content.clone(),
                None => root.insert(self.ask_root(offer, &peers).await?).clone(),
            };
            if let Content::Chunks(manifest) = &content {
                let (shares, peers) = (self, &peers);
                let bring = |key| async move {
                    match shares.chunk(key).await {
                        Ok(here) => Ok(here),
                        Err(_) => shares.bring_node(key, peers).await,
                    }
                };
                draft = bring_nodes(draft, manifest, bring).await?;
            }
        }
        let (shares, record) = (self.clone(), record.clone());
        let healed = self.through(async move { shares.share_again(record, root).await });
        let healed = healed.await;
        // Whatever the share needs is its own by now.
        drop(draft);
        healed
    }

    async fn ask_root(&self, offer: &Offer, peers: &[Member]) -> Result<Content, ShareError> {
        let (content, what) = (offer.content, format!("'{}'", offer.name));
        let wanted = Wanted::Content(content);
        Ok(self.ask_what(content, peers, &wanted, &what).await?.content)
    }

    /// Durable first, then said, then completed.
    async fn share_again(&self, record: Unread, root: Option<Content>) -> Result<bool, ShareError> {
        let saying = self.saying.lock().await;
        let shelf = self.shelf.clone();
        let again = move || Shelf::read_again(&shelf, &record, root);
        let Some(Healed { kept, gone }) = on_disk(again).await? else {
            return Ok(false);
        };
        let (shared, holding) = &kept;
        let mut said = Ok(());
        if holding.has_some() {
            said = self.peer.offer(shared.offer.clone()).await;
        }
        // After the offer: somebody provides the content all the time.
        if let Some(gone) = gone {
            said = said.and(self.peer.withdraw(gone.name).await);
        }
        drop(saying);
        // The record is not tried again, so what is not said now is said by who goes on with it.
        if !holding.here().is_full() || said.is_err() {
            self.pursue(&kept, Vec::new());
        }
        said?;
        Ok(true)
    }
}
