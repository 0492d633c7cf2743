//! `kubectl peernet`, called by the real kubectl: finds the network and forwards by itself.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::content::Content;
use peernet_e2e::kubectl;
use peernet_e2e::network::Network;
use peernet_e2e::patience::{eventually, within};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::access::command;

/// Longest that a command may take; that of a scale covers joins and leaves.
const COMMAND: Duration = Duration::from_secs(480);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plugin_finds_the_network_and_needs_no_forwarded_port() {
    scenario("plugin", async |scenario| {
        let folder = tempfile::tempdir()?;
        let program = command().context("peernet is not built: cargo build -p peernet-cli")?;
        symlink(
            program.canonicalize()?,
            folder.path().join("kubectl-peernet"),
        )?;
        let plugin = Plugin {
            scenario,
            folder: folder.path(),
        };

        let none = plugin.run(&["ls"]).await?;
        ensure!(none.status.code() == Some(3), "without a network: {none:?}");
        let network = Network::create(scenario, "demo", crate::spec(3)).await?;
        plugin.files().await?;
        plugin.menu().await?;
        plugin.resizing().await?;
        plugin.choosing(network).await
    })
    .await;
}

struct Plugin<'a> {
    scenario: &'a Scenario,
    folder: &'a Path,
}

impl Plugin<'_> {
    /// With the plugin before all else.
    fn path(&self) -> Result<OsString> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = [self.folder.to_owned()].into_iter();
        Ok(env::join_paths(folders.chain(env::split_paths(&path)))?)
    }

    /// `kubectl peernet ARGS -n NAMESPACE`, with the plugin on the path.
    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new("kubectl");
        command
            .arg("peernet")
            .args(args)
            .args(["-n", &self.scenario.namespace])
            .env("PATH", self.path()?)
            .env_remove("PEERNET_SERVER")
            .kill_on_drop(true);
        Ok(command)
    }

    async fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command(args)?;
        let what = format!("kubectl peernet {}", args.join(" "));
        within(&what, COMMAND, command.output()).await
    }

    /// A command that has to succeed: what it printed.
    async fn done(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args).await?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl peernet {}: {words}",
            args.join(" ")
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn files(&self) -> Result<()> {
        let (from, to) = (self.folder.join("from.bin"), self.folder.join("to.bin"));
        let bytes: Vec<u8> = Content {
            seed: 8,
            len: 5_000_000,
        }
        .blocks()
        .flatten()
        .collect();
        fs::write(&from, &bytes)?;
        self.done(&["put", &from.to_string_lossy(), "--as", "plugin/file.bin"])
            .await?;
        self.done(&["get", "plugin/file.bin", &to.to_string_lossy()])
            .await?;
        ensure!(fs::read(&to)? == bytes, "get returned other bytes");
        let listed: Value =
            serde_json::from_str(&self.done(&["ls", "plugin/", "-o", "json"]).await?)?;
        ensure!(listed[0]["name"] == "plugin/file.bin", "ls has {listed}");
        ensure!(
            self.done(&["peers"]).await?.contains("demo-2"),
            "peers does not list the peers"
        );
        ensure!(
            self.done(&["explain", "plugin/file.bin"])
                .await?
                .contains("demo-"),
            "explain names no peer"
        );
        // Every peer is asked, each through its own pod.
        eventually("status asks every peer", COMMAND, async || {
            let status = self.done(&["status", "-o", "json"]).await?;
            let status: Value = serde_json::from_str(&status)?;
            let peers = status["peers"].as_array().context("status has peers")?;
            let asked = peers.iter().filter(|p| p["slots"].is_u64()).count();
            ensure!((peers.len(), asked) == (3, 3), "status has {status}");
            Ok(())
        })
        .await?;
        eventually("status names the next command", COMMAND, async || {
            let status = self.done(&["status"]).await?;
            ensure!(
                status.contains("Next: kubectl peernet put FILE"),
                "status says {status}"
            );
            Ok(())
        })
        .await?;
        self.done(&["rm", "plugin/file.bin"]).await?;
        let gone = self.run(&["get", "plugin/file.bin", "-"]).await?;
        ensure!(gone.status.code() == Some(3), "a missing file: {gone:?}");
        self.scenario.note("files through the plugin");
        Ok(())
    }

    /// In a real terminal, by keys.
    async fn menu(&self) -> Result<()> {
        let socket = self.folder.join("tmux");
        let tmux = async |args: &[&str]| {
            let mut tmux = Command::new("tmux");
            tmux.arg("-S")
                .arg(&socket)
                .args(["-f", "/dev/null"])
                .args(args);
            tmux.env("PATH", self.path()?).env_remove("PEERNET_SERVER");
            let output = within("tmux", COMMAND, tmux.output()).await?;
            ensure!(output.status.success(), "tmux {args:?}: {output:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        let menu = format!(
            "kubectl peernet menu -n {}; exec sleep 600",
            self.scenario.namespace
        );
        let shows = async |text: &str| {
            eventually(&format!("the screen shows {text}"), COMMAND, async || {
                let screen = tmux(&["capture-pane", "-p"]).await?;
                ensure!(screen.contains(text), "the screen is\n{screen}");
                Ok(())
            })
            .await
        };
        tmux(&["new-session", "-d", "-x", "120", "-y", "40", &menu]).await?;
        let shown = async {
            shows("ok: ").await?;
            tmux(&["send-keys", "3"]).await?;
            shows("demo-2").await?;
            tmux(&["send-keys", "4"]).await?;
            shows("● demo-1").await
        };
        let shown = shown.await;
        tmux(&["kill-server"]).await?;
        self.scenario.note("the menu shows peers and ring");
        shown
    }

    /// What is told of the peers, line by line, until one says all of that.
    async fn sees(lines: &mut Lines<BufReader<ChildStdout>>, words: [&str; 2]) -> Result<()> {
        let watching = async {
            while let Some(line) = lines.next_line().await? {
                if words.iter().all(|word| line.contains(word)) {
                    return Ok(());
                }
            }
            bail!("watch has ended")
        };
        within(&format!("watch tells of {words:?}"), COMMAND, watching).await
    }

    async fn resizing(&self) -> Result<()> {
        let mut watch = self.command(&["watch"])?.stdout(Stdio::piped()).spawn()?;
        let told = watch.stdout.take().context("a pipe was asked for")?;
        let mut told = BufReader::new(told).lines();
        Self::sees(&mut told, ["active", "demo-2"]).await?;
        let printed = self.done(&["scale", "4"]).await?;
        ensure!(
            printed.contains("all 4 peers are ready"),
            "scale says {printed}"
        );
        Self::sees(&mut told, ["active", "demo-3"]).await?;
        watch.kill().await?;
        let unsafe_ = self.run(&["scale", "1"]).await?;
        let words = String::from_utf8_lossy(&unsafe_.stderr).into_owned();
        ensure!(unsafe_.status.code() == Some(6), "scale 1: {unsafe_:?}");
        ensure!(
            words.contains("error: ") && words.len() > 40,
            "the refusal gives no reason: {words}"
        );
        let refused = self.run(&["replace", "demo-0"]).await?;
        ensure!(
            refused.status.code() == Some(6),
            "a healthy peer was replaced: {refused:?}"
        );
        self.scenario
            .note("the plugin scales, and passes refusals on");
        Ok(())
    }

    /// With a second network the name has to be given.
    async fn choosing(&self, _first: Network) -> Result<()> {
        let second = "apiVersion: peernet.dev/v1alpha1\nkind: PeerNetwork\nmetadata: {name: other}\nspec: {}\n";
        let applied =
            kubectl::attempt(&self.scenario.namespace, &["apply", "-f", "-"], second).await?;
        ensure!(applied.success, "{applied:?}");
        let unclear = self.run(&["ls"]).await?;
        let words = String::from_utf8_lossy(&unclear.stderr).into_owned();
        ensure!(
            unclear.status.code() == Some(2),
            "two networks: {unclear:?}"
        );
        ensure!(
            words.contains("--network demo -n"),
            "the choice is not named: {words}"
        );
        self.done(&["ls", "--network", "demo"]).await?;
        Ok(())
    }
}
