//! The HTTP server: files as resources, the registry and this peer's status as JSON, and probes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
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

use crate::daemon::Life;

mod conditions;
mod files;
mod problem;
mod range;
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

fn router(life: Arc<Life>) -> Router {
    let file = get(files::get)
        .head(files::head)
        .put(files::put)
        .delete(files::delete);
    let nameless = get(files::nameless)
        .put(files::nameless)
        .delete(files::nameless);
    Router::new()
        .route("/v1/files", get(files::list))
        .route("/v1/files/", nameless)
        .route("/v1/files/{*name}", file)
        .route("/v1/peers", get(views::peers))
        .route("/v1/status", get(views::status))
        .route("/healthz", get(views::alive))
        .route("/readyz", get(views::ready))
        .fallback(problem::no_such_resource)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(life)
}
