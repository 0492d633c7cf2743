//! Errors in one line, for logs and sentences.

use std::error::Error;

/// An error with its causes. Some errors repeat their cause in their own sentence; it is then left out.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        // The client prints the whole answer; the API server's own sentence says it all.
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            return format!("{line}: {}", status.message);
        }
        let cause = cause.to_string();
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::peers::PeerError;
    use crate::status::StatusError;
    use crate::wire::Malformed;

    #[test]
    fn causes_follow_once() {
        let source = Malformed::Slot(9_999);
        let error = PeerError::Malformed {
            address: "a:1".into(),
            source,
        };
        assert_eq!(
            causes(&error),
            "a:1 answered nonsense: there is no slot 9999"
        );
    }

    #[test]
    fn the_api_server_speaks_for_itself() {
        let status = Status::failure("it is being terminated", "Forbidden").with_code(403);
        let error = StatusError::from(kube::Error::Api(Box::new(status)));
        assert_eq!(
            causes(&error),
            "cannot write the status: it is being terminated"
        );
    }
}
