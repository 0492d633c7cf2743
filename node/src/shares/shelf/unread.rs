//! Records that are there and cannot be used now: kept, said when somebody asks what is shared, and tried again.

use std::io;
use std::path::{Path, PathBuf};

use peernet_core::key::Key;
use peernet_core::share::{Offer, Wanted};
use tracing::{info, warn};

use super::records::Unusable;
use super::{Kept, Shared, Shelf, volume};
use crate::files::record::Content;
use crate::shares::ShareError;

/// A record that cannot be used now.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    path: PathBuf,
    /// It is of a share, not of a fetch.
    whole: bool,
    /// What it is of, where only its manifest is lost.
    pub(crate) lost: Option<Lost>,
    /// Why it is of no use.
    reason: String,
}

/// A share whose manifest is lost.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// What was published.
    pub(crate) offer: Offer,
    /// The manifest's root, if it is not that which is lost.
    pub(crate) content: Option<Content>,
}

/// What is shared once more.
pub(crate) struct Healed {
    /// The share, or the fetch.
    pub(crate) kept: Kept,
    /// A fetch of the same content under another name, which is over.
    pub(crate) gone: Option<Offer>,
}

impl Unread {
    /// What is wrong, and what to do.
    pub(crate) fn advice(&self) -> String {
        let reason = &self.reason;
        match &self.lost {
            Some(_) => format!(
                "its manifest is lost ({reason}), so it is not offered; peers that share it are asked for the manifest; if there are \
                 none, share the file again under this name, or unshare it"
            ),
            None => {
                let file = self.path.file_name().unwrap_or_default().to_string_lossy();
                format!(
                    "what record {file} of this peer shares is not known ({reason}), so it is not offered; the record is read again now \
                     and then; if that does not help, share the file again under its name, or unshare it"
                )
            }
        }
    }
}

impl Shelf {
    /// Takes in a record. One that cannot be used now is kept, one that never can is removed.
    pub(super) fn take_in(&self, path: &Path, whole: bool) -> io::Result<Option<Kept>> {
        let (lost, reason) = match self.load(path, whole) {
            Ok(kept) => return Ok(Some(kept)),
            Err(Unusable::Wrong(reason)) => {
                warn!(path = %path.display(), "a file is not shared any more: {reason}");
                std::fs::remove_file(path)?;
                self.lock().unread.remove(path);
                return Ok(None);
            }
            Err(Unusable::Unread(reason)) => (None, reason),
            Err(Unusable::Lost(lost, reason)) => (Some(*lost), reason),
        };
        let unread = Unread {
            path: path.to_owned(),
            whole,
            lost,
            reason,
        };
        let mut table = self.lock();
        if !table.unread.contains_key(path) {
            warn!(
                path = %path.display(),
                "a shared file is kept but not offered, and no space of others is given back: {}", unread.reason
            );
        }
        table.unread.insert(path.to_owned(), unread);
        Ok(None)
    }

    /// Records that cannot be used now, in no order.
    pub(crate) fn unread(&self) -> Vec<Unread> {
        self.lock().unread.values().cloned().collect()
    }

    /// The record of a share whose manifest is lost.
    pub(crate) fn lost(&self, wanted: &Wanted) -> Option<Unread> {
        let table = self.lock();
        let fits = |unread: &&Unread| {
            let lost = unread.lost.as_ref();
            lost.is_some_and(|lost| wanted.matches(&lost.offer))
        };
        table.unread.values().find(fits).cloned()
    }

    /// Reads a record once more, after what was lost of its manifest has come, with the `root` if that was lost. `None`: it still
    /// cannot be used, or the user's word has ended it.
    pub(crate) fn read_again(
        &self,
        unread: &Unread,
        root: Option<Content>,
    ) -> Result<Option<Healed>, ShareError> {
        let _changes = self.change();
        if !self.lock().unread.contains_key(&unread.path) {
            return Ok(None);
        }
        if let (Some(Lost { offer, .. }), Some(content)) = (&unread.lost, root) {
            let (mut offer, key) = (offer.clone(), Key::of_name(&offer.name));
            offer.size = content.size();
            let shared = Shared { offer, content };
            self.files.write(key, &shared).map_err(|e| volume(&e))?;
        }
        let taken = self.take_in(&unread.path, unread.whole);
        let Some(kept) = taken.map_err(|e| volume(&e))? else {
            return Ok(None);
        };
        let offer = &kept.0.offer;
        info!(name = %offer.name, "a record that could not be used is in order");
        self.lock().unread.remove(&unread.path);
        let gone = match unread.whole {
            true => self.drop_fetch_of(offer.content),
            false => None,
        };
        Ok(Some(Healed { kept, gone }))
    }
}
