//! Events in the shape that strangers understand: CloudEvents 1.0.2, JSON format, structured mode of the AMQP binding.

use std::time::SystemTime;

use lapin::BasicProperties;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Of the structured mode (CloudEvents AMQP binding, section 3.2).
pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json";
/// Delivery mode of AMQP for messages that survive the broker's restart.
pub(super) const PERSISTENT: u8 = 2;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A name leads to a new file.
    FileStored,
    /// A name leads nowhere any more.
    FileDeleted,
    /// A peer has joined the ring.
    PeerJoined,
    /// A peer does not answer.
    PeerDown,
    /// A peer that was down answers again.
    PeerReturned,
    /// A peer has left for good.
    PeerLeft,
    /// A peer has again all chunks that it should hold.
    RepairDone,
}

impl Kind {
    /// The routing key; with `dev.peernet.` before it, the event's type.
    pub(super) fn routing_key(self) -> &'static str {
        match self {
            Kind::FileStored => "file.stored",
            Kind::FileDeleted => "file.deleted",
            Kind::PeerJoined => "peer.joined",
            Kind::PeerDown => "peer.down",
            Kind::PeerReturned => "peer.returned",
            Kind::PeerLeft => "peer.left",
            Kind::RepairDone => "repair.done",
        }
    }
}

/// One event.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Event {
    /// The same whenever and by whomever this event is published.
    pub(super) id: String,
    pub(super) kind: Kind,
    /// The file's or the peer's name.
    pub(super) subject: String,
    /// Grows from event to event of one subject, as text (CloudEvents' extension `sequence`).
    pub(super) sequence: Option<String>,
    /// When it happened, by the clock of whoever saw it; `None` when nobody noted.
    pub(super) time: Option<SystemTime>,
    pub(super) data: Value,
}

#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: String,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    datacontenttype: &'static str,
    data: &'a Value,
}

impl Event {
    /// Body and properties of the message; `network` is the network's UUID.
    pub(super) fn message(&self, network: &str) -> (Vec<u8>, BasicProperties) {
        let Event {
            id,
            kind,
            subject,
            sequence,
            time,
            data,
        } = self;
        let kind = format!("dev.peernet.{}", kind.routing_key());
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(id.as_str().into())
            .with_type(kind.as_str().into())
            .with_app_id("peernet".into());
        let envelope = Envelope {
            specversion: "1.0",
            id,
            source: format!("/networks/{network}"),
            r#type: kind,
            subject,
            sequence: sequence.as_deref(),
            // A year past 9999 has no such form, and a clock that says so is better left out.
            time: time.and_then(|t| OffsetDateTime::from(t).format(&Rfc3339).ok()),
            datacontenttype: "application/json",
            data,
        };
        // Strings and numbers always have a JSON form.
        let body = serde_json::to_vec(&envelope).unwrap_or_default();
        (body, properties)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_has_the_shape_that_the_specification_asks_for() {
        let event = Event {
            id: "7".into(),
            kind: Kind::FileStored,
            subject: "a/ü.txt".into(),
            sequence: Some("0001".into()),
            time: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
            data: json!({"size": 3}),
        };
        let (body, properties) = event.message("0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body,
            json!({
                "specversion": "1.0",
                "id": "7",
                "source": "/networks/0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10",
                "type": "dev.peernet.file.stored",
                "subject": "a/ü.txt",
                "sequence": "0001",
                "time": "1970-01-01T00:00:01.5Z",
                "datacontenttype": "application/json",
                "data": {"size": 3},
            })
        );
        assert_eq!(properties.delivery_mode(), &Some(2));
    }
}
