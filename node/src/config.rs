//! What a peer is told by its flags and environment, and what that means.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use peernet_core::config::{Labels, Replication, Settings};
use peernet_core::key::Position;
use peernet_core::outbox::Consumer;
use thiserror::Error;

use crate::disk::Durability;
use crate::events::{Events, EventsConfig, EventsError};
use crate::faults::{Faults, NotAFault};
use crate::files::labels;

pub mod compression;
pub mod sources;

pub use compression::Compression;

/// Least chunk size: a chunk costs a file, an index entry and two syncs on each replica, so smaller ones do not pay
/// (guess). Greater than [`INLINE_MAX`], so that a file that is not inline has a full chunk or is one.
pub const CHUNK_SIZE_MIN: u32 = 64 * 1024;
/// Greatest chunk, whoever writes it: it has to fit a gRPC message and is held in memory whole (guess).
pub const CHUNK_SIZE_MAX: u32 = 4 * 1024 * 1024;
/// Files up to this size live in their name's own record: half of what a register holds (64 KiB), so that one sync on
/// each replica stores a small file.
pub const INLINE_MAX: usize = 32 * 1024;

/// Most copies, the same as a `PeerNetwork` may ask for: seven survive the loss of three, and a slot that moves still
/// fits [`crate::wire::REPLICAS_MAX`].
pub const FACTOR_MAX: u32 = 7;

/// Connections at each door by default: twice the 1,000 clients at once that a peer is tested with (guess).
const CONNECTIONS: u32 = 2048;
/// How long a client may stand still by default: as long as the client's own connection checks take by default in gRPC
/// (20 seconds, and some for slow links; guess).
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest that it may be told: what a client holds meanwhile is gone for others (guess).
const CLIENT_TIMEOUT_MAX: u64 = 3600;

/// The flags of a peer; each may also be given as an environment variable.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Name of this peer, unique in its network; on Kubernetes the pod's
    #[arg(long, env = "PEERNET_NAME")]
    pub name: String,
    /// Directory for everything this peer stores; one process at a time may use it
    #[arg(long, env = "PEERNET_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Where to listen for gRPC, from clients and peers
    #[arg(long, env = "PEERNET_GRPC_LISTEN", default_value = "0.0.0.0:7000")]
    pub grpc_listen: SocketAddr,
    /// Where to listen for HTTP
    #[arg(long, env = "PEERNET_HTTP_LISTEN", default_value = "0.0.0.0:8080")]
    pub http_listen: SocketAddr,
    /// Host name or address under which others reach this peer; needed unless --grpc-listen names one address
    #[arg(long, env = "PEERNET_ADVERTISE_HOST")]
    pub advertise_host: Option<String>,
    /// What tells this process from another one that had its address before, on Kubernetes the pod's UID: an operator that means that
    /// one is refused
    #[arg(long, env = "PEERNET_INSTANCE")]
    pub instance: Option<String>,
    /// Peers to find the network through, host:port; names are resolved again and again, to all their addresses
    #[arg(long, env = "PEERNET_SEEDS", value_delimiter = ',')]
    pub seeds: Vec<String>,
    /// File with more of them, one host:port a line; read again and again. The first of all founds the network if its volume is empty and no other answers
    #[arg(long, env = "PEERNET_SEEDS_FILE")]
    pub seeds_file: Option<PathBuf>,
    /// Copies of everything
    #[arg(long, env = "PEERNET_REPLICATION_FACTOR", default_value_t = Replication::default().factor)]
    pub replication_factor: u32,
    /// Durable copies of a chunk before a write is acknowledged
    #[arg(long, env = "PEERNET_REPLICATION_WRITE", default_value_t = Replication::default().write)]
    pub replication_write: u32,
    /// When a write is acknowledged: once the write quorum has synced it, or once their systems have it, which sync it
    /// within about a second
    #[arg(long, env = "PEERNET_DURABILITY", value_enum, default_value_t)]
    pub durability: Durability,
    /// Whether chunks are compressed where they are stored and on the way there, of files whose clients do not say
    #[arg(long, env = "PEERNET_COMPRESSION", value_enum, default_value_t)]
    pub compression: Compression,
    /// Bytes files are cut into, 65536 to 4194304
    #[arg(long, env = "PEERNET_CHUNK_SIZE", default_value_t = 1024 * 1024)]
    pub chunk_size: u32,
    /// Seconds a peer may be down before its copies are rebuilt elsewhere
    #[arg(long, env = "PEERNET_GRACE_SECONDS", default_value_t = Settings::default().grace / 1000)]
    pub grace_seconds: u64,
    /// Percent of the disk kept free for repair; clients' writes are refused below
    #[arg(long, env = "PEERNET_DISK_RESERVE_PERCENT", default_value_t = 5)]
    pub disk_reserve_percent: u8,
    /// Connections at once over HTTP, where more wait for a place, and as many over gRPC, where a quarter is kept for peers and more clients are told to come again
    #[arg(long, env = "PEERNET_CONNECTIONS", default_value_t = CONNECTIONS)]
    pub connections: u32,
    /// Seconds a client may be silent, or take nothing of what is sent to it, before it is cut off
    #[arg(long, env = "PEERNET_CLIENT_TIMEOUT_SECONDS", default_value_t = CLIENT_TIMEOUT.as_secs())]
    pub client_timeout_seconds: u64,
    /// MiB a second at which this peer's chunks are read again and checked, once a week; 0: never
    #[arg(long, env = "PEERNET_SCRUB_MIB_S", default_value_t = 8)]
    pub scrub_mib_s: u32,
    /// Wait until Admin.Assign gives network, zone and position
    #[arg(long, env = "PEERNET_AWAIT_ASSIGNMENT", conflicts_with_all = ["network_id", "zone", "position", "found"])]
    pub await_assignment: bool,
    /// UUID of the network to found or join
    #[arg(long, env = "PEERNET_NETWORK_ID")]
    pub network_id: Option<String>,
    /// Failure domain of this peer
    #[arg(long, env = "PEERNET_ZONE")]
    pub zone: Option<String>,
    /// Place on the ring at the first join, 0 to 2^64-1; by default drawn from the peer's identity
    #[arg(long, env = "PEERNET_POSITION")]
    pub position: Option<u64>,
    /// Found the network if the volume is empty
    #[arg(long, env = "PEERNET_FOUND")]
    pub found: bool,
    /// What goes wrong on purpose, for tests; see the module `faults`
    #[arg(long, env = "PEERNET_FAULTS", default_value = "", hide = true)]
    pub faults: String,
    /// Where events go
    #[command(flatten)]
    pub events: EventsConfig,
}

/// Why the flags make no sense. Each sentence names the flag to change.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum ConfigError {
    #[error("--name is empty")]
    NoName,
    #[error(
        "--advertise-host is needed, because --grpc-listen {0} is not an address others can reach"
    )]
    NoAdvertiseHost(SocketAddr),
    #[error("--seeds: '{0}' is not of the form host:port")]
    Seed(String),
    #[error("--replication-factor {0} is not between 1 and {most}", most = FACTOR_MAX)]
    Factor(u32),
    #[error("--replication-write {write} is not between 1 and the replication factor, {factor}")]
    Write { write: u32, factor: u32 },
    #[error("--chunk-size {0} is not between {CHUNK_SIZE_MIN} and {CHUNK_SIZE_MAX}")]
    ChunkSize(u32),
    #[error("--disk-reserve-percent {0} is more than 50")]
    DiskReserve(u8),
    #[error("--connections is 0; at least 1 is needed to talk to anybody")]
    Connections,
    #[error("--client-timeout-seconds {0} is not between 1 and {CLIENT_TIMEOUT_MAX}")]
    ClientTimeout(u64),
    #[error("give either --await-assignment, or --network-id and --zone")]
    NoAssignment,
    #[error(
        "the network's id '{0}' is not a lower-case UUID such as 0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10"
    )]
    Network(String),
    #[error("the zone is empty")]
    Zone,
    #[error("--faults: {0}")]
    Faults(#[from] NotAFault),
    #[error(transparent)]
    Events(#[from] EventsError),
}

/// A network, and this peer's place in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// UUID of the network.
    pub network: String,
    /// Failure domain.
    pub zone: String,
    /// Place on the ring at the first join; `None`: drawn from the identity.
    pub position: Option<Position>,
    /// Found the network if the volume is empty.
    pub found: bool,
}

impl Place {
    /// Checks what came from flags or from `Admin.Assign`.
    pub fn new(
        network: String,
        zone: String,
        position: Option<u64>,
        found: bool,
    ) -> Result<Self, ConfigError> {
        if !is_uuid(&network) {
            return Err(ConfigError::Network(network));
        }
        if zone.is_empty() {
            return Err(ConfigError::Zone);
        }
        Ok(Place {
            network,
            zone,
            position: position.map(Position),
            found,
        })
    }
}

/// Settings that make sense together.
#[derive(Clone, Debug)]
pub struct Setup {
    /// See [`Config::name`].
    pub name: String,
    /// See [`Config::data_dir`].
    pub data_dir: PathBuf,
    /// See [`Config::grpc_listen`].
    pub grpc_listen: SocketAddr,
    /// See [`Config::http_listen`].
    pub http_listen: SocketAddr,
    /// Host for URLs: an IPv6 address is in brackets.
    pub advertise_host: String,
    /// See [`Config::instance`].
    pub instance: Option<String>,
    /// `host:port` each.
    pub seeds: Vec<String>,
    /// See [`Config::seeds_file`].
    pub seeds_file: Option<PathBuf>,
    /// See [`Config::durability`].
    pub durability: Durability,
    /// See [`Config::compression`].
    pub compression: Compression,
    /// See [`Config::chunk_size`].
    pub chunk_size: u32,
    /// See [`Config::disk_reserve_percent`].
    pub disk_reserve_percent: u8,
    /// See [`Config::connections`].
    pub connections: u32,
    /// See [`Config::client_timeout_seconds`].
    pub client_timeout: Duration,
    /// See [`Config::scrub_mib_s`], in bytes a second; `None`: never.
    pub scrub: Option<NonZeroU64>,
    /// What the core is told.
    pub core: Settings,
    /// `None`: wait for an assignment.
    pub place: Option<Place>,
    /// What goes wrong on purpose; nothing outside of tests.
    pub faults: Faults,
    /// Where events go; `None`: nowhere.
    pub events: Option<Events>,
}

impl Config {
    /// Checks everything once, so that nothing behind it needs to.
    pub fn check(self) -> Result<Setup, ConfigError> {
        let Config {
            name,
            data_dir,
            grpc_listen,
            http_listen,
            advertise_host,
            instance,
            seeds,
            seeds_file,
            replication_factor: factor,
            replication_write: write,
            durability,
            compression,
            chunk_size,
            grace_seconds,
            disk_reserve_percent,
            connections,
            client_timeout_seconds,
            scrub_mib_s,
            await_assignment,
            network_id,
            zone,
            position,
            found,
            faults,
            events,
        } = self;
        if name.is_empty() {
            return Err(ConfigError::NoName);
        }
        if !(1..=FACTOR_MAX).contains(&factor) {
            return Err(ConfigError::Factor(factor));
        }
        if !(1..=factor).contains(&write) {
            return Err(ConfigError::Write { write, factor });
        }
        if !(CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&chunk_size) {
            return Err(ConfigError::ChunkSize(chunk_size));
        }
        if disk_reserve_percent > 50 {
            return Err(ConfigError::DiskReserve(disk_reserve_percent));
        }
        if connections == 0 {
            return Err(ConfigError::Connections);
        }
        if !(1..=CLIENT_TIMEOUT_MAX).contains(&client_timeout_seconds) {
            return Err(ConfigError::ClientTimeout(client_timeout_seconds));
        }
        let seeds: Vec<String> = seeds.into_iter().filter(|s| !s.is_empty()).collect();
        if let Some(bad) = seeds.iter().find(|s| !is_host_and_port(s)) {
            return Err(ConfigError::Seed(bad.clone()));
        }
        let place = match (await_assignment, network_id, zone) {
            (true, ..) => None,
            (false, Some(network), Some(zone)) => Some(Place::new(network, zone, position, found)?),
            (false, ..) => return Err(ConfigError::NoAssignment),
        };
        let mut core = Settings {
            replication: Replication { factor, write },
            grace: Duration::from_secs(grace_seconds).as_millis() as u64,
            effects: Consumer::Index.into(),
            labels: Labels(labels),
            ..Settings::default()
        };
        let events = events.check()?;
        if events.is_some() {
            core.effects = core.effects.with(Consumer::Events);
        }
        let advertise_host = advertised(advertise_host, grpc_listen)?;
        Ok(Setup {
            name,
            data_dir,
            grpc_listen,
            http_listen,
            advertise_host,
            instance: instance.filter(|instance| !instance.is_empty()),
            seeds,
            seeds_file,
            durability,
            compression,
            chunk_size,
            disk_reserve_percent,
            connections,
            client_timeout: Duration::from_secs(client_timeout_seconds),
            scrub: NonZeroU64::new(u64::from(scrub_mib_s) << 20),
            core,
            place,
            faults: faults.parse()?,
            events,
        })
    }
}

fn advertised(host: Option<String>, listen: SocketAddr) -> Result<String, ConfigError> {
    let host = match host.filter(|h| !h.is_empty()) {
        Some(host) => host,
        None if listen.ip().is_unspecified() => return Err(ConfigError::NoAdvertiseHost(listen)),
        None => listen.ip().to_string(),
    };
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    Ok(if bare_v6 { format!("[{host}]") } else { host })
}

pub(crate) fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Lower-case hex in groups of 8, 4, 4, 4 and 12 digits.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])
        && groups
            .iter()
            .all(|g| g.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    const NETWORK: &str = "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10";

    fn parse(more: &[&str]) -> Result<Setup, ConfigError> {
        let args = [
            "peer",
            "--name",
            "p-0",
            "--data-dir",
            "/data",
            "--advertise-host",
            "10.0.0.1",
        ];
        let command =
            Command::try_parse_from(args.iter().chain(more)).unwrap_or_else(|e| panic!("{e}"));
        command.config.check()
    }

    #[test]
    fn a_place_comes_from_flags_or_is_waited_for() {
        assert_eq!(parse(&["--await-assignment"]).unwrap().place, None);
        let place = parse(&["--network-id", NETWORK, "--zone", "a", "--found"])
            .unwrap()
            .place
            .unwrap();
        assert_eq!(
            place,
            Place {
                network: NETWORK.into(),
                zone: "a".into(),
                position: None,
                found: true
            }
        );
        assert_eq!(
            parse(&["--zone", "a"]).unwrap_err(),
            ConfigError::NoAssignment
        );
        let both = [
            "peer",
            "--name",
            "p",
            "--data-dir",
            "/",
            "--await-assignment",
            "--zone",
            "a",
        ];
        assert!(Command::try_parse_from(both).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_the_flag_s_name() {
        let with = |more: &[&str]| parse(&[&["--await-assignment"], more].concat()).map(drop);
        assert_eq!(
            with(&["--replication-factor", "0"]),
            Err(ConfigError::Factor(0))
        );
        let many = with(&["--replication-factor", "8"]).unwrap_err();
        assert_eq!(
            many.to_string(),
            "--replication-factor 8 is not between 1 and 7"
        );
        assert_eq!(
            with(&["--replication-write", "4"]),
            Err(ConfigError::Write {
                write: 4,
                factor: 3
            })
        );
        assert_eq!(
            with(&["--chunk-size", "1000"]),
            Err(ConfigError::ChunkSize(1000))
        );
        assert_eq!(
            with(&["--disk-reserve-percent", "80"]),
            Err(ConfigError::DiskReserve(80))
        );
        assert_eq!(
            with(&["--client-timeout-seconds", "0"]),
            Err(ConfigError::ClientTimeout(0))
        );
        assert_eq!(
            with(&["--seeds", "a:1,b"]),
            Err(ConfigError::Seed("b".into()))
        );
        assert_eq!(with(&["--seeds", "a:1,[::1]:7000,"]), Ok(()));
        let upper = NETWORK.to_uppercase();
        assert!(matches!(
            parse(&["--network-id", &upper, "--zone", "a"]),
            Err(ConfigError::Network(_))
        ));
    }

    #[test]
    fn the_advertised_host_is_one_others_can_reach() {
        let any: SocketAddr = "0.0.0.0:7000".parse().unwrap();
        let one: SocketAddr = "[::1]:7000".parse().unwrap();
        assert_eq!(
            advertised(None, any),
            Err(ConfigError::NoAdvertiseHost(any))
        );
        assert_eq!(advertised(None, one).unwrap(), "[::1]");
        assert_eq!(
            advertised(Some("p-0.peers".into()), any).unwrap(),
            "p-0.peers"
        );
    }
}
