//! Keeping the chunks of an upload in parts for as long as it goes on.
//!
//! All parts store their chunks as those of one upload, in the place of one write of the name (ADR 12). A replica that has
//! got no chunk of an upload for an hour ends it, by writing the name anew, and with it whatever was to take the place of the
//! same write. So an upload that goes on has to be heard of by every peer that holds any of its chunks, also where all of
//! these are old: now and then one chunk at each is pinned once more. When the name was written meanwhile, all chunks are
//! pinned for another upload, in the place of the new write, as at the end of any put; where some are gone by then, the
//! upload is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream;
use peernet_core::collect::Referrer;
use peernet_core::key::{Key, Slot};
use peernet_core::member::PeerId;
use peernet_core::register::Register;
use peernet_proto::v1;
use tracing::debug;

use super::{AGE, Parts, PartsId};
use crate::files::put::{in_place_of, now_unix_ms};
use crate::files::{FileError, Files};

/// How long it is enough that all holders have heard of an upload (guess: two tries may fail before the hour is over).
pub(super) const RENEW: Duration = Duration::from_secs(AGE.as_secs() / 4);

impl Files {
    /// What the next chunks are stored with, when `register` is what the name holds now: the upload there was, or another one
    /// with all chunks so far, if the name was written since. Where some of them are gone the upload is forgotten.
    pub(super) async fn uphold(
        &self,
        id: PartsId,
        parts: &mut Parts,
        register: Option<&Register>,
    ) -> Result<Referrer, FileError> {
        let base = register.map(|r| r.write);
        let by = match parts.by.take().filter(|by| by.base == base) {
            Some(by) => by,
            None => {
                parts.renewed = 0;
                in_place_of(parts.name.clone(), register)
            }
        };
        parts.by = Some(by.clone());
        if parts.renewed == 0 {
            // Recorded first: a number that nobody knows would end the upload after an hour.
            self.parts.save(id, parts).await?;
            match self.pin_held(&parts.held, &by).await {
                Err(FileError::Outlived | FileError::HeldLength { .. }) => {
                    self.parts.remove(id).await?;
                    return Err(FileError::NoParts);
                }
                pinned => pinned?,
            }
            parts.renewed = now_unix_ms();
            self.parts.save(id, parts).await?;
        }
        Ok(by)
    }

    /// Lets every peer that holds chunks hear of the upload, if that is due. That it fails may mean nothing yet: it is tried
    /// again with later parts.
    pub(super) async fn renew(&self, parts: &mut Parts) {
        let now = now_unix_ms();
        let Some(by) = parts.by.clone() else {
            return;
        };
        // A clock that was set back makes it due.
        if u128::from(now.abs_diff(parts.renewed)) < RENEW.as_millis() {
            return;
        }
        let renewed = async {
            let keys = self.one_for_each_holder(&parts.held.keys).await?;
            let len = parts.held.chunk_size;
            let chunks = keys.into_iter().map(|key| (key, len)).collect();
            self.pin_all(chunks, &by).await
        };
        match renewed.await {
            Ok(()) => parts.renewed = now,
            Err(error) => debug!("an upload in parts may not be known to go on: {error}"),
        }
    }

    async fn one_for_each_holder(&self, keys: &[Key]) -> Result<BTreeSet<Key>, FileError> {
        let of_slots: BTreeMap<Slot, Key> = keys.iter().map(|key| (key.slot(), *key)).collect();
        let routes = self.peer.routes(of_slots.keys().copied().collect()).await?;
        let holders = routes.into_iter().map(|route| {
            let ids = route.holders.into_iter().map(|holder| holder.id);
            ids.collect()
        });
        Ok(covering(of_slots.into_values().zip(holders)))
    }

    /// Makes the file of an upload whose parts are all there. When that fails for good, the upload is over.
    pub(super) async fn complete(
        &self,
        id: PartsId,
        mut parts: Parts,
    ) -> Result<v1::FileInfo, FileError> {
        let Parts {
            name,
            kind,
            when,
            size,
            digest: _,
            held,
            tail,
            by: _,
            renewed: _,
            recorded: _,
        } = parts.clone();
        let tail = stream::iter((!tail.is_empty()).then_some(Ok(tail)));
        let put = self.put_rest(name, kind, size, &when, &held, tail).await;
        match &put {
            // A replica that has a chunk not yet, or not whole, says that it is missing: it is gone only if the name has gone on.
            Err(FileError::Outlived) => {
                let register = self.peer.read_name(parts.name.clone()).await?;
                self.uphold(id, &mut parts, register.as_ref()).await?;
            }
            Err(FileError::HeldLength { .. }) => {
                self.parts.remove(id).await?;
                return Err(FileError::NoParts);
            }
            Err(_) => {}
            Ok(_) => self.parts.remove(id).await?,
        }
        put.map(|stored| stored.info)
    }
}

/// Of chunks and their holders, so many that each holder has one of these; no more than there are holders.
fn covering(chunks: impl Iterator<Item = (Key, Vec<PeerId>)>) -> BTreeSet<Key> {
    let mut covered: BTreeSet<PeerId> = BTreeSet::new();
    let news = chunks.filter(|(_, holders)| {
        let known = covered.len();
        covered.extend(holders);
        covered.len() > known
    });
    news.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_has_one_of_the_chunks_that_are_pinned_again() {
        let ids = |numbers: &[u128]| numbers.iter().map(|n| PeerId(*n)).collect::<Vec<_>>();
        let chunks = [
            (Key([1; 32]), ids(&[1, 2, 3])),
            (Key([2; 32]), ids(&[3, 2, 1])),
            (Key([3; 32]), ids(&[2, 3, 4])),
            (Key([4; 32]), ids(&[])),
            (Key([5; 32]), ids(&[1, 4])),
        ];
        let chosen = covering(chunks.into_iter());
        assert_eq!(chosen, BTreeSet::from([Key([1; 32]), Key([3; 32])]));
        assert!(covering(std::iter::empty()).is_empty());
    }
}
