//! Everything at once, in random order.

use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;
const LEAST: u64 = 3;
const MOST: u64 = 9;

/// One thing goes wrong, or is changed. At most one volume is lost before all copies are rebuilt.
async fn trouble(s: &Scenario, lost: &mut bool) {
    let pods = s.cluster.statefulset();
    let some_pod = || s.world.random(0..pods.into()) as u32;
    match s.world.random(0..10) {
        0..=3 => s.cluster.scale(s.world.random(LEAST..MOST + 1) as u32),
        4..=6 => s.cluster.kill(some_pod(), s.world.random(200..30_000)),
        7 if !*lost => {
            *lost = true;
            s.cluster
                .destroy(some_pod(), Some(s.world.random(1_000..60_000)));
        }
        8 => {
            let (one, other) = (
                s.cluster.pod(some_pod()).host,
                s.cluster.pod(some_pod()).host,
            );
            s.fleet.network().cut(one, other);
        }
        _ => {
            let mut hosts = s.wanted();
            s.world.shuffle(&mut hosts);
            let (one, other) = hosts.split_at(1);
            s.fleet.network().partition(one, other);
        }
    }
}

async fn chaos(s: Scenario) -> Result<(), Failure> {
    s.apply(s.world.random(LEAST..MOST + 1) as u32);
    s.settle(10 * MINUTE).await?;
    for _ in 0..3 {
        let (writers, mut lost) = (s.writers(4), false);
        for _ in 0..s.world.random(3..9) {
            trouble(&s, &mut lost).await;
            s.world.sleep(s.world.random(200..12_000)).await;
            if s.world.chance(0.5) {
                s.fleet.network().heal();
            }
        }
        s.fleet.network().heal();
        writers.stop().await;
        s.settle(20 * MINUTE).await?;
        s.read_all().await;
    }
    Ok(())
}

#[test]
fn chaos_loses_nothing() {
    for_each_seed("chaos_loses_nothing", 1..6, |seed| {
        run(Setup::new(seed), 200 * MINUTE, chaos)
    });
}

#[test]
fn chaos_loses_nothing_over_a_bad_network() {
    for_each_seed("chaos_loses_nothing_over_a_bad_network", 101..104, |seed| {
        run(Setup::new(seed).over_bad_network(), 300 * MINUTE, chaos)
    });
}
