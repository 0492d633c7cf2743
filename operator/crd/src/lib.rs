//! The `PeerNetwork` resource: what a user asks for, and what the operator answers in its status.
//!
//! The same types describe the custom resource in a cluster and the manifest that the local runner reads without one,
//! so this crate knows nothing of API servers: [`PeerNetwork::validate`] says in Rust what the resource's CEL rules say
//! to the API server, sentence by sentence, and [`read`] parses a manifest as strictly as `kubectl` does.

#![forbid(unsafe_code)]

mod definition;
mod manifest;
mod pod;
mod spec;
mod status;
mod validate;

pub use definition::definition;
pub use manifest::{ManifestError, read};
pub use pod::{PodOptions, SecretName, TaintEffect, Toleration, TolerationOperator};
pub use spec::{
    Commands, Compression, Durability, Events, ImagePullPolicy, PeerNetwork, PeerNetworkSpec,
    Repair, Replication, Retention, SecretKey, Storage, Zones,
};
pub use status::{DrainStatus, PeerNetworkStatus, Preflight, RecoveryStatus, ReplacementStatus};
pub use validate::Violation;
