//! The peers' messages.

use peernet_core::key::{Key, NAME_MAX, Slot};
use peernet_core::member::PeerId;
use peernet_core::message::{Digest, Listed, Message, Outcome, Root};
use peernet_core::outbox::{Consumers, Pending};
use peernet_core::register::Condition;
use peernet_core::slot::SlotConfig;
use peernet_core::store::Entry;
use peernet_proto::v1;
use peernet_proto::v1::message;
use peernet_proto::v1::message::Kind;
use peernet_proto::v1::message::condition::{Absent, Unwritten, When};
use peernet_proto::v1::message::outcome::{Declined, Found, Full, Unknown, What, Written};

use super::records::{head_of, is_pinned, sent};
use super::{
    ALL_SLOTS, Fault, Field, LIST_MAX, SUCCESSORS_MAX, Wire, WireError, bytes_at_most, count,
    record, required,
};

/// Version of the peers' protocol spoken here.
pub const PROTOCOL: u32 = 7;

/// What a peer handed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// UUID of the sender's network; the caller compares it with its own.
    pub network: String,
    /// The sender, as it says.
    pub from: PeerId,
    /// In the order sent.
    pub messages: Vec<Message>,
}

impl Delivery {
    /// Checks a whole delivery; one message that cannot be understood refuses it all.
    pub fn from_wire(request: v1::DeliverRequest) -> Result<Self, WireError> {
        let v1::DeliverRequest {
            network_id,
            protocol_version,
            from,
            messages,
        } = request;
        if protocol_version != PROTOCOL {
            return Err(Fault::Version(protocol_version).at("DeliverRequest.protocol_version"));
        }
        Ok(Delivery {
            network: Field::take(network_id, "DeliverRequest.network_id")?,
            from: Field::take(from, "DeliverRequest.from")?,
            messages: Field::take(messages, "DeliverRequest.messages")?,
        })
    }
}

/// A delivery of messages that are in wire form already ([`Wire::to_wire`]; their `encoded_len` tells when a frame is
/// full).
pub fn deliver_request(
    network: &str,
    from: PeerId,
    messages: Vec<v1::Message>,
) -> v1::DeliverRequest {
    v1::DeliverRequest {
        network_id: network.to_owned(),
        protocol_version: PROTOCOL,
        from: from.put(),
        messages,
    }
}

/// Every variant with its fields. The variant, its fields and those of the message have the same names.
macro_rules! kinds {
    ($($kind:ident { $($name:ident),* })*) => {
        impl Wire for Message {
            type Form = v1::Message;

            fn to_wire(&self) -> v1::Message {
                let kind = match self {
                    $(Message::$kind { $($name),* } => Kind::$kind(message::$kind { $($name: $name.put()),* }),)*
                };
                v1::Message { kind: Some(kind) }
            }

            fn from_wire(form: v1::Message, field: &'static str) -> Result<Self, WireError> {
                let message = match form.kind.ok_or(Fault::Missing.at(field))? {
                    $(Kind::$kind(message::$kind { $($name),* }) => Message::$kind {
                        $($name: Field::take($name, concat!(stringify!($kind), ".", stringify!($name)))?),*
                    },)*
                };
                check(&message)?;
                Ok(message)
            }
        }
    };
}

kinds! {
    Hello { member }
    Members { members, reply }
    Ping { seq, target, rumors, digest }
    Ack { seq, rumors, digest }
    PingReq { seq, target }
    RingQuery { seq }
    RingState { seq, predecessor, successors }
    RingNotify {}
    Prepare { slot, base, ballot }
    Promise { slot, epoch, ballot, accepted }
    Accept { slot, base, ballot, config }
    Accepted { slot, epoch, ballot }
    Refuse { slot, epoch, promised }
    Commit { configs }
    SlotEpochs { epochs }
    Read { op, epoch, key, ballot, about, hold }
    ReadReply { op, register, read }
    Write { op, epoch, register, repair }
    WriteReply { op }
    NoRoom { op }
    Outbid { op, version }
    Propose { op, epoch, write, name, value, condition }
    Proposed { op, outcome }
    Stale { op, slot, config }
    List { op, prefix, after, limit, table }
    ListReply { op, items, done, table, epochs }
    SyncRequest { items }
    SyncReply { slot, epoch, root, entries, after, more }
    SyncMore { slot, epoch, after }
    FetchNames { slot, keys }
    Names { slot, registers, marks }
    CaughtUp { slots }
    SyncHint { slots }
    Settled { marks }
    Unsettled { marks }
    Released { names }
    Prove { slot, epoch, root, drain_epoch }
    Proved { receipt }
    Flood { step }
}

/// What the types of the fields cannot say.
fn check(message: &Message) -> Result<(), WireError> {
    match message {
        Message::RingState { successors, .. } => {
            count(successors.len(), 0, SUCCESSORS_MAX, "RingState.successors")
        }
        Message::SlotEpochs { epochs } => {
            count(epochs.len(), ALL_SLOTS, ALL_SLOTS, "SlotEpochs.epochs")
        }
        Message::Commit { configs } => count(configs.len(), 0, ALL_SLOTS, "Commit.configs"),
        Message::SyncRequest { items } => count(items.len(), 0, ALL_SLOTS, "SyncRequest.items"),
        Message::Released { names } => count(names.len(), 0, ALL_SLOTS, "Released.names"),
        Message::CaughtUp { slots } => count(slots.len(), 0, ALL_SLOTS, "CaughtUp.slots"),
        Message::SyncHint { slots } => count(slots.len(), 0, ALL_SLOTS, "SyncHint.slots"),
        Message::List { prefix, limit, .. } => {
            bytes_at_most(prefix.len(), NAME_MAX, "List.prefix")?;
            count(*limit as usize, 0, LIST_MAX as usize, "List.limit")
        }
        Message::ListReply { epochs, .. } if !epochs.is_empty() => {
            count(epochs.len(), ALL_SLOTS, ALL_SLOTS, "ListReply.epochs")
        }
        Message::SyncMore { slot, after, .. } => {
            in_slot(*slot, std::iter::once(after.key()), "SyncMore.after")
        }
        Message::SyncReply { slot, entries, .. } => in_slot(
            *slot,
            entries.iter().flatten().map(Entry::key),
            "SyncReply.entries",
        ),
        Message::FetchNames { slot, keys } => {
            in_slot(*slot, keys.iter().copied(), "FetchNames.keys")
        }
        Message::Names {
            slot,
            registers,
            marks,
        } => {
            let keys = registers.iter().map(|r| Key::of_name(&r.name));
            in_slot(*slot, keys, "Names.registers")?;
            in_slot(*slot, marks.iter().map(|(key, _)| *key), "Names.marks")
        }
        _ => Ok(()),
    }
}

fn in_slot(
    slot: Slot,
    mut keys: impl Iterator<Item = Key>,
    field: &'static str,
) -> Result<(), WireError> {
    match keys.find(|key| key.slot() != slot) {
        Some(key) => Err(Fault::OtherSlot(key).at(field)),
        None => Ok(()),
    }
}

record!(Digest => message::Digest { members, slots });

impl Field<Option<message::Condition>> for Condition {
    fn put(&self) -> Option<message::Condition> {
        let when = match self {
            Condition::Always => return None,
            Condition::Absent => When::Absent(Absent {}),
            Condition::Unchanged(write) => When::Unchanged(write.to_wire()),
            Condition::Unwritten => When::Unwritten(Unwritten {}),
        };
        Some(message::Condition { when: Some(when) })
    }

    fn take(form: Option<message::Condition>, field: &'static str) -> Result<Self, WireError> {
        // A condition that is there but not understood must not be taken for none.
        match form
            .map(|c| c.when.ok_or(Fault::Missing.at(field)))
            .transpose()?
        {
            None => Ok(Condition::Always),
            Some(When::Absent(Absent {})) => Ok(Condition::Absent),
            Some(When::Unwritten(Unwritten {})) => Ok(Condition::Unwritten),
            Some(When::Unchanged(write)) => Ok(Condition::Unchanged(Wire::from_wire(
                write,
                "Condition.unchanged",
            )?)),
        }
    }
}

required!(Outcome);
impl Wire for Outcome {
    type Form = message::Outcome;

    fn to_wire(&self) -> message::Outcome {
        let what = match self {
            Outcome::Written {
                version,
                write,
                replaced,
            } => What::Written(Written {
                version: version.put(),
                write: write.put(),
                replaced: *replaced,
            }),
            Outcome::Found(register) => What::Found(Found {
                register: register.put(),
            }),
            Outcome::Full => What::Full(Full {}),
            Outcome::Unknown => What::Unknown(Unknown {}),
            Outcome::Declined { untouched } => What::Declined(Declined {
                untouched: *untouched,
            }),
        };
        message::Outcome { what: Some(what) }
    }

    fn from_wire(form: message::Outcome, field: &'static str) -> Result<Self, WireError> {
        match form.what.ok_or(Fault::Missing.at(field))? {
            What::Written(Written {
                version,
                write,
                replaced,
            }) => Ok(Outcome::Written {
                version: Field::take(version, "Written.version")?,
                write: Field::take(write, "Written.write")?,
                replaced,
            }),
            What::Found(Found { register }) => {
                Ok(Outcome::Found(Field::take(register, "Found.register")?))
            }
            What::Full(Full {}) => Ok(Outcome::Full),
            What::Unknown(Unknown {}) => Ok(Outcome::Unknown),
            What::Declined(Declined { untouched }) => Ok(Outcome::Declined { untouched }),
        }
    }
}

impl Wire for (Slot, SlotConfig) {
    type Form = message::Committed;

    fn to_wire(&self) -> message::Committed {
        message::Committed {
            slot: self.0.put(),
            config: self.1.put(),
        }
    }

    fn from_wire(form: message::Committed, _: &'static str) -> Result<Self, WireError> {
        let message::Committed { slot, config } = form;
        Ok((
            Field::take(slot, "Committed.slot")?,
            Field::take(config, "Committed.config")?,
        ))
    }
}

impl Wire for (Key, Pending) {
    type Form = message::Mark;

    fn to_wire(&self) -> message::Mark {
        message::Mark {
            key: self.0.put(),
            write: self.1.write.put(),
            consumers: self.1.consumers.bits().into(),
        }
    }

    fn from_wire(form: message::Mark, _: &'static str) -> Result<Self, WireError> {
        let message::Mark {
            key,
            write,
            consumers,
        } = form;
        let known = u8::try_from(consumers).ok().and_then(Consumers::from_bits);
        let known = known.filter(|c| !c.is_empty());
        let pending = Pending {
            write: Field::take(write, "Mark.write")?,
            consumers: known.ok_or(Fault::Consumers(consumers).at("Mark.consumers"))?,
        };
        Ok((Field::take(key, "Mark.key")?, pending))
    }
}

impl Wire for (Slot, u64) {
    type Form = message::SlotEpoch;

    fn to_wire(&self) -> message::SlotEpoch {
        message::SlotEpoch {
            slot: self.0.put(),
            epoch: self.1,
        }
    }

    fn from_wire(form: message::SlotEpoch, _: &'static str) -> Result<Self, WireError> {
        let message::SlotEpoch { slot, epoch } = form;
        Ok((Field::take(slot, "SlotEpoch.slot")?, epoch))
    }
}

impl Wire for (Slot, u64, Root) {
    type Form = message::SlotRoot;

    fn to_wire(&self) -> message::SlotRoot {
        message::SlotRoot {
            slot: self.0.put(),
            epoch: self.1,
            root: self.2.put(),
        }
    }

    fn from_wire(form: message::SlotRoot, _: &'static str) -> Result<Self, WireError> {
        let message::SlotRoot { slot, epoch, root } = form;
        Ok((
            Field::take(slot, "SlotRoot.slot")?,
            epoch,
            Field::take(root, "SlotRoot.root")?,
        ))
    }
}

impl Wire for Listed {
    type Form = message::Listed;

    fn to_wire(&self) -> message::Listed {
        let Listed {
            name,
            version,
            head,
        } = self;
        message::Listed {
            name: name.put(),
            version: version.put(),
            pinned: is_pinned(head),
            head: sent(head),
        }
    }

    fn from_wire(form: message::Listed, _: &'static str) -> Result<Self, WireError> {
        let message::Listed {
            name,
            version,
            head,
            pinned,
        } = form;
        Ok(Listed {
            name: Field::take(name, "Listed.name")?,
            version: Field::take(version, "Listed.version")?,
            head: head_of(head, pinned, "Listed.head")?,
        })
    }
}

required!(Entry);
impl Wire for Entry {
    type Form = message::Entry;

    fn to_wire(&self) -> message::Entry {
        let (key, what) = match self {
            Entry::Chunk { key, len } => (key, message::entry::What::Len(*len)),
            Entry::Reference { key, len, by } => {
                let reference = message::entry::Reference {
                    len: *len,
                    by: by.put(),
                };
                (key, message::entry::What::Reference(reference))
            }
            Entry::Name { key, version } => (key, message::entry::What::Version(version.to_wire())),
        };
        message::Entry {
            key: key.put(),
            what: Some(what),
        }
    }

    fn from_wire(form: message::Entry, _: &'static str) -> Result<Self, WireError> {
        let key = Field::take(form.key, "Entry.key")?;
        match form.what.ok_or(Fault::Missing.at("Entry.what"))? {
            message::entry::What::Len(len) => Ok(Entry::Chunk { key, len }),
            message::entry::What::Reference(reference) => Ok(Entry::Reference {
                key,
                len: reference.len,
                by: Field::take(reference.by, "Reference.by")?,
            }),
            message::entry::What::Version(version) => Ok(Entry::Name {
                key,
                version: Wire::from_wire(version, "Entry.version")?,
            }),
        }
    }
}

impl Wire for Vec<Entry> {
    type Form = message::Entries;

    fn to_wire(&self) -> message::Entries {
        message::Entries {
            entries: self.put(),
        }
    }

    fn from_wire(form: message::Entries, _: &'static str) -> Result<Self, WireError> {
        Field::take(form.entries, "Entries.entries")
    }
}
