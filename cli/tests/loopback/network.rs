//! A `peernet up` under test, and the client beside it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything awaited may take. Far above what it takes, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Ports in a row that a test may use, for peers it starts and peers it adds.
const PORTS: u16 = 8;

/// The command under test, told nothing by the environment of the tests.
pub(crate) fn peernet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peernet"));
    for (variable, _) in
        std::env::vars_os().filter(|(v, _)| v.as_encoded_bytes().starts_with(b"PEERNET_"))
    {
        command.env_remove(variable);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Sends a signal, by name, to a process that a test has started.
pub(crate) fn send_signal(pid: u32, signal: &str) {
    let sent = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{signal} {pid}"))
        .status()
        .unwrap();
    assert!(sent.success());
}

/// A running network.
pub(crate) struct Network {
    runner: Child,
    said: Arc<Mutex<String>>,
    dir: Arc<TempDir>,
    grpc: u16,
    http: u16,
}

impl Network {
    /// Starts one in a new directory on free ports and waits until it is ready.
    pub(crate) fn up(args: &[&str]) -> Self {
        Network::begin(args, true)
    }

    /// The same with a standard error that nobody reads any more.
    pub(crate) fn up_unheard(args: &[&str]) -> Self {
        Network::begin(args, false)
    }

    fn begin(args: &[&str], heard: bool) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        fs::create_dir(dir.path().join("files")).unwrap();
        let grpc = free_ports();
        let http = grpc + PORTS;
        Network::start(dir, (grpc, http), args, heard)
    }

    /// Starts one that has ended in the same directory again; it remembers the rest itself.
    pub(crate) fn up_again(self) -> Self {
        Network::start(self.dir.clone(), (self.grpc, self.http), &[], true)
    }

    fn start(dir: Arc<TempDir>, (grpc, http): (u16, u16), args: &[&str], heard: bool) -> Self {
        let mut command = peernet(&["up"]);
        command.arg("--dir").arg(dir.path().join("run")).args(args);
        if !args.is_empty() {
            command.args([
                "--grpc-port",
                &grpc.to_string(),
                "--http-port",
                &http.to_string(),
            ]);
        }
        let mut runner = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        listen(runner.stdout.take().unwrap(), said.clone());
        let errors = runner.stderr.take().unwrap();
        if heard {
            listen(errors, said.clone());
        } else {
            drop(errors);
        }
        let network = Network {
            runner,
            said,
            dir,
            grpc,
            http,
        };
        network.says("Ctrl-C ends the peers");
        network
    }

    /// All that the runner has printed so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until the runner has printed this. What it prints comes through a pipe, so it may come later than what it does.
    pub(crate) fn says(&self, text: &str) {
        self.wait_for(&format!("the runner says '{text}'"), || {
            self.said().contains(text)
        });
    }

    /// Waits until `status` says so at the beginning, and that all is well; what it said.
    pub(crate) fn is_well(&self, verdict: &str) -> String {
        let mut status = String::new();
        self.wait_for(&format!("the status is '{verdict}'"), || {
            status = self.try_run(&["status", "--check"]).unwrap_or_default();
            status.starts_with(verdict)
        });
        status
    }

    /// The peers' processes, as first printed.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let said = self.said();
        let rows = said
            .lines()
            .filter(|l| l.starts_with("local-") && l.contains("http://"));
        rows.map(|l| l.split_whitespace().last().unwrap().parse().unwrap())
            .collect()
    }

    /// A file of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }

    /// Volumes, logs and the state file.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The address of a peer.
    pub(crate) fn server(&self, ordinal: u16) -> String {
        format!("http://127.0.0.1:{}", self.grpc + ordinal)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = peernet(args);
        command.env("PEERNET_SERVER", self.server(0));
        if matches!(args[0], "scale" | "replace" | "recover" | "up") {
            command.arg("--dir").arg(self.run_dir());
        }
        command
    }

    /// Runs a command that has to succeed; what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.run_with(args, &[])
    }

    /// The same with bytes on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = self.command(args);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "peernet {}: {words}\nthe runner said:\n{}",
            args.join(" "),
            self.said()
        );
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs a command that may fail.
    pub(crate) fn try_run(&self, args: &[&str]) -> Option<String> {
        let out = self.command(args).output().unwrap();
        out.status
            .success()
            .then(|| String::from_utf8(out.stdout).unwrap())
    }

    /// Runs a command that has to fail: its exit code and its words.
    pub(crate) fn fail(&self, args: &[&str]) -> (i32, String) {
        let out = self.command(args).output().unwrap();
        let words = String::from_utf8(out.stderr).unwrap();
        assert!(
            !out.status.success(),
            "peernet {} succeeded",
            args.join(" ")
        );
        assert!(words.starts_with("error: "), "{words}");
        (out.status.code().unwrap(), words)
    }

    /// What a command prints as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.run(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// A REST request on a file, as plain as it can be: status and body.
    pub(crate) fn rest(
        &self,
        ordinal: u16,
        method: &str,
        name: &str,
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http + ordinal)).unwrap();
        let length = if method == "PUT" {
            format!("content-length: {}\r\n", body.len())
        } else {
            String::new()
        };
        // HTTP/1.0: the body ends with the connection.
        let head = format!("{method} /v1/files/{name} HTTP/1.0\r\nhost: localhost\r\n{length}\r\n");
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("the answer has a head");
        let status = std::str::from_utf8(&answer[9..12])
            .unwrap()
            .parse()
            .unwrap();
        (status, answer.split_off(end + 4))
    }

    /// Waits until something is so.
    pub(crate) fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}; the runner said:\n{}",
                self.said()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ctrl-C; the runner has to end in order.
    pub(crate) fn interrupt(&mut self) {
        send_signal(self.runner.id(), "INT");
        let status = self.runner.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// Kills the runner without warning.
    pub(crate) fn kill_runner(&self) {
        send_signal(self.runner.id(), "KILL");
    }

    /// Each peer holds a lock while it lives. Whether one does.
    pub(crate) fn any_peer_runs(&self) -> bool {
        let lock = File::options()
            .write(true)
            .open(self.run_dir().join("peers.lock"))
            .unwrap();
        lock.try_lock().is_err()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Its peers end by themselves then. It may have ended before.
        let _ = self.runner.kill();
        let _ = self.runner.wait();
        if thread::panicking() {
            eprintln!("the runner said:\n{}", self.said());
            print_logs(&self.run_dir());
        }
    }
}

fn print_logs(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| e == "log") {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!(
                "{}:\n{}",
                entry.path().display(),
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}

fn listen(stream: impl Read + Send + 'static, said: Arc<Mutex<String>>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    });
}

/// The first of two times [`PORTS`] free ports in a row, below those that the system hands out by itself, which no other test
/// was given: networks run beside each other.
fn free_ports() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let tries =
        std::iter::repeat_with(|| fastrand::u16(10_000 / (2 * PORTS)..30_000 / (2 * PORTS)));
    let firsts = tries.take(1000).map(|n| n * 2 * PORTS);
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut given = GIVEN.lock().unwrap();
    // One that was given is not tried: it would be in the way of whom it was given to.
    firsts
        .filter(|first| given.insert(*first))
        .find(|first| (*first..first + 2 * PORTS).all(free))
        .expect("the machine has free ports")
}
