//! Giving a file another name: the new name is created where there was none, then the old one is removed if it still is
//! what was read. No bytes move: the chunks are pinned for the new name, as for any put that finds them.
//!
//! Two names are two registers, mostly on different peers, so this is not atomic. In between both names lead to the file;
//! whoever reads finds it under at least one of them at any moment. A rename that got no further is finished by asking for
//! it again: a new name that holds the very record of the old one, its time included, is taken for the first half.
//! Whoever does not ask again has two files of the same bytes, which are stored once, and may remove either; they are listed
//! and found under both names. If one of them is written anew meanwhile, they are two files for good: the same request is
//! refused then, since the new name is taken.

use peernet_core::collect::upload_of;
use peernet_core::io::RequestError;
use peernet_core::key::Name;
use peernet_core::register::{Condition, Head, Register, Value};
use peernet_proto::v1;

use bytes::Bytes;

use super::precondition::{ATTEMPTS, Tags, judge};
use super::put::Sent;
use super::record::Content;
use super::{FileError, Files, Precondition, open};
use crate::driver::{PeerError, Written};
use crate::faults::rename_is_half_done;

/// What is renamed.
struct Renamed {
    name: Name,
    register: Register,
    /// The record without the content; carries over as it is, but for a pin.
    head: Bytes,
    content: Content,
    chunks: u64,
}

impl Renamed {
    /// Whether a register holds the same record: the copy that a rename makes, or what is left of the old name.
    fn is_in(&self, register: Option<&Register>) -> bool {
        let value = register.map(|r| &r.value);
        matches!(value, Some(Value::Present { head, .. }) if head.bytes == self.head)
    }
}

impl Files {
    /// Renames a file if the condition holds of it and the new name is free.
    pub(crate) async fn rename(
        &self,
        from: Name,
        to: Name,
        when: &Precondition,
    ) -> Result<v1::FileInfo, FileError> {
        // As for a reader: what it is made of stays until it is pinned for the new name, even if it is replaced meanwhile.
        let (register, _) = self.peer.hold_name(from.clone(), None).await?;
        let (summary, content) = open(&from, register.clone())?;
        judge(&from, when, register.as_ref())?;
        if from == to {
            return Err(FileError::Taken(to));
        }
        let Some(register) = register else {
            return Err(FileError::NotFound(from));
        };
        let Value::Present { head, .. } = &register.value else {
            return Err(FileError::NotFound(from));
        };
        let file = Renamed {
            name: from,
            head: head.bytes.clone(),
            register,
            content,
            chunks: summary.chunks,
        };
        let _kept = upload_of(&file.register.value).map(|u| self.keep(file.name.clone(), u));
        self.link(&file, &to).await?;
        rename_is_half_done(self.crash_in_rename);
        self.unlink(file, &to).await?;
        Ok(summary.to_info(&to))
    }

    /// Creates the new name, unless that was done before.
    async fn link(&self, file: &Renamed, to: &Name) -> Result<(), FileError> {
        match self.copy(file, to).await {
            Err(FileError::Precondition { .. }) => {
                let there = self.peer.read_name(to.clone()).await?;
                if file.is_in(there.as_ref()) {
                    return Ok(());
                }
                Err(FileError::Taken(to.clone()))
            }
            Err(FileError::Outlived | FileError::Lost(_)) => {
                Err(FileError::Moving(file.name.clone()))
            }
            done => done,
        }
    }

    /// The new name's record is the old one's, with an upload of its own.
    async fn copy(&self, file: &Renamed, to: &Name) -> Result<(), FileError> {
        let create = Precondition {
            if_none_match: Some(Tags::Any),
            ..Precondition::default()
        };
        let (head, body) = (Head::from(file.head.clone()), file.content.encode());
        if let Content::Inline(_) = file.content {
            let upload = None;
            let value = Value::Present { head, body, upload };
            self.change(to.clone(), value, &create, false).await?;
            return Ok(());
        }
        let by = self.begin_upload(to, &create).await?;
        let chunks = self.all_chunks(&file.name, &file.content).await?;
        let sent = Sent {
            keys: chunks.into_iter().collect(),
            chunks: file.chunks,
            stored: None,
            by,
        };
        self.pin_all(sent.keys.clone(), &sent.by).await?;
        let upload = Some(sent.by.upload);
        let value = Value::Present { head, body, upload };
        self.commit(value, &create, sent).await?;
        Ok(())
    }

    /// Removes the old name if it still holds what the new one got.
    async fn unlink(&self, file: Renamed, to: &Name) -> Result<(), FileError> {
        let half = |reason| FileError::Half {
            from: file.name.clone(),
            to: to.clone(),
            reason,
        };
        let mut write = file.register.write;
        for _ in 0..ATTEMPTS {
            let gone = self.peer.write_name(
                file.name.clone(),
                Value::Deleted,
                Condition::Unchanged(write),
            );
            match gone.await.map_err(half)? {
                Written::Done { .. } => return Ok(()),
                // Written anew with the same value, as a fence does (ADR 12).
                Written::Unmet(Some(register))
                    if file.is_in(Some(&register)) && !register.value.is_pinned() =>
                {
                    write = register.write;
                }
                Written::Unmet(Some(register)) if register.is_present() => {
                    return Err(FileError::Kept {
                        from: file.name,
                        to: to.clone(),
                    });
                }
                // Somebody else removed it.
                Written::Unmet(_) => return Ok(()),
            }
        }
        Err(half(PeerError::Refused(RequestError::Busy)))
    }
}
