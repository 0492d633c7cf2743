//! Effects of acknowledged writes are performed at least once and in order, whatever peer goes away in between.

use peernet_core::outbox::{Consumer, Consumers};
use peernet_sim::consumer::Performed;
use peernet_sim::fleet::Flaws;
use peernet_sim::model::Violation;
use peernet_sim::network::HostId;
use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;
const PEERS: u32 = 5;

fn setup(seed: u64) -> Setup {
    let mut setup = Setup::good_or_bad(seed);
    setup.settings.effects = Consumers::from(Consumer::Events);
    setup
}

/// Whether no replica waits for effects.
fn is_settled(s: &Scenario, hosts: &[HostId]) -> bool {
    use peernet_core::key::Slot;
    use peernet_core::store::Store;
    hosts.iter().all(|host| {
        let host = s.fleet.host(*host);
        let store = host.store();
        Slot::all().all(|slot| store.marks(slot, None, None, 1).is_ok_and(|m| m.is_empty()))
    })
}

async fn crashes_and_a_loss(s: Scenario) -> Result<(), Failure> {
    s.apply(PEERS);
    s.settle(5 * MINUTE).await?;
    let performed = Performed::default();
    let consumers = s.fleet.ids().into_iter();
    let consumers: Vec<_> = consumers
        .map(|at| performed.consume(&s.fleet, at, Consumer::Events))
        .collect();
    let load = s.load(3);
    for _ in 0..6 {
        let victim = s.world.random(0..PEERS.into()) as u32;
        s.cluster.kill(victim, s.world.random(200..9_000));
        s.world.sleep(s.world.random(500..9_000)).await;
    }
    // The slots of one machine get other owners.
    s.cluster
        .destroy(s.world.random(0..PEERS.into()) as u32, None);
    s.world.sleep(10_000).await;
    load.stop().await;
    let hosts: Vec<HostId> = s.fleet.running();
    s.settle_hosts(&hosts, 5 * MINUTE).await?;
    let start = s.world.now();
    while !is_settled(&s, &hosts) {
        if s.world.now() > start + 5 * MINUTE {
            return Err(Failure::Unexpected("effects stay pending".into()));
        }
        s.world.sleep(1_000).await;
    }
    let acknowledged = s.model.borrow().acknowledged();
    assert!(acknowledged.len() > 50, "{} writes", acknowledged.len());
    for violation in performed.violations(&acknowledged) {
        s.model.borrow_mut().report(violation);
    }
    let before = performed.count();
    s.world.sleep(2 * MINUTE).await;
    drop(consumers);
    if performed.count() > before {
        return Err(Failure::Unexpected("what is settled is done again".into()));
    }
    Ok(())
}

#[test]
fn effects_happen_in_order_and_come_to_an_end() {
    for_each_seed("effects_happen_in_order_and_come_to_an_end", 1..5, |seed| {
        run(setup(seed), 60 * MINUTE, crashes_and_a_loss)
    });
}

#[test]
fn a_consumer_that_settles_before_it_performs_is_found_out() {
    let found = (1..5).any(|seed| {
        let mut setup = setup(seed);
        setup.flaws = Flaws {
            settle_first: true,
            ..Flaws::default()
        };
        match run(setup, 60 * MINUTE, crashes_and_a_loss) {
            Err(Failure::Violations(found)) => {
                let lost = |v: &Violation| {
                    matches!(
                        v,
                        Violation::EffectLost { .. } | Violation::EffectsDisordered { .. }
                    )
                };
                assert!(found.iter().all(lost), "{found:?}");
                true
            }
            Ok(_) => false,
            Err(other) => panic!("{other}"),
        }
    });
    assert!(found, "no seed noticed it");
}
