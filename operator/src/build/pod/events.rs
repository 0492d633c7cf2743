//! How a peer gets to know the broker of its events: files from Secrets, so that a password is in no specification.

use k8s_openapi::api::core::v1::{
    KeyToPath, ProjectedVolumeSource, SecretProjection, Volume, VolumeMount, VolumeProjection,
};
use peernet_crd::{Commands, Events, SecretKey};
use peernet_plan::observed::Network;

const VOLUME: &str = "events";
const DIR: &str = "/etc/peernet/events";
const URI: &str = "uri";
const CA: &str = "ca.crt";
const FETCH_CA: &str = "fetch-ca.crt";

/// The files. A Secret or a key that is not there keeps no peer from running: all are optional, so that the kubelet starts
/// the pod without the file; the peer says in its log that it is missing, and events wait.
pub(super) fn volume(events: &Events) -> Volume {
    let Events {
        uri,
        ca,
        exchange: _,
        commands,
    } = events;
    let fetch_ca = commands.as_ref().and_then(|c| c.fetch_ca.as_ref());
    let files = [(URI, Some(uri)), (CA, ca.as_ref()), (FETCH_CA, fetch_ca)];
    let sources = files
        .into_iter()
        .filter_map(|(file, key)| Some(source(file, key?)));
    Volume {
        name: VOLUME.into(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(sources.collect()),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn source(file: &str, secret: &SecretKey) -> VolumeProjection {
    let SecretKey { name, key } = secret;
    VolumeProjection {
        secret: Some(SecretProjection {
            name: name.clone(),
            optional: Some(true),
            items: Some(vec![KeyToPath {
                key: key.clone(),
                path: file.into(),
                mode: None,
            }]),
        }),
        ..VolumeProjection::default()
    }
}

pub(super) fn mount() -> VolumeMount {
    VolumeMount {
        name: VOLUME.into(),
        mount_path: DIR.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// One that no other network has by default: neither a namespace nor a network has a dot in its name. What begins with
/// `amq.` belongs to the broker, and a peer that is told so does not start.
fn own_exchange(network: &Network) -> String {
    let Network {
        namespace, name, ..
    } = network;
    match namespace.as_str() {
        "amq" => format!("peernet.{namespace}.{name}"),
        _ => format!("{namespace}.{name}"),
    }
}

/// What a peer is told, by the names of its environment.
pub(super) fn environment(events: &Events, network: &Network) -> Vec<(&'static str, String)> {
    let Events {
        uri: _,
        ca,
        exchange,
        commands,
    } = events;
    let mut told = vec![
        ("PEERNET_EVENTS_URI_FILE", format!("{DIR}/{URI}")),
        (
            "PEERNET_EVENTS_EXCHANGE",
            exchange.clone().unwrap_or_else(|| own_exchange(network)),
        ),
    ];
    if ca.is_some() {
        told.push(("PEERNET_EVENTS_CA_FILE", format!("{DIR}/{CA}")));
    }
    if let Some(Commands {
        fetch_allow,
        fetch_ca,
    }) = commands
    {
        told.push(("PEERNET_EVENTS_COMMANDS", "true".into()));
        if !fetch_allow.is_empty() {
            told.push(("PEERNET_EVENTS_FETCH_ALLOW", fetch_allow.join(",")));
        }
        if fetch_ca.is_some() {
            told.push(("PEERNET_EVENTS_FETCH_CA_FILE", format!("{DIR}/{FETCH_CA}")));
        }
    }
    told
}
