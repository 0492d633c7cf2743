//! `peernet status` and `peernet peers`.

use std::io;
use std::process::ExitCode;

use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::{ListPeersRequest, PeerInfo};
use serde::Serialize;
use thiserror::Error;

use crate::args::{Global, Status};
use crate::exit::Exit;
use crate::kubectl;
use crate::output;
use crate::progress;
use crate::servers::{CallError, Servers};
use crate::status::picture::{Peer, Picture, state_name};
use crate::status::verdict::Verdict;

pub(crate) mod picture;
pub(crate) mod survey;
pub(crate) mod verdict;

/// Why the network could not be looked at.
#[derive(Debug, Error)]
pub enum StatusError {
    /// No peer answers.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl StatusError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            StatusError::Call(e) => e.exit(),
            StatusError::Print(_) => Exit::Permanent,
        }
    }
}

/// What scripts get.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(flatten)]
    verdict: &'a Verdict,
    #[serde(flatten)]
    picture: &'a Picture,
}

/// Says how the network is; exits with 5 when it is degraded and that was asked.
pub async fn run(global: &Global, status: Status) -> Result<ExitCode, StatusError> {
    let spinner = progress::spinner("asking every peer");
    let looked = look(&global.server).await;
    spinner.finish_and_clear();
    let (picture, verdict) = looked?;
    if !global.common.output.document(&Document {
        verdict: &verdict,
        picture: &picture,
    })? {
        output::raw(&page(&picture, &verdict, global.common.output.is_wide()))?;
    }
    let failed = status.check && verdict.degraded;
    Ok(ExitCode::from(if failed {
        Exit::Retryable as u8
    } else {
        0
    }))
}

/// Asks every peer that can be reached, and judges.
pub(crate) async fn look(servers: &Servers) -> Result<(Picture, Verdict), CallError> {
    let picture = Picture::of(survey::survey(servers).await?);
    let mut verdict = Verdict::on(&picture);
    if kubectl::is_called() && verdict.next.starts_with("peernet ") {
        verdict.next.insert_str(0, "kubectl ");
    }
    Ok((picture, verdict))
}

fn page(picture: &Picture, verdict: &Verdict, wide: bool) -> String {
    let (word, rest) = verdict
        .verdict
        .split_once(':')
        .unwrap_or((&verdict.verdict, ""));
    let mut text = format!(":{rest}\n\n");
    text += &peer_table(&picture.peers, wide);
    text += "\n";
    for note in &verdict.notes {
        text += &format!("{note}\n");
    }
    text += &format!("{}\nNext: {}\n", verdict.tolerance, verdict.next);
    output::verdict_word(word, !verdict.degraded) + &output::visible_lines(&text)
}

fn peer_table(peers: &[Peer], wide: bool) -> String {
    let brief = [
        "NAME", "ZONE", "STATE", "SLOTS>", "BEHIND>", "CHUNKS>", "BYTES>", "ADDRESS",
    ];
    let more = ["HTTP", "FREE>", "MOVING>", "POSITION", "VERSION", "ID"];
    let rows = peers.iter().map(|p| {
        let figure =
            |of: fn(&picture::Figures) -> String| p.figures.as_ref().map_or("-".to_owned(), of);
        let mut row = vec![
            p.name.clone(),
            p.zone.clone(),
            p.state.to_string(),
            figure(|f| f.slots.to_string()),
            figure(|f| f.behind.to_string()),
            figure(|f| f.chunks.to_string()),
            figure(|f| output::bytes(f.bytes)),
            p.address.clone(),
        ];
        if wide {
            row.extend([
                p.http_address.clone(),
                figure(|f| output::bytes(f.disk_free)),
                figure(|f| f.moving.to_string()),
                p.position.clone(),
                p.version.clone(),
                p.id.clone(),
            ]);
        }
        row
    });
    let header: Vec<&str> = if wide {
        brief.into_iter().chain(more).collect()
    } else {
        brief.to_vec()
    };
    output::table(&header, rows)
}

/// A member, as the asked peer knows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    name: String,
    zone: String,
    state: String,
    address: String,
    http_address: String,
    position: String,
    incarnation: u64,
    drain_epoch: u64,
    leaving: bool,
    version: String,
    /// When it came into its state, as the asked peer noticed.
    since: String,
    id: String,
}

impl From<PeerInfo> for Member {
    fn from(info: PeerInfo) -> Self {
        let state = state_name(info.state()).to_owned();
        let PeerInfo {
            id,
            name,
            address,
            http_address,
            zone,
            position,
            state: _,
            incarnation,
            drain_epoch,
            leaving,
            version,
            since_unix_ms,
        } = info;
        let position = picture::position(position);
        Member {
            name,
            zone,
            state,
            address,
            http_address,
            position,
            incarnation,
            drain_epoch,
            leaving,
            version,
            since: output::moment(since_unix_ms),
            id,
        }
    }
}

/// Lists the members, in ring order.
pub async fn peers(global: &Global) -> Result<(), StatusError> {
    let answer = global
        .server
        .call(async |channel| PeersClient::new(channel).list(ListPeersRequest {}).await)
        .await?;
    let members: Vec<Member> = answer
        .into_inner()
        .peers
        .into_iter()
        .map(Member::from)
        .collect();
    if global.common.output.document(&members)? {
        return Ok(());
    }
    let brief = ["NAME", "ZONE", "STATE", "ADDRESS", "HTTP"];
    let more = ["SINCE", "POSITION", "INCARNATION>", "VERSION", "ID"];
    let wide = global.common.output.is_wide();
    let header: Vec<&str> = if wide {
        brief.into_iter().chain(more).collect()
    } else {
        brief.to_vec()
    };
    let rows = members.into_iter().map(|m| {
        let mut row = vec![m.name, m.zone, m.state, m.address, m.http_address];
        if wide {
            row.extend([
                m.since,
                m.position,
                m.incarnation.to_string(),
                m.version,
                m.id,
            ]);
        }
        row
    });
    output::print(&output::table(&header, rows))?;
    Ok(())
}
