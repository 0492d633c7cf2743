//! `peernet ls`, `rm`, `mv` and `pin`: what is known of files, without their bytes.

use std::collections::BTreeSet;
use std::io;

use peernet_core::key::{InvalidName, Name};
use peernet_proto::v1::files_client::FilesClient;
use peernet_proto::v1::{
    DeleteRequest, FileInfo, ListRequest, ListResponse, PinRequest, RenameRequest, UnpinRequest,
};
use serde::Serialize;
use thiserror::Error;
use tonic::Code;

use crate::args::{self, Global, Ls, Mv, Pin, Rm, Unpin};
use crate::exit::Exit;
use crate::output;
use crate::pattern::{Pattern, PatternError};
use crate::servers::{CallError, Servers};

/// Why a command on names failed.
#[derive(Debug, Error)]
pub enum NamesError {
    /// The name is not valid in the network.
    #[error("'{name}' cannot be a name: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: InvalidName,
    },
    /// A peer refused or none was there.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There is nothing of a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// It could not be done with some of several names.
    #[error("{failed} of {all} files were not {done}:{reasons}")]
    Some {
        /// What was to be done with them.
        done: &'static str,
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// Why each of them, on a line of its own.
        reasons: String,
        /// The worst class among them.
        exit: Exit,
    },
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl NamesError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            NamesError::Name { .. } => Exit::Usage,
            NamesError::Call(e) => e.exit(),
            NamesError::Pattern(e) => e.exit(),
            NamesError::Some { exit, .. } => *exit,
            NamesError::Print(_) => Exit::Permanent,
        }
    }
}

/// A stored file, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Name in the network.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Changes exactly when the content does.
    pub etag: String,
    /// Media type.
    pub content_type: String,
    /// What it is found by, besides its name.
    pub tags: Vec<String>,
    /// RFC 3339, by the clock of the peer that stored it.
    pub modified: String,
    /// 0 when the bytes are in the name's own record.
    pub chunks: u64,
    /// It can be neither replaced, renamed nor removed until it is unpinned.
    pub pinned: bool,
    /// Bytes of one copy as its chunks were sent: fewer than its size where they were compressed. Absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<u64>,
}

impl From<FileInfo> for File {
    fn from(info: FileInfo) -> Self {
        let FileInfo {
            name,
            size,
            etag,
            content_type,
            modified_unix_ms,
            chunks,
            tags,
            pinned,
            stored,
        } = info;
        File {
            name,
            size,
            etag,
            content_type,
            tags,
            modified: output::moment(modified_unix_ms),
            chunks,
            pinned,
            stored,
        }
    }
}

/// Lists files whose names begin with the prefix, or match the pattern, in byte order.
pub async fn list(global: &Global, ls: Ls) -> Result<(), NamesError> {
    let files = match ls.glob {
        true => match Pattern::new(&ls.prefix)?.files(&global.server).await {
            Err(PatternError::Nothing(_)) => Vec::new(),
            found => found?,
        },
        false => all(&global.server, &ls.prefix, usize::MAX, |_| true).await?,
    };
    if global.common.output.document(&files)? {
        return Ok(());
    }
    output::print(&file_table(&files, global.common.output.is_wide()))?;
    Ok(())
}

/// The wanted ones of the files whose names begin with `prefix`, in byte order: all, or more than `most`.
pub(crate) async fn all(
    servers: &Servers,
    prefix: &str,
    most: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<File>, CallError> {
    let (mut files, mut after) = (Vec::new(), String::new());
    loop {
        let (page, next) = page(servers, prefix, after).await?;
        files.extend(page.into_iter().filter(|file| wanted(&file.name)));
        if next.is_empty() || files.len() > most {
            return Ok(files);
        }
        after = next;
    }
}

/// The files after a name, as many as a peer says at once; and the name to go on after, empty at the end.
pub(crate) async fn page(
    servers: &Servers,
    prefix: &str,
    after: String,
) -> Result<(Vec<File>, String), CallError> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        after,
        limit: 0,
    };
    let answer = servers
        .call(async |channel| FilesClient::new(channel).list(request.clone()).await)
        .await?;
    let ListResponse { files, next } = answer.into_inner();
    Ok((files.into_iter().map(File::from).collect(), next))
}

pub(crate) fn file_table(files: &[File], wide: bool) -> String {
    if files.is_empty() {
        return String::new();
    }
    let (brief, full) = (
        ["SIZE>", "MODIFIED", "NAME"],
        [
            "SIZE>", "STORED>", "MODIFIED", "PINNED", "CHUNKS>", "ETAG", "TYPE", "NAME",
        ],
    );
    let rows = files.iter().cloned().map(|f| {
        let size = output::bytes(f.size);
        if wide {
            vec![
                size,
                f.stored.map_or("-".to_owned(), output::bytes),
                f.modified,
                if f.pinned { "yes" } else { "no" }.to_owned(),
                f.chunks.to_string(),
                f.etag,
                f.content_type,
                f.name,
            ]
        } else {
            vec![size, f.modified, f.name]
        }
    });
    output::table(if wide { &full } else { &brief }, rows)
}

/// Removes each name.
pub async fn remove(global: &Global, rm: Rm) -> Result<(), NamesError> {
    let remove = async |name: &str| delete(&global.server, name).await;
    each(global, rm.names, "removed", remove).await
}

/// Pins each file.
pub async fn pin(global: &Global, pin: Pin) -> Result<(), NamesError> {
    let pin_one = async |name: &str| set_pin(&global.server, name, true).await;
    each(global, pin.names, "pinned", pin_one).await
}

/// Unpins each file.
pub async fn unpin(global: &Global, unpin: Unpin) -> Result<(), NamesError> {
    let unpin_one = async |name: &str| set_pin(&global.server, name, false).await;
    each(global, unpin.names, "unpinned", unpin_one).await
}

/// The names of all files that match one of the patterns, each once.
async fn matching(servers: &Servers, patterns: &[String]) -> Result<Vec<String>, PatternError> {
    let mut names = BTreeSet::new();
    for pattern in patterns {
        let files = Pattern::new(pattern)?.files(servers).await?;
        names.extend(files.into_iter().map(|file| file.name));
    }
    Ok(names.into_iter().collect())
}

/// Does something with each name, of which it is then said that it is `done`; goes on after a failure.
async fn each(
    global: &Global,
    names: args::Names,
    done: &'static str,
    work: impl AsyncFn(&str) -> Result<(), CallError>,
) -> Result<(), NamesError> {
    let names = match names.glob {
        true => matching(&global.server, &names.name).await?,
        false => names.name,
    };
    let names = names.into_iter().map(checked);
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let mut well = Vec::new();
    let mut failures = Vec::new();
    for name in &names {
        match work(name.as_str()).await {
            Ok(()) => well.push(name.as_str()),
            Err(error) => failures.push(error),
        }
    }
    if !global.common.output.document(&well)? {
        let lines: String = well.iter().map(|name| format!("{done} {name}\n")).collect();
        output::print(&lines)?;
    }
    let failed = failures.len();
    let exit = failures.iter().map(CallError::exit).max();
    match (failures.pop(), exit) {
        (Some(error), _) if names.len() == 1 => Err(error.into()),
        (Some(last), Some(exit)) => Err(NamesError::Some {
            done,
            failed,
            all: names.len(),
            reasons: (failures.iter().chain([&last]))
                .map(|reason| format!("\n  {reason}"))
                .collect(),
            exit,
        }),
        _ => Ok(()),
    }
}

/// Removes one name.
pub(crate) async fn delete(servers: &Servers, name: &str) -> Result<(), CallError> {
    let request = DeleteRequest {
        name: name.to_owned(),
        when: None,
    };
    servers
        .change(async |channel, perhaps_done| {
            match FilesClient::new(channel).delete(request.clone()).await {
                Err(status) if perhaps_done && status.code() == Code::NotFound => Ok(()),
                answer => answer.map(drop),
            }
        })
        .await
}

/// Pins or unpins one file.
pub(crate) async fn set_pin(servers: &Servers, name: &str, pinned: bool) -> Result<(), CallError> {
    let (name, when) = (name.to_owned(), None);
    servers
        .call(async |channel| {
            let (mut files, name) = (FilesClient::new(channel), name.clone());
            if pinned {
                files
                    .pin(PinRequest {
                        name,
                        when: when.clone(),
                    })
                    .await
                    .map(drop)
            } else {
                files
                    .unpin(UnpinRequest {
                        name,
                        when: when.clone(),
                    })
                    .await
                    .map(drop)
            }
        })
        .await
}

/// Gives a file another name.
pub async fn rename(global: &Global, mv: Mv) -> Result<(), NamesError> {
    let old = checked(mv.old)?;
    let new = checked(beside(old.as_str(), mv.new))?;
    let file = move_to(&global.server, old.as_str(), new.as_str()).await?;
    if !global.common.output.document(&file)? {
        output::print(&format!("renamed {old} to {}\n", file.name))?;
    }
    Ok(())
}

/// The new name in whole: one that ends with a slash takes the last segment of the old one.
fn beside(old: &str, new: String) -> String {
    if new.ends_with('/') {
        new + old.rsplit('/').next().unwrap_or_default()
    } else {
        new
    }
}

/// Renames one file. Another peer may be asked to finish what one has begun.
pub(crate) async fn move_to(servers: &Servers, old: &str, new: &str) -> Result<File, CallError> {
    let request = RenameRequest {
        name: old.to_owned(),
        new_name: new.to_owned(),
        when: None,
    };
    let answer = servers
        .change(async |channel, _| FilesClient::new(channel).rename(request.clone()).await)
        .await?;
    Ok(answer.into_inner().file.unwrap_or_default().into())
}

pub(crate) fn checked(name: String) -> Result<Name, NamesError> {
    Name::new(name.clone()).map_err(|reason| NamesError::Name { name, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: u64) -> File {
        File::from(FileInfo {
            name: name.into(),
            size,
            etag: "e".into(),
            content_type: "t".into(),
            modified_unix_ms: 0,
            chunks: 1,
            tags: Vec::new(),
            pinned: false,
            stored: Some(size / 2),
        })
    }

    #[test]
    fn lists_show_size_date_and_name() {
        let text = file_table(&[file("a b", 1), file("c", 2048)], false);
        assert_eq!(
            text,
            "   SIZE  MODIFIED              NAME\n    1 B  1970-01-01T00:00:00Z  a b\n2.0 KiB  1970-01-01T00:00:00Z  c\n"
        );
        assert_eq!(file_table(&[], true), "");
        let pinned = File {
            pinned: true,
            ..file("c", 1)
        };
        let text = file_table(&[file("a", 1), pinned], true);
        assert!(
            text.contains("Z  no  ") && text.contains("Z  yes "),
            "{text}"
        );
    }

    #[test]
    fn a_prefix_takes_the_last_segment_of_the_old_name() {
        for (new, whole) in [("b", "b"), ("d/", "d/a"), ("d/b", "d/b"), ("/", "/a")] {
            assert_eq!(beside("x/a", new.into()), whole);
        }
    }

    #[test]
    fn documents_use_camel_case() {
        let json = serde_json::to_value(file("a", 1)).unwrap();
        assert_eq!(json["contentType"], "t");
        assert_eq!(json["modified"], "1970-01-01T00:00:00Z");
    }
}
