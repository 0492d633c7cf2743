//! `peernet scale`: asks a running `peernet up` for another number of peers and watches it get there.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::args::{Global, Scale};
use crate::exit::{Exit, INTERRUPTED};
use crate::output;
use crate::progress;
use crate::runner::control::{Event, Request};
use crate::runner::home::{HomeError, root, socket};
use crate::runner::plan::Progress;
use crate::up::sentence;

/// How long the runner may take to say how it takes a request up: the longest of its rounds, in which no peer answers any of
/// four questions within five seconds, twice, and some.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the number of peers was not changed.
#[derive(Debug, Error)]
pub enum ScaleError {
    /// No runner is there.
    #[error(
        "no `peernet up` runs in {}; start one, or name its directory with --dir (in Kubernetes: {instead})",
        .dir.display()
    )]
    NoRunner {
        /// Where it was looked for.
        dir: PathBuf,
        /// What to type in Kubernetes.
        instead: String,
    },
    /// Several are.
    #[error("several networks run here: {}; name one with --dir", .0.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "))]
    Several(Vec<PathBuf>),
    /// It is not clear where to look.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The runner refused.
    #[error("{0}")]
    Refused(String),
    /// Someone else wants another number.
    #[error("someone has asked for {0} peers meanwhile")]
    Superseded(u32),
    /// The runner ended first.
    #[error("the runner ended before that was done; `peernet up` goes on with it")]
    Stopped,
    /// The runner says nothing.
    #[error("the runner does not answer; try again")]
    Silent,
    /// The conversation broke.
    #[error("the conversation with the runner broke: {0}; try again")]
    Talk(#[source] io::Error),
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[source] io::Error),
}

impl ScaleError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            ScaleError::NoRunner { .. } => Exit::NotFound,
            ScaleError::Several(_) | ScaleError::Refused(_) | ScaleError::Home(_) => Exit::Usage,
            ScaleError::Superseded(_) | ScaleError::Print(_) => Exit::Permanent,
            ScaleError::Stopped | ScaleError::Silent | ScaleError::Talk(_) => Exit::Retryable,
        }
    }
}

/// Changes the number of peers and waits until that is done; ctrl-C stops only the waiting.
pub async fn run(global: &Global, scale: Scale) -> Result<ExitCode, ScaleError> {
    let Scale { peers, dir } = scale;
    let instead = format!("kubectl scale pn/NAME --replicas={peers}");
    let stream = find(dir.as_deref(), instead).await?;
    tokio::select! {
        done = watch(stream, Request::Scale { peers }) => {
            let progress = done?;
            if !global.common.output.document(&progress).map_err(ScaleError::Print)? {
                output::print(&format!("{}\n", sentence(&progress))).map_err(ScaleError::Print)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        _ = tokio::signal::ctrl_c() => {
            // Nothing is lost when nobody reads it.
            let _ = writeln!(io::stderr(), "it goes on without this command; `peernet scale {peers}` shows how far it is");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// Connects to the runner of that directory, or to the only one there is.
pub(crate) async fn find(dir: Option<&Path>, instead: String) -> Result<UnixStream, ScaleError> {
    if let Some(dir) = dir {
        let none = |_| ScaleError::NoRunner {
            dir: dir.to_owned(),
            instead,
        };
        return UnixStream::connect(socket(dir)).await.map_err(none);
    }
    let root = root()?;
    let mut found = Vec::new();
    // A directory that does not exist holds no runners.
    for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
        // Sockets that nobody listens on were left by runners that ended.
        if let Ok(stream) = UnixStream::connect(socket(&entry.path())).await {
            found.push((entry.path(), stream));
        }
    }
    match found.pop() {
        None => Err(ScaleError::NoRunner { dir: root, instead }),
        Some((_, stream)) if found.is_empty() => Ok(stream),
        Some((last, _)) => Err(ScaleError::Several(
            found.into_iter().map(|(d, _)| d).chain([last]).collect(),
        )),
    }
}

/// A conversation with a runner.
pub(crate) struct Talk {
    lines: Lines<BufReader<OwnedReadHalf>>,
    // Kept open: the runner sees by it that somebody listens.
    _output: OwnedWriteHalf,
    /// It has said something.
    answered: bool,
}

impl Talk {
    pub(crate) async fn begin(stream: UnixStream, request: &Request) -> Result<Self, ScaleError> {
        let (input, mut output) = stream.into_split();
        let request = serde_json::to_string(request).expect("a request is plain data");
        output
            .write_all(format!("{request}\n").as_bytes())
            .await
            .map_err(ScaleError::Talk)?;
        Ok(Talk {
            lines: BufReader::new(input).lines(),
            _output: output,
            answered: false,
        })
    }

    pub(crate) async fn next(&mut self) -> Result<Event, ScaleError> {
        let line = self.lines.next_line();
        // After that it tells of changes only, and there may be none for long.
        let line = if self.answered {
            line.await
        } else {
            timeout(PATIENCE, line)
                .await
                .map_err(|_| ScaleError::Silent)?
        };
        let line = line.map_err(ScaleError::Talk)?;
        self.answered = true;
        let line = line.ok_or(ScaleError::Stopped)?;
        serde_json::from_str(&line).map_err(|e| ScaleError::Talk(e.into()))
    }
}

/// Asks, and shows how far it is until it is done.
pub(crate) async fn watch(stream: UnixStream, request: Request) -> Result<Progress, ScaleError> {
    let mut talk = Talk::begin(stream, &request).await?;
    let mut screen = Screen::new();
    loop {
        match talk.next().await? {
            Event::Accepted { from, to } => screen.accepted(from, to),
            Event::Refused { reason } => return Err(ScaleError::Refused(reason)),
            Event::Progress(progress) => screen.show(&progress),
            Event::Done(progress) => return Ok(progress),
            Event::Superseded { wanted } => return Err(ScaleError::Superseded(wanted)),
            Event::Stopping => return Err(ScaleError::Stopped),
            Event::Replacing { peer } => {
                screen.say(format!("replacing {peer}; ctrl-C leaves it running"));
            }
            Event::Loss(_) => {}
        }
    }
}

/// A bar of the slots that are handed over, or a line per step when standard error is no terminal.
struct Screen {
    bar: indicatif::ProgressBar,
    terminal: bool,
    /// The most slots that were left at any time: the whole task.
    most: u64,
    said: String,
}

impl Screen {
    fn new() -> Self {
        Screen {
            bar: progress::spinner("asking the runner"),
            terminal: io::stderr().is_terminal(),
            most: 0,
            said: String::new(),
        }
    }

    fn say(&mut self, line: String) {
        if self.terminal {
            self.bar.println(line);
        } else if line != self.said {
            // Nothing is lost when nobody reads it.
            let _ = writeln!(io::stderr(), "{line}");
            self.said = line;
        }
    }

    fn accepted(&mut self, from: u32, to: u32) {
        if from != to {
            self.say(format!(
                "scaling from {from} to {to} peers; ctrl-C leaves it running"
            ));
        }
    }

    fn show(&mut self, progress: &Progress) {
        if !self.terminal {
            self.say(sentence(progress));
            return;
        }
        let left: u64 = progress
            .leaving
            .iter()
            .map(|l| u64::from(l.slots_left))
            .sum();
        if self.most == 0 && left > 0 {
            self.bar.finish_and_clear();
            self.bar = progress::slots(left);
        }
        // What the leavers hand over grows at first, while the ring finds out where it should go.
        self.most = self.most.max(left);
        if self.most > 0 {
            self.bar.set_length(self.most);
            self.bar.set_position(self.most - left);
        }
        self.bar.set_message(if left > 0 {
            handover(progress)
        } else {
            sentence(progress)
        });
    }
}

/// What the bar does not show: bytes, and the first thing that is waited for.
fn handover(progress: &Progress) -> String {
    let bytes = progress.leaving.iter().map(|l| l.bytes_left).sum();
    let mut text = format!("{} left", output::bytes(bytes));
    if let Some(first) = progress.leaving.iter().find(|l| !l.blocker.is_empty()) {
        text += &format!("; {}: {}", first.name, first.blocker);
    }
    text
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_runner_the_way_out_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let instead = "kubectl scale pn/NAME --replicas=7".to_owned();
        let error = find(Some(dir.path()), instead).await.unwrap_err();
        assert_eq!(error.exit(), Exit::NotFound);
        assert!(
            error
                .to_string()
                .contains("kubectl scale pn/NAME --replicas=7"),
            "{error}"
        );
    }
}
