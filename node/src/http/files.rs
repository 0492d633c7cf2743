//! `/v1/files`: files as resources.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use clap::ValueEnum;
use futures::{Stream, TryStreamExt};
use peernet_core::key::{InvalidName, Name};
use peernet_proto::v1;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::conditions::{is_known, is_meant, on_change, range_applies};
use super::digest;
use super::parameters::{Announced, Changing, Described, FileName, Part, Reading, name_or_nothing};
use super::problem::Problem;
use super::range::{self, Wanted};
use super::uploads::COMPLETE;
use crate::config::Compression;
use crate::daemon::{Life, Running};
use crate::files::{BrokenOff, ByteStream, Consistency, FileError, Found, Kind, Stored};

pub(super) type Named = Result<Path<String>, PathRejection>;

/// Where a file is. Clients may leave the slashes of its name as they are, or encode them.
pub(super) const FILE: &str = "/v1/files/{*name}";

/// What is known of a file without its bytes.
#[derive(Serialize, ToSchema)]
#[schema(as = File)]
pub(super) struct FileView {
    /// Segments separated by slashes.
    #[schema(examples("holiday/2026/beach.jpg"))]
    name: String,
    /// Bytes.
    size: u64,
    /// Without the quotes that it has in headers; changes exactly when the content does.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    etag: String,
    /// As given by whoever stored it; may be empty.
    content_type: String,
    /// Milliseconds since 1970 by the clock of the peer that stored it; informational only.
    modified_unix_ms: u64,
    /// Chunks it was cut into; 0 when its bytes are in the name's own record.
    chunks: u64,
    /// What a search finds it by, besides its name.
    tags: Vec<String>,
    /// It can be neither replaced, renamed nor deleted until it is unpinned.
    pinned: bool,
    /// Bytes of one copy, as its chunks were sent to the peers that hold them: fewer than the file's where they were
    /// compressed. Left out where it is not known, as for uploads of which a part was held already.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<u64>,
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
            tags,
            pinned,
            stored,
        } = info;
        FileView {
            name,
            size,
            etag,
            content_type,
            modified_unix_ms,
            chunks,
            tags,
            pinned,
            stored,
        }
    }
}

/// Stores a file
///
/// The body becomes the file, whole or not at all, and is durable on the write quorum, as `durability` in
/// the status says, when this is answered.
#[utoipa::path(
    put,
    path = FILE,
    operation_id = "putFile",
    tag = "files",
    params(FileName, Changing, Announced, Described),
    request_body(content_type = "*/*", description = "The bytes; their content type is kept"),
    responses(
        (status = 200, body = FileView, description = "The file was replaced", headers(("ETag" = String))),
        (status = 201, body = FileView, description = "The name was free", headers(("ETag" = String))),
        (status = 400, response = Problem),
        (status = 409, response = Problem),
        (status = 412, response = Problem),
        (status = 415, response = Problem),
        (status = 422, response = Problem),
        (status = 507, response = Problem),
    )
)]
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
    if headers.get(&COMPLETE).is_some_and(|last| last != "?1") {
        return Err(Problem::invalid(
            "a file that comes in parts begins with POST /v1/uploads?name=NAME",
        ));
    }
    let kind = kind_of(&headers)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    let body = digest::checked(bytes_of(body), digest::announced(&headers)?);
    call(&life, async |running| {
        let put = running.files.put(name, kind, announced, &when, body);
        let Stored { info, replaced } = put.await?;
        let status = if replaced {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        let etag = quoted(&info);
        Ok((status, [(header::ETAG, etag)], Json(FileView::from(info))).into_response())
    })
    .await
}

/// Reads a file, whole or a range
#[utoipa::path(
    get,
    path = FILE,
    operation_id = "getFile",
    tag = "files",
    params(FileName, Reading, Part),
    responses(
        (status = 200, content_type = "*/*", description = "The whole file", headers(("ETag" = String), ("Accept-Ranges" = String))),
        (status = 206, content_type = "*/*", description = "The range", headers(("ETag" = String), ("Content-Range" = String))),
        (status = 304, description = "The client has it already", headers(("ETag" = String))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 412, response = Problem),
        (status = 416, response = Problem),
    )
)]
pub(super) async fn get(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    let consistency = consistency_of(&headers)?;
    call(&life, async |running| {
        let found = running.files.find(name, consistency).await?;
        let (size, etag) = (found.info.size, quoted(&found.info));
        if is_read(&headers, &found.info)? {
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
        if digest::is_wanted(&headers) {
            let digest = digest_of(&running, found.clone()).await?;
            described.insert(digest::REPR, digest);
        }
        let body = body_of(running.files.stream(found, range));
        Ok((status, described, body).into_response())
    })
    .await
}

/// What is at hand is one frame, which goes out with the head.
fn body_of(mut bytes: ByteStream) -> Body {
    match bytes.take_few() {
        Some(all) => Body::from(all),
        // A piece that waits to be written must not keep its whole chunk, which counts no more then.
        None => Body::from_stream(bytes.map_ok(|piece| Bytes::copy_from_slice(&piece))),
    }
}

/// Tells what is known of a file
#[utoipa::path(
    head,
    path = FILE,
    operation_id = "headFile",
    tag = "files",
    params(FileName, Reading),
    responses(
        (status = 200, description = "What GET would say of the whole file", headers(("ETag" = String), ("Content-Length" = u64), ("Accept-Ranges" = String))),
        (status = 304, description = "The client has it already", headers(("ETag" = String))),
        (status = 400, description = "Not a file's name"),
        (status = 404, description = "There is no such file"),
        (status = 412, description = "It is not the one that is meant"),
    )
)]
pub(super) async fn head(
    State(life): State<Arc<Life>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = name_of(name)?;
    let consistency = consistency_of(&headers)?;
    call(&life, async |running| {
        let found = running.files.find(name, consistency).await?;
        let info = &found.info;
        if is_read(&headers, info)? {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, quoted(info))]).into_response());
        }
        let mut described = describe(info, info.size);
        if digest::is_wanted(&headers) {
            described.insert(digest::REPR, digest_of(&running, found).await?);
        }
        Ok((StatusCode::OK, described, Body::empty()).into_response())
    })
    .await
}

/// Removes a file
#[utoipa::path(
    delete,
    path = FILE,
    operation_id = "deleteFile",
    tag = "files",
    params(
        FileName, Changing),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, response = Problem),
        (status = 412, response = Problem),
    )
)]
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
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// What the names begin with; empty: anything.
    #[serde(default)]
    #[param(max_length = 1024, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    prefix: String,
    /// Names after this one only: `next` of the page before. Empty: from the beginning.
    #[serde(default)]
    #[param(schema_with = name_or_nothing)]
    after: String,
    /// Most files on the page.
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<u32>,
}

/// How many a page may have, as gRPC says it: there 0 is what is not given.
pub(super) fn page_limit(given: Option<u32>) -> Result<u32, FileError> {
    match given {
        Some(0) => Err(FileError::Limit(0)),
        given => Ok(given.unwrap_or_default()),
    }
}

/// A page of a listing.
#[derive(Serialize, ToSchema)]
#[schema(as = Page)]
struct PageView {
    /// In byte order of their names.
    files: Vec<FileView>,
    /// Give as `after` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Lists files
///
/// In byte order of their names, one page at a time.
#[utoipa::path(
    get,
    path = "/v1/files",
    operation_id = "listFiles",
    tag = "files",
    params(Listing),
    responses(
        (status = 200, body = PageView, description = "A page"),
        (status = 400, response = Problem),
    )
)]
pub(super) async fn list(
    State(life): State<Arc<Life>>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Listing {
        prefix,
        after,
        limit,
    }) = query.map_err(|error| Problem::invalid(error.body_text()))?;
    let limit = page_limit(limit)?;
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
pub(super) async fn call(
    life: &Life,
    work: impl AsyncFnOnce(Arc<Running>) -> Result<Response, Problem>,
) -> Result<Response, Problem> {
    let running = life.serving()?;
    life.clients().track_future(work(running)).await
}

/// What is said of a file that is uploaded.
pub(super) fn kind_of(headers: &HeaderMap) -> Result<Kind, Problem> {
    if headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|coding| coding != "identity")
    {
        return Err(Problem::encoded());
    }
    let content_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => value
            .to_str()
            .map_err(|_| FileError::ContentType)?
            .to_owned(),
        None => String::new(),
    };
    let tags = tags_of(headers)?;
    Ok(Kind {
        content_type,
        tags,
        compression: compression_of(headers)?,
    })
}

/// Whether a file that is uploaded is to be compressed, if the client says so.
fn compression_of(headers: &HeaderMap) -> Result<Option<Compression>, Problem> {
    let wrong = "peernet-compression has to be auto or never; without it the network decides";
    one_of(headers, "peernet-compression", wrong)
}

/// Whose word a read takes.
fn consistency_of(headers: &HeaderMap) -> Result<Consistency, Problem> {
    let wrong = "peernet-consistency has to be quorum or one; without it a read is a quorum's";
    Ok(one_of(headers, "peernet-consistency", wrong)?.unwrap_or_default())
}

/// A header with one of several values; `wrong` is said of any other.
fn one_of<T: ValueEnum>(
    headers: &HeaderMap,
    header: &str,
    wrong: &'static str,
) -> Result<Option<T>, Problem> {
    let Some(value) = headers.get(header) else {
        return Ok(None);
    };
    let told = value.to_str().unwrap_or_default();
    let known = T::from_str(told, false);
    known.map(Some).map_err(|_| Problem::invalid(wrong))
}

/// The tags of a file that is uploaded.
fn tags_of(headers: &HeaderMap) -> Result<Vec<String>, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all("peernet-tags") {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| FileError::Tags)?;
        let texts = text
            .split(',')
            .map(|tag| tag.trim_matches([' ', '\t']))
            .filter(|tag| !tag.is_empty());
        tags.extend(texts.map(str::to_owned));
    }
    Ok(tags)
}

pub(super) fn name_of(name: Named) -> Result<Name, Problem> {
    let Path(name) = name.map_err(|_| Problem::invalid("the name is not percent-encoded UTF-8"))?;
    Ok(Name::new(name).map_err(FileError::from)?)
}

/// Judges the conditions of a reader: whether it has this content already.
fn is_read(headers: &HeaderMap, info: &v1::FileInfo) -> Result<bool, Problem> {
    if is_meant(headers, &info.etag)? {
        return Ok(is_known(headers, &info.etag));
    }
    let name = Name::new(&info.name[..]).map_err(FileError::from)?;
    let etag = Some(info.etag.clone());
    Err(FileError::Precondition { name, etag }.into())
}

/// Reads all of a file once more for its digest: the record has none, since most clients never ask.
async fn digest_of(running: &Running, found: Found) -> Result<HeaderValue, Problem> {
    let all = 0..found.info.size;
    Ok(digest::of(running.files.stream(found, all)).await?)
}

/// The headers that tell about a file, of which `length` bytes are sent.
fn describe(info: &v1::FileInfo, length: u64) -> HeaderMap {
    let content_type = match info.content_type.as_str() {
        "" => "application/octet-stream",
        given => given,
    };
    let headers: [(HeaderName, HeaderValue); 6] = [
        (header::CONTENT_LENGTH, length.into()),
        (header::CONTENT_TYPE, text(content_type)),
        (header::ETAG, text(&quoted(info))),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        // Whoever stored the file chose the type; a browser must not guess a more dangerous one.
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        // What one client stored must not act on this peer when another opens it in a browser.
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox"),
        ),
    ];
    headers.into_iter().collect()
}

/// Checked when it was stored; a record from elsewhere may still hold what no header can.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

pub(super) fn quoted(info: &v1::FileInfo) -> String {
    format!("\"{}\"", info.etag)
}

/// A body's bytes, for those who store them.
pub(super) fn bytes_of(body: Body) -> impl Stream<Item = Result<Bytes, BrokenOff>> + Send {
    body.into_data_stream()
        .map_err(|error| BrokenOff::Connection(deepest(&error)))
}

/// The innermost cause says most about a connection.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
