//! `peernet put`: streams local files or standard input to a peer.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use indicatif::{MultiProgress, ProgressBar};
use peernet_core::key::{InvalidName, Name};
use peernet_proto::v1::files_client::FilesClient;
use peernet_proto::v1::{self, FileInfo, Precondition, PutHeader, PutRequest, put_request::Part};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::args::{Global, Put};
use crate::exit::Exit;
use crate::names::File;
use crate::output;
use crate::progress;
use crate::servers::{CallError, Connection, Servers};

mod resume;
mod source;

use resume::Resumed;
use source::{Since, Source, open};

/// Bytes in one message. 256 KiB was the best of those measured on loopback.
const PART: usize = 256 * 1024;
/// Files sent at once. Guess: enough to hide the syncs of small ones, and memory stays at so many times 2 MiB.
const AT_ONCE: usize = 4;
/// Most files of one directory. Guess: more should be an archive.
const MOST: usize = 100_000;
/// Messages read ahead of the network; times [`PART`] is the memory a transfer takes.
const READ_AHEAD: usize = 8;

/// Why a file was not stored.
#[derive(Debug, Error)]
pub enum PutError {
    /// Standard input has no name of its own.
    #[error("standard input has no name; write: peernet put - NAME")]
    Unnamed,
    /// The name is not valid in the network.
    #[error("'{name}' cannot be a name: {reason}")]
    Name {
        /// As it would be.
        name: String,
        /// What is wrong with it.
        reason: InvalidName,
    },
    /// The path has no name that could be kept.
    #[error("'{}' has no file name in UTF-8; give one with --as NAME", .0.display())]
    NoFileName(PathBuf),
    /// Several files, one name.
    #[error(
        "'{name}' is no local file, and {files} files cannot share it as their name; correct the path, or end it \
         with / to put it before their own names"
    )]
    OneNameForMany {
        /// The last argument.
        name: String,
        /// How many paths came before it.
        files: usize,
    },
    /// Two of the files would overwrite each other.
    #[error("two of the files would both be stored as '{0}'; store them one by one with --as NAME")]
    SameName(String),
    /// There is no such local file.
    #[error("there is no local file '{}'; check the path", .0.display())]
    Missing(PathBuf),
    /// Its files cannot be listed.
    #[error("the directory '{}' cannot be listed: {reason}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// More than anyone means.
    #[error("there are more than {MOST} files in '{}'; store its parts one by one", .0.display())]
    TooMany(PathBuf),
    /// Reading failed half-way; nothing was stored.
    #[error("reading '{}' failed, nothing was stored: {reason}", .path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The file became shorter while it was read.
    #[error("'{}' became shorter while it was read ({read} of {size} bytes), nothing was stored; try again", .path.display())]
    Shrank {
        /// Which.
        path: PathBuf,
        /// Bytes read.
        read: u64,
        /// Bytes there were.
        size: u64,
    },
    /// The file was written to while it was read.
    #[error("'{}' was written to while it was read, nothing was stored; try again", .0.display())]
    Changed(PathBuf),
    /// A peer did not take it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl PutError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            PutError::Unnamed
            | PutError::Name { .. }
            | PutError::NoFileName(_)
            | PutError::OneNameForMany { .. }
            | PutError::SameName(_)
            | PutError::TooMany(_) => Exit::Usage,
            PutError::Missing(_) => Exit::NotFound,
            PutError::Shrank { .. } | PutError::Changed(_) => Exit::Retryable,
            PutError::Directory { .. } | PutError::Read { .. } | PutError::Print(_) => {
                Exit::Permanent
            }
            PutError::Call(e) => e.exit(),
        }
    }
}

/// Stores the files, some at a time; those before a failure stay stored and are printed.
pub async fn run(global: &Global, put: Put) -> Result<(), PutError> {
    let jobs = jobs(&put, |path| path.exists())?;
    let bars = MultiProgress::new();
    let mut sent = stream::iter(&jobs)
        .map(async |job| {
            let bar = bars.add(progress::transfer(job.name.as_str(), None));
            let sent = store(&global.server, job, &put, &bar).await;
            bar.finish_and_clear();
            sent
        })
        .buffered(AT_ONCE);
    let mut stored: Vec<File> = Vec::new();
    let mut outcome = Ok(());
    while let Some(sent) = sent.next().await {
        match sent {
            Ok(Stored { file, held }) => {
                let before = match held {
                    0 => String::new(),
                    held => format!(", {} of it were there already", output::bytes(held)),
                };
                let line = format!(
                    "stored {} ({}{}{before})\n",
                    file.name,
                    output::bytes(file.size),
                    output::compressed(file.size, file.stored)
                );
                if !global.common.output.is_document() {
                    bars.suspend(|| output::print(&line))?;
                }
                stored.push(file);
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    global.common.output.document(&stored)?;
    outcome
}

/// One file to store.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Job {
    /// `-` for standard input.
    path: PathBuf,
    pub(crate) name: Name,
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Tells paths from the name, and gives each path its name.
pub(crate) fn jobs(put: &Put, exists: impl Fn(&Path) -> bool) -> Result<Vec<Job>, PutError> {
    let (paths, target) = match (&put.name, put.paths.as_slice()) {
        (Some(name), paths) => (paths, Some(name.clone())),
        (None, [path, name]) if is_stdin(path) => (&put.paths[..1], Some(utf8(name)?)),
        (None, [paths @ .., name]) if !paths.is_empty() && !is_stdin(name) && !exists(name) => {
            (paths, Some(utf8(name)?))
        }
        (None, paths) => (paths, None),
    };
    let whole = target.as_ref().filter(|t| !t.ends_with('/'));
    if let (Some(name), 2..) = (whole, paths.len()) {
        return Err(PutError::OneNameForMany {
            name: name.clone(),
            files: paths.len(),
        });
    }
    let mut seen = BTreeSet::new();
    let mut jobs = Vec::with_capacity(paths.len());
    let mut add = |path: PathBuf, name: String| {
        if !seen.insert(name.clone()) {
            return Err(PutError::SameName(name));
        }
        let name = Name::new(name.clone()).map_err(|reason| PutError::Name { name, reason })?;
        jobs.push(Job { path, name });
        Ok(())
    };
    for path in paths {
        let name = match (&whole, &target) {
            (Some(name), _) => (*name).clone(),
            _ if is_stdin(path) => return Err(PutError::Unnamed),
            (None, prefix) => {
                let own = path
                    .file_name()
                    .and_then(|n| n.to_str())
                    .ok_or_else(|| PutError::NoFileName(path.clone()))?;
                prefix.clone().unwrap_or_default() + own
            }
        };
        if path.is_dir() {
            for (file, below) in walk(path)? {
                add(file, format!("{name}/{below}"))?;
            }
        } else {
            add(path.clone(), name)?;
        }
    }
    Ok(jobs)
}

/// The media type that was given, or what the ending of a name says.
pub(crate) fn media_type(given: Option<&str>, name: &Name) -> String {
    let guess = || mime_guess::from_path(name.as_str()).first_or_octet_stream();
    given.map_or_else(|| guess().to_string(), str::to_owned)
}

/// Every file below a directory, and its path from there with `/` between the parts, in their order. Links to
/// directories are not followed: they could lead in a circle.
fn walk(root: &Path) -> Result<Vec<(PathBuf, String)>, PutError> {
    let mut files = Vec::new();
    let mut open = vec![(root.to_owned(), String::new())];
    while let Some((dir, below)) = open.pop() {
        let failed = |reason| PutError::Directory {
            path: dir.clone(),
            reason,
        };
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let own = entry.file_name();
            let own = own
                .to_str()
                .ok_or_else(|| PutError::NoFileName(path.clone()))?;
            let own = format!("{below}{own}");
            if entry.file_type().map_err(failed)?.is_dir() {
                open.push((path, own + "/"));
            } else if path.is_file() {
                files.push((path, own));
            }
            if files.len() + open.len() > MOST {
                return Err(PutError::TooMany(root.to_owned()));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn utf8(path: &Path) -> Result<String, PutError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| PutError::NoFileName(path.to_owned()))
}

/// A file that was stored.
pub(crate) struct Stored {
    pub(crate) file: File,
    /// Bytes of it that did not have to be sent.
    pub(crate) held: u64,
}

/// Stores one file; what the network holds of it already is not sent. A file is offered to the next server when one cannot
/// take it now, and sent whole when what was held is gone. What has no size, such as a pipe, whatever it is called, cannot be
/// read twice.
pub(crate) async fn store(
    servers: &Servers,
    job: &Job,
    put: &Put,
    bar: &ProgressBar,
) -> Result<Stored, PutError> {
    let (mut failed, mut resuming, mut unanswered) = (0, true, false);
    loop {
        let connection = servers.connect(failed).await?;
        let mut source = open(job).await?;
        let size = source.size();
        let resumed = match size {
            Some(size) if resuming => {
                let found = resume::find(connection.channel.clone(), &mut source, size).await;
                found.map_err(|reason| unread(job, reason))?
            }
            _ => Resumed::default(),
        };
        let held = resumed.bytes();
        let begun = source.begin_at(held).await;
        begun.map_err(|reason| unread(job, reason))?;
        bar.reset();
        bar.set_position(held);
        if let Some(size) = size {
            progress::learn_size(bar, size);
        }
        let header = PutHeader {
            name: job.name.as_str().to_owned(),
            content_type: media_type(put.content_type.as_deref(), &job.name),
            tags: put.tag.clone(),
            size,
            compression: put
                .compress
                .map_or(0, |when| v1::Compression::from(when).into()),
            when: put.if_absent.then(|| Precondition {
                if_none_match: vec!["*".into()],
                ..Precondition::default()
            }),
        };
        match send(&connection, job, (header, resumed), source, bar).await {
            Err(PutError::Call(error))
                if size.is_some()
                    && error.exit() == Exit::Retryable
                    && failed + 1 < servers.count() =>
            {
                failed += 1;
                unanswered |= error.is_unanswered();
            }
            Err(PutError::Call(error)) if error.exit() == Exit::Retryable && held > 0 => {
                resuming = false;
                unanswered |= error.is_unanswered();
            }
            Err(PutError::Call(CallError::Refused { status, .. })) if unanswered => {
                return Err(connection.refused_again(*status).into());
            }
            sent => {
                let file = sent?.into();
                return Ok(Stored { file, held });
            }
        }
    }
}

fn unread(job: &Job, reason: io::Error) -> PutError {
    PutError::Read {
        path: job.path.clone(),
        reason,
    }
}

async fn send(
    connection: &Connection,
    job: &Job,
    (header, resumed): (PutHeader, Resumed),
    source: Source,
    bar: &ProgressBar,
) -> Result<FileInfo, PutError> {
    let size = header.size;
    let (parts, queue) = mpsc::channel(READ_AHEAD);
    // A call that is given up takes its reader with it: the stream then ends short of the size that was announced, and the
    // peer refuses it whole.
    let mut reader = AbortOnDropHandle::new(tokio::spawn(read(
        source,
        (header, resumed),
        parts,
        bar.clone(),
    )));
    let mut client = FilesClient::new(connection.channel.clone());
    let answer = client.put(ReceiverStream::new(queue));
    tokio::pin!(answer);
    let answered = tokio::select! {
        answered = &mut answer => answered,
        Ok((outcome, parts)) = &mut reader => {
            let failure = match (outcome, size) {
                (Err(reason), _) => Some(unread(job, reason)),
                (Ok(End::Read(read) | End::Changed(read)), Some(size)) if read < size => {
                    Some(PutError::Shrank { path: job.path.clone(), read, size })
                }
                (Ok(End::Changed(_)), _) => Some(PutError::Changed(job.path.clone())),
                (Ok(End::Read(_) | End::Over), _) => None,
            };
            if let Some(failure) = failure {
                // The peer would take the end of the stream for the end of the file. Keeping the sender for ever keeps
                // the stream open until this process, and with it the connection, ends.
                std::mem::forget(parts);
                return Err(failure);
            }
            drop(parts);
            answer.await
        }
    };
    let response = answered
        .map_err(|status| connection.refused(status))?
        .into_inner();
    let missing = || connection.refused(Status::internal("the peer did not say what it stored"));
    Ok(response.file.ok_or_else(missing)?)
}

/// How the reading of a source ended.
#[derive(PartialEq, Eq, Debug)]
enum End {
    /// After so many bytes of it.
    Read(u64),
    /// After so many, and it was written to meanwhile.
    Changed(u64),
    /// The call was over before.
    Over,
}

/// Reads the source into messages. Returns the sender too, because dropping it ends the stream as if the file were whole.
async fn read(
    mut source: Source,
    (header, resumed): (PutHeader, Resumed),
    parts: mpsc::Sender<PutRequest>,
    bar: ProgressBar,
) -> (io::Result<End>, mpsc::Sender<PutRequest>) {
    let mut bytes = resumed.bytes();
    let mut sent = blake3::Hasher::new();
    let mut first = vec![Part::Header(header)];
    first.extend(resumed.messages().map(Part::Held));
    for part in first {
        if parts.send(PutRequest { part: Some(part) }).await.is_err() {
            return (Ok(End::Over), parts);
        }
    }
    loop {
        bar.set_position(bytes);
        // Whoever writes into a pipe may take its time.
        let data = match resume::patiently(source.next(PART), &parts).await {
            Ok(data) => data,
            Err(reason) => return (Err(reason), parts),
        };
        if data.is_empty() {
            let kept = is_kept(&mut source, &resumed, &sent, &parts).await;
            let end = kept.map(|kept| {
                if kept {
                    End::Read(bytes)
                } else {
                    End::Changed(bytes)
                }
            });
            return (end, parts);
        }
        bytes += data.len() as u64;
        if source.size().is_some() {
            sent.update(&data);
        }
        let part = Some(Part::Data(data.into()));
        if parts.send(PutRequest { part }).await.is_err() {
            return (Ok(End::Over), parts);
        }
    }
}

/// Whether the file still is what was read of it. One that has grown is read again, so far: it may not only have been appended
/// to.
async fn is_kept(
    source: &mut Source,
    resumed: &Resumed,
    sent: &blake3::Hasher,
    parts: &mpsc::Sender<PutRequest>,
) -> io::Result<bool> {
    match source.since_opened().await? {
        Since::Kept => Ok(true),
        Since::Grown => resumed.is_kept(source, sent, parts).await,
        Since::Written => Ok(false),
    }
}

#[cfg(test)]
mod tests;
