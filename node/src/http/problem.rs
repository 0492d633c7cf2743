//! Errors as problem documents (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{ToResponse, ToSchema};

use crate::daemon::NotServing;
use crate::driver::PeerError;
use crate::files::{ErrorKind, FileError};

/// What went wrong with a request (RFC 9457). Nothing was changed, unless the detail says what.
#[derive(Debug, Serialize, ToSchema, ToResponse)]
#[response(content_type = "application/problem+json")]
pub(super) struct Problem {
    /// Names the kind of problem; not a place to look it up.
    #[schema(value_type = String, examples("urn:peernet:problem:not_found"))]
    r#type: Box<str>,
    /// The kind of problem in words.
    title: &'static str,
    /// The same as the answer's.
    #[serde(serialize_with = "as_number")]
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    status: StatusCode,
    /// What happened, and what to do about it.
    detail: String,
    /// The kind of problem for programs, the same as over gRPC.
    #[schema(examples("not_found"))]
    code: &'static str,
    /// Where the next part of the upload begins, when this one began elsewhere.
    #[serde(rename = "expected-offset", skip_serializing_if = "Option::is_none")]
    expected_offset: Option<u64>,
    /// Where the part began.
    #[serde(rename = "provided-offset", skip_serializing_if = "Option::is_none")]
    provided_offset: Option<u64>,
    /// Bytes of the file, when the range was wrong.
    #[serde(skip)]
    size: Option<Box<u64>>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: String) -> Self {
        Problem {
            r#type: format!("urn:peernet:problem:{code}").into(),
            title,
            status,
            detail,
            code,
            expected_offset: None,
            provided_offset: None,
            size: None,
        }
    }

    /// The request makes no sense.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::of_kind(ErrorKind::Invalid, detail.into())
    }

    /// No byte of the range is in the file.
    pub(super) fn range(size: u64) -> Self {
        let detail = format!("no byte of that range is in the file, which has {size} bytes");
        Problem {
            size: Some(Box::new(size)),
            ..Self::of_kind(ErrorKind::OutOfRange, detail)
        }
    }

    /// It works again later.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::of_kind(ErrorKind::Unavailable, detail.into())
    }

    /// It was there, and never will be again.
    pub(super) fn gone(detail: String) -> Self {
        Self::new(StatusCode::GONE, "gone", "Gone", detail)
    }

    /// Nobody may do that in this way.
    pub(super) fn forbidden(detail: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    /// Too much is going on here.
    pub(super) fn busy(detail: String) -> Self {
        Self::of_kind(ErrorKind::Busy, detail)
    }

    /// The body is more than what is asked for there can need.
    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "Too large",
            format!("the request's body may have {limit} bytes"),
        )
    }

    /// The body is in a coding that is not known here.
    pub(super) fn encoded() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_coding",
            "Unsupported coding",
            "files are stored as they are; send the bytes without content-encoding".into(),
        )
    }

    /// The body is not of a type that is understood there.
    pub(super) fn media_type(detail: String) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Unsupported media type",
            detail,
        )
    }

    fn of_kind(kind: ErrorKind, detail: String) -> Self {
        let (status, title) = match kind {
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "No such file"),
            ErrorKind::Precondition => (StatusCode::PRECONDITION_FAILED, "Precondition failed"),
            ErrorKind::Pinned => (StatusCode::CONFLICT, "File is pinned"),
            ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "Invalid request"),
            ErrorKind::OutOfRange => (StatusCode::RANGE_NOT_SATISFIABLE, "Range not satisfiable"),
            ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Temporarily unavailable"),
            ErrorKind::Busy => (StatusCode::TOO_MANY_REQUESTS, "Too busy"),
            ErrorKind::Full => (StatusCode::INSUFFICIENT_STORAGE, "Insufficient storage"),
            ErrorKind::TimedOut => (StatusCode::REQUEST_TIMEOUT, "Too slow"),
            ErrorKind::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "Data lost"),
            ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        };
        Self::new(status, kind.code(), title, detail)
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        let problem = Self::of_kind(error.kind(), error.to_string());
        match error {
            FileError::Digest { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "digest_mismatch",
                "Digest mismatch",
                problem.detail,
            ),
            // Named by the draft on resumable uploads, so that its clients know it.
            FileError::Offset { expected, provided } => Problem {
                r#type: "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
                    .into(),
                expected_offset: Some(expected),
                provided_offset: Some(provided),
                ..Self::new(
                    StatusCode::CONFLICT,
                    "mismatching_upload_offset",
                    "Mismatching upload offset",
                    problem.detail,
                )
            },
            FileError::Range { size, .. } => Problem {
                size: Some(Box::new(size)),
                ..problem
            },
            _ => problem,
        }
    }
}

impl From<PeerError> for Problem {
    fn from(error: PeerError) -> Self {
        Self::of_kind(error.kind(), error.to_string())
    }
}

impl From<NotServing> for Problem {
    fn from(error: NotServing) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, size) = (self.status, self.size.as_deref().copied());
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(size) =
            size.and_then(|size| HeaderValue::try_from(format!("bytes */{size}")).ok())
        {
            headers.insert(header::CONTENT_RANGE, size);
        }
        response
    }
}

/// For paths that lead nowhere.
pub(super) async fn no_such_resource(uri: Uri) -> Problem {
    let detail = format!(
        "there is nothing at {}; files are at /v1/files/NAME",
        uri.path()
    );
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_resource",
        "No such resource",
        detail,
    )
}

/// For methods that a resource does not have.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} is not possible on {}", uri.path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no_such_method",
        "Method not allowed",
        detail,
    )
}
