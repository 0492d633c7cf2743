//! Digests of files as their clients know them (RFC 9530): SHA-256, computed only where somebody asks for it. What this
//! peer itself trusts in are the BLAKE3 hashes of chunks.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use sfv::{BareItem, DictSerializer, Dictionary, KeyRef, ListEntry, Parser};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::files::{BrokenOff, FileError};

/// Of the whole file.
pub(super) const REPR: HeaderName = HeaderName::from_static("repr-digest");
/// Of the bytes sent: the same, unless the file comes in parts.
pub(super) const CONTENT: HeaderName = HeaderName::from_static("content-digest");
const WANTED: HeaderName = HeaderName::from_static("want-repr-digest");
const SHA_256: &str = "sha-256";

/// What the client says that the bytes of a file hash to which comes in one piece.
pub(super) fn announced(headers: &HeaderMap) -> Result<Vec<[u8; 32]>, Problem> {
    let digests = [digest(headers, &REPR)?, digest(headers, &CONTENT)?];
    Ok(digests.into_iter().flatten().collect())
}

/// What one of the two fields says. A digest that cannot be checked is refused rather than ignored: who sends one relies
/// on it.
pub(super) fn digest(headers: &HeaderMap, name: &HeaderName) -> Result<Option<[u8; 32]>, Problem> {
    let Some(fields) = fields(headers, name)? else {
        return Ok(None);
    };
    let Some(ListEntry::Item(item)) = fields.get(SHA_256) else {
        return Err(Problem::invalid(format!(
            "{name} has no {SHA_256}, the only digest that is checked here"
        )));
    };
    let digest = match &item.bare_item {
        BareItem::ByteSequence(bytes) => <[u8; 32]>::try_from(&bytes[..]).ok(),
        _ => None,
    };
    let invalid = || Problem::invalid(format!("{name} has to hold 32 bytes as {SHA_256}=:BASE64:"));
    digest.map(Some).ok_or_else(invalid)
}

/// Whether the client wants to know a file's SHA-256. An unclear wish is none: it is only a preference.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let Ok(Some(fields)) = fields(headers, &WANTED) else {
        return false;
    };
    match fields.get(SHA_256) {
        Some(ListEntry::Item(item)) => item.bare_item.as_integer().is_some_and(|n| n > 0.into()),
        _ => false,
    }
}

fn fields(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Dictionary>, Problem> {
    let mut all = None;
    for value in headers.get_all(name) {
        let fields =
            Parser::new(value.as_bytes()).parse_dictionary_with_visitor(all.unwrap_or_default());
        let invalid =
            |error| Problem::invalid(format!("{name} is not a dictionary (RFC 9651): {error}"));
        all = Some(fields.map_err(invalid)?);
    }
    Ok(all)
}

/// Passes an upload through, and fails at its end if it is not what was announced.
pub(super) fn checked<S>(
    body: S,
    announced: Vec<[u8; 32]>,
) -> impl Stream<Item = Result<Bytes, BrokenOff>> + Send
where
    S: Stream<Item = Result<Bytes, BrokenOff>> + Send,
{
    let begin = (Box::pin(body), Some(Sha256::new()));
    stream::unfold(begin, move |(mut body, hash)| {
        let announced = announced.clone();
        async move {
            let mut hash = hash?;
            if let Some(part) = body.next().await {
                if let (Ok(bytes), false) = (&part, announced.is_empty()) {
                    hash.update(bytes);
                }
                return Some((part, (body, Some(hash))));
            }
            let received: [u8; 32] = hash.finalize().into();
            let announced = announced.into_iter().find(|digest| *digest != received)?;
            Some((
                Err(BrokenOff::Digest {
                    announced,
                    received,
                }),
                (body, None),
            ))
        }
    })
}

/// The value of `Repr-Digest` for a file with these bytes.
pub(super) async fn of<S>(mut body: S) -> Result<HeaderValue, FileError>
where
    S: Stream<Item = Result<Bytes, FileError>> + Unpin,
{
    let mut hash = Sha256::new();
    while let Some(part) = body.next().await {
        hash.update(&part?);
    }
    let mut fields = DictSerializer::new();
    fields.bare_item(KeyRef::constant(SHA_256), &hash.finalize()[..]);
    let value = fields.finish().unwrap_or_default();
    HeaderValue::try_from(value).map_err(|error| FileError::Interrupted(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `hello`, and of nothing.
    const HELLO: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    const NOTHING: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    fn headers(given: &[(HeaderName, &'static str)]) -> HeaderMap {
        given
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    async fn upload(given: &[(HeaderName, &'static str)]) -> Vec<Result<Bytes, BrokenOff>> {
        let parts = ["hel", "", "lo"].map(|part| Ok(Bytes::from_static(part.as_bytes())));
        let digests = announced(&headers(given)).unwrap();
        checked(stream::iter(parts), digests).collect().await
    }

    #[tokio::test]
    async fn uploads_are_what_was_announced_or_fail_at_their_end() {
        for given in [
            &[][..],
            &[(REPR, HELLO)],
            &[(CONTENT, HELLO), (REPR, HELLO)],
        ] {
            let parts = upload(given).await;
            assert!(parts.len() == 3 && parts.iter().all(Result::is_ok));
        }
        for given in [
            &[(REPR, NOTHING)][..],
            &[(CONTENT, NOTHING)],
            &[(REPR, HELLO), (CONTENT, NOTHING)],
        ] {
            let parts = upload(given).await;
            assert!(matches!(
                &parts[..],
                [Ok(_), Ok(_), Ok(_), Err(BrokenOff::Digest { .. })]
            ));
        }
    }

    #[test]
    fn digests_that_cannot_be_checked_are_refused() {
        for value in [
            "",
            "sha-512=:AA==:",
            "sha-256=:AA==:",
            "sha-256=1",
            "sha-256=(1)",
            "sha-256",
            ":",
            "=,=",
        ] {
            assert!(announced(&headers(&[(REPR, value)])).is_err(), "{value}");
        }
    }

    #[test]
    fn wishes_are_read_leniently() {
        for value in ["sha-256=1", "sha-512=3, sha-256=10"] {
            assert!(is_wanted(&headers(&[(WANTED, value)])), "{value}");
        }
        for value in ["sha-256=0", "sha-512=1", "sha-256", "", "=,="] {
            assert!(!is_wanted(&headers(&[(WANTED, value)])), "{value}");
        }
    }

    #[tokio::test]
    async fn a_digest_is_written_as_it_is_read() {
        let body = stream::iter([Ok(Bytes::from_static(b"hello"))]);
        assert_eq!(of(body).await.unwrap(), HELLO);
    }
}
