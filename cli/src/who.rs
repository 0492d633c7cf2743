//! `peernet who`: who has a file, stored or shared.

use peernet_proto::v1::shares_client::SharesClient;
use peernet_proto::v1::{ChunkTally, ContentProviders, WhoRequest, WhoResponse};
use serde::Serialize;

use crate::args::Global;
use crate::output;
use crate::share::{Cost, Hit, ShareError, hit_table, name};

/// Shows who has a file.
#[derive(clap::Args, Debug)]
pub struct Who {
    /// Name of the file; `who has NAME` may be written too
    #[arg(required = true, num_args = 1..=2, value_name = "[has] NAME")]
    pub name: Vec<String>,
    /// Look for peers that share it in all zones
    #[arg(long)]
    pub everywhere: bool,
}

/// Who has a file, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holding {
    name: String,
    stored: Option<Stored>,
    shared: Vec<Hit>,
    providers: Vec<Provided>,
    cost: Cost,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    content: String,
    name_holders: Vec<String>,
    chunks: u32,
    holders: Vec<Tally>,
}

#[derive(Debug, Serialize)]
struct Tally {
    peer: String,
    chunks: u32,
}

#[derive(Debug, Serialize)]
struct Provided {
    content: String,
    peers: Vec<String>,
}

impl Holding {
    fn new(name: String, response: WhoResponse) -> Self {
        let WhoResponse {
            stored_content,
            holders,
            chunks,
            name_holders,
            shared,
            providers,
            cost,
        } = response;
        let tally = |ChunkTally { peer, chunks }| Tally { peer, chunks };
        let provided = |ContentProviders { content, peers }| Provided { content, peers };
        Holding {
            name,
            stored: stored_content.map(|content| Stored {
                content,
                name_holders,
                chunks,
                holders: holders.into_iter().map(tally).collect(),
            }),
            shared: shared.into_iter().map(Hit::from).collect(),
            providers: providers.into_iter().map(provided).collect(),
            cost: cost.into(),
        }
    }

    fn text(&self, wide: bool) -> String {
        let mut text = String::new();
        if let Some(stored) = &self.stored {
            let names = stored.name_holders.join(", ");
            text += &format!("{} is stored; its name is on {names}\n", self.name);
            if stored.chunks == 0 {
                text += "its bytes are kept with the name\n";
            } else {
                let of = stored.chunks;
                let rows = stored.holders.iter();
                let rows = rows.map(|t| vec![t.peer.clone(), format!("{} of {of}", t.chunks)]);
                text += &output::table(&["PEER", "CHUNKS>"], rows);
            }
        }
        if !self.shared.is_empty() {
            let peers = output::counted(self.shared.len() as u64, "peer");
            text += &format!("{} is shared by {peers}\n", self.name);
            text += &hit_table(&self.shared, wide);
        }
        for provided in &self.providers {
            let content = provided.content.get(..12).unwrap_or(&provided.content);
            text += &format!("content {content} is on {}\n", provided.peers.join(", "));
        }
        text + &format!("{}\n", self.cost.sentence())
    }
}

/// Asks, and prints.
pub(crate) async fn run(global: &Global, who: Who) -> Result<(), ShareError> {
    let mut words = who.name;
    if words.len() == 2 && words[0] == "has" {
        words.remove(0);
    }
    let name = name(words.join(" "))?;
    let request = WhoRequest {
        name: name.as_str().to_owned(),
        everywhere: who.everywhere,
    };
    let answer = global
        .server
        .call(async |channel| SharesClient::new(channel).who(request.clone()).await)
        .await?;
    let holding = Holding::new(request.name, answer.into_inner());
    if !global.common.output.document(&holding)? {
        output::print(&holding.text(global.common.output.is_wide()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_and_shared_are_both_told() {
        let tally = |peer: &str, chunks| ChunkTally {
            peer: peer.into(),
            chunks,
        };
        let holding = Holding::new(
            "a".into(),
            WhoResponse {
                stored_content: Some("ab".repeat(32)),
                holders: vec![tally("p-0", 3), tally("p-1", 2)],
                chunks: 3,
                name_holders: vec!["p-0".into(), "p-2".into()],
                shared: vec![],
                providers: vec![ContentProviders {
                    content: "ab".repeat(32),
                    peers: vec!["p-4".into()],
                }],
                cost: None,
            },
        );
        let text = holding.text(false);
        for part in ["on p-0, p-2", "p-1   2 of 3", "abababababab is on p-4"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("shared by"), "{text}");
    }
}
