//! `peernet prefetch`: a stored file on several peers before many read it there.

use peernet_proto::v1::shares_client::SharesClient;
use peernet_proto::v1::{PrefetchRequest, PrefetchResponse, Prefetched};
use serde::Serialize;

use crate::args::Global;
use crate::share::{ShareError, here, name};
use crate::{output, progress};

/// Brings a stored file onto several peers.
#[derive(clap::Args, Debug)]
pub struct Prefetch {
    /// Name of the stored file
    pub name: String,
    /// On how many peers, the asked one included
    #[arg(long, value_name = "N")]
    pub peers: u32,
}

/// How far a peer is, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    peer: String,
    missing: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// Performs the command; fails when a peer did not get the file.
pub async fn run(global: &Global, command: Prefetch) -> Result<(), ShareError> {
    let name = name(command.name)?;
    let request = PrefetchRequest {
        name: name.as_str().to_owned(),
        peers: command.peers,
    };
    let connection = global.server.connect(0).await?;
    let refused = |status| connection.refused(status);
    let mut client = SharesClient::new(connection.channel.clone());
    let told = client.prefetch(request).await.map_err(refused)?;
    let mut told = told.into_inner();
    let bar = progress::transfer(name.as_str(), None);
    let mut last = PrefetchResponse::default();
    while let Some(next) = told.message().await.map_err(refused)? {
        let (all, missing) = total(&next);
        progress::learn_size(&bar, all);
        bar.set_position(all.saturating_sub(missing));
        last = next;
    }
    bar.finish_and_clear();
    let size = last.size;
    let states: Vec<State> = last.peers.into_iter().map(State::from).collect();
    if !global.common.output.document(&states)? {
        let rows = states.iter().map(|s| {
            let failure = s.failure.clone().unwrap_or_default();
            vec![s.peer.clone(), here(size, s.missing.min(size)), failure]
        });
        output::print(&output::table(&["PEER", "HERE>", "FAILURE"], rows))?;
    }
    judge(&states)
}

/// All have it, by what was said last.
fn judge(states: &[State]) -> Result<(), ShareError> {
    let peers = states.len();
    match states.iter().filter(|s| s.missing > 0).count() {
        // Cut off before anything was said.
        0 if peers == 0 => Err(ShareError::Untold),
        0 => Ok(()),
        failed => Err(ShareError::Partial { failed, peers }),
    }
}

/// Bytes on all peers together, and how many of them are missing.
fn total(told: &PrefetchResponse) -> (u64, u64) {
    let all = told.size.saturating_mul(told.peers.len() as u64);
    (all, told.peers.iter().map(|peer| peer.missing).sum())
}

impl From<Prefetched> for State {
    fn from(told: Prefetched) -> Self {
        let Prefetched {
            peer,
            missing,
            failure,
        } = told;
        State {
            peer,
            missing,
            failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn a_prefetch_has_succeeded_when_all_peers_say_so() {
        let state = |missing| State {
            peer: "p-0".into(),
            missing,
            failure: None,
        };
        assert!(judge(&[state(0), state(0)]).is_ok());
        for told in [&[][..], &[state(0), state(1)]] {
            let failed = judge(told).unwrap_err();
            assert_eq!(failed.exit(), Exit::Retryable);
            assert!(failed.to_string().contains("run it again"), "{failed}");
        }
    }
}
