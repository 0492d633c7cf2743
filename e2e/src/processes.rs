//! A ring of real peer processes on this machine's loopback, to be broken on purpose: no cluster, no operator.
//!
//! Every network gets a subnet of 127.0.0.0/8 for itself, and every peer an address in it, with the ports it would have
//! in a pod. Networks take turns, since failure detection wants processes that get to run.
//!
//! A [`trial`](trial::trial) is what tests are made of: a network, clients that never stop, faults, and the judges.

use std::env;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::future::try_join_all;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::copies;
use crate::files::FileSet;
use crate::patience::eventually;
use crate::peer::Peer;
use crate::ring::{self, View};

pub mod trial;
pub mod volume;

/// The network all of them found; no two ever meet.
pub const NETWORK: &str = "5c1e6f0a-9b1d-4c55-8a53-2d0f6a1f7b11";
/// Longest that a ring may take to be whole and at rest again, on a machine that is busy with builds.
pub const HEALING: Duration = Duration::from_secs(300);
const ZONES: [&str; 3] = ["a", "b", "c"];
/// Lines of each peer's log that are shown when a test fails.
const LOG_SHOWN: usize = 60;

/// Peers of one network, each a process with a folder of its own. All are killed when it is dropped.
pub struct Processes {
    folder: TempDir,
    subnet: [u8; 2],
    /// `--grace-seconds`.
    grace: u64,
    seats: Mutex<Vec<Seat>>,
}

/// A peer's place, whether a process sits there or not.
struct Seat {
    peer: Peer,
    volume: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    /// Stopped by a signal, to be continued.
    asleep: bool,
}

impl Processes {
    /// Starts so many peers, and waits until they are one ring.
    ///
    /// # Errors
    /// They are not in time.
    pub async fn start(count: usize, grace: u64) -> Result<Arc<Self>> {
        let processes = Arc::new(Processes {
            folder: tempfile::Builder::new().prefix("peernet-").tempdir()?,
            subnet: free_subnet()?,
            grace,
            seats: Mutex::default(),
        });
        for _ in 0..count {
            processes.add()?;
        }
        for n in 0..count {
            processes.launch(n)?;
        }
        processes.one_ring().await?;
        processes.at_rest().await?;
        Ok(processes)
    }

    /// One more place, with an empty volume and nobody in it. Returns its number.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn add(&self) -> Result<usize> {
        let mut seats = self.seats();
        let n = seats.len();
        let host = u8::try_from(n + 1).context("too many peers")?;
        let [a, b] = self.subnet;
        let name = format!("p-{n}");
        let address = IpAddr::V4(Ipv4Addr::new(127, a, b, host));
        seats.push(Seat {
            peer: Peer::in_pod(&name, n as i32, "", address),
            volume: self.folder.path().join(&name),
            log: self.folder.path().join(format!("{name}.log")),
            process: None,
            asleep: false,
        });
        Ok(n)
    }

    /// Where there is room beside the volumes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of a peer.
    pub fn volume(&self, n: usize) -> PathBuf {
        self.seats()[n].volume.clone()
    }

    /// Puts a peer that does not run onto another volume.
    ///
    /// # Errors
    /// It runs.
    pub fn put_on(&self, n: usize, volume: PathBuf) -> Result<()> {
        let seat = &mut self.seats()[n];
        ensure!(seat.process.is_none(), "{} runs", seat.peer.name);
        seat.volume = volume;
        Ok(())
    }

    /// A peer, running or not.
    pub fn peer(&self, n: usize) -> Peer {
        self.seats()[n].peer.clone()
    }

    /// The peers that run and are awake.
    pub fn serving(&self) -> Vec<Peer> {
        let seats = self.seats();
        let awake = seats.iter().filter(|s| s.process.is_some() && !s.asleep);
        awake.map(|s| s.peer.clone()).collect()
    }

    /// What its log says.
    pub fn log(&self, n: usize) -> String {
        fs::read_to_string(&self.seats()[n].log).unwrap_or_default()
    }

    /// Starts the process of a peer.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&self, n: usize) -> Result<()> {
        self.launch_with(n, "")
    }

    /// Starts the process of a peer to which these faults happen (see the daemon's module `faults`).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch_with(&self, n: usize, faults: &str) -> Result<()> {
        let program = program()?;
        let mut seats = self.seats();
        let seeds: Vec<_> = seats.iter().map(|s| s.peer.grpc.to_string()).collect();
        let seat = &mut seats[n];
        ensure!(seat.process.is_none(), "{} runs already", seat.peer.name);
        // Once only: with an empty volume later on it would be a ring of its own for a moment, and answer as one.
        let founds = n == 0 && !seat.log.exists();
        let log = File::options().create(true).append(true).open(&seat.log)?;
        let mut command = Command::new(program);
        // What is meant for a peer of the user's is not meant for these.
        for (variable, _) in env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"PEERNET_") {
                command.env_remove(variable);
            }
        }
        let grace = self.grace.to_string();
        let (grpc, http) = (seat.peer.grpc.to_string(), seat.peer.http.to_string());
        let seeds = seeds.join(",");
        let settings = [
            ("--name", seat.peer.name.as_str()),
            ("--grpc-listen", &grpc),
            ("--http-listen", &http),
            ("--seeds", &seeds),
            ("--grace-seconds", &grace),
            ("--network-id", NETWORK),
            ("--zone", ZONES[n % ZONES.len()]),
            ("--faults", faults),
        ];
        for (flag, value) in settings {
            command.args([flag, value]);
        }
        if founds {
            command.arg("--found");
        }
        command.arg("--data-dir").arg(&seat.volume);
        command.env("RUST_LOG", "info").stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        seat.process = Some(command.spawn().context("start peernet-node")?);
        seat.asleep = false;
        Ok(())
    }

    /// Ends a peer as the loss of its machine would.
    ///
    /// # Errors
    /// It did not run.
    pub fn kill(&self, n: usize) -> Result<()> {
        let mut process = self.take(n)?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Asks a peer to end, and waits until it has.
    ///
    /// # Errors
    /// It ends badly, or not in time.
    pub async fn terminate(&self, n: usize) -> Result<()> {
        self.signal(n, Signal::TERM)?;
        let status = self.ended(n).await?;
        ensure!(
            status.success(),
            "{} ended with {status}",
            self.peer(n).name
        );
        Ok(())
    }

    /// Whether a peer's process has ended by itself; if so, its place is free.
    ///
    /// # Errors
    /// It was not started.
    pub fn has_ended(&self, n: usize) -> Result<bool> {
        let seat = &mut self.seats()[n];
        let running = seat.process.as_mut().context("it does not run")?;
        let ended = running.try_wait()?.is_some();
        if ended {
            seat.process = None;
        }
        Ok(ended)
    }

    /// Waits until a peer's process has ended by itself, and returns how.
    ///
    /// # Errors
    /// Not in time.
    pub async fn ended(&self, n: usize) -> Result<ExitStatus> {
        let look = || async {
            let mut seats = self.seats();
            let Seat { process, peer, .. } = &mut seats[n];
            let running = process.as_mut().context("it does not run")?;
            let status = running.try_wait()?;
            let status = status.ok_or_else(|| anyhow!("{} still runs", peer.name))?;
            *process = None;
            Ok(status)
        };
        eventually("a peer has ended", HEALING, look).await
    }

    /// Waits until a peer has ended by itself with an error, having said this in its log.
    ///
    /// # Errors
    /// It ended otherwise, or not at all.
    pub async fn ended_saying(&self, n: usize, sentence: &str) -> Result<()> {
        let status = self.ended(n).await?;
        ensure!(
            status.code() == Some(1),
            "ended with {status}, signal {:?}",
            status.signal()
        );
        let log = self.log(n);
        let last: Vec<_> = log.lines().rev().take(LOG_SHOWN).collect();
        ensure!(
            last.iter().any(|line| line.contains(sentence)),
            "it never said {sentence:?}; its last words: {last:#?}"
        );
        Ok(())
    }

    /// Stops a peer in the middle of whatever it does. It notices nothing.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, n: usize) -> Result<()> {
        self.signal(n, Signal::STOP)?;
        self.seats()[n].asleep = true;
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn wake(&self, n: usize) -> Result<()> {
        self.signal(n, Signal::CONT)?;
        self.seats()[n].asleep = false;
        Ok(())
    }

    /// Waits until all peers that run are ready, and know exactly each other as active, in one ring.
    ///
    /// # Errors
    /// Not in time.
    pub async fn one_ring(&self) -> Result<()> {
        let look = || async {
            let peers = self.serving();
            let names: Vec<_> = peers.iter().map(|p| p.name.clone()).collect();
            let views = try_join_all(peers.iter().map(view)).await?;
            Ok(ring::one_ring(NETWORK, &names, &views)?)
        };
        eventually("one ring", HEALING, look).await
    }

    /// Waits until nothing moves and nothing is missing at all peers that run.
    ///
    /// # Errors
    /// Not in time.
    pub async fn at_rest(&self) -> Result<()> {
        let look = || async {
            for peer in self.serving() {
                let status = peer.status().await?;
                let open = status.slots_moving + status.slots_behind;
                ensure!(
                    status.ready && open == 0 && status.chunks_missing == 0,
                    "{}: {} slots move, {} are behind, {} chunks are missing; {}",
                    peer.name,
                    status.slots_moving,
                    status.slots_behind,
                    status.chunks_missing,
                    status.reason
                );
            }
            Ok(())
        };
        eventually("nothing moves", HEALING, look).await
    }

    /// Waits until every name and chunk of these files has three copies on the peers that run.
    ///
    /// # Errors
    /// Not in time.
    pub async fn three_copies(&self, files: &FileSet) -> Result<()> {
        let look = || async {
            let peers = self.serving();
            copies::check(NETWORK, files, &peers, 3).await.map(drop)
        };
        eventually("three copies", HEALING, look).await
    }

    /// Resident memory of the peers that run, now and at most since their start, in MiB.
    pub fn memory(&self) -> Vec<(String, u64, u64)> {
        let seats = self.seats();
        let running = seats.iter().filter_map(|s| Some((s, s.process.as_ref()?)));
        let memory = running.filter_map(|(seat, process)| {
            let status = fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
            let mib = |field| Some(kib(&status, field)? / 1024);
            Some((seat.peer.name.clone(), mib("VmRSS:")?, mib("VmHWM:")?))
        });
        memory.collect()
    }

    /// Prints the ends of all logs, for a test that has failed.
    pub fn print_logs(&self) {
        for seat in self.seats().iter() {
            let log = fs::read_to_string(&seat.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_SHOWN)..];
            eprintln!("--- {} ---\n{}", seat.peer.name, last.join("\n"));
        }
    }

    fn take(&self, n: usize) -> Result<Child> {
        let seat = &mut self.seats()[n];
        seat.asleep = false;
        seat.process
            .take()
            .with_context(|| format!("{} does not run", seat.peer.name))
    }

    fn signal(&self, n: usize, signal: Signal) -> Result<()> {
        let seats = self.seats();
        let process = seats[n].process.as_ref().context("it does not run")?;
        Ok(kill_process(Pid::from_child(process), signal)?)
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in self.seats().iter_mut().filter_map(|s| s.process.as_mut()) {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn view(peer: &Peer) -> Result<View> {
    Ok(View {
        name: peer.name.clone(),
        status: peer.status().await?,
        members: peer.members().await?,
    })
}

/// A line of `/proc/PID/status`, which is in KiB.
fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// The second and third number of addresses nobody uses: by this process's id, or the next that are free.
fn free_subnet() -> Result<[u8; 2]> {
    let first = std::process::id() as u16;
    for number in 0..1000 {
        // Not 127.0.x.x, where everybody else is.
        let [a, b] = first.wrapping_add(number * 251).to_be_bytes();
        let address = Ipv4Addr::new(127, a, b, 1);
        if a != 0 && TcpListener::bind((address, 7000)).is_ok() {
            return Ok([a, b]);
        }
    }
    bail!("no loopback address has port 7000 free; is something listening on 0.0.0.0:7000?")
}

/// The peer's binary: `PEERNET_NODE`, or the workspace's, built if it is stale.
fn program() -> Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| match env::var_os("PEERNET_NODE") {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("{error:#}")),
    });
    found.as_deref().map_err(|error| anyhow!(error.clone()))
}

fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "-p", "peernet-node"])
        .args(["--bin", "peernet-node"])
        .status()?;
    ensure!(status.success(), "peernet-node cannot be built");
    // Tests are in target/PROFILE/deps, binaries in target/PROFILE.
    let test = env::current_exe()?;
    let profile = test.ancestors().nth(2).context("where do tests run?")?;
    Ok(profile.join("peernet-node"))
}
