//! The runner's directory: a lock, the state file, the socket, and for each peer a volume and a log.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peernet_crd::PeerNetwork;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::runner::plan::Decided;
use crate::runner::plan::replace::{Replacing, replication};

/// Version of the state file.
const FORMAT: u32 = 1;
/// How long peers of an earlier run, whose runner was killed, may take to end. Longer than a peer's own grace.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub enum HomeError {
    /// Neither `XDG_STATE_HOME` nor `HOME` is set.
    #[error(
        "neither XDG_STATE_HOME nor HOME says where state belongs; choose a directory with --dir"
    )]
    Nowhere,
    /// Reading or writing failed.
    #[error("{} cannot be used: {reason}; choose another directory with --dir", .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Another runner is there.
    #[error(
        "a `peernet up` (process {holder}) runs in {} already; change it with `peernet scale N`, or choose another \
         directory with --dir",
        .dir.display()
    )]
    Busy {
        /// The directory.
        dir: PathBuf,
        /// Its process, as far as known.
        holder: String,
    },
    /// Peers of an earlier run do not end.
    #[error("peers of an earlier run in {} still end; try again in a moment", .0.display())]
    Leftovers(PathBuf),
    /// The state file is damaged.
    #[error("{} cannot be understood ({reason}); the volumes beside it remember their network: move the file away and start again", .path.display())]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is written down between two runs, and before anything that depends on it is done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    format: u32,
    /// UUID of the network; written before the ring is founded.
    pub network_id: Option<String>,
    /// The ring is founded.
    pub founded: bool,
    /// Peers below this number have a process; lowered only when the others are proved to be dispensable.
    pub running: u32,
    /// Number of zones.
    pub zones: u32,
    /// Peer i serves gRPC on this port + i.
    pub grpc_port: u16,
    /// Peer i serves REST on this port + i.
    pub http_port: u16,
    /// The manifest; its replicas are what is wanted now.
    pub manifest: PeerNetwork,
    /// The peer that is being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacing: Option<Replaced>,
}

/// A replacement as it is written down, before anything is done about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// The peer's number.
    pub ordinal: u32,
    /// The identity that is retired, in hex.
    pub peer: String,
    /// Its volume is removed.
    pub wiped: bool,
}

impl State {
    /// That of a network that does not exist yet.
    pub fn new(manifest: PeerNetwork, zones: u32, grpc_port: u16, http_port: u16) -> Self {
        State {
            format: FORMAT,
            network_id: None,
            founded: false,
            running: 0,
            zones,
            grpc_port,
            http_port,
            manifest,
            replacing: None,
        }
    }

    /// The same network with another manifest and other ports.
    pub fn with(self, manifest: PeerNetwork, grpc_port: u16, http_port: u16) -> Self {
        State {
            manifest,
            grpc_port,
            http_port,
            ..self
        }
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        self.manifest.metadata.name.as_deref().unwrap_or_default()
    }

    /// Peers wanted; a validated manifest has at least one.
    pub fn wanted(&self) -> u32 {
        self.manifest.spec.replicas.unsigned_abs()
    }

    /// What the plan needs of it.
    pub fn decided(&self) -> Decided {
        let copies = &self.manifest.spec.replication;
        Decided {
            name: self.name().to_owned(),
            network: self.network_id.clone(),
            founded: self.founded,
            wanted: self.wanted(),
            running: self.running,
            zones: self.zones,
            replication: replication(copies.factor, copies.write),
            replacing: self.replacing.as_ref().and_then(|r| {
                Some(Replacing {
                    ordinal: r.ordinal,
                    // One that somebody edited names nobody.
                    peer: r.peer.parse().ok()?,
                    wiped: r.wiped,
                })
            }),
        }
    }
}

/// A directory that only this process uses, for as long as this lives.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Home {
    /// Creates the directory if need be, locks it, and waits until the peers of an earlier run have ended.
    pub fn lock(dir: &Path) -> Result<Self, HomeError> {
        let failed = |reason| HomeError::Io {
            path: dir.to_owned(),
            reason,
        };
        // Others on this machine have no business in the files.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        // Children may run with another working directory one day; the table shows the volumes to the user.
        let dir = dir.canonicalize().map_err(failed)?;
        let path = dir.join("lock");
        let open = || {
            File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
        };
        let mut lock = open().map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the sentence.
                let _ = lock.read_to_string(&mut holder);
                return Err(HomeError::Busy {
                    dir,
                    holder: holder.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(reason)) => return Err(failed(reason)),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Home { dir, _lock: lock })
    }

    /// Waits until no peer of an earlier run holds its lock any more: they end by themselves when their runner does.
    pub async fn await_leftovers(&self) -> Result<(), HomeError> {
        let path = peers_lock(&self.dir);
        let failed = |reason| HomeError::Io {
            path: path.clone(),
            reason,
        };
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let wait = tokio::task::spawn_blocking(move || lock.lock());
        match tokio::time::timeout(LEFTOVERS, wait).await {
            Ok(Ok(taken)) => taken.map_err(failed),
            Ok(Err(_)) | Err(_) => Err(HomeError::Leftovers(self.dir.clone())),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the peer of that number keeps everything.
    pub fn volume(&self, ordinal: u32) -> PathBuf {
        self.dir.join(format!("peer-{ordinal}"))
    }

    /// What the peer of that number has to say.
    pub fn log(&self, ordinal: u32) -> PathBuf {
        self.dir.join(format!("peer-{ordinal}.log"))
    }

    /// Removes the volume of a peer that is replaced, durably; its successor makes a new one.
    pub fn wipe(&self, ordinal: u32) -> Result<(), HomeError> {
        let path = self.volume(ordinal);
        let remove = || match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => File::open(&self.dir)?.sync_all(),
        };
        remove().map_err(|reason| HomeError::Io {
            path: path.clone(),
            reason,
        })
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// What an earlier run wrote down.
    pub fn load(&self) -> Result<Option<State>, HomeError> {
        let path = self.state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(reason) => return Err(HomeError::Io { path, reason }),
        };
        let state: State = serde_json::from_slice(&text).map_err(|e| HomeError::State {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        if state.format != FORMAT {
            return Err(HomeError::State {
                path,
                reason: format!("its format is {}, not {FORMAT}", state.format),
            });
        }
        Ok(Some(state))
    }

    /// Writes the state down, durably.
    pub fn save(&self, state: &State) -> Result<(), HomeError> {
        let path = self.state();
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(&serde_json::to_vec_pretty(state)?)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|reason| HomeError::Io {
            path: path.clone(),
            reason,
        })
    }
}

/// Locked by each peer (shared) while it runs.
pub fn peers_lock(dir: &Path) -> PathBuf {
    dir.join("peers.lock")
}

/// The runner's socket.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// Where directories of runners are by default: `$XDG_STATE_HOME/peernet`, or `~/.local/state/peernet`.
pub fn root() -> Result<PathBuf, HomeError> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Ok(state.ok_or(HomeError::Nowhere)?.join("peernet"))
}

#[cfg(test)]
mod tests {
    use peernet_crd::PeerNetworkSpec;

    use super::*;

    #[test]
    fn one_runner_per_directory() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(&dir.path().join("deep/er")).unwrap();
        let error = Home::lock(home.dir()).unwrap_err();
        let HomeError::Busy { holder, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*holder, std::process::id().to_string());
        assert!(error.to_string().contains("peernet scale"), "{error}");
        let again = home.dir().to_owned();
        drop(home);
        // A process that another test begins in this moment has the lock, too, until it is another program (execve(2)).
        let begun = std::time::Instant::now();
        while let Err(error) = Home::lock(&again) {
            let busy = matches!(error, HomeError::Busy { .. });
            assert!(busy && begun.elapsed() < LEFTOVERS, "{error}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_state_survives_and_damage_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(dir.path()).unwrap();
        assert_eq!(home.load().unwrap(), None);
        let spec = PeerNetworkSpec {
            replicas: 5,
            ..PeerNetworkSpec::default()
        };
        let mut state = State::new(PeerNetwork::new("demo", spec), 3, 7000, 8080);
        state.network_id = Some("n".into());
        home.save(&state).unwrap();
        assert_eq!(home.load().unwrap(), Some(state.clone()));
        assert_eq!((state.wanted(), state.name()), (5, "demo"));
        fs::write(home.state(), "{").unwrap();
        assert!(matches!(home.load(), Err(HomeError::State { .. })));
    }

    #[tokio::test]
    async fn peers_of_an_earlier_run_are_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(dir.path()).unwrap();
        let peer = File::create(peers_lock(home.dir())).unwrap();
        peer.lock_shared().unwrap();
        let waiting = home.await_leftovers();
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(peer);
        waiting.await.unwrap();
    }
}
