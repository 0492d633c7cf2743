//! Listing names.

use peernet_core::key::Name;
use peernet_core::message::Listed;
use peernet_proto::v1;

use super::record::decode_head;
use super::{FileError, Files};

/// Most files on a page.
const LIMIT: u32 = 1000;

/// One page of a listing.
pub(crate) struct Page {
    /// In byte order of the name.
    pub files: Vec<v1::FileInfo>,
    /// Names after this one are on the next page, if there is one.
    pub next: Option<Name>,
}

impl Files {
    /// The files whose name starts with `prefix` and comes after `after` (empty: from the beginning); `limit` is 1 to
    /// 1,000, or 0 for 1,000.
    pub(crate) async fn list(
        &self,
        prefix: String,
        after: String,
        limit: u32,
    ) -> Result<Page, FileError> {
        let limit = match limit {
            0 => LIMIT,
            1..=LIMIT => limit,
            _ => return Err(FileError::Limit(limit)),
        };
        // Other peers would not take it, and nothing is called so anyway.
        Name::check_prefix(&prefix)?;
        let after = if after.is_empty() {
            None
        } else {
            Some(Name::new(after)?)
        };
        let (items, next) = self.peer.list(prefix, after, limit).await?;
        let files = items
            .into_iter()
            .filter_map(info)
            .collect::<Result<_, _>>()?;
        Ok(Page { files, next })
    }
}

pub(super) fn info(item: Listed) -> Option<Result<v1::FileInfo, FileError>> {
    let Listed {
        name,
        version: _,
        head,
    } = item;
    let summary = decode_head(&head?);
    Some(match summary {
        Ok(summary) => Ok(summary.to_info(&name)),
        Err(reason) => Err(FileError::Record { name, reason }),
    })
}
