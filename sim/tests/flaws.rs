//! The checker checks: with a fault built in on purpose, runs fail.

use peernet_core::key::Name;
use peernet_sim::fleet::Flaws;
use peernet_sim::model::Violation;
use peernet_sim::scenario::{Failure, Precondition, Scenario, Setup, run};

const MINUTE: u64 = 60_000;

/// Whether clients lost something.
fn is_loss(violation: &Violation) -> bool {
    matches!(
        violation,
        Violation::Unreadable { .. }
            | Violation::NotLinearizable { .. }
            | Violation::Unavailable { .. }
            | Violation::LeftBehind { .. }
            | Violation::Listed { .. }
    )
}

fn loses(flaws: Flaws, script: impl AsyncFn(Scenario) -> Result<(), Failure> + Clone + 'static) {
    // Long enough that somebody looks at the references meanwhile.
    let linger = if flaws.unconditional { 3_000 } else { 0 };
    let attempt = |seed: u64, flaws: Flaws| {
        let script = script.clone();
        run(
            Setup {
                flaws,
                linger,
                ..Setup::new(seed)
            },
            90 * MINUTE,
            async move |s| script(s).await,
        )
    };
    for seed in 1..3 {
        match attempt(seed, flaws) {
            Err(Failure::Violations(found)) => assert!(found.iter().all(is_loss), "{found:?}"),
            other => panic!("with {flaws:?} and seed {seed} nothing was noticed: {other:?}"),
        }
    }
    attempt(1, Flaws::default()).expect("without the flaw nothing is lost");
}

async fn one_machine_burns(s: Scenario) -> Result<(), Failure> {
    s.apply(5);
    s.settle(5 * MINUTE).await?;
    let load = s.load(2);
    s.world.sleep(5_000).await;
    s.cluster.destroy(2, Some(3_000));
    load.stop().await;
    s.settle(MINUTE).await?;
    s.read_all().await;
    Ok(())
}

async fn the_power_fails(s: Scenario) -> Result<(), Failure> {
    s.apply(5);
    s.settle(5 * MINUTE).await?;
    let load = s.load(2);
    s.world.sleep(5_000).await;
    (0..5).for_each(|ordinal| s.cluster.kill(ordinal, 1_000));
    load.stop().await;
    s.world.sleep(30_000).await;
    s.read_all().await;
    Ok(())
}

async fn four_leave_at_once(s: Scenario) -> Result<(), Failure> {
    s.apply(7);
    s.settle(5 * MINUTE).await?;
    let load = s.load(2);
    s.world.sleep(5_000).await;
    s.cluster.scale(3);
    s.world.sleep(20_000).await;
    load.stop().await;
    s.settle(MINUTE).await
}

#[test]
fn a_writer_content_with_one_copy_is_found_out() {
    loses(
        Flaws {
            one_copy: true,
            ..Flaws::default()
        },
        one_machine_burns,
    );
}

#[test]
fn a_driver_that_counts_before_it_syncs_is_found_out() {
    loses(
        Flaws {
            count_before_sync: true,
            ..Flaws::default()
        },
        the_power_fails,
    );
}

#[test]
fn an_operator_without_a_verdict_is_found_out() {
    loses(
        Flaws {
            no_verdict: true,
            ..Flaws::default()
        },
        four_leave_at_once,
    );
}

/// Files are uploaded, and then by two writers at once, of which the second ends after what the first replaced was
/// collected.
async fn two_write_the_same(s: Scenario) -> Result<(), Failure> {
    s.apply(5);
    s.settle(5 * MINUTE).await?;
    // Until then there may be readers that nobody knows of.
    s.world.sleep(s.fleet.settings().hold).await;
    let mut uploads = Vec::new();
    for (begin, number) in [0, 10_000, 12_000]
        .into_iter()
        .flat_map(|begin| (0..10).map(move |number| (begin, number)))
    {
        let writer = s.clone();
        uploads.push(s.world.spawn(async move {
            writer.world.sleep(begin).await;
            let name = Name::new(format!("shared/{number}")).expect("a valid name");
            let at = writer.world.choose(&writer.fleet.running());
            writer.upload(at.expect("all run"), &name, 1).await;
        }));
    }
    for upload in uploads {
        upload.await;
    }
    s.settle_space(3 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn a_writer_that_does_not_ask_for_its_pins_is_found_out() {
    loses(
        Flaws {
            unconditional: true,
            ..Flaws::default()
        },
        two_write_the_same,
    );
}

/// A peer that is stopped for minutes and hears nothing of what happens in them, while slots move to peers it has never heard of,
/// lists as soon as it goes on.
async fn who_missed_everything_lists(s: Scenario) -> Result<(), Failure> {
    s.apply(3);
    s.settle(5 * MINUTE).await?;
    let away = s.wanted()[0];
    s.fleet.network().slow_down(away, 60 * MINUTE..61 * MINUTE);
    s.fleet.stop(away);
    s.cluster.scale(9);
    s.world.sleep(4 * MINUTE).await;
    for number in 0..20 {
        let name = Name::new(format!("own/{number}")).expect("a valid name");
        let others: Vec<_> = s
            .fleet
            .running()
            .into_iter()
            .filter(|h| *h != away)
            .collect();
        let at = s.world.choose(&others).expect("they run");
        s.write_at(at, &name, Some(vec![]), Precondition::None)
            .await;
    }
    s.fleet.network().heal();
    s.fleet.go_on(away);
    s.list_at(away).await;
    Ok(())
}

#[test]
fn a_listing_under_outdated_configurations_is_found_out() {
    loses(
        Flaws {
            one_table: true,
            ..Flaws::default()
        },
        who_missed_everything_lists,
    );
}
