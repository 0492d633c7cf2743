//! `peernet watch`: the registry, live.

use std::time::{SystemTime, UNIX_EPOCH};

use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::{PeerInfo, PeerState, WatchPeersRequest, WatchPeersResponse};
use serde::Serialize;

use crate::args::Global;
use crate::output::{self, Format};
use crate::share::ShareError;

/// A peer at a moment, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sighting {
    time: String,
    peer: String,
    state: String,
    zone: String,
    address: String,
    position: u64,
    since: String,
    version: String,
}

impl Sighting {
    fn new(info: PeerInfo, now: u64) -> Self {
        let state = PeerState::try_from(info.state).unwrap_or_default();
        let state = state.as_str_name().trim_start_matches("PEER_STATE_");
        Sighting {
            time: output::moment(now),
            peer: info.name,
            state: state.to_lowercase(),
            zone: info.zone,
            address: info.address,
            position: info.position,
            since: output::moment(info.since_unix_ms),
            version: info.version,
        }
    }

    /// One line, so that it can be followed and cut.
    fn line(&self, wide: bool) -> String {
        let Sighting {
            time,
            peer,
            state,
            zone,
            address,
            since,
            version,
            ..
        } = self;
        let brief = format!("{time}  {state:8}  {peer}  {zone}  {address}");
        let line = if wide {
            format!("{brief}  since {since}  {version}")
        } else {
            brief
        };
        output::visible(&line) + "\n"
    }
}

/// Prints all peers, then each change, until ctrl-C or until nobody reads any more. With `-o json` one document a line.
pub(crate) async fn run(global: &Global) -> Result<(), ShareError> {
    tokio::select! {
        ended = follow(global) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
        // Without a change nothing is written that would tell.
        () = output::closed(std::io::stdout()) => Ok(()),
    }
}

async fn follow(global: &Global) -> Result<(), ShareError> {
    let connection = global.server.connect(0).await?;
    let refused = |status| connection.refused(status);
    let mut peers = PeersClient::new(connection.channel.clone());
    let changes = peers.watch(WatchPeersRequest {}).await.map_err(refused)?;
    let mut changes = changes.into_inner();
    while let Some(WatchPeersResponse { peers }) = changes.message().await.map_err(refused)? {
        for info in peers {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |d| d.as_millis() as u64);
            let sighting = Sighting::new(info, now);
            let text = match global.common.output {
                Format::Table | Format::Wide => sighting.line(global.common.output.is_wide()),
                Format::Json => {
                    serde_json::to_string(&sighting).map_err(std::io::Error::from)? + "\n"
                }
                Format::Yaml => {
                    let text = serde_yaml::to_string(&sighting).map_err(std::io::Error::other)?;
                    format!("---\n{text}")
                }
            };
            if !output::raw(&text)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let info = PeerInfo {
            name: "p-1".into(),
            zone: "a\u{1b}[2J\n".into(),
            address: "10.0.0.1:7000".into(),
            state: PeerState::Leaving.into(),
            version: "0.1.0".into(),
            ..Default::default()
        };
        let sighting = Sighting::new(info, 0);
        assert_eq!(
            sighting.line(false),
            "1970-01-01T00:00:00Z  leaving   p-1  a\\u{1b}[2J\\n  10.0.0.1:7000\n"
        );
        assert!(
            sighting
                .line(true)
                .ends_with("since 1970-01-01T00:00:00Z  0.1.0\n")
        );
    }
}
