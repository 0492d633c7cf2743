//! The HTTP server: files as resources, the registry and this peer's status as JSON, and probes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::daemon::Life;

mod conditions;
mod digest;
mod document;
mod events;
mod files;
mod parameters;
mod pins;
mod problem;
mod range;
mod rename;
mod search;
mod uploads;
mod views;

/// Connections at once; more wait to be accepted (guess).
const CONNECTIONS: usize = 1024;
/// How long a client may take for a request's head, and stay silent between requests.
const HEAD: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is sent to it.
const WRITE: Duration = Duration::from_secs(30);
/// Largest head of a request: the longest name, percent-encoded three to one, and headers.
const BUFFER: usize = 64 * 1024;
/// Pause after the system refused a connection, usually for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Serves HTTP until `stop`, and then until requests under way are answered.
pub(crate) async fn serve(listener: TcpListener, life: Arc<Life>, stop: CancellationToken) {
    let router = router(life);
    let open = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = GracefulShutdown::new();
    loop {
        let (stream, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &open) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!("a connection could not be accepted: {error}");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
        };
        tokio::spawn(converse(
            stream,
            place,
            router.clone(),
            connections.watcher(),
        ));
    }
    drop(listener);
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    open: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = open
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn converse(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    router: Router,
    watcher: Watcher,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );
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
