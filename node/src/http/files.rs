//! `/v1/files`: files as resources.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use peernet_core::key::{InvalidName, Name};
use peernet_proto::v1;
use serde::{Deserialize, Serialize};

use super::conditions::{is_known, on_change, range_applies};
use super::problem::Problem;
use super::range::{self, Wanted};
use crate::daemon::{Life, Running};
use crate::files::{BrokenOff, FileError};

type Named = Result<Path<String>, PathRejection>;

/// A file as JSON.
#[derive(Serialize)]
struct FileView {
    name: String,
    size: u64,
    etag: String,
    content_type: String,
    modified_unix_ms: u64,
    chunks: u64,
}

impl From<v1::FileInfo> for FileView {
    fn from(info: v1::FileInfo) -> Self {
        let v1::FileInfo {
            name,
            size,
            etag,
            content_type,
            modified_unix_ms,
            chunks,
        } = info;
        FileView {
            name,
            size,
            etag,
            content_type,
            modified_unix_ms,
            chunks,
        }
    }
}

/// `PUT`: 201 when the name was free, 200 when its file was replaced.
pub(super) async fn put(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    let when = on_change(&headers)?;
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::invalid(
            "a part of a file cannot be replaced; send the whole file",
        ));
    }
    let content_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => value
            .to_str()
            .map_err(|_| FileError::ContentType)?
            .to_owned(),
        None => String::new(),
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    let body = body
        .into_data_stream()
        .map_err(|error| BrokenOff(deepest(&error)));
    call(&life, async |running| {
        // The upload's end comes long after the answer to this question, which costs no time that way.
        let existed = running.files.exists(&name);
        let put = running
            .files
            .put(name.clone(), content_type, announced, &when, body);
        let (existed, info) = tokio::join!(existed, put);
        let (existed, info) = (existed.unwrap_or(false), info?);
        let status = if existed {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        let etag = quoted(&info);
        Ok((status, [(header::ETAG, etag)], Json(FileView::from(info))).into_response())
    })
    .await
}

/// `GET`, whole or a range.
pub(super) async fn get(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    call(&life, async |running| {
        let found = running.files.find(name).await?;
        let (size, etag) = (found.info.size, quoted(&found.info));
        if is_known(&headers, &etag) {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
        }
        let asked = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
        let wanted = match asked.filter(|_| range_applies(&headers, &etag)) {
            Some(value) => range::parse(value, size),
            None => Wanted::Whole,
        };
        let (status, range) = match wanted {
            Wanted::Whole => (StatusCode::OK, 0..size),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Nothing => return Err(Problem::range(size)),
        };
        let mut described = describe(&found.info, range.end - range.start);
        if status == StatusCode::PARTIAL_CONTENT {
            let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            described.insert(header::CONTENT_RANGE, text(&value));
        }
        let body = Body::from_stream(running.files.stream(found, range));
        Ok((status, described, body).into_response())
    })
    .await
}

/// `HEAD`: what `GET` would say of the whole file.
pub(super) async fn head(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    call(&life, async |running| {
        let info = running.files.stat(&name).await?;
        let etag = quoted(&info);
        if is_known(&headers, &etag) {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
        }
        let described = describe(&info, info.size);
        Ok((StatusCode::OK, described, Body::empty()).into_response())
    })
    .await
}

/// `DELETE`.
pub(super) async fn delete(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    let when = on_change(&headers)?;
    call(&life, async |running| {
        running.files.delete(name, &when).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

/// Query of a listing.
#[derive(Deserialize)]
pub(super) struct Listing {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    after: String,
    #[serde(default)]
    limit: u32,
}

/// A page of a listing as JSON.
#[derive(Serialize)]
struct PageView {
    files: Vec<FileView>,
    /// Give as `after` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /v1/files`.
pub(super) async fn list(
    State(life): State<Arc<Life>>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Listing {
        prefix,
        after,
        limit,
    }) = query.map_err(|error| Problem::invalid(error.body_text()))?;
    call(&life, async |running| {
        let page = running.files.list(prefix, after, limit).await?;
        let files = page.files.into_iter().map(FileView::from).collect();
        Ok(Json(PageView {
            files,
            next: page.next.map(|n| n.to_string()),
        })
        .into_response())
    })
    .await
}

/// `/v1/files/` without a name.
pub(super) async fn nameless() -> Problem {
    FileError::from(InvalidName::Empty).into()
}

/// Serves a request that the peer waits for before it stops.
async fn call(
    life: &Life,
    work: impl AsyncFnOnce(Arc<Running>) -> Result<Response, Problem>,
) -> Result<Response, Problem> {
    let running = life.serving()?;
    life.clients().track_future(work(running)).await
}

fn name_of(name: Named) -> Result<Name, Problem> {
    let Path(name) = name.map_err(|_| Problem::invalid("the name is not percent-encoded UTF-8"))?;
    Ok(Name::new(name).map_err(FileError::from)?)
}

/// The headers that tell about a file, of which `length` bytes are sent.
fn describe(info: &v1::FileInfo, length: u64) -> HeaderMap {
    let content_type = match info.content_type.as_str() {
        "" => "application/octet-stream",
        given => given,
    };
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_LENGTH, length.into()),
        (header::CONTENT_TYPE, text(content_type)),
        (header::ETAG, text(&quoted(info))),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        // Whoever stored the file chose the type; a browser must not guess a more dangerous one.
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    headers.into_iter().collect()
}

/// Checked when it was stored; a record from elsewhere may still hold what no header can.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

fn quoted(info: &v1::FileInfo) -> String {
    format!("\"{}\"", info.etag)
}

/// The innermost cause says most about a connection.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
