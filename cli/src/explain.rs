//! `peernet explain`: the way to a file's name, and who holds each part of it.

use std::collections::BTreeMap;
use std::iter::repeat;

use peernet_proto::v1::files_client::FilesClient;
use peernet_proto::v1::{ChunkHolders, ExplainRequest, ExplainResponse};
use serde::Serialize;

use crate::args::{Explain, Global};
use crate::names::{File, NamesError, checked};
use crate::output;

/// Who holds a file, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holdings {
    file: File,
    /// Peers on the way to the name, the asked one first.
    path: Vec<String>,
    name_slot: u32,
    name_holders: Vec<String>,
    chunks: Vec<Chunk>,
    /// Of all peers that are named.
    zones: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Chunk {
    hash: String,
    length: u32,
    slot: u32,
    holders: Vec<String>,
    copies: Vec<Copy>,
}

/// One copy of a chunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Copy {
    peer: String,
    zone: String,
    /// When it was last compared with its hash, RFC 3339, by the peer's clock; absent where it does not say.
    verified: Option<String>,
}

impl Holdings {
    fn new(explained: ExplainResponse) -> Self {
        let ExplainResponse {
            file,
            name_slot,
            name_holders,
            chunks,
            path,
            zones,
        } = explained;
        let zone = |peer: &String| zones.get(peer).cloned().unwrap_or_default();
        let chunk = |chunk: ChunkHolders| {
            let times = chunk.verified_unix_ms.into_iter().chain(repeat(0));
            let copies = chunk.holders.iter().zip(times).map(|(peer, at)| Copy {
                peer: peer.clone(),
                zone: zone(peer),
                verified: verified(at),
            });
            Chunk {
                hash: chunk.hash,
                length: chunk.length,
                slot: chunk.slot,
                copies: copies.collect(),
                holders: chunk.holders,
            }
        };
        Holdings {
            file: file.unwrap_or_default().into(),
            path,
            name_slot,
            name_holders,
            chunks: chunks.into_iter().map(chunk).collect(),
            zones: zones.into_iter().collect(),
        }
    }
}

/// The time in words, where there is one.
pub(crate) fn verified(unix_ms: u64) -> Option<String> {
    (unix_ms != 0).then(|| output::moment(unix_ms))
}

/// A peer's name with its zone, where that is known.
pub(crate) fn placed(peer: &str, zone: Option<&String>) -> String {
    match zone.filter(|zone| !zone.is_empty()) {
        Some(zone) => format!("{peer} ({zone})"),
        None => peer.to_owned(),
    }
}

/// Shows who holds each part of a file.
pub async fn run(global: &Global, explain: Explain) -> Result<(), NamesError> {
    let name = checked(explain.name)?;
    let request = ExplainRequest {
        name: name.as_str().to_owned(),
    };
    let answer = global
        .server
        .call(async |channel| FilesClient::new(channel).explain(request.clone()).await)
        .await?;
    let holdings = Holdings::new(answer.into_inner());
    if global.common.output.document(&holdings)? {
        return Ok(());
    }
    output::print(&explanation(&holdings, global.common.output.is_wide()))?;
    Ok(())
}

fn explanation(holdings: &Holdings, wide: bool) -> String {
    let Holdings {
        file,
        path,
        name_slot,
        name_holders,
        chunks,
        zones,
    } = holdings;
    let pinned = if file.pinned { ", pinned" } else { "" };
    let mut text = format!(
        "{}: {}{}, etag {}{pinned}\n",
        file.name,
        output::bytes(file.size),
        output::compressed(file.size, file.stored),
        file.etag
    );
    text += &format!(
        "its name is in slot {name_slot}, on {}\n",
        joined(
            name_holders
                .iter()
                .map(|peer| placed(peer, zones.get(peer)))
        )
    );
    if !path.is_empty() {
        let hops = output::counted(path.len() as u64 - 1, "hop");
        text += &format!("the way to it is {} ({hops})\n", path.join(" > "));
    }
    if chunks.is_empty() {
        return text + "its bytes are kept with the name\n";
    }
    let rows = chunks.iter().enumerate().map(|(i, c)| {
        let hash = if wide {
            c.hash.as_str()
        } else {
            c.hash.get(..12).unwrap_or(&c.hash)
        };
        vec![
            i.to_string(),
            hash.to_owned(),
            output::bytes(c.length.into()),
            c.slot.to_string(),
            joined(c.copies.iter().map(|copy| copy.text(wide))),
            // RFC 3339 in UTC sorts as time does.
            c.copies
                .iter()
                .map(|copy| copy.verified.clone())
                .min()
                .flatten()
                .unwrap_or_else(|| "-".to_owned()),
        ]
    });
    text + &output::table(
        &["CHUNK>", "HASH", "SIZE>", "SLOT>", "HOLDERS", "VERIFIED"],
        rows,
    )
}

impl Copy {
    /// Who has it; when it was verified too, if each has room for its own.
    fn text(&self, wide: bool) -> String {
        let placed = placed(&self.peer, Some(&self.zone));
        match self.verified.as_ref().filter(|_| wide) {
            Some(at) => format!("{placed} {at}"),
            None => placed,
        }
    }
}

fn joined(peers: impl Iterator<Item = String>) -> String {
    let peers: Vec<String> = peers.collect();
    if peers.is_empty() {
        "no peer that answers".to_owned()
    } else {
        peers.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use peernet_proto::v1::FileInfo;

    use super::*;

    #[test]
    fn explanations_name_holders_and_their_absence() {
        let chunk = ChunkHolders {
            hash: "ab".repeat(32),
            length: 7,
            slot: 3,
            holders: vec!["p-0".into(), "p-1".into()],
            verified_unix_ms: vec![60_000, 1_000],
        };
        let lost = ChunkHolders {
            holders: vec![],
            verified_unix_ms: vec![],
            ..chunk.clone()
        };
        let zoned = |peer: &str, zone: &str| (peer.to_owned(), zone.to_owned());
        let holdings = Holdings::new(ExplainResponse {
            file: Some(FileInfo::default()),
            name_slot: 9,
            name_holders: vec!["p-2".into()],
            chunks: vec![chunk, lost],
            path: vec!["p-0".into(), "p-2".into()],
            zones: [zoned("p-0", "a"), zoned("p-2", "c")].into(),
        });
        let text = explanation(&holdings, false);
        for part in [
            "slot 9, on p-2 (c)\n",
            "the way to it is p-0 > p-2 (1 hop)\n",
            "abababababab",
            "p-0 (a), p-1  ",
            "1970-01-01T00:00:01Z\n",
            "no peer that answers  -\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = explanation(&holdings, true);
        let each = "p-0 (a) 1970-01-01T00:01:00Z, p-1 1970-01-01T00:00:01Z";
        assert!(text.contains(each), "{text}");
    }
}
