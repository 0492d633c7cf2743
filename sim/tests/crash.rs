//! Peers go away without warning while files are written and read.

use peernet_sim::check;
use peernet_sim::network::HostId;
use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;

/// Kills random peers, one or two at a time, and lets them restart on their volumes.
async fn crashes(s: Scenario) -> Result<(), Failure> {
    let peers = 4 + s.world.random(0..4) as u32;
    s.apply(peers);
    s.settle(5 * MINUTE).await?;
    let load = s.load(4);
    for _ in 0..8 {
        for _ in 0..s.world.random(1..3) {
            s.cluster.kill(
                s.world.random(0..peers.into()) as u32,
                s.world.random(200..15_000),
            );
        }
        s.world.sleep(s.world.random(500..20_000)).await;
    }
    load.stop().await;
    s.settle(5 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn crashed_peers_come_back_and_nothing_is_lost() {
    for_each_seed(
        "crashed_peers_come_back_and_nothing_is_lost",
        1..5,
        |seed| run(Setup::new(seed), 60 * MINUTE, crashes),
    );
}

#[test]
fn crashed_peers_come_back_over_a_bad_network() {
    for_each_seed(
        "crashed_peers_come_back_over_a_bad_network",
        101..104,
        |seed| run(Setup::new(seed).over_bad_network(), 60 * MINUTE, crashes),
    );
}

/// One machine burns down and is not replaced: after the grace period its copies are rebuilt on the others. Then
/// another does, and a pod with an empty volume takes its place.
async fn losses(s: Scenario) -> Result<(), Failure> {
    s.apply(6);
    s.settle(5 * MINUTE).await?;
    let load = s.load(4);
    s.world.sleep(5_000).await;
    let lost = s.world.random(0..6) as u32;
    s.cluster.destroy(lost, None);
    s.world.sleep(s.fleet.settings().grace).await;
    load.stop().await;
    let others: Vec<HostId> = s
        .cluster
        .pods()
        .iter()
        .filter(|p| p.ordinal != lost)
        .map(|p| p.host)
        .collect();
    s.settle_hosts(&others, 5 * MINUTE).await?;
    s.cluster.restored();
    let load = s.load(4);
    let next = (lost + 1 + s.world.random(0..5) as u32) % 6;
    s.cluster.destroy(next, Some(2_000));
    s.cluster.revive(lost);
    s.world.sleep(10_000).await;
    load.stop().await;
    s.settle(10 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn copies_of_a_lost_volume_are_rebuilt() {
    for_each_seed("copies_of_a_lost_volume_are_rebuilt", 201..205, |seed| {
        let summary = run(Setup::new(seed), 60 * MINUTE, losses)?;
        // One peer at a time is missing: the others answer at once.
        if summary.slowest > 5_000 {
            let slow = format!("a read took {} ms", summary.slowest);
            return Err(Failure::Unexpected(slow));
        }
        Ok(summary)
    });
}

#[test]
fn copies_of_a_lost_volume_are_rebuilt_over_a_bad_network() {
    for_each_seed(
        "copies_of_a_lost_volume_are_rebuilt_over_a_bad_network",
        301..303,
        |seed| run(Setup::new(seed).over_bad_network(), 90 * MINUTE, losses),
    );
}

/// Everybody loses power at once.
#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    for_each_seed("a_power_cut_loses_nothing_acknowledged", 401..404, |seed| {
        run(Setup::new(seed), 60 * MINUTE, async |s: Scenario| {
            s.apply(5);
            s.settle(5 * MINUTE).await?;
            for _ in 0..3 {
                let load = s.load(4);
                s.world.sleep(s.world.random(2_000..6_000)).await;
                for ordinal in 0..5 {
                    s.cluster.kill(ordinal, s.world.random(1_000..40_000));
                }
                s.world.sleep(s.world.random(2_000..60_000)).await;
                load.stop().await;
                s.settle(5 * MINUTE).await?;
            }
            s.read_all().await;
            Ok(())
        })
    });
}

/// The network falls apart and becomes whole again; each side has clients.
#[test]
fn a_partition_heals() {
    for_each_seed("a_partition_heals", 501..505, |seed| {
        run(Setup::new(seed), 60 * MINUTE, async |s: Scenario| {
            s.apply(6);
            s.settle(5 * MINUTE).await?;
            let writers = s.writers(4);
            for _ in 0..3 {
                let mut hosts = s.wanted();
                s.world.shuffle(&mut hosts);
                let (one, other) = hosts.split_at(s.world.random(1..4) as usize);
                if s.world.chance(0.3) {
                    for (a, b) in one.iter().zip(other) {
                        s.fleet.network().cut(*a, *b);
                    }
                } else {
                    s.fleet.network().partition(one, other);
                }
                s.world.sleep(s.world.random(1_000..60_000)).await;
                s.fleet.network().heal();
                s.world.sleep(s.world.random(1_000..20_000)).await;
            }
            writers.stop().await;
            s.settle(5 * MINUTE).await?;
            s.read_all().await;
            Ok(())
        })
    });
}

/// Whoever is on the smaller side of a partition says that it is not ready, so that clients go elsewhere; the larger side
/// goes on.
#[test]
fn a_minority_that_is_cut_off_is_not_ready() {
    for_each_seed(
        "a_minority_that_is_cut_off_is_not_ready",
        601..603,
        |seed| {
            run(Setup::new(seed), 60 * MINUTE, async |s: Scenario| {
                s.apply(6);
                s.settle(5 * MINUTE).await?;
                // Two peers of one zone: no slot has two of its three replicas there.
                let zone = |host: &HostId| s.fleet.host(*host).zone.clone();
                let first = zone(&s.wanted()[0]);
                let (few, many): (Vec<_>, Vec<_>) =
                    s.wanted().into_iter().partition(|h| zone(h) == first);
                s.fleet.network().partition(&few, &many);
                s.world.sleep(10_000).await;
                for host in &few {
                    assert!(check::ready(&s.fleet, &[*host]).await.is_err());
                }
                check::ready(&s.fleet, &many).await.unwrap();
                s.fleet.network().heal();
                s.settle(5 * MINUTE).await?;
                check::ready(&s.fleet, &s.wanted()).await.unwrap();
                Ok(())
            })
        },
    );
}
