//! Volumes that are gone for good: one is replaced, and when two are gone at once what nobody else holds is given up.

use std::fs;

use crate::network::{Network, send_signal};

/// Overwrites a peer's metadata so that nothing can be read of it, and ends its process. It stands still meanwhile, so
/// that it cannot mend anything.
fn ruin(network: &Network, ordinal: usize) {
    let pid = network.pids()[ordinal];
    send_signal(pid, "STOP");
    overwrite(network, ordinal);
    send_signal(pid, "KILL");
}

fn overwrite(network: &Network, ordinal: usize) {
    let path = network.run_dir().join(format!("peer-{ordinal}/meta.redb"));
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(1 << 18)
        .collect();
    fs::write(path, noise).unwrap();
}

fn put(network: &Network, name: &str) -> Vec<u8> {
    let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(300_000)
        .collect();
    network.run_with(&["put", "-", name], &content);
    content
}

fn reads(network: &Network, name: &str, content: &[u8]) -> bool {
    let (status, body) = network.rest(0, "GET", name, &[]);
    status == 200 && body == content
}

/// The member's state, by the first peer's word, when that is its newest identity.
fn is_down(network: &Network, name: &str) -> bool {
    let peers = network.run(&["peers"]);
    peers
        .lines()
        .any(|l| l.starts_with(name) && l.contains("down"))
}

#[test]
fn a_ruined_volume_is_replaced_and_two_at_once_are_given_up() {
    let network = Network::up(&["--peers", "5"]);
    let first = put(&network, "first.bin");
    let (code, words) = network.fail(&["replace", "local-2"]);
    assert!(code == 2 && words.contains("alive and answers"), "{words}");
    let (code, words) = network.fail(&["recover", "--accept-loss", "--yes"]);
    assert!(
        code == 2 && words.contains("still has replicas enough"),
        "{words}"
    );

    ruin(&network, 2);
    network.says("local-2 ended");
    let done = network.run(&["replace", "local-2"]);
    assert_eq!(
        done,
        "local-2: it runs as a new peer; what it was before has been retired\n"
    );
    assert!(reads(&network, "first.bin", &first));

    let second = put(&network, "second.bin");
    // The new peer is ready before it has taken over its share: until then two at once may be too many.
    network.is_well("OK: 5 peers in 3 zones; all data has 3 copies\n");
    ruin(&network, 3);
    ruin(&network, 4);
    network.wait_for("both are known to be down", || {
        is_down(&network, "local-3") && is_down(&network, "local-4")
    });
    let (code, words) = network.fail(&["recover", "--accept-loss"]);
    assert!(code == 2 && words.contains("--yes"), "{words}");
    let loss = network.json(&["recover", "--accept-loss", "--yes"]);
    assert_eq!(loss["peers"], serde_json::json!(["local-3", "local-4"]));
    assert_eq!(
        loss["slotsLost"],
        serde_json::json!([]),
        "a third copy is left of all"
    );
    assert!(
        !loss["slotsPartial"].as_array().unwrap().is_empty(),
        "{loss:#}"
    );
    network.wait_for("what is left is readable", || {
        reads(&network, "first.bin", &first) && reads(&network, "second.bin", &second)
    });
    network.wait_for("the network takes files", || {
        network.rest(1, "PUT", "third.bin", b"third").0 == 201
    });
    // One that was given up has nothing left to prove.
    network.run(&["replace", "local-3"]);
    assert!(reads(&network, "second.bin", &second));
}

#[test]
fn a_ruined_volume_does_not_keep_the_others_down() {
    let mut network = Network::up(&["--peers", "5"]);
    let file = put(&network, "file.bin");
    network.is_well("OK: 5 peers in 3 zones; all data has 3 copies\n");
    network.interrupt();
    overwrite(&network, 2);
    let network = network.up_again();
    network.says("local-2 does not start: ");
    let said = network.said();
    let line = said
        .lines()
        .find(|l| l.starts_with("local-2 does not start"));
    assert!(line.unwrap().ends_with(" replace local-2"), "{said}");
    assert!(reads(&network, "file.bin", &file));
    network.run(&["replace", "local-2"]);
    network.is_well("OK: 5 peers in 3 zones; all data has 3 copies\n");
    let before = network.run_dir().join("peer-2.0.gone");
    network.wait_for("the old volume is removed", || !before.exists());
}
