//! `POST /v1/files/{name}`: another name for a file.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use peernet_core::key::{NAME_MAX, Name};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa::openapi::schema::Object;

use super::conditions::on_change;
use super::files::{FILE, FileView, Named, call, deepest, name_of, quoted};
use super::parameters::{self, Changing, FileName};
use super::problem::Problem;
use crate::daemon::Life;
use crate::files::FileError;

/// What stays as it is in the path of a file: unreserved characters (RFC 3986, section 2.3), and the slash.
const SEGMENTS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Largest body: the longest name with each byte written as `\u0000`, and what is around it.
const BODY: usize = 6 * NAME_MAX + 1024;

/// What is to become of a file.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rename)]
pub(super) struct RenameView {
    /// Its new name, which has to be free.
    #[schema(schema_with = new_name)]
    rename_to: String,
}

/// With the words that a schema of its own would lose.
fn new_name() -> Object {
    let mut name = parameters::name();
    name.description = Some("The file's new name, which has to be free.".into());
    name
}

/// Renames a file
///
/// Creates the new name, which has to be free, then removes the old one; no bytes move. That is not atomic: both names lead
/// to the file in between, and still do when the second step fails, which the problem then says. Asked again, it
/// finishes what was begun.
#[utoipa::path(
    post,
    path = FILE,
    operation_id = "renameFile",
    tag = "files",
    params(FileName, Changing),
    request_body(content = RenameView),
    responses(
        (status = 201, body = FileView, description = "The file has its new name", headers(("ETag" = String), ("Location" = String))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 408, response = Problem),
        (status = 409, response = Problem),
        (status = 412, response = Problem),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
    )
)]
pub(super) async fn rename(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let from = name_of(name)?;
    let when = on_change(&headers)?;
    let request = whole(request, life.setup().client_timeout).await?;
    let body = Json::from_request(request, &()).await;
    let Json(RenameView { rename_to }) = body.map_err(|error| match error.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::media_type(
            "say what to do with the file as content-type application/json; to store one, use PUT"
                .into(),
        ),
        _ => Problem::invalid(error.body_text()),
    })?;
    let to = Name::new(rename_to).map_err(FileError::from)?;
    call(&life, async |running| {
        let info = running.files.rename(from, to, &when).await?;
        let headers = [
            (header::ETAG, quoted(&info)),
            (header::LOCATION, path_of(&info.name)),
        ];
        Ok((StatusCode::CREATED, headers, Json(FileView::from(info))).into_response())
    })
    .await
}

/// The request when all of it is here, from a client that sends it within its patience.
async fn whole(request: Request, patience: Duration) -> Result<Request, Problem> {
    let (head, body) = request.into_parts();
    let body = timeout(patience, Limited::new(body, BODY).collect()).await;
    let body = body.map_err(|_| FileError::Stalled(patience.as_secs()))?;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => Problem::too_large(BODY),
        false => Problem::invalid(format!("the request broke off: {}", deepest(&*error))),
    })?;
    Ok(Request::from_parts(head, Body::from(body.to_bytes())))
}

/// Where a file is.
pub(super) fn path_of(name: &str) -> String {
    format!("/v1/files/{}", utf8_percent_encode(name, SEGMENTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_leads_back_to_the_name() {
        assert_eq!(path_of("a b/ü?#%.~"), "/v1/files/a%20b/%C3%BC%3F%23%25.~");
    }
}
