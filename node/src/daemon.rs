//! A whole peer: volume, state machine and servers, from start to stop.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, ConfigError, Setup};
use crate::disk::{self, OpenError};
use crate::driver::Failure;
use crate::shares::shelf::Shelf;
use crate::{grpc, http};

mod life;

pub use life::AssignError;
use life::LAST_COMMIT;
pub(crate) use life::{Life, NotServing, Remembered, Running};

/// How long requests under way may take to finish when the peer stops.
const FINISH: Duration = Duration::from_secs(15);
/// How long the connections of each of two servers may take to close after that.
const CLOSE: Duration = Duration::from_secs(3);
/// A peer that is told to stop has ended after this, if its disk answers: 15 + 3 + 3 + 10 = 31 seconds. Whoever ends one grants
/// more than that: its runner 35 seconds, a pod 45.
pub const ENDS_IN: Duration =
    Duration::from_secs(FINISH.as_secs() + 2 * CLOSE.as_secs() + LAST_COMMIT.as_secs());

/// Why a peer cannot start, or had to stop.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The flags make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The volume cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Someone else listens there, or it is not an address of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The network given by the flags is not to be joined.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The peer cannot go on.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Grpc(String),
}

/// Runs a peer until `shutdown` is ready, then finishes what is under way and closes the volume.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
    let setup = config.check()?;
    let mut shutdown = pin!(shutdown);
    let bound = tokio::select! {
        biased;
        // The volume is as after a crash then: its thread ends with the process.
        () = &mut shutdown => return Ok(()),
        bound = Bound::open(setup) => bound?,
    };
    bound.serve(shutdown).await
}

/// A peer whose volume is open and whose ports are taken, but which does not serve yet.
pub struct Bound {
    life: Arc<Life>,
    failures: mpsc::Receiver<Failure>,
    grpc: TcpListener,
    http: TcpListener,
    /// Where gRPC is served.
    pub grpc_address: SocketAddr,
    /// Where HTTP is served.
    pub http_address: SocketAddr,
}

impl Bound {
    /// Opens the volume and takes the ports; port 0 takes any free one.
    pub async fn open(setup: Setup) -> Result<Self, DaemonError> {
        if !setup.faults.is_none() {
            warn!(faults = ?setup.faults, "this peer fails on purpose");
        }
        let (dir, reserve) = (setup.data_dir.clone(), setup.disk_reserve_percent);
        let (durability, plan) = (setup.durability, setup.faults.disk);
        let opened = spawn_blocking(move || {
            // The store first: it keeps a second process away from all the rest.
            let (store, files) = disk::open_with(&dir, reserve, durability, plan)?;
            Ok::<_, OpenError>((store, files, Shelf::open(&dir, reserve)?))
        });
        let (store, files, shelf) = opened.await.map_err(|_| Failure::Panicked)??;
        let (grpc, grpc_address) = listen(setup.grpc_listen).await?;
        let (http, http_address) = listen(setup.http_listen).await?;
        let (failed, failures) = mpsc::channel(1);
        let life = Life::new(
            setup,
            grpc_address.port(),
            http_address.port(),
            store,
            files,
            shelf,
            failed,
        )?;
        Ok(Bound {
            life: Arc::new(life),
            failures,
            grpc,
            http,
            grpc_address,
            http_address,
        })
    }

    /// Serves until `shutdown` is ready or the peer cannot go on.
    pub async fn serve(mut self, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
        let life = self.life;
        let name = &life.setup().name;
        info!(name, grpc = %self.grpc_address, http = %self.http_address, "peer starts");
        if let Some(place) = life.place() {
            life.assign(place).await?;
        } else {
            info!(name, "waiting for an assignment");
        }
        let (stop_http, stop_grpc) = (CancellationToken::new(), CancellationToken::new());
        let http = tokio::spawn(http::serve(self.http, life.clone(), stop_http.clone()));
        let mut grpc = tokio::spawn(grpc::serve(self.grpc, life.clone(), stop_grpc.clone()));
        let result = tokio::select! {
            () = shutdown => Ok(()),
            Some(failure) = self.failures.recv() => Err(failure.into()),
            reason = life.chunks_failed() => Err(Failure::Chunks(reason).into()),
            ended = &mut grpc => Err(DaemonError::Grpc(match ended {
                Ok(Ok(())) => "it ended".into(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            })),
        };
        info!(name, "peer stops");
        // Clients first: what they wait for may still need messages from other peers, which come by gRPC.
        life.refuse_clients();
        stop_http.cancel();
        if result.is_ok() && timeout(FINISH, life.clients_done()).await.is_err() {
            warn!(
                name,
                "some requests took too long to finish and are cut off"
            );
        }
        close(http, "HTTP").await;
        stop_grpc.cancel();
        if !grpc.is_finished() {
            close(grpc, "gRPC").await;
        }
        life.end().await;
        result
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), DaemonError> {
    let failed = |source| DaemonError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Waits for a server to close its connections, but not for ever.
async fn close<T>(mut server: JoinHandle<T>, name: &str) {
    if timeout(CLOSE, &mut server).await.is_err() {
        warn!("some {name} connections did not close in time");
        server.abort();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: Config,
    }

    #[tokio::test]
    async fn a_peer_that_is_told_to_stop_does_not_wait_for_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        // It could not listen, if it came to that.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let flags = [
            "peer",
            "--name",
            "p-0",
            "--await-assignment",
            "--data-dir",
            dir.path().to_str().unwrap(),
            "--grpc-listen",
            &address,
        ];
        let config = |flags| Flags::try_parse_from(flags).unwrap().config;
        run(config(flags), async {}).await.unwrap();
        let listens = run(config(flags), std::future::pending()).await;
        assert!(matches!(listens, Err(DaemonError::Listen { .. })));
    }
}
