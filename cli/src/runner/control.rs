//! The runner's socket: `peernet scale` asks, the runner answers with a stream of events, one JSON document per line.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::runner::plan::Progress;

/// Clients served at once; more wait.
const CLIENTS: usize = 16;
/// Requests waiting for the runner's attention.
const WAITING: usize = 16;
/// Longest request, in bytes.
const REQUEST_MAX: u64 = 4096;

/// What a client may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "request")]
pub enum Request {
    /// So many peers are wanted.
    Scale {
        /// How many.
        peers: u32,
    },
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
    /// Peers wanted.
    pub peers: u32,
    /// Takes the number wanted before, or the reason why not.
    pub reply: oneshot::Sender<Result<u32, String>>,
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
                    Err(_) => { tokio::task::yield_now().await; continue }
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

async fn serve(
    stream: UnixStream,
    asks: mpsc::Sender<Ask>,
    mut progress: watch::Receiver<Progress>,
) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut line = String::new();
    BufReader::new(input.take(REQUEST_MAX))
        .read_line(&mut line)
        .await?;
    let Request::Scale { peers: to } = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(e) => {
            return write(
                &mut output,
                &Event::Refused {
                    reason: format!("the request is not understood: {e}"),
                },
            )
            .await;
        }
    };
    let (reply, replied) = oneshot::channel();
    if asks.send(Ask { peers: to, reply }).await.is_err() {
        return write(&mut output, &Event::Stopping).await;
    }
    match replied.await {
        Ok(Ok(from)) => write(&mut output, &Event::Accepted { from, to }).await?,
        Ok(Err(reason)) => return write(&mut output, &Event::Refused { reason }).await,
        Err(_) => return write(&mut output, &Event::Stopping).await,
    }
    loop {
        let now = progress.borrow_and_update().clone();
        if now.wanted != to {
            return write(&mut output, &Event::Superseded { wanted: now.wanted }).await;
        }
        if now.settled {
            return write(&mut output, &Event::Done(now)).await;
        }
        write(&mut output, &Event::Progress(now)).await?;
        if progress.changed().await.is_err() {
            return write(&mut output, &Event::Stopping).await;
        }
    }
}

async fn write(output: &mut (impl tokio::io::AsyncWrite + Unpin), event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    output.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(ask.peers, 7);
        publish.send_replace(at(7, false));
        ask.reply.send(Ok(5)).unwrap();
        assert_eq!(next(&mut lines).await, Event::Accepted { from: 5, to: 7 });
        assert_eq!(next(&mut lines).await, Event::Progress(at(7, false)));
        publish.send_replace(at(7, true));
        assert_eq!(next(&mut lines).await, Event::Done(at(7, true)));
        assert!(lines.next_line().await.unwrap().is_none());
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
        ask.reply.send(Ok(5)).unwrap();
        next(&mut first).await;
        next(&mut first).await;
        publish.send_replace(at(4, false));
        assert_eq!(next(&mut first).await, Event::Superseded { wanted: 4 });

        let mut last = connect(&socket, r#"{"request":"scale","peers":4}"#).await;
        asked.recv().await.unwrap().reply.send(Ok(4)).unwrap();
        next(&mut last).await;
        next(&mut last).await;
        drop(publish);
        assert_eq!(next(&mut last).await, Event::Stopping);
    }
}
