//! Errors as gRPC statuses: a code, a sentence, and a word for machines in `peernet-code`.

use peernet_core::boot::BootError;
use peernet_core::member::{Drain, Member, PeerId};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::chunks::ChunkError;
use crate::daemon::{AssignError, NotServing};
use crate::driver::PeerError;
use crate::files::{ErrorKind, FileError};
use crate::shares::ShareError;
use crate::wire::WireError;

fn of_kind(kind: ErrorKind, sentence: String) -> Status {
    let code = match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Precondition => Code::FailedPrecondition,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Busy | ErrorKind::Full => Code::ResourceExhausted,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    };
    let mut status = Status::new(code, sentence);
    status
        .metadata_mut()
        .insert("peernet-code", MetadataValue::from_static(kind.code()));
    status
}

pub(super) fn of_file(error: FileError) -> Status {
    of_kind(error.kind(), error.to_string())
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
        ChunkError::Size(_) => of_kind(ErrorKind::Invalid, sentence),
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
