//! Pinning a file: until it is unpinned it is neither replaced, renamed nor deleted, so its chunks are never collected.
//!
//! A pin is a mark in the name's record, written by compare-and-set in the place of the very record that was read; it
//! changes nothing else of the file, and no chunk moves (ADR 24). Whether a write may take the place of a pinned file is
//! decided with that write ([`peernet_core::register::Value::may_follow`]): one that was prepared before the pin fails its
//! condition, and one without a condition fails that rule.

use peernet_core::io::RequestError;
use peernet_core::key::Name;
use peernet_core::register::Condition;
use peernet_proto::v1;

use super::precondition::{ATTEMPTS, meets};
use super::{FileError, Files, Precondition, open};
use crate::driver::{PeerError, Written};

impl Files {
    /// Pins a file if the condition holds of it, or unpins it. Nothing is written when that is so already.
    pub(crate) async fn pin(
        &self,
        name: Name,
        pinned: bool,
        when: &Precondition,
    ) -> Result<v1::FileInfo, FileError> {
        let mut current = self.peer.read_name(name.clone()).await?;
        for _ in 0..ATTEMPTS {
            let (mut summary, _) = open(&name, current.clone())?;
            meets(&name, when, current.as_ref())?;
            if summary.pinned == pinned {
                return Ok(summary.to_info(&name));
            }
            summary.pinned = pinned;
            let flipped = current.and_then(|r| Some((r.write, r.value.with_pin(pinned)?)));
            let (write, value) = flipped.ok_or_else(|| FileError::NotFound(name.clone()))?;
            let condition = Condition::Unchanged(write);
            let written = self.peer.write_name(name.clone(), value, condition);
            match written.await? {
                Written::Done { .. } => return Ok(summary.to_info(&name)),
                Written::Unmet(register) => current = register,
            }
        }
        Err(FileError::Peer(PeerError::Refused(RequestError::Busy)))
    }
}
