//! Peers come and go while files are written and read.

use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;

/// 5 → 9 → 4, with clients at work all the time.
async fn five_nine_four(s: Scenario) -> Result<(), Failure> {
    s.apply(5);
    s.settle(5 * MINUTE).await?;
    let load = s.load(4);
    s.world.sleep(5_000).await;
    s.cluster.scale(9);
    s.settle_under_load(10 * MINUTE).await?;
    s.cluster.scale(4);
    s.settle_under_load(10 * MINUTE).await?;
    load.stop().await;
    s.settle(5 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn five_nine_four_loses_nothing() {
    for_each_seed("five_nine_four_loses_nothing", 1..5, |seed| {
        run(Setup::new(seed), 40 * MINUTE, five_nine_four)
    });
}

#[test]
fn five_nine_four_loses_nothing_over_a_bad_network() {
    for_each_seed(
        "five_nine_four_loses_nothing_over_a_bad_network",
        101..104,
        |seed| {
            run(
                Setup::new(seed).over_bad_network(),
                60 * MINUTE,
                five_nine_four,
            )
        },
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let once = || {
        run(
            Setup::new(7).over_bad_network(),
            60 * MINUTE,
            five_nine_four,
        )
        .expect("a good run")
    };
    assert_eq!(once(), once());
}

#[test]
fn another_seed_gives_another_run() {
    let trace = |seed| {
        let formed = async |s: Scenario| {
            s.apply(3);
            s.settle(5 * MINUTE).await
        };
        run(Setup::new(seed), 10 * MINUTE, formed)
            .expect("a good run")
            .trace
    };
    assert_ne!(trace(1), trace(2));
}
