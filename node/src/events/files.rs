//! What happens to files, out of the outbox ([`peernet_core::outbox`]).
//!
//! The write that stores or deletes a file carries its event with it. The owner of the name's slot publishes what is
//! pending, and only when the broker has confirmed it says so to the other replicas. Whoever owns the slot next publishes
//! what is not known to be confirmed: at least once, in order per file, and under the same identity each time.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, SystemTime};

use peernet_core::outbox::{Consumer, Effect, State};
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::WINDOW;
use super::broker::{BrokerError, Publisher};
use super::cloud::{Event, Kind};
use crate::driver::{PeerError, PeerHandle};
use crate::files::decode_head;

/// Names whose changes are published before any of them is settled (guess).
const BATCH: u32 = 64;
/// Pause after this peer could not say what is pending (guess).
const PAUSE: Duration = Duration::from_secs(1);

/// Publishes changes of files in slots that this peer owns, for as long as the broker takes them.
pub(super) async fn publish(
    publisher: &Publisher,
    peer: &PeerHandle,
) -> Result<Infallible, BrokerError> {
    loop {
        let effects = match peer.effects(Consumer::Events, BATCH).await {
            Ok(effects) => effects,
            Err(PeerError::Stopped) => return pending().await,
            Err(error) => {
                debug!("pending events are not known now: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let events: Vec<Event> = effects.iter().flat_map(events).collect();
        for window in events.chunks(WINDOW) {
            publisher.publish(window).await?;
        }
        let writes = effects.iter().map(|e| (e.key, e.state.write)).collect();
        if let Err(error) = peer.settle(Consumer::Events, writes).await {
            debug!("events that were published will be published again: {error}");
        }
    }
}

/// What is to be told of a name, oldest first. That a file was pinned or unpinned is none: nothing was stored.
fn events(effect: &Effect) -> Vec<Event> {
    let mut left_out = effect.trail.coalesced;
    let settled = effect.trail.settled.as_ref();
    let mut before = settled.filter(|_| left_out == 0);
    let mut told = Vec::new();
    for state in effect.states() {
        let pinned = before.is_some_and(|before| differ_in_pin(before, state));
        before = Some(state);
        if pinned {
            continue;
        }
        let mut event = event(effect, state);
        match std::mem::take(&mut left_out) {
            0 => {}
            n => event.data["leftOut"] = json!(n),
        }
        told.push(event);
    }
    told
}

/// Whether one state became the other by a pin.
fn differ_in_pin(before: &State, after: &State) -> bool {
    let heads = before.head.as_ref().zip(after.head.as_ref());
    heads.is_some_and(|(a, b)| a.bytes == b.bytes && a.pinned != b.pinned)
}

fn event(effect: &Effect, state: &State) -> Event {
    let name = effect.name.to_string();
    let (kind, time, data) = match &state.head {
        None => (Kind::FileDeleted, None, json!({"name": name})),
        Some(head) => match decode_head(head) {
            Ok(summary) => (
                Kind::FileStored,
                Some(SystemTime::UNIX_EPOCH + Duration::from_millis(summary.modified_unix_ms)),
                stored(
                    &name,
                    summary.size,
                    &summary.etag_hex(),
                    &summary.kind.content_type,
                ),
            ),
            Err(error) => {
                warn!("the event of '{name}' says nothing but its name: {error}");
                (Kind::FileStored, None, json!({"name": name}))
            }
        },
    };
    let version = &state.version;
    Event {
        id: format!("{}-{:016x}", state.write.peer, state.write.op),
        kind,
        subject: name,
        sequence: Some(format!(
            "{:016x}.{:016x}.{}.{:016x}",
            version.epoch, version.round, version.writer, version.op
        )),
        time,
        data,
    }
}

fn stored(name: &str, size: u64, etag: &str, content_type: &str) -> Value {
    json!({"name": name, "size": size, "etag": etag, "contentType": content_type})
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use peernet_core::key::{Key, Name};
    use peernet_core::member::PeerId;
    use peernet_core::outbox::Trail;
    use peernet_core::register::{Head, Version, WriteId};

    use super::*;

    fn state(op: u64, head: Option<Bytes>) -> State {
        let peer = PeerId(1);
        State {
            version: Version {
                op,
                ..Version::least_of(1)
            },
            write: WriteId { peer, op },
            head: head.map(Head::from),
        }
    }

    #[test]
    fn a_pin_is_no_event() {
        let file = |op, pinned| {
            let bytes = Bytes::from_static(b"\xff");
            let head = Some(Head { bytes, pinned });
            let state = state(op, None);
            State { head, ..state }
        };
        let told = |settled, unsettled, now, coalesced| {
            let name = Name::new("a").unwrap();
            let effect = Effect {
                key: Key::of_name(&name),
                name,
                trail: Trail {
                    settled,
                    unsettled,
                    coalesced,
                },
                state: now,
            };
            let count = |event: Event| event.data["leftOut"].as_u64();
            events(&effect).into_iter().map(count).collect::<Vec<_>>()
        };
        assert!(told(Some(file(1, false)), vec![], file(2, true), 0).is_empty());
        // Stored, pinned, unpinned, removed.
        let unsettled = vec![file(2, false), file(3, true), file(4, false)];
        assert_eq!(told(None, unsettled, state(5, None), 0).len(), 2);
        // What was before is not known: better told twice than never.
        assert_eq!(
            told(Some(file(1, false)), vec![], file(9, true), 3),
            [Some(3)]
        );
        // Written anew with the same value, as a fence does.
        assert_eq!(told(Some(file(1, true)), vec![], file(2, true), 0).len(), 1);
    }

    #[test]
    fn every_state_is_told_of_in_order_and_what_was_left_out_is_counted() {
        let name = Name::new("a").unwrap();
        let effect = Effect {
            key: Key::of_name(&name),
            name,
            trail: Trail {
                settled: Some(state(1, None)),
                unsettled: vec![state(9, Some(Bytes::from_static(b"\xff"))), state(10, None)],
                coalesced: 7,
            },
            state: state(17, None),
        };
        let told = events(&effect);
        let kinds: Vec<Kind> = told.iter().map(|e| e.kind).collect();
        assert_eq!(
            kinds,
            [Kind::FileStored, Kind::FileDeleted, Kind::FileDeleted]
        );
        assert!(told.is_sorted_by(|a, b| a.sequence < b.sequence));
        assert_eq!(told[0].data, json!({"name": "a", "leftOut": 7}));
        assert_eq!(told[1].data, json!({"name": "a"}));
        assert!(told.iter().all(|e| e.time.is_none()));
    }
}
