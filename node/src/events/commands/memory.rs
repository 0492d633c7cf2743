//! Which commands were begun and how they were answered, so that one that comes again is not carried out again.
//!
//! The network remembers it, as whichever peer is up may get a message the second time: in registers of its own, one for
//! each of a fixed number of groups of message ids, changed by compare-and-set. Each holds the last few commands of its
//! group; so the memory is bounded, and nothing in it ever has to be removed. A command is noted twice: when it is *begun*,
//! with the write that its name then held, and with its *answer*.

use bytes::Bytes;
use peernet_core::io::RequestError;
use peernet_core::key::{InvalidName, Key, Name};
use peernet_core::register::{Condition, Register, Value, WriteId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::answer::Answer;
use super::carry::Order;
use crate::driver::{PeerError, PeerHandle, Written};

/// Groups of message ids. With [`KEPT`], the last 8,000 or so commands are remembered (guess: hours of a busy queue).
const GROUPS: u16 = 1_024;
/// Commands remembered in a group: as many as fit a register, each with the longest answer.
const KEPT: usize = 16;
/// How often a group is written again when others write it meanwhile (guess).
const ATTEMPTS: usize = 16;

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Group {
    /// Oldest first.
    kept: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Hash of the message id.
    id: String,
    /// Of the message.
    digest: String,
    known: Known,
}

/// What is remembered of a command.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Known {
    /// It was taken when its name held that write ([`mark`]).
    Begun(String),
    /// This was, or is about to be, the answer.
    Answered(Answer),
}

/// Why nothing is known.
#[derive(Debug, Error)]
pub(super) enum MemoryError {
    #[error("whether this command is done is not known now: {0}")]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("what is remembered of commands cannot be read")]
    Damaged,
    #[error("this message id was used for another command; each needs one of its own")]
    OtherCommand,
}

/// A write, or that there is none, in a form to be compared.
pub(super) fn mark(write: Option<WriteId>) -> String {
    write.map_or_else(
        || "none".to_owned(),
        |write| format!("{}-{:016x}", write.peer, write.op),
    )
}

/// What is remembered of this command.
pub(super) async fn recall(peer: &PeerHandle, order: &Order) -> Result<Option<Known>, MemoryError> {
    let (id, name) = place(&order.id)?;
    let group = Group::decode(peer.read_name(name).await?.as_ref())?;
    Ok(group
        .find(&id, order)?
        .map(|at| group.kept[at].known.clone()))
}

/// Remembers that the command is begun unless more is known already; what is known then.
pub(super) async fn begin(
    peer: &PeerHandle,
    order: &Order,
    base: Option<WriteId>,
) -> Result<Known, MemoryError> {
    update(peer, order, |known| {
        known.unwrap_or_else(|| Known::Begun(mark(base)))
    })
    .await
}

/// Remembers the answer, and returns it; unless another peer has carried out the command meanwhile, whose answer it
/// returns then.
pub(super) async fn conclude(
    peer: &PeerHandle,
    order: &Order,
    answer: Answer,
) -> Result<Answer, MemoryError> {
    let known = update(peer, order, |known| match known {
        Some(Known::Answered(before)) if before.ok => Known::Answered(before),
        _ => Known::Answered(answer.clone()),
    });
    Ok(match known.await? {
        Known::Answered(answer) => answer,
        Known::Begun(_) => answer,
    })
}

async fn update(
    peer: &PeerHandle,
    order: &Order,
    change: impl Fn(Option<Known>) -> Known,
) -> Result<Known, MemoryError> {
    let (id, name) = place(&order.id)?;
    let mut current = peer.read_name(name.clone()).await?;
    for _ in 0..ATTEMPTS {
        let mut group = Group::decode(current.as_ref())?;
        let before = group
            .find(&id, order)?
            .map(|at| group.kept.remove(at).known);
        let known = change(before.clone());
        if before.as_ref() == Some(&known) {
            return Ok(known);
        }
        group.push(Entry {
            id: id.clone(),
            digest: order.digest.to_string(),
            known: known.clone(),
        });
        let value = Value::Present {
            head: Bytes::new().into(),
            body: group.encode(),
            upload: None,
        };
        let condition = Condition::still(current.map(|r| r.write));
        match peer.write_name(name.clone(), value, condition).await? {
            Written::Done { .. } => return Ok(known),
            Written::Unmet(register) => current = register,
        }
    }
    Err(PeerError::Refused(RequestError::Busy).into())
}

/// The hash of a message id, and the register of its group. The number is that of the registers' format.
fn place(id: &str) -> Result<(String, Name), InvalidName> {
    let hash = Key::of_bytes(id.as_bytes());
    let group = u16::from_be_bytes([hash.0[0], hash.0[1]]) % GROUPS;
    let name = Name::internal(&format!("commands/1/{group}"))?;
    Ok((hash.to_string(), name))
}

impl Group {
    fn decode(register: Option<&Register>) -> Result<Self, MemoryError> {
        match register.map(|r| &r.value) {
            None | Some(Value::Deleted) => Ok(Group::default()),
            Some(Value::Present { body, .. }) => {
                serde_json::from_slice(body).map_err(|_| MemoryError::Damaged)
            }
        }
    }

    fn encode(&self) -> Bytes {
        // Strings and numbers always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    fn find(&self, id: &str, order: &Order) -> Result<Option<usize>, MemoryError> {
        let Some(at) = self.kept.iter().position(|entry| entry.id == id) else {
            return Ok(None);
        };
        if self.kept[at].digest == *order.digest.to_hex() {
            Ok(Some(at))
        } else {
            Err(MemoryError::OtherCommand)
        }
    }

    /// Adds one. What was answered is forgotten before what is still under way.
    fn push(&mut self, entry: Entry) {
        if self.kept.len() >= KEPT {
            let answered = |e: &Entry| matches!(e.known, Known::Answered(_));
            let oldest = self.kept.iter().position(answered).unwrap_or(0);
            self.kept.remove(oldest);
        }
        self.kept.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use peernet_core::register::REGISTER_MAX;
    use peernet_proto::v1::FileInfo;

    use super::*;

    fn entry(id: usize, known: Known) -> Entry {
        Entry {
            id: Key::of_bytes(&id.to_be_bytes()).to_string(),
            digest: blake3::hash(b"").to_string(),
            known,
        }
    }

    #[test]
    fn a_group_of_the_longest_answers_fits_a_register() {
        let info = FileInfo {
            name: "\"".repeat(1024),
            size: u64::MAX,
            etag: "e".repeat(64),
            ..FileInfo::default()
        };
        for answer in [
            Answer::done(Some(info.into())),
            Answer::failed("changed_meanwhile", "\"\u{0}".repeat(1024)),
        ] {
            let mut group = Group::default();
            for id in 0..3 * KEPT {
                group.push(entry(id, Known::Answered(answer.clone())));
            }
            assert_eq!(group.kept.len(), KEPT);
            assert!(group.encode().len() < REGISTER_MAX);
        }
    }

    #[test]
    fn what_is_under_way_outlives_what_was_answered() {
        let mut group = Group::default();
        group.push(entry(0, Known::Begun(mark(None))));
        for id in 1..=KEPT {
            group.push(entry(id, Known::Answered(Answer::done(None))));
        }
        assert!(matches!(group.kept[0].known, Known::Begun(_)));
        assert_eq!(group.kept.len(), KEPT);
        assert_eq!(group.kept[1].id, entry(2, Known::Begun(String::new())).id);
    }
}
