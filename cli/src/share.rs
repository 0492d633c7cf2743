//! `peernet share`, `unshare`, `shares` and `fetch`: files that stay with a peer. With them `who`
//! ([`crate::who`]) and `watch` ([`crate::watch`]).

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Subcommand;
use futures::StreamExt;
use peernet_core::key::{InvalidName, Name};
use peernet_proto::v1;
use peernet_proto::v1::fetch_share_request::Wanted;
use peernet_proto::v1::fetch_share_response::Part;
use peernet_proto::v1::share_request;
use peernet_proto::v1::shares_client::SharesClient;
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;
use tonic::Code;

use crate::args::Global;
use crate::exit::Exit;
use crate::get::{destination, is_special, temporary};
use crate::servers::{CallError, Connection, Servers};
use crate::{output, prefetch, progress, put, watch, who};

/// Bytes per message of a file on its way to the peer.
const PART: usize = 256 * 1024;

/// The commands about shared files and about who is there.
#[derive(Subcommand, Debug)]
pub enum Sharing {
    /// Share a file from a peer: published, not stored in the ring
    Share(Share),
    /// Share a file no more, or give up fetching it
    Unshare(Unshare),
    /// List what the asked peer shares, and what it still fetches
    Shares,
    /// Fetch a shared file from whoever has it; the asked peer then shares it too
    Fetch(Fetch),
    /// Bring a stored file onto several peers before many read it there
    Prefetch(prefetch::Prefetch),
    /// Show who has a file: holders of its chunks, and peers that share it
    Who(who::Who),
    /// Print the peers, then every change among them, until ctrl-C
    Watch,
}

/// Shares a file.
#[derive(clap::Args, Debug)]
pub struct Share {
    /// Local file
    pub path: PathBuf,
    /// Name to share it under [default: the file's own]
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// Words to find it by
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Media type [default: what the ending of the name says]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
}

/// Shares it no more.
#[derive(clap::Args, Debug)]
pub struct Unshare {
    /// Name it is shared under
    pub name: String,
}

/// Fetches a shared file whole, or leaves nothing.
#[derive(clap::Args, Debug)]
pub struct Fetch {
    /// Name it is shared under
    pub name: String,
    /// Where to write it: a file, a directory, or - for standard output; the name's last segment by default
    pub path: Option<PathBuf>,
    /// Look in all zones, not only the asked peer's
    #[arg(long)]
    pub everywhere: bool,
}

/// Why a command about shared files failed.
#[derive(Debug, Error)]
pub enum ShareError {
    /// The name is not valid in the network.
    #[error("'{name}' cannot be a name: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: InvalidName,
    },
    /// The local file cannot be read.
    #[error("reading '{}' failed, nothing was shared: {reason}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// It was written to while it was read.
    #[error("'{}' was changed while it was read, nothing was shared; try again", .0.display())]
    Changed(PathBuf),
    /// The file cannot be written; nothing is left of it.
    #[error("writing '{}' failed, nothing was left there: {reason}", .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A peer refused or none was there.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The stream ended early.
    #[error("only {got} of {size} bytes arrived, no file was written; try again")]
    Short {
        /// Bytes that arrived.
        got: u64,
        /// Bytes there should be.
        size: u64,
    },
    /// Some peers do not have it.
    #[error("{failed} of {peers} peers did not get all of it; run it again to go on")]
    Partial {
        /// How many.
        failed: usize,
        /// Of so many.
        peers: usize,
    },
    /// The answer ended before it began.
    #[error("the peer hung up before it said how far it is; run it again to see")]
    Untold,
    /// Ctrl-C.
    #[error(
        "interrupted, no file was written; a fetch that has begun goes on at the peer, unless unshare gives it up"
    )]
    Interrupted,
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl ShareError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            ShareError::Name { .. } => Exit::Usage,
            ShareError::Read { .. } | ShareError::Write { .. } | ShareError::Print(_) => {
                Exit::Permanent
            }
            ShareError::Call(error) => error.exit(),
            ShareError::Short { .. }
            | ShareError::Partial { .. }
            | ShareError::Untold
            | ShareError::Changed(_)
            | ShareError::Interrupted => Exit::Retryable,
        }
    }
}

/// A shared file, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shared {
    name: String,
    size: u64,
    content: String,
    content_type: String,
    tags: Vec<String>,
    since: String,
    /// Bytes that the peer still fetches.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
    /// Bytes that others have sent to the peer, those that came twice included.
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    /// `lost` when its record or manifest cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// What is wrong and what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl From<v1::SharedInfo> for Shared {
    fn from(info: v1::SharedInfo) -> Self {
        let lost = info.state() == v1::SharedState::Lost;
        let v1::SharedInfo {
            name,
            size,
            content,
            content_type,
            tags,
            since_unix_ms,
            missing,
            received,
            state: _,
            advice,
        } = info;
        Shared {
            name,
            size,
            content,
            content_type,
            tags,
            since: output::moment(since_unix_ms),
            missing,
            received,
            state: lost.then_some("lost"),
            advice,
        }
    }
}

impl Shared {
    /// How much of it the peer has.
    fn here(&self) -> String {
        if let Some(state) = self.state {
            return state.to_owned();
        }
        let missing = self.missing.unwrap_or(0).min(self.size);
        here(self.size, missing)
    }
}

/// How much is there when so many bytes are missing.
pub(crate) fn here(size: u64, missing: u64) -> String {
    match missing {
        0 => "all".to_owned(),
        // Rounded down: what is not all is at most 99%.
        _ => format!(
            "{}%",
            u128::from(size - missing) * 100 / u128::from(size.max(1))
        ),
    }
}

/// A shared file and who shares it, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hit {
    #[serde(flatten)]
    file: Shared,
    peer: String,
    zone: String,
}

impl From<v1::SharedHit> for Hit {
    fn from(hit: v1::SharedHit) -> Self {
        let v1::SharedHit {
            file, peer, zone, ..
        } = hit;
        Hit {
            file: file.unwrap_or_default().into(),
            peer,
            zone,
        }
    }
}

/// Hits as a table.
pub(crate) fn hit_table(hits: &[Hit], wide: bool) -> String {
    let rows = hits.iter().map(|h| {
        let mut row = vec![
            h.peer.clone(),
            h.zone.clone(),
            output::bytes(h.file.size),
            h.file.tags.join(","),
        ];
        if wide {
            row.push(h.file.content.clone());
        }
        row.push(h.file.name.clone());
        row
    });
    let header: &[&str] = match wide {
        true => &["PEER", "ZONE", "SIZE>", "TAGS", "CONTENT", "NAME"],
        false => &["PEER", "ZONE", "SIZE>", "TAGS", "NAME"],
    };
    output::table(header, rows)
}

/// What a search cost, as printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cost {
    peers: u32,
    messages: u32,
    silent: u32,
    full: u32,
}

impl From<Option<v1::SearchCost>> for Cost {
    fn from(cost: Option<v1::SearchCost>) -> Self {
        let v1::SearchCost {
            peers,
            messages,
            silent,
            full,
            ..
        } = cost.unwrap_or_default();
        Cost {
            peers,
            messages,
            silent,
            full,
        }
    }
}

impl Cost {
    /// `asked 3 peers with 6 messages`.
    pub(crate) fn sentence(self) -> String {
        let mut text = format!(
            "asked {} with {}",
            output::counted(self.peers.into(), "peer"),
            output::counted(self.messages.into(), "message")
        );
        if self.silent > 0 {
            text += &format!("; {} did not answer", self.silent);
        }
        if self.full > 0 {
            let peers = output::counted(self.full.into(), "peer");
            text += &format!("; {peers} may have more than the 64 told, add words");
        }
        text
    }
}

/// Performs a command.
pub async fn run(global: &Global, command: Sharing) -> Result<(), ShareError> {
    match command {
        Sharing::Share(command) => share(global, command).await,
        Sharing::Unshare(command) => unshare(global, command).await,
        Sharing::Shares => list(global).await,
        Sharing::Fetch(command) => fetch(global, command).await,
        Sharing::Prefetch(command) => prefetch::run(global, command).await,
        Sharing::Who(command) => who::run(global, command).await,
        Sharing::Watch => watch::run(global).await,
    }
}

/// A valid name.
pub(crate) fn name(text: String) -> Result<Name, ShareError> {
    Name::new(text.clone()).map_err(|reason| ShareError::Name { name: text, reason })
}

async fn share(global: &Global, command: Share) -> Result<(), ShareError> {
    let Share {
        path,
        name: given,
        tags,
        content_type,
    } = command;
    let own = path.file_name().unwrap_or(path.as_os_str());
    let name = name(given.unwrap_or_else(|| own.to_string_lossy().into_owned()))?;
    let unread = |reason| ShareError::Read {
        path: path.clone(),
        reason,
    };
    let file = tokio::fs::File::open(&path).await.map_err(unread)?;
    let metadata = file.metadata().await.map_err(unread)?;
    if !metadata.is_file() {
        return Err(unread(io::Error::other("it is not a file")));
    }
    let header = v1::ShareHeader {
        name: name.as_str().to_owned(),
        content_type: put::media_type(content_type.as_deref(), &name),
        size: Some(metadata.len()),
        tags,
    };
    let bar = progress::transfer(name.as_str(), Some(metadata.len()));
    // A read that fails ends the stream short of the size announced, so the peer refuses it; we say why.
    let failed = Arc::new(Mutex::new(None));
    let (failure, counted) = (failed.clone(), bar.clone());
    let bytes = ReaderStream::with_capacity(file, PART).scan((), move |(), read| {
        let part = match read {
            Ok(data) => {
                counted.inc(data.len() as u64);
                Some(share_request::Part::Data(data))
            }
            Err(error) => {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        };
        std::future::ready(part.map(|part| v1::ShareRequest { part: Some(part) }))
    });
    let header = share_request::Part::Header(header);
    let first = v1::ShareRequest { part: Some(header) };
    // Of a file that was written meanwhile, in place perhaps, a byte more than announced: so the peer keeps nothing of it.
    let (read, before) = (path.clone(), metadata.clone());
    let mixed = futures::stream::once(async move { has_changed(&read, &before).await });
    let mixed = mixed.filter_map(|mixed| {
        let more = share_request::Part::Data(b".".as_slice().into());
        std::future::ready(mixed.then_some(v1::ShareRequest { part: Some(more) }))
    });
    let parts = futures::stream::once(std::future::ready(first))
        .chain(bytes)
        .chain(mixed);
    let connection = global.server.connect(0).await?;
    let mut client = SharesClient::new(connection.channel.clone());
    let shared = client.share(parts).await;
    bar.finish_and_clear();
    if let Some(reason) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(unread(reason));
    }
    let shared = match shared {
        Ok(shared) => shared.into_inner(),
        // Not what was said of it at first: that is no fault of the command.
        Err(status)
            if status.code() == Code::InvalidArgument && has_changed(&path, &metadata).await =>
        {
            return Err(ShareError::Changed(path));
        }
        Err(status) => return Err(connection.refused(status).into()),
    };
    let file = Shared::from(shared.file.unwrap_or_default());
    if !global.common.output.document(&file)? {
        let size = output::bytes(file.size);
        output::print(&format!(
            "{} ({size}) is shared from {}\n",
            file.name, connection.server
        ))?;
    }
    Ok(())
}

/// A file has not as many bytes any more, or was written since.
async fn has_changed(path: &Path, before: &Metadata) -> bool {
    let now = tokio::fs::metadata(path).await;
    let same =
        |now: &Metadata| now.len() == before.len() && now.modified().ok() == before.modified().ok();
    !now.as_ref().is_ok_and(same)
}

async fn unshare(global: &Global, command: Unshare) -> Result<(), ShareError> {
    let name = name(command.name)?;
    let connection = global.server.connect(0).await?;
    end(&connection, name.as_str(), false).await?;
    if !global.common.output.document(&[name.as_str()])? {
        output::print(&format!("{name} is not shared any more\n"))?;
    }
    Ok(())
}

/// What the asked peer shares and fetches.
async fn listed(connection: &Connection) -> Result<Vec<v1::SharedInfo>, CallError> {
    let listed = SharesClient::new(connection.channel.clone())
        .list(v1::ListSharesRequest {})
        .await
        .map_err(|status| connection.refused(status))?;
    Ok(listed.into_inner().files)
}

/// Which peer was asked, and what it still fetches: names, bytes that are there, and all of them.
pub(crate) async fn coming(
    servers: &Servers,
) -> Result<(String, Vec<(String, u64, u64)>), CallError> {
    let connection = servers.connect(0).await?;
    let files = listed(&connection).await?.into_iter();
    let coming = files.filter_map(|file| {
        let missing = file.missing.filter(|missing| *missing > 0)?;
        Some((file.name, file.size.saturating_sub(missing), file.size))
    });
    Ok((connection.server.clone(), coming.collect()))
}

/// Ends a fetch of the asked peer; false: there is none of that name, or all of it is there by now and stays.
pub(crate) async fn give_up(servers: &Servers, name: &str) -> Result<bool, CallError> {
    let connection = servers.connect(0).await?;
    let files = listed(&connection).await?;
    let is_coming = |file: &v1::SharedInfo| file.name == name && file.missing.unwrap_or(0) > 0;
    if !files.iter().any(is_coming) {
        return Ok(false);
    }
    // All of it may be there by now, or it is a share of the user's that lacks something: these must not go.
    match end(&connection, name, true).await {
        Ok(()) => Ok(true),
        Err(CallError::Refused { status, .. }) if status.code() == Code::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn end(connection: &Connection, name: &str, unfinished: bool) -> Result<(), CallError> {
    let name = name.to_owned();
    SharesClient::new(connection.channel.clone())
        .unshare(v1::UnshareRequest { name, unfinished })
        .await
        .map_err(|status| connection.refused(status))?;
    Ok(())
}

async fn list(global: &Global) -> Result<(), ShareError> {
    let connection = global.server.connect(0).await?;
    let files = listed(&connection).await?.into_iter();
    let files: Vec<Shared> = files.map(Shared::from).collect();
    if !global.common.output.document(&files)? {
        let rows = files.iter().map(|f| {
            let (size, tags) = (output::bytes(f.size), f.tags.join(","));
            vec![size, f.here(), f.since.clone(), tags, f.name.clone()]
        });
        let header = ["SIZE>", "HERE>", "SINCE", "TAGS", "NAME"];
        let table = output::table(&header, rows);
        output::print(&(table + &advices(&files)))?;
    }
    Ok(())
}

/// What to do about those that are not in order, a line each.
fn advices(files: &[Shared]) -> String {
    let lines = files.iter().filter(|file| !file.advice.is_empty());
    let line = |file: &Shared| match file.name.as_str() {
        "" => format!("{}\n", file.advice),
        name => format!("{name}: {}\n", file.advice),
    };
    lines.map(line).collect()
}

async fn fetch(global: &Global, command: Fetch) -> Result<(), ShareError> {
    let name = name(command.name)?;
    let interrupted = tokio::signal::ctrl_c();
    // Leaving early drops the temporary file, which removes it.
    tokio::select! {
        fetched = deliver(global, &name, command.path.as_deref(), command.everywhere) => fetched,
        _ = interrupted => Err(ShareError::Interrupted),
    }
}

async fn deliver(
    global: &Global,
    name: &Name,
    path: Option<&Path>,
    everywhere: bool,
) -> Result<(), ShareError> {
    if path.is_some_and(|p| p.as_os_str() == "-") {
        let mut out = tokio::io::stdout();
        bring(global, name, everywhere, &mut out, ShareError::Print).await?;
        return Ok(out.flush().await?);
    }
    let path = destination(name, path);
    let failed = |reason| ShareError::Write {
        path: path.clone(),
        reason,
    };
    let file = if is_special(&path) {
        let device = tokio::fs::OpenOptions::new().write(true).open(&path).await;
        let mut device = device.map_err(failed)?;
        let file = bring(global, name, everywhere, &mut device, failed).await?;
        device.flush().await.map_err(failed)?;
        file
    } else {
        let temporary = temporary(&path).map_err(failed)?;
        let mut out = tokio::fs::File::from_std(temporary.reopen().map_err(failed)?);
        let file = bring(global, name, everywhere, &mut out, failed).await?;
        out.flush().await.map_err(failed)?;
        out.sync_all().await.map_err(failed)?;
        temporary.persist(&path).map_err(|e| failed(e.error))?;
        file
    };
    if !global.common.output.document(&file)? {
        let size = output::bytes(file.size);
        output::print(&format!("{} ({size})\n", path.display()))?;
    }
    Ok(())
}

async fn bring(
    global: &Global,
    name: &Name,
    everywhere: bool,
    sink: &mut (impl AsyncWrite + Unpin),
    write_failed: impl Fn(io::Error) -> ShareError,
) -> Result<Shared, ShareError> {
    let request = v1::FetchShareRequest {
        wanted: Some(Wanted::Name(name.as_str().to_owned())),
        everywhere,
    };
    let connection = global.server.connect(0).await?;
    let refused = |status| connection.refused(status);
    let mut client = SharesClient::new(connection.channel.clone());
    let mut parts = client.fetch(request).await.map_err(refused)?.into_inner();
    let bar = progress::transfer(name.as_str(), None);
    let (mut file, mut got) = (None, 0);
    while let Some(part) = parts.message().await.map_err(refused)? {
        match part.part {
            Some(Part::File(info)) => {
                progress::learn_size(&bar, info.size);
                file = Some(Shared::from(info));
            }
            Some(Part::Data(data)) => {
                sink.write_all(&data).await.map_err(&write_failed)?;
                got += data.len() as u64;
                bar.set_position(got);
            }
            None => {}
        }
    }
    bar.finish_and_clear();
    match file {
        Some(file) if file.size == got => Ok(file),
        file => Err(ShareError::Short {
            got,
            size: file.map_or(0, |f| f.size),
        }),
    }
}

#[cfg(test)]
mod tests;
