//! The nodes: which zones peers may stand in, and which nodes are gone.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use peernet_crd::{PodOptions, Toleration, TolerationOperator};
use peernet_plan::observed::{NO_ZONE, Network, PeerPod};

use super::{ObserveError, read};

/// What matters of a node.
pub(super) struct NodeState {
    zone: String,
    ready: bool,
    /// Peers may run there.
    offered: bool,
}

pub(super) async fn nodes(
    client: &Client,
    network: &Network,
) -> Result<BTreeMap<String, NodeState>, ObserveError> {
    let key = &network.spec.zones.topology_key;
    let pod = network.spec.pod.clone().unwrap_or_default();
    let PodOptions {
        node_selector: wanted,
        tolerations,
        ..
    } = &pod;
    let api: Api<Node> = Api::all(client.clone());
    let nodes = api
        .list(&ListParams::default())
        .await
        .map_err(read("the nodes"))?;
    let state = |node: &Node| {
        let labels = node.labels();
        let status = node.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_ref());
        NodeState {
            zone: labels.get(key).map_or(NO_ZONE, String::as_str).to_owned(),
            offered: wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
                && !taints(node).any(|taint| keeps_away(taint, tolerations)),
            ready: conditions
                .into_iter()
                .flatten()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
        }
    };
    Ok(nodes
        .items
        .iter()
        .map(|node| (node.name_any(), state(node)))
        .collect())
}

/// What keeps pods away for good. Taints of Kubernetes itself come and go with a node's state, and a node that is down or drained is
/// expected back.
fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| {
        matches!(&*taint.effect, "NoSchedule" | "NoExecute")
            && !taint.key.starts_with("node.kubernetes.io/")
    })
}

/// As the scheduler has it (Kubernetes, Taints and Tolerations).
fn keeps_away(taint: &Taint, tolerations: &[Toleration]) -> bool {
    !tolerations.iter().any(|toleration| {
        let Toleration {
            key,
            operator,
            value,
            effect,
            ..
        } = toleration;
        let value = value.as_deref().unwrap_or_default();
        let fits = match operator {
            TolerationOperator::Exists => true,
            TolerationOperator::Equal => value == taint.value.as_deref().unwrap_or_default(),
        };
        fits && key.as_ref().is_none_or(|key| *key == taint.key)
            && effect.is_none_or(|effect| effect.as_str() == taint.effect)
    })
}

/// Of the nodes that peers may run on, and of those where some still do: copies cannot stand in other zones.
pub(super) fn zones(
    pods: &BTreeMap<u32, PeerPod>,
    nodes: BTreeMap<String, NodeState>,
) -> BTreeMap<String, String> {
    let taken: BTreeSet<&String> = pods.values().filter_map(|pod| pod.node.as_ref()).collect();
    let offered = nodes
        .into_iter()
        .filter(|(name, node)| node.offered || taken.contains(name));
    offered.map(|(name, node)| (name, node.zone)).collect()
}

/// Nodes that silent pods were scheduled to and that are gone, or that the control plane has lost sight of.
pub(super) fn lost_nodes(
    pods: &BTreeMap<u32, PeerPod>,
    nodes: &BTreeMap<String, NodeState>,
) -> BTreeSet<String> {
    let silent = pods.values().filter(|pod| pod.answer.is_none());
    silent
        .filter_map(|pod| pod.node.clone())
        .filter(|name| nodes.get(name).is_none_or(|node| !node.ready))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use peernet_plan::fixture;
    use serde_json::json;

    #[tokio::test]
    async fn zones_are_those_of_nodes_that_peers_may_run_on_or_do() {
        let items = [("a", "ssd"), ("b", "hdd"), ("c", "hdd")].map(|(zone, disk)| {
            let labels = json!({"topology.kubernetes.io/zone": zone, "disk": disk});
            json!({"metadata": {"name": format!("node-{zone}"), "labels": labels}})
        });
        let list = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items});
        let (client, _) = fake::api(move |_| Some(list.clone()));
        let mut network = fixture::network(3);
        let mut pods = BTreeMap::new();
        let all = nodes(&client, &network).await.unwrap();
        assert_eq!(zones(&pods, all).len(), 3);
        let pod = network.spec.pod.insert(PodOptions::default());
        pod.node_selector.insert("disk".into(), "ssd".into());
        let some = nodes(&client, &network).await.unwrap();
        let found: Vec<String> = zones(&pods, some).into_values().collect();
        assert_eq!(found, ["a"]);
        // It was put there before.
        let node = Some("node-b".to_owned());
        pods.insert(
            0,
            PeerPod {
                node,
                ..fixture::waiting(0)
            },
        );
        let some = nodes(&client, &network).await.unwrap();
        let found: Vec<String> = zones(&pods, some).into_values().collect();
        assert_eq!(found, ["a", "b"]);
    }

    #[tokio::test]
    async fn zones_of_nodes_that_are_tainted_for_good_do_not_count_unless_that_is_tolerated() {
        let node = |zone: &str, taint: serde_json::Value| {
            let labels = json!({"topology.kubernetes.io/zone": zone});
            json!({"metadata": {"name": format!("node-{zone}"), "labels": labels}, "spec": {"taints": [taint]}})
        };
        let items = [
            node(
                "a",
                json!({"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}),
            ),
            node(
                "b",
                json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}),
            ),
            node(
                "c",
                json!({"key": "gpu", "value": "yes", "effect": "NoExecute"}),
            ),
            node("d", json!({"key": "busy", "effect": "PreferNoSchedule"})),
        ];
        let list = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items});
        let (client, _) = fake::api(move |_| Some(list.clone()));
        for (toleration, expected) in [
            (
                json!({"key": "other", "operator": "Exists"}),
                &["b", "d"][..],
            ),
            (json!({"key": "gpu", "value": "no"}), &["b", "d"]),
            (
                json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}),
                &["b", "d"],
            ),
            (json!({"key": "gpu", "value": "yes"}), &["b", "c", "d"]),
            (
                json!({"key": "gpu", "operator": "Exists"}),
                &["b", "c", "d"],
            ),
            (json!({"operator": "Exists"}), &["a", "b", "c", "d"]),
        ] {
            let mut network = fixture::network(3);
            let pod = network.spec.pod.insert(PodOptions::default());
            pod.tolerations
                .push(serde_json::from_value(toleration.clone()).unwrap());
            let all = nodes(&client, &network).await.unwrap();
            let found: Vec<String> = zones(&BTreeMap::new(), all).into_values().collect();
            assert_eq!(found, expected, "{toleration}");
        }
    }
}
