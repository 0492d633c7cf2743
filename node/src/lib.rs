//! The daemon: performs what `peernet-core` decides.
//!
//! [`run`] is a whole peer: it opens the volume ([`disk`]), starts the thread that owns the state machine ([`driver`]),
//! carries its messages ([`transport`], [`wire`]) and chunks ([`chunks`]), and serves [`files`] over gRPC and HTTP.

#![forbid(unsafe_code)]

mod chunks;
pub mod config;
mod daemon;
pub mod disk;
mod driver;
mod files;
mod grpc;
mod http;
mod seeds;
mod transport;
pub mod wire;

pub use config::{Config, ConfigError, Setup};
pub use daemon::{AssignError, Bound, DaemonError, run};
pub use driver::Failure;
