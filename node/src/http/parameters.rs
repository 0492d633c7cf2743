//! What requests for files carry besides their body, as the description says it: shapes that are documented here and
//! read elsewhere. Their patterns are as strict as the readers.

#![expect(dead_code, reason = "read by the derived documentation only")]

use utoipa::IntoParams;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaFormat, Type};

/// A list of entity tags, or `*` (RFC 9110, section 8.8.3).
const TAGS: &str =
    r#"^[ \t]*(?:\*|[ \t,]*(?:W/)?"[!#-~]*"(?:[ \t]*,[ \t,]*(?:W/)?"[!#-~]*")*[ \t,]*)[ \t]*$"#;
/// A dictionary (RFC 9651) with 32 bytes in base64.
const SHA_256: &str = "^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$";
/// A list (RFC 9110, section 5.6.1) of tags; here a byte is a character.
const LABELS: &str = r"^[ \t]*(?:T[ \t]*)?(?:,[ \t]*(?:T[ \t]*)?){0,15}$";
/// A tag that does not begin or end with a space.
const LABEL: &str = r"[^ ,\u0000-\u001f\u007f-\u009f](?:[^,\u0000-\u001f\u007f-\u009f]{0,62}[^ ,\u0000-\u001f\u007f-\u009f])?";
/// A file's name.
const NAME: &str = r"(?!\.{1,2}(?:/|$))[^/\u0000-\u001f\u007f-\u009f]+(?:/(?!\.{1,2}(?:/|$))[^/\u0000-\u001f\u007f-\u009f]+)*";

fn text(pattern: impl Into<String>) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
}

/// Tells tools what to put there, as `dev/rest` does.
fn custom(format: &str) -> Option<SchemaFormat> {
    Some(SchemaFormat::Custom(format.into()))
}

fn etags() -> Object {
    text(TAGS).format(custom("entity-tags")).build()
}

fn digest() -> Object {
    text(SHA_256).format(custom("sha-256")).build()
}

fn labels() -> Object {
    text(LABELS.replace('T', LABEL))
        .format(custom("tags"))
        .build()
}

/// A tag that a search asks for.
pub(super) fn label_or_nothing() -> Object {
    text(r"^[^,\u0000-\u001f\u007f-\u009f]{0,64}$").build()
}

/// A content type that a search asks for, or its first half.
pub(super) fn type_or_nothing() -> Object {
    text("^[ -~]{0,255}$").build()
}

/// Where a search goes on.
pub(super) fn place_or_nothing() -> Object {
    text("^(?:[0-9A-Fa-f]{64})?$").build()
}

pub(super) fn name() -> Object {
    text(format!("^{NAME}$"))
        .min_length(Some(1))
        .max_length(Some(1024))
        .build()
}

/// Where a listing goes on.
pub(super) fn name_or_nothing() -> Object {
    text(format!("^(?:{NAME})?$"))
        .max_length(Some(1024))
        .build()
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct FileName {
    /// Of the file: at most 1,024 bytes of UTF-8; segments separated by single slashes, which a client may leave as
    /// they are or percent-encode. No segment is `.` or `..`.
    #[param(schema_with = name, example = "holiday/2026/beach.jpg")]
    name: String,
}

/// Of `GET` and `HEAD`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Reading {
    /// Only if the file has one of these etags, which are quoted; `*`: if there is a file.
    #[param(rename = "If-Match", required = false, schema_with = etags)]
    if_match: String,
    /// Etags that the client has.
    #[param(rename = "If-None-Match", required = false)]
    if_none_match: String,
    /// `sha-256=1` asks for the digest of the whole file (RFC 9530); it is read once more for that.
    #[param(rename = "Want-Repr-Digest", required = false)]
    want_repr_digest: String,
    /// Whose word is taken: `quorum`, a majority's of those that hold the name, which is what was acknowledged last, or `one`:
    /// the asked peer's alone, if it holds the name and the bytes are in the name's record. That is cheaper, and perhaps
    /// old: this peer may have missed the last writes, or hold one that failed elsewhere.
    #[param(rename = "Peernet-Consistency", required = false, schema_with = consistency)]
    consistency: String,
}

/// Of `GET`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Part {
    /// One range of bytes; anything else is answered with the whole file.
    #[param(rename = "Range", required = false, example = "bytes=0-1023")]
    range: String,
    /// The range is wanted only of the file with this etag, else the whole.
    #[param(rename = "If-Range", required = false)]
    if_range: String,
}

/// Of `PUT`, `POST` and `DELETE`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Changing {
    /// Only if the file has one of these etags, which are quoted; `*`: if there is a file.
    #[param(rename = "If-Match", required = false, schema_with = etags)]
    if_match: String,
    /// Only if the file has none of these etags; `*`: if there is no file.
    #[param(rename = "If-None-Match", required = false, schema_with = etags)]
    if_none_match: String,
}

/// Of `PUT`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Announced {
    /// SHA-256 of the bytes (RFC 9530); an upload that does not match is refused whole.
    #[param(rename = "Repr-Digest", required = false, schema_with = digest)]
    repr_digest: String,
    /// The same, as other clients send it.
    #[param(rename = "Content-Digest", required = false, schema_with = digest)]
    content_digest: String,
}

/// Of `PUT`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Described {
    /// What a search finds the file by, besides its name: at most 16 tags in UTF-8, each of 1 to 64 bytes.
    #[param(rename = "Peernet-Tags", required = false, schema_with = labels, example = "summer, beach")]
    tags: String,
    /// Whether its chunks are compressed where they are stored and on the way there: `auto`, where it pays, or `never`.
    /// Without it as `compression` in the status says. What is read is the same.
    #[param(rename = "Peernet-Compression", required = false, schema_with = compression)]
    compression: String,
}

fn compression() -> Object {
    one_of(&["auto", "never"])
}

fn consistency() -> Object {
    one_of(&["quorum", "one"])
}

fn last_or_not() -> Object {
    one_of(&["?0", "?1"])
}

fn not_last() -> Object {
    one_of(&["?0"])
}

fn one_of(values: &[&str]) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(values.iter().copied()))
        .build()
}

fn upload() -> Object {
    text("^[0-9a-f]{32}-[0-9a-f]{32}$").build()
}

fn bytes() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(999_999_999_999_999_u64))
        .build()
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct UploadId {
    /// From the location of the upload.
    #[param(schema_with = upload)]
    id: String,
}

/// Of `POST`, where an upload begins.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Beginning {
    /// `?0`: more parts are to come.
    #[param(rename = "Upload-Complete", schema_with = not_last)]
    upload_complete: String,
    /// Bytes of the whole file, if they are known.
    #[param(rename = "Upload-Length", required = false, schema_with = bytes)]
    upload_length: u64,
    /// SHA-256 of the whole file (RFC 9530); it is stored only if that is right.
    #[param(rename = "Repr-Digest", required = false, schema_with = digest)]
    repr_digest: String,
    /// SHA-256 of the bytes sent with this request.
    #[param(rename = "Content-Digest", required = false, schema_with = digest)]
    content_digest: String,
}

/// Of `PATCH`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Appending {
    /// Where the part begins: as many bytes as the upload has.
    #[param(rename = "Upload-Offset", schema_with = bytes)]
    upload_offset: u64,
    /// `?1`: it is the last part.
    #[param(rename = "Upload-Complete", schema_with = last_or_not)]
    upload_complete: String,
    /// With the last part: SHA-256 of the whole file (RFC 9530); it is stored only if that is right.
    #[param(rename = "Repr-Digest", required = false, schema_with = digest)]
    repr_digest: String,
    /// SHA-256 of this part, which counts whole or not at all.
    #[param(rename = "Content-Digest", required = false, schema_with = digest)]
    content_digest: String,
}
