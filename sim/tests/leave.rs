//! Peers that leave, and everything that can go wrong or be changed meanwhile.

use peernet_core::io::{Answer, Request};
use peernet_core::member::{Liveness, PeerId};
use peernet_core::placement::position;
use peernet_core::store::Store;
use peernet_sim::network::HostId;
use peernet_sim::scenario::{Failure, Load, Scenario, Setup, Summary, for_each_seed, run};

const MINUTE: u64 = 60_000;

/// Forms a ring, starts clients, and gives both some time.
async fn begin(s: &Scenario, peers: u32) -> Result<Load, Failure> {
    s.apply(peers);
    s.settle(10 * MINUTE).await?;
    let load = s.load(3);
    s.world.sleep(s.world.random(2_000..5_000)).await;
    Ok(load)
}

/// Forms a ring of so many machines without an operator, in one zone.
async fn unattended(s: &Scenario, peers: u32) -> Result<Vec<HostId>, Failure> {
    let name = |i| format!("peer-{i}");
    let hosts: Vec<_> = (0..peers)
        .map(|i| s.fleet.add(name(i), "a".into()))
        .collect();
    for (i, host) in (0..peers).zip(&hosts) {
        s.fleet
            .start(*host, position(i, 0, 1), i == 0)
            .expect("an empty volume");
    }
    s.settle_hosts(&hosts, 10 * MINUTE).await?;
    Ok(hosts)
}

/// The end that all share: it comes to rest, and everything is there.
async fn end(s: &Scenario, load: Load) -> Result<(), Failure> {
    s.settle_under_load(20 * MINUTE).await?;
    load.stop().await;
    s.settle(10 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

/// Somewhere in the middle of a drain.
async fn midway(s: &Scenario) {
    s.world.sleep(s.world.random(500..8_000)).await;
}

async fn cancelled(s: Scenario) -> Result<(), Failure> {
    let load = begin(&s, 7).await?;
    s.cluster.scale(4);
    midway(&s).await;
    s.cluster.scale(7);
    end(&s, load).await
}

async fn extended(s: Scenario) -> Result<(), Failure> {
    let load = begin(&s, 8).await?;
    s.cluster.scale(6);
    midway(&s).await;
    s.cluster.scale(3);
    end(&s, load).await
}

async fn leaver_crashes(s: Scenario) -> Result<(), Failure> {
    let load = begin(&s, 7).await?;
    s.cluster.scale(4);
    for _ in 0..3 {
        midway(&s).await;
        let ordinal = s.world.random(4..7) as u32;
        if ordinal < s.cluster.statefulset() {
            s.cluster.kill(ordinal, s.world.random(500..30_000));
        }
    }
    end(&s, load).await
}

async fn receiver_crashes(s: Scenario) -> Result<(), Failure> {
    let load = begin(&s, 7).await?;
    s.cluster.scale(4);
    for _ in 0..3 {
        midway(&s).await;
        s.cluster
            .kill(s.world.random(0..4) as u32, s.world.random(500..30_000));
    }
    end(&s, load).await
}

async fn leaver_dies(s: Scenario) -> Result<(), Failure> {
    let load = begin(&s, 7).await?;
    s.cluster.scale(4);
    midway(&s).await;
    let ordinal = s.world.random(4..7) as u32;
    if ordinal < s.cluster.statefulset() {
        s.cluster.destroy(ordinal, None);
    }
    end(&s, load).await
}

/// A leaver's machine stays off until the survivors have proved that it is not needed. When its ordinal is wanted
/// again, it comes back with a volume that does not know that it has left.
async fn old_volume_returns(s: Scenario) -> Result<(), Failure> {
    let load = begin(&s, 6).await?;
    s.cluster.scale(5);
    s.world.sleep(s.world.random(1_000..4_000)).await;
    if s.cluster.statefulset() == 6 {
        s.cluster.kill(5, 60 * MINUTE);
    }
    s.settle_under_load(10 * MINUTE).await?;
    s.world.sleep(20_000).await;
    s.cluster.scale(6);
    end(&s, load).await
}

/// A peer that has left stands beside the others until its pod goes. They must not talk for ever about it.
#[test]
fn a_peer_that_has_left_is_quiet() {
    for_each_seed("a_peer_that_has_left_is_quiet", 601..603, |seed| {
        run(Setup::new(seed), 30 * MINUTE, async |s: Scenario| {
            let hosts = unattended(&s, 5).await?;
            let sent = async |s: &Scenario| {
                let before = s.fleet.network().sent;
                s.world.sleep(MINUTE).await;
                s.fleet.network().sent - before
            };
            let with_five = sent(&s).await;
            let leaver = s.fleet.host(hosts[4]).process.as_ref().map(|p| p.id);
            let order = (leaver.expect("it runs"), 1, true);
            let told = s.fleet.request(hosts[0], Request::Drain(vec![order])).await;
            assert!(matches!(told, Ok(Answer::Done)), "{told:?}");
            s.settle_hosts(&hosts[..4], 10 * MINUTE).await?;
            let with_four = sent(&s).await;
            assert!(
                with_four < with_five,
                "five peers sent {with_five} messages a minute, four and one that left {with_four}"
            );
            Ok(())
        })
    });
}

/// Seven machines without an operator, in one zone, of which the last is out of reach until it has no slots any more.
async fn one_is_away(s: &Scenario) -> Result<Vec<HostId>, Failure> {
    let hosts = unattended(s, 7).await?;
    let load = s.load(2);
    s.world.sleep(3_000).await;
    load.stop().await;
    s.fleet.network().partition(&hosts[6..], &hosts[..6]);
    s.settle_hosts(&hosts[..6], 10 * MINUTE).await?;
    Ok(hosts)
}

fn identity(s: &Scenario, host: HostId) -> PeerId {
    s.fleet.host(host).process.as_ref().expect("it runs").id
}

async fn order(s: &Scenario, at: HostId, order: (PeerId, u64, bool)) {
    let told = s.fleet.request(at, Request::Drain(vec![order])).await;
    assert!(matches!(told, Ok(Answer::Done)), "{told:?}");
}

/// What that machine thinks of a member.
async fn opinion(s: &Scenario, at: HostId, of: PeerId) -> Option<Liveness> {
    match s.fleet.request(at, Request::Members).await {
        Ok(Answer::Members(all)) => all.iter().find(|m| m.id == of).map(|m| m.liveness),
        _ => None,
    }
}

/// Slots of which that machine is a replica.
fn held(s: &Scenario, host: HostId) -> usize {
    let id = identity(s, host);
    let remembered = s.fleet.host(host).store().remembered();
    let slots = remembered.expect("memory does not fail").slots.into_iter();
    slots
        .filter(|(_, r)| r.config.replicas.contains(&id))
        .count()
}

async fn until(s: &Scenario, what: &str, reached: impl AsyncFn() -> bool) -> Result<(), Failure> {
    let end = s.world.now() + 5 * MINUTE;
    while !reached().await {
        if s.world.now() > end {
            return Err(Failure::Unexpected(format!("never: {what}")));
        }
        s.world.sleep(100).await;
    }
    Ok(())
}

/// The greater part of the network retires a leaver; the other part has taken the order back, if `cancelled`, or never
/// heard of it, and gives slots to the leaver again.
async fn retired_by_those_who_do_not_know(s: Scenario, cancelled: bool) -> Result<(), Failure> {
    let hosts = one_is_away(&s).await?;
    let (many, few, leaver) = (&hosts[..4], &hosts[4..], hosts[6]);
    let id = identity(&s, leaver);
    s.fleet.network().heal();
    s.fleet.network().partition(many, few);
    order(&s, many[0], (id, 1, true)).await;
    if cancelled {
        order(&s, few[0], (id, 2, false)).await;
    }
    until(&s, "the many retire it", async || {
        opinion(&s, many[1], id)
            .await
            .is_some_and(Liveness::is_gone)
    })
    .await?;
    until(&s, "the few give it slots", async || held(&s, leaver) > 0).await?;
    s.fleet.network().heal();
    if cancelled {
        s.settle_hosts(&hosts, 10 * MINUTE).await?;
        assert_eq!(identity(&s, leaver), id);
        assert_eq!(opinion(&s, many[0], id).await, Some(Liveness::Active));
    } else {
        until(&s, "it leaves after all", async || {
            opinion(&s, many[0], id).await == Some(Liveness::Left)
        })
        .await?;
        s.settle_hosts(&hosts[..6], 10 * MINUTE).await?;
    }
    s.read_all().await;
    Ok(())
}

#[test]
fn a_leaver_whose_order_was_taken_back_survives_those_who_have_not_heard() {
    for_each_seed("survives_those_who_have_not_heard", 701..703, |seed| {
        run(Setup::new(seed), 60 * MINUTE, async move |s| {
            retired_by_those_who_do_not_know(s, seed % 2 == 1).await
        })
    });
}

fn good_and_bad(
    name: &str,
    seeds: std::ops::Range<u64>,
    script: impl AsyncFn(Scenario) -> Result<(), Failure> + Clone + 'static,
) {
    for_each_seed(name, seeds, |seed| -> Result<Summary, Failure> {
        let script = script.clone();
        run(Setup::good_or_bad(seed), 90 * MINUTE, async move |s| {
            script(s).await
        })
    });
}

#[test]
fn a_drain_can_be_cancelled() {
    good_and_bad("a_drain_can_be_cancelled", 1..5, cancelled);
}

#[test]
fn a_drain_can_be_extended() {
    good_and_bad("a_drain_can_be_extended", 101..105, extended);
}

#[test]
fn a_leaver_may_crash_and_goes_on() {
    good_and_bad("a_leaver_may_crash_and_goes_on", 201..205, leaver_crashes);
}

#[test]
fn a_receiver_may_crash_and_goes_on() {
    good_and_bad(
        "a_receiver_may_crash_and_goes_on",
        301..305,
        receiver_crashes,
    );
}

#[test]
fn a_leaver_that_dies_is_judged_by_the_survivors() {
    good_and_bad(
        "a_leaver_that_dies_is_judged_by_the_survivors",
        401..405,
        leaver_dies,
    );
}

#[test]
fn an_old_volume_does_not_bring_back_the_past() {
    good_and_bad(
        "an_old_volume_does_not_bring_back_the_past",
        501..505,
        old_volume_returns,
    );
}
