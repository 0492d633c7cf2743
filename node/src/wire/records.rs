//! What is both sent and stored: members, slot configurations, registers, receipts.

use bytes::Bytes;
use peernet_core::collect::Referrer;
use peernet_core::leave::Receipt;
use peernet_core::member::{Drain, Member, PeerId};
use peernet_core::outbox::{State, TRAIL_MAX, Trail};
use peernet_core::register::{HEAD_MAX, Head, REGISTER_MAX, Register, Value, Version, WriteId};
use peernet_core::slot::{Ballot, SlotConfig};
use peernet_proto::v1;
use peernet_proto::v1::value::{Deleted, Form, Present};

use super::{
    Fault, Field, REPLICAS_MAX, Wire, WireError, bytes_at_most, counted, distinct, record, required,
};

record!(Drain => v1::Drain { epoch, leaving }, check |d| counted(d.epoch, 0, "Drain.epoch"));

record!(Member => v1::Member {
    id, name, address, http, zone, position, incarnation, liveness, drain, version,
}, check |m| counted(m.incarnation, 0, "Member.incarnation"));

record!(Ballot => v1::Ballot { round, proposer }, check |b| counted(b.round, 0, "Ballot.round"));

record!(Version => v1::Version { epoch, round, writer, op }, check |v| {
    counted(v.epoch, 1, "Version.epoch")?;
    counted(v.round, 0, "Version.round")
});

record!(WriteId => v1::WriteId { peer, op });

record!(Register => v1::Register { name, version, write, value, trail });

required!(State);
impl Wire for State {
    type Form = v1::State;

    fn to_wire(&self) -> v1::State {
        let State {
            version,
            write,
            head,
        } = self;
        v1::State {
            version: version.put(),
            write: write.put(),
            pinned: is_pinned(head),
            head: sent(head),
        }
    }

    fn from_wire(form: v1::State, _: &'static str) -> Result<Self, WireError> {
        let v1::State {
            version,
            write,
            head,
            pinned,
        } = form;
        Ok(State {
            version: Field::take(version, "State.version")?,
            write: Field::take(write, "State.write")?,
            head: head_of(head, pinned, "State.head")?,
        })
    }
}

impl Field<Option<v1::Trail>> for Box<Trail> {
    fn put(&self) -> Option<v1::Trail> {
        Some(self.to_wire())
    }

    fn take(form: Option<v1::Trail>, field: &'static str) -> Result<Self, WireError> {
        <Trail as Field<_>>::take(form, field).map(Box::new)
    }
}

record!(Trail => v1::Trail { settled, unsettled, coalesced }, check |t| {
    bytes_at_most(t.size(), TRAIL_MAX + HEAD_MAX + 128, "Trail")
});

record!(Receipt => v1::Receipt {
    leaver, drain_epoch, slot, epoch, root, receiver, chunks, bytes,
}, check |r| counted(r.drain_epoch, 0, "Receipt.drain_epoch"));

required!(SlotConfig);
impl Wire for SlotConfig {
    type Form = v1::SlotConfig;

    fn to_wire(&self) -> v1::SlotConfig {
        let SlotConfig {
            epoch,
            replicas,
            next,
        } = self;
        v1::SlotConfig {
            epoch: *epoch,
            replicas: replicas.put(),
            next: next.iter().flatten().map(PeerId::to_wire).collect(),
        }
    }

    fn from_wire(form: v1::SlotConfig, _: &'static str) -> Result<Self, WireError> {
        let v1::SlotConfig {
            epoch,
            replicas,
            next,
        } = form;
        counted(epoch, 1, "SlotConfig.epoch")?;
        let replicas = Vec::take(replicas, "SlotConfig.replicas")?;
        distinct(&replicas, 1, REPLICAS_MAX, "SlotConfig.replicas")?;
        let next = Vec::take(next, "SlotConfig.next")?;
        distinct(&next, 0, REPLICAS_MAX, "SlotConfig.next")?;
        Ok(SlotConfig {
            epoch,
            replicas,
            next: (!next.is_empty()).then_some(next),
        })
    }
}

impl Wire for (Ballot, SlotConfig) {
    type Form = v1::AcceptedConfig;

    fn to_wire(&self) -> v1::AcceptedConfig {
        v1::AcceptedConfig {
            ballot: self.0.put(),
            config: self.1.put(),
        }
    }

    fn from_wire(form: v1::AcceptedConfig, _: &'static str) -> Result<Self, WireError> {
        let v1::AcceptedConfig { ballot, config } = form;
        Ok((
            Field::take(ballot, "AcceptedConfig.ballot")?,
            Field::take(config, "AcceptedConfig.config")?,
        ))
    }
}

record!(Referrer => v1::Referrer { name, upload, base });

required!(Value);
impl Wire for Value {
    type Form = v1::Value;

    fn to_wire(&self) -> v1::Value {
        let form = match self {
            Value::Present { head, body, upload } => Form::Present(Present {
                head: head.bytes.clone(),
                body: body.clone(),
                upload: upload.put(),
                pinned: head.pinned,
            }),
            Value::Deleted => Form::Deleted(Deleted {}),
        };
        v1::Value { form: Some(form) }
    }

    fn from_wire(form: v1::Value, field: &'static str) -> Result<Self, WireError> {
        match form.form.ok_or(Fault::Missing.at(field))? {
            Form::Present(Present {
                head,
                body,
                upload,
                pinned,
            }) => {
                bytes_at_most(head.len(), HEAD_MAX, "Value.head")?;
                bytes_at_most(head.len() + body.len(), REGISTER_MAX, "Value")?;
                let bytes = detached(head);
                Ok(Value::Present {
                    head: Head { bytes, pinned },
                    body: detached(body),
                    upload: Field::take(upload, "Value.upload")?,
                })
            }
            Form::Deleted(Deleted {}) => Ok(Value::Deleted),
        }
    }
}

/// A head, or none where there is no file.
pub(super) fn head_of(
    bytes: Option<Bytes>,
    pinned: bool,
    field: &'static str,
) -> Result<Option<Head>, WireError> {
    bytes_at_most(bytes.as_ref().map_or(0, Bytes::len), HEAD_MAX, field)?;
    let bytes = bytes.map(detached);
    Ok(bytes.map(|bytes| Head { bytes, pinned }))
}

/// The bytes of [`head_of`].
pub(super) fn sent(head: &Option<Head>) -> Option<Bytes> {
    head.as_ref().map(|head| head.bytes.clone())
}

/// Whether [`head_of`] is pinned.
pub(super) fn is_pinned(head: &Option<Head>) -> bool {
    head.as_ref().is_some_and(|head| head.pinned)
}

/// A copy of its own. Decoded bytes are a view into the whole frame, and a small value that is kept would keep the
/// frame's megabytes with it.
pub(super) fn detached(view: Bytes) -> Bytes {
    Bytes::copy_from_slice(&view)
}
