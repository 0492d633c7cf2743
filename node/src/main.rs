//! `peernet-node`: one peer as a process.

use std::env;
use std::io::{self, IsTerminal, Write};

use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser};
use peernet_node::config::sources::{Setting, Sources, named};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A peer of a PeerNet network.
#[derive(Parser)]
#[command(name = "peernet-node", version)]
struct Command {
    #[command(flatten)]
    settings: peernet_node::Config,
    /// File of settings, each under its flag's name; the environment and flags win over it
    #[arg(long, env = "PEERNET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force and where each comes from, and end
    #[arg(long)]
    print_config: bool,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(perform());
    // A volume that is still being opened cannot be interrupted; do not wait for it.
    runtime.shutdown_background();
    done
}

async fn perform() -> anyhow::Result<()> {
    let Some(settings) = settings()? else {
        return Ok(());
    };
    start_log();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let shutdown = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    Ok(peernet_node::run(settings, shutdown).await?)
}

/// The settings in force; none where they were only to be printed. The descriptions of all flags and sources, some hundreds
/// of kilobytes, end with this.
fn settings() -> anyhow::Result<Option<peernet_node::Config>> {
    let file = named(env::args_os(), "PEERNET_CONFIG");
    let sources = Sources::read(&Command::command(), file.as_deref(), Path::new(".env"))?;
    let command = sources.under(Command::command());
    let matches = command.clone().get_matches();
    if matches.get_flag("print_config") {
        print(&sources.in_force(&command, &matches))?;
        return Ok(None);
    }
    let Command { settings, .. } = Command::from_arg_matches(&matches)?;
    Ok(Some(settings))
}

/// One line each: name, value, origin.
fn print(settings: &[Setting]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for Setting {
        setting,
        value,
        origin,
    } in settings
    {
        let value = value.as_deref().unwrap_or("-");
        writeln!(out, "{setting}\t{value}\t{origin}")?;
    }
    out.flush()
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
