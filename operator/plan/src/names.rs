//! Names, labels and ports that the operator, its objects and its readers agree on.

use std::collections::BTreeMap;

/// Who owns fields in server-side apply, and the value of the label `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "peernet-operator";

/// gRPC port of a peer.
pub const GRPC_PORT: u16 = 7000;

/// HTTP port of a peer: REST and probes.
pub const HTTP_PORT: u16 = 8080;

/// The name of a peer's volume claim is this, a dash and the pod's name.
pub const VOLUME: &str = "data";

/// Annotation of the resource: replace this peer, whose volume or node is gone for good.
pub const REPLACE: &str = "peernet.dev/replace";

/// Annotation of the resource: give these peers up for good (names, comma-separated), with what only they held.
pub const RECOVER: &str = "peernet.dev/recover-accept-loss";

const INSTANCE: &str = "app.kubernetes.io/instance";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The labels of everything that belongs to the network of that name; also the pods' selector, which can never change.
pub fn labels(network: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "peernet"),
        (INSTANCE, network),
        (MANAGED_BY, MANAGER),
        ("app.kubernetes.io/component", "peer"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// [`labels`] as the text of a selector.
pub fn selector(network: &str) -> String {
    let pairs: Vec<String> = labels(network)
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    pairs.join(",")
}

/// Selects everything of all networks.
pub fn any_network() -> String {
    format!("{MANAGED_BY}={MANAGER}")
}

/// The network a labelled object belongs to.
pub fn network_of(labels: &BTreeMap<String, String>) -> Option<&str> {
    let ours = labels
        .get(MANAGED_BY)
        .is_some_and(|manager| manager == MANAGER);
    labels.get(INSTANCE).filter(|_| ours).map(String::as_str)
}

/// The headless Service whose name resolves to all pods, ready or not.
pub fn headless(network: &str) -> String {
    format!("{network}-peers")
}

/// The pod (and so the peer) of that ordinal.
pub fn pod(network: &str, ordinal: u32) -> String {
    format!("{network}-{ordinal}")
}

/// The ordinal of a pod (or a peer) of that name, if it is one of the network's.
pub fn ordinal(network: &str, pod: &str) -> Option<u32> {
    let digits = pod.strip_prefix(network)?.strip_prefix('-')?;
    let plain = digits == "0" || !digits.starts_with(['0', '+']);
    digits.parse().ok().filter(|_| plain)
}

/// The volume claim of the pod of that name.
pub fn volume(pod: &str) -> String {
    format!("{VOLUME}-{pod}")
}

/// The ordinal of a volume claim of that name, if it is one of the network's.
pub fn volume_ordinal(network: &str, claim: &str) -> Option<u32> {
    ordinal(network, claim.strip_prefix(VOLUME)?.strip_prefix('-')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_read_back_and_strangers_are_not() {
        assert_eq!(ordinal("demo", &pod("demo", 12)), Some(12));
        assert_eq!(volume_ordinal("demo", "data-demo-3"), Some(3));
        for stranger in [
            "demo", "demo-", "demo-x", "demo-01", "demo-+1", "demo2-1", "other-1",
        ] {
            assert_eq!(ordinal("demo", stranger), None, "{stranger}");
        }
    }

    #[test]
    fn labels_tell_the_network() {
        assert_eq!(network_of(&labels("demo")), Some("demo"));
        assert_eq!(network_of(&BTreeMap::new()), None);
        assert!(selector("demo").contains("app.kubernetes.io/instance=demo"));
    }
}
