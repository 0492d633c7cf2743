//! `peernet up`: a network on this machine, from nothing to "type this next", until ctrl-C.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::args::Up;
use crate::exit::Exit;
use crate::output::{self, counted};
use crate::progress;
use crate::runner::child::{Launch, last_words};
use crate::runner::control;
use crate::runner::home::{Home, HomeError, State, root, socket};
use crate::runner::manifest::{GRPC_PORT, SettleError, read, settle};
use crate::runner::plan::{Progress, Replacement};
use crate::runner::ports::{PortError, Ports};
use crate::runner::{Audience, Runner};

/// A peer that has crashed so often in a row will hardly get better by itself.
const HOPELESS: u32 = 3;

/// Why there is no network, or not any more.
#[derive(Debug, Error)]
pub enum UpError {
    /// What should run is not clear.
    #[error(transparent)]
    Settle(#[from] SettleError),
    /// The directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The ports cannot be had.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// The socket cannot be opened.
    #[error("the socket {} cannot be opened: {reason}{}", .path.display(), shorter(.reason))]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The system refuses something basic.
    #[error("the runner cannot be set up: {0}")]
    Setup(#[source] io::Error),
    /// A peer does not start.
    #[error("{name} does not start; {} says:\n{words}", .log.display())]
    Peer {
        /// Who.
        name: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        words: String,
    },
    /// The process of a peer cannot be started at all; its log can only tell of earlier ones.
    #[error("{0}")]
    Process(String),
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[source] io::Error),
}

/// A path that is too long for a socket is the one thing that another directory mends: this one has the network's files.
fn shorter(reason: &io::Error) -> &'static str {
    if reason.kind() == io::ErrorKind::InvalidInput {
        "; choose a directory with a shorter path with --dir"
    } else {
        ""
    }
}

impl UpError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            UpError::Settle(SettleError::Unreadable { .. }) => Exit::NotFound,
            UpError::Settle(_) | UpError::Ports(_) => Exit::Usage,
            UpError::Home(HomeError::Leftovers(_)) => Exit::Retryable,
            UpError::Home(_)
            | UpError::Socket { .. }
            | UpError::Peer { .. }
            | UpError::Process(_)
            | UpError::Print(_) => Exit::Permanent,
            UpError::Setup(_) => Exit::Fatal,
        }
    }
}

/// Runs the network until a signal comes.
pub async fn run(up: Up) -> Result<(), UpError> {
    let mut stop = Stop::new().map_err(UpError::Setup)?;
    let mut screen = Screen::new("preparing");
    let prepared = tokio::select! {
        prepared = prepare(up) => prepared,
        () = stop.signal() => return Ok(()),
    };
    let mut runner = prepared?;
    let outcome = tokio::select! {
        Err(error) = serve(&mut runner, &mut screen) => Err(error),
        () = stop.signal() => Ok(()),
    };
    end(runner, &mut screen, &mut stop).await;
    outcome
}

async fn prepare(up: Up) -> Result<Runner, UpError> {
    let file = up.file.clone();
    // It may be a pipe into which nobody has written yet.
    let manifest = spawn_blocking(move || read(file.as_deref())).await;
    let manifest = manifest.map_err(|panic| UpError::Setup(io::Error::other(panic)))??;
    let dir = match &up.dir {
        Some(dir) => dir.clone(),
        None => root()?.join(manifest.metadata.name.as_deref().unwrap_or_default()),
    };
    let home = Home::lock(&dir)?;
    let state = settle(&up, manifest, home.load()?)?;
    home.await_leftovers().await?;
    let peers = state.wanted().max(state.running);
    let launch = launch(&state)?;
    launch.ports.check(peers, 0..peers)?;
    home.save(&state)?;
    let (publish, progress) = watch::channel(Progress::default());
    let path = socket(home.dir());
    let asked =
        control::listen(&path, progress).map_err(|reason| UpError::Socket { path, reason })?;
    Ok(Runner::new(home, state, launch, publish, asked))
}

fn launch(state: &State) -> Result<Launch, UpError> {
    let spec = &state.manifest.spec;
    Ok(Launch {
        program: std::env::current_exe().map_err(UpError::Setup)?,
        name: state.name().to_owned(),
        ports: Ports {
            grpc: state.grpc_port,
            http: state.http_port,
        },
        factor: spec.replication.factor,
        write: spec.replication.write,
        durability: spec.durability,
        compression: spec.compression,
        chunk_size: spec.chunk_size,
        grace_seconds: spec.repair.grace_seconds,
    })
}

/// Never returns but by failing.
async fn serve(runner: &mut Runner, screen: &mut Screen) -> Result<(), UpError> {
    let mut announced = false;
    let mut failing = BTreeSet::new();
    loop {
        let progress = runner.round(screen).await;
        let now = hopeless(runner);
        // Without all of its first peers there is no network yet, and nothing to keep up.
        if let Some(ordinal) = now.iter().find(|i| is_needed_to_found(runner, **i)) {
            return Err(does_not_start(runner, *ordinal));
        }
        for ordinal in now.difference(&failing) {
            screen.line(&way_out(runner, *ordinal));
        }
        failing = now;
        if !announced && (progress.serves() || serves_without(runner, &progress, &failing)) {
            announced = true;
            screen.settle();
            output::print(&welcome(runner, &progress)).map_err(UpError::Print)?;
        }
        runner.rest(&progress, screen).await;
    }
}

/// Peers that crash again and again.
fn hopeless(runner: &Runner) -> BTreeSet<u32> {
    let (_, state) = runner.state();
    let crashes = |i: &u32| runner.children().crashes(*i) >= HOPELESS;
    (0..state.running).filter(crashes).collect()
}

/// All volumes are asked which network they remember; then those of leavers do not matter.
fn is_needed_to_found(runner: &Runner, ordinal: u32) -> bool {
    let (_, state) = runner.state();
    !state.founded && (state.network_id.is_none() || ordinal < state.wanted())
}

fn does_not_start(runner: &Runner, ordinal: u32) -> UpError {
    if let Some(why) = runner.unstarted(ordinal) {
        return UpError::Process(why.to_owned());
    }
    let (home, state) = runner.state();
    let log = home.log(ordinal);
    UpError::Peer {
        name: format!("{}-{ordinal}", state.name()),
        words: last_words(&log),
        log,
    }
}

/// What to do about a peer that does not start, while the others serve.
fn way_out(runner: &Runner, ordinal: u32) -> String {
    // Neither its volume nor what its log says of earlier has a part in that.
    if let Some(why) = runner.unstarted(ordinal) {
        return format!("{why}, again and again; its volume is not the cause");
    }
    let (home, state) = runner.state();
    let (name, log) = (format!("{}-{ordinal}", state.name()), home.log(ordinal));
    let words = last_words(&log);
    let last = words.lines().last().unwrap_or_default();
    let why = if last.is_empty() {
        format!("its log is {}", log.display())
    } else {
        last.trim_start_matches("error: ").to_owned()
    };
    // One that is to leave, or is being replaced already, is not replaced.
    let replaced = state.replacing.as_ref().map(|r| r.ordinal) == Some(ordinal);
    if ordinal >= state.wanted() || replaced {
        return format!("{name} does not start: {why}");
    }
    format!(
        "{name} does not start: {why}; if its volume is gone: {} replace {name}",
        called_as()
    )
}

/// All wanted peers serve, and no other is left, but those that do not start.
fn serves_without(runner: &Runner, progress: &Progress, failing: &BTreeSet<u32>) -> bool {
    let (_, state) = runner.state();
    let name = |i: &u32| format!("{}-{i}", state.name());
    let names: BTreeSet<String> = failing.iter().map(name).collect();
    let waiting = progress.waiting.iter().map(|w| &w.name);
    let mut others = waiting.chain(progress.leaving.iter().map(|l| &l.name));
    progress.ready > 0 && others.all(|name| names.contains(name))
}

async fn end(runner: Runner, screen: &mut Screen, stop: &mut Stop) {
    let (home, state) = runner.state();
    let dir = home.dir().to_owned();
    screen.line(&format!("ending {}", counted(state.running.into(), "peer")));
    // Asked a second time, the peers are killed: what they acknowledged is on disk.
    tokio::select! {
        () = runner.stop() => {}
        () = stop.signal() => {}
    }
    screen.settle();
    screen.line(&format!(
        "the files stay in {dir}: the same command brings the network back, `rm -r {dir}` removes it",
        dir = dir.display()
    ));
}

/// Who is where, and what to type next.
fn welcome(runner: &Runner, progress: &Progress) -> String {
    let (home, state) = runner.state();
    let ports = runner.children().launch().ports;
    let factor = state.manifest.spec.replication.factor;
    let me = called_as();
    let copies = if factor == 1 {
        "1 copy".to_owned()
    } else {
        format!("{factor} copies")
    };
    let mut text = format!(
        "{}: {} in {}, {copies} of every file\n\n",
        state.name(),
        counted(state.wanted().into(), "peer"),
        counted(state.zones.min(state.wanted()).into(), "zone")
    );
    text += &output::table(
        &["NAME", "ZONE", "GRPC", "REST", "PROCESS"],
        runner.places(),
    );
    text += "\nIn another terminal:\n";
    // Two that serve; of a single one, the same.
    let serves = |ordinal: &u32| {
        let name = format!("{}-{ordinal}", state.name());
        progress.waiting.iter().all(|w| w.name != name)
    };
    let mut serving = (0..state.wanted()).filter(serves);
    let first = serving.next().unwrap_or_default();
    let last = ports.http(serving.next_back().unwrap_or(first));
    if ports.grpc != GRPC_PORT || first != 0 {
        text += &format!("  export PEERNET_SERVER=http://{}\n", ports.grpc(first));
    }
    text += &format!(
        "  {me} put README.md\n  \
           {me} get README.md copy.md\n  \
           curl -T README.md http://{first}/v1/files/README.md\n  \
           curl http://{last}/v1/files/README.md\n  \
           {me} status\n  \
           {me} scale {more}\n\n",
        first = ports.http(first),
        more = state.wanted() + 2,
    );
    text + &format!(
        "Volumes and logs are in {}. Ctrl-C ends the peers and keeps them.\n",
        home.dir().display()
    )
}

/// This program as the user called it: `peernet` if the shell found it, else its path.
fn called_as() -> String {
    let name = std::env::args_os()
        .next()
        .map(PathBuf::from)
        .unwrap_or_default();
    if name.parent().is_none_or(|p| p == Path::new("")) {
        "peernet".to_owned()
    } else {
        name.display().to_string()
    }
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Standard error: a spinner while something is under way, lines for what stays to be read.
struct Screen {
    bar: ProgressBar,
    terminal: bool,
    /// Ready, wanted and leaving peers in the last line, when there is no terminal.
    said: (u32, u32, usize),
}

impl Screen {
    fn new(sentence: &str) -> Self {
        Screen {
            bar: progress::spinner(sentence),
            terminal: io::stderr().is_terminal(),
            said: (0, 0, 0),
        }
    }

    fn settle(&self) {
        self.bar.finish_and_clear();
    }
}

impl Audience for Screen {
    fn line(&mut self, line: &str) {
        if self.terminal && !self.bar.is_finished() {
            self.bar.println(line);
        } else {
            say(line);
        }
    }

    fn progress(&mut self, progress: &Progress) {
        if self.terminal && !self.bar.is_finished() {
            self.bar.set_message(sentence(progress));
            return;
        }
        // Every step of a drain or of catching up would be too much; `peernet scale` and `status` show them.
        let milestone = (progress.ready, progress.wanted, progress.leaving.len());
        if milestone != self.said {
            self.said = milestone;
            say(&sentence(progress));
        }
    }
}

/// A line on standard error. Whoever reads it may be gone, and that must not end the peers.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// How far the network is, in one line.
pub(crate) fn sentence(progress: &Progress) -> String {
    let Progress {
        wanted,
        running: _,
        ready,
        waiting,
        leaving,
        busy,
        replacement,
        settled: _,
    } = progress;
    let under_way = replacement.as_ref().filter(|r| !r.over);
    if let Some(Replacement { name, sentence, .. }) = under_way {
        return format!("replacing {name}: {sentence}");
    }
    if progress.serves() {
        let moving = if *busy > 0 {
            format!("; {} still moving", counted((*busy).into(), "slot"))
        } else {
            String::new()
        };
        return match wanted {
            1 => format!("the one peer is ready{moving}"),
            _ => format!("all {wanted} peers are ready{moving}"),
        };
    }
    let mut parts = vec![format!(
        "{ready} of {} ready",
        counted((*wanted).into(), "peer")
    )];
    // The first few say enough.
    parts.extend(
        waiting
            .iter()
            .take(3)
            .map(|w| format!("{}: {}", w.name, w.reason)),
    );
    let staying = leaving.iter().filter(|l| !l.blocker.is_empty());
    let (slots, bytes) = leaving.iter().fold((0, 0), |(s, b), l| {
        (s + u64::from(l.slots_left), b + l.bytes_left)
    });
    if !leaving.is_empty() {
        parts.push(format!(
            "{} leaving, {} and {} to hand over",
            leaving.len(),
            counted(slots, "slot"),
            output::bytes(bytes)
        ));
    }
    parts.extend(
        staying
            .take(1)
            .map(|l| format!("{}: {}", l.name, l.blocker)),
    );
    parts.join("; ")
}

#[cfg(test)]
mod tests;
