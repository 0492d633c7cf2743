//! Reading a manifest without an API server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::spec::{PeerNetwork, PeerNetworkSpec};
use crate::status::PeerNetworkStatus;
use crate::validate::Violation;

/// Why a manifest is refused.
#[derive(Debug, Error)]
pub enum ManifestError<E: std::error::Error + 'static> {
    /// Not the shape of a `PeerNetwork`.
    #[error("the manifest cannot be read: {0}")]
    Shape(#[source] E),
    /// Something else than a `PeerNetwork` of this version.
    #[error("the manifest is a {kind} of {version}, but has to be a PeerNetwork of {expected}")]
    Kind {
        /// Its `kind`.
        kind: String,
        /// Its `apiVersion`.
        version: String,
        /// The `apiVersion` that is understood.
        expected: String,
    },
    /// Fields that do not exist; most likely misspelt.
    #[error("unknown field {}; check the spelling", .0.join(", "))]
    UnknownFields(Vec<String>),
    /// A rule is broken.
    #[error(transparent)]
    Invalid(#[from] Violation),
}

/// The generated root type skips these two on reading; a manifest has to name them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: PeerNetworkSpec,
    status: Option<PeerNetworkStatus>,
}

/// Parses and validates a manifest in any format that serde reads, refusing unknown fields as `kubectl` does.
///
/// # Errors
/// See [`ManifestError`].
pub fn read<'de, D>(manifest: D) -> Result<PeerNetwork, ManifestError<D::Error>>
where
    D: Deserializer<'de>,
    D::Error: 'static,
{
    let mut unknown = Vec::new();
    let Manifest {
        api_version,
        kind,
        metadata,
        spec,
        status,
    } = serde_ignored::deserialize(manifest, |path| unknown.push(path.to_string()))
        .map_err(ManifestError::Shape)?;
    let expected = PeerNetwork::api_version(&());
    if kind != PeerNetwork::kind(&()) || api_version != expected {
        let expected = expected.into_owned();
        return Err(ManifestError::Kind {
            kind,
            version: api_version,
            expected,
        });
    }
    if !unknown.is_empty() {
        return Err(ManifestError::UnknownFields(unknown));
    }
    let network = PeerNetwork {
        metadata,
        spec,
        status,
    };
    network.validate()?;
    Ok(network)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_short_manifest_gets_the_defaults() {
        let network = read(json!({
            "apiVersion": "peernet.dev/v1alpha1", "kind": "PeerNetwork",
            "metadata": {"name": "demo"}, "spec": {"replicas": 5},
        }))
        .unwrap();
        assert_eq!(
            network.spec,
            PeerNetworkSpec {
                replicas: 5,
                ..PeerNetworkSpec::default()
            }
        );
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let error = read(json!({
            "apiVersion": "peernet.dev/v1alpha1", "kind": "PeerNetwork",
            "metadata": {"name": "demo"}, "spec": {"replication": {"facter": 3}},
        }))
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown field spec.replication.facter; check the spelling"
        );
    }

    #[test]
    fn other_kinds_versions_and_broken_rules_are_refused() {
        let manifest = |version: &str, kind: &str, replicas: i32| {
            read(json!({
                "apiVersion": version, "kind": kind, "metadata": {"name": "demo"}, "spec": {"replicas": replicas},
            }))
        };
        assert!(matches!(
            manifest("apps/v1", "PeerNetwork", 3),
            Err(ManifestError::Kind { .. })
        ));
        assert!(matches!(
            manifest("peernet.dev/v1alpha1", "Pod", 3),
            Err(ManifestError::Kind { .. })
        ));
        assert!(matches!(
            manifest("peernet.dev/v1alpha1", "PeerNetwork", 2),
            Err(ManifestError::Invalid(Violation::FewerPeersThanCopies))
        ));
    }
}
