//! `peernet bench` against real peers.

use std::process::Stdio;

use serde_json::json;

use crate::network::{Network, peernet, send_signal};

#[test]
fn a_load_is_measured_and_leaves_nothing_behind() {
    let network = Network::up(&["--peers", "3"]);
    network.run_with(&["put", "-", "mine.txt"], b"mine");
    let pids: Vec<String> = network.pids().iter().map(u32::to_string).collect();
    let report = network.json(&[
        "bench",
        "--size",
        "1KiB,3MiB",
        "--concurrency",
        "4",
        "--seconds",
        "0.2",
        "--store",
        "64MiB",
        "--pid",
        &pids.join(","),
    ]);
    assert_eq!(report["servers"].as_array().unwrap().len(), 3);
    assert_eq!(report["verified"], json!(true));
    let results = report["measurements"].as_array().unwrap();
    let cells: Vec<_> = results.iter().map(|m| (&m["op"], &m["size"])).collect();
    let (small, large) = (json!(1024), json!(3 << 20));
    assert_eq!(
        cells,
        [
            (&json!("put"), &small),
            (&json!("get"), &small),
            (&json!("put"), &large),
            (&json!("get"), &large),
        ]
    );
    for result in results {
        let figure = |name: &str| result[name].as_f64().unwrap();
        assert!(figure("operations") >= 4.0, "{result:#}");
        assert_eq!(figure("bytes"), figure("operations") * figure("size"));
        assert_eq!(figure("failed"), 0.0);
        assert!(0.0 < figure("p50Ms") && figure("p50Ms") <= figure("p99Ms"));
        assert!(figure("serverResidentBytes") > 0.0);
    }
    assert!(
        results
            .iter()
            .any(|r| r["serverCpuSeconds"].as_f64() > Some(0.0))
    );
    assert_eq!(names(&network), ["mine.txt"]);
    lookups_are_measured(&network, &pids.join(","));
    interrupted_it_leaves_nothing_behind(&network);
}

fn lookups_are_measured(network: &Network, pids: &str) {
    let question = ["--lookups", "1,1024", "--concurrency", "2", "--seconds"];
    let arguments = [&["bench"], &question[..], &["0.1", "--pid", pids]].concat();
    let report = network.json(&arguments);
    let [one, many] = &report.as_array().unwrap()[..] else {
        panic!("{report:#}");
    };
    for (result, keys) in [(one, 1), (many, 1024)] {
        assert_eq!(result["keys"], json!(keys));
        assert_eq!(result["peers"], json!(3));
        // A question was answered, and one question is one hop.
        assert!(result["lookupsPerSecond"].as_f64() > Some(0.0), "{result}");
        assert!(result["p50Ms"].as_f64() > Some(0.0), "{result}");
        assert!(result["serverCpuMicros"].is_number(), "{result}");
    }
}

fn interrupted_it_leaves_nothing_behind(network: &Network) {
    let long = ["bench", "--size", "4KiB", "--seconds", "3600"];
    let mut bench = peernet(&long)
        .env("PEERNET_SERVER", network.server(0))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    network.wait_for("files are there", || names(network).len() > 9);
    send_signal(bench.id(), "INT");
    assert_eq!(bench.wait().unwrap().code(), Some(5));
    assert_eq!(names(network), ["mine.txt"]);
}

fn names(network: &Network) -> Vec<String> {
    let files = network.json(&["ls"]);
    let name = |file: &serde_json::Value| file["name"].as_str().unwrap().to_owned();
    files.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn what_would_store_too_much_is_refused_before_anybody_is_asked() {
    let mut command = peernet(&["bench", "--size", "2MiB", "--store", "1MiB"]);
    let out = command.output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{words}");
    assert!(words.contains("raise --store"), "{words}");
}
