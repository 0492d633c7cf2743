//! Writes `docs/unstructured-search.md`: what flooding, random walks and the index find, and what they cost.
//!
//! `cargo run -p peernet-sim --example search`

use std::fmt::Write;
use std::fs;
use std::path::Path;

use peernet_core::flood::{Ask, FLOOD_TTL, Method, WALK_TTL};
use peernet_core::share::Wanted;
use peernet_sim::scale::Summary;
use peernet_sim::scale::flood::{Town, index_messages};

const PEERS: u32 = 1_000;
const ZONES: u32 = 20;
/// Searches per cell of the table.
const SEARCHES: u32 = 200;
/// Peers of the asker's zone that share what is looked for.
const COPIES: [usize; 4] = [1, 2, 5, 25];

/// How to search.
struct Way {
    name: String,
    method: Method,
    ttl: u32,
    want: usize,
}

fn way(name: &str, method: Method, ttl: u32, want: usize) -> Way {
    let name = match method {
        Method::Flood => format!("{name}, TTL {ttl}"),
        Method::Walk(n) => format!("{name}, {n} × {ttl} steps"),
    };
    Way {
        name,
        method,
        ttl,
        want,
    }
}

struct Cell {
    hit: f64,
    recall: f64,
    messages: Summary,
    peers: f64,
}

fn measure(town: &mut Town, way: &Way, copies: usize) -> Cell {
    let (mut hit, mut recall, mut peers) = (0, 0.0, 0.0);
    let mut messages = Vec::new();
    for n in 0..SEARCHES {
        let zone = n % ZONES;
        let from = town.someone(zone);
        let trip = town.search(
            from,
            Ask {
                wanted: Wanted::words(&format!("with{copies}copies")).expect("a word"),
                method: way.method,
                ttl: way.ttl,
                everywhere: false,
                want: way.want,
            },
        );
        assert_eq!(trip.abroad, 0, "a search left its zone");
        hit += u32::from(!trip.found.hits.is_empty());
        recall += trip.found.hits.len() as f64 / copies as f64;
        peers += f64::from(trip.found.cost.peers);
        messages.push(f64::from(trip.messages));
    }
    let all = f64::from(SEARCHES);
    Cell {
        hit: f64::from(hit) / all * 100.0,
        recall: recall / all * 100.0,
        messages: Summary::of(messages),
        peers: peers / all,
    }
}

fn main() -> std::io::Result<()> {
    let flood = Method::Flood;
    let mut ways: Vec<Way> = [1, 2, 3, 4, 5]
        .map(|ttl| way("flood", flood, ttl, 0))
        .into();
    ways.push(way("flood", flood, FLOOD_TTL, 0));
    ways.push(way(
        "expanding ring, until one is found",
        flood,
        FLOOD_TTL,
        1,
    ));
    for walkers in [1, 4, 16] {
        let name = "walkers, until one is found";
        ways.push(way(name, Method::Walk(walkers), WALK_TTL, 1));
    }
    ways.push(way("walkers, all", Method::Walk(4), WALK_TTL, 0));

    let mut page = String::from(INTRODUCTION);
    for copies in COPIES {
        let _ = write!(
            page,
            "\n## Shared by {copies} of the zone's 50 peers\n\n\
             | search | finds one, % | recall in the zone, % | messages, mean | 99th | peers asked, mean |\n\
             |---|---|---|---|---|---|\n"
        );
        for way in &ways {
            // What was heard in one search must not answer the next.
            let mut town = Town::new(PEERS, ZONES, 2002);
            for zone in 0..ZONES {
                town.share(&format!("with{copies}copies"), zone, copies);
            }
            let cell = measure(&mut town, way, copies);
            let _ = writeln!(
                page,
                "| {} | {:.0} | {:.0} | {:.1} | {:.0} | {:.1} |",
                way.name, cell.hit, cell.recall, cell.messages.mean, cell.messages.p99, cell.peers
            );
        }
        let _ = writeln!(
            page,
            "| index, one word, one shard (bound) | 100 | 100 | {} | {0} | 3 |",
            index_messages(1, 1, 2)
        );
    }
    page += &everywhere();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::write(docs.join("unstructured-search.md"), page)
}

/// Beyond the zone.
fn everywhere() -> String {
    let mut text = String::from(
        "\n## Everywhere\n\nOne of the 1,000 peers has it, in another zone than the asker's.\n\n\
         | TTL | finds it, % | messages, mean | peers asked, mean |\n|---|---|---|---|\n",
    );
    for ttl in [4, 5, 6, FLOOD_TTL, 8, 10, 12] {
        let mut town = Town::new(PEERS, ZONES, 7);
        town.share("far", 0, 1);
        let (mut hits, mut messages, mut peers) = (0, 0, 0);
        let searches = 60;
        for n in 0..searches {
            let from = town.someone(1 + n % (ZONES - 1));
            let trip = town.search(
                from,
                Ask {
                    wanted: Wanted::words("far").expect("a word"),
                    method: Method::Flood,
                    ttl,
                    everywhere: true,
                    want: 0,
                },
            );
            hits += trip.found.hits.len();
            messages += trip.messages;
            peers += trip.found.cost.peers;
        }
        let mean = |sum: u32| f64::from(sum) / f64::from(searches);
        let _ = writeln!(
            text,
            "| {ttl} | {:.0} | {:.0} | {:.0} |",
            hits as f64 / f64::from(searches) * 100.0,
            mean(messages),
            mean(peers)
        );
    }
    text
}

const INTRODUCTION: &str = "\
# Unstructured search: messages and recall

Made by `cargo run -p peernet-sim --example search`; the same code gives the same page. In short form it is asserted by
`cargo test -p peernet-sim --test flood`.

The machine that ships (`core::flood::finder`) runs in 1,000 peers in 20 zones of 50, linked as they ship
(`core::flood::overlay`, four neighbours each: 100 links a zone). Messages take 1 to 20 ms. 200 searches by random peers
for each line; *messages* counts every message between peers, answers and checks included; *peers* includes the asker.
Nothing is answered from what was heard before, which would cost nothing.

- A flood crosses each link at most once in each direction: at most 200 messages with all answers, whatever is found, and
  none of them outside of the zone. The goal \"at most one zone's edges\" is met for edges with a direction. It cannot be
  met with 100: a graph of 100 links is covered by 49 questions only by one who knows which ones to leave out, and that
  would not be flooding.
- The index (structured search) asks the replicas of the word's slot and nobody else, so its cost does not depend on how
  many have the file. It knows only what was stored; what is merely shared is found by asking. Its line is the bound its
  design gives, 2 + (posting shards touched × replicas read), with one shard and 2 of 3 replicas. Four processes on
  loopback (`node/tests/loopback/search.rs`) report 2 messages, answers included, where the peer that is asked holds the
  word's list, and 4 where it does not: it asks 2 of the 3 replicas, and the third when one of these is slow.
- Walkers are cheap where a file is common and slow to find what is rare, as Lv et al. (ICS 2002) say; flooding is the
  reverse. Expanding rings pay for what is near and repeat themselves for what is far.
";
