//! `peernet who`: who has a file, stored or shared.

use std::collections::BTreeMap;

use peernet_proto::v1::shares_client::SharesClient;
use peernet_proto::v1::{ChunkTally, ContentProviders, WhoRequest, WhoResponse};
use serde::Serialize;

use crate::args::Global;
use crate::explain::{placed, verified};
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
    /// Of those.
    zones: BTreeMap<String, String>,
    chunks: u32,
    holders: Vec<Tally>,
}

#[derive(Debug, Serialize)]
struct Tally {
    peer: String,
    zone: String,
    chunks: u32,
    /// When that of its copies was verified which waits longest for it, RFC 3339, by the peer's clock.
    verified: Option<String>,
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
            zones,
        } = response;
        let tally = |tally: ChunkTally| Tally {
            zone: zones.get(&tally.peer).cloned().unwrap_or_default(),
            peer: tally.peer,
            chunks: tally.chunks,
            verified: verified(tally.verified_unix_ms),
        };
        let provided = |ContentProviders { content, peers }| Provided { content, peers };
        Holding {
            name,
            stored: stored_content.map(|content| Stored {
                content,
                chunks,
                holders: holders.into_iter().map(tally).collect(),
                zones: (name_holders.iter())
                    .filter_map(|peer| Some((peer.clone(), zones.get(peer)?.clone())))
                    .collect(),
                name_holders,
            }),
            shared: shared.into_iter().map(Hit::from).collect(),
            providers: providers.into_iter().map(provided).collect(),
            cost: cost.into(),
        }
    }

    fn text(&self, wide: bool) -> String {
        let mut text = String::new();
        if let Some(stored) = &self.stored {
            let names = stored.name_holders.iter();
            let names: Vec<String> = names.map(|n| placed(n, stored.zones.get(n))).collect();
            let names = names.join(", ");
            text += &format!("{} is stored; its name is on {names}\n", self.name);
            if stored.chunks == 0 {
                text += "its bytes are kept with the name\n";
            } else {
                let of = stored.chunks;
                let rows = stored.holders.iter();
                let rows = rows.map(|t| {
                    let verified = t.verified.clone().unwrap_or_else(|| "-".to_owned());
                    let chunks = format!("{} of {of}", t.chunks);
                    vec![t.peer.clone(), t.zone.clone(), chunks, verified]
                });
                text += &output::table(&["PEER", "ZONE", "CHUNKS>", "VERIFIED"], rows);
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
            verified_unix_ms: 1_000,
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
                zones: [("p-1".to_owned(), "b".to_owned())].into(),
            },
        );
        let text = holding.text(false);
        for part in [
            "on p-0, p-2",
            "p-1   b     2 of 3  1970-01-01T00:00:01Z",
            "abababababab is on p-4",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("shared by"), "{text}");
    }
}
