//! `peernet get`: a file from a peer, whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use indicatif::{MultiProgress, ProgressBar};
use peernet_core::key::{InvalidName, Name};
use peernet_proto::v1::files_client::FilesClient;
use peernet_proto::v1::{FileInfo, GetRequest, GetResponse, get_response::Part};
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tonic::{Status, Streaming};

use crate::args::{Get, Global};
use crate::exit::Exit;
use crate::names::{self, File};
use crate::output;
use crate::pattern::{MOST, Pattern, PatternError};
use crate::progress;
use crate::servers::{CallError, Connection, Servers};

/// Files fetched at once. Guess: enough to hide the round trips of small ones.
const AT_ONCE: usize = 4;

/// Why a file was not fetched.
#[derive(Debug, Error)]
pub enum GetError {
    /// The name is not valid in the network.
    #[error("'{name}' cannot be a name: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: InvalidName,
    },
    /// The file cannot be written; nothing is left of it.
    #[error("writing '{}' failed, nothing was left there: {reason}", .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Standard output cannot be written.
    #[error("writing to standard output failed: {0}")]
    Stdout(#[source] io::Error),
    /// A peer did not deliver.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The stream ended early, again and again.
    #[error(
        "only {got} of {size} bytes arrived, nothing was kept; try again, or another peer with --server"
    )]
    Short {
        /// Bytes that arrived.
        got: u64,
        /// Bytes there should be.
        size: u64,
    },
    /// More arrived than the file has.
    #[error(
        "more than the file's {size} bytes arrived, nothing was kept; this is a fault of the peer"
    )]
    Long {
        /// Bytes there should be.
        size: u64,
    },
    /// The file was replaced between two attempts.
    #[error("the file was replaced while it was fetched, nothing was kept; try again")]
    Replaced,
    /// No name begins so.
    #[error("no file's name begins with '{0}'; `peernet ls` shows what there is")]
    Nothing(String),
    /// More than anyone means.
    #[error("more than {MOST} names begin with '{0}'; fetch its parts one by one")]
    TooMany(String),
    /// There is nothing of a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Several files, one stream.
    #[error("several files cannot be told apart on standard output; name a directory")]
    ManyToOne,
    /// The listing has what was not asked for.
    #[error("the peer listed a name that does not begin as asked; this is a fault of the peer")]
    Astray,
    /// A file system holds either a file or a directory in one place.
    #[error(
        "'{name}' is both a file and a prefix: '{}' cannot be both a file and a directory; fetch '{name}' by itself, to \
         another path",
        .path.display()
    )]
    FileAndPrefix {
        /// The file's.
        name: Name,
        /// Where it belongs.
        path: PathBuf,
    },
    /// Ctrl-C.
    #[error("interrupted, nothing was kept")]
    Interrupted,
}

impl GetError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            GetError::Name { .. } | GetError::TooMany(_) | GetError::ManyToOne => Exit::Usage,
            GetError::Nothing(_) => Exit::NotFound,
            GetError::Write { .. } | GetError::Stdout(_) | GetError::FileAndPrefix { .. } => {
                Exit::Permanent
            }
            GetError::Short { .. } | GetError::Replaced | GetError::Interrupted => Exit::Retryable,
            GetError::Long { .. } | GetError::Astray => Exit::Fatal,
            GetError::Call(e) => e.exit(),
            GetError::Pattern(e) => e.exit(),
        }
    }
}

/// Fetches the file, all whose names begin with what ends with `/`, or all that match a pattern.
pub async fn run(global: &Global, get: Get) -> Result<(), GetError> {
    let interrupted = tokio::signal::ctrl_c();
    // Leaving early drops the temporary files, which removes them.
    tokio::select! {
        fetched = fetch_all(global, &get) => fetched,
        _ = interrupted => Err(GetError::Interrupted),
    }
}

async fn fetch_all(global: &Global, get: &Get) -> Result<(), GetError> {
    let path = get.path.as_deref();
    if get.glob {
        let pattern = Pattern::new(&get.name)?;
        let files = pattern.files(&global.server).await?;
        return each(
            global,
            pattern.directory(),
            files,
            path.unwrap_or(Path::new(".")),
        )
        .await;
    }
    if get.name.ends_with('/') {
        return below(global, &get.name, path).await;
    }
    let name = valid(get.name.clone())?;
    let bar = progress::transfer(name.as_str(), None);
    let fetched = deliver(global, &name, path, &bar).await;
    bar.finish_and_clear();
    fetched
}

fn valid(name: String) -> Result<Name, GetError> {
    Name::new(name.clone()).map_err(|reason| GetError::Name { name, reason })
}

/// Fetches every file with that prefix into a directory, which is called like its last segment if nobody says otherwise.
async fn below(global: &Global, prefix: &str, path: Option<&Path>) -> Result<(), GetError> {
    let own = prefix
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let files = names::all(&global.server, prefix, MOST, |_| true).await?;
    if files.is_empty() {
        return Err(GetError::Nothing(prefix.to_owned()));
    }
    if files.len() > MOST {
        return Err(GetError::TooMany(prefix.to_owned()));
    }
    each(global, prefix, files, path.unwrap_or(Path::new(own))).await
}

/// Fetches files that are all in `prefix` into the directory `root`, some at a time; those before a failure stay.
async fn each(
    global: &Global,
    prefix: &str,
    files: Vec<File>,
    root: &Path,
) -> Result<(), GetError> {
    if root.as_os_str() == "-" {
        return Err(GetError::ManyToOne);
    }
    let mut names = Vec::new();
    // Whatever a peer answers, nothing is written outside of the directory: a valid name has no `..`.
    for file in files {
        let place = file.name.strip_prefix(prefix).map(|rest| root.join(rest));
        names.push((valid(file.name)?, place.ok_or(GetError::Astray)?));
    }
    apart(&names)?;
    let bars = MultiProgress::new();
    let mut fetched = stream::iter(&names)
        .map(async |(name, place)| {
            let bar = bars.add(progress::transfer(name.as_str(), None));
            let dir = place.parent().unwrap_or(root);
            let made = tokio::fs::create_dir_all(dir).await;
            made.map_err(|reason| GetError::Write {
                path: dir.to_owned(),
                reason,
            })?;
            let saved = save(&global.server, name, place, &bar).await;
            bar.finish_and_clear();
            saved.map(|file| (place, file))
        })
        .buffered(AT_ONCE);
    let mut files = Vec::new();
    while let Some(saved) = fetched.next().await {
        let (path, file) = saved?;
        if !global.common.output.is_document() {
            let line = format!("{} ({})\n", path.display(), output::bytes(file.size));
            bars.suspend(|| output::print(&line))
                .map_err(GetError::Stdout)?;
        }
        files.push(file);
    }
    global
        .common
        .output
        .document(&files)
        .map_err(GetError::Stdout)?;
    Ok(())
}

/// Refuses a file whose place is, or would have to be, a directory too.
fn apart(names: &[(Name, PathBuf)]) -> Result<(), GetError> {
    let pairs = names.iter().map(|(name, place)| (place.as_path(), name));
    let files: BTreeMap<&Path, &Name> = pairs.collect();
    let mut clashes = names.iter().flat_map(|(name, place)| {
        let taken = place.is_dir().then_some((place.as_path(), name));
        let above = place.ancestors().skip(1);
        taken
            .into_iter()
            .chain(above.filter_map(|dir| files.get_key_value(dir).map(|(p, n)| (*p, *n))))
    });
    match clashes.next() {
        Some((path, name)) => Err(GetError::FileAndPrefix {
            name: name.clone(),
            path: path.to_owned(),
        }),
        None => Ok(()),
    }
}

async fn deliver(
    global: &Global,
    name: &Name,
    path: Option<&Path>,
    bar: &ProgressBar,
) -> Result<(), GetError> {
    if path.is_some_and(|p| p.as_os_str() == "-") {
        let mut out = tokio::io::stdout();
        fetch(&global.server, name, &mut out, bar, GetError::Stdout).await?;
        return out.flush().await.map_err(GetError::Stdout);
    }
    let path = destination(name, path);
    let file = save(&global.server, name, &path, bar).await?;
    let print = || -> io::Result<()> {
        if !global.common.output.document(&file)? {
            output::print(&format!(
                "{} ({})\n",
                path.display(),
                output::bytes(file.size)
            ))?;
        }
        Ok(())
    };
    print().map_err(GetError::Stdout)
}

/// Fetches a file to exactly this path.
pub(crate) async fn save(
    servers: &Servers,
    name: &Name,
    path: &Path,
    bar: &ProgressBar,
) -> Result<File, GetError> {
    let failed = |reason| GetError::Write {
        path: path.to_owned(),
        reason,
    };
    if is_special(path) {
        let device = tokio::fs::OpenOptions::new().write(true).open(path).await;
        let mut device = device.map_err(&failed)?;
        let info = fetch(servers, name, &mut device, bar, &failed).await?;
        device.flush().await.map_err(failed)?;
        return Ok(info.into());
    }
    let temporary = temporary(path).map_err(&failed)?;
    let mut file = tokio::fs::File::from_std(temporary.reopen().map_err(&failed)?);
    let info = fetch(servers, name, &mut file, bar, &failed).await?;
    file.flush().await.map_err(&failed)?;
    file.sync_all().await.map_err(&failed)?;
    temporary.persist(path).map_err(|e| failed(e.error))?;
    Ok(info.into())
}

/// Whether `path` is a device, a pipe or a socket: something to write to, never to replace.
pub(crate) fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Where the file goes: into a directory, or to exactly this path.
pub(crate) fn destination(name: &Name, path: Option<&Path>) -> PathBuf {
    let last = name
        .as_str()
        .rsplit('/')
        .next()
        .expect("splitting yields at least one part");
    match path {
        None => PathBuf::from(last),
        Some(path) if path.is_dir() => path.join(last),
        // A link stays a link: what it points to is replaced.
        Some(path) => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
    }
}

/// A file beside `path`, so that the rename stays within one file system.
pub(crate) fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".peernet-").suffix(".part");
    // Who may read what it replaces may read it, and nobody else.
    let replaced = std::fs::metadata(path).ok().map(|m| m.permissions());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As for any new file, the umask decides; the default of temporary files is for their owner only.
        let new = || std::fs::Permissions::from_mode(0o666);
        builder.permissions(replaced.clone().unwrap_or_else(new));
    }
    let file = builder.tempfile_in(dir)?;
    if let Some(replaced) = replaced {
        file.as_file().set_permissions(replaced)?;
    }
    Ok(file)
}

/// Streams the file into `sink`. When a peer fails half-way, goes on at the next server from the byte it stopped at; gives
/// up when each server in turn brought nothing new.
async fn fetch(
    servers: &Servers,
    name: &Name,
    sink: &mut (impl AsyncWrite + Unpin),
    bar: &ProgressBar,
    write_failed: impl Fn(io::Error) -> GetError,
) -> Result<FileInfo, GetError> {
    let mut known: Option<FileInfo> = None;
    let mut got = 0;
    let (mut tries, mut fruitless) = (0, 0);
    loop {
        let connection = servers.connect(tries).await?;
        tries += 1;
        let before = got;
        let error = match open(&connection, name, got).await {
            Ok((info, mut parts)) => {
                match known.get_or_insert_with(|| info.clone()) {
                    first if first.etag != info.etag => return Err(GetError::Replaced),
                    first => progress::learn_size(bar, first.size),
                }
                match copy(&mut parts, &mut got, info.size, sink, bar, &write_failed).await? {
                    None if got == info.size => return Ok(info),
                    None => GetError::Short {
                        got,
                        size: info.size,
                    },
                    Some(status) => connection.refused(status).into(),
                }
            }
            Err(status) => connection.refused(status).into(),
        };
        fruitless = if got > before { 0 } else { fruitless + 1 };
        if error.exit() != Exit::Retryable || fruitless >= servers.count() {
            return Err(error);
        }
    }
}

async fn open(
    connection: &Connection,
    name: &Name,
    offset: u64,
) -> Result<(FileInfo, Streaming<GetResponse>), Status> {
    let request = GetRequest {
        name: name.as_str().to_owned(),
        offset,
        ..GetRequest::default()
    };
    let mut parts = FilesClient::new(connection.channel.clone())
        .get(request)
        .await?
        .into_inner();
    match parts.message().await?.and_then(|m| m.part) {
        Some(Part::File(info)) => Ok((info, parts)),
        _ => Err(Status::internal(
            "the peer did not begin with what it knows of the file",
        )),
    }
}

/// Copies until the stream ends (nothing) or breaks (its status).
async fn copy(
    parts: &mut Streaming<GetResponse>,
    got: &mut u64,
    size: u64,
    sink: &mut (impl AsyncWrite + Unpin),
    bar: &ProgressBar,
    write_failed: impl Fn(io::Error) -> GetError,
) -> Result<Option<Status>, GetError> {
    loop {
        let data = match parts.message().await {
            Ok(Some(GetResponse {
                part: Some(Part::Data(data)),
            })) => data,
            Ok(Some(_)) => continue,
            Ok(None) => return Ok(None),
            Err(status) => return Ok(Some(status)),
        };
        if *got + data.len() as u64 > size {
            return Err(GetError::Long { size });
        }
        sink.write_all(&data).await.map_err(&write_failed)?;
        *got += data.len() as u64;
        bar.set_position(*got);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_into_directories_or_to_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new("docs/a.txt").unwrap();
        assert_eq!(destination(&name, None), Path::new("a.txt"));
        assert_eq!(
            destination(&name, Some(dir.path())),
            dir.path().join("a.txt")
        );
        assert_eq!(destination(&name, Some(Path::new("x/y"))), Path::new("x/y"));
    }

    #[test]
    #[cfg(unix)]
    fn devices_are_written_to_and_links_stay_links() {
        assert!(is_special(Path::new("/dev/null")));
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("a.txt"), dir.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(!is_special(&link));
        let name = Name::new("docs/a.txt").unwrap();
        let real = target.canonicalize().unwrap();
        assert_eq!(destination(&name, Some(&link)), real);
    }

    #[test]
    fn a_name_is_not_a_file_and_a_directory_in_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let check = |names: &[&str]| {
            let place = |n: &&str| (Name::new(*n).unwrap(), dir.path().join(n));
            apart(&names.iter().map(place).collect::<Vec<_>>())
        };
        check(&["a", "a-b", "ab/c", "b/c", "b/d/e"]).unwrap();
        for names in [&["a", "a/b/c"], &["a/b/c", "a"]] {
            let error = check(names).unwrap_err();
            assert!(matches!(&error, GetError::FileAndPrefix { name, .. } if name.as_str() == "a"));
        }
        // What an earlier fetch made a directory.
        std::fs::create_dir(dir.path().join("ab")).unwrap();
        check(&["ab/c"]).unwrap();
        let error = check(&["ab"]).unwrap_err();
        assert!(
            error.to_string().contains("both a file and a prefix"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        drop(temporary(&target).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        temporary(&target).unwrap().persist(&target).unwrap();
        assert!(target.is_file());
    }

    #[cfg(unix)]
    #[test]
    fn what_takes_the_place_of_a_private_file_is_as_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        for mode in [0o600, 0o640] {
            std::fs::write(&path, b"old").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            temporary(&path).unwrap().persist(&path).unwrap();
            let now = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(now & 0o777, mode);
        }
    }
}
