//! The runner's socket: `peernet scale` asks, the runner answers with a stream of events, one JSON document per line.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::runner::plan::Progress;

/// Clients served at once; more wait.
const CLIENTS: usize = 16;
/// Requests waiting for the runner's attention.
const WAITING: usize = 16;
/// Longest request, in bytes.
const REQUEST_MAX: u64 = 4096;
/// How long a client may take to say what it asks, and to take an answer. Guess: both are at once where nobody stands still.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause when a client cannot be let in, as when files have run out (guess: short beside what a person notices).
const PAUSE: Duration = Duration::from_millis(100);

/// What a client may ask.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "request")]
pub enum Request {
    /// So many peers are wanted.
    Scale {
        /// How many.
        peers: u32,
    },
    /// The volume of this peer is gone for good.
    Replace {
        /// Its name.
        peer: String,
    },
    /// A majority of some slots' copies is gone for good.
    Recover {
        /// Whom to give up, by name; whoever is down and holds what is stuck when empty.
        peers: Vec<String>,
        /// Do it, instead of only saying what it costs.
        accepted: bool,
    },
}

/// How the runner takes a request up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Towards another number of peers.
    Scaling {
        /// Peers wanted before.
        from: u32,
        /// Peers wanted now.
        to: u32,
    },
    /// The peer is being replaced.
    Replacing {
        /// Its name.
        peer: String,
    },
    /// What giving up costs, or has cost.
    Loss(Loss),
}

/// What giving peers up costs, or has cost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// Who, by name.
    pub peers: Vec<String>,
    /// Slots of which no copy is left: everything in them is lost.
    pub slots_lost: Vec<u16>,
    /// Slots of which fewer copies than a majority are left: what only the others held is lost.
    pub slots_partial: Vec<u16>,
    /// Peers that have not done it, and why; those of a runner of an earlier version are unknown.
    #[serde(default)]
    pub not_heard: Vec<String>,
}

/// What it hears.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "event")]
pub enum Event {
    /// It will be done.
    Accepted {
        /// Peers wanted before.
        from: u32,
        /// Peers wanted now.
        to: u32,
    },
    /// The peer will be replaced.
    Replacing {
        /// Its name.
        peer: String,
    },
    /// What giving these peers up costs, or has cost.
    Loss(Loss),
    /// It will not be done, and why.
    Refused {
        /// A sentence.
        reason: String,
    },
    /// How far it is.
    Progress(Progress),
    /// It is done.
    Done(Progress),
    /// Someone has asked for another number.
    Superseded {
        /// Which.
        wanted: u32,
    },
    /// The runner ends.
    Stopping,
}

/// A request on its way to the runner.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub request: Request,
    /// Takes how it is taken up, or the reason why not.
    pub reply: oneshot::Sender<Result<Reply, String>>,
}

/// Listens on `socket`, replacing what an earlier run left there, until the returned receiver is dropped.
pub fn listen(
    socket: &Path,
    progress: watch::Receiver<Progress>,
) -> io::Result<mpsc::Receiver<Ask>> {
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let (asks, asked) = mpsc::channel(WAITING);
    let places = Arc::new(Semaphore::new(CLIENTS));
    tokio::spawn(async move {
        loop {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // The client is gone again, or files ran out, which the next client that ends will mend.
                    Err(_) => { sleep(PAUSE).await; continue }
                },
                () = asks.closed() => return,
            };
            let (asks, progress) = (asks.clone(), progress.clone());
            tokio::spawn(async move {
                // A client that goes away needs no answer; what it asked for goes on.
                let _ = serve(stream, asks, progress).await;
                drop(place);
            });
        }
    });
    Ok(asked)
}

/// What a client waits for.
enum Task {
    /// So many peers, all settled.
    Scale(u32),
    /// This one, ready again.
    Replace(String),
}

impl Task {
    /// It has no place in what somebody else has asked for meanwhile.
    fn is_superseded(&self, now: &Progress) -> bool {
        match self {
            Task::Scale(to) => now.wanted != *to,
            Task::Replace(name) => {
                let replacement = now.replacement.as_ref();
                replacement.is_some_and(|r| r.dropped && r.name == *name)
            }
        }
    }

    fn is_done(&self, now: &Progress) -> bool {
        match self {
            Task::Scale(_) => now.settled,
            // Others may have troubles of their own.
            Task::Replace(name) => {
                let replacement = now.replacement.as_ref();
                replacement.is_none_or(|r| r.over || r.name != *name)
                    && now.waiting.iter().all(|w| w.name != *name)
            }
        }
    }
}

async fn serve(
    stream: UnixStream,
    asks: mpsc::Sender<Ask>,
    progress: watch::Receiver<Progress>,
) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    let mut line = String::new();
    let mut limited = (&mut input).take(REQUEST_MAX);
    let asked = timeout(PATIENCE, limited.read_line(&mut line)).await;
    asked.map_err(|_| io::ErrorKind::TimedOut)??;
    match serde_json::from_str(&line) {
        // Who waits keeps its half open: the place of one that is gone is free at once.
        Ok(request) => tokio::select! {
            answered = answer(request, &mut output, asks, progress) => answered,
            () = gone(input) => Ok(()),
        },
        Err(e) => {
            let reason = format!("the request is not understood: {e}");
            write(&mut output, &Event::Refused { reason }).await
        }
    }
}

/// Waits until the client is gone. It has nothing more to say.
async fn gone(mut input: BufReader<OwnedReadHalf>) {
    let mut ignored = [0; 64];
    while matches!(input.read(&mut ignored).await, Ok(1..)) {}
}

async fn answer(
    request: Request,
    output: &mut OwnedWriteHalf,
    asks: mpsc::Sender<Ask>,
    mut progress: watch::Receiver<Progress>,
) -> io::Result<()> {
    let (reply, replied) = oneshot::channel();
    if asks.send(Ask { request, reply }).await.is_err() {
        return write(output, &Event::Stopping).await;
    }
    let taken = match replied.await {
        Ok(Ok(taken)) => taken,
        Ok(Err(reason)) => return write(output, &Event::Refused { reason }).await,
        Err(_) => return write(output, &Event::Stopping).await,
    };
    let task = match taken {
        Reply::Scaling { from, to } => {
            write(output, &Event::Accepted { from, to }).await?;
            Task::Scale(to)
        }
        Reply::Replacing { peer } => {
            let name = peer.clone();
            write(output, &Event::Replacing { peer }).await?;
            Task::Replace(name)
        }
        Reply::Loss(loss) => return write(output, &Event::Loss(loss)).await,
    };
    loop {
        let now = progress.borrow_and_update().clone();
        if task.is_superseded(&now) {
            return write(output, &Event::Superseded { wanted: now.wanted }).await;
        }
        if task.is_done(&now) {
            return write(output, &Event::Done(now)).await;
        }
        write(output, &Event::Progress(now)).await?;
        if progress.changed().await.is_err() {
            return write(output, &Event::Stopping).await;
        }
    }
}

async fn write(output: &mut OwnedWriteHalf, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let written = timeout(PATIENCE, output.write_all(&line)).await;
    written.map_err(|_| io::ErrorKind::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::plan::{Replacement, Waiting};

    async fn connect(socket: &Path, request: &str) -> tokio::io::Lines<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream
            .write_all(format!("{request}\n").as_bytes())
            .await
            .unwrap();
        BufReader::new(stream).lines()
    }

    async fn next(lines: &mut tokio::io::Lines<BufReader<UnixStream>>) -> Event {
        serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap()
    }

    fn at(wanted: u32, settled: bool) -> Progress {
        Progress {
            wanted,
            settled,
            ..Progress::default()
        }
    }

    #[tokio::test]
    async fn a_request_is_answered_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (publish, progress) = watch::channel(at(5, true));
        let mut asked = listen(&socket, progress).unwrap();
        let mut lines = connect(&socket, r#"{"request":"scale","peers":7}"#).await;
        let ask = asked.recv().await.unwrap();
        assert_eq!(ask.request, Request::Scale { peers: 7 });
        publish.send_replace(at(7, false));
        ask.reply
            .send(Ok(Reply::Scaling { from: 5, to: 7 }))
            .unwrap();
        assert_eq!(next(&mut lines).await, Event::Accepted { from: 5, to: 7 });
        assert_eq!(next(&mut lines).await, Event::Progress(at(7, false)));
        publish.send_replace(at(7, true));
        assert_eq!(next(&mut lines).await, Event::Done(at(7, true)));
        assert!(lines.next_line().await.unwrap().is_none());
    }

    #[test]
    fn a_replacement_is_done_when_that_peer_is_ready_whatever_the_others_do() {
        let replacement = |over| Replacement {
            name: "l-2".into(),
            sentence: String::new(),
            over,
            dropped: false,
        };
        let waiting = |name: &str| Waiting {
            name: name.into(),
            reason: String::new(),
        };
        let now = |over, waits: &str| Progress {
            replacement: Some(replacement(over)),
            waiting: vec![waiting(waits)],
            ..Progress::default()
        };
        let task = Task::Replace("l-2".into());
        assert!(!task.is_done(&now(false, "l-3")));
        assert!(!task.is_done(&now(true, "l-2")));
        assert!(task.is_done(&now(true, "l-3")));
        assert!(!Task::Scale(5).is_done(&now(true, "l-3")));
        let mut dropped = now(true, "l-3");
        assert!(!task.is_superseded(&dropped));
        dropped.replacement.as_mut().unwrap().dropped = true;
        assert!(task.is_superseded(&dropped));
        assert!(!Task::Replace("l-1".into()).is_superseded(&dropped));
    }

    #[tokio::test]
    async fn refusals_replacements_and_the_end_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (publish, progress) = watch::channel(at(5, true));
        let mut asked = listen(&socket, progress).unwrap();
        let mut nonsense = connect(&socket, "hello").await;
        assert!(matches!(next(&mut nonsense).await, Event::Refused { .. }));

        let mut refused = connect(&socket, r#"{"request":"scale","peers":1}"#).await;
        asked
            .recv()
            .await
            .unwrap()
            .reply
            .send(Err("no".into()))
            .unwrap();
        assert_eq!(
            next(&mut refused).await,
            Event::Refused {
                reason: "no".into()
            }
        );

        let mut first = connect(&socket, r#"{"request":"scale","peers":7}"#).await;
        let ask = asked.recv().await.unwrap();
        publish.send_replace(at(7, false));
        ask.reply
            .send(Ok(Reply::Scaling { from: 5, to: 7 }))
            .unwrap();
        next(&mut first).await;
        next(&mut first).await;
        publish.send_replace(at(4, false));
        assert_eq!(next(&mut first).await, Event::Superseded { wanted: 4 });

        let mut last = connect(&socket, r#"{"request":"scale","peers":4}"#).await;
        let ask = asked.recv().await.unwrap();
        ask.reply
            .send(Ok(Reply::Scaling { from: 4, to: 4 }))
            .unwrap();
        next(&mut last).await;
        next(&mut last).await;
        drop(publish);
        assert_eq!(next(&mut last).await, Event::Stopping);
    }

    #[tokio::test]
    async fn clients_that_went_away_hold_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (_publish, progress) = watch::channel(at(7, false));
        let mut asked = listen(&socket, progress).unwrap();
        let mut replies = Vec::new();
        for _ in 0..CLIENTS {
            let mut lines = connect(&socket, r#"{"request":"scale","peers":7}"#).await;
            let ask = asked.recv().await.unwrap();
            let answer = Reply::Scaling { from: 5, to: 7 };
            // Some wait for progress that never comes, the others for an answer.
            if replies.len() % 2 == 0 {
                replies.push(None);
                ask.reply.send(Ok(answer)).unwrap();
                next(&mut lines).await;
                next(&mut lines).await;
            } else {
                replies.push(Some(ask.reply));
            }
        }
        let _lines = connect(&socket, r#"{"request":"replace","peer":"l-2"}"#).await;
        let ask = timeout(Duration::from_secs(60), asked.recv()).await;
        let replace = Request::Replace { peer: "l-2".into() };
        assert_eq!(ask.expect("there is a place").unwrap().request, replace);
    }

    #[tokio::test]
    async fn clients_that_say_nothing_hold_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (_publish, progress) = watch::channel(at(7, false));
        let mut asked = listen(&socket, progress).unwrap();
        let mut silent = Vec::new();
        for _ in 0..CLIENTS {
            silent.push(UnixStream::connect(&socket).await.unwrap());
        }
        let _lines = connect(&socket, r#"{"request":"scale","peers":7}"#).await;
        let ask = timeout(Duration::from_secs(60), asked.recv()).await;
        assert!(ask.expect("there is a place").is_some());
    }
}
