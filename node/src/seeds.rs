//! Finding the network: the seeds' names are resolved again and again, since on Kubernetes their addresses change.

use std::collections::BTreeSet;
use std::time::Duration;

use peernet_core::io::Input;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::driver::PeerHandle;

/// How often while this peer knows nobody else.
const ALONE: Duration = Duration::from_secs(2);
/// How often otherwise: lets rings that were apart find each other.
const AMONG_OTHERS: Duration = Duration::from_secs(15);
/// How long a name server may take.
const RESOLUTION: Duration = Duration::from_secs(5);
/// Addresses told to the peer at once; a headless Service may have thousands.
const ADDRESSES: usize = 64;

/// Feeds the peer with its seeds' addresses until it stops. `seeds` are `host:port`.
pub(crate) async fn feed(peer: PeerHandle, seeds: Vec<String>) {
    if seeds.is_empty() {
        return;
    }
    loop {
        let addresses = resolve(&seeds).await;
        if !addresses.is_empty() && peer.tell(Input::Seeds(addresses), None).await.is_err() {
            return;
        }
        let pause = match peer.members().await {
            Ok(members) if members.len() >= 2 => AMONG_OTHERS,
            _ => ALONE,
        };
        sleep(pause).await;
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
