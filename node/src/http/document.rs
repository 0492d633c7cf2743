//! The description of the REST interface (OpenAPI 3.1), made from the handlers themselves, and a page that shows it.

use axum::http::header;
use axum::response::{Html, IntoResponse};
use bytes::Bytes;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{OpenApi as Document, Ref, RefOr, Required};

use super::problem::Problem;
use super::views::MemberStatusView;

/// Needs nothing but `/openapi.json` of the same peer.
const PAGE: &str = include_str!("docs.html");
/// What the page may do: run itself, and ask this peer.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What a reader should know first.
const ABOUT: &str = "Files, peers and their status, through any peer of the network: each serves every request. \
                     Refusals are problem documents (RFC 9457) and change nothing. Peers do not ask who calls: keep \
                     untrusted clients away from them.";
/// Parameters without which a request makes no sense, wherever they are.
const NEEDED: [&str; 3] = ["name", "Upload-Complete", "Upload-Offset"];
/// What any request of a client may be answered, whatever it wants.
const ANY_TIME: [&str; 5] = ["403", "408", "429", "500", "503"];

/// What the document says before it comes to paths.
pub(super) fn preface() -> Document {
    use utoipa::OpenApi;
    #[derive(OpenApi)]
    #[openapi(
        info(title = "PeerNet", description = ABOUT, license(name = "Apache-2.0", identifier = "Apache-2.0")),
        components(responses(Problem), schemas(MemberStatusView)),
        tags(
            (name = "files", description = "Files in and out of the network"),
            (name = "uploads", description = "Files that come in parts, as the draft Resumable Uploads for HTTP has it"),
            (name = "peers", description = "Who is in the network"),
            (name = "probes", description = "For whoever runs the peer"),
        )
    )]
    struct Preface;
    Preface::openapi()
}

/// Completes the document and writes it.
pub(super) fn finished(mut document: Document) -> String {
    let paths = std::mem::take(&mut document.paths.paths);
    for (path, mut item) in paths {
        if path.starts_with("/v1/") {
            operations(&mut item).for_each(|operation| {
                may_fail(operation);
                need(operation);
            });
        }
        // The router's way to say that a name may have slashes is not known to the format.
        document.paths.paths.insert(path.replace("{*", "{"), item);
    }
    let mut json = document.to_pretty_json().expect("a document is plain data");
    json.push('\n');
    json
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    // An answer to HEAD has no body that could be described.
    let PathItem {
        get,
        put,
        post,
        delete,
        patch,
        ..
    } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

/// The macro forgets that a parameter has to be given where it has a schema of its own.
fn need(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && NEEDED.contains(&&*parameter.name)
        {
            parameter.required = Required::True;
        }
    }
}

fn may_fail(operation: &mut Operation) {
    for status in ANY_TIME {
        let problem = Ref::from_response_name("Problem").into();
        operation
            .responses
            .responses
            .entry(status.into())
            .or_insert(problem);
    }
}

/// Answers `GET /openapi.json`.
pub(super) fn json(document: Bytes) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document)
}

/// Answers `GET /docs`.
pub(super) async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE))
}
