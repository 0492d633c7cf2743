//! `peernet-node`: one peer as a process.

use std::env;
use std::io::{self, IsTerminal};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A peer of a PeerNet network.
#[derive(Parser)]
#[command(name = "peernet-node", version)]
struct Command {
    #[command(flatten)]
    config: peernet_node::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command { config } = Command::parse();
    start_log();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let shutdown = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    Ok(peernet_node::run(config, shutdown).await?)
}

/// `RUST_LOG` chooses what is logged, `PEERNET_LOG_JSON` (not empty) how.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if env::var_os("PEERNET_LOG_JSON").is_some_and(|v| !v.is_empty()) {
        log.json().init();
    } else {
        log.with_ansi(io::stderr().is_terminal()).init();
    }
}
