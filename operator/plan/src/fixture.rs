//! A network as tests want it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use peernet_core::key::{Position, Slot};
use peernet_core::leave::{LeaverProgress, LeaverReport, Report, SlotReport};
use peernet_core::member::{Drain, Liveness, Member, PeerId};
use peernet_core::placement;
use peernet_crd::{PeerNetworkSpec, PeerNetworkStatus};

use crate::names;
use crate::observed::{Answer, Asked, Disk, Life, Network, Observed, PeerPod, Set, Volume};

/// The resource `demo` in namespace `ns`, new.
pub fn network(replicas: i32) -> Network {
    Network {
        name: "demo".into(),
        namespace: "ns".into(),
        uid: "uid-1".into(),
        resource_version: "1".into(),
        created: Timestamp::from_second(1_000).unwrap(),
        generation: 1,
        asked: Asked::default(),
        spec: PeerNetworkSpec {
            replicas,
            ..PeerNetworkSpec::default()
        },
        status: PeerNetworkStatus::default(),
    }
}

/// The identity of the peer of that ordinal.
pub fn id(ordinal: u32) -> PeerId {
    PeerId(u128::from(ordinal) + 1)
}

/// A member of the ring.
pub fn member(ordinal: u32) -> Member {
    Member {
        id: id(ordinal),
        name: names::pod("demo", ordinal),
        address: format!("10.0.0.{ordinal}:7000"),
        http: format!("10.0.0.{ordinal}:8080"),
        zone: zone(ordinal),
        position: placement::position(ordinal / 3, ordinal % 3, 3),
        incarnation: 1,
        liveness: Liveness::Active,
        drain: Drain::default(),
        version: String::new(),
    }
}

/// A pod that has started and waits, with an empty volume.
pub fn waiting(ordinal: u32) -> PeerPod {
    PeerPod {
        address: Some(format!("10.0.0.{ordinal}:7000")),
        node: Some(node(ordinal)),
        ready: false,
        deleting: false,
        uid: format!("pod-{ordinal}"),
        revision: None,
        started: true,
        answer: Some(Answer {
            volume: Volume::default(),
            life: None,
        }),
    }
}

/// A pod whose peer is a member and ready.
pub fn running(ordinal: u32) -> PeerPod {
    let member = member(ordinal);
    let volume = Volume {
        network: Some("uid-1".into()),
        peer: Some(member.id),
        left: false,
        running: true,
        position: member.position,
    };
    let life = Life {
        network: "uid-1".into(),
        member,
        ready: true,
        reason: String::new(),
        disk: Disk::default(),
        broker: None,
    };
    let answer = Some(Answer {
        volume,
        life: Some(life),
    });
    PeerPod {
        ready: true,
        answer,
        ..waiting(ordinal)
    }
}

fn zone(ordinal: u32) -> String {
    format!("zone-{}", ordinal % 3)
}

fn node(ordinal: u32) -> String {
    format!("node-{}", ordinal % 3)
}

/// `replicas` are wanted of a network whose first `pods` pods are ready members.
pub fn founded(replicas: i32, pods: u32) -> Observed {
    let mut network = network(replicas);
    network.status = PeerNetworkStatus {
        network_id: Some("uid-1".into()),
        founded: true,
        replicas: i32::try_from(pods).unwrap(),
        ..PeerNetworkStatus::default()
    };
    Observed {
        set: Some(set(pods)),
        pods: (0..pods).map(|o| (o, running(o))).collect(),
        members: (0..pods).map(|o| (id(o), member(o))).collect(),
        ..fresh(network)
    }
}

/// A resource that nothing was done about.
pub fn fresh(network: Network) -> Observed {
    Observed {
        network,
        set: None,
        pods: BTreeMap::new(),
        old_volumes: BTreeSet::new(),
        members: BTreeMap::new(),
        reports: BTreeMap::new(),
        zone_of: (0..3).map(|o| (node(o), zone(o))).collect(),
        lost_nodes: BTreeSet::new(),
        claim: None,
    }
}

/// The StatefulSet.
pub fn set(replicas: u32) -> Set {
    Set {
        uid: "set-1".into(),
        resource_version: "1".into(),
        generation: 1,
        replicas,
        revision: Some("new".into()),
        rolls: false,
    }
}

/// What a member reports when the peers of ordinals `holders` hold every slot and those of `leavers`, of which it is one
/// itself if its ordinal is among them, have left.
pub fn report(reporter: u32, holders: &[u32], leavers: &[u32]) -> Report {
    let own = LeaverProgress {
        receipted: 1,
        left: true,
        ..LeaverProgress::default()
    };
    let slot = |slot: Slot| SlotReport {
        slot,
        epoch: 5,
        replicas: holders.iter().copied().map(id).collect(),
        next: None,
        synced: true,
    };
    Report {
        peer: id(reporter),
        slots: if holders.contains(&reporter) {
            Slot::all().map(slot).collect()
        } else {
            vec![]
        },
        leavers: leavers
            .iter()
            .map(|leaver| LeaverReport {
                leaver: id(*leaver),
                drain_epoch: 1,
                own: (*leaver == reporter).then(|| own.clone()),
                receipts: (0, 0, 0),
            })
            .collect(),
        members: vec![],
        greatest_epoch: 5,
    }
}

/// Gives `observed` the reports of all its pods: `holders` hold every slot, `leavers` have left.
pub fn with_reports(mut observed: Observed, holders: &[u32], leavers: &[u32]) -> Observed {
    let ordinals: Vec<u32> = observed.pods.keys().copied().collect();
    observed.reports = ordinals
        .iter()
        .map(|o| (id(*o), report(*o, holders, leavers)))
        .collect();
    observed
}

/// Marks a member as under a drain order.
pub fn leaving(observed: &mut Observed, ordinal: u32, epoch: u64, leaving: bool) {
    observed.members.get_mut(&id(ordinal)).unwrap().drain = Drain { epoch, leaving };
}

/// A volume that remembers something but whose peer does not run.
pub fn remembering(ordinal: u32, network: &str, left: bool) -> PeerPod {
    let volume = Volume {
        network: Some(network.into()),
        peer: Some(id(ordinal)),
        left,
        running: false,
        position: Position(77),
    };
    PeerPod {
        answer: Some(Answer { volume, life: None }),
        ..waiting(ordinal)
    }
}
