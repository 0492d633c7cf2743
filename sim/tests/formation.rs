//! Exactly one ring forms, whichever peers come first.

use peernet_core::placement::position;
use peernet_sim::scenario::{Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;

#[test]
fn pods_of_one_to_nine_form_one_ring() {
    for_each_seed("pods_of_one_to_nine_form_one_ring", 1..10, |seed| {
        let replicas = (seed - 1) % 9 + 1;
        run(Setup::new(seed), 10 * MINUTE, async move |s: Scenario| {
            s.apply(replicas as u32);
            s.settle(5 * MINUTE).await
        })
    });
}

#[test]
fn processes_started_in_any_order_form_one_ring() {
    for_each_seed(
        "processes_started_in_any_order_form_one_ring",
        101..110,
        |seed| {
            run(
                Setup::good_or_bad(seed),
                15 * MINUTE,
                async move |s: Scenario| {
                    let peers = 2 + (seed % 8) as u32;
                    let hosts: Vec<_> = (0..peers)
                        .map(|i| s.fleet.add(format!("peer-{i}"), format!("zone-{}", i % 3)))
                        .collect();
                    for (i, host) in hosts.iter().enumerate() {
                        let (fleet, host, i) = (s.fleet.clone(), *host, i as u32);
                        // The founder comes first, last or in between.
                        s.world.after(s.world.random(0..8_000), move || {
                            fleet
                                .start(host, position(i / 3, i % 3, 3), i == 0)
                                .expect("an empty volume");
                        });
                    }
                    s.world.sleep(8_000).await;
                    s.settle_hosts(&hosts, 10 * MINUTE).await
                },
            )
        },
    );
}
