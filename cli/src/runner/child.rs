//! The peers' processes: started from this very binary, ended gracefully, started again with growing pauses.
//!
//! A child ends when its standard input does. So it never outlives its runner, however that ends, and is told to stop
//! without a signal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use peernet_crd::{Compression, Durability};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

use crate::args::Peer;
use crate::runner::home::{Home, peers_lock};
use crate::runner::ports::Ports;

/// Pause before the first restart; doubled for each further one. Short, because one crash should not be felt.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause: a peer that cannot start costs next to nothing, and one that can again is soon back (guess).
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A process that lived so long has recovered; its next restart is a first one (guess).
const RECOVERED: Duration = Duration::from_secs(60);
/// How long a peer may take to end when told to, before it is killed: the 31 seconds that it gives itself, and some for a busy
/// machine.
pub(super) const ENDING: Duration = Duration::from_secs(35);
const _: () = assert!(ENDING.as_secs() > peernet_node::ENDS_IN.as_secs());
/// A log is set aside (one generation) when its peer starts and it is larger than this, in bytes.
const LOG_MAX: u64 = 16 << 20;

/// Why a peer's process failed, said in its log.
#[derive(Debug, Error)]
pub enum PeerError {
    /// It could not be set up.
    #[error("the process cannot be set up: {0}")]
    Setup(#[from] io::Error),
    /// The daemon failed.
    #[error("the peer failed: {0}")]
    Daemon(#[from] peernet_node::DaemonError),
}

/// Why a process could not be started.
#[derive(Debug, Error)]
#[error("the process of {name} cannot be started: {reason}")]
pub struct StartError {
    name: String,
    reason: io::Error,
}

/// Runs one peer in this process, until a signal or, under a runner, until standard input ends.
pub async fn run(peer: Peer) -> Result<(), PeerError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    log.with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let _lock = if peer.under_runner {
        Some(shared_lock(&peer.config.data_dir)?)
    } else {
        None
    };
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = end_of_input(), if peer.under_runner => {}
        }
    };
    Ok(peernet_node::run(peer.config, shutdown).await?)
}

/// Tells a later runner in the same directory that this process still lives.
fn shared_lock(volume: &Path) -> io::Result<File> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(peers_lock(volume.parent().unwrap_or(volume)))?;
    lock.lock_shared()?;
    Ok(lock)
}

async fn end_of_input() {
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(input.read(&mut ignored).await, Ok(1..)) {}
}

/// What all processes have in common.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The binary.
    pub program: PathBuf,
    /// Peers are called NAME-0, NAME-1, …
    pub name: String,
    /// Where they listen.
    pub ports: Ports,
    /// Copies of everything.
    pub factor: i32,
    /// Durable copies before a write is acknowledged.
    pub write: i32,
    /// When they acknowledge a write.
    pub durability: Durability,
    /// Whether they compress chunks of files whose clients do not say.
    pub compression: Compression,
    /// Bytes.
    pub chunk_size: i32,
    /// Seconds.
    pub grace_seconds: i32,
}

/// A process that ended.
#[derive(Debug)]
pub struct Ended {
    ordinal: u32,
    status: io::Result<ExitStatus>,
}

#[derive(Debug, Default)]
struct Child {
    /// Ends the process when sent or dropped; nothing when there is none.
    stop: Option<oneshot::Sender<()>>,
    /// It was told to end.
    ending: bool,
    pid: Option<u32>,
    started: Option<Instant>,
    /// Crashes in a row.
    crashes: u32,
    may_start_at: Option<Instant>,
}

impl Child {
    fn forgive(&mut self) {
        self.crashes = 0;
        self.may_start_at = None;
    }
}

/// All processes.
#[derive(Debug)]
pub struct Children {
    launch: Launch,
    children: BTreeMap<u32, Child>,
    tell: mpsc::UnboundedSender<Ended>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

impl Children {
    /// None yet.
    pub fn new(launch: Launch) -> Self {
        // At most one message per living process is ever under way.
        let (tell, ended) = mpsc::unbounded_channel();
        Children {
            launch,
            children: BTreeMap::new(),
            tell,
            ended,
        }
    }

    /// What they have in common.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// The process runs.
    pub fn alive(&self, ordinal: u32) -> bool {
        self.children
            .get(&ordinal)
            .is_some_and(|c| c.stop.is_some() || c.ending)
    }

    /// It does not run, and its pause is over.
    pub fn may_start(&self, ordinal: u32) -> bool {
        let over = |c: &Child| c.may_start_at.is_none_or(|at| at <= Instant::now());
        !self.alive(ordinal) && self.children.get(&ordinal).is_none_or(over)
    }

    /// When the next pause ends.
    pub fn next_start(&self) -> Option<Instant> {
        let pausing = self
            .children
            .values()
            .filter(|c| c.stop.is_none() && !c.ending);
        pausing.filter_map(|c| c.may_start_at).min()
    }

    /// Its process id, while it runs.
    pub fn pid(&self, ordinal: u32) -> Option<u32> {
        self.children.get(&ordinal)?.pid
    }

    /// Crashes in a row, each soon after its start.
    pub fn crashes(&self, ordinal: u32) -> u32 {
        self.children.get(&ordinal).map_or(0, |c| c.crashes)
    }

    /// Starts the process of a peer, told of `peers` addresses to find others at. One that cannot be started pauses like one
    /// that has crashed.
    pub fn start(&mut self, home: &Home, ordinal: u32, peers: u32) -> Result<(), StartError> {
        assert!(!self.alive(ordinal), "peer {ordinal} has one process");
        let name = format!("{}-{ordinal}", self.launch.name);
        let spawn = || -> io::Result<tokio::process::Child> {
            let log = log(&home.log(ordinal))?;
            let mut command = self.command(home, ordinal, peers);
            command
                .stdin(Stdio::piped())
                .stdout(log.try_clone()?)
                .stderr(log);
            // Ctrl-C is for the runner; and should the runner's task be dropped, the process goes with it.
            command.process_group(0).kill_on_drop(true);
            command.spawn()
        };
        let spawned = spawn();
        let child = self.children.entry(ordinal).or_default();
        let process = match spawned {
            Ok(process) => process,
            Err(reason) => {
                child.crashes = child.crashes.saturating_add(1);
                child.may_start_at = Some(Instant::now() + pause(child.crashes));
                return Err(StartError { name, reason });
            }
        };
        let (stop, stopped) = oneshot::channel();
        child.pid = process.id();
        child.started = Some(Instant::now());
        child.stop = Some(stop);
        tokio::spawn(tend(ordinal, process, stopped, self.tell.clone()));
        Ok(())
    }

    fn command(&self, home: &Home, ordinal: u32, peers: u32) -> Command {
        let Launch {
            program,
            name,
            ports,
            factor,
            write,
            durability,
            compression,
            chunk_size,
            grace_seconds,
        } = &self.launch;
        let seeds: Vec<String> = (0..peers).map(|i| ports.grpc(i).to_string()).collect();
        let mut command = Command::new(program);
        // The user's settings for a peer or client of theirs are not meant for these, but for where events go.
        for (variable, _) in std::env::vars_os() {
            let name = variable.as_encoded_bytes();
            if name.starts_with(b"PEERNET_") && !name.starts_with(b"PEERNET_EVENTS") {
                command.env_remove(variable);
            }
        }
        // As in the image; what the user says wins.
        if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
            command.env("MALLOC_ARENA_MAX", "1");
        }
        command.args([
            "peer",
            "--under-runner",
            "--await-assignment",
            "--name",
            &format!("{name}-{ordinal}"),
        ]);
        command.arg("--data-dir").arg(home.volume(ordinal));
        command.args(["--grpc-listen", &ports.grpc(ordinal).to_string()]);
        command.args(["--http-listen", &ports.http(ordinal).to_string()]);
        command.args(["--seeds", &seeds.join(",")]);
        command.args([
            "--replication-factor",
            &factor.to_string(),
            "--replication-write",
            &write.to_string(),
        ]);
        let durability = match durability {
            Durability::Synced => "synced",
            Durability::Written => "written",
        };
        command.args(["--durability", durability]);
        let compression = match compression {
            Compression::Never => "never",
            Compression::Auto => "auto",
        };
        command.args(["--compression", compression]);
        command.args([
            "--chunk-size",
            &chunk_size.to_string(),
            "--grace-seconds",
            &grace_seconds.to_string(),
        ]);
        command
    }

    /// The next process that ends.
    pub async fn next_ended(&mut self) -> Ended {
        self.ended.recv().await.expect("this holds a sender")
    }

    /// Takes note of an end. A sentence for the user when it was not asked for.
    pub fn note(&mut self, ended: Ended) -> Option<String> {
        let child = self.children.entry(ended.ordinal).or_default();
        child.stop = None;
        child.pid = None;
        let lived = child
            .started
            .take()
            .map_or(Duration::ZERO, |at| at.elapsed());
        if std::mem::take(&mut child.ending) {
            child.forgive();
            return None;
        }
        child.crashes = if lived >= RECOVERED {
            1
        } else {
            child.crashes.saturating_add(1)
        };
        let pause = pause(child.crashes);
        child.may_start_at = Some(Instant::now() + pause);
        let how = match ended.status {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        Some(format!(
            "{}-{} ended ({how}); it starts again in {:.1} s",
            self.launch.name,
            ended.ordinal,
            pause.as_secs_f32()
        ))
    }

    /// Tells every process from that number on to end.
    pub fn end_from(&mut self, first: u32) {
        for child in self.children.range_mut(first..).map(|(_, c)| c) {
            child.forgive();
            if let Some(stop) = child.stop.take() {
                child.ending = true;
                // It fails when the process ended by itself just now.
                let _ = stop.send(());
            }
        }
    }

    /// Whatever made the process of a peer end before is over: its next start is a first one.
    pub fn forgive(&mut self, ordinal: u32) {
        if let Some(child) = self.children.get_mut(&ordinal) {
            child.forgive();
        }
    }

    /// Tells the process of one peer to end.
    pub fn end(&mut self, ordinal: u32) {
        let child = self.children.get_mut(&ordinal);
        if let Some((child, stop)) = child.and_then(|c| c.stop.take().map(|stop| (c, stop))) {
            child.ending = true;
            // It fails when the process ended by itself just now.
            let _ = stop.send(());
        }
    }

    /// Tells all to end and waits until they have.
    pub async fn end_all(&mut self) {
        self.end_from(0);
        while self.children.values().any(|c| c.ending) {
            let ended = self.next_ended().await;
            self.note(ended);
        }
    }
}

/// The pause after so many crashes in a row, from 1.
pub(super) fn pause(crashes: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << crashes.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE)
}

/// Waits for the end of one process, or brings it about.
async fn tend(
    ordinal: u32,
    mut process: tokio::process::Child,
    stop: oneshot::Receiver<()>,
    tell: mpsc::UnboundedSender<Ended>,
) {
    // `Child::wait` closes the input, which would end the child at once.
    let input = process.stdin.take();
    let status = tokio::select! {
        status = process.wait() => status,
        _ = stop => {
            drop(input);
            match tokio::time::timeout(ENDING, process.wait()).await {
                Ok(status) => status,
                Err(_) => process.kill().await.map(|()| ExitStatus::default()),
            }
        }
    };
    // Nobody listens once the runner itself has ended.
    let _ = tell.send(Ended { ordinal, status });
}

/// Opens a log to append to.
fn log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    File::options().create(true).append(true).open(path)
}

/// The last lines of a log, for a sentence on what went wrong.
pub fn last_words(path: &Path) -> String {
    const LINES: usize = 3;
    /// Of a log that one run has made long, only the end.
    const MOST: u64 = 64 << 10;
    let end = || -> io::Result<Vec<u8>> {
        let mut log = File::open(path)?;
        let begin = log.metadata()?.len().saturating_sub(MOST);
        log.seek(io::SeekFrom::Start(begin))?;
        let mut end = Vec::new();
        log.take(MOST).read_to_end(&mut end)?;
        Ok(end)
    };
    // A log that cannot be read says nothing.
    let text = end().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(2), FIRST_PAUSE * 2);
        assert_eq!(pause(100), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    /// Peers of a network with nothing out of the ordinary, which are this program.
    pub(in crate::runner) fn launch(program: &str) -> Launch {
        Launch {
            program: program.into(),
            name: "t".into(),
            ports: Ports { grpc: 1, http: 2 },
            factor: 3,
            write: 2,
            durability: Durability::default(),
            compression: Compression::default(),
            chunk_size: 1 << 20,
            grace_seconds: 60,
        }
    }

    fn children(program: &str) -> Children {
        Children::new(launch(program))
    }

    #[tokio::test]
    async fn a_process_that_crashes_waits_before_it_starts_again() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(dir.path()).unwrap();
        let mut children = children("false");
        children.start(&home, 0, 1).unwrap();
        let ended = children.next_ended().await;
        let before = Instant::now();
        let said = children.note(ended).unwrap();
        assert!(
            said.starts_with("t-0 ended (exit status: 1); it starts again in 0.2"),
            "{said}"
        );
        let start = children.next_start().unwrap();
        assert!(start >= before + FIRST_PAUSE);
        // The pause may be over already, if this machine stood still.
        assert!(!children.alive(0) && (!children.may_start(0) || Instant::now() >= start));
        tokio::time::sleep_until(start).await;
        assert!(children.may_start(0));
        children.start(&home, 0, 1).unwrap();
        let ended = children.next_ended().await;
        children.note(ended);
        assert_eq!(children.crashes(0), 2);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_said_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(dir.path()).unwrap();
        let mut children = children("/no/such/program");
        let before = Instant::now();
        let error = children.start(&home, 4, 5).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the process of t-4 cannot be started"),
            "{error}"
        );
        assert_eq!(children.crashes(4), 1);
        assert!(children.next_start().unwrap() >= before + FIRST_PAUSE);
    }

    #[test]
    fn the_last_words_of_a_long_log_are_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "x".repeat(1 << 20) + "\n\none\ntwo\nerror: three\n").unwrap();
        assert_eq!(last_words(&path), "one\ntwo\nerror: three");
        fs::write(&path, "short").unwrap();
        assert_eq!(last_words(&path), "short");
        assert_eq!(last_words(&dir.path().join("none")), "");
    }
}
