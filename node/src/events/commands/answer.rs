//! What the sender of a command is told.

use peernet_proto::v1::FileInfo;
use serde::{Deserialize, Serialize};

use crate::files::{ErrorKind, FileError};

/// Longest sentence in an answer, in bytes; with it an answer is small enough to be remembered with others.
const DETAIL_MAX: usize = 512;

/// The answer to a command, as JSON.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// The command was carried out.
    pub(super) ok: bool,
    /// The file that it was about, as it is now; not there when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<File>,
    /// The kind of failure for programs, as over REST and gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// What happened, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct File {
    name: String,
    /// Bytes.
    size: u64,
    etag: String,
}

impl From<FileInfo> for File {
    fn from(info: FileInfo) -> Self {
        File {
            name: info.name,
            size: info.size,
            etag: info.etag,
        }
    }
}

/// How a command ended.
pub(super) enum Outcome {
    /// For good.
    Final(Answer),
    /// It may go better another time; the answer if there is none.
    Passing(Answer),
}

impl Answer {
    pub(super) fn done(file: Option<File>) -> Self {
        Answer {
            ok: true,
            file,
            code: None,
            detail: None,
        }
    }

    pub(super) fn failed(code: &str, detail: String) -> Self {
        let end = detail.floor_char_boundary(DETAIL_MAX);
        let detail = detail[..end].replace(|c: char| c.is_control(), " ");
        Answer {
            ok: false,
            file: None,
            code: Some(code.to_owned()),
            detail: Some(detail),
        }
    }

    /// The message makes no sense, or asks for what is not allowed.
    pub(super) fn refused(detail: String) -> Self {
        Self::failed(ErrorKind::Invalid.code(), detail)
    }

    /// It works again later.
    pub(super) fn unavailable(detail: String) -> Self {
        Self::failed(ErrorKind::Unavailable.code(), detail)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl From<FileError> for Outcome {
    fn from(error: FileError) -> Self {
        let kind = error.kind();
        let answer = Answer::failed(kind.code(), error.to_string());
        match kind {
            // What a full disk or a bad copy needs takes longer than messages are tried again.
            ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::TimedOut => {
                Outcome::Passing(answer)
            }
            ErrorKind::NotFound
            | ErrorKind::Precondition
            | ErrorKind::Pinned
            | ErrorKind::Invalid
            | ErrorKind::OutOfRange
            | ErrorKind::Full
            | ErrorKind::DataLoss
            | ErrorKind::Internal => Outcome::Final(answer),
        }
    }
}
