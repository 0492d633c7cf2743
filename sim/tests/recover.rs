//! Too many of a slot's replicas are gone for good: with a majority of them writes stop, and an explicit command is the way
//! out.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::config::{Replication, Settings};
use peernet_core::io::{Answer, Request};
use peernet_core::key::{SLOTS, Slot};
use peernet_core::leave::Report;
use peernet_core::member::{Liveness, Member, PeerId};
use peernet_core::recover::{self, Loss, Refused};
use peernet_core::slot::SlotConfig;
use peernet_core::store::Store;
use peernet_crd::RecoveryStatus;
use peernet_plan::names;
use peernet_sim::network::HostId;
use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;
/// Longer than any run.
const FOREVER: u64 = 24 * 60 * MINUTE;
const PEERS: u32 = 6;

type Members = BTreeMap<PeerId, Member>;
type Reports = BTreeMap<PeerId, Report>;

fn unexpected<T>(sentence: String) -> Result<T, Failure> {
    Err(Failure::Unexpected(sentence))
}

/// A ring that is whole, with files in it.
async fn found(s: &Scenario) -> Result<(), Failure> {
    s.apply(PEERS);
    s.settle(5 * MINUTE).await?;
    let load = s.load(3);
    s.world.sleep(5_000).await;
    load.stop().await;
    s.settle(5 * MINUTE).await
}

fn identity(s: &Scenario, ordinal: u32) -> PeerId {
    let host = s.cluster.pod(ordinal).host;
    let host = s.fleet.host(host);
    host.process.as_ref().expect("it runs").id
}

/// All that an operator hears.
async fn look(s: &Scenario) -> (Members, Reports) {
    let (mut members, mut reports) = (Members::new(), Reports::new());
    for host in s.fleet.running() {
        let request = Request::LeaveReport(vec![]);
        let answer = s.fleet.call(HostId::OPERATOR, host, request).await;
        let Ok(Answer::LeaveReport(report)) = answer else {
            continue;
        };
        for member in &report.members {
            match members.get_mut(&member.id) {
                Some(known) => drop(known.merge(member)),
                None => drop(members.insert(member.id, member.clone())),
            }
        }
        reports.insert(report.peer, *report);
    }
    (members, reports)
}

/// Waits until every peer that runs knows that these are down.
async fn all_know(s: &Scenario, down: &BTreeSet<PeerId>) -> (Members, Reports) {
    loop {
        let (members, reports) = look(s).await;
        let knows = |report: &Report| {
            let mut known = report.members.iter().filter(|m| down.contains(&m.id));
            known.all(|m| !m.is_present())
        };
        if reports.values().all(knows) && reports.len() == s.fleet.running().len() {
            return (members, reports);
        }
        s.world.sleep(200).await;
    }
}

/// Decides a recovery and tells everybody.
async fn recover_all(
    s: &Scenario,
    gone: &BTreeSet<PeerId>,
    members: &Members,
    reports: &Reports,
) -> Result<Loss, Refused> {
    let replication = s.fleet.settings().replication;
    let (recovery, loss) = recover::recover(gone, members, reports, replication)?;
    for host in s.fleet.running() {
        let request = Request::Recover(recovery.clone());
        // One that does not hear it now hears of the configurations from the others.
        drop(s.fleet.call(HostId::OPERATOR, host, request).await);
    }
    Ok(loss)
}

/// The newest configuration of a slot on any volume.
fn config(s: &Scenario, slot: Slot) -> SlotConfig {
    let records = s.fleet.ids().into_iter().flat_map(|host| {
        let remembered = s.fleet.host(host).store().remembered();
        remembered.expect("a store in memory does not fail").slots
    });
    let newest = records
        .filter(|(of, _)| *of == slot)
        .max_by_key(|(_, record)| record.config.epoch);
    newest.expect("every slot is held").1.config
}

/// The pods of two replicas of some slot.
fn two_holders(s: &Scenario) -> [u32; 2] {
    let slot = s.world.random(0..u64::from(SLOTS)) as u16;
    let mut holders = config(s, Slot::new(slot).expect("there is such a slot")).replicas;
    s.world.shuffle(&mut holders);
    let pod = |id: PeerId| (0..PEERS).find(|ordinal| identity(s, *ordinal) == id);
    [0, 1].map(|n| pod(holders[n]).expect("it has a pod"))
}

/// Two of the three replicas of many slots burn down at once. What the third holds is readable again, everything can be
/// written again, and the count of what may be lost is exact: the slots named both.
async fn two_of_three(s: Scenario) -> Result<(), Failure> {
    found(&s).await?;
    let [first, second] = two_holders(&s);
    let gone = BTreeSet::from([identity(&s, first), identity(&s, second)]);
    let (members, reports) = look(&s).await;
    if recover_all(&s, &gone, &members, &reports).await.is_ok() {
        return unexpected("peers that are alive were given up".into());
    }
    let dead = |config: &SlotConfig| {
        config
            .replicas
            .iter()
            .filter(|id| gone.contains(id))
            .count()
    };
    let hit = Slot::all()
        .filter(|slot| dead(&config(&s, *slot)) == 2)
        .count();
    s.cluster.destroy(first, None);
    s.cluster.destroy(second, None);
    let (members, reports) = all_know(&s, &gone).await;
    let stuck = recover::stuck(&members, &reports, s.fleet.settings().replication.write);
    if (stuck.minority.len(), stuck.nobody.len()) != (hit, 0) {
        return unexpected(format!("{hit} slots lost two replicas, {stuck:?}"));
    }
    // One alone is no reason: the other may come back.
    let one = BTreeSet::from([identity_of(&gone, 0)]);
    let refused = recover_all(&s, &one, &members, &reports).await;
    if refused != Err(Refused::NothingStuck) {
        return unexpected(format!("a majority may come back, but {refused:?}"));
    }
    let loss = recover_all(&s, &gone, &members, &reports).await;
    let loss = loss.map_err(|e| Failure::Unexpected(e.to_string()))?;
    if (loss.whole.len(), loss.partial.len()) != (0, hit) {
        return unexpected(format!("{hit} slots lost two replicas, but {loss:?}"));
    }
    // Fresh peers take their places; then everything is whole again, and all that was settled before is there.
    s.cluster.revive(first);
    s.cluster.revive(second);
    s.settle(10 * MINUTE).await?;
    s.read_all().await;
    let load = s.load(3);
    s.world.sleep(5_000).await;
    load.stop().await;
    s.settle(10 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

fn identity_of(of: &BTreeSet<PeerId>, n: usize) -> PeerId {
    *of.iter().nth(n).expect("as many as were given up")
}

#[test]
fn what_a_survivor_holds_is_readable_and_writes_go_on() {
    for_each_seed(
        "what_a_survivor_holds_is_readable_and_writes_go_on",
        1..5,
        |seed| run(Setup::new(seed), 60 * MINUTE, two_of_three),
    );
}

/// The machines were only away. Their volumes still hold a majority of the old configurations, but never bring back the
/// past: nobody of them speaks for a slot again, and what was written since stays.
async fn old_volumes_return(s: Scenario) -> Result<(), Failure> {
    found(&s).await?;
    let away = two_holders(&s);
    let gone: BTreeSet<PeerId> = away.iter().map(|o| identity(&s, *o)).collect();
    away.iter().for_each(|o| s.cluster.kill(*o, FOREVER));
    let (members, reports) = all_know(&s, &gone).await;
    let loss = recover_all(&s, &gone, &members, &reports).await;
    loss.map_err(|e| Failure::Unexpected(e.to_string()))?;
    let load = s.load(3);
    s.world.sleep(10_000).await;
    away.iter().for_each(|o| s.cluster.revive(*o));
    s.world.sleep(10_000).await;
    load.stop().await;
    s.settle(10 * MINUTE).await?;
    let (members, _) = look(&s).await;
    for id in &gone {
        if members.get(id).map(|m| m.liveness) != Some(Liveness::Left) {
            return unexpected(format!("{id:?} was given up, but is {:?}", members.get(id)));
        }
    }
    for slot in Slot::all() {
        let config = config(&s, slot);
        if config.replicas.iter().any(|id| gone.contains(id)) {
            return unexpected(format!("slot {slot} is held by one that was given up"));
        }
    }
    s.read_all().await;
    Ok(())
}

#[test]
fn volumes_that_were_given_up_never_bring_back_the_past() {
    for_each_seed(
        "volumes_that_were_given_up_never_bring_back_the_past",
        101..105,
        |seed| run(Setup::good_or_bad(seed), 60 * MINUTE, old_volumes_return),
    );
}

/// Asks for these pods to be given up, and waits for the answer.
async fn answered(s: &Scenario, lost: &[u32]) -> Option<RecoveryStatus> {
    s.cluster.ask_to_recover(lost);
    while s.cluster.asked().recover.is_some() {
        s.world.sleep(500).await;
    }
    s.cluster.status().recovery
}

/// The slots that both of these hold.
fn held_by_both(s: &Scenario, gone: &[PeerId; 2]) -> usize {
    let both = |slot: &Slot| {
        let config = config(s, *slot);
        gone.iter().all(|id| config.replicas.contains(id))
    };
    Slot::all().filter(both).count()
}

/// Has both given up: the status says what may be lost, which is what so many slots held.
async fn give_up(s: &Scenario, lost: &[u32], hit: usize) -> Result<(), Failure> {
    let Some(status) = answered(s, lost).await else {
        return unexpected("nothing was given up".into());
    };
    let said = (status.slots_lost, status.slots_partial, status.finished);
    if said != (0, i32::try_from(hit).expect("a few"), true) {
        return unexpected(format!("{hit} slots lost two replicas, but {status:?}"));
    }
    Ok(())
}

/// Two machines burn down at once, and a person orders the way out: what the survivors hold is readable, the status says
/// what may be lost, and both pods begin anew elsewhere. Asked too early, or for one of them alone, nothing is given up.
async fn ordered(s: Scenario) -> Result<(), Failure> {
    found(&s).await?;
    let lost = two_holders(&s);
    if let Some(given_up) = answered(&s, &lost).await {
        return unexpected(format!("peers that are alive were given up: {given_up:?}"));
    }
    let gone = lost.map(|ordinal| identity(&s, ordinal));
    let hit = held_by_both(&s, &gone);
    lost.iter().for_each(|ordinal| s.cluster.strand(*ordinal));
    all_know(&s, &gone.into()).await;
    if let Some(given_up) = answered(&s, &lost[..1]).await {
        return unexpected(format!("the other may come back, but {given_up:?}"));
    }
    give_up(&s, &lost, hit).await?;
    let load = s.load(3);
    for ordinal in lost {
        s.cluster.ask_to_replace(Some(ordinal));
        while s.cluster.under_replacement().is_some() {
            s.world.sleep(500).await;
        }
    }
    load.stop().await;
    s.settle(10 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

/// Two pods come back at once on volumes that are empty: only their predecessors are given up, not the newcomers.
async fn emptied(s: Scenario) -> Result<(), Failure> {
    found(&s).await?;
    let lost = two_holders(&s);
    let gone = lost.map(|ordinal| identity(&s, ordinal));
    let hit = held_by_both(&s, &gone);
    for ordinal in lost {
        s.cluster.destroy(ordinal, Some(1_000));
    }
    all_know(&s, &gone.into()).await;
    let names = lost.map(|ordinal| names::pod("demo", ordinal));
    loop {
        let (members, _) = look(&s).await;
        let present = |name: &String| members.values().any(|m| m.name == *name && m.is_present());
        if names.iter().all(present) {
            break;
        }
        s.world.sleep(200).await;
    }
    give_up(&s, &lost, hit).await?;
    s.settle(10 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn who_came_back_without_anything_is_not_given_up() {
    for_each_seed(
        "who_came_back_without_anything_is_not_given_up",
        301..303,
        |seed| run(Setup::good_or_bad(seed), 60 * MINUTE, emptied),
    );
}

/// Two copies of five are gone, and two were enough to acknowledge a chunk: no majority is lost, but nobody can know that
/// the others hold everything. Until somebody orders it nothing is rebuilt.
#[test]
fn two_lost_copies_of_five_are_given_up_on_order() {
    let setup = |seed| Setup {
        settings: Settings {
            replication: Replication {
                factor: 5,
                write: 2,
            },
            ..Setup::new(seed).settings
        },
        ..Setup::good_or_bad(seed)
    };
    for_each_seed(
        "two_lost_copies_of_five_are_given_up_on_order",
        401..402,
        |seed| run(setup(seed), 60 * MINUTE, ordered),
    );
}

#[test]
fn the_operator_gives_up_on_order_what_only_the_lost_held() {
    for_each_seed(
        "the_operator_gives_up_on_order_what_only_the_lost_held",
        201..203,
        |seed| run(Setup::good_or_bad(seed), 60 * MINUTE, ordered),
    );
}
