//! `peernet search`: stored files by keywords, from the index in the ring; or shared ones, by asking peers.

use std::io;

use clap::ArgGroup;
use peernet_proto::v1::search_client::SearchClient;
use peernet_proto::v1::shares_client::SharesClient;
use peernet_proto::v1::{
    FindRequest, FindResponse, FindSharesRequest, FindSharesResponse, SearchCost, SearchMethod,
};
use serde::Serialize;
use thiserror::Error;

use crate::args::Global;
use crate::exit::Exit;
use crate::names::{File, file_table};
use crate::output;
use crate::servers::CallError;
use crate::share::{Cost, Hit, hit_table};

/// Most found when no limit is given. Guess: more than a person reads.
const LIMIT: u32 = 1000;
/// Most files a peer puts on a page of the index.
const PAGE: u32 = 1000;

/// Finds files.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("asking").args(["shared", "flood", "walk"]).multiple(true)))]
pub struct Search {
    /// Words that a file must all have; of a stored one, the last of several may be the beginning of a word
    #[arg(required_unless_present_any = ["tag", "content_type"])]
    pub words: Vec<String>,
    /// Only files with this tag; may be repeated
    #[arg(long, value_name = "TAG", conflicts_with = "asking")]
    pub tag: Vec<String>,
    /// Only files of this content type, such as image/png or image
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "asking")]
    pub content_type: Option<String>,
    /// Stop with so many found [default: 1000; of shared ones, all in reach]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: Option<u32>,
    /// Among files that are shared and not stored, by asking peers, the zone first
    #[arg(long)]
    pub shared: bool,
    /// Ask all neighbours of all neighbours for shared files (default of --shared)
    #[arg(long, conflicts_with = "walk")]
    pub flood: bool,
    /// Send walkers from neighbour to neighbour for shared files instead
    #[arg(long)]
    pub walk: bool,
    /// How far to ask: links from the asked peer (default 7), or steps of each walker (default 64)
    #[arg(long, value_name = "N", requires = "asking", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub ttl: Option<u32>,
    /// Ask in all zones, not only the asked peer's
    #[arg(long, requires = "asking")]
    pub everywhere: bool,
}

/// Why nothing was found out.
#[derive(Debug, Error)]
pub enum SearchError {
    /// A peer refused or none was there.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl SearchError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            SearchError::Call(error) => error.exit(),
            SearchError::Print(_) => Exit::Permanent,
        }
    }
}

/// Stored files, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    files: Vec<File>,
    /// Most peers asked for one page.
    peers: u32,
    messages: u32,
    shards: u32,
}

/// Shared files, as printed.
#[derive(Debug, Serialize)]
struct Hits {
    hits: Vec<Hit>,
    cost: Cost,
}

/// Searches, and says what it cost.
pub async fn run(global: &Global, search: Search) -> Result<(), SearchError> {
    if search.shared || search.flood || search.walk {
        among_shared(global, search).await
    } else {
        in_index(global, search).await
    }
}

async fn in_index(global: &Global, search: Search) -> Result<(), SearchError> {
    let limit = search.limit.unwrap_or(LIMIT);
    let mut found = Findings {
        files: Vec::new(),
        peers: 0,
        messages: 0,
        shards: 0,
    };
    let mut request = FindRequest {
        query: search.words.join(" "),
        tags: search.tag,
        content_type: search.content_type.unwrap_or_default(),
        limit: limit.min(PAGE),
        after: String::new(),
    };
    loop {
        let answer = global
            .server
            .call(async |channel| SearchClient::new(channel).find(request.clone()).await)
            .await?;
        let FindResponse { files, next, cost } = answer.into_inner();
        let SearchCost {
            peers,
            messages,
            shards,
            ..
        } = cost.unwrap_or_default();
        found.files.extend(files.into_iter().map(File::from));
        found.peers = found.peers.max(peers);
        found.messages += messages;
        found.shards += shards;
        if next.is_empty() || found.files.len() >= limit as usize {
            break;
        }
        request.after = next;
    }
    found.files.truncate(limit as usize);
    found.files.sort_by(|a, b| a.name.cmp(&b.name));
    if global.common.output.document(&found)? {
        return Ok(());
    }
    let mut text = file_table(&found.files, global.common.output.is_wide());
    text += &format!(
        "found {}; asked {} with {}\n",
        output::counted(found.files.len() as u64, "file"),
        output::counted(found.peers.into(), "peer"),
        output::counted(found.messages.into(), "message"),
    );
    output::print(&text)?;
    Ok(())
}

async fn among_shared(global: &Global, search: Search) -> Result<(), SearchError> {
    let method = if search.walk {
        SearchMethod::Walk
    } else {
        SearchMethod::Flood
    };
    let request = FindSharesRequest {
        text: search.words.join(" "),
        method: method.into(),
        ttl: search.ttl.unwrap_or(0),
        everywhere: search.everywhere,
        limit: search.limit.unwrap_or(0),
        walkers: 0,
    };
    let answer = global
        .server
        .call(async |channel| SharesClient::new(channel).find(request.clone()).await)
        .await?;
    let FindSharesResponse { hits, cost } = answer.into_inner();
    let found = Hits {
        hits: hits.into_iter().map(Hit::from).collect(),
        cost: cost.into(),
    };
    if global.common.output.document(&found)? {
        return Ok(());
    }
    let mut text = String::new();
    if !found.hits.is_empty() {
        text = hit_table(&found.hits, global.common.output.is_wide());
    }
    let files = output::counted(found.hits.len() as u64, "shared file");
    text += &format!("found {files}; {}", found.cost.sentence());
    if found.hits.is_empty() && !search.everywhere {
        text += "; --everywhere asks all zones";
    }
    output::print(&(text + "\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        search: Search,
    }

    fn error(line: &str) -> Option<ErrorKind> {
        let line = ["search"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(line).err().map(|e| e.kind())
    }

    #[test]
    fn the_index_and_asking_have_flags_of_their_own() {
        for good in [
            "cat",
            "--tag pets",
            "--type image cat",
            "cat --shared --limit 3",
            "cat --walk --ttl 9",
            "cat --shared --flood --everywhere",
        ] {
            assert_eq!(error(good), None, "{good}");
        }
        for bad in [
            "cat --tag pets --walk",
            "cat --type image --shared",
            "cat --flood --walk",
        ] {
            assert_eq!(error(bad), Some(ErrorKind::ArgumentConflict), "{bad}");
        }
        for bad in ["", "--shared", "cat --ttl 9", "cat --everywhere"] {
            assert_eq!(
                error(bad),
                Some(ErrorKind::MissingRequiredArgument),
                "{bad}"
            );
        }
    }
}
