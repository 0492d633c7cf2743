//! What a remote procedure call costs that does nothing: a small request and an empty answer over loopback, with the
//! same client, server and settings as peers use among themselves. No operation on peers can cost less.

use std::io;
use std::time::{Duration, Instant};

use peernet_proto::v1;
use peernet_proto::v1::search_client::SearchClient;
use peernet_proto::v1::search_server::{Search, SearchServer};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::bench::usage::own_cpu;

/// Calls at once where their CPU time is measured: as many as in the loads it is compared with.
const AT_ONCE: u32 = 8;

/// What was measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Unary {
    /// Time of one call when there are no others: the median, in milliseconds.
    pub(super) p50_ms: f64,
    /// Calls per second, [`AT_ONCE`] at once over one connection.
    pub(super) per_second: f64,
    /// The same: CPU time of both ends, in microseconds per call.
    pub(super) cpu_micros: f64,
}

/// Takes a little more than twice `time`. Blocks; not to be called from asynchronous code.
pub(super) fn measure(time: Duration) -> io::Result<Unary> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(calls(time))
}

async fn calls(time: Duration) -> io::Result<Unary> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let server = Server::builder()
        .tcp_nodelay(true)
        .add_service(SearchServer::new(Nothing))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let mut serving = JoinSet::new();
    serving.spawn(server);
    let endpoint = Endpoint::from_shared(address).map_err(io::Error::other)?;
    let channel = endpoint.tcp_nodelay(true).connect().await;
    let client = SearchClient::new(channel.map_err(io::Error::other)?);

    let mut alone = until(client.clone(), Instant::now() + time).await?;
    alone.sort_unstable();
    let p50 = alone[alone.len() / 2];

    let (cpu, begin) = (own_cpu(), Instant::now());
    let mut callers = JoinSet::new();
    for _ in 0..AT_ONCE {
        callers.spawn(until(client.clone(), begin + time));
    }
    let mut count = 0;
    while let Some(called) = callers.join_next().await {
        count += called.map_err(io::Error::other)??.len();
    }
    let (spent, took) = (own_cpu() - cpu, begin.elapsed());
    Ok(Unary {
        p50_ms: p50.as_secs_f64() * 1e3,
        per_second: count as f64 / took.as_secs_f64(),
        cpu_micros: spent * 1e6 / count as f64,
    })
}

/// Calls one after the other, at least once; the time of each.
async fn until(mut client: SearchClient<Channel>, end: Instant) -> io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    while times.is_empty() || Instant::now() < end {
        let begin = Instant::now();
        let request = v1::FindRequest {
            query: "some words that nobody looks for, as many as a message has bytes".into(),
            ..Default::default()
        };
        client.find(request).await.map_err(io::Error::other)?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

/// Finds nothing.
struct Nothing;

#[tonic::async_trait]
impl Search for Nothing {
    async fn find(
        &self,
        _: Request<v1::FindRequest>,
    ) -> Result<Response<v1::FindResponse>, Status> {
        Ok(Response::new(v1::FindResponse::default()))
    }
}
