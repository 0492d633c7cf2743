//! What the shell is told: exit codes, and which of them a gRPC status becomes.

use tonic::Code;

/// Why a command ended without success. The numbers are the process's exit codes and part of the interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Exit {
    /// The command line or what it names is wrong; the same as clap's.
    Usage = 2,
    /// What was asked for does not exist.
    NotFound = 3,
    /// The same command may succeed later, or through another peer.
    Retryable = 5,
    /// The same command will fail again until something is changed.
    Permanent = 6,
    /// A fault of PeerNet itself.
    Fatal = 7,
}

/// What a shell expects of a command that ctrl-C ended: 128 + SIGINT. Of those that wait for what goes on without them.
pub(crate) const INTERRUPTED: u8 = 130;

impl Exit {
    /// The class of a peer's refusal.
    ///
    /// `Unknown` and `Cancelled` are what the transport reports when a connection breaks under a call; peers never
    /// answer with them.
    pub fn of_status(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Exit::Usage,
            Code::NotFound => Exit::NotFound,
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown => Exit::Retryable,
            Code::FailedPrecondition
            | Code::DataLoss
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::OutOfRange
            | Code::Unimplemented => Exit::Permanent,
            Code::Internal | Code::Ok => Exit::Fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::EXIT_CODES;

    #[test]
    fn every_exit_code_is_explained() {
        let classes = [
            Exit::Usage,
            Exit::NotFound,
            Exit::Retryable,
            Exit::Permanent,
            Exit::Fatal,
        ];
        let codes = classes.map(|exit| exit as u8);
        for code in codes.into_iter().chain([0, INTERRUPTED]) {
            assert!(EXIT_CODES.contains(&format!(" {code} ")), "{code}");
        }
    }

    #[test]
    fn statuses_become_the_promised_exit_codes() {
        let expected = [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::Unavailable, 5),
            (Code::ResourceExhausted, 5),
            (Code::DeadlineExceeded, 5),
            (Code::FailedPrecondition, 6),
            (Code::DataLoss, 6),
            (Code::Unimplemented, 6),
            (Code::Internal, 7),
        ];
        for (code, exit) in expected {
            assert_eq!(Exit::of_status(code) as u8, exit, "{code:?}");
        }
    }
}
