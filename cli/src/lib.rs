//! The `peernet` command: a client of any peer over gRPC, and a runner of peers on one machine without Kubernetes.
//!
//! Client: [`servers`] finds a peer that answers; [`put`], [`get`], [`names`], [`explain`], [`search`], [`status`] and [`ring`] each perform one
//! command; [`share`] is about files that stay with a peer, with [`who`] and [`watch`]; [`bench`] measures;
//! [`output`] and [`progress`] are what a person or a script sees of it. Runner: [`runner`] acts on processes the way
//! the operator acts on pods, [`up`] starts it; [`scale`], [`replace`] and [`recover`]
//! talk to one that runs. [`menu`] is all of it on a full screen, [`manual`] its completions and man pages. [`kubectl`] is the same program as a plugin
//! of kubectl. [`exit`] maps every failure to an
//! exit code.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use peernet_node::config::sources::Setting;
use thiserror::Error;

use crate::args::{Args, Command, Global, Shared};
use crate::exit::Exit;
use crate::kubectl::{Plugin, Work};
use crate::settings::Line;

pub mod args;
pub mod bench;
pub mod exit;
pub mod explain;
pub mod get;
pub mod kubectl;
pub mod manual;
pub mod menu;
pub mod names;
pub mod output;
pub mod pattern;
pub mod prefetch;
pub mod progress;
pub mod put;
pub mod recover;
pub mod replace;
pub mod ring;
pub mod runner;
pub mod scale;
pub mod search;
pub mod servers;
pub mod settings;
pub mod share;
pub mod status;
pub mod up;
pub mod watch;
pub mod who;

/// Why the command failed; each variant carries its own words.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Put(#[from] put::PutError),
    #[error(transparent)]
    Get(#[from] get::GetError),
    #[error(transparent)]
    Kubectl(#[from] kubectl::KubectlError),
    #[error(transparent)]
    Manual(#[from] manual::ManualError),
    #[error(transparent)]
    Menu(#[from] menu::MenuError),
    #[error(transparent)]
    Names(#[from] names::NamesError),
    #[error(transparent)]
    Search(#[from] search::SearchError),
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    #[error(transparent)]
    Share(#[from] share::ShareError),
    #[error(transparent)]
    Status(#[from] status::StatusError),
    #[error(transparent)]
    Up(#[from] up::UpError),
    #[error(transparent)]
    Scale(#[from] scale::ScaleError),
    #[error(transparent)]
    Recover(#[from] recover::RecoverError),
    #[error(transparent)]
    Peer(#[from] runner::child::PeerError),
    #[error("the runtime cannot start: {0}")]
    Runtime(#[source] std::io::Error),
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Failure::Bench(e) => e.exit(),
            Failure::Put(e) => e.exit(),
            Failure::Get(e) => e.exit(),
            Failure::Kubectl(e) => e.exit(),
            Failure::Manual(e) => e.exit(),
            Failure::Menu(e) => e.exit(),
            Failure::Names(e) => e.exit(),
            Failure::Search(e) => e.exit(),
            Failure::Settings(e) => e.exit(),
            Failure::Share(e) => e.exit(),
            Failure::Status(e) => e.exit(),
            Failure::Up(e) => e.exit(),
            Failure::Scale(e) => e.exit(),
            Failure::Recover(e) => e.exit(),
            Failure::Peer(_) | Failure::Runtime(_) => Exit::Fatal,
        }
    }
}

/// Parses the command line, performs it and says how it went.
pub fn main() -> ExitCode {
    let done = if kubectl::is_called() {
        settings::line()
            .map_err(Failure::from)
            .and_then(|line| block_on(perform_in_cluster(line)))
    } else {
        settings::line()
            .map_err(Failure::from)
            .and_then(|line| block_on(perform(line)))
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            // A closed standard error leaves only the exit code to tell.
            let words = output::visible_lines(&failure.to_string());
            let _ = writeln!(std::io::stderr(), "error: {words}");
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn block_on(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let done = runtime.block_on(work);
    // A read of standard input cannot be interrupted; do not wait for it.
    runtime.shutdown_background();
    done
}

async fn perform_in_cluster(line: Line<Plugin>) -> Result<ExitCode, Failure> {
    match kubectl::prepare(line.args).await? {
        Work::Shared(shared) => {
            let (global, command) = *shared;
            perform_shared(&global, command, &line.settings).await
        }
        Work::Done(code) => Ok(code),
    }
}

async fn perform(line: Line<Args>) -> Result<ExitCode, Failure> {
    let Args { global, command } = line.args;
    match command {
        Command::Shared(command) => return perform_shared(&global, command, &line.settings).await,
        Command::Bench(command) => bench::run(&global, *command).await?,
        Command::Up(command) => up::run(command).await?,
        Command::Scale(command) => return Ok(scale::run(&global, command).await?),
        Command::Replace(command) => replace::run(&global, command).await?,
        Command::Recover(command) => return Ok(recover::run(&global, command).await?),
        Command::Peer(peer) => runner::child::run(*peer).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn perform_shared(
    global: &Global,
    command: Shared,
    settings: &[Setting],
) -> Result<ExitCode, Failure> {
    match command {
        Shared::Put(command) => put::run(global, command).await?,
        Shared::Get(command) => get::run(global, command).await?,
        Shared::Ls(command) => names::list(global, command).await?,
        Shared::Search(command) => search::run(global, command).await?,
        Shared::Rm(command) => names::remove(global, command).await?,
        Shared::Pin(command) => names::pin(global, command).await?,
        Shared::Unpin(command) => names::unpin(global, command).await?,
        Shared::Mv(command) => names::rename(global, command).await?,
        Shared::Explain(command) => explain::run(global, command).await?,
        Shared::Peers => status::peers(global).await?,
        Shared::Ring => ring::run(global).await?,
        Shared::Status(command) => return Ok(status::run(global, command).await?),
        Shared::Sharing(command) => share::run(global, command).await?,
        Shared::Menu => menu::run(global).await?,
        Shared::Config => return Ok(settings::print(settings, global.common.output)?),
        Shared::Completions(command) => manual::completions(&command)?,
        Shared::Man(command) => manual::pages(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}
