//! The HTTP server: files as resources, the registry and this peer's status as JSON, and probes.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::daemon::Life;
use crate::door::Guest;

mod browser;
pub(crate) mod client;
mod conditions;
mod digest;
mod document;
mod events;
mod files;
mod forward;
mod parameters;
mod pins;
mod problem;
mod range;
mod rename;
mod search;
mod uploads;
mod views;

/// Largest head of a request: the longest name, percent-encoded three to one, and headers.
const BUFFER: usize = 64 * 1024;

/// Serves HTTP until `stop`, and then until requests under way are answered.
pub(crate) async fn serve(listener: TcpListener, life: Arc<Life>, stop: CancellationToken) {
    let patience = life.setup().client_timeout;
    let mut router = router(life.clone()).layer(from_fn(browser::same_site));
    let local = |at: SocketAddr| at.ip().to_canonical().is_loopback();
    if listener.local_addr().is_ok_and(local) {
        let advertised: Arc<str> = life.setup().advertise_host.as_str().into();
        router = router.layer(from_fn_with_state(advertised, browser::this_machine));
    }
    let connections = GracefulShutdown::new();
    {
        let mut guests = pin!(life.doors().http.open(listener, None));
        while let Some(Some(Ok(guest))) = stop.run_until_cancelled(guests.next()).await {
            tokio::spawn(converse(
                guest,
                patience,
                router.clone(),
                connections.watcher(),
            ));
        }
    }
    connections.shutdown().await;
}

/// A client may take `patience` for a request's head, and be silent for as long between requests.
async fn converse(guest: Guest, patience: Duration, router: Router, watcher: Watcher) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(guest), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        debug!("a connection ended early: {error}");
    }
}

/// What a peer serves, with its description.
fn described() -> OpenApiRouter<Arc<Life>> {
    OpenApiRouter::with_openapi(document::preface())
        .routes(routes!(files::list))
        .routes(routes!(
            files::get,
            files::head,
            files::put,
            files::delete,
            rename::rename
        ))
        .routes(routes!(pins::pin, pins::unpin))
        .routes(routes!(uploads::begin))
        .routes(routes!(uploads::offset, uploads::append, uploads::cancel))
        .routes(routes!(search::find))
        .routes(routes!(views::peers))
        .routes(routes!(views::status))
        .routes(routes!(events::events))
        .routes(routes!(views::alive))
        .routes(routes!(views::ready))
}

/// The description of what a peer serves by HTTP: an OpenAPI 3.1 document as JSON.
pub fn openapi() -> String {
    document::finished(described().into_openapi())
}

fn router(life: Arc<Life>) -> Router {
    let nameless = get(files::nameless)
        .put(files::nameless)
        .post(files::nameless)
        .delete(files::nameless);
    let (router, description) = described().split_for_parts();
    let description = Bytes::from(document::finished(description));
    router
        .route("/v1/files/", nameless)
        .route(
            "/openapi.json",
            get(async move || document::json(description)),
        )
        .route("/docs", get(document::page))
        .fallback(problem::no_such_resource)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(life)
}
