//! A network of peer processes, each with a volume of its own in a temporary folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use peernet_proto::v1;
use peernet_proto::v1::admin_client::AdminClient;
use peernet_proto::v1::files_client::FilesClient;
use peernet_proto::v1::peers_client::PeersClient;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::Status;
use tonic::transport::Channel;

/// The network all tests found; each on ports of its own.
pub(crate) const NETWORK: &str = "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10";
/// How long anything awaited may take: generous, since tests share two cores with builds, and what nobody was heard of is
/// collected only after a minute or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
const ZONES: [&str; 3] = ["a", "b", "c"];

/// Peers of one network; killed when dropped, their logs printed if the test has failed.
pub(crate) struct Network {
    dir: TempDir,
    /// Told to every peer.
    flags: Vec<String>,
    pub(crate) peers: Vec<Peer>,
}

/// One peer, running or not.
pub(crate) struct Peer {
    name: String,
    pub(crate) data: PathBuf,
    log: PathBuf,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    zone: &'static str,
    process: Option<Child>,
}

impl Network {
    /// Starts `count` peers and waits until all are ready.
    pub(crate) async fn start(count: usize) -> Network {
        Network::start_with(count, &[]).await
    }

    /// Starts `count` peers with these flags besides and waits until all are ready.
    pub(crate) async fn start_with(count: usize, flags: &[&str]) -> Network {
        let mut network = Network::launched_with(count, flags).await;
        network.all_ready().await;
        network
    }

    /// Starts a peer in each of these zones and waits until all are ready.
    pub(crate) async fn start_in(zones: &[&'static str]) -> Network {
        let mut network = Network::launched_in(zones, &[]).await;
        network.all_ready().await;
        network
    }

    /// Starts `count` peers and waits until all answer.
    pub(crate) async fn launched(count: usize) -> Network {
        Network::launched_with(count, &[]).await
    }

    async fn launched_with(count: usize, flags: &[&str]) -> Network {
        let zones: Vec<&str> = (0..count).map(|n| ZONES[n % 3]).collect();
        Network::launched_in(&zones, flags).await
    }

    async fn launched_in(zones: &[&'static str], flags: &[&str]) -> Network {
        let mut network = Network::idle(zones);
        network.flags = flags.iter().map(|f| (*f).to_owned()).collect();
        for n in 0..zones.len() {
            network.launch(n);
        }
        for peer in &mut network.peers {
            until(&format!("{} answers", peer.name), async || {
                assert!(peer.is_running(), "{} has ended", peer.name);
                peer.status().await.is_ok()
            })
            .await;
        }
        network
    }

    /// Peers of which none runs.
    pub(crate) fn idle(zones: &[&'static str]) -> Network {
        let dir = TempDir::new().expect("a temporary folder");
        let peer = |(n, zone): (usize, &&'static str)| Peer {
            zone,
            ..Peer::new(dir.path(), n)
        };
        let peers = zones.iter().enumerate().map(peer).collect();
        Network {
            dir,
            flags: Vec::new(),
            peers,
        }
    }

    /// One more peer, which joins.
    pub(crate) async fn join(&mut self) -> usize {
        let n = self.peers.len();
        self.peers.push(Peer::new(self.dir.path(), n));
        self.launch(n);
        self.ready(n).await;
        n
    }

    /// Starts the process of a peer that does not run.
    pub(crate) fn launch(&mut self, n: usize) {
        let found: &[&str] = if n == 0 { &["--found"] } else { &[] };
        let place = ["--network-id", NETWORK, "--zone", self.peers[n].zone];
        self.launch_with(n, &[&place, found].concat());
    }

    /// Starts the process of a peer with flags that say which network it is in.
    pub(crate) fn launch_with(&mut self, n: usize, place: &[&str]) {
        let seeds: Vec<String> = self.peers.iter().map(|p| p.grpc.to_string()).collect();
        self.launch_alone(n, &[&["--seeds", &seeds.join(",")], place].concat());
    }

    /// Starts the process of a peer that is told of no other.
    pub(crate) fn launch_alone(&mut self, n: usize, place: &[&str]) {
        let peer = &mut self.peers[n];
        assert!(peer.process.is_none(), "{} runs already", peer.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&peer.log)
            .expect("a log");
        let process = Command::new(env!("CARGO_BIN_EXE_peernet-node"))
            .args(["--name", &peer.name])
            .args([
                "--grpc-listen",
                &peer.grpc.to_string(),
                "--http-listen",
                &peer.http.to_string(),
            ])
            .arg("--data-dir")
            .arg(&peer.data)
            .args(place)
            .args(&self.flags)
            .env("RUST_LOG", "info,peernet_node=debug")
            .stderr(log)
            .spawn();
        peer.process = Some(process.expect("the peer's binary"));
    }

    /// Waits until a peer is ready.
    pub(crate) async fn ready(&mut self, n: usize) {
        let peer = &mut self.peers[n];
        until(&format!("{} is ready", peer.name), async || {
            assert!(peer.is_running(), "{} has ended", peer.name);
            peer.status().await.is_ok_and(|status| status.ready)
        })
        .await;
    }

    /// Waits until all peers are ready, and each knows that all are there: who is ready may not have heard of all others yet.
    pub(crate) async fn all_ready(&mut self) {
        for n in 0..self.peers.len() {
            self.ready(n).await;
        }
        for peer in &self.peers {
            until(&format!("{} knows all peers", peer.name), async || {
                let known = peer.list().await.unwrap_or_default();
                let active = |p: &&v1::PeerInfo| p.state() == v1::PeerState::Active;
                known.iter().filter(active).count() == self.peers.len()
            })
            .await;
        }
    }

    /// Waits until all peers that run see the ring at rest, with everything where it belongs.
    pub(crate) async fn at_rest(&mut self) {
        for peer in self.peers.iter_mut().filter(|p| p.process.is_some()) {
            until(&format!("{} is at rest", peer.name), async || {
                peer.status().await.is_ok_and(|s| {
                    s.slots_moving == 0 && s.slots_behind == 0 && s.chunks_missing == 0
                })
            })
            .await;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for peer in &mut self.peers {
            peer.kill();
            if std::thread::panicking() {
                let log = fs::read_to_string(&peer.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(40)..];
                eprintln!("--- {} ---\n{}", peer.name, last.join("\n"));
            }
        }
    }
}

impl Peer {
    fn new(dir: &Path, n: usize) -> Peer {
        let name = format!("p-{n}");
        let (grpc, http) = (free_port(), free_port());
        Peer {
            data: dir.join(&name),
            log: dir.join(format!("{name}.log")),
            name,
            grpc,
            http,
            zone: ZONES[n % 3],
            process: None,
        }
    }

    /// A peer with ports of its own on a volume that may be another's.
    pub(crate) fn on(volume: &Path, name: &str) -> Peer {
        let log = volume.with_extension(name);
        Peer {
            name: name.into(),
            data: volume.to_owned(),
            log,
            grpc: free_port(),
            http: free_port(),
            zone: ZONES[0],
            process: None,
        }
    }

    /// Its process has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|p| p.try_wait().expect("a child").is_none())
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            process.wait().expect("a child");
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let process = self.process.as_ref().expect("a running peer");
        let pid = rustix::process::Pid::from_child(process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }

    /// Asks it to end, and returns how it did.
    pub(crate) async fn stop(&mut self) -> i32 {
        self.terminate();
        self.ended().await
    }

    /// Waits until it has ended by itself, and returns how.
    pub(crate) async fn ended(&mut self) -> i32 {
        let mut process = self.process.take().expect("a running peer");
        let mut status = None;
        until(&format!("{} has ended", self.name), async || {
            status = process.try_wait().expect("a child");
            status.is_some()
        })
        .await;
        status.and_then(|s| s.code()).unwrap_or(-1)
    }

    /// Of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running peer").id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).expect("an address");
        endpoint.connect_lazy()
    }

    pub(crate) fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel())
    }

    pub(crate) async fn status(&self) -> Result<v1::StatusResponse, Status> {
        let status = PeersClient::new(self.channel())
            .status(v1::StatusRequest {})
            .await?;
        Ok(status.into_inner())
    }

    /// The peers it knows.
    pub(crate) async fn members(&self) -> Vec<v1::PeerInfo> {
        self.list().await.expect("an answer")
    }

    async fn list(&self) -> Result<Vec<v1::PeerInfo>, Status> {
        let mut peers = PeersClient::new(self.channel());
        let list = peers.list(v1::ListPeersRequest {}).await?;
        Ok(list.into_inner().peers)
    }

    pub(crate) fn client(&self) -> Client {
        Client {
            files: self.files(),
        }
    }

    pub(crate) async fn put(&self, name: &str, data: &[u8]) -> Result<v1::FileInfo, Status> {
        self.client().put(name, data).await
    }

    pub(crate) async fn get(
        &self,
        name: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Vec<u8>, Status> {
        self.client().get(name, offset, length).await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), Status> {
        self.files()
            .delete(v1::DeleteRequest {
                name: name.into(),
                when: None,
            })
            .await
            .map(drop)
    }
}

/// A client of one peer's files; waits for no other.
#[derive(Clone)]
pub(crate) struct Client {
    files: FilesClient<Channel>,
}

impl Client {
    /// Stores a file by gRPC.
    pub(crate) async fn put(&self, name: &str, data: &[u8]) -> Result<v1::FileInfo, Status> {
        let header = v1::PutHeader {
            name: name.into(),
            content_type: "application/x-test".into(),
            size: Some(data.len() as u64),
            ..Default::default()
        };
        self.put_as(header, data).await
    }

    /// The same with a header.
    pub(crate) async fn put_as(
        &self,
        header: v1::PutHeader,
        data: &[u8],
    ) -> Result<v1::FileInfo, Status> {
        let mut parts = vec![v1::PutRequest {
            part: Some(v1::put_request::Part::Header(header)),
        }];
        parts.extend(data.chunks(300_000).map(|part| v1::PutRequest {
            part: Some(v1::put_request::Part::Data(part.to_vec().into())),
        }));
        let response = self.files.clone().put(tokio_stream::iter(parts)).await?;
        Ok(response.into_inner().file.expect("what was stored"))
    }

    /// Reads a range of a file by gRPC.
    pub(crate) async fn get(
        &self,
        name: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Vec<u8>, Status> {
        let request = v1::GetRequest {
            name: name.into(),
            offset,
            length,
            ..v1::GetRequest::default()
        };
        let mut parts = self.files.clone().get(request).await?.into_inner();
        let mut data = Vec::new();
        while let Some(part) = parts.message().await? {
            if let Some(v1::get_response::Part::Data(bytes)) = part.part {
                data.extend_from_slice(&bytes);
            }
        }
        Ok(data)
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Bytes that look random and differ by `seed`.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A port that was free a moment ago, below those that the system hands out by itself: several networks run at once, and a port
/// it gave would soon be some client's.
pub(crate) fn free_port() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let tries = std::iter::repeat_with(|| fastrand::u16(10_000..30_000)).take(1000);
    let mut given = GIVEN.lock().expect("no panic");
    // One that was given is not tried: it would be in the way of whom it was given to.
    let port = tries
        .filter(|port| given.insert(*port))
        .find(free)
        .expect("the machine has free ports");
    (Ipv4Addr::LOCALHOST, port).into()
}
