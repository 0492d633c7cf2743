//! The keyword index finds exactly what is there, once writes have come to rest, whatever peer goes away.

use std::collections::BTreeSet;

use peernet_core::config::Labels;
use peernet_core::index;
use peernet_core::io::{Answer, IndexCost, Request, Search};
use peernet_core::key::{Name, Slot};
use peernet_core::outbox::{Consumer, Consumers};
use peernet_core::store::Store;
use peernet_sim::network::HostId;
use peernet_sim::scenario::{Failure, Precondition, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;
const PEERS: u32 = 5;

fn setup(seed: u64) -> Setup {
    let mut setup = Setup::good_or_bad(seed);
    setup.settings.effects = Consumers::from(Consumer::Index);
    setup.settings.labels = Labels(|head| vec![format!("tag:{}", String::from_utf8_lossy(head))]);
    setup
}

/// All pages of a search through that peer, and what the dearest page cost.
async fn find(
    s: &Scenario,
    at: HostId,
    search: Search,
) -> Result<(BTreeSet<Name>, IndexCost), Failure> {
    let (mut names, mut dearest, mut after) = (BTreeSet::new(), IndexCost::default(), None);
    loop {
        let page = Search {
            after,
            limit: 20,
            ..search.clone()
        };
        match s.fleet.request(at, Request::Search(page)).await {
            Ok(Answer::Matches { items, next, cost }) => {
                for item in items {
                    assert!(names.insert(item.name), "each name is on one page");
                }
                if cost.messages >= dearest.messages {
                    dearest = cost;
                }
                if next.is_none() {
                    return Ok((names, dearest));
                }
                assert!(next > after, "a cursor goes on");
                after = next;
            }
            other => return Err(Failure::Unexpected(format!("{other:?}"))),
        }
    }
}

async fn until_indexed(s: &Scenario) -> Result<(), Failure> {
    let start = s.world.now();
    let pending = || {
        let waits = |host: &HostId| {
            let host = s.fleet.host(*host);
            let store = host.store();
            Slot::all().any(|slot| !store.marks(slot, None, None, 1).unwrap().is_empty())
        };
        s.fleet.running().iter().any(waits)
    };
    while pending() {
        if s.world.now() > start + 2 * MINUTE {
            return Err(Failure::Unexpected(
                "the index does not come to rest".into(),
            ));
        }
        s.world.sleep(500).await;
    }
    Ok(())
}

/// Every peer finds what exists under that word, and nothing else, within so many milliseconds.
async fn finds_all(s: &Scenario, word: &str, limit: u64) -> Result<(), Failure> {
    let existing = s.model.borrow().last_seen().into_iter();
    let existing: BTreeSet<Name> = existing
        .filter(|(name, exists)| {
            *exists && (word == "sim" || index::words(name.as_str()).contains(word))
        })
        .map(|(name, _)| name)
        .collect();
    let start = s.world.now();
    for at in s.fleet.running() {
        loop {
            let found = find(s, at, index::search(word, None)).await;
            match found {
                Ok((found, _)) if found == existing => break,
                found if s.world.now() > start + limit => {
                    let found = found.map(|(names, _)| names.len());
                    return Err(Failure::Unexpected(format!(
                        "{word}: {found:?} found of {}",
                        existing.len()
                    )));
                }
                _ => s.world.sleep(200).await,
            }
        }
    }
    Ok(())
}

async fn crashes(s: Scenario) -> Result<(), Failure> {
    s.apply(PEERS);
    s.settle(5 * MINUTE).await?;
    let load = s.load(3);
    for _ in 0..4 {
        let victim = s.world.random(0..PEERS.into()) as u32;
        s.cluster.kill(victim, s.world.random(200..9_000));
        s.world.sleep(s.world.random(500..9_000)).await;
    }
    load.stop().await;
    s.settle(5 * MINUTE).await?;
    s.read_all().await;
    until_indexed(&s).await?;
    for word in ["own", "shared", "3", "sim"] {
        finds_all(&s, word, 0).await?;
    }
    // As soon as its death is known, the others find everything again.
    s.cluster
        .kill(s.world.random(0..PEERS.into()) as u32, MINUTE);
    finds_all(&s, "own", 5_000).await?;
    Ok(())
}

#[test]
fn everything_is_found_once_it_is_quiet_and_after_a_death() {
    for_each_seed("everything_is_found_once_it_is_quiet", 1..4, |seed| {
        run(setup(seed), 60 * MINUTE, crashes)
    });
}

/// Names so long that a leaf holds some dozens.
fn long(number: u32) -> Name {
    let kind = if number.is_multiple_of(7) {
        "rare"
    } else {
        "usual"
    };
    Name::new(format!("hot/{kind}/{number}/{}", "x".repeat(900))).unwrap()
}

async fn a_hot_term(s: Scenario) -> Result<(), Failure> {
    s.apply(PEERS);
    s.settle(5 * MINUTE).await?;
    let write = |number: u32, chunks: Option<Vec<_>>| {
        let s = s.clone();
        s.world.clone().spawn(async move {
            let at = s.fleet.running()[number as usize % 5];
            let name = long(number);
            while !s
                .write_at(at, &name, chunks.clone(), Precondition::None)
                .await
            {
                s.world.sleep(200).await;
            }
        })
    };
    let puts: Vec<_> = (0..300).map(|number| write(number, Some(vec![]))).collect();
    for put in puts {
        put.await;
    }
    let deletes: Vec<_> = (0..40).map(|number| write(number, None)).collect();
    for delete in deletes {
        delete.await;
    }
    until_indexed(&s).await?;
    let at = s.fleet.running()[0];
    let expect = |names: &BTreeSet<Name>, wanted: &dyn Fn(u32) -> bool| {
        let wanted: BTreeSet<Name> = (40..300).filter(|n| wanted(*n)).map(long).collect();
        assert_eq!(names.len(), wanted.len());
        assert!(*names == wanted);
    };
    let (names, cost) = find(&s, at, index::search("hot", None)).await?;
    expect(&names, &|_| true);
    assert!(cost.shards > 2, "the list has split: {cost:?}");
    // The rarer word's list is read, and its root is a leaf still.
    let (names, cost) = find(&s, at, index::search("hot rare 4", None)).await?;
    expect(&names, &|n| {
        n.is_multiple_of(7) && n.to_string().starts_with('4')
    });
    // An exchange is a question and its answer.
    let replicas = s.fleet.settings().replication.factor;
    assert!(cost.messages / 2 <= 2 + cost.shards * replicas, "{cost:?}");
    let labels = ["tag:sim".to_owned()];
    let (names, _) = find(&s, at, index::search("rare", labels)).await?;
    expect(&names, &|n| n.is_multiple_of(7));
    let (names, _) = find(&s, at, index::search("hot nothing", None)).await?;
    assert!(names.is_empty());
    Ok(())
}

#[test]
fn the_list_of_a_hot_term_splits_and_is_whole() {
    for_each_seed("the_list_of_a_hot_term_splits", 1..3, |seed| {
        run(setup(seed), 60 * MINUTE, a_hot_term)
    });
}
