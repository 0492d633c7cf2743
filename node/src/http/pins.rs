//! `/v1/pins`: which files are kept from being replaced, renamed and deleted.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::conditions::on_change;
use super::files::{FileView, Named, call, name_of, quoted};
use super::parameters::{Changing, FileName};
use super::problem::Problem;
use crate::daemon::Life;

/// Where a file's pin is.
const PIN: &str = "/v1/pins/{*name}";

/// Pins a file
///
/// Until it is unpinned, what would replace, rename or delete the file is refused with status 409. The content and its etag
/// stay what they are, and a file that is pinned already stays so.
#[utoipa::path(
    put,
    path = PIN,
    operation_id = "pinFile",
    tag = "files",
    params(FileName, Changing),
    responses(
        (status = 200, body = FileView, description = "The file is pinned", headers(("ETag" = String))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 412, response = Problem),
    )
)]
pub(super) async fn pin(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (name, when) = (name_of(name)?, on_change(&headers)?);
    call(&life, async |running| {
        let info = running.files.pin(name, true, &when).await?;
        let etag = [(header::ETAG, quoted(&info))];
        Ok((etag, Json(FileView::from(info))).into_response())
    })
    .await
}

/// Unpins a file
///
/// It may be replaced, renamed and deleted again. Nothing is changed of a file that is not pinned.
#[utoipa::path(
    delete,
    path = PIN,
    operation_id = "unpinFile",
    tag = "files",
    params(FileName, Changing),
    responses(
        (status = 204, description = "The file is not pinned"),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 412, response = Problem),
    )
)]
pub(super) async fn unpin(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (name, when) = (name_of(name)?, on_change(&headers)?);
    call(&life, async |running| {
        running.files.pin(name, false, &when).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}
