//! Events for the world outside, through a RabbitMQ broker; `docs/events.md` says what others can rely on.
//!
//! [`keep`] holds a connection to the broker for as long as the peer runs, and comes back to it with growing pauses. What
//! is published while it stands comes from two places: what happens to [`files`] is in the outbox, and as
//! durable as they are; what happens to peers is [`watch`]ed, and kept in memory only. Where that is said, [`commands`]
//! are taken from a queue.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use lapin::{Connection, Event};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::daemon::Running;

mod broker;
mod cloud;
mod commands;
mod files;
mod settings;
mod watch;

pub use commands::NotAllowable;
pub use settings::{Events, EventsConfig, EventsError, NoUri, Secret};

use broker::{BrokerError, Pauses, Publisher, connect};
use watch::Seen;

/// Events that are published before the broker has confirmed the first of them (guess: a few round trips' worth).
const WINDOW: usize = 256;

/// How a peer stands with its broker.
#[derive(Default)]
pub(crate) struct Link(Mutex<Option<Result<(), String>>>);

impl Link {
    /// Connected, or why not; `None` when there is no broker.
    pub(crate) fn now(&self) -> Option<Result<(), String>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn is(&self, now: Result<(), String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

/// Publishes what happens until the peer stops.
pub(crate) async fn keep(running: Arc<Running>, events: Events, stopping: CancellationToken) {
    let seen = Seen::default();
    running.broker.is(Err("it has only just started".into()));
    tokio::select! {
        () = stopping.cancelled() => {}
        // It ends when the peer's thread has.
        _ = seen.watch(&running.peer, running.id) => {}
        never = serve(&running, &events, &seen) => match never {},
    }
}

/// Connects again and again.
async fn serve(running: &Running, events: &Events, seen: &Seen) -> Infallible {
    let mut pauses = Pauses::default();
    let mut away: Option<Instant> = None;
    loop {
        let error = match connect(events, &running.id.to_string()).await {
            Ok(connection) => {
                pauses = Pauses::default();
                running.broker.is(Ok(()));
                let seconds = away.take().map(|since| since.elapsed().as_secs());
                info!(
                    exchange = events.exchange,
                    after_seconds = seconds,
                    "connected to the broker of events"
                );
                let Err(error) = session(&connection, running, events, seen).await;
                error
            }
            Err(error) => error,
        };
        running.broker.is(Err(error.to_string()));
        let pause = pauses.next();
        away.get_or_insert_with(Instant::now);
        warn!(
            retry_millis = pause.as_millis(),
            "events wait: the broker is not to be had: {error}"
        );
        sleep(pause).await;
    }
}

/// Publishes, and takes commands, as long as the connection stands.
async fn session(
    connection: &Connection,
    running: &Running,
    events: &Events,
    seen: &Seen,
) -> Result<Infallible, BrokerError> {
    let mut news = connection.events_listener();
    let (peers, files) = (
        Publisher::open(connection, events, &running.network).await?,
        Publisher::open(connection, events, &running.network).await?,
    );
    let taken = async {
        match &events.commands {
            Some(commands) => commands::keep(connection, running, commands).await,
            None => pending().await,
        }
    };
    tokio::select! {
        lost = lost(&mut news) => Err(lost),
        never = taken => match never {},
        ended = publish_peers(&peers, seen) => ended,
        ended = files::publish(&files, &running.peer) => ended,
    }
}

/// Waits until the connection is lost, which publishers notice only when they have something to say.
async fn lost(news: &mut (impl Stream<Item = Event> + Unpin)) -> BrokerError {
    loop {
        match news.next().await {
            Some(Event::Error(error)) => return error.into(),
            Some(_) => {}
            None => return BrokerError::Closed,
        }
    }
}

async fn publish_peers(publisher: &Publisher, seen: &Seen) -> Result<Infallible, BrokerError> {
    loop {
        let batch = seen.next(WINDOW).await;
        publisher.publish(&batch).await?;
        seen.said(&batch);
    }
}
