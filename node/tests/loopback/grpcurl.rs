//! gRPC as programs see it that know nothing of this project: by reflection, with grpcurl.
//!
//! `dev/cluster build` compiles grpcurl. Without it this test is skipped, unless `PEERNET_TEST_GRPCURL=required` says that
//! it has to be there.

use std::env;
use std::io::{Write, stderr};
use std::process::Stdio;
use std::slice::from_ref;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::network::{NETWORK, Network, Peer, until};

/// What clients may call.
const PUBLIC: [&str; 5] = [
    "peernet.v1.Admin",
    "peernet.v1.Files",
    "peernet.v1.Peers",
    "peernet.v1.Search",
    "peernet.v1.Shares",
];

fn grpcurl(peer: &Peer, options: &[&str], rest: &[&str]) -> Command {
    let mut command = Command::new("grpcurl");
    command
        .arg("-plaintext")
        .args(options)
        .arg(peer.grpc.to_string())
        .args(rest);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn output(peer: &Peer, options: &[&str], rest: &[&str]) -> Result<String, String> {
    let output = grpcurl(peer, options, rest).output().await;
    let output = output.expect("grpcurl");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// Calls a method with these messages; the answers.
async fn call(peer: &Peer, method: &str, messages: &[Value]) -> Result<Vec<Value>, String> {
    let lines: Vec<String> = messages.iter().map(Value::to_string).collect();
    let told = output(peer, &["-d", &lines.join("\n")], &[method]).await?;
    let answers = serde_json::Deserializer::from_str(&told).into_iter();
    Ok(answers.collect::<Result<_, _>>().expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_public_service_is_found_and_called_by_reflection() {
    if Command::new("grpcurl")
        .arg("-version")
        .output()
        .await
        .is_err()
    {
        let required = env::var_os("PEERNET_TEST_GRPCURL").is_some_and(|v| v == "required");
        assert!(!required, "grpcurl is not on the PATH: dev/cluster build");
        // Past the capture of a test's output: what is not tested has to be seen.
        writeln!(stderr(), "SKIPPED, as grpcurl is not on the PATH").expect("stderr");
        return;
    }
    let alone = ["--replication-factor", "1", "--replication-write", "1"];
    let network = Network::start_with(1, &alone).await;
    let peer = &network.peers[0];

    let listed = output(peer, &[], &["list"]).await.unwrap();
    let listed: Vec<&str> = listed.lines().collect();
    for service in PUBLIC.iter().chain(&["grpc.health.v1.Health"]) {
        assert!(listed.contains(service), "{service} is not in {listed:?}");
        output(peer, &[], &["describe", service]).await.unwrap();
    }

    let ask = async |method: &str, message: Value| {
        let mut answers = call(peer, method, &[message]).await.expect(method);
        assert_eq!(answers.len(), 1, "{method}");
        answers.remove(0)
    };
    // It looks once a second whether the peer is ready.
    until("files are served", async || {
        let health = json!({"service": "peernet.v1.Files"});
        ask("grpc.health.v1.Health/Check", health).await["status"] == "SERVING"
    })
    .await;

    // Bytes are base64 in JSON.
    let put = [
        json!({"header": {"name": "notes/day", "contentType": "text/plain", "tags": ["diary"]}}),
        json!({"data": "aGVs"}),
        json!({"data": "bG8="}),
    ];
    let stored = call(peer, "peernet.v1.Files/Put", &put).await.unwrap();
    let etag = &stored[0]["file"]["etag"];
    let name = json!({"name": "notes/day"});
    let stat = ask("peernet.v1.Files/Stat", name.clone()).await;
    assert_eq!(
        (&stat["file"]["etag"], &stat["file"]["size"]),
        (etag, &json!("5"))
    );
    let get = call(peer, "peernet.v1.Files/Get", from_ref(&name))
        .await
        .unwrap();
    assert!(get.iter().any(|part| part["data"] == "aGVsbG8="), "{get:?}");
    let list = ask("peernet.v1.Files/List", json!({"prefix": "notes/"})).await;
    assert_eq!(list["files"][0]["name"], "notes/day");
    let told = ask("peernet.v1.Files/Explain", name.clone()).await;
    assert_eq!(
        told["nameHolders"].as_array().map(Vec::len),
        Some(1),
        "{told}"
    );
    until("the file is found by its tag", async || {
        let found = ask("peernet.v1.Search/Find", json!({"tags": ["diary"]})).await;
        found["files"][0]["name"] == "notes/day"
    })
    .await;
    call(peer, "peernet.v1.Files/Delete", from_ref(&name))
        .await
        .unwrap();
    let gone = call(peer, "peernet.v1.Files/Stat", &[name])
        .await
        .unwrap_err();
    assert!(gone.contains("NotFound"), "{gone}");
    // With the details for machines, whose types are told too.
    assert!(gone.contains("\"NOT_FOUND\""), "{gone}");
    assert!(!gone.contains("not recognized"), "{gone}");

    let share = [
        json!({"header": {"name": "shared"}}),
        json!({"data": "aGk="}),
    ];
    call(peer, "peernet.v1.Shares/Share", &share).await.unwrap();
    let shares = ask("peernet.v1.Shares/List", json!({})).await;
    assert_eq!(shares["files"][0]["name"], "shared");
    let identity = ask("peernet.v1.Admin/Identify", json!({})).await;
    assert_eq!(identity["networkId"], NETWORK);
    let peers = ask("peernet.v1.Peers/List", json!({})).await;
    assert_eq!(peers["peers"][0]["name"], "p-0");
    assert_eq!(
        ask("peernet.v1.Peers/Status", json!({})).await["ready"],
        true
    );

    // It has no end, but a beginning.
    let mut watch = grpcurl(peer, &[], &["peernet.v1.Peers/Watch"]);
    let mut watching = watch.stdout(Stdio::piped()).spawn().expect("grpcurl");
    let mut shown = watching.stdout.take().expect("its output");
    let mut told = String::new();
    while !told.contains("\"p-0\"") {
        let mut part = [0; 1024];
        let read = shown.read(&mut part).await.expect("its output");
        assert_ne!(read, 0, "it has ended: {told}");
        told += &String::from_utf8_lossy(&part[..read]);
    }
}
