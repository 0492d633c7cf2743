//! Conditional requests (RFC 9110, section 13). All our tags are strong.

use axum::http::{HeaderMap, HeaderName, header};

use super::problem::Problem;

/// The client has this content already (`If-None-Match`); `etag` is quoted.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let mut tags = values.flat_map(|v| v.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// A range may be sent: there is no `If-Range`, or it names this content.
pub(super) fn range_applies(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get(header::IF_RANGE)
        .is_none_or(|value| value.as_bytes() == etag.as_bytes())
}

/// Refuses conditions on changes: a client that asks for them relies on them, so they must not be ignored while names
/// have no compare-and-set.
pub(super) fn refuse_on_change(headers: &HeaderMap) -> Result<(), Problem> {
    const CONDITIONS: [HeaderName; 4] = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::IF_MODIFIED_SINCE,
    ];
    match CONDITIONS.iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(Problem::not_supported(format!(
            "{name} is not supported here yet; leave it out"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        [(name, HeaderValue::from_static(value))]
            .into_iter()
            .collect()
    }

    #[test]
    fn known_content_is_recognised_in_any_notation() {
        for value in ["\"a\"", "*", "\"b\", \"a\"", "W/\"a\""] {
            assert!(
                is_known(&headers(header::IF_NONE_MATCH, value), "\"a\""),
                "{value}"
            );
        }
        assert!(!is_known(
            &headers(header::IF_NONE_MATCH, "\"b\", a"),
            "\"a\""
        ));
        assert!(!is_known(&HeaderMap::new(), "\"a\""));
    }

    #[test]
    fn a_range_of_other_content_does_not_apply() {
        assert!(range_applies(&HeaderMap::new(), "\"a\""));
        assert!(range_applies(&headers(header::IF_RANGE, "\"a\""), "\"a\""));
        assert!(!range_applies(&headers(header::IF_RANGE, "\"b\""), "\"a\""));
        assert!(!range_applies(
            &headers(header::IF_RANGE, "W/\"a\""),
            "\"a\""
        ));
    }
}
