//! Errors as gRPC statuses: a code, a sentence, and for machines a word in `peernet-code` and the details that gRPC's
//! richer error model defines (`google.rpc.ErrorInfo` and what else fits).

use std::collections::HashMap;
use std::time::Duration;

use peernet_core::boot::BootError;
use peernet_core::member::{Drain, LEAP, Member, PeerId};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::chunks::ChunkError;
use crate::daemon::{AssignError, NotServing};
use crate::driver::PeerError;
use crate::files::{ErrorKind, FileError};
use crate::registry::Crowded;
use crate::shares::ShareError;
use crate::wire::{CODE, WireError};

/// Whose words the reasons are.
const DOMAIN: &str = "peernet.dev";
/// When to try again, if that may help: the same as over HTTP (guess).
const AGAIN: Duration = Duration::from_secs(1);

fn of_kind(kind: ErrorKind, sentence: String) -> Status {
    with_details(kind, sentence, ErrorDetails::new())
}

fn with_details(kind: ErrorKind, sentence: String, mut details: ErrorDetails) -> Status {
    let code = match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Precondition | ErrorKind::Pinned => Code::FailedPrecondition,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Busy | ErrorKind::Full => Code::ResourceExhausted,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    };
    details.set_error_info(kind.code().to_ascii_uppercase(), DOMAIN, HashMap::new());
    if matches!(kind, ErrorKind::Unavailable | ErrorKind::Busy) {
        details.set_retry_info(Some(AGAIN));
    }
    let mut status = Status::with_error_details(code, sentence, details);
    status
        .metadata_mut()
        .insert(CODE, MetadataValue::from_static(kind.code()));
    status
}

/// Too much is going on here: to be said again in a moment.
pub(super) fn busy(sentence: &str) -> Status {
    of_kind(ErrorKind::Busy, sentence.to_owned())
}

pub(super) fn of_file(error: FileError) -> Status {
    let sentence = error.to_string();
    let mut details = ErrorDetails::new();
    match &error {
        FileError::NotFound(name) => {
            details.set_resource_info("peernet.dev/File", name.as_str(), "", &sentence);
        }
        FileError::Precondition { name, .. } => {
            details.add_precondition_failure_violation("ETAG", name.as_str(), &sentence);
        }
        FileError::Pinned(name) => {
            details.add_precondition_failure_violation("PINNED", name.as_str(), &sentence);
        }
        FileError::Taken(name) => {
            details.add_precondition_failure_violation("ABSENT", name.as_str(), &sentence);
        }
        FileError::Kept { from, .. } => {
            details.add_precondition_failure_violation("UNCHANGED", from.as_str(), &sentence);
        }
        FileError::Full { peer } => {
            details.add_quota_failure_violation(peer, &sentence);
        }
        FileError::Name(_) => {
            details.add_bad_request_violation("name", &sentence);
        }
        FileError::ContentType => {
            details.add_bad_request_violation("content_type", &sentence);
        }
        FileError::Tags => {
            details.add_bad_request_violation("tags", &sentence);
        }
        FileError::Query(_) => {
            details.add_bad_request_violation("query", &sentence);
        }
        FileError::Cursor(_) => {
            details.add_bad_request_violation("after", &sentence);
        }
        FileError::Limit(_) => {
            details.add_bad_request_violation("limit", &sentence);
        }
        FileError::HeldLength { .. } => {
            details.add_bad_request_violation("held", &sentence);
        }
        FileError::Size { .. } => {
            details.add_bad_request_violation("size", &sentence);
        }
        FileError::Range { .. } => {
            details.add_bad_request_violation("offset", &sentence);
        }
        // Nothing to say beyond the kind.
        _ => {}
    }
    with_details(error.kind(), sentence, details)
}

pub(super) fn of_share(error: ShareError) -> Status {
    of_kind(error.kind(), error.to_string())
}

pub(super) fn of_peer(error: PeerError) -> Status {
    of_kind(error.kind(), error.to_string())
}

pub(super) fn not_serving(error: NotServing) -> Status {
    of_kind(ErrorKind::Unavailable, error.to_string())
}

pub(super) fn crowded(error: Crowded) -> Status {
    of_kind(ErrorKind::Busy, error.to_string())
}

pub(super) fn of_wire(error: WireError) -> Status {
    of_kind(ErrorKind::Invalid, error.to_string())
}

pub(super) fn of_assign(error: AssignError) -> Status {
    let sentence = error.to_string();
    match error {
        AssignError::OtherNetwork { .. } | AssignError::Boot(BootError::OtherNetwork { .. }) => {
            Status::failed_precondition(sentence)
        }
        AssignError::Stopping => of_kind(ErrorKind::Unavailable, sentence),
        AssignError::Boot(BootError::Store(_)) | AssignError::System(_) => {
            of_kind(ErrorKind::Internal, sentence)
        }
    }
}

/// Read back by the client of this service, which relies on the codes.
pub(super) fn of_chunk(error: ChunkError) -> Status {
    let sentence = error.to_string();
    match error {
        ChunkError::Missing => of_kind(ErrorKind::NotFound, sentence),
        ChunkError::Damaged => of_kind(ErrorKind::DataLoss, sentence),
        ChunkError::Full => of_kind(ErrorKind::Full, sentence),
        ChunkError::Size(_) | ChunkError::OtherLength(_) => of_kind(ErrorKind::Invalid, sentence),
        ChunkError::Disk(_) => of_kind(ErrorKind::Internal, sentence),
        // Not the same code as a full disk, which it may be taken for.
        ChunkError::Unavailable(_) | ChunkError::Peer(_) => {
            of_kind(ErrorKind::Unavailable, sentence)
        }
    }
}

/// Whoever speaks for another network is refused.
pub(super) fn check_network(told: &str, ours: &str) -> Result<(), Status> {
    if told == ours {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this peer is a member of network {ours}, not of {told}"
    )))
}

/// Orders to leave or to stay count up: one from the past, or another under a number that was used, comes from an
/// operator that has missed something, and is refused before anything is done. The same order again is none of that.
pub(super) fn check_orders(
    orders: &[(PeerId, u64, bool)],
    members: &[Member],
) -> Result<(), Status> {
    for (id, epoch, leaving) in orders {
        let order = Drain {
            epoch: *epoch,
            leaving: *leaving,
        };
        let member = members.iter().find(|m| m.id == *id);
        if let Some(known) = member.map(|m| m.drain.epoch)
            && order.epoch > known.saturating_add(LEAP)
        {
            return Err(Status::failed_precondition(format!(
                "nobody would believe the order of drain epoch {epoch} for peer {id}: orders count up one by one, and the \
                 last one was of epoch {known}"
            )));
        }
        if let Some(known) = member.map(|m| m.drain)
            && order.epoch <= known.epoch
            && order != known
        {
            return Err(Status::failed_precondition(format!(
                "the order of drain epoch {epoch} for peer {id} is out of date: it follows the one of epoch {}; read the \
                 member list again and use a greater epoch",
                known.epoch
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use peernet_core::key::Name;

    use super::*;

    #[test]
    fn failures_carry_details() {
        let name = || Name::new("a/b").unwrap();
        let missing = of_file(FileError::NotFound(name()));
        assert_eq!(missing.code(), Code::NotFound);
        let details = missing.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((&info.reason[..], &info.domain[..]), ("NOT_FOUND", DOMAIN));
        assert_eq!(details.resource_info().unwrap().resource_name, "a/b");
        assert!(details.retry_info().is_none());
        let changed = of_file(FileError::Precondition {
            name: name(),
            etag: None,
        });
        let details = changed.get_error_details();
        let violations = &details.precondition_failure().unwrap().violations;
        assert_eq!(violations[0].subject, "a/b");
        let details = of_file(FileError::Limit(0)).get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "limit");
        let stopping = not_serving(NotServing::Stopping);
        assert_eq!(
            stopping.metadata().get("peernet-code").unwrap(),
            "unavailable"
        );
        assert!(stopping.get_details_retry_info().is_some());
    }
}
