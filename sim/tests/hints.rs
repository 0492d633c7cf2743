//! Hints of whoever watches the processes: faster detection, and nothing worse than a look when they are wrong.

use peernet_core::io::{Answer, Request};
use peernet_core::member::{Hint, Liveness, PeerId};
use peernet_sim::network::HostId;
use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;
/// Longer than any run: the pod stays away.
const FOREVER: u64 = 24 * 60 * MINUTE;
const PEERS: u32 = 6;

/// What a machine thinks of a member.
async fn opinion(s: &Scenario, host: HostId, of: PeerId) -> Option<Liveness> {
    match s.fleet.request(host, Request::Members).await {
        Ok(Answer::Members(members)) => members.iter().find(|m| m.id == of).map(|m| m.liveness),
        _ => None,
    }
}

fn victim(s: &Scenario, ordinal: u32) -> (PeerId, Vec<HostId>) {
    let host = s.cluster.pod(ordinal).host;
    let others = s.wanted().into_iter().filter(|h| *h != host).collect();
    let id = s.fleet.host(host).process.as_ref().expect("it runs").id;
    (id, others)
}

async fn hint(s: &Scenario, told: &[HostId], of: PeerId, hint: Hint) {
    for host in told {
        let hints = Request::Hint(vec![(of, hint)]);
        // Best effort.
        drop(s.fleet.call(HostId::OPERATOR, *host, hints).await);
    }
}

/// Ends a pod and measures how long it takes until all others know, in milliseconds of virtual time.
async fn noticed(s: &Scenario, ordinal: u32, hinted: bool) -> Result<u64, Failure> {
    let (id, others) = victim(s, ordinal);
    s.cluster.kill(ordinal, FOREVER);
    let start = s.world.now();
    if hinted {
        hint(s, &others[..2], id, Hint::Gone).await;
    }
    loop {
        let mut known = true;
        for host in &others {
            known &= opinion(s, *host, id).await == Some(Liveness::Down);
        }
        let waited = s.world.now() - start;
        if known {
            return Ok(waited);
        }
        if waited > MINUTE {
            return Err(Failure::Unexpected(format!("{id:?} is not noticed")));
        }
        s.world.sleep(10).await;
    }
}

async fn faster(s: Scenario) -> Result<(), Failure> {
    s.apply(PEERS);
    s.settle(5 * MINUTE).await?;
    let ordinal = s.world.random(0..u64::from(PEERS)) as u32;
    let with = noticed(&s, ordinal, true).await?;
    s.cluster.revive(ordinal);
    s.settle(5 * MINUTE).await?;
    let without = noticed(&s, ordinal, false).await?;
    println!("  noticed by all after {with} ms with hints, {without} ms without");
    if with >= without {
        let sentence = format!("{with} ms with hints, {without} ms without");
        return Err(Failure::Unexpected(sentence));
    }
    Ok(())
}

#[test]
fn a_hint_makes_detection_faster() {
    for_each_seed("a_hint_makes_detection_faster", 1..5, |seed| {
        run(Setup::new(seed), 30 * MINUTE, faster)
    });
}

/// Wrong hints, again and again, to everybody: the peer answers, so it is never down to anyone, and no slot moves.
async fn wrong(s: Scenario) -> Result<(), Failure> {
    s.apply(PEERS);
    s.settle(5 * MINUTE).await?;
    let load = s.load(2);
    let (id, others) = victim(&s, s.world.random(0..u64::from(PEERS)) as u32);
    for _ in 0..20 {
        hint(&s, &others, id, Hint::Gone).await;
        for _ in 0..10 {
            s.world.sleep(100).await;
            for host in &others {
                let liveness = opinion(&s, *host, id).await;
                if liveness == Some(Liveness::Down) {
                    let sentence = format!("{host:?} gave {id:?} up on a hint");
                    return Err(Failure::Unexpected(sentence));
                }
            }
        }
    }
    load.stop().await;
    s.settle(5 * MINUTE).await?;
    s.read_all().await;
    Ok(())
}

#[test]
fn a_wrong_hint_takes_nobody_down() {
    for_each_seed("a_wrong_hint_takes_nobody_down", 101..104, |seed| {
        run(Setup::new(seed), 30 * MINUTE, wrong)
    });
}
