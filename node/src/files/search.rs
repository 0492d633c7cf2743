//! Searching by keywords.

use peernet_core::index::{self, term};
use peernet_core::io::{IndexCost, Search};
use peernet_core::key::{Key, NAME_MAX};
use peernet_proto::v1;

use super::list::info;
use super::record::{tag_label, type_label};
use super::{FileError, Files, Kind};

/// Files on a page when the client does not say (guess: a screen or two).
const LIMIT: u32 = 100;
/// Most files on a page.
const LIMIT_MAX: u32 = 1000;

/// One page of results.
pub(crate) struct Found {
    /// In order of their names' hashes.
    pub files: Vec<v1::FileInfo>,
    /// Where the next page begins, if there is one.
    pub next: Option<Key>,
    /// What this page cost.
    pub cost: IndexCost,
}

impl Files {
    /// Files with all words of `query`, these tags and this content type (or first half of one); `after` is empty or a
    /// page's `next`.
    pub(crate) async fn search(&self, find: v1::FindRequest) -> Result<Found, FileError> {
        let v1::FindRequest {
            query,
            tags,
            content_type,
            limit,
            after,
        } = find;
        if query.len() > NAME_MAX {
            return Err(FileError::Query(query.len()));
        }
        let kind = Kind {
            content_type,
            tags,
            compression: None,
        };
        kind.check()?;
        let Kind {
            content_type, tags, ..
        } = kind;
        let limit = match limit {
            0 => LIMIT,
            1..=LIMIT_MAX => limit,
            _ => return Err(FileError::Limit(limit)),
        };
        let after = match after.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| FileError::Cursor(after))?),
        };
        let types = (!content_type.is_empty()).then(|| type_label(&content_type));
        let labels = tags.iter().map(|tag| tag_label(tag)).chain(types);
        let search = Search {
            after,
            limit,
            ..index::search(&query, labels.map(|label| term(&label)))
        };
        let (items, next, cost) = self.peer.matching(search).await?;
        let files = items
            .into_iter()
            .filter_map(info)
            .collect::<Result<_, _>>()?;
        Ok(Found { files, next, cost })
    }
}
