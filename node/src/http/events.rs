//! What happens in the network, as it happens: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};

use super::problem::Problem;
use super::views::PeerView;
use crate::daemon::Life;
use crate::registry::Listener;

/// Silence after which a comment is sent, so that proxies keep the connection; most wait for a minute or more (guess).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Tells what happens
///
/// Server-sent events without an end. Each event `peer` carries a Peer as JSON: first one for every peer, then one for
/// each that came or changed. Who was cut off has missed nothing after connecting again, as it begins with all peers.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "events",
    tag = "peers",
    responses((status = 200, body = str, content_type = "text/event-stream", description = "Events, until either side closes"))
)]
pub(super) async fn events(State(life): State<Arc<Life>>) -> Result<Response, Problem> {
    let running = life.serving()?;
    let listener =
        Listener::new(life, running).map_err(|crowded| Problem::busy(crowded.to_string()))?;
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(told(listener)).keep_alive(alive).into_response())
}

fn told(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    let news = stream::unfold(listener, async |mut listener| {
        let news = listener.next().await?;
        let view = |entry| PeerView::of(listener.running(), entry);
        let views: Vec<PeerView> = news.iter().map(view).collect();
        Some((views, listener))
    });
    news.flat_map(stream::iter).filter_map(async |view| {
        // Plain data always becomes JSON.
        let event = Event::default().event("peer");
        event.json_data(view).ok().map(Ok)
    })
}
