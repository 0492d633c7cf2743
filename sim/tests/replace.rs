//! Identities whose volume or machine is gone for good.

use peernet_core::io::{Answer, Request};
use peernet_core::member::{Liveness, PeerId};
use peernet_sim::network::HostId;
use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;

/// The identity that runs on a machine.
fn identity(s: &Scenario, ordinal: u32) -> Result<PeerId, Failure> {
    let host = s.cluster.pod(ordinal).host;
    let host = s.fleet.host(host);
    let process = host.process.as_ref();
    process
        .map(|p| p.id)
        .ok_or_else(|| Failure::Unexpected(format!("demo-{ordinal} does not run")))
}

/// What each of these machines thinks of a member.
async fn opinions(s: &Scenario, hosts: &[HostId], of: PeerId) -> Vec<Option<Liveness>> {
    let mut all = Vec::new();
    for host in hosts {
        all.push(match s.fleet.request(*host, Request::Members).await {
            Ok(Answer::Members(members)) => members.iter().find(|m| m.id == of).map(|m| m.liveness),
            _ => None,
        });
    }
    all
}

/// Waits until all wanted peers agree on a member.
async fn agreed(s: &Scenario, of: PeerId, on: Liveness, limit: u64) -> Result<(), Failure> {
    let start = s.world.now();
    loop {
        let hosts = s.wanted();
        let found = opinions(s, &hosts, of).await;
        if found.iter().all(|o| *o == Some(on)) {
            return Ok(());
        }
        if s.world.now() - start > limit {
            let sentence = format!("{of:?} should be {on:?} to all, but is {found:?}");
            return Err(Failure::Unexpected(sentence));
        }
        s.world.sleep(100).await;
    }
}

/// A volume is lost, and its pod comes back with an empty one: the identity it had is retired without anybody's help.
async fn empty_disk(s: Scenario) -> Result<(), Failure> {
    let peers = 3 + s.world.random(0..4) as u32;
    s.apply(peers);
    s.settle(5 * MINUTE).await?;
    let load = s.load(2);
    let lost = s.world.random(0..u64::from(peers)) as u32;
    let before = identity(&s, lost)?;
    s.cluster.destroy(lost, Some(2_000));
    // Now and then once more, before or after the newcomer has taken its place.
    s.world.sleep(s.world.random(1_000..10_000)).await;
    if s.world.chance(0.3) {
        s.cluster.destroy(lost, Some(2_000));
        s.world.sleep(10_000).await;
    }
    load.stop().await;
    s.settle(10 * MINUTE).await?;
    agreed(&s, before, Liveness::Retired, 2 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn an_identity_whose_volume_is_lost_is_retired() {
    for_each_seed(
        "an_identity_whose_volume_is_lost_is_retired",
        1..7,
        |seed| run(Setup::good_or_bad(seed), 60 * MINUTE, empty_disk),
    );
}

/// A machine burns down with the volume, which alone bound its pod to it; somebody asks for a replacement, now and then
/// before that, when it is refused.
async fn asked_for(s: Scenario) -> Result<(), Failure> {
    let peers = 3 + s.world.random(0..3) as u32;
    s.apply(peers);
    s.settle(5 * MINUTE).await?;
    let load = s.load(2);
    let lost = s.world.random(0..u64::from(peers)) as u32;
    let before = identity(&s, lost)?;
    s.cluster.ask_to_replace(Some(lost));
    while s.cluster.under_replacement().is_some() {
        s.world.sleep(500).await;
    }
    if identity(&s, lost)? != before {
        return Err(Failure::Unexpected("a living peer was replaced".into()));
    }
    s.cluster.strand(lost);
    s.world.sleep(s.world.random(0..30_000)).await;
    s.cluster.ask_to_replace(Some(lost));
    s.world.sleep(s.world.random(0..30_000)).await;
    load.stop().await;
    s.settle(10 * MINUTE).await?;
    if identity(&s, lost)? == before {
        return Err(Failure::Unexpected("nobody was replaced".into()));
    }
    s.read_all().await;
    Ok(())
}

#[test]
fn who_is_lost_with_its_node_is_replaced_on_another() {
    for_each_seed(
        "who_is_lost_with_its_node_is_replaced_on_another",
        1..4,
        |seed| run(Setup::good_or_bad(seed), 60 * MINUTE, asked_for),
    );
}
