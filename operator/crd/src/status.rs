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

    /// `Ready`, `Progressing` and `Draining`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
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
