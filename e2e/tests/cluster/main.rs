//! What a user is promised, on a real cluster: `PEERNET_E2E=1 cargo test -p peernet-e2e --test cluster -- --test-threads=1`.
//!
//! Each test says what it is about; see the crate's documentation for what they share.

mod access;
mod admission;
mod cancel;
mod crash;
mod disturbance;
mod events;
mod lifecycle;
mod modes;
mod partition;
mod plugin;
mod recover;
mod replace;
mod resize;
mod restart;
mod retention;
mod soak;

use std::env;

use peernet_crd::{PeerNetworkSpec, Repair};

/// Three copies on so many peers, as in the sample manifest.
fn spec(replicas: i32) -> PeerNetworkSpec {
    PeerNetworkSpec {
        replicas,
        ..PeerNetworkSpec::default()
    }
}

/// The same, with copies rebuilt soon after a peer went away.
fn impatient(replicas: i32) -> PeerNetworkSpec {
    PeerNetworkSpec {
        repair: Repair { grace_seconds: 10 },
        ..spec(replicas)
    }
}

/// `$SEED`, or this one.
fn seed(otherwise: u64) -> u64 {
    let given = env::var("SEED").ok();
    given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(otherwise)
}
