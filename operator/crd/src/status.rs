//! What the operator answers.

// `KubeSchema` expands to a public copy of the struct inside a function.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator last saw. Small on purpose: figures per peer are served by the peers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct PeerNetworkStatus {
    /// The generation of the resource that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that the StatefulSet asks for, including those that still hand over their data.
    #[serde(default)]
    pub replicas: i32,

    /// Peers that are members of the ring and caught up since their last start.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Selects the network's pods; read by autoscalers through the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// UUID of the ring. Written before the ring is founded, so that it is founded once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<String>,

    /// The ring exists; from now on peers only join it.
    #[serde(default)]
    pub founded: bool,

    /// The leave that is under way, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,

    /// The replacement that is under way, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<ReplacementStatus>,

    /// The last time that what only lost peers held was given up, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,

    /// Whether fewer peers would do now. Read by a rule of the schema, so that an unsafe `kubectl scale` is refused at
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,

    /// `Ready`, `Progressing`, `Draining`, `Writable`, `Spread`, `Replacing`, and with `spec.events` `BrokerConnected`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A peer whose volume or node is gone for good, on its way to begin anew.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct ReplacementStatus {
    /// Its pod.
    pub pod: String,

    /// The identity that is retired.
    pub peer: String,

    /// UID of the volume claim that is deleted once nothing depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_uid: Option<String>,

    /// What is being done or waited for, a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What was given up when a majority of some slots' copies was gone for good.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// The peers that were given up, comma-separated.
    pub peers: String,

    /// Slots of which no copy was left: everything in them is lost.
    pub slots_lost: i32,

    /// Slots of which fewer copies than a majority were left: what only the others held is lost.
    pub slots_partial: i32,

    /// It is done.
    #[serde(default)]
    pub finished: bool,

    /// The same in a sentence that names the first slots.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The lowest number of peers that is safe now.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// Lower numbers are refused.
    pub min_replicas: i32,

    /// Why, and by how much.
    #[schemars(length(max = 256))]
    pub reason: String,
}

/// The leave of one or more peers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// Peers that are still to be proved dispensable.
    pub leaving: i32,

    /// Slots that still name a leaving peer, are moving, or lack proof; summed over the leaving peers.
    pub slots_left: i32,

    /// Bytes that the leaving peers still have to hand over, by their own account.
    pub bytes_left: i64,

    /// The most that `bytesLeft` has been during this drain.
    pub bytes_total: i64,

    /// When the drain began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// Mean rate since the drain began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,

    /// Seconds left at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,

    /// What is being waited for, a sentence naming the peer or the slot.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blocker: String,
}
