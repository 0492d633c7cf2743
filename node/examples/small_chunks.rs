//! A peer that cuts files into chunks of 1 KiB, far below what is allowed, and is the same in all else: for filling a volume
//! with a million chunks in minutes, as `dev/bench --rest` does. Its volume is any peer's afterwards.

use clap::Parser;
use peernet_node::{Bound, Config};
use tokio::signal::unix::{SignalKind, signal};

/// Bytes of a chunk; on most file systems each takes a block of 4 KiB.
const CHUNK: u32 = 1024;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    settings: Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut setup = Command::parse().settings.check()?;
    setup.chunk_size = CHUNK;
    let mut terminated = signal(SignalKind::terminate())?;
    let stop = async move {
        terminated.recv().await;
    };
    Ok(Bound::open(setup).await?.serve(stop).await?)
}
