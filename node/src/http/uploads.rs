//! `/v1/uploads`: files that come in parts, in the shape of the draft "Resumable Uploads for HTTP"
//! (draft-ietf-httpbis-resumable-upload): an upload has an offset, parts are appended there, and the last one makes a file.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use peernet_core::key::Name;
use peernet_core::member::PeerId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::conditions::on_change;
use super::digest;
use super::files::{FileView, Named, bytes_of, call, kind_of, quoted};
use super::forward::forward;
use super::parameters::{self, Appending, Beginning, Changing, Described, UploadId};
use super::problem::Problem;
use super::rename::path_of;
use crate::daemon::{Life, Running};
use crate::files::{AGE, Appended, FileError, Files, Part, Parts, PartsId};

/// `?1` in the part that is the last (RFC 9651, section 3.3.6).
pub(super) const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const LIMIT: HeaderName = HeaderName::from_static("upload-limit");
/// Of a part.
const PARTIAL: &str = "application/partial-upload";
/// Where an upload is.
const UPLOAD: &str = "/v1/uploads/{id}";

/// Which file is to come.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of the file, as in `/v1/files/{name}`.
    #[param(schema_with = parameters::name)]
    name: String,
}

/// Begins an upload in parts
///
/// The body may be the first part. The answer says where the upload is: it goes on there through any peer as long as this one,
/// which keeps it, also after a restart, can be reached, for an hour after its last part. The conditions and the content type
/// are those of the file.
#[utoipa::path(
    post,
    path = "/v1/uploads",
    operation_id = "beginUpload",
    tag = "uploads",
    params(Wanted, Changing, Beginning, Described),
    request_body(content_type = "*/*", description = "The first bytes, if any"),
    responses(
        (status = 201, description = "Parts can be appended", headers(("Location" = String), ("Upload-Offset" = u64), ("Upload-Complete" = String), ("Upload-Limit" = String))),
        (status = 400, response = Problem),
        (status = 409, response = Problem),
        (status = 412, response = Problem),
        (status = 415, response = Problem),
        (status = 422, response = Problem),
        (status = 507, response = Problem),
    )
)]
pub(super) async fn begin(
    State(life): State<Arc<Life>>,
    query: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Query(Wanted { name }) = query.map_err(|error| Problem::invalid(error.body_text()))?;
    let name = Name::new(name).map_err(FileError::from)?;
    if is_last(&headers)? {
        return Err(Problem::invalid(
            "an upload begins with upload-complete: ?0; what is complete is stored by PUT /v1/files/NAME",
        ));
    }
    let size = number(&headers, &LENGTH)?;
    let mut parts = Parts::new(name, kind_of(&headers)?, on_change(&headers)?, size);
    parts.digest = digest::digest(&headers, &digest::REPR)?;
    let content = digest::digest(&headers, &digest::CONTENT)?;
    let part = Part {
        offset: 0,
        last: false,
        whole: content.is_some(),
        digest: None,
    };
    let body = digest::checked(bytes_of(body), content.into_iter().collect());
    call(&life, async |running| {
        let files = &running.files;
        let (id, offset) = files.begin_parts(parts, part, body).await?;
        let place = format!("/v1/uploads/{}-{:032x}", running.id, id.0);
        let place = [(header::LOCATION, place)];
        Ok((StatusCode::CREATED, place, open(offset, files)).into_response())
    })
    .await
}

/// Tells how far an upload is
#[utoipa::path(
    head,
    path = UPLOAD,
    operation_id = "headUpload",
    tag = "uploads",
    params(UploadId),
    responses(
        (status = 204, description = "So many bytes are durable", headers(("Upload-Offset" = u64), ("Upload-Complete" = String), ("Upload-Length" = u64), ("Upload-Limit" = String))),
        (status = 404, description = "There is no such upload: it is complete, cancelled or over"),
        (status = 410, description = "The peer that kept it has left the network"),
    )
)]
pub(super) async fn offset(
    State(life): State<Arc<Life>>,
    id: Named,
    request: Request,
) -> Result<Response, Problem> {
    where_it_is(&life, id, request, async |running, id, _| {
        let parts = running.files.parts(id).await?;
        let mut headers = open(parts.offset(), &running.files);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(size) = parts.size {
            headers.insert(LENGTH, size.into());
        }
        Ok((StatusCode::NO_CONTENT, headers).into_response())
    })
    .await
}

/// Appends a part to an upload
///
/// What has come of a part that breaks off is kept: HEAD tells how much. Of a part with a digest of its own nothing is kept
/// unless all of it is right. When the digest of the whole file is wrong, the upload is over and nothing is stored.
#[utoipa::path(
    patch,
    path = UPLOAD,
    operation_id = "appendUpload",
    tag = "uploads",
    params(UploadId, Appending),
    request_body(content = String, content_type = "application/partial-upload", description = "The bytes from the offset on"),
    responses(
        (status = 201, body = FileView, description = "It was the last part, and the file is stored", headers(("ETag" = String), ("Location" = String), ("Upload-Complete" = String))),
        (status = 204, description = "The part is durable", headers(("Upload-Offset" = u64), ("Upload-Complete" = String), ("Upload-Limit" = String))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 410, response = Problem),
        (status = 409, response = Problem),
        (status = 412, response = Problem),
        (status = 415, response = Problem),
        (status = 422, response = Problem),
        (status = 507, response = Problem),
    )
)]
pub(super) async fn append(
    State(life): State<Arc<Life>>,
    id: Named,
    request: Request,
) -> Result<Response, Problem> {
    let (part, content) = part_of(request.headers())?;
    where_it_is(&life, id, request, async |running, id, request| {
        let body = bytes_of(request.into_body());
        let body = digest::checked(body, content.into_iter().collect());
        let files = &running.files;
        match files.append(id, part, body).await? {
            Appended::Open(offset) => {
                Ok((StatusCode::NO_CONTENT, open(offset, files)).into_response())
            }
            Appended::Stored(info) => {
                let headers = [
                    (header::ETAG, quoted(&info)),
                    (header::LOCATION, path_of(&info.name)),
                    (COMPLETE, "?1".to_owned()),
                ];
                Ok((StatusCode::CREATED, headers, Json(FileView::from(info))).into_response())
            }
        }
    })
    .await
}

/// Cancels an upload
#[utoipa::path(
    delete,
    path = UPLOAD,
    operation_id = "cancelUpload",
    tag = "uploads",
    params(UploadId),
    responses(
        (status = 204, description = "It is forgotten"),
        (status = 404, response = Problem),
        (status = 410, response = Problem),
    )
)]
pub(super) async fn cancel(
    State(life): State<Arc<Life>>,
    id: Named,
    request: Request,
) -> Result<Response, Problem> {
    where_it_is(&life, id, request, async |running, id, _| {
        running.files.cancel_parts(id).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

/// Does `work` if this is the peer that began the upload, and has that one answer otherwise.
async fn where_it_is(
    life: &Life,
    id: Named,
    request: Request,
    work: impl AsyncFnOnce(Arc<Running>, PartsId, Request) -> Result<Response, Problem>,
) -> Result<Response, Problem> {
    let (peer, id) = id_of(id)?;
    call(life, async |running| {
        if peer == running.id {
            work(running, id, request).await
        } else {
            forward(&running, peer, request).await
        }
    })
    .await
}

/// The peer that began it, and its number there.
fn id_of(id: Named) -> Result<(PeerId, PartsId), FileError> {
    let text = id.map_or(String::new(), |Path(id)| id);
    let number = |hex: &str| {
        let digits = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u128::from_str_radix(hex, 16).ok().filter(|_| digits)
    };
    let id = text
        .split_once('-')
        .and_then(|(peer, id)| Some((PeerId(number(peer)?), PartsId(number(id)?))));
    id.ok_or(FileError::NoParts)
}

/// What is said of a part, and the digest of its bytes.
fn part_of(headers: &HeaderMap) -> Result<(Part, Option<[u8; 32]>), Problem> {
    if headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind != PARTIAL)
    {
        return Err(Problem::media_type(format!(
            "a part has content-type {PARTIAL}"
        )));
    }
    let last = is_last(headers)?;
    let whole = digest::digest(headers, &digest::REPR)?;
    if whole.is_some() && !last {
        return Err(Problem::invalid(
            "repr-digest is of the whole file: send it with the first request or with the last part",
        ));
    }
    let content = digest::digest(headers, &digest::CONTENT)?;
    let offset = number(headers, &OFFSET)?;
    let offset =
        offset.ok_or_else(|| Problem::invalid("upload-offset has to say where the part begins"))?;
    let part = Part {
        offset,
        last,
        whole: content.is_some(),
        digest: whole,
    };
    Ok((part, content))
}

/// What is told of an upload that goes on.
fn open(offset: u64, files: &Files) -> HeaderMap {
    let limit = format!("max-size={}, max-age={}", files.parts_max(), AGE.as_secs());
    let limit = HeaderValue::try_from(limit).unwrap_or(HeaderValue::from_static(""));
    let headers = [
        (OFFSET, offset.into()),
        (COMPLETE, HeaderValue::from_static("?0")),
        (LIMIT, limit),
    ];
    headers.into_iter().collect()
}

fn is_last(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get(&COMPLETE).map(HeaderValue::as_bytes) {
        Some(b"?0") => Ok(false),
        Some(b"?1") => Ok(true),
        _ => Err(Problem::invalid(
            "upload-complete has to be ?1 with the last part, else ?0",
        )),
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let digits = value
        .to_str()
        .ok()
        .filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
    let number = digits
        .filter(|v| v.len() <= 15)
        .and_then(|v| v.parse().ok());
    let invalid = || Problem::invalid(format!("{name} has to be a number of bytes"));
    number.map(Some).ok_or_else(invalid)
}
