//! The real binary, real processes and real files on loopback, from `up` to ctrl-C: what the README promises, in order.

use std::fs;
use std::process::Command;

use crate::network::{Network, peernet, send_signal};

#[path = "loopback/bench.rs"]
mod bench;
#[path = "loopback/loss.rs"]
mod loss;
#[path = "loopback/menu.rs"]
mod menu;
#[path = "loopback/names.rs"]
mod names;
#[path = "loopback/network.rs"]
mod network;

/// Sizes around every boundary: nothing, inline, one chunk, and several.
const SIZES: [usize; 6] = [0, 1, 1_000, 100_000, 1 << 20, 5 << 20];

/// Bytes that differ from file to file and do not repeat.
fn content(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    std::iter::repeat_with(|| random.u8(..))
        .take(size)
        .collect()
}

fn name(size: usize) -> String {
    format!("sizes/{size}.bin")
}

fn put_all(network: &Network) {
    for (i, size) in SIZES.into_iter().enumerate() {
        let path = network.path(&size.to_string());
        fs::write(&path, content(size)).unwrap();
        // Every other one as a pipe, and one over REST.
        if i == 1 {
            assert_eq!(network.rest(0, "PUT", &name(size), &content(size)).0, 201);
        } else if i % 2 == 0 {
            network.run(&["put", path.to_str().unwrap(), &name(size)]);
        } else {
            network.run_with(&["put", "-", &name(size)], &content(size));
        }
    }
}

/// Reads every file back, over gRPC through one peer and over REST through another.
fn read_all(network: &Network, grpc: u16, http: u16) {
    let server = network.server(grpc);
    for size in SIZES {
        let out = peernet(&["get", &name(size), "-", "--server", &server])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(
            out.stdout == content(size),
            "{} differs over gRPC",
            name(size)
        );
        let (status, body) = network.rest(http, "GET", &name(size), &[]);
        assert_eq!(status, 200);
        assert!(body == content(size), "{} differs over REST", name(size));
    }
}

/// Waits until every chunk and name has three holders, by the holders' own word: slots may move home while all peers are
/// ready.
fn three_copies(network: &Network) {
    let three = |holders: &serde_json::Value| holders.as_array().unwrap().len() == 3;
    for size in SIZES {
        let name = name(size);
        network.wait_for(&format!("{name} has three copies"), || {
            let holdings = network.json(&["explain", &name]);
            let mut chunks = holdings["chunks"].as_array().unwrap().iter();
            three(&holdings["nameHolders"]) && chunks.all(|c| three(&c["holders"]))
        });
    }
}

#[test]
fn a_network_on_loopback_from_up_to_the_end() {
    let mut network = Network::up(&["--peers", "5"]);
    assert_eq!(network.pids().len(), 5);

    put_all(&network);
    read_all(&network, 1, 2);
    listing_and_removal(&network);
    failures_have_their_codes(&network);

    let status = network.is_well("OK: 5 peers in 3 zones; all data has 3 copies\n");
    assert!(status.contains("1 more peer may fail"), "{status}");
    network.wait_for("the ring is closed", || {
        let ring = network.json(&["ring"]);
        ring["closed"] == true && ring["peers"].as_array().unwrap().len() == 5
    });

    what_is_there_is_not_sent_again(&network);
    directories(&network);
    configuration(&network);
    menu::everything_by_keys(&network);

    crash(&network);
    scaling(&mut network);
    the_end_and_a_new_beginning(network);
}

/// `peernet up 2>&1 | tee up.log`: ctrl-C ends the reader first.
#[test]
fn a_runner_that_nobody_hears_goes_on_and_ends_in_order() {
    let mut network = Network::up_unheard(&["--peers", "3"]);
    send_signal(network.pids()[1], "KILL");
    network.is_well("OK: 3 peers");
    network.interrupt();
    assert!(!network.any_peer_runs());
}

/// Ctrl-C while a manifest is awaited from a pipe.
#[test]
fn a_runner_that_waits_for_its_manifest_can_be_ended() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("manifest");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut command = peernet(&["up", "--file", pipe.to_str().unwrap()]);
    let mut runner = command.spawn().unwrap();
    // This waits for the runner to read.
    let writer = fs::File::options().write(true).open(&pipe).unwrap();
    send_signal(runner.id(), "INT");
    assert!(runner.wait().unwrap().success());
    drop(writer);
}

/// A put that is broken off has left chunks, as another file has that begins alike.
fn what_is_there_is_not_sent_again(network: &Network) {
    let (path, data) = (network.path("large"), content(12 << 20));
    fs::write(&path, &data).unwrap();
    let path = path.to_str().unwrap();
    let stored = network.run(&["put", path, "large/first"]);
    assert_eq!(stored, "stored large/first (12.0 MiB)\n");
    fs::write(path, [&data[..], b"and more"].concat()).unwrap();
    let stored = network.run(&["put", path, "large/second"]);
    let held = "stored large/second (12.0 MiB, 12.0 MiB of it were there already)\n";
    assert_eq!(stored, held);
    let target = network.path("fetched large");
    network.run(&["get", "large/second", target.to_str().unwrap()]);
    assert!(fs::read(&target).unwrap() == fs::read(path).unwrap());
    network.run(&["rm", "large/first", "large/second"]);
}

/// A directory goes in and comes back, several files at a time.
fn directories(network: &Network) {
    let (from, to) = (network.path("site"), network.path("back"));
    fs::create_dir_all(from.join("deep/er")).unwrap();
    for i in 0..9 {
        let name = if i % 2 == 0 { "deep/er/" } else { "" };
        fs::write(from.join(format!("{name}{i}")), content(i * 1000)).unwrap();
    }
    let printed = network.run(&["put", from.to_str().unwrap(), "dirs/"]);
    assert_eq!(printed.lines().count(), 9, "{printed}");
    let fetched = network.json(&["get", "dirs/site/", to.to_str().unwrap()]);
    assert_eq!(fetched.as_array().unwrap().len(), 9);
    for i in 0..9 {
        let name = if i % 2 == 0 { "deep/er/" } else { "" };
        assert_eq!(
            fs::read(to.join(format!("{name}{i}"))).unwrap(),
            content(i * 1000)
        );
    }
    assert_eq!(network.fail(&["get", "dirs/none/"]).0, 3);
    patterns(network);
    let stored = network.json(&["ls", "dirs/"]);
    let names = names(&stored);
    network.run(&[&["rm"], &names[..]].concat());
}

/// The same files by pattern.
fn patterns(network: &Network) {
    let listed = network.json(&["ls", "--glob", "dirs/*/[1-5]"]);
    assert_eq!(
        names(&listed),
        ["dirs/site/1", "dirs/site/3", "dirs/site/5"]
    );
    let to = network.path("some");
    let fetched = network.json(&["get", "--glob", "dirs/**/{2,3}", to.to_str().unwrap()]);
    assert_eq!(names(&fetched), ["dirs/site/3", "dirs/site/deep/er/2"]);
    assert_eq!(fs::read(to.join("site/deep/er/2")).unwrap(), content(2000));
    let (code, words) = network.fail(&["rm", "--glob", "dirs/*"]);
    assert!(code == 3 && words.contains("matches 'dirs/*'"), "{words}");
    let removed = network.run(&["rm", "--glob", "dirs/**/[56]", "dirs/site/?"]);
    assert_eq!(removed.lines().count(), 5, "{removed}");
    assert_eq!(network.json(&["ls", "dirs/"]).as_array().unwrap().len(), 4);
}

fn names(files: &serde_json::Value) -> Vec<&str> {
    let files = files.as_array().unwrap().iter();
    files.map(|file| file["name"].as_str().unwrap()).collect()
}

/// The environment wins over the file; what the file cannot say is refused with its line.
fn configuration(network: &Network) {
    let file = network.path("config.yaml");
    let file = file.to_str().unwrap();
    fs::write(file, "server: http://127.0.0.1:1\noutput: yaml\n").unwrap();
    let settings = network.run(&["config", "--config", file]);
    let settings: serde_json::Value = serde_yaml::from_str(&settings).unwrap();
    let of = |name: &str| {
        settings
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["setting"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("server")["value"], network.server(0));
    assert_eq!(of("server")["origin"], "PEERNET_SERVER in the environment");
    assert_eq!(of("output")["origin"], format!("{file}, line 2"));
    fs::write(file, "sever: x\n").unwrap();
    let (code, words) = network.fail(&["ls", "--config", file]);
    assert!(
        code == 2 && words.contains("line 1: there is no setting 'sever'"),
        "{words}"
    );
}

fn listing_and_removal(network: &Network) {
    let path = network.path("gone");
    fs::write(&path, "soon").unwrap();
    network.run(&["put", path.to_str().unwrap()]);
    let files = network.json(&["ls"]);
    let listed: Vec<_> = files
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["name"].as_str().unwrap(), f["size"].as_u64().unwrap()))
        .collect();
    let mut expected: Vec<(String, u64)> = SIZES.iter().map(|s| (name(*s), *s as u64)).collect();
    expected.push(("gone".into(), 4));
    expected.sort();
    assert_eq!(
        listed,
        expected
            .iter()
            .map(|(n, s)| (n.as_str(), *s))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        network.json(&["ls", "sizes/1"]).as_array().unwrap().len(),
        4
    );

    let target = network.path("fetched");
    let moved = network.run(&["mv", "gone", "deep/er/"]);
    assert_eq!(moved, "renamed gone to deep/er/gone\n");
    assert_eq!(network.fail(&["mv", "gone", "elsewhere"]).0, 3);
    let (code, words) = network.fail(&["mv", "deep/er/gone", &name(0)]);
    assert!(code == 6 && words.contains("already"), "{words}");
    network.run(&["rename", "deep/er/gone", "gone"]);
    network.run(&["get", "gone", target.to_str().unwrap()]);
    assert_eq!(fs::read(&target).unwrap(), b"soon");
    assert_eq!(network.run(&["pin", "gone"]), "pinned gone\n");
    let (code, words) = network.fail(&["rm", "gone"]);
    assert!(
        code == 6 && words.contains("'gone' is pinned; unpin it first"),
        "{words}"
    );
    assert_eq!(network.json(&["ls", "gone"])[0]["pinned"], true);
    assert!(network.run(&["explain", "gone"]).contains(", pinned"));
    assert_eq!(network.fail(&["pin", "gone", "never"]).0, 3);
    assert_eq!(network.run(&["unpin", "gone"]), "unpinned gone\n");
    network.run(&["rm", "gone"]);
    let (code, words) = network.fail(&["get", "gone", target.to_str().unwrap()]);
    assert_eq!(code, 3, "{words}");
    assert_eq!(
        fs::read(&target).unwrap(),
        b"soon",
        "a failed get leaves what was there"
    );
    assert_eq!(network.rest(3, "GET", "gone", &[]).0, 404);
    let left: Vec<_> = fs::read_dir(network.path(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        left.iter().all(|n| !n.to_string_lossy().ends_with(".part")),
        "{left:?}"
    );
}

fn failures_have_their_codes(network: &Network) {
    assert_eq!(network.fail(&["rm", "never/there"]).0, 3);
    let (code, words) = network.fail(&["rm", "never/here", "never/there"]);
    assert_eq!(code, 3);
    let each = ["'never/here'", "'never/there'", "2 of 2 files"];
    assert!(each.iter().all(|part| words.contains(part)), "{words}");
    assert_eq!(network.fail(&["get", "a//b"]).0, 2);
    assert_eq!(network.fail(&["put", "/no/such/file"]).0, 3);
    assert_eq!(network.fail(&["ls", "--server", "http://127.0.0.1:1"]).0, 5);
    assert_eq!(network.fail(&["scale", "2"]).0, 2);
    let (_, words) = network.fail(&["scale", "2"]);
    assert!(
        words.contains("replicas must not be lower than replication.factor"),
        "{words}"
    );
    let (code, words) = network.fail(&["up"]);
    assert_eq!(code, 6);
    assert!(
        words.contains("runs in") && words.contains("peernet scale"),
        "{words}"
    );
    // A dead server is skipped for the next one.
    let servers = format!("http://127.0.0.1:1,{}", network.server(4));
    assert!(
        peernet(&["peers", "--server", &servers])
            .output()
            .unwrap()
            .status
            .success()
    );
}

/// A peer killed without warning loses nothing, is started again and catches up.
fn crash(network: &Network) {
    let before = network.pids();
    send_signal(before[1], "KILL");
    read_all(network, 0, 3);
    network.says("local-1 ended (signal: 9 (SIGKILL))");
    network.is_well("OK: 5 peers");
    read_all(network, 1, 1);
}

/// Two join; then three leave at once, and every byte and every copy is still there.
fn scaling(network: &mut Network) {
    let done = network.run(&["scale", "7"]);
    assert_eq!(done, "all 7 peers are ready\n");
    three_copies(network);
    read_all(network, 6, 5);
    let done = network.run(&["scale", "4"]);
    assert_eq!(done, "all 4 peers are ready\n");
    network.is_well("OK: 4 peers");
    three_copies(network);
    read_all(network, 3, 2);
    // The last of them, with whoever was done at the same time.
    network.wait_for("the runner says that they left", || {
        let said = network.said();
        let mut left = said.lines().filter(|line| line.contains(" left: the ring"));
        left.any(|line| line.starts_with("local-4"))
    });
}

/// Ctrl-C ends every process; the same directory brings the same network back; and even a runner that is killed leaves
/// no process behind.
fn the_end_and_a_new_beginning(mut network: Network) {
    network.interrupt();
    assert!(!network.any_peer_runs());
    network.says("the files stay in");

    let network = network.up_again();
    network.is_well("OK: 4 peers");
    read_all(&network, 0, 1);
    network.kill_runner();
    network.wait_for("no peer runs", || !network.any_peer_runs());
}
