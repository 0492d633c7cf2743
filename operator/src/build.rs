//! The objects that make up a network in Kubernetes; pure.

mod pod;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Service, ServiceAccount, ServicePort,
    ServiceSpec, VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use peernet_crd::PeerNetwork;
use peernet_plan::names::{self, GRPC_PORT, HTTP_PORT};
use peernet_plan::observed::Network;

/// What a network that names no image gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeImage {
    /// The image.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: String,
}

/// Everything that a network owns. Volumes are made by the StatefulSet.
#[derive(Clone, PartialEq, Debug)]
pub struct Objects {
    /// The pods' identity towards the API server, which they never use.
    pub account: ServiceAccount,
    /// Finds all pods, ready or not; peers use it to find each other.
    pub headless: Service,
    /// Leads clients to ready peers.
    pub service: Service,
    /// Keeps voluntary disruptions to one peer at a time.
    pub budget: PodDisruptionBudget,
    /// Leaves only the two ports open.
    pub policy: NetworkPolicy,
    /// The peers.
    pub set: StatefulSet,
}

/// Builds all objects for `replicas` pods.
pub fn objects(network: &Network, node_image: &NodeImage, replicas: u32) -> Objects {
    Objects {
        account: ServiceAccount {
            metadata: metadata(network, network.name.clone()),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        headless: headless(network),
        service: service(network),
        budget: PodDisruptionBudget {
            metadata: metadata(network, network.name.clone()),
            spec: Some(PodDisruptionBudgetSpec {
                // A quorum of every slot survives one.
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(selector(network)),
                ..PodDisruptionBudgetSpec::default()
            }),
            status: None,
        },
        policy: policy(network),
        set: set(network, node_image, replicas),
    }
}

fn metadata(network: &Network, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(network.namespace.clone()),
        labels: Some(names::labels(&network.name)),
        owner_references: Some(vec![OwnerReference {
            api_version: PeerNetwork::api_version(&()).into_owned(),
            kind: PeerNetwork::kind(&()).into_owned(),
            name: network.name.clone(),
            uid: network.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn selector(network: &Network) -> LabelSelector {
    LabelSelector {
        match_labels: Some(names::labels(&network.name)),
        ..LabelSelector::default()
    }
}

fn headless(network: &Network) -> Service {
    Service {
        metadata: metadata(network, names::headless(&network.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::labels(&network.name)),
            ports: Some(vec![port("grpc", GRPC_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn service(network: &Network) -> Service {
    Service {
        metadata: metadata(network, network.name.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(names::labels(&network.name)),
            ports: Some(vec![port("http", HTTP_PORT), port("grpc", GRPC_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}

fn policy(network: &Network) -> NetworkPolicy {
    let port = |number: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(number.into())),
        protocol: Some("TCP".into()),
        end_port: None,
    };
    NetworkPolicy {
        metadata: metadata(network, network.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(network)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: None,
                ports: Some(vec![port(GRPC_PORT), port(HTTP_PORT)]),
            }]),
            egress: None,
        }),
    }
}

fn set(network: &Network, node_image: &NodeImage, replicas: u32) -> StatefulSet {
    StatefulSet {
        metadata: metadata(network, network.name.clone()),
        spec: Some(StatefulSetSpec {
            service_name: Some(names::headless(&network.name)),
            replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
            selector: selector(network),
            // Said, so that it is put back when somebody changes it: pods below it would go unproved.
            ordinals: Some(StatefulSetOrdinals { start: Some(0) }),
            // Peers neither start nor leave in the order of their ordinals.
            pod_management_policy: Some("Parallel".into()),
            // See `peernet_plan::Restart`.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    // The network's volumes are not the set's to delete (see `retention`). Claims that an earlier version let
                    // the set own lose that owner by this: its controller looks at the claims of each pod that it keeps. Those
                    // of peers that had left before stay owned; nothing of theirs is the only copy.
                    when_deleted: Some("Retain".into()),
                    // A returning ordinal finds its chunks again.
                    when_scaled: Some("Retain".into()),
                },
            ),
            template: pod::template(network, node_image),
            volume_claim_templates: Some(vec![claim(network)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn claim(network: &Network) -> PersistentVolumeClaim {
    let size = Quantity(network.spec.storage.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::VOLUME.into()),
            labels: Some(names::labels(&network.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: network.spec.storage.class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".into(), size)])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use peernet_crd::{Commands, Compression, Durability, Events, Retention, SecretKey};

    use super::*;
    use peernet_plan::fixture;
    use serde_json::{Value, json};

    fn image() -> NodeImage {
        NodeImage {
            image: "node:1".into(),
            pull_policy: "IfNotPresent".into(),
        }
    }

    fn built(replicas: u32) -> Objects {
        objects(&fixture::network(5), &image(), replicas)
    }

    #[test]
    fn the_set_asks_for_what_the_plan_says_not_for_what_the_spec_says() {
        assert_eq!(built(7).set.spec.unwrap().replicas, Some(7));
    }

    #[test]
    fn everything_is_owned_by_the_resource_and_labelled() {
        let Objects {
            account,
            headless,
            service,
            budget,
            policy,
            set,
        } = built(5);
        let all = [
            account.metadata,
            headless.metadata,
            service.metadata,
            budget.metadata,
            policy.metadata,
            set.metadata,
        ];
        for metadata in all {
            assert!(
                crate::observe::is_controlled_by(&metadata, "uid-1"),
                "{metadata:?}"
            );
            assert_eq!(
                names::network_of(metadata.labels.as_ref().unwrap()),
                Some("demo")
            );
        }
    }

    #[test]
    fn volumes_outlive_a_scale_down_and_the_set() {
        for retention in [Retention::Retain, Retention::Delete] {
            let mut network = fixture::network(5);
            network.spec.storage.retention = retention;
            let spec = objects(&network, &image(), 5).set.spec.unwrap();
            let policy = spec.persistent_volume_claim_retention_policy.unwrap();
            assert_eq!(policy.when_deleted.as_deref(), Some("Retain"));
            assert_eq!(policy.when_scaled.as_deref(), Some("Retain"));
        }
    }

    /// The template of a network in that namespace that publishes events.
    fn told_of_a_broker(namespace: &str, exchange: Option<&str>) -> PodSpec {
        let mut network = fixture::network(5);
        network.namespace = namespace.into();
        let (name, key) = ("broker".into(), "address".into());
        network.spec.events = Some(Events {
            uri: SecretKey { name, key },
            ca: None,
            exchange: exchange.map(Into::into),
            commands: exchange.map(|name| Commands {
                fetch_allow: vec![format!("{name}.org"), "10.0.0.0/8".into()],
                fetch_ca: Some(SecretKey {
                    name: "authorities".into(),
                    key: "pem".into(),
                }),
            }),
        });
        let set = objects(&network, &image(), 5).set;
        set.spec.unwrap().template.spec.unwrap()
    }

    fn variable(pod: &PodSpec, name: &str) -> Option<String> {
        let env = pod.containers[0].env.as_ref().unwrap();
        env.iter().find(|e| e.name == name)?.value.clone()
    }

    #[test]
    fn a_broker_of_events_is_told_by_files() {
        let pod = told_of_a_broker("ns", None);
        let volumes = pod.volumes.clone().unwrap();
        let projected = volumes[0].projected.clone().unwrap();
        let sources = projected.sources.unwrap();
        assert_eq!(sources.len(), 1);
        let secret = sources[0].secret.clone().unwrap();
        assert_eq!(secret.name, "broker");
        assert_eq!(secret.optional, Some(true), "a peer would not start");
        let item = secret.items.unwrap().remove(0);
        assert_eq!(item.key, "address");
        let file = variable(&pod, "PEERNET_EVENTS_URI_FILE").unwrap();
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        assert_eq!(mounts[1].name, volumes[0].name);
        assert_eq!(file, format!("{}/{}", mounts[1].mount_path, item.path));
        assert_eq!(variable(&pod, "PEERNET_EVENTS_CA_FILE"), None);
    }

    #[test]
    fn a_default_exchange_is_no_other_networks_and_never_the_brokers() {
        let exchange = |namespace: &str, exchange: Option<&str>| {
            let pod = told_of_a_broker(namespace, exchange);
            variable(&pod, "PEERNET_EVENTS_EXCHANGE").unwrap()
        };
        assert_eq!(exchange("ns", None), "ns.demo");
        assert_eq!(exchange("amqp", None), "amqp.demo");
        assert_eq!(exchange("amq", None), "peernet.amq.demo");
        assert_eq!(exchange("amq", Some("mine")), "mine");
    }

    #[test]
    fn commands_are_taken_only_where_that_is_said() {
        let without = told_of_a_broker("ns", None);
        assert_eq!(variable(&without, "PEERNET_EVENTS_COMMANDS"), None);
        let with = told_of_a_broker("ns", Some("mine"));
        let told = |name: &str| variable(&with, name).unwrap();
        assert_eq!(told("PEERNET_EVENTS_COMMANDS"), "true");
        assert_eq!(told("PEERNET_EVENTS_FETCH_ALLOW"), "mine.org,10.0.0.0/8");
        assert_eq!(variable(&without, "PEERNET_EVENTS_FETCH_CA_FILE"), None);
        let projected = with.volumes.clone().unwrap().remove(0).projected;
        let source = projected.unwrap().sources.unwrap().remove(1);
        let secret = source.secret.unwrap();
        assert_eq!(secret.name, "authorities");
        let item = secret.items.unwrap().remove(0);
        assert_eq!(item.key, "pem");
        let mounts = with.containers[0].volume_mounts.as_ref().unwrap();
        let file = format!("{}/{}", mounts[1].mount_path, item.path);
        assert_eq!(told("PEERNET_EVENTS_FETCH_CA_FILE"), file);
    }

    /// A template that changes restarts every peer of every network when the operator is updated.
    #[test]
    fn a_network_without_events_has_the_template_it_had_before_there_were_events() {
        let pod = built(5).set.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.volumes, None);
        let peer = &pod.containers[0];
        let mounts = peer.volume_mounts.iter().flatten();
        let mounts: Vec<_> = mounts.map(|m| (&*m.name, &*m.mount_path)).collect();
        assert_eq!(mounts, [(names::VOLUME, "/data")]);
        let env = peer.env.iter().flatten();
        let env: Vec<_> = env.map(|e| &*e.name).collect();
        let before = [
            "PEERNET_NAME",
            "PEERNET_ADVERTISE_HOST",
            "PEERNET_INSTANCE",
            "PEERNET_SEEDS",
            "PEERNET_AWAIT_ASSIGNMENT",
            "PEERNET_DATA_DIR",
            "PEERNET_REPLICATION_FACTOR",
            "PEERNET_REPLICATION_WRITE",
            "PEERNET_CHUNK_SIZE",
            "PEERNET_GRACE_SECONDS",
        ];
        assert_eq!(env, before);
        // And events change nothing but these three.
        let mut told = told_of_a_broker("ns", None);
        told.volumes = None;
        let told_peer = &mut told.containers[0];
        told_peer.volume_mounts.as_mut().unwrap().truncate(1);
        told_peer.env.as_mut().unwrap().truncate(before.len());
        assert_eq!(told, pod);
    }

    #[test]
    fn peers_that_may_sync_late_or_compress_are_told_so() {
        let mut network = fixture::network(5);
        network.spec.durability = Durability::Written;
        network.spec.compression = Compression::Auto;
        let set = objects(&network, &image(), 5).set;
        let pod = set.spec.unwrap().template.spec.unwrap();
        let told = variable(&pod, "PEERNET_DURABILITY");
        assert_eq!(told.as_deref(), Some("written"));
        let told = variable(&pod, "PEERNET_COMPRESSION");
        assert_eq!(told.as_deref(), Some("auto"));
    }

    #[test]
    fn pods_get_what_was_added_for_them_and_nothing_else_changes() {
        let with = |pod: Value| {
            let mut network = fixture::network(5);
            network.spec.pod = Some(serde_json::from_value(pod).unwrap());
            assert_eq!(network.validate(), Ok(()));
            objects(&network, &image(), 5)
        };
        assert_eq!(
            with(json!({})),
            built(5),
            "that would restart peers for nothing"
        );
        let mut options = json!({
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [
                {"key": "storage", "operator": "Equal", "value": "only", "effect": "NoSchedule"},
                {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
            ],
            "priorityClassName": "high",
        });
        let expected = options.clone();
        options["annotations"] = json!({"example.org/a": "b"});
        let mut changed = with(options);
        let template = &mut changed.set.spec.as_mut().unwrap().template;
        let metadata = template.metadata.as_mut().unwrap();
        let annotations = metadata.annotations.take().unwrap();
        assert_eq!(annotations["example.org/a"], "b");
        let pod = template.spec.as_mut().unwrap();
        let mut told = serde_json::to_value(&*pod).unwrap();
        let told = told.as_object_mut().unwrap();
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(told.get(field), Some(value), "{field}");
        }
        pod.image_pull_secrets = None;
        pod.node_selector = None;
        pod.tolerations = None;
        pod.priority_class_name = None;
        assert_eq!(changed, built(5));
    }

    /// Over HTTP a crowd of clients keeps the probe out.
    #[test]
    fn no_crowd_of_clients_ends_a_peer() {
        let pod = built(5).set.spec.unwrap().template.spec.unwrap();
        let peer = &pod.containers[0];
        for probe in [&peer.startup_probe, &peer.liveness_probe] {
            let probe = probe.as_ref().unwrap();
            assert_eq!(probe.http_get, None);
            let asked = probe.grpc.as_ref().unwrap();
            assert_eq!(asked.port, i32::from(GRPC_PORT));
            assert_eq!(asked.service, None, "files may wait for other peers");
        }
        let ready = peer.readiness_probe.as_ref().unwrap();
        let path = ready.http_get.as_ref().unwrap().path.as_deref();
        assert_eq!(path, Some("/readyz"));
    }

    #[test]
    fn pods_meet_the_restricted_standard_and_know_who_they_are() {
        let pod = built(5).set.spec.unwrap().template.spec.unwrap();
        let security = pod.security_context.as_ref().unwrap();
        assert_eq!(security.run_as_non_root, Some(true));
        let seccomp = security.seccomp_profile.as_ref().unwrap();
        assert_eq!(seccomp.type_, "RuntimeDefault");
        let container = &pod.containers[0];
        let security = container.security_context.as_ref().unwrap();
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let value = |name: &str| variable(&pod, name);
        assert_eq!(
            value("PEERNET_SEEDS").as_deref(),
            Some("demo-peers.ns.svc:7000")
        );
        assert_eq!(value("PEERNET_AWAIT_ASSIGNMENT").as_deref(), Some("true"));
        assert_eq!(value("PEERNET_REPLICATION_FACTOR").as_deref(), Some("3"));
    }
}
