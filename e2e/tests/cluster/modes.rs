//! Networks whose writes may reach the disk late and whose chunks are compressed (`spec.durability`, `spec.compression`), and
//! back to what they are without a word.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use futures::stream;
use kube::ResourceExt;
use peernet_crd::{Compression, Durability, PeerNetworkSpec};
use peernet_e2e::client::{self, Protocol, TransferError};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::content::Content;
use peernet_e2e::files::{FileSet, MIB, persist};
use peernet_e2e::kubectl;
use peernet_e2e::load::Load;
use peernet_e2e::network::{FORMATION, Network, RESIZING};
use peernet_e2e::patience::{eventually, within};
use peernet_e2e::peer::Peer;
use peernet_proto::v1::{self, FileInfo, PutHeader, PutRequest, put_request};
use tokio::process::Command;

use crate::access::command;

/// Longest that a command may take.
const COMMAND: Duration = Duration::from_secs(180);
const PEERS: i32 = 3;
const TEXT: &str = "modes/text";
const NOISE: &str = "modes/noise";
/// Bytes of either.
const LEN: u64 = 5 * MIB + 77;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_syncs_and_compression_lose_nothing_and_can_be_turned_off() {
    scenario("modes", async |scenario| {
        let program = command().context("peernet is not built: cargo build -p peernet-cli")?;
        let spec = PeerNetworkSpec {
            compression: Compression::Auto,
            durability: Durability::Written,
            ..crate::spec(PEERS)
        };
        let network = Arc::new(Network::create(scenario, "demo", spec).await?);
        acknowledge(&network, v1::Durability::Written).await?;
        let modes = Modes {
            scenario,
            network: &network,
            program,
        };
        let load = Load::start(&network, crate::seed(9));
        let files = FileSet::small("modes-small", crate::seed(9), 40, 4 * MIB);
        modes.store().await?;
        modes.tell().await?;
        files.put(|| network.serving()).await?;
        load.went_on("the puts")?;

        // The last of them was acknowledged a moment ago.
        let pods = (0..PEERS).map(|n| format!("demo-{n}"));
        let pods: Vec<_> = pods.collect();
        try_join_all(pods.iter().map(|pod| network.kill_pod(pod))).await?;
        scenario.note("all pods were killed at once");
        modes.intact(&files).await?;
        load.went_on("the end of all pods")?;

        modes.turn_off().await?;
        modes.intact(&files).await?;
        load.went_on("the change of both modes")?;
        load.finish().await
    })
    .await;
}

/// Waits until each peer says when it acknowledges writes.
async fn acknowledge(network: &Network, wanted: v1::Durability) -> Result<()> {
    eventually("all peers have the mode", RESIZING, || async {
        let peers = network.peers();
        ensure!(peers.len() == PEERS as usize, "there are {}", peers.len());
        for peer in peers {
            let mode = peer.status().await?.durability();
            ensure!(mode == wanted, "{} is {mode:?}", peer.name);
        }
        Ok(())
    })
    .await
}

/// Lines with a little noise, so that no two chunks are alike.
fn text(seed: u64) -> Vec<u8> {
    let lines = noise(seed).into_iter();
    let lines = lines.flat_map(|n| format!("a line with {n:03} \n").into_bytes());
    lines.take(LEN as usize).collect()
}

fn noise(seed: u64) -> Vec<u8> {
    let content = Content { seed, len: LEN };
    content.blocks().flatten().collect()
}

async fn put(network: &Network, name: &str, data: Vec<u8>) -> Result<FileInfo> {
    let attempt = async |peer: Peer, _| {
        let header = put_request::Part::Header(PutHeader {
            name: name.into(),
            size: Some(data.len() as u64),
            ..PutHeader::default()
        });
        let blocks = data.chunks(256 * 1024).map(<[u8]>::to_vec);
        let blocks = blocks.map(|block| put_request::Part::Data(block.into()));
        let parts: Vec<_> = std::iter::once(header)
            .chain(blocks)
            .map(|part| PutRequest { part: Some(part) })
            .collect();
        let answer = peer.files().await?.put(stream::iter(parts)).await?;
        let file = answer.into_inner().file;
        file.ok_or(TransferError::Contract("a put without the file"))
    };
    let stored = persist(0, || network.serving(), attempt).await;
    stored.with_context(|| format!("put {name}"))
}

struct Modes<'a> {
    scenario: &'a Scenario,
    network: &'a Network,
    program: PathBuf,
}

impl Modes<'_> {
    /// What pays is a fraction, what does not is as it is.
    async fn store(&self) -> Result<()> {
        let stored = put(self.network, TEXT, text(1)).await?.stored;
        ensure!(stored.is_some_and(|s| s < LEN / 2), "{stored:?} of {LEN}");
        let stored = put(self.network, NOISE, noise(2)).await?.stored;
        ensure!(stored == Some(LEN), "{stored:?} of {LEN}");
        self.scenario.note("compressed what pays");
        Ok(())
    }

    /// Users are told what came of both.
    async fn tell(&self) -> Result<()> {
        let listed = self.run(&["ls", "modes/", "-o", "wide"]).await?;
        let text = sizes(&listed, TEXT)?;
        ensure!(text.0 != text.1, "ls says of the text: {listed}");
        let noise = sizes(&listed, NOISE)?;
        ensure!(noise.0 == noise.1, "ls says of the noise: {listed}");
        let told = self.run(&["explain", TEXT]).await?;
        ensure!(told.contains(&text.1), "explain says {told}");
        eventually("status says the mode", COMMAND, || async {
            let status = self.run(&["status"]).await?;
            let says = status.contains("(durability: written)");
            ensure!(says, "status says {status}");
            Ok(())
        })
        .await?;
        self.scenario.note("ls, explain and status say so");
        Ok(())
    }

    /// Both modes as they are by default: the pods come anew, one after the other.
    async fn turn_off(&self) -> Result<()> {
        let before = self.pods();
        let spec = r#"{"spec": {"durability": "Synced", "compression": "Never"}}"#;
        let patch = ["patch", "pn/demo", "--type=merge", "-p", spec];
        kubectl::run(&self.scenario.namespace, &patch).await?;
        eventually("all pods are others", RESIZING, || async {
            let now = self.pods();
            let old = now.iter().filter(|pod| before.contains(pod)).count();
            ensure!(
                (now.len(), old) == (PEERS as usize, 0),
                "{old} of {} are as before",
                now.len()
            );
            Ok(())
        })
        .await?;
        acknowledge(self.network, v1::Durability::Synced).await?;
        self.scenario.note("the pods were rolled");
        let stored = put(self.network, "modes/plain", text(3)).await?.stored;
        ensure!(stored == Some(LEN), "{stored:?} of {LEN}");
        Ok(())
    }

    /// UIDs.
    fn pods(&self) -> Vec<Option<String>> {
        let pods = self.network.pod_objects();
        pods.iter().map(|pod| pod.uid()).collect()
    }

    /// All peers are back, and everything reads as it was put.
    async fn intact(&self, files: &FileSet) -> Result<()> {
        self.network.ready(PEERS, FORMATION).await?;
        self.network.one_ring(PEERS).await?;
        files.verify(|| self.network.serving()).await?;
        for (turn, (name, data)) in [(TEXT, text(1)), (NOISE, noise(2))].into_iter().enumerate() {
            let wanted = blake3::hash(&data);
            let get =
                async |peer: Peer, protocol: Protocol| client::get(&peer, protocol, name).await;
            let received = persist(turn, || self.network.serving(), get).await?;
            ensure!(received.hash == wanted, "{name} came back as {received:?}");
        }
        self.scenario.note("everything reads as it was put");
        Ok(())
    }

    /// A command that has to succeed, at the first peer: what it printed.
    async fn run(&self, args: &[&str]) -> Result<String> {
        let peers = self.network.serving();
        let peer = peers.first().context("no peer is ready")?;
        let mut command = Command::new(&self.program);
        command
            .env("PEERNET_SERVER", format!("http://{}", peer.grpc))
            .args(args)
            .kill_on_drop(true);
        let what = format!("peernet {}", args.join(" "));
        let output = within(&what, COMMAND, command.output()).await?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{what}: {words}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// A file's size and what is stored of it, as the table says: columns that end where their headers do.
fn sizes(table: &str, name: &str) -> Result<(String, String)> {
    let header = table.lines().next().context("an empty table")?;
    let line = table.lines().find(|line| line.ends_with(name));
    let line = line.with_context(|| format!("{name} is not in {table}"))?;
    let end = |title: &str| {
        let at = header.find(title).map(|at| at + title.len());
        at.with_context(|| format!("no {title} in {table}"))
    };
    let (size, stored) = (end("SIZE")?, end("STORED")?);
    let cell = |from: usize, to: usize| line.get(from..to).map(|cell| cell.trim().to_owned());
    let cells = cell(0, size).zip(cell(size, stored));
    cells.with_context(|| format!("no columns in {table}"))
}
