//! `peernet search --shared`: asking peers for what they share.

use peernet_proto::v1::shares_client::SharesClient;
use peernet_proto::v1::{FindSharesRequest, FindSharesResponse, SearchMethod};
use serde::Serialize;

use crate::args::Global;
use crate::output;
use crate::share::{Cost, Hit, ShareError, hit_table};

/// Searches among shared files.
#[derive(clap::Args, Debug)]
pub struct Search {
    /// Words that are all part of the name, or tags
    #[arg(required = true)]
    pub words: Vec<String>,
    /// Among files that are shared and not stored
    #[arg(long, required = true)]
    pub shared: bool,
    /// Ask all neighbours of all neighbours (default)
    #[arg(long)]
    pub flood: bool,
    /// Send walkers from neighbour to neighbour instead
    #[arg(long, conflicts_with = "flood")]
    pub walk: bool,
    /// How far: links from the asked peer (default 7), or steps of each walker (default 64)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub ttl: Option<u32>,
    /// In all zones, not only the asked peer's
    #[arg(long)]
    pub everywhere: bool,
    /// Stop with so many found; all in reach by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: Option<u32>,
}

/// What was found, as printed.
#[derive(Debug, Serialize)]
struct Findings {
    hits: Vec<Hit>,
    cost: Cost,
}

/// Searches, and says what it cost.
pub(crate) async fn run(global: &Global, search: Search) -> Result<(), ShareError> {
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
    let found = global
        .server
        .call(async |channel| SharesClient::new(channel).find(request.clone()).await)
        .await?;
    let FindSharesResponse { hits, cost } = found.into_inner();
    let findings = Findings {
        hits: hits.into_iter().map(Hit::from).collect(),
        cost: cost.into(),
    };
    if global.common.output.document(&findings)? {
        return Ok(());
    }
    let mut text = String::new();
    if !findings.hits.is_empty() {
        text = hit_table(&findings.hits, global.common.output.is_wide());
    }
    let found = output::counted(findings.hits.len() as u64, "shared file");
    text += &format!("found {found}; {}", findings.cost.sentence());
    if findings.hits.is_empty() && !search.everywhere {
        text += "; --everywhere asks all zones";
    }
    output::print(&(text + "\n"))?;
    Ok(())
}
