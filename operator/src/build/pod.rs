//! The pod of one peer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, GRPCAction,
    HTTPGetAction, Lifecycle, LifecycleHandler, ObjectFieldSelector, PodAffinityTerm,
    PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext, SleepAction, TopologySpreadConstraint, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use peernet_crd::{Compression, Durability};
use peernet_plan::names::{self, GRPC_PORT, HTTP_PORT};
use peernet_plan::observed::Network;

use super::{NodeImage, selector};

mod events;
mod options;

/// Where the volume is mounted.
const DATA_DIR: &str = "/data";
/// A user without a name, as base images without a shell use it.
const USER: i64 = 65_532;
/// A pod's 3 seconds of farewell, and 31 in which a peer that is told to stop ends (15 for requests under way, 3 for the
/// connections of each of two servers, 10 for its last commit): 34, and some for a busy node. Kubernetes' default of 30 would kill
/// it before its last commit.
const TERMINATION_SECONDS: i64 = 45;
/// Before a peer is told to stop, the Services stop sending clients to it (guess: endpoints spread in well under this).
const FAREWELL_SECONDS: i64 = 3;
/// Opening a large volume may take a while (guess: five minutes).
const STARTUP_PROBES: i32 = 300;

/// The StatefulSet's template.
pub(super) fn template(network: &Network, node_image: &NodeImage) -> PodTemplateSpec {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::labels(&network.name)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(network.name.clone()),
            automount_service_account_token: Some(false),
            // Environment variables for each Service of the namespace would be of no use.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(TERMINATION_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                // Walking through all chunks at each start would take minutes.
                fs_group_change_policy: Some("OnRootMismatch".into()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".into(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            affinity: Some(affinity(network)),
            topology_spread_constraints: Some(vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: network.spec.zones.topology_key.clone(),
                // A network in too few zones is better than none.
                when_unsatisfiable: "ScheduleAnyway".into(),
                label_selector: Some(selector(network)),
                ..TopologySpreadConstraint::default()
            }]),
            containers: vec![container(network, node_image)],
            volumes: network
                .spec
                .events
                .as_ref()
                .map(|told| vec![events::volume(told)]),
            ..PodSpec::default()
        }),
    };
    match &network.spec.pod {
        Some(wanted) => options::with(template, wanted),
        None => template,
    }
}

/// Peers rather stand on different nodes.
fn affinity(network: &Network) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 50,
                    pod_affinity_term: PodAffinityTerm {
                        topology_key: "kubernetes.io/hostname".into(),
                        label_selector: Some(selector(network)),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn container(network: &Network, node_image: &NodeImage) -> Container {
    let spec = &network.spec;
    let image = spec.image.as_ref().unwrap_or(&node_image.image);
    // The default policy belongs to the default image; for another one Kubernetes decides by the tag.
    let default_policy = || spec.image.is_none().then(|| node_image.pull_policy.clone());
    Container {
        name: "peer".into(),
        image: Some(image.clone()),
        image_pull_policy: spec
            .image_pull_policy
            .map(|policy| policy.as_str().to_owned())
            .or_else(default_policy),
        env: Some(environment(network)),
        ports: Some(vec![port("grpc", GRPC_PORT), port("http", HTTP_PORT)]),
        resources: Some(spec.resources.clone().unwrap_or_else(default_resources)),
        startup_probe: Some(probe(alive(), 1, STARTUP_PROBES)),
        liveness_probe: Some(probe(alive(), 10, 6)),
        readiness_probe: Some(probe(ready(), 2, 2)),
        // The kubelet sleeps, not the container (KEP-3960): the image has no shell.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: FAREWELL_SECONDS,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        security_context: Some(SecurityContext {
            run_as_non_root: Some(true),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts(network)),
        ..Container::default()
    }
}

fn mounts(network: &Network) -> Vec<VolumeMount> {
    let data = VolumeMount {
        name: names::VOLUME.into(),
        mount_path: DATA_DIR.into(),
        ..VolumeMount::default()
    };
    let events = network.spec.events.as_ref().map(|_| events::mount());
    [data].into_iter().chain(events).collect()
}

fn environment(network: &Network) -> Vec<EnvVar> {
    let Network {
        name,
        namespace,
        spec,
        ..
    } = network;
    let seeds = format!("{}.{namespace}.svc:{GRPC_PORT}", names::headless(name));
    let value = |name: &str, value: String| EnvVar {
        name: name.into(),
        value: Some(value),
        value_from: None,
    };
    let mut told = vec![
        field("PEERNET_NAME", "metadata.name"),
        field("PEERNET_ADVERTISE_HOST", "status.podIP"),
        field("PEERNET_INSTANCE", "metadata.uid"),
        value("PEERNET_SEEDS", seeds),
        value("PEERNET_AWAIT_ASSIGNMENT", "true".into()),
        value("PEERNET_DATA_DIR", DATA_DIR.into()),
        value(
            "PEERNET_REPLICATION_FACTOR",
            spec.replication.factor.to_string(),
        ),
        value(
            "PEERNET_REPLICATION_WRITE",
            spec.replication.write.to_string(),
        ),
        value("PEERNET_CHUNK_SIZE", spec.chunk_size.to_string()),
        value(
            "PEERNET_GRACE_SECONDS",
            spec.repair.grace_seconds.to_string(),
        ),
    ];
    // Only what is not the default: a template that changes restarts every peer.
    if spec.durability == Durability::Written {
        told.push(value("PEERNET_DURABILITY", "written".into()));
    }
    if spec.compression == Compression::Auto {
        told.push(value("PEERNET_COMPRESSION", "auto".into()));
    }
    let events = spec
        .events
        .iter()
        .flat_map(|e| events::environment(e, network));
    told.extend(events.map(|(name, text)| value(name, text)));
    told
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.into(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

/// What ends the process when it fails. Asked over gRPC, where a few places are kept from clients: over HTTP, a peer that has as
/// many clients as it takes would answer nobody, and be killed with everything that it serves them. A connection that is merely
/// taken tells nothing, as the kernel takes them for a process that hangs. The empty name is the whole process; every version
/// of the image knows it.
fn alive() -> Probe {
    Probe {
        grpc: Some(GRPCAction {
            port: GRPC_PORT.into(),
            service: None,
        }),
        ..Probe::default()
    }
}

/// What only keeps new clients away when it fails. Asked where most of them come, so that a peer that is full gets no more.
fn ready() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/readyz".into()),
            port: IntOrString::String("http".into()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn probe(how: Probe, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failure_threshold),
        ..how
    }
}

/// Enough to start; no limits, which would stall a peer exactly when it is busy.
fn default_resources() -> ResourceRequirements {
    let quantity = |name: &str, value: &str| (name.to_owned(), Quantity(value.into()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([
            quantity("cpu", "50m"),
            quantity("memory", "64Mi"),
        ])),
        ..ResourceRequirements::default()
    }
}
