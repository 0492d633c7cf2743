//! The daemon: performs what `peernet-core` decides.
//!
//! [`run`] is a whole peer: it opens the volume ([`disk`]), starts the thread that owns the state machine ([`driver`]),
//! carries its messages ([`transport`], [`wire`]) and chunks ([`chunks`]), and serves [`files`] over gRPC and HTTP.

#![forbid(unsafe_code)]

mod chunks;
pub mod config;
mod daemon;
pub mod disk;
mod door;
mod driver;
pub mod events;
pub mod faults;
mod files;
mod grpc;
mod http;
mod link;
mod registry;
mod seeds;
mod shares;
mod transport;
pub mod wire;

// Volumes and peers of every version agree on this; simulations alone have fewer (core's feature `few-slots`).
const _: () = assert!(
    peernet_core::key::SLOTS == 4096,
    "a peer has 4,096 slots: build it without the feature `few-slots` of peernet-core"
);

pub use config::{Config, ConfigError, Setup};
pub use daemon::{AssignError, Bound, DaemonError, ENDS_IN, run};
pub use driver::Failure;
pub use http::openapi;
