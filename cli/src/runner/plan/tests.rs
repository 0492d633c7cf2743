use peernet_core::key::Slot;
use peernet_core::leave::{LeaverProgress, LeaverReport, SlotReport};
use peernet_core::member::Drain;

use super::*;

mod loss;

const NETWORK: &str = "n";

fn decided(wanted: u32, running: u32) -> Decided {
    Decided {
        name: "l".into(),
        network: Some(NETWORK.into()),
        founded: true,
        wanted,
        running,
        zones: 3,
        replication: Replication::default(),
        replacing: None,
    }
}

fn id(ordinal: u32) -> PeerId {
    PeerId(u128::from(ordinal) + 1)
}

fn at(ordinal: u32) -> Position {
    placement::position(ordinal / 3, ordinal % 3, 3)
}

fn member(ordinal: u32) -> Member {
    Member {
        id: id(ordinal),
        name: format!("l-{ordinal}"),
        address: String::new(),
        http: String::new(),
        zone: zone_name(ordinal % 3),
        position: at(ordinal),
        incarnation: 1,
        liveness: Liveness::Active,
        drain: Drain::default(),
        version: String::new(),
    }
}

fn volume(ordinal: u32) -> Volume {
    Volume::Peer {
        network: NETWORK.into(),
        id: id(ordinal),
        position: at(ordinal),
        left: false,
        running: true,
    }
}

fn ready(ordinal: u32) -> Peer {
    Peer {
        alive: true,
        volume: Some(volume(ordinal)),
        active: true,
        ready: true,
        ..Peer::default()
    }
}

fn blank() -> Peer {
    Peer {
        alive: true,
        volume: Some(Volume::Blank),
        ..Peer::default()
    }
}

/// All peers run and are ready.
fn healthy(n: u32) -> Observed {
    Observed {
        peers: (0..n).map(ready).collect(),
        members: (0..n).map(|i| (id(i), member(i))).collect(),
        reports: BTreeMap::new(),
    }
}

/// Slot s is held by three of the peers below `holders`, all caught up; `leavers` say that they have left.
fn proofs(holders: u32, leavers: std::ops::Range<u32>) -> BTreeMap<PeerId, Report> {
    let replicas = |s: Slot| {
        (0..3)
            .map(|k| id((u32::from(s.number()) + k) % holders))
            .collect::<Vec<_>>()
    };
    let slot = |s: Slot| SlotReport {
        slot: s,
        epoch: 9,
        replicas: replicas(s),
        next: None,
        synced: true,
    };
    let report = |peer: PeerId, leavers| Report {
        peer,
        slots: Slot::all()
            .map(slot)
            .filter(|s| s.replicas.contains(&peer))
            .collect(),
        leavers,
        members: vec![],
        greatest_epoch: 9,
    };
    let own = |i| LeaverReport {
        leaver: id(i),
        drain_epoch: 1,
        own: Some(LeaverProgress {
            left: true,
            ..LeaverProgress::default()
        }),
        receipts: (0, 0, 0),
    };
    let stay = (0..holders).map(|i| (id(i), report(id(i), vec![])));
    stay.chain(leavers.map(|i| (id(i), report(id(i), vec![own(i)]))))
        .collect()
}

fn order(observed: &mut Observed, ordinal: u32, epoch: u64, leaving: bool) {
    observed.members.get_mut(&id(ordinal)).unwrap().drain = Drain { epoch, leaving };
}

#[test]
fn processes_come_first() {
    let mut state = decided(5, 0);
    (state.network, state.founded) = (None, false);
    let first = plan(&state, &Observed::default());
    assert_eq!(first.actions, [Action::Run(5)]);
    state.running = 5;
    let peers = vec![
        Peer {
            may_start: true,
            ..Peer::default()
        };
        5
    ];
    let started = plan(
        &state,
        &Observed {
            peers,
            ..Observed::default()
        },
    );
    assert_eq!(
        started.actions,
        (0..5).map(Action::Start).collect::<Vec<_>>()
    );
    assert!(!started.progress.settled);
}

#[test]
fn a_network_is_decided_once_all_volumes_are_known() {
    let mut state = decided(3, 3);
    (state.network, state.founded) = (None, false);
    let mut observed = Observed {
        peers: vec![
            blank(),
            blank(),
            Peer {
                alive: true,
                ..Peer::default()
            },
        ],
        ..Observed::default()
    };
    assert_eq!(
        plan(&state, &observed).actions,
        [],
        "the third may remember one"
    );
    observed.peers[2] = blank();
    assert_eq!(
        plan(&state, &observed).actions,
        [Action::Decide {
            adopt: None,
            founded: false
        }]
    );
    observed.peers[2].volume = Some(volume(2));
    let adopted = Action::Decide {
        adopt: Some(NETWORK.into()),
        founded: true,
    };
    assert_eq!(
        plan(&state, &observed).actions,
        [adopted],
        "volumes outlive a lost state file"
    );
    observed.peers[2] = blank();
    observed.peers[0].volume = Some(volume(0));
    let adopted = Action::Decide {
        adopt: Some(NETWORK.into()),
        founded: false,
    };
    assert_eq!(
        plan(&state, &observed).actions,
        [adopted],
        "peer 0 may not have finished founding"
    );
}

#[test]
fn peer_0_founds_alone_and_the_others_follow_in_their_zones() {
    let state = Decided {
        founded: false,
        ..decided(4, 4)
    };
    let mut observed = Observed {
        peers: vec![blank(); 4],
        ..Observed::default()
    };
    let found = Action::Assign {
        ordinal: 0,
        zone: "zone-0".into(),
        position: at(0),
        found: true,
    };
    assert_eq!(plan(&state, &observed).actions, [found]);
    observed.peers[0] = Peer {
        active: false,
        ready: false,
        ..ready(0)
    };
    assert_eq!(plan(&state, &observed).actions, []);
    observed.peers[0] = ready(0);
    assert_eq!(plan(&state, &observed).actions, [Action::Founded]);

    let founded = Decided {
        founded: true,
        ..state
    };
    observed.members.insert(id(0), member(0));
    let joins: Vec<Action> = (1..4)
        .map(|i| Action::Assign {
            ordinal: i,
            zone: zone_name(i % 3),
            position: at(i),
            found: false,
        })
        .collect();
    assert_eq!(plan(&founded, &observed).actions, joins);
}

#[test]
fn a_settled_network_needs_nothing() {
    let plan = plan(&decided(5, 5), &healthy(5));
    assert_eq!(plan.actions, []);
    assert!(plan.progress.settled);
    assert_eq!(plan.progress.ready, 5);
}

#[test]
fn a_crashed_peer_is_started_and_gets_its_old_place() {
    let mut observed = healthy(5);
    observed.peers[3] = Peer {
        may_start: true,
        ..Peer::default()
    };
    let plan1 = plan(&decided(5, 5), &observed);
    let hint = Action::Hint(id(3));
    assert_eq!(plan1.actions, [Action::Start(3), hint]);
    assert_eq!(plan1.progress.waiting[0].name, "l-3");
    let Volume::Peer {
        network, id, left, ..
    } = volume(3)
    else {
        unreachable!()
    };
    let waits = Volume::Peer {
        network,
        id,
        position: Position(77),
        left,
        running: false,
    };
    observed.peers[3] = Peer {
        alive: true,
        volume: Some(waits),
        ..Peer::default()
    };
    let back = Action::Assign {
        ordinal: 3,
        zone: "zone-0".into(),
        position: Position(77),
        found: false,
    };
    assert_eq!(plan(&decided(5, 5), &observed).actions, [back]);
}

#[test]
fn a_volume_of_another_network_is_left_alone() {
    let mut observed = healthy(5);
    let Volume::Peer {
        id, position, left, ..
    } = volume(3)
    else {
        unreachable!()
    };
    let volume = Volume::Peer {
        network: "other".into(),
        id,
        position,
        left,
        running: false,
    };
    observed.peers[3] = Peer {
        alive: true,
        volume: Some(volume),
        ..Peer::default()
    };
    let plan = plan(&decided(5, 5), &observed);
    assert_eq!(plan.actions, []);
    assert!(
        plan.progress.waiting[0].reason.contains("another network"),
        "{:?}",
        plan.progress
    );
}

#[test]
fn fewer_wanted_means_orders_and_no_end_without_proof() {
    let state = decided(5, 7);
    let mut observed = healthy(7);
    let orders = plan(&state, &observed).actions;
    let drain = |i| Action::Drain {
        peer: id(i),
        epoch: 1,
        leaving: true,
    };
    assert_eq!(orders, [drain(5), drain(6)]);

    order(&mut observed, 5, 1, true);
    order(&mut observed, 6, 1, true);
    let waits = plan(&state, &observed);
    assert_eq!(waits.actions, [], "no report is no proof");
    assert_eq!(waits.progress.leaving.len(), 2);
    assert!(!waits.progress.leaving[0].blocker.is_empty());

    observed.reports = proofs(5, 5..7);
    assert_eq!(plan(&state, &observed).actions, [Action::Run(5)]);
}

#[test]
fn processes_end_from_the_top() {
    let state = decided(5, 7);
    let mut observed = healthy(7);
    order(&mut observed, 5, 1, true);
    order(&mut observed, 6, 1, true);
    observed.reports = proofs(5, 5..7);
    let unsaid = |observed: &mut Observed, i: u32| {
        let own = observed.reports.get_mut(&id(i)).unwrap().leavers[0]
            .own
            .as_mut()
            .unwrap();
        (own.left, own.bytes_left, own.blocker) = (false, 42, "waits for a receipt".into());
    };
    let mut top_waits = observed.clone();
    unsaid(&mut top_waits, 6);
    let plan1 = plan(&state, &top_waits);
    assert_eq!(plan1.actions, [], "5 has left, but 6 has not");
    let leaving: Vec<_> = plan1
        .progress
        .leaving
        .iter()
        .map(|l| (l.name.as_str(), l.bytes_left, l.blocker.as_str()))
        .collect();
    assert_eq!(
        leaving,
        [("l-5", 0, ""), ("l-6", 42, "waits for a receipt")]
    );

    unsaid(&mut observed, 5);
    assert_eq!(plan(&state, &observed).actions, [Action::Run(6)]);
}

#[test]
fn a_leaver_that_runs_but_does_not_report_stays() {
    let state = decided(5, 6);
    let mut observed = healthy(6);
    order(&mut observed, 5, 1, true);
    observed.reports = proofs(5, 5..5);
    assert_eq!(plan(&state, &observed).actions, []);
    let Some(Volume::Peer { left, .. }) = observed.peers[5].volume.as_mut() else {
        unreachable!()
    };
    *left = true;
    assert_eq!(
        plan(&state, &observed).actions,
        [Action::Run(5)],
        "its volume says that it left"
    );
}

#[test]
fn a_process_of_unknown_identity_ends_only_when_nobody_knows_it() {
    let state = decided(5, 6);
    let mut observed = healthy(5);
    observed.peers.push(Peer {
        alive: true,
        ..Peer::default()
    });
    assert_eq!(plan(&state, &observed).actions, []);
    observed.reports = proofs(5, 5..5);
    assert_eq!(plan(&state, &observed).actions, [Action::Run(5)]);
    // No list came, but somebody who reports knows it.
    let listed = std::mem::take(&mut observed.members);
    observed.reports.get_mut(&id(2)).unwrap().members = vec![member(5)];
    assert_eq!(plan(&state, &observed).actions, []);
    observed.members = listed;
    observed.reports.remove(&id(2));
    assert_eq!(plan(&state, &observed).actions, []);
    observed.peers[5] = blank();
    assert_eq!(
        plan(&state, &observed).actions,
        [Action::Run(5)],
        "a blank volume holds nothing"
    );
}

#[test]
fn who_is_said_to_have_left_stays_while_a_slot_names_it() {
    let state = decided(5, 6);
    let mut observed = healthy(6);
    observed.members.get_mut(&id(5)).unwrap().liveness = Liveness::Left;
    observed.peers[5] = Peer::default();
    observed.reports = proofs(5, 5..5);
    assert_eq!(plan(&state, &observed).actions, [Action::Run(5)]);
    observed.reports = proofs(6, 5..5);
    observed.reports.remove(&id(5));
    assert_eq!(plan(&state, &observed).actions, []);
}

#[test]
fn more_wanted_while_leaving_cancels() {
    let state = decided(7, 7);
    let mut observed = healthy(7);
    order(&mut observed, 5, 3, true);
    let Some(Volume::Peer { left, .. }) = observed.peers[6].volume.as_mut() else {
        unreachable!()
    };
    *left = true;
    observed.members.get_mut(&id(6)).unwrap().liveness = Liveness::Left;
    let again = Action::Assign {
        ordinal: 6,
        zone: "zone-0".into(),
        position: at(6),
        found: false,
    };
    let keep = Action::Drain {
        peer: id(5),
        epoch: 4,
        leaving: false,
    };
    assert_eq!(plan(&state, &observed).actions, [again, keep]);
}

#[test]
fn a_member_whose_volume_was_replaced_is_drained() {
    let mut observed = healthy(5);
    observed.members.insert(
        PeerId(99),
        Member {
            id: PeerId(99),
            liveness: Liveness::Down,
            ..member(2)
        },
    );
    let expected = Action::Drain {
        peer: PeerId(99),
        epoch: 1,
        leaving: true,
    };
    assert_eq!(plan(&decided(5, 5), &observed).actions, [expected]);
    let foreign = Member {
        id: PeerId(98),
        name: "someone".into(),
        ..member(2)
    };
    let mut observed = healthy(5);
    observed.members.insert(foreign.id, foreign);
    assert_eq!(
        plan(&decided(5, 5), &observed).actions,
        [],
        "members of other makers are theirs to manage"
    );
}

#[test]
fn positions_in_use_are_not_given_twice() {
    let mut observed = healthy(3);
    // Peer 3 would be rank 1 of zone 0, but a member stands there.
    observed.members.insert(
        PeerId(50),
        Member {
            id: PeerId(50),
            position: at(3),
            name: "x".into(),
            ..member(0)
        },
    );
    observed.peers.push(blank());
    let plan = plan(&decided(4, 4), &observed);
    assert_eq!(
        plan.actions,
        [Action::Assign {
            ordinal: 3,
            zone: "zone-0".into(),
            position: at(6),
            found: false
        }]
    );
}
