//! What a user asks for.

// `KubeSchema` expands to a public copy of the struct inside a function.
#![allow(unreachable_pub)]

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pod::PodOptions;
use crate::status::PeerNetworkStatus;
use crate::validate::rules;

/// A set of equal peers that share files.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "peernet.dev",
    version = "v1alpha1",
    kind = "PeerNetwork",
    plural = "peernetworks",
    singular = "peernetwork",
    shortname = "pn",
    category = "peernet",
    namespaced,
    doc = "A set of equal peers that share files: a ring of pods, each with its own volume.",
    derive = "PartialEq",
    status = "PeerNetworkStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether every wanted peer is a member of the ring and caught up."
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Peers wanted."
    ),
    printcolumn(
        name = "Peers",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Peers that are members of the ring and caught up."
    ),
    printcolumn(
        name = "Leaving",
        type_ = "integer",
        json_path = ".status.drain.leaving",
        description = "Peers that are handing over their data."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "What is going on, in a sentence."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(rules::NAME.cel).message(rules::NAME.why),
    validation = Rule::new(rules::FREE_NAME.cel).message(rules::FREE_NAME.why).optional_old_self(true),
    validation = Rule::new(rules::PREFLIGHT.cel).message(Message::Expression(rules::PREFLIGHT.why.into()))
)]
#[x_kube(validation = Rule::new(rules::REPLICAS.cel).message(rules::REPLICAS.why))]
#[x_kube(validation = Rule::new(rules::WRITE.cel).message(rules::WRITE.why))]
#[x_kube(validation = Rule::new(rules::FACTOR_FIXED.cel).message(rules::FACTOR_FIXED.why))]
#[x_kube(validation = Rule::new(rules::WRITE_FIXED.cel).message(rules::WRITE_FIXED.why))]
#[x_kube(validation = Rule::new(rules::STORAGE_FIXED.cel).message(rules::STORAGE_FIXED.why))]
#[serde(rename_all = "camelCase")]
pub struct PeerNetworkSpec {
    /// How many peers the network has. Leave it out of manifests when `kubectl scale` or an autoscaler sets it.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,

    /// How many copies of everything are kept.
    #[serde(default)]
    pub replication: Replication,

    /// When a write is acknowledged.
    #[serde(default)]
    pub durability: Durability,

    /// Whether chunks of files are compressed, where whoever stores a file does not say.
    #[serde(default)]
    pub compression: Compression,

    /// Files are cut into chunks of this many bytes. Changing it affects only files put later.
    #[serde(default = "default_chunk_size")]
    #[schemars(range(min = 65_536, max = 4_194_304))]
    pub chunk_size: i32,

    /// The volume of each peer.
    #[serde(default)]
    pub storage: Storage,

    /// How peers are spread over failure domains.
    #[serde(default)]
    pub zones: Zones,

    /// When lost copies are rebuilt.
    #[serde(default)]
    pub repair: Repair,

    /// Where peers publish events. Nowhere when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,

    /// The peers' container image. By default the one that belongs to the operator's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When the image is pulled. By default Kubernetes decides by the image's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Compute resources of each peer. By default small requests and no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Where the peers' pods may run, and what else they get. Nothing when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodOptions>,
}

/// How many copies of everything are kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// Copies of everything. Cannot be changed later.
    #[serde(default = "default_factor")]
    #[schemars(range(min = 1, max = 7))]
    pub factor: i32,

    /// Copies of a chunk that are on disk before a write is acknowledged (names: a majority). Cannot be changed later.
    #[serde(default = "default_write")]
    #[schemars(range(min = 1, max = 7))]
    pub write: i32,
}

/// The volume of each peer.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of each volume, such as `10Gi`. Cannot be changed later.
    #[serde(default = "default_size")]
    #[schemars(
        length(max = 32),
        regex(pattern = r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
    )]
    pub size: String,

    /// Storage class of the volumes; the cluster's default class when left out. Cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,

    /// What happens to the volumes when the network is deleted. A peer that leaves always keeps its volume. With `Delete` a
    /// finalizer keeps the network until an operator has deleted them.
    #[serde(default)]
    pub retention: Retention,
}

/// When a write is acknowledged, by as many peers as `replication.write` says (a majority for names).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Once their disks have it: it survives the power.
    #[default]
    Synced,
    /// Once their operating systems have it, which bring it to the disks within about a second: it survives crashes of
    /// peers, but not of all those machines within that second.
    Written,
}

/// Whether the chunks of files are compressed where they are stored, and on the way there.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// They are stored as they are.
    #[default]
    Never,
    /// Each chunk that is an eighth smaller that way, unless the media type says that it is compressed already.
    Auto,
}

/// What happens to volumes when the network is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Retention {
    /// They stay; a network of the same name finds its files again.
    #[default]
    Retain,
    /// They are deleted, and with them all files; also those of peers that have left.
    Delete,
}

/// When a container image is pulled.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImagePullPolicy {
    /// At each start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// It has to be on the node already.
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            ImagePullPolicy::Always => "Always",
            ImagePullPolicy::IfNotPresent => "IfNotPresent",
            ImagePullPolicy::Never => "Never",
        }
    }
}

/// How peers are spread over failure domains.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Zones {
    /// The node label whose value is a peer's zone; copies go to different zones while zones last.
    #[serde(default = "default_topology_key")]
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
}

/// When lost copies are rebuilt.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// How long a peer may be away, in seconds, before its copies are rebuilt elsewhere. A restart should be shorter.
    #[serde(default = "default_grace_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub grace_seconds: i32,
}

/// Where peers publish events: a RabbitMQ broker.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Events {
    /// The Secret's key with the broker's URI, `amqp[s]://USER:PASSWORD@HOST:PORT/VHOST`. It may be replaced at any time.
    pub uri: SecretKey,

    /// The Secret's key with PEM certificates that the broker's may be signed by; the public ones when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretKey>,

    /// The topic exchange. By default the network's namespace, a dot and its name; with `peernet.` before it in a
    /// namespace called `amq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 127), regex(pattern = r"^[-_.:A-Za-z0-9]+$"))]
    #[x_kube(validation = Rule::new(rules::EXCHANGE.cel).message(rules::EXCHANGE.why))]
    pub exchange: Option<String>,

    /// Commands are taken from a queue called like the exchange with `.commands` after it: whoever may write to it can
    /// store, read and delete files. None are when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<Commands>,
}

/// Commands that peers take from a queue.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Commands {
    /// Where files may be fetched from: hosts (`files.example.org`, `*.example.org`, `*`), and blocks of addresses that are
    /// not public ones (`10.1.0.0/16`). Nowhere when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = Rule::new(rules::FETCH_ALLOW.cel).message(rules::FETCH_ALLOW.why))]
    pub fetch_allow: Vec<String>,

    /// The Secret's key with PEM certificates of authorities that count for `https`, besides the public ones. They may be
    /// replaced at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_ca: Option<SecretKey>,
}

/// A key of a Secret in the network's namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub name: String,

    /// The key in it.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._A-Za-z0-9]+$"))]
    pub key: String,
}

/// The least that holds three copies (the default factor).
fn default_replicas() -> i32 {
    3
}

/// Dynamo's (section 4.5): survives two losses.
fn default_factor() -> i32 {
    3
}

/// One copy may be missing while a write is acknowledged.
fn default_write() -> i32 {
    2
}

/// 1 MiB: about a thousand chunks per gigabyte of index, and one unit of memory per transfer.
fn default_chunk_size() -> i32 {
    1_048_576
}

/// Enough to try it.
fn default_size() -> String {
    "1Gi".into()
}

/// Kubernetes' well-known label for an availability zone.
fn default_topology_key() -> String {
    "topology.kubernetes.io/zone".into()
}

/// Longer than a pod's restart, shorter than a second failure is likely.
fn default_grace_seconds() -> i32 {
    60
}

impl Default for PeerNetworkSpec {
    fn default() -> Self {
        PeerNetworkSpec {
            replicas: default_replicas(),
            replication: Replication::default(),
            durability: Durability::default(),
            compression: Compression::default(),
            chunk_size: default_chunk_size(),
            storage: Storage::default(),
            zones: Zones::default(),
            repair: Repair::default(),
            events: None,
            image: None,
            image_pull_policy: None,
            resources: None,
            pod: None,
        }
    }
}

impl Default for Replication {
    fn default() -> Self {
        Replication {
            factor: default_factor(),
            write: default_write(),
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            size: default_size(),
            class_name: None,
            retention: Retention::default(),
        }
    }
}

impl Default for Zones {
    fn default() -> Self {
        Zones {
            topology_key: default_topology_key(),
        }
    }
}

impl Default for Repair {
    fn default() -> Self {
        Repair {
            grace_seconds: default_grace_seconds(),
        }
    }
}
