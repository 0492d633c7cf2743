//! The runner's directory: a lock, the state file, the socket, and for each peer a volume and a log.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use peernet_crd::PeerNetwork;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::runner::child::ENDING;
use crate::runner::plan::Decided;
use crate::runner::plan::replace::{Replacing, replication};

/// Version of the state file.
const FORMAT: u32 = 1;
/// The state file.
const STATE: &str = "state.json";
/// How the name of a volume ends that nobody needs any more.
const GONE: &str = ".gone";
/// Most volumes of one peer that are on their way out at once (guess: each is a replacement, which takes longer).
const SET_ASIDE: u32 = 16;
/// How long peers of an earlier run, whose runner was killed, may take to end: longer than a runner gives them, for nobody
/// is left to kill them.
const LEFTOVERS: Duration = Duration::from_secs(40);
const _: () = assert!(LEFTOVERS.as_secs() > ENDING.as_secs());

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
    /// The same, where a network lives already: it cannot go on elsewhere.
    #[error("{} cannot be used: {reason}; this directory holds the network's files, so mend that and try again", .path.display())]
    Kept {
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
    #[error(
        "{} cannot be understood ({reason}); {}",
        .path.display(), begin_again(*.peers)
    )]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Volumes there are, so that no smaller network is begun on them.
        peers: u32,
    },
}

fn begin_again(peers: u32) -> String {
    if peers == 0 {
        return "there is no volume beside it: move the file away and start again".to_owned();
    }
    format!(
        "the volumes of {peers} peers beside it remember their network: move the file away and start again with --peers {peers}, \
         and with the other options of the first time"
    )
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
        let failed = |reason| failed(dir, dir.to_owned(), reason);
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
        let failed = |reason| self.failed(path.clone(), reason);
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

    /// Sets the volume of a peer that is replaced aside, durably and at once, so that its successor makes a new one; where
    /// it is now, for it to be removed.
    pub fn set_aside(&self, ordinal: u32) -> Result<Option<PathBuf>, HomeError> {
        let volume = self.volume(ordinal);
        // One from before may still be on its way out.
        let names = (0..SET_ASIDE).map(|i| self.dir.join(format!("peer-{ordinal}.{i}{GONE}")));
        let free = names.into_iter().find(|path| !path.exists());
        let aside = || {
            let free = free.ok_or(io::ErrorKind::AlreadyExists)?;
            let moved = match fs::rename(&volume, &free) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                moved => Some(moved.map(|()| free)?),
            };
            File::open(&self.dir)?.sync_all()?;
            Ok(moved)
        };
        aside().map_err(|reason| self.failed(volume.clone(), reason))
    }

    /// Volumes that an earlier run set aside and did not get to remove.
    pub fn set_aside_before(&self) -> Vec<PathBuf> {
        let gone = |name: &str| name.starts_with("peer-") && name.ends_with(GONE);
        self.names()
            .filter(|name| gone(name))
            .map(|name| self.dir.join(name))
            .collect()
    }

    /// As many peers as there are volumes of, by the greatest number.
    fn peers(&self) -> u32 {
        let ordinals = self
            .names()
            .filter_map(|name| name.strip_prefix("peer-")?.parse().ok());
        ordinals.max().map_or(0, |last: u32| last.saturating_add(1))
    }

    /// What is in the directory; a name that is not UTF-8 is nobody's.
    fn names(&self) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }

    fn failed(&self, path: PathBuf, reason: io::Error) -> HomeError {
        failed(&self.dir, path, reason)
    }

    fn state(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    /// What an earlier run wrote down.
    pub fn load(&self) -> Result<Option<State>, HomeError> {
        let path = self.state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(reason) => return Err(self.failed(path, reason)),
        };
        let damaged = |reason| HomeError::State {
            path: path.clone(),
            reason,
            peers: self.peers(),
        };
        let state: State = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if state.format != FORMAT {
            let reason = format!("its format is {}, not {FORMAT}", state.format);
            return Err(damaged(reason));
        }
        Ok(Some(state))
    }

    /// Writes the state down, durably.
    pub fn save(&self, state: &State) -> Result<(), HomeError> {
        let path = self.state();
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec_pretty(state)?;
            let create = |path: &Path| {
                let mut options = File::options();
                options.write(true).create_new(true).mode(0o600).open(path)
            };
            // Written to as what it is: the errors of a `NamedTempFile` name it, and its name is another one each time.
            let mut file = tempfile::Builder::new().make_in(&self.dir, create)?;
            file.as_file_mut().write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|reason| self.failed(path.clone(), reason))
    }
}

/// Another directory is only advice where no network would be left behind.
fn failed(dir: &Path, path: PathBuf, reason: io::Error) -> HomeError {
    if dir.join(STATE).exists() {
        HomeError::Kept { path, reason }
    } else {
        HomeError::Io { path, reason }
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
        for ordinal in [0, 1, 6] {
            fs::create_dir(home.volume(ordinal)).unwrap();
        }
        fs::write(home.log(8), "").unwrap();
        let error = home.load().unwrap_err();
        assert!(matches!(error, HomeError::State { peers: 7, .. }));
        let words = error.to_string();
        assert!(words.contains("start again with --peers 7"), "{words}");
    }

    #[test]
    fn another_directory_is_advice_only_where_there_is_no_network() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(dir.path()).unwrap();
        let network = PeerNetwork::new("demo", PeerNetworkSpec::default());
        let state = State::new(network, 3, 7000, 8080);
        // Nothing can be renamed to a directory.
        fs::create_dir(home.state()).unwrap();
        let words = home.save(&state).unwrap_err().to_string();
        assert!(words.contains("mend that and try again"), "{words}");
        assert!(!words.contains("--dir"), "{words}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let words = Home::lock(&file).unwrap_err().to_string();
        assert!(words.contains("--dir"), "{words}");
    }

    #[test]
    fn what_cannot_be_written_is_said_in_the_same_words_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(&dir.path().join("home")).unwrap();
        let network = PeerNetwork::new("demo", PeerNetworkSpec::default());
        let state = State::new(network, 3, 7000, 8080);
        fs::remove_dir_all(home.dir()).unwrap();
        let words = || home.save(&state).unwrap_err().to_string();
        let first = words();
        assert_eq!(first, words());
        assert!(first.contains(STATE), "{first}");
    }

    #[test]
    fn a_volume_is_set_aside_whole_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::lock(dir.path()).unwrap();
        assert_eq!(home.set_aside(2).unwrap(), None);
        let mut aside = Vec::new();
        for content in ["first", "second"] {
            fs::create_dir(home.volume(2)).unwrap();
            fs::write(home.volume(2).join("chunk"), content).unwrap();
            let path = home.set_aside(2).unwrap().unwrap();
            assert!(!home.volume(2).exists());
            assert_eq!(fs::read_to_string(path.join("chunk")).unwrap(), content);
            aside.push(path);
        }
        fs::create_dir(home.volume(3)).unwrap();
        let mut found = home.set_aside_before();
        found.sort();
        assert_eq!(found, aside);
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
