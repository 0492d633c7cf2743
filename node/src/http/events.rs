//! What happens in the network, as it happens: server-sent events.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use peernet_core::member::Member;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;
use tracing::warn;

use super::problem::Problem;
use super::views::PeerView;
use crate::daemon::{Life, Running};

/// Listeners at once in this process; each costs a look at the registry per [`PERIOD`] (guess).
const LISTENERS: usize = 64;
/// How often the registry is looked at: failure detection takes longer (guess).
const PERIOD: Duration = Duration::from_millis(500);
/// Silence after which a comment is sent, so that proxies keep the connection; most wait for a minute or more (guess).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

static PLACES: Semaphore = Semaphore::const_new(LISTENERS);

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
    let place = PLACES.try_acquire().map_err(|_| {
        Problem::busy(format!(
            "{LISTENERS} listeners are served already; ask another peer"
        ))
    })?;
    let listener = Listener {
        life,
        running,
        place,
        known: None,
        pending: VecDeque::new(),
    };
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(listener.events())
        .keep_alive(alive)
        .into_response())
}

struct Listener {
    life: Arc<Life>,
    running: Arc<Running>,
    /// Given back when the client goes.
    #[expect(dead_code, reason = "held, not read")]
    place: SemaphorePermit<'static>,
    /// What the client knows, by identity; nothing before the first look.
    known: Option<BTreeMap<String, PeerView>>,
    pending: VecDeque<PeerView>,
}

impl Listener {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut listener| {
            let peer = listener.next().await?;
            // Plain data always becomes JSON.
            let event = Event::default().event("peer").json_data(peer).ok()?;
            Some((Ok(event), listener))
        })
    }

    /// The next peer that is news to the client; `None` when this peer stops or leaves.
    async fn next(&mut self) -> Option<PeerView> {
        loop {
            if let Some(peer) = self.pending.pop_front() {
                return Some(peer);
            }
            if self.known.is_some() {
                tokio::select! {
                    () = sleep(PERIOD) => {}
                    () = self.life.stops() => return None,
                }
            }
            match self.running.peer.members().await {
                Ok(members) => self.pending = news(self.known.get_or_insert_default(), &members),
                Err(error) => {
                    warn!("a listener is cut off: {error}");
                    return None;
                }
            }
        }
    }
}

/// The peers that are not as they are `known`. Those that the registry has forgotten were told of as left.
fn news(known: &mut BTreeMap<String, PeerView>, members: &[Member]) -> VecDeque<PeerView> {
    let views = members
        .iter()
        .map(|member| (member.id.to_string(), PeerView::from(member)));
    let now: BTreeMap<_, _> = views.collect();
    let changed = now
        .iter()
        .filter(|(id, peer)| known.get(*id) != Some(*peer));
    let changed = changed.map(|(_, peer)| peer.clone()).collect();
    *known = now;
    changed
}
