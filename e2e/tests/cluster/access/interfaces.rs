//! What is asked rather than transferred: search, the registry's events, the descriptions, and gRPC by reflection.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use peernet_e2e::client::{self, Protocol, rest};
use peernet_e2e::content::Content;
use peernet_e2e::files::put_at;
use peernet_e2e::patience::{eventually, within};
use peernet_e2e::peer::Peer;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::COMMAND;

/// Found by its words, through REST, gRPC and the command, which need the index to have heard of it.
const FILE: &str = "interfaces/beach-trip.jpg";
/// What clients may call.
const SERVICES: [&str; 5] = ["Admin", "Files", "Peers", "Search", "Shares"];

pub(super) async fn answer(peer: &Peer, program: Option<&Path>) -> Result<()> {
    let content = Content { seed: 3, len: 100 };
    put_at(peer, Protocol::Rest, FILE, content).await?;
    search(peer, program).await?;
    reflection(peer).await?;
    events(peer).await?;
    pins(peer, program).await?;
    let (_, description) = lines(peer, "/openapi.json").await?;
    let description: Value = serde_json::from_str(&description.concat())?;
    ensure!(description["openapi"] == "3.1.0", "{description}");
    let (head, page) = lines(peer, "/docs").await?;
    ensure!(head.contains("text/html"), "the page is {head}");
    ensure!(
        page.concat().contains("/openapi.json"),
        "the page is {page:?}"
    );
    client::delete(peer, Protocol::Rest, FILE).await?;
    Ok(())
}

async fn search(peer: &Peer, program: Option<&Path>) -> Result<()> {
    eventually(
        "REST finds the file by two of its words",
        COMMAND,
        async || {
            let found = rest::request(peer, Method::GET, "/v1/search?q=trip+beach").await?;
            let found: Value = serde_json::from_str(&found.body)?;
            ensure!(found["files"][0]["name"] == FILE, "found {found}");
            ensure!(found["cost"]["shards"].as_u64() >= Some(1), "found {found}");
            Ok(())
        },
    )
    .await?;
    if let Some(program) = program {
        let server = format!("http://{}", peer.grpc);
        let found = printed(program, &["search", "beach", "trip", "--server", &server]).await?;
        ensure!(found.contains(FILE), "the command found {found}");
    }
    Ok(())
}

/// What REST pins cannot be deleted until the command, or REST where there is none, unpins it.
async fn pins(peer: &Peer, program: Option<&Path>) -> Result<()> {
    let (file, pin) = (format!("/v1/files/{FILE}"), format!("/v1/pins/{FILE}"));
    let pinned = rest::request(peer, Method::PUT, &pin).await?;
    ensure!(pinned.status == 200, "pinning ends with {pinned:?}");
    let refused = rest::request(peer, Method::DELETE, &file).await?;
    ensure!(
        refused.status == 409 && refused.body.contains("is pinned; unpin it first"),
        "deleting what is pinned ends with {refused:?}"
    );
    if let Some(program) = program {
        let server = format!("http://{}", peer.grpc);
        printed(program, &["unpin", FILE, "--server", &server]).await?;
    } else {
        let unpinned = rest::request(peer, Method::DELETE, &pin).await?;
        ensure!(unpinned.status == 204, "unpinning ends with {unpinned:?}");
    }
    Ok(())
}

/// As programs do that know nothing of this project.
async fn reflection(peer: &Peer) -> Result<()> {
    let to = peer.grpc.to_string();
    let grpcurl = Path::new("grpcurl");
    let listed = printed(grpcurl, &["-plaintext", &to, "list"]).await?;
    for service in SERVICES {
        let service = format!("peernet.v1.{service}");
        ensure!(listed.lines().any(|l| l == service), "there is {listed}");
    }
    let call = async |message: &str, method: &str| {
        let told = printed(grpcurl, &["-plaintext", "-d", message, &to, method]).await?;
        anyhow::Ok(serde_json::from_str::<Value>(&told)?)
    };
    let name = format!("{{\"name\": \"{FILE}\"}}");
    let stat = call(&name, "peernet.v1.Files/Stat").await?;
    ensure!(stat["file"]["size"] == "100", "Stat says {stat}");
    let found = call("{\"query\": \"beach\"}", "peernet.v1.Search/Find").await?;
    ensure!(found["files"][0]["name"] == FILE, "Find says {found}");
    let peers = call("{}", "peernet.v1.Peers/List").await?;
    ensure!(
        peers["peers"].as_array().map(Vec::len) == Some(3),
        "List says {peers}"
    );
    Ok(())
}

/// A listener hears of all three peers first.
async fn events(peer: &Peer) -> Result<()> {
    let mut stream = ask(peer, "/v1/events").await?;
    let mut known = BTreeSet::new();
    let listening = async {
        let mut line = String::new();
        while known.len() < 3 {
            line.clear();
            ensure!(stream.read_line(&mut line).await? > 0, "it knows {known:?}");
            if let Some(data) = line.strip_prefix("data: ") {
                let told: Value = serde_json::from_str(data)?;
                known.insert(told["name"].as_str().context("a name")?.to_owned());
            }
        }
        Ok(())
    };
    within("all peers are told of", COMMAND, listening).await
}

/// A request whose answer ends with the connection.
async fn ask(peer: &Peer, path: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(peer.http).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: peer\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(BufReader::new(stream))
}

/// An answer's head and its lines.
async fn lines(peer: &Peer, path: &str) -> Result<(String, Vec<String>)> {
    let mut lines = ask(peer, path).await?.lines();
    let (mut head, mut body) = (String::new(), Vec::new());
    let reading = async {
        while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
            head += &line;
        }
        while let Some(line) = lines.next_line().await? {
            body.push(line);
        }
        anyhow::Ok(())
    };
    within(path, COMMAND, reading).await?;
    Ok((head, body))
}

/// What a command prints that has to succeed.
async fn printed(program: &Path, args: &[&str]) -> Result<String> {
    let what = format!("{} {}", program.display(), args.join(" "));
    let output = Command::new(program).args(args).kill_on_drop(true).output();
    let output = within(&what, COMMAND, output).await?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {words}");
    Ok(String::from_utf8(output.stdout)?)
}
