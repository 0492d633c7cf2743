//! Finding the network: addresses from flags, environment and a file; names are resolved again and again, since on
//! Kubernetes their addresses change, and the file is read again, since somebody may have added a line.
//!
//! **Founding.** Every peer of a new network may be given the same list. The first of the list founds the network, once:
//! when its volume is empty and, for [`PATIENCE`], nobody answered who is or was in a ring. Core has the last word
//! (`Input::FoundIfAlone`). Anybody else founds only with `--found`. What remains is a first peer that has lost its volume
//! and reaches nobody just then; so give back its volume, or start it when another of the list is up.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peernet_core::io::Input;
use peernet_core::member::{Liveness, Member};
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::config::is_host_and_port;
use crate::driver::PeerHandle;

/// How often while this peer knows nobody else.
const ALONE: Duration = Duration::from_secs(2);
/// How often otherwise: lets rings that were apart find each other.
const AMONG_OTHERS: Duration = Duration::from_secs(15);
/// How long a name server may take.
const RESOLUTION: Duration = Duration::from_secs(5);
/// Addresses told to the peer at once; a headless Service may have thousands.
const ADDRESSES: usize = 64;
/// How long the first of the list looks for others before it founds. Guess: several rounds, and longer than a peer that
/// was started with it takes to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest file of seeds, bytes.
const FILE_MAX: u64 = 64 * 1024;

/// Where others may be found.
#[derive(Clone, Debug)]
pub(crate) struct Seeds {
    /// `host:port` each, from the flags or the environment.
    pub(crate) listed: Vec<String>,
    /// More of them, a line each, after those listed.
    pub(crate) file: Option<PathBuf>,
    /// This peer's own `host:port`, if nobody else decides who founds: whoever is first in the list may.
    pub(crate) founder: Option<String>,
}

impl Seeds {
    /// Feeds the peer with its seeds' addresses until it stops.
    pub(crate) async fn feed(self, peer: PeerHandle) {
        if self.listed.is_empty() && self.file.is_none() {
            return;
        }
        let (mut since, mut founded) = (Instant::now(), false);
        loop {
            let seeds = self.all();
            let addresses = resolve(&seeds).await;
            if !addresses.is_empty() && peer.tell(Input::Seeds(addresses), None).await.is_err() {
                return;
            }
            let members = peer.members().await.unwrap_or_default();
            let ring = members.iter().any(Member::is_present);
            let first = seeds
                .first()
                .is_some_and(|s| Some(s) == self.founder.as_ref());
            if ring || !first {
                since = Instant::now();
            } else if since.elapsed() >= PATIENCE {
                if !founded {
                    info!(
                        "first of the seeds, and no ring is in reach: founding the network if this volume was in none"
                    );
                }
                founded = true;
                if peer.tell(Input::FoundIfAlone, None).await.is_err() {
                    return;
                }
            }
            let others = members.len() >= 2 && members.iter().any(is_in_ring);
            sleep(if others { AMONG_OTHERS } else { ALONE }).await;
        }
    }

    /// Those listed, then those of the file as it is now.
    fn all(&self) -> Vec<String> {
        let mut all = self.listed.clone();
        if let Some(path) = &self.file {
            match read(path) {
                Ok(more) => all.extend(more),
                Err(reason) => {
                    warn!(path = %path.display(), "the file of seeds is passed over: {reason}")
                }
            }
        }
        all
    }
}

fn is_in_ring(member: &Member) -> bool {
    member.liveness != Liveness::Joining
}

/// One `host:port` a line; `#` begins a comment.
fn read(path: &Path) -> Result<Vec<String>, String> {
    let len = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if len > FILE_MAX {
        return Err(format!("it has {len} bytes, more than {FILE_MAX}"));
    }
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let lines = text
        .lines()
        .map(|l| l.split('#').next().unwrap_or(l).trim());
    let seeds: Vec<String> = lines.filter(|l| !l.is_empty()).map(str::to_owned).collect();
    match seeds.iter().find(|s| !is_host_and_port(s)) {
        Some(bad) => Err(format!("'{bad}' is not of the form host:port")),
        None => Ok(seeds),
    }
}

async fn resolve(seeds: &[String]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for seed in seeds {
        match timeout(RESOLUTION, lookup_host(seed)).await {
            Ok(Ok(addresses)) => found.extend(addresses.map(|a| a.to_string())),
            Ok(Err(error)) => debug!(seed, "cannot be resolved: {error}"),
            Err(_) => debug!(seed, "cannot be resolved: no answer"),
        }
    }
    let mut found: Vec<String> = found.into_iter().collect();
    // A different choice each time, when there are more.
    fastrand::shuffle(&mut found);
    found.truncate(ADDRESSES);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_seeds_has_one_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seeds");
        let with = |text: &str| {
            fs::write(&path, text).unwrap();
            let seeds = Seeds {
                listed: vec!["z:1".into()],
                file: Some(path.clone()),
                founder: None,
            };
            (read(&path), seeds.all())
        };
        let (read, all) = with("# ours\na:1\n\n  [::1]:7000 # the second\n");
        assert_eq!(read.unwrap(), ["a:1", "[::1]:7000"]);
        assert_eq!(all, ["z:1", "a:1", "[::1]:7000"]);
        let (read, all) = with("a:1\nb\n");
        assert_eq!(read.unwrap_err(), "'b' is not of the form host:port");
        assert_eq!(all, ["z:1"], "the rest still counts");
        assert!(with(&"#".repeat(FILE_MAX as usize + 1)).0.is_err());
    }
}
