//! Files through `kubectl port-forward` and the `peernet` command, and requests that make no sense.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use peernet_e2e::client::{self, Protocol, TransferError, grpc, rest};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::content::Content;
use peernet_e2e::files::put_at;
use peernet_e2e::kubectl;
use peernet_e2e::network::Network;
use peernet_e2e::patience::within;
use peernet_e2e::peer::Peer;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::Code;

mod interfaces;

/// Longest that a forward may take to listen.
const LISTEN: Duration = Duration::from_secs(120);
/// Longest that a command may take.
const COMMAND: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_port_is_enough_and_bad_requests_are_refused_clearly() {
    scenario("access", async |scenario| {
        let network = Network::create(scenario, "demo", crate::spec(3)).await?;
        let (forward, peer) = forward(scenario).await?;
        both_protocols(&peer).await?;
        command_line(scenario, &peer).await?;
        interfaces::answer(&peer, command().as_deref()).await?;
        scenario.note("search, reflection, events and descriptions through port-forward");
        drop(forward);
        lowering_the_set(scenario).await?;

        let peers = network.peers();
        missing_files(&peers[0]).await?;
        invalid_names(&peers[1]).await?;
        truncated_uploads(&peers[2], &peers[0]).await
    })
    .await;
}

/// Whoever lowers the StatefulSet past the operator is told what to type instead.
async fn lowering_the_set(scenario: &Scenario) -> Result<()> {
    let scale = ["scale", "statefulset/demo", "--replicas=2"];
    let printed = kubectl::attempt(&scenario.namespace, &scale, "").await?;
    ensure!(!printed.success, "the set was lowered: {}", printed.out);
    let told = printed.err.contains("kubectl scale pn/demo --replicas=2");
    ensure!(told, "the message is {}", printed.err);
    Ok(())
}

/// `kubectl port-forward svc/demo` on free local ports.
async fn forward(scenario: &Scenario) -> Result<(Child, Peer)> {
    let args = ["port-forward", "svc/demo", ":grpc", ":http"];
    let mut child = kubectl::command(&scenario.namespace, args)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe was asked for")?).lines();
    let (mut grpc, mut http) = (None, None);
    let listening = async {
        while let (None, _) | (_, None) = (grpc, http) {
            let Some(line) = lines.next_line().await? else {
                bail!("port-forward has ended")
            };
            let Some(ports) = line.strip_prefix("Forwarding from 127.0.0.1:") else {
                continue;
            };
            match ports.split_once(" -> ") {
                Some((local, "7000")) => grpc = Some(local.parse()?),
                Some((local, "8080")) => http = Some(local.parse()?),
                _ => bail!("port-forward says {line:?}"),
            }
        }
        Ok(())
    };
    within("port-forward listens", LISTEN, listening).await?;
    // Read on, so that port-forward never waits for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let local = |port: Option<u16>| ([127, 0, 0, 1], port.unwrap_or_default()).into();
    let (name, node) = ("svc/demo".to_owned(), String::new());
    Ok((
        child,
        Peer {
            name,
            ordinal: 0,
            node,
            grpc: local(grpc),
            http: local(http),
        },
    ))
}

async fn both_protocols(peer: &Peer) -> Result<()> {
    let content = Content {
        seed: 5,
        len: 3_000_000,
    };
    put_at(peer, Protocol::Grpc, "access/a.bin", content).await?;
    let over_rest = client::get(peer, Protocol::Rest, "access/a.bin").await?;
    ensure!(
        over_rest.hash == content.hash(),
        "gRPC in, REST out: {over_rest:?}"
    );
    put_at(peer, Protocol::Rest, "access/b.bin", content).await?;
    let over_grpc = client::get(peer, Protocol::Grpc, "access/b.bin").await?;
    ensure!(
        over_grpc.hash == content.hash(),
        "REST in, gRPC out: {over_grpc:?}"
    );

    let head = rest::request(peer, Method::HEAD, &rest::file("access/a.bin")).await?;
    ensure!(
        head.status == 200 && head.content_length == Some(content.len),
        "HEAD: {head:?}"
    );
    let list = rest::request(peer, Method::GET, "/v1/files?prefix=access/").await?;
    let list: Value = serde_json::from_str(&list.body)?;
    let names: Vec<_> = list["files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|f| &f["name"])
        .collect();
    ensure!(
        names == ["access/a.bin", "access/b.bin"],
        "the listing has {names:?}"
    );
    client::delete(peer, Protocol::Rest, "access/a.bin").await?;
    client::delete(peer, Protocol::Grpc, "access/b.bin").await?;
    ensure!(
        peer.list("access/").await?.is_empty(),
        "deleted files are still listed"
    );
    Ok(())
}

/// The same with the command, if it has been built.
async fn command_line(scenario: &Scenario, peer: &Peer) -> Result<()> {
    let Some(program) = command() else {
        scenario.note("peernet is not built, so the command line was left out");
        return Ok(());
    };
    let folder = env::temp_dir().join(&scenario.namespace);
    std::fs::create_dir_all(&folder)?;
    let (from, to) = (folder.join("from.bin"), folder.join("to.bin"));
    let bytes: Vec<u8> = Content {
        seed: 6,
        len: 2_500_000,
    }
    .blocks()
    .flatten()
    .collect();
    std::fs::write(&from, &bytes)?;
    let run = async |args: &[&str]| {
        let mut command = Command::new(&program);
        command
            .env("PEERNET_SERVER", format!("http://{}", peer.grpc))
            .args(args);
        let output = within("peernet", COMMAND, command.kill_on_drop(true).output()).await?;
        let (out, err) = (&output.stdout, &output.stderr);
        let printed = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].concat();
        anyhow::Ok((output.status.code(), printed))
    };
    let done = async |args: &[&str]| {
        let (code, printed) = run(args).await?;
        ensure!(
            code == Some(0),
            "peernet {}: {code:?} {printed}",
            args.join(" ")
        );
        Ok(printed)
    };
    done(&["put", &from.to_string_lossy(), "--as", "cli/file.bin"]).await?;
    done(&["get", "cli/file.bin", &to.to_string_lossy()]).await?;
    ensure!(
        std::fs::read(&to)? == bytes,
        "peernet get returned other bytes"
    );
    ensure!(
        done(&["ls", "cli/"]).await?.contains("cli/file.bin"),
        "ls does not list the file"
    );
    ensure!(
        done(&["peers"]).await?.contains("demo-2"),
        "peers does not list the peers"
    );
    done(&["status"]).await?;
    done(&["rm", "cli/file.bin"]).await?;
    let (code, printed) = run(&["get", "cli/file.bin", &to.to_string_lossy()]).await?;
    ensure!(
        code == Some(3),
        "a missing file exits with 3, not {code:?}: {printed}"
    );
    std::fs::remove_dir_all(folder)?;
    scenario.note("the command line works through port-forward");
    Ok(())
}

/// `$PEERNET_BIN`, or what `cargo build` has made.
pub(crate) fn command() -> Option<PathBuf> {
    if let Some(path) = env::var_os("PEERNET_BIN") {
        return Some(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    ["debug", "release"]
        .map(|profile| target.join(profile).join("peernet"))
        .into_iter()
        .find(|p| p.is_file())
}

async fn missing_files(peer: &Peer) -> Result<()> {
    for protocol in [Protocol::Grpc, Protocol::Rest] {
        let missing = client::get(peer, protocol, "no/such/file").await;
        ensure!(
            matches!(&missing, Err(e) if e.is_not_found()),
            "{protocol:?}: {missing:?}"
        );
    }
    let answer = rest::request(peer, Method::GET, &rest::file("no/such/file")).await?;
    problem(&answer, 404)
}

async fn invalid_names(peer: &Peer) -> Result<()> {
    let content = Content { seed: 7, len: 100 };
    let long = "x".repeat(1025);
    for name in ["", "/a", "a/", "a//b", "a/../b", "a\nb", &long] {
        let refused = client::put(peer, Protocol::Grpc, name, content).await;
        let Err(TransferError::Grpc(status)) = refused else {
            bail!("{name:?}: {refused:?}")
        };
        ensure!(
            status.code() == Code::InvalidArgument,
            "{name:?}: {status:?}"
        );
        ensure!(
            !status.message().is_empty(),
            "{name:?} is refused without a word"
        );
    }
    for path in ["a//b", "a/%2e%2e/b", "a%0Ab", &long] {
        let refused = client::put(peer, Protocol::Rest, path, content).await;
        let is_400 = matches!(&refused, Err(TransferError::Rest { status: 400, .. }));
        ensure!(is_400, "{path:?}: {refused:?}");
        problem(
            &rest::request(peer, Method::GET, &rest::file(path)).await?,
            400,
        )?;
    }
    ensure!(
        peer.list("").await?.is_empty(),
        "a refused put left something behind"
    );
    Ok(())
}

/// An upload that ends early stores nothing, and leaves what was there as it was.
async fn truncated_uploads(peer: &Peer, other: &Peer) -> Result<()> {
    let whole = Content {
        seed: 8,
        len: 2_000_000,
    };
    put_at(peer, Protocol::Grpc, "truncated/old", whole).await?;
    for name in ["truncated/old", "truncated/new"] {
        let part = Content {
            seed: 9,
            len: 1_500_000,
        };
        let refused = grpc::put_claiming(peer, name, part, part.len + 1).await;
        let Err(TransferError::Grpc(status)) = refused else {
            bail!("{name}: {refused:?}")
        };
        ensure!(status.code() == Code::InvalidArgument, "{name}: {status:?}");
        let refused = grpc::put_claiming(peer, name, part, part.len - 1).await;
        ensure!(
            refused.is_err(),
            "{name} was stored with more bytes than announced"
        );
        rest::put_and_hang_up(peer, name, part, 1_200_000).await?;
    }
    for peer in [peer, other] {
        let new = client::get(peer, Protocol::Grpc, "truncated/new").await;
        ensure!(
            matches!(&new, Err(e) if e.is_not_found()),
            "half a file was stored: {new:?}"
        );
        let old = client::get(peer, Protocol::Rest, "truncated/old").await?;
        ensure!(
            old.hash == whole.hash(),
            "half a file replaced a whole one: {old:?}"
        );
    }
    Ok(())
}

/// RFC 9457: a document with the status and a sentence.
fn problem(answer: &rest::Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "{answer:?}");
    ensure!(
        answer.content_type.starts_with("application/problem+json"),
        "{answer:?}"
    );
    let document: Value = serde_json::from_str(&answer.body)?;
    ensure!(document["status"] == status, "{answer:?}");
    ensure!(
        document["detail"].as_str().is_some_and(|d| !d.is_empty()),
        "{answer:?}"
    );
    Ok(())
}
