//! Chunks that no file refers to are given back, and no others.

use peernet_core::collect::{Referrer, Upload};
use peernet_core::config::Settings;
use peernet_core::key::Name;
use peernet_core::register::Condition;
use peernet_sim::client::{self, Outcome, Record};
use peernet_sim::scenario::{Failure, Precondition, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;

/// Files come and go, with contents in common, while pods crash; at the end only what is named is left.
async fn come_and_go(s: Scenario) -> Result<(), Failure> {
    s.apply(5);
    s.settle(5 * MINUTE).await?;
    let load = s.load(3);
    for ordinal in 0..2 {
        s.world.sleep(8_000).await;
        s.cluster.kill(ordinal, 3_000);
    }
    s.world.sleep(20_000).await;
    load.stop().await;
    s.settle(2 * MINUTE).await?;
    s.settle_space(3 * MINUTE).await?;
    s.read_all().await;
    s.settle(MINUTE).await
}

/// The same while two peers join and leave again.
async fn come_and_go_while_slots_move(s: Scenario) -> Result<(), Failure> {
    s.apply(4);
    s.settle(5 * MINUTE).await?;
    let load = s.load(2);
    s.cluster.scale(6);
    s.world.sleep(20_000).await;
    s.cluster.scale(4);
    s.world.sleep(20_000).await;
    load.stop().await;
    s.settle(5 * MINUTE).await?;
    s.settle_space(3 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn the_space_of_files_that_are_gone_comes_back_and_live_ones_stay() {
    for_each_seed("come and go", 0..6, |seed| {
        run(Setup::good_or_bad(seed), 90 * MINUTE, come_and_go)
    });
}

#[test]
fn moving_slots_take_their_references_along() {
    for_each_seed("come and go while slots move", 0..4, |seed| {
        run(
            Setup::good_or_bad(seed),
            90 * MINUTE,
            come_and_go_while_slots_move,
        )
    });
}

fn referrer(upload: u128) -> Referrer {
    Referrer {
        name: Name::new("file").unwrap(),
        upload: Upload(upload),
        base: None,
    }
}

fn unexpected(what: impl std::fmt::Debug) -> Failure {
    Failure::Unexpected(format!("{what:?}"))
}

/// An upload stores its chunks and then stands still for longer than it may: they go, and it is refused.
#[test]
fn an_upload_that_takes_too_long_leaves_nothing_and_is_refused() {
    let settings = Settings {
        pin: 30_000,
        ..Setup::new(1).settings
    };
    let setup = Setup {
        settings,
        ..Setup::new(1)
    };
    let script = async move |s: Scenario| {
        s.apply(3);
        s.settle(5 * MINUTE).await?;
        let (at, by) = (s.wanted()[0], referrer(7));
        let bytes = bytes::Bytes::from_static(b"of a slow upload");
        let key = client::write_chunk(&s.fleet, at, &bytes, &by)
            .await
            .map_err(unexpected)?;
        s.world.sleep(10_000).await;
        if !s
            .wanted()
            .iter()
            .all(|host| s.fleet.host(*host).holds(&key))
        {
            return Err(unexpected("a pinned chunk is gone"));
        }
        s.world.sleep(5 * MINUTE).await;
        if s.wanted()
            .iter()
            .any(|host| s.fleet.host(*host).holds(&key))
        {
            return Err(unexpected("the chunk stays for ever"));
        }
        let record = Record {
            id: 1,
            chunks: vec![key],
            upload: Some(by.upload),
        };
        let late = client::write(
            &s.fleet,
            at,
            &by.name,
            Some(&record),
            Condition::still(by.base),
        );
        match late.await {
            Ok(Outcome::Unmet(Some(_))) => Ok(()),
            other => Err(unexpected(other)),
        }
    };
    run(setup, 30 * MINUTE, script).unwrap();
}

/// Many files are deleted while one of the three peers that hold them is away. What the others found out long ago, and
/// have forgotten again, it must not hand them for ever.
#[test]
fn dead_references_are_not_handed_round() {
    const FILES: u32 = 480;
    let settings = Settings {
        anti_entropy: 10_000,
        // As if there were many more files than one remembers, or looks at in a minute.
        remembered: 24,
        checks: 8,
        ..Setup::new(1).settings
    };
    let script = async move |s: Scenario| {
        s.apply(3);
        s.settle(5 * MINUTE).await?;
        let names = (0..FILES).map(|n| Name::new(format!("file/{n}")).expect("a valid name"));
        let names: Vec<Name> = names.collect();
        for name in &names {
            s.upload(s.wanted()[0], name, 1).await;
        }
        s.cluster.kill(2, 6 * MINUTE);
        for name in &names {
            let always = Precondition::None;
            s.write_at(s.wanted()[0], name, None, always).await;
        }
        s.world.sleep(5 * MINUTE).await;
        s.settle_started(3 * MINUTE).await?;
        s.settle_space(20 * MINUTE).await
    };
    for_each_seed("dead references", 0..2, |seed| {
        let setup = Setup {
            settings,
            ..Setup::new(seed)
        };
        run(setup, 60 * MINUTE, script)
    });
}
