//! Flooding and walking among 1,000 peers in 20 zones.

use peernet_core::flood::{Ask, Method};
use peernet_core::share::Wanted;
use peernet_sim::scale::flood::Town;

const SEEDS: std::ops::Range<u64> = 1..3;

fn ask(text: &str, method: Method, ttl: u32, want: usize) -> Ask {
    Ask {
        wanted: Wanted::words(text).expect("words"),
        method,
        ttl,
        everywhere: false,
        want,
    }
}

#[test]
fn a_flood_costs_at_most_its_zone_s_links_and_finds_all_in_it() {
    for seed in SEEDS {
        let mut town = Town::new(1_000, 20, seed);
        for zone in 0..20 {
            let name = format!("file {zone}");
            town.share(&name, zone, 3);
            let from = town.someone(zone);
            let trip = town.search(from, ask(&format!("file {zone}"), Method::Flood, 7, 0));
            let here = trip.found.hits.iter();
            let exact = here.filter(|h| h.offer.name.as_str() == name).count();
            assert_eq!(exact, 3, "seed {seed}, zone {zone}");
            assert_eq!(trip.found.cost.peers, 50);
            assert_eq!((trip.abroad, trip.repeated), (0, 0));
            // Each link once in each direction, answers included.
            assert!(trip.messages <= 2 * town.links(zone), "{}", trip.messages);
            assert_eq!(trip.found.cost.messages, trip.messages);
        }
    }
}

#[test]
fn other_zones_are_found_only_everywhere() {
    for seed in SEEDS {
        let mut town = Town::new(1_000, 20, seed);
        town.share("elsewhere", 7, 1);
        let from = town.someone(3);
        let near = town.search(from, ask("elsewhere", Method::Flood, 7, 0));
        assert!(near.found.hits.is_empty());
        let wide = Ask {
            everywhere: true,
            ..ask("elsewhere", Method::Flood, 12, 0)
        };
        let trip = town.search(from, wide);
        assert_eq!(trip.found.hits.len(), 1, "seed {seed}");
        assert_eq!(trip.found.cost.peers, 1_000);
        assert_eq!(trip.repeated, 0);
    }
}

#[test]
fn walkers_end_when_told_and_cost_what_they_say() {
    for seed in SEEDS {
        let mut town = Town::new(1_000, 20, seed);
        town.share("popular", 0, 10);
        let (mut found, mut messages) = (0, 0);
        for _ in 0..50 {
            let from = town.someone(0);
            let trip = town.search(from, ask("popular", Method::Walk(4), 64, 1));
            assert_eq!(trip.found.cost.silent, 0);
            assert_eq!(trip.abroad, 0);
            assert!(trip.found.cost.messages <= trip.messages);
            found += u32::from(!trip.found.hits.is_empty());
            messages += trip.messages;
        }
        assert_eq!(found, 50, "seed {seed}: a fifth of the zone has it");
        assert!(messages < 50 * 60, "seed {seed}: {messages}");
    }
}
