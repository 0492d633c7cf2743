//! What a page in somebody's browser may not do with a peer that it happens to reach.
//!
//! A peer does not ask who calls, and relies on the network to keep strangers away. A browser undoes that: it sends what any
//! page asks for from the machine of its user. Two ways are closed here, both without anything to set up:
//!
//! - *Requests of another site's page* that would change something. Browsers say where a request comes from
//!   (`Sec-Fetch-Site`, W3C Fetch Metadata; before that `Origin`, RFC 6454), programs do not. What such a page reads it is not
//!   shown by the browser, since no answer of ours allows it (Fetch Standard, CORS).
//! - *A name that begins to mean this machine* after a page came from it (DNS rebinding; Jackson et al., Protecting Browsers from DNS
//!   Rebinding Attacks, CCS 2007): to the browser it is one site then. A peer that listens on this machine alone is asked by
//!   address, or as `localhost` (RFC 6761, section 6.3), and by no other name.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// Refuses what another site's page asks for.
pub(super) async fn same_site(request: Request, next: Next) -> Response {
    match of_another_site(request.method(), request.uri(), request.headers()) {
        true => Problem::forbidden(
            "a page of another site asked for that, which may change nothing here; use the page /docs of this peer, or a \
             program"
                .into(),
        )
        .into_response(),
        false => next.run(request).await,
    }
}

/// Refuses what was sent to a name that is neither this machine's nor the peer's own, `advertised`.
pub(super) async fn this_machine(
    State(advertised): State<Arc<str>>,
    request: Request,
    next: Next,
) -> Response {
    match for_this_machine(request.uri(), request.headers(), &advertised) {
        true => next.run(request).await,
        false => Problem::forbidden(
            "this peer listens on its own machine only, and is not asked by that name; use localhost, or let the proxy before it \
             send that as Host"
                .into(),
        )
        .into_response(),
    }
}

fn for_this_machine(uri: &Uri, headers: &HeaderMap, advertised: &str) -> bool {
    match named(uri, headers) {
        Some(host) => is_this_machine(&host) || host.host().eq_ignore_ascii_case(advertised),
        // A name that cannot be read is one all the same.
        None => headers.get(header::HOST).is_none_or(|host| host.is_empty()),
    }
}

fn of_another_site(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    // GET, HEAD and OPTIONS change nothing.
    if method.is_safe() {
        return false;
    }
    if let Some(site) = headers.get("sec-fetch-site") {
        return !["same-origin", "none"].iter().any(|own| site == own);
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let origin = origin.to_str().ok().and_then(|o| o.parse::<Uri>().ok());
    let origin = origin.as_ref().and_then(Uri::authority);
    origin.is_none() || origin != named(uri, headers).as_ref()
}

/// Whom the request is for (RFC 9112, section 3.3); nobody in particular where an old client does not say.
fn named(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let host = || Authority::try_from(headers.get(header::HOST)?.as_bytes()).ok();
    uri.authority().cloned().or_else(host)
}

fn is_this_machine(host: &Authority) -> bool {
    let name = host.host().trim_end_matches('.').to_ascii_lowercase();
    let address = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(&name);
    address.parse::<std::net::IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let one = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        lines.iter().map(one).collect()
    }

    fn refused(method: Method, lines: &[(&'static str, &'static str)]) -> bool {
        of_another_site(&method, &Uri::from_static("/v1/files/a"), &headers(lines))
    }

    #[test]
    fn programs_and_pages_of_ours_change_files_and_other_pages_only_look() {
        let here = ("host", "localhost:7400");
        assert!(!refused(Method::DELETE, &[here]));
        assert!(!refused(
            Method::PUT,
            &[here, ("origin", "http://localhost:7400")]
        ));
        assert!(!refused(
            Method::PUT,
            &[here, ("sec-fetch-site", "same-origin")]
        ));
        for other in [
            &[here, ("origin", "http://evil.example")][..],
            &[here, ("origin", "http://localhost:7401")],
            &[here, ("origin", "null")],
            &[("origin", "http://localhost:7400")],
            &[here, ("sec-fetch-site", "cross-site")],
            &[here, ("sec-fetch-site", "same-site")],
        ] {
            assert!(refused(Method::POST, other), "{other:?}");
            assert!(refused(Method::DELETE, other), "{other:?}");
            assert!(!refused(Method::GET, other), "{other:?}");
        }
    }

    #[test]
    fn a_peer_of_this_machine_goes_by_its_addresses_and_by_localhost() {
        let named = |host: &'static str| {
            let host = headers(&[("host", host)]);
            for_this_machine(&Uri::from_static("/"), &host, "peer.example")
        };
        for own in [
            "localhost",
            "LOCALHOST:80",
            "localhost.",
            "demo.localhost:7400",
            "127.0.0.1",
            "[::1]:7400",
            "10.1.2.3:7400",
            "Peer.example:7400",
            "",
        ] {
            assert!(named(own), "{own}");
        }
        for other in [
            "evil.example",
            "evil.example:7400",
            "localhost.evil.example",
            "notlocalhost",
            "x`y.evil.example",
        ] {
            assert!(!named(other), "{other}");
        }
        let absolute = Uri::from_static("http://evil.example/v1/files/a");
        let said = headers(&[("host", "localhost")]);
        let mine = for_this_machine(&absolute, &said, "peer.example");
        assert!(!mine, "the target says whom");
        assert!(for_this_machine(
            &Uri::from_static("/"),
            &HeaderMap::new(),
            "p"
        ));
    }
}
