//! Carrying out a command, once.
//!
//! A command that changes a file is a conditional write: it takes the place of the very write that the name held when the
//! command was first taken, which the network remembers ([`memory`]) before anything else is done. Whoever gets the message
//! after a crash finds either that write still in its place, and so nothing done; or another, and then the command does
//! nothing any more. So it takes effect at most once, also when two peers are at it at the same time.

use futures::StreamExt;
use peernet_core::key::Name;
use peernet_core::register::{Register, Value, WriteId};
use serde::Deserialize;

use super::answer::{Answer, Outcome};
use super::fetch::{self, Fetched, TOO_LARGE};
use super::memory::{self, Known, MemoryError};
use crate::daemon::Running;
use crate::events::settings::Origins;
use crate::files::{Consistency, ErrorKind, FileError, Kind, Precondition, Tags, decode_head};

/// What may be asked for.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(
    tag = "command",
    rename_all = "lowercase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(super) enum Command {
    /// Store what a URL leads to.
    Put {
        url: String,
        name: String,
        /// As the URL's host says if not given.
        content_type: Option<String>,
        /// Only in the place of the file with this etag.
        if_match: Option<String>,
        /// Only if there is no such file.
        #[serde(default)]
        if_absent: bool,
    },
    /// Read all of a file and verify it.
    Prefetch { name: String },
    /// Keep a file from being replaced, renamed and deleted.
    Pin {
        name: String,
        /// Only the one with this etag.
        if_match: Option<String>,
    },
    /// Take that back.
    Unpin {
        name: String,
        /// Only the one with this etag.
        if_match: Option<String>,
    },
    /// Remove a file.
    Delete {
        name: String,
        /// Only the one with this etag.
        if_match: Option<String>,
    },
}

/// A command as it came.
pub(super) struct Order {
    pub(super) id: String,
    /// Of the message: one id stands for one command.
    pub(super) digest: blake3::Hash,
    pub(super) command: Command,
}

/// A change, and what it needs.
enum Change {
    Put(Kind, Box<Fetched>),
    Pin(bool),
    Delete,
}

/// Carries out a command unless that is done.
pub(super) async fn once(running: &Running, origins: &Origins, order: &Order) -> Outcome {
    let done = match order.command.clone() {
        Command::Prefetch { name } => prefetch(running, name).await,
        Command::Put { ref name, .. }
        | Command::Pin { ref name, .. }
        | Command::Unpin { ref name, .. }
        | Command::Delete { ref name, .. } => change(running, origins, order, name).await,
    };
    done.map_or_else(|outcome| outcome, Outcome::Final)
}

/// Reads a whole file through this peer. Its chunks stay where they are; but bad copies are found and repaired.
async fn prefetch(running: &Running, name: String) -> Result<Answer, Outcome> {
    let name = Name::new(name).map_err(FileError::from)?;
    let found = running.files.find(name, Consistency::Quorum).await?;
    let info = found.info.clone();
    let range = found.range(0, None)?;
    let mut bytes = running.files.stream(found, range);
    while let Some(part) = bytes.next().await {
        part?;
    }
    Ok(Answer::done(Some(info.into())))
}

async fn change(
    running: &Running,
    origins: &Origins,
    order: &Order,
    name: &str,
) -> Result<Answer, Outcome> {
    let name = Name::new(name).map_err(FileError::from)?;
    if let Some(Known::Answered(answer)) = memory::recall(&running.peer, order).await? {
        return Ok(answer);
    }
    let (change, mut when) = prepare(origins, &order.command).await?;
    let found = read(running, &name).await?;
    let base = found.as_ref().map(|r| r.write);
    let answer = match memory::begin(&running.peer, order, base).await? {
        Known::Answered(answer) => return Ok(answer),
        Known::Begun(mark) if mark == memory::mark(base) => {
            when.still = Some(base);
            let done = perform(running, &name, change, &when).await;
            settle(running, &name, base, &order.command, done).await?
        }
        Known::Begun(_) => superseded(&name, &order.command, found.as_ref()),
    };
    Ok(memory::conclude(&running.peer, order, answer).await?)
}

/// What can be done before anything is begun.
async fn prepare(origins: &Origins, command: &Command) -> Result<(Change, Precondition), Outcome> {
    let matching = |etag: &Option<String>| etag.clone().map(|etag| Tags::Of(vec![etag]));
    let only = |etag| Precondition {
        if_match: matching(etag),
        ..Precondition::default()
    };
    match command {
        Command::Put {
            url,
            content_type,
            if_match,
            if_absent,
            ..
        } => {
            let fetched = fetch::fetch(url, origins).await.map_err(|error| {
                let detail = error.to_string();
                if error.is_passing() {
                    Outcome::Passing(Answer::unavailable(detail))
                } else {
                    Outcome::Final(Answer::refused(detail))
                }
            })?;
            let kind = Kind {
                content_type: content_type
                    .clone()
                    .unwrap_or_else(|| fetched.content_type.clone()),
                tags: Vec::new(),
                compression: None,
            };
            let when = Precondition {
                if_match: matching(if_match),
                if_none_match: if_absent.then_some(Tags::Any),
                still: None,
            };
            Ok((Change::Put(kind, Box::new(fetched)), when))
        }
        Command::Pin { if_match, .. } => Ok((Change::Pin(true), only(if_match))),
        Command::Unpin { if_match, .. } => Ok((Change::Pin(false), only(if_match))),
        Command::Delete { if_match, .. } => Ok((Change::Delete, only(if_match))),
        Command::Prefetch { .. } => {
            Err(Outcome::Final(Answer::refused("nothing to change".into())))
        }
    }
}

async fn perform(
    running: &Running,
    name: &Name,
    change: Change,
    when: &Precondition,
) -> Result<Answer, FileError> {
    let (files, name) = (&running.files, name.clone());
    match change {
        Change::Put(kind, fetched) => {
            let length = fetched.length;
            let stored = files.put(name, kind, length, when, fetched.body()).await?;
            Ok(Answer::done(Some(stored.info.into())))
        }
        Change::Pin(pinned) => {
            let info = files.pin(name, pinned, when).await?;
            Ok(Answer::done(Some(info.into())))
        }
        Change::Delete => {
            files.delete(name, when).await?;
            Ok(Answer::done(None))
        }
    }
}

/// Finds out what a failure means: for the sender's condition, or for the one that the command is carried out but once.
async fn settle(
    running: &Running,
    name: &Name,
    base: Option<WriteId>,
    command: &Command,
    done: Result<Answer, FileError>,
) -> Result<Answer, Outcome> {
    let error = match done {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Precondition => {
            let now = read(running, name).await?;
            if now.as_ref().map(|r| r.write) != base {
                return Ok(superseded(name, command, now.as_ref()));
            }
        }
        _ => {}
    }
    // What broke off on the way here may come through another time, unless it was broken off here.
    if matches!(&error, FileError::BrokenOff { reason, .. } if reason != TOO_LARGE) {
        return Err(Outcome::Passing(Answer::unavailable(error.to_string())));
    }
    match Outcome::from(error) {
        Outcome::Final(answer) => Ok(answer),
        passing @ Outcome::Passing(_) => Err(passing),
    }
}

/// The file is not any more what it was when the command was first taken.
fn superseded(name: &Name, command: &Command, now: Option<&Register>) -> Answer {
    if let Some(answer) = is_so_already(name, command, now) {
        return answer;
    }
    Answer::failed(
        "changed_meanwhile",
        format!(
            "this command was begun, and '{name}' was changed since: by this command before a peer or connection broke \
             down, or by somebody else; it is not carried out again: look at the file, and send the command under a \
             new message id if it is still wanted"
        ),
    )
}

/// The answer of a command whose outcome is there, whoever brought it about.
fn is_so_already(name: &Name, command: &Command, now: Option<&Register>) -> Option<Answer> {
    let (wanted, if_match) = match command {
        Command::Pin { if_match, .. } => (true, if_match),
        Command::Unpin { if_match, .. } => (false, if_match),
        Command::Delete { .. } if !now.is_some_and(Register::is_present) => {
            return Some(Answer::done(None));
        }
        Command::Delete { .. } | Command::Put { .. } | Command::Prefetch { .. } => return None,
    };
    let Value::Present { head, .. } = &now?.value else {
        return None;
    };
    let file = decode_head(head).ok()?;
    let meant = if_match
        .as_ref()
        .is_none_or(|etag| *etag == file.etag_hex());
    let so = meant && file.pinned == wanted;
    so.then(|| Answer::done(Some(file.to_info(name).into())))
}

async fn read(running: &Running, name: &Name) -> Result<Option<Register>, FileError> {
    Ok(running.peer.read_name(name.clone()).await?)
}

impl From<MemoryError> for Outcome {
    fn from(error: MemoryError) -> Self {
        let detail = error.to_string();
        match error {
            MemoryError::OtherCommand => Outcome::Final(Answer::refused(detail)),
            MemoryError::Peer(_) | MemoryError::Name(_) | MemoryError::Damaged => {
                Outcome::Passing(Answer::unavailable(detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Command>(text);
        let delete = read(r#"{"command": "delete", "name": "a", "ifMatch": "e"}"#).unwrap();
        assert_eq!(
            delete,
            Command::Delete {
                name: "a".into(),
                if_match: Some("e".into())
            }
        );
        assert!(read(r#"{"command": "unpin", "name": "a"}"#).is_ok());
        assert!(read(r#"{"command": "put", "name": "a", "url": "u", "ifAbsent": true}"#).is_ok());
        for bad in [
            "{}",
            r#"{"command": "format", "name": "a"}"#,
            r#"{"command": "delete", "name": "a", "force": true}"#,
            r#"{"command": "put", "name": "a"}"#,
            r#"["delete"]"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
