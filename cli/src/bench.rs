//! `peernet bench`: how fast files go in and out of a network, as a client of its REST interface sees it.
//!
//! For each size and number of operations at once: files are stored for a while, then read again and again for as long,
//! then removed. Workers ([`load`]) have a connection each, to the peers in turn; bodies are walks through one random
//! block ([`content`]), so memory does not grow with what is stored; times go into a histogram ([`stats`]); and the CPU
//! time of this process, and of the servers where they run beside it, is taken before and after ([`usage`]). What the
//! machine could do at best is in [`limits`]. The same load can be put on a store that speaks S3 ([`target`]), to compare.
//!
//! All names begin with a prefix that the run has made up, and are removed whatever happens but a kill.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::{Durability, ListPeersRequest, PeerInfo, PeerState, StatusRequest};
use serde::Serialize;
use thiserror::Error;

use crate::args::Global;
use crate::exit::Exit;
use crate::output::{self, bytes, counted};
use crate::servers::{CallError, Servers};

use content::Content;
use load::{Load, OperationError};
use session::Session;
use stats::Measurement;
use target::{AddressError, S3, Target};
use usage::UsageError;

mod content;
mod limits;
mod load;
mod lookups;
mod session;
mod stats;
mod target;
mod usage;

/// Puts a load on the network and measures it.
#[derive(clap::Args, Debug)]
pub struct Bench {
    /// Sizes of files
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', value_parser = size, default_value = "1KiB,1MiB,64MiB")]
    pub size: Vec<u64>,
    /// Numbers of operations at once
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "1,8",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: Vec<u32>,
    /// What to measure; what is read has to be stored first in any case. get-one takes the word of the peer that is asked,
    /// where it holds the file; else a get is a quorum's
    #[arg(
        long,
        value_name = "OP,...",
        value_delimiter = ',',
        value_enum,
        default_value = "put,get"
    )]
    pub op: Vec<Op>,
    /// How long each measurement goes on; each worker does one operation at least
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Most bytes of files stored at a time; each peer's share of the copies comes on top
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "4GiB")]
    pub store: u64,
    /// Measure lookups instead: so many keys in a question for who holds them, 1 to 1,024
    #[arg(long, value_name = "KEYS,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024),
        conflicts_with_all = ["s3", "limits", "op", "size"])]
    pub lookups: Vec<u32>,
    /// Do not compare what is read with what was stored
    #[arg(long)]
    pub no_verify: bool,
    /// Processes of the peers, to measure their CPU time and memory (Linux, this machine)
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Measure this machine instead: memory, hash, loopback, and the disk with this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["s3", "pid"])]
    pub limits: Option<PathBuf>,
    /// Stores that speak S3, instead of peers
    #[arg(long, hide = true, value_name = "URL,...", value_delimiter = ',', requires_all = ["bucket", "key", "secret"])]
    pub s3: Vec<String>,
    /// Bucket to use
    #[arg(long, hide = true)]
    pub bucket: Option<String>,
    /// Region that requests are signed for
    #[arg(long, hide = true, default_value = "us-east-1")]
    pub region: String,
    /// Who signs
    #[arg(long, hide = true, env = "AWS_ACCESS_KEY_ID")]
    pub key: Option<String>,
    /// With what
    #[arg(
        long,
        hide = true,
        env = "AWS_SECRET_ACCESS_KEY",
        hide_env_values = true
    )]
    pub secret: Option<String>,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Storing
    Put,
    /// Reading
    Get,
    /// Reading by the word of one peer
    GetOne,
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Op::Put => "PUT",
            Op::Get => "GET",
            Op::GetOne => "GET one",
        })
    }
}

/// Why there is no result, or not a good one.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A peer refused or none was there.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No member is active and serves REST.
    #[error("no active peer serves REST; see `peernet peers`")]
    Nobody,
    /// A server cannot be addressed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A process cannot be looked at.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// No connection, to begin with.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// All measurements would store too much.
    #[error("{0}, and nothing is left to measure; raise --store, or lower --size or --concurrency")]
    Nothing(String),
    /// Operations failed.
    #[error("{} failed; the last: {last}", counted(*.count, "operation"))]
    Failed {
        /// How many.
        count: u64,
        /// Why the last of them.
        last: OperationError,
    },
    /// Files are left behind.
    #[error(
        "not all files could be removed: {last}; try `peernet ls {prefix}/`, and `peernet rm` on what it lists"
    )]
    Left {
        /// What their names begin with.
        prefix: String,
        /// Why the last of them.
        last: OperationError,
    },
    /// The machine cannot be measured.
    #[error("the machine's limits cannot be measured in '{}': {reason}; name a directory on a disk with 1 GiB free", .dir.display())]
    Limits {
        /// Where.
        dir: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted; the files stored so far are removed")]
    Interrupted,
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl BenchError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            BenchError::Call(e) => e.exit(),
            BenchError::Address(_) | BenchError::Usage(_) | BenchError::Nothing(_) => Exit::Usage,
            BenchError::Nobody
            | BenchError::Operation(_)
            | BenchError::Failed { .. }
            | BenchError::Left { .. }
            | BenchError::Interrupted => Exit::Retryable,
            BenchError::Limits { .. } | BenchError::Print(_) => Exit::Permanent,
        }
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// host:port of those that the load was for.
    servers: Vec<String>,
    /// When the peer asked acknowledges a write: once it is `synced`, or `written`; none for other stores, and where it does
    /// not say.
    durability: Option<&'static str>,
    /// Whether content was compared.
    verified: bool,
    /// In the order in which they were made.
    measurements: Vec<Measurement>,
    /// What would have stored too much, in words.
    skipped: Vec<String>,
}

/// Measures and prints.
pub async fn run(global: &Global, bench: Bench) -> Result<(), BenchError> {
    if let Some(dir) = bench.limits {
        let failed = {
            let dir = dir.clone();
            |reason| BenchError::Limits { dir, reason }
        };
        let measured = tokio::task::spawn_blocking(move || limits::measure(&dir)).await;
        let limits = measured
            .map_err(io::Error::other)
            .flatten()
            .map_err(failed)?;
        if !global.common.output.document(&limits)? {
            output::print(&limits.table())?;
        }
        return Ok(());
    }
    if !bench.lookups.is_empty() {
        let peers = members(&global.server).await?;
        let lookups = lookups::measure(&global.server, &peers, &bench).await?;
        if !global.common.output.document(&lookups)? {
            output::print(&lookups::table(&lookups))?;
        }
        return Ok(());
    }
    let (plan, skipped) = bench.plan();
    if plan.is_empty() {
        return Err(BenchError::Nothing(skipped.join(", ")));
    }
    let seed = fastrand::u64(..);
    let prefix = format!("bench-{seed:016x}");
    let (target, durability) = match &bench.s3[..] {
        [] => {
            let peers = members(&global.server).await?;
            let addresses = peers.into_iter().map(|p| p.http_address);
            (
                Target::rest(addresses, prefix)?,
                durability(&global.server).await?,
            )
        }
        urls => (Target::s3(urls, &bench.owner(), prefix)?, None),
    };
    let load = Load {
        target,
        content: Content::new(seed),
        verify: !bench.no_verify,
        pids: bench.pid.clone(),
    };
    let session = Session::new(bench, load);
    let measured = tokio::select! {
        measured = session.all(&plan) => measured,
        _ = tokio::signal::ctrl_c() => Err(BenchError::Interrupted),
    };
    // Whatever has ended it: nothing is left behind.
    let removed = session.clean().await;
    let (measurements, failure) = measured?;
    let load = &session.load;
    let report = Report {
        servers: load.target.addresses().map(str::to_owned).collect(),
        durability,
        verified: load.verify,
        measurements,
        skipped,
    };
    if !global.common.output.document(&report)? {
        let wide = global.common.output.is_wide();
        output::print(&stats::table(&report.measurements, wide))?;
        if let Some(durability) = report.durability {
            output::print(&format!("Durability of what was stored: {durability}\n"))?;
        }
    }
    for line in &report.skipped {
        // Nothing is lost when nobody reads it.
        let _ = writeln!(io::stderr(), "not measured: {line}");
    }
    removed?;
    failure.map_or(Ok(()), |last| {
        Err(BenchError::Failed {
            count: report.measurements.iter().map(|m| m.failed).sum(),
            last,
        })
    })
}

/// The active members that serve REST, as a peer knows them.
async fn members(servers: &Servers) -> Result<Vec<PeerInfo>, BenchError> {
    let answer = servers
        .call(async |channel| PeersClient::new(channel).list(ListPeersRequest {}).await)
        .await?;
    let active = answer
        .into_inner()
        .peers
        .into_iter()
        .filter(|p| p.state() == PeerState::Active && !p.http_address.is_empty());
    let active: Vec<PeerInfo> = active.collect();
    if active.is_empty() {
        return Err(BenchError::Nobody);
    }
    Ok(active)
}

/// When the peer that is asked acknowledges a write.
async fn durability(servers: &Servers) -> Result<Option<&'static str>, BenchError> {
    let answer = servers
        .call(async |channel| PeersClient::new(channel).status(StatusRequest {}).await)
        .await?;
    Ok(match answer.into_inner().durability() {
        Durability::Unspecified => None,
        Durability::Synced => Some("synced"),
        Durability::Written => Some("written"),
    })
}

impl Bench {
    fn owner(&self) -> S3 {
        S3 {
            bucket: self.bucket.clone().unwrap_or_default(),
            region: self.region.clone(),
            key: self.key.clone().unwrap_or_default(),
            secret: self.secret.clone().unwrap_or_default(),
        }
    }

    /// Sizes and numbers at once, and what is too much.
    fn plan(&self) -> (Vec<(u64, u32)>, Vec<String>) {
        let all = self
            .size
            .iter()
            .flat_map(|&size| self.concurrency.iter().map(move |&c| (size, c)));
        let (plan, over): (Vec<_>, Vec<_>) =
            all.partition(|(size, c)| size.saturating_mul(u64::from(*c)) <= self.store);
        let over = over.into_iter().map(|(size, c)| {
            format!(
                "{c} times {} is more than the {} of --store",
                bytes(size),
                bytes(self.store)
            )
        });
        (plan, over.collect())
    }
}

/// Bytes, with a binary unit or without.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        unit => {
            return Err(format!(
                "'{unit}' is no unit; write B, KiB, MiB, GiB or TiB"
            ));
        }
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| "write a whole number and a unit, such as 64MiB".to_owned())?;
    count
        .checked_mul(1 << shift)
        .filter(|n| *n <= 1 << 40)
        .ok_or_else(|| "a file has at most 1 TiB".to_owned())
}

/// Seconds of a measurement.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.01..=3600.0).contains(&value) => Ok(value),
        _ => Err("write seconds, from 0.01 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn parse(line: &str) -> Result<Bench, clap::Error> {
        match Args::try_parse_from(line.split_whitespace())?.command {
            Command::Bench(bench) => Ok(*bench),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_short_run_by_default() {
        let bench = parse("peernet bench").unwrap();
        assert_eq!(bench.size, [1 << 10, 1 << 20, 64 << 20]);
        assert_eq!(bench.concurrency, [1, 8]);
        assert_eq!(bench.op, [Op::Put, Op::Get]);
        let (plan, over) = bench.plan();
        assert_eq!((plan.len(), over.len()), (6, 0));
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let bench =
            parse("peernet bench --size 64KiB,512MiB -c 64 --op get --pid 1,2 --seconds 0.5");
        let bench = bench.unwrap();
        assert_eq!(bench.size, [64 << 10, 512 << 20]);
        assert_eq!((bench.pid.len(), bench.seconds), (2, 0.5));
        let (plan, over) = bench.plan();
        assert_eq!(plan, [(64 << 10, 64)]);
        assert_eq!(
            over,
            ["64 times 512.0 MiB is more than the 4.0 GiB of --store"]
        );
    }

    #[test]
    fn wrong_usage_exits_with_two() {
        for line in [
            "peernet bench --size 1kb",
            "peernet bench --size MiB",
            "peernet bench --size -1",
            "peernet bench --size 2TiB",
            "peernet bench --size 99999999999TiB",
            "peernet bench -c 0",
            "peernet bench --seconds 0",
            "peernet bench --seconds NaN",
            "peernet bench --op list",
            "peernet bench --s3 http://127.0.0.1:1",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
