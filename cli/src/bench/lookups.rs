//! Lookups: who holds the key of a name or a chunk?
//!
//! A peer knows the configuration of all slots, so whoever asks any peer is told at once: a lookup takes one hop, and its cost
//! is that of one question. Questions for many keys show what a peer's table of routes itself can do, questions for one key
//! what a hop costs; the call that does nothing ([`super::limits`]) is what to compare it with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peernet_proto::v1::peers_client::PeersClient;
use peernet_proto::v1::{LookupRequest, PeerInfo};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::stats::{Tally, significant};
use super::usage;
use super::{Bench, BenchError};
use crate::output;
use crate::servers::{Connection, Servers, connect};

/// How long a connection may take (guess: as elsewhere).
const CONNECT: Duration = Duration::from_secs(3);

/// So many keys a question, so many questions at once.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lookups {
    /// Keys in each question.
    keys: u32,
    /// Questions under way at any time.
    concurrency: u32,
    /// Peers of the network, as many as are asked.
    peers: usize,
    /// Keys looked up a second.
    lookups_per_second: f64,
    /// Time that half of the questions stayed below, in milliseconds.
    p50_ms: f64,
    /// Time that 99 in 100 stayed below, in milliseconds.
    p99_ms: f64,
    /// CPU time of this process, in microseconds per question.
    client_cpu_micros: f64,
    /// CPU time of the watched servers, in microseconds per question.
    server_cpu_micros: Option<f64>,
}

/// Measures every number of keys with every number of questions at once.
pub(super) async fn measure(
    servers: &Servers,
    peers: &[PeerInfo],
    bench: &Bench,
) -> Result<Vec<Lookups>, BenchError> {
    let mut connections = Vec::new();
    for peer in peers {
        let address = servers.way().address(peer);
        connections.push(connect(servers.way(), &address, CONNECT).await?);
    }
    let connections = Arc::new(connections);
    let mut measured = Vec::new();
    for &keys in &bench.lookups {
        for &concurrency in &bench.concurrency {
            let time = Duration::from_secs_f64(bench.seconds);
            measured.push(ask(&connections, keys, concurrency, time, &bench.pid).await?);
        }
    }
    Ok(measured)
}

async fn ask(
    connections: &Arc<Vec<Connection>>,
    keys: u32,
    concurrency: u32,
    time: Duration,
    pids: &[u32],
) -> Result<Lookups, BenchError> {
    let servers = usage::of(pids)?;
    let (cpu, begin) = (usage::own_cpu(), Instant::now());
    let mut workers = JoinSet::new();
    for number in 0..concurrency as usize {
        let connections = connections.clone();
        workers.spawn(async move {
            let connection = &connections[number % connections.len()];
            let asked = until(connection.channel.clone(), keys, begin + time).await;
            asked.map_err(|status| connection.refused(status))
        });
    }
    let mut tally = Tally::new();
    while let Some(asked) = workers.join_next().await {
        tally.join(&asked.expect("a worker does not panic")?);
    }
    let (spent, took) = (usage::own_cpu() - cpu, begin.elapsed().as_secs_f64());
    let questions = tally.count() as f64;
    let servers = usage::of(pids)?.cpu_seconds - servers.cpu_seconds;
    Ok(Lookups {
        keys,
        concurrency,
        peers: connections.len(),
        lookups_per_second: questions * f64::from(keys) / took,
        p50_ms: tally.millis(0.5),
        p99_ms: tally.millis(0.99),
        client_cpu_micros: spent * 1e6 / questions,
        server_cpu_micros: (!pids.is_empty()).then_some(servers * 1e6 / questions),
    })
}

/// Asks for keys that were made up, one question after the other, at least once.
async fn until(channel: Channel, keys: u32, end: Instant) -> Result<Tally, tonic::Status> {
    let mut client = PeersClient::new(channel);
    let mut random = fastrand::Rng::new();
    let mut tally = Tally::new();
    loop {
        let key = |_| {
            let mut key = vec![0; 32];
            random.fill(&mut key);
            key.into()
        };
        let keys: Vec<_> = (0..keys).map(key).collect();
        let asked = keys.len();
        let begin = Instant::now();
        let answer = client.lookup(LookupRequest { keys }).await?.into_inner();
        tally.done(begin.elapsed(), 0);
        if answer.located.len() != asked || answer.located.iter().any(|l| l.holders.is_empty()) {
            return Err(tonic::Status::data_loss(
                "a key that was asked for is held by nobody",
            ));
        }
        if Instant::now() >= end {
            return Ok(tally);
        }
    }
}

/// For people.
pub(super) fn table(measured: &[Lookups]) -> String {
    let header = [
        "KEYS>",
        "C>",
        "PEERS>",
        "LOOKUPS/S>",
        "P50 MS>",
        "P99 MS>",
        "CLIENT US/QUESTION>",
        "SERVERS US/QUESTION>",
    ];
    let row = |l: &Lookups| {
        vec![
            l.keys.to_string(),
            l.concurrency.to_string(),
            l.peers.to_string(),
            significant(l.lookups_per_second),
            significant(l.p50_ms),
            significant(l.p99_ms),
            significant(l.client_cpu_micros),
            l.server_cpu_micros.map_or_else(|| "-".into(), significant),
        ]
    };
    output::table(&header, measured.iter().map(row))
}
