//! Conditional requests (RFC 9110, section 13). All our tags are strong.

use axum::http::{HeaderMap, HeaderName, header};

use super::problem::Problem;
use crate::files::{Precondition, Tags};

/// The client has this content already (`If-None-Match`). What makes no sense names nothing.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    matches!(tags(headers, &header::IF_NONE_MATCH), Ok(Some(tags)) if tags.cover(Some(etag)))
}

/// The client wants this content, if there is an `If-Match`.
pub(super) fn is_meant(headers: &HeaderMap, etag: &str) -> Result<bool, Problem> {
    Ok(tags(headers, &header::IF_MATCH)?.is_none_or(|tags| tags.cover(Some(etag))))
}

/// A range may be sent: there is no `If-Range`, or it names this content; `etag` is quoted.
pub(super) fn range_applies(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get(header::IF_RANGE)
        .is_none_or(|value| value.as_bytes() == etag.as_bytes())
}

/// When a change may take effect. Conditions on dates are refused: times here are informational, and a client that asks
/// for a condition relies on it.
pub(super) fn on_change(headers: &HeaderMap) -> Result<Precondition, Problem> {
    const DATES: [HeaderName; 2] = [header::IF_UNMODIFIED_SINCE, header::IF_MODIFIED_SINCE];
    if let Some(name) = DATES.iter().find(|name| headers.contains_key(*name)) {
        return Err(Problem::invalid(format!(
            "{name} cannot be judged, as no clock takes part here; use if-match with the file's etag"
        )));
    }
    Ok(Precondition {
        if_match: tags(headers, &header::IF_MATCH)?,
        if_none_match: tags(headers, &header::IF_NONE_MATCH)?,
        still: None,
    })
}

/// The entity tags of a header, or `*`. Weak ones are compared like strong ones in `If-None-Match` and match nothing in
/// `If-Match` (RFC 9110, sections 13.1.1 and 13.1.2).
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut tags = Vec::new();
    let invalid = || Problem::invalid(format!("{name} has to be * or a list of quoted etags"));
    for value in headers.get_all(name) {
        let value = value.to_str().map_err(|_| invalid())?;
        if value.trim() == "*" {
            return Ok(Some(Tags::Any));
        }
        for (weak, tag) in listed(value).ok_or_else(invalid)? {
            if !weak || name == header::IF_NONE_MATCH {
                tags.push(tag.to_owned());
            }
        }
    }
    Ok(headers.contains_key(name).then_some(Tags::Of(tags)))
}

/// A list of entity tags, without their quotes, and whether each is weak. A tag may hold commas, and the list empty
/// elements, as long as one is not (RFC 9110, sections 5.6.1 and 8.8.3).
fn listed(value: &str) -> Option<Vec<(bool, &str)>> {
    const BETWEEN: [char; 3] = [' ', '\t', ','];
    let mut tags = Vec::new();
    let mut rest = value.trim_matches(BETWEEN);
    while !rest.is_empty() {
        let quoted = rest.strip_prefix("W/");
        let (tag, after) = quoted.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        let valid = tag.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x7e));
        valid.then_some(())?;
        tags.push((quoted.is_some(), tag));
        rest = after.trim_start_matches(BETWEEN);
        let separated = rest.is_empty() || after[..after.len() - rest.len()].contains(',');
        separated.then_some(())?;
    }
    (!tags.is_empty()).then_some(tags)
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
                is_known(&headers(header::IF_NONE_MATCH, value), "a"),
                "{value}"
            );
        }
        assert!(!is_known(&headers(header::IF_NONE_MATCH, "\"b\", a"), "a"));
        assert!(!is_known(&HeaderMap::new(), "a"));
    }

    #[test]
    fn only_the_content_that_is_meant_is_read() {
        assert!(is_meant(&HeaderMap::new(), "a").unwrap());
        assert!(is_meant(&headers(header::IF_MATCH, "\"b\",\"a\""), "a").unwrap());
        assert!(!is_meant(&headers(header::IF_MATCH, "W/\"a\""), "a").unwrap());
        assert!(is_meant(&headers(header::IF_MATCH, "a"), "a").is_err());
    }

    #[test]
    fn lists_of_tags_are_read_as_the_rfc_says() {
        assert_eq!(
            listed(", \"a,b\" ,, W/\"\","),
            Some(vec![(false, "a,b"), (true, "")])
        );
        for value in [
            "",
            ",",
            "a",
            "\"a",
            "\"a\"\"b\"",
            "\"a\" \"b\"",
            "w/\"a\"",
            "\"a b\"",
            "*, \"a\"",
        ] {
            assert_eq!(listed(value), None, "{value}");
        }
    }

    #[test]
    fn conditions_of_changes_are_understood_or_refused() {
        let understood = |name, value| on_change(&headers(name, value)).unwrap();
        let of = |tags: &[&str]| Some(Tags::Of(tags.iter().map(|t| (*t).to_owned()).collect()));
        assert_eq!(
            on_change(&HeaderMap::new()).unwrap(),
            Precondition::default()
        );
        assert_eq!(
            understood(header::IF_NONE_MATCH, "*").if_none_match,
            Some(Tags::Any)
        );
        assert_eq!(
            understood(header::IF_MATCH, "\"a\", W/\"b\"").if_match,
            of(&["a"])
        );
        let weak = understood(header::IF_NONE_MATCH, "W/\"b\"");
        assert_eq!(weak.if_none_match, of(&["b"]));
        assert_eq!(understood(header::IF_MATCH, "W/\"b\"").if_match, of(&[]));
        assert!(on_change(&headers(header::IF_MATCH, "a")).is_err());
        assert!(on_change(&headers(header::IF_UNMODIFIED_SINCE, "yesterday")).is_err());
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
