//! What is both sent and stored: members, slot configurations, registers, receipts.

use bytes::Bytes;
use peernet_core::leave::Receipt;
use peernet_core::member::{Drain, Member, PeerId};
use peernet_core::register::{HEAD_MAX, REGISTER_MAX, Register, Value, Version};
use peernet_core::slot::{Ballot, SlotConfig};
use peernet_proto::v1;
use peernet_proto::v1::register::{Deleted, Present, Value as Form};

use super::{
    Fault, Field, REPLICAS_MAX, Wire, WireError, bytes_at_most, counted, distinct, record, required,
};

record!(Drain => v1::Drain { epoch, leaving }, check |d| counted(d.epoch, 0, "Drain.epoch"));

record!(Member => v1::Member {
    id, name, address, http, zone, position, incarnation, liveness, drain, version,
}, check |m| counted(m.incarnation, 0, "Member.incarnation"));

record!(Ballot => v1::Ballot { round, proposer }, check |b| counted(b.round, 0, "Ballot.round"));

record!(Version => v1::Version { counter, writer, op }, check |v| counted(v.counter, 0, "Version.counter"));

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

required!(Register);
impl Wire for Register {
    type Form = v1::Register;

    fn to_wire(&self) -> v1::Register {
        let Register {
            name,
            version,
            value,
        } = self;
        let value = match value {
            Value::Present { head, body } => Form::Present(Present {
                head: head.clone(),
                body: body.clone(),
            }),
            Value::Deleted => Form::Deleted(Deleted {}),
        };
        v1::Register {
            name: name.put(),
            version: version.put(),
            value: Some(value),
        }
    }

    fn from_wire(form: v1::Register, _: &'static str) -> Result<Self, WireError> {
        let v1::Register {
            name,
            version,
            value,
        } = form;
        let value = match value.ok_or(Fault::Missing.at("Register.value"))? {
            Form::Present(Present { head, body }) => {
                bytes_at_most(head.len(), HEAD_MAX, "Register.value.head")?;
                bytes_at_most(head.len() + body.len(), REGISTER_MAX, "Register.value")?;
                Value::Present {
                    head: detached(head),
                    body: detached(body),
                }
            }
            Form::Deleted(Deleted {}) => Value::Deleted,
        };
        Ok(Register {
            name: Field::take(name, "Register.name")?,
            version: Field::take(version, "Register.version")?,
            value,
        })
    }
}

/// A copy of its own. Decoded bytes are a view into the whole frame, and a small value that is kept would keep the
/// frame's megabytes with it.
pub(super) fn detached(view: Bytes) -> Bytes {
    Bytes::copy_from_slice(&view)
}
