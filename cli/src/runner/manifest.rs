//! What is to run: the manifest, what an earlier run left, and the flags.

use std::io;
use std::path::{Path, PathBuf};

use peernet_crd::{ManifestError, PeerNetwork, Violation};
use thiserror::Error;

use crate::args::Up;
use crate::runner::home::State;

/// Used when no manifest is named; the same file that users are shown.
const BUILT_IN: &str = include_str!("../../../manifests/local.yaml");
/// The port of all peers' gRPC everywhere, and so the one that commands try when they are told none.
pub const GRPC_PORT: u16 = 7000;
/// The port of all peers' REST everywhere.
const HTTP_PORT: u16 = 8080;
/// As many as the sample cluster has, and as many as there are copies by default.
const ZONES: u32 = 3;

/// Why it is not clear what should run.
#[derive(Debug, Error)]
pub enum SettleError {
    /// The file cannot be read.
    #[error("the manifest '{}' cannot be read: {reason}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// It is no valid manifest.
    #[error("'{}': {reason}", .path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: Box<ManifestError<serde_yaml::Error>>,
    },
    /// A rule is broken by the flags, or by a change.
    #[error(transparent)]
    Invalid(#[from] Violation),
    /// The directory is another network's.
    #[error(
        "the directory holds the network '{found}', not '{asked}'; choose another one with --dir"
    )]
    OtherNetwork {
        /// Whose it is.
        found: String,
        /// Whose it was thought to be.
        asked: String,
    },
    /// The zones cannot change.
    #[error(
        "this network was founded with {found} zones, and positions on the ring depend on it; leave --zones out, or choose another directory with --dir"
    )]
    Zones {
        /// With how many it was founded.
        found: u32,
    },
    /// More peers than anyone means.
    #[error("{0} peers are more than a PeerNetwork may have (1000)")]
    TooMany(u32),
}

/// Reads the manifest: the named file, or the built-in one.
pub fn read(file: Option<&Path>) -> Result<PeerNetwork, SettleError> {
    let (path, text) = match file {
        None => (Path::new("built-in manifest"), BUILT_IN.to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path);
            (
                path,
                text.map_err(|reason| SettleError::Unreadable {
                    path: path.to_owned(),
                    reason,
                })?,
            )
        }
    };
    peernet_crd::read(serde_yaml::Deserializer::from_str(&text)).map_err(|reason| {
        SettleError::Manifest {
            path: path.to_owned(),
            reason: Box::new(reason),
        }
    })
}

/// Merges the manifest, an earlier run's state and the flags. Flags win over a named manifest, that over the earlier run,
/// and that over the built-in manifest.
pub fn settle(up: &Up, manifest: PeerNetwork, saved: Option<State>) -> Result<State, SettleError> {
    let ports = |saved: Option<&State>| {
        let grpc = up
            .grpc_port
            .or(saved.map(|s| s.grpc_port))
            .unwrap_or(GRPC_PORT);
        (
            grpc,
            up.http_port
                .or(saved.map(|s| s.http_port))
                .unwrap_or(HTTP_PORT),
        )
    };
    let (grpc_port, http_port) = ports(saved.as_ref());
    let mut state = match saved {
        None => {
            manifest.validate_new()?;
            State::new(manifest, up.zones.unwrap_or(ZONES), grpc_port, http_port)
        }
        Some(saved) => {
            if up.zones.is_some_and(|z| z != saved.zones) {
                return Err(SettleError::Zones { found: saved.zones });
            }
            let manifest = if up.file.is_some() {
                manifest
            } else {
                saved.manifest.clone()
            };
            let asked = manifest.metadata.name.clone().unwrap_or_default();
            if asked != saved.name() {
                return Err(SettleError::OtherNetwork {
                    found: saved.name().to_owned(),
                    asked,
                });
            }
            manifest.validate_update(&saved.manifest)?;
            saved.with(manifest, grpc_port, http_port)
        }
    };
    if let Some(peers) = up.peers {
        state.manifest = with_peers(&state.manifest, peers)?;
    }
    Ok(state)
}

/// The same network with another number of peers, by the API server's rules.
pub fn with_peers(manifest: &PeerNetwork, peers: u32) -> Result<PeerNetwork, SettleError> {
    let mut changed = manifest.clone();
    changed.spec.replicas = i32::try_from(peers).map_err(|_| SettleError::TooMany(peers))?;
    changed.validate_update(manifest)?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(change: impl FnOnce(&mut Up)) -> Up {
        let mut up = Up {
            file: None,
            peers: None,
            http_port: None,
            grpc_port: None,
            dir: None,
            zones: None,
        };
        change(&mut up);
        up
    }

    fn fresh() -> State {
        settle(&up(|_| {}), read(None).unwrap(), None).unwrap()
    }

    #[test]
    fn the_built_in_manifest_has_five_peers_in_three_zones() {
        let state = fresh();
        assert_eq!(
            (
                state.wanted(),
                state.zones,
                state.grpc_port,
                state.http_port
            ),
            (5, 3, 7000, 8080)
        );
        assert_eq!(state.manifest.spec.replication.factor, 3);
    }

    #[test]
    fn fewer_peers_than_copies_are_refused_as_by_the_api_server() {
        let error = settle(&up(|u| u.peers = Some(2)), read(None).unwrap(), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            Violation::FewerPeersThanCopies.to_string()
        );
        assert!(with_peers(&fresh().manifest, 0).is_err());
        assert!(with_peers(&fresh().manifest, u32::MAX).is_err());
    }

    #[test]
    fn an_earlier_run_is_taken_up_again() {
        let mut saved = fresh();
        saved.manifest.spec.replicas = 7;
        saved.http_port = 9000;
        saved.network_id = Some("n".into());
        let again = settle(&up(|_| {}), read(None).unwrap(), Some(saved.clone())).unwrap();
        assert_eq!(again, saved);
        let changed = settle(
            &up(|u| u.peers = Some(4)),
            read(None).unwrap(),
            Some(saved.clone()),
        )
        .unwrap();
        assert_eq!(
            (changed.wanted(), changed.network_id),
            (4, saved.network_id.clone())
        );
        let zones =
            settle(&up(|u| u.zones = Some(2)), read(None).unwrap(), Some(saved)).unwrap_err();
        assert!(zones.to_string().contains("--zones"));
    }

    #[test]
    fn a_manifest_of_another_network_or_factor_is_refused() {
        let file = up(|u| u.file = Some("x.yaml".into()));
        let mut other = read(None).unwrap();
        other.metadata.name = Some("other".into());
        assert!(matches!(
            settle(&file, other, Some(fresh())),
            Err(SettleError::OtherNetwork { .. })
        ));
        let mut factor = read(None).unwrap();
        factor.spec.replication.factor = 5;
        assert!(matches!(
            settle(&file, factor, Some(fresh())),
            Err(SettleError::Invalid(Violation::FactorChanged))
        ));
    }

    #[test]
    fn a_new_network_has_no_name_that_kubernetes_would_refuse() {
        let mut taken = read(None).unwrap();
        taken.metadata.name = Some("a-peers".into());
        let settled = |saved| settle(&up(|_| {}), taken.clone(), saved);
        let refused = settled(None);
        assert!(matches!(
            refused,
            Err(SettleError::Invalid(Violation::NameTaken))
        ));
        let mut saved = fresh();
        saved.manifest = taken.clone();
        assert_eq!(settled(Some(saved.clone())).unwrap(), saved);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.yaml");
        std::fs::write(&path, BUILT_IN.replace("replicas", "replica")).unwrap();
        let error = read(Some(&path)).unwrap_err();
        assert!(
            error.to_string().contains("unknown field spec.replica"),
            "{error}"
        );
    }
}
