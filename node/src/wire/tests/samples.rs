//! Random values of every core type that has a form on the wire.

use bytes::Bytes;
use peernet_core::collect::{Referrer, Upload};
use peernet_core::flood::{Query, QueryId, Step, Walk};
use peernet_core::key::{Key, Name, Position, SLOTS, Slot};
use peernet_core::leave::Receipt;
use peernet_core::member::{Drain, Liveness, Member, PeerId};
use peernet_core::message::{Digest, Listed, Message, Outcome, Root};
use peernet_core::outbox::{Consumers, Pending, State, Trail};
use peernet_core::register::{Condition, Head, Register, Value, Version, WriteId};
use peernet_core::share::{Offer, Wanted};
use peernet_core::slot::{Ballot, SlotConfig};
use peernet_core::store::Entry;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

use crate::wire::{COUNTER_MAX, LIST_MAX};

pub(super) fn id() -> impl Strategy<Value = PeerId> + Clone {
    any::<u128>().prop_map(PeerId)
}

pub(super) fn key() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(Key)
}

pub(super) fn key_in(slot: Slot) -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(move |mut key| {
        let start = slot.start().0.to_be_bytes();
        key[0] = start[0];
        key[1] = start[1] | (key[1] & 0x0f);
        Key(key)
    })
}

pub(super) fn root() -> impl Strategy<Value = Root> {
    any::<Root>()
}

pub(super) fn slot() -> impl Strategy<Value = Slot> {
    (0..SLOTS).prop_map(|n| Slot::new(n).unwrap())
}

pub(super) fn count() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![0..10_u64, Just(COUNTER_MAX)]
}

pub(super) fn epoch() -> impl Strategy<Value = u64> + Clone {
    count().prop_map(|n| n.max(1))
}

pub(super) fn name() -> impl Strategy<Value = Name> {
    "[a-zü]{1,9}(/[a-z ]{1,9}){0,2}".prop_map(|n| Name::new(n).unwrap())
}

pub(super) fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

pub(super) fn member() -> impl Strategy<Value = Member> {
    let liveness = proptest::sample::select(vec![
        Liveness::Joining,
        Liveness::Active,
        Liveness::Suspect,
        Liveness::Down,
        Liveness::Retired,
        Liveness::Left,
    ]);
    let texts = proptest::array::uniform5("[a-z0-9.:-]{0,20}");
    let drain = (count(), any::<bool>()).prop_map(|(epoch, leaving)| Drain { epoch, leaving });
    (id(), texts, any::<u64>(), count(), liveness, drain).prop_map(
        |(id, [name, address, http, zone, version], position, incarnation, liveness, drain)| {
            Member {
                id,
                name,
                address,
                http,
                zone,
                position: Position(position),
                incarnation,
                liveness,
                drain,
                version,
            }
        },
    )
}

pub(super) fn members() -> impl Strategy<Value = Vec<Member>> {
    vec(member(), 0..4)
}

pub(super) fn digest() -> impl Strategy<Value = Digest> {
    any::<(u64, u64)>().prop_map(|(members, slots)| Digest { members, slots })
}

pub(super) fn replicas() -> impl Strategy<Value = Vec<PeerId>> {
    btree_set(any::<u128>(), 1..5).prop_map(|ids| ids.into_iter().map(PeerId).collect())
}

pub(super) fn config() -> impl Strategy<Value = SlotConfig> {
    (epoch(), replicas(), option::of(replicas())).prop_map(|(epoch, replicas, next)| SlotConfig {
        epoch,
        replicas,
        next,
    })
}

pub(super) fn ballot() -> impl Strategy<Value = Ballot> {
    (count(), id()).prop_map(|(round, proposer)| Ballot { round, proposer })
}

pub(super) fn accepted() -> impl Strategy<Value = Option<(Ballot, SlotConfig)>> {
    option::of((ballot(), config()))
}

pub(super) fn version() -> impl Strategy<Value = Version> {
    (epoch(), count(), id(), any::<u64>()).prop_map(|(epoch, round, writer, op)| Version {
        epoch,
        round,
        writer,
        op,
    })
}

pub(super) fn write_id() -> impl Strategy<Value = WriteId> {
    (id(), any::<u64>()).prop_map(|(peer, op)| WriteId { peer, op })
}

fn head() -> impl Strategy<Value = Head> + Clone {
    (vec(any::<u8>(), 0..40), any::<bool>()).prop_map(|(bytes, pinned)| Head {
        bytes: bytes.into(),
        pinned,
    })
}

pub(super) fn value() -> impl Strategy<Value = Value> {
    let upload = option::of(any::<u128>().prop_map(Upload));
    let present = (head(), bytes(90), upload).prop_map(|(head, body, upload)| Value::Present {
        head,
        body,
        upload,
    });
    prop_oneof![present, Just(Value::Deleted)]
}

pub(super) fn condition() -> impl Strategy<Value = Condition> {
    let unchanged = write_id().prop_map(Condition::Unchanged);
    let unwritten = Just(Condition::Unwritten);
    prop_oneof![
        Just(Condition::Always),
        Just(Condition::Absent),
        unwritten,
        unchanged
    ]
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    let written = (version(), write_id(), any::<bool>());
    let written = written.prop_map(|(version, write, replaced)| Outcome::Written {
        version,
        write,
        replaced,
    });
    let found = option::of(register()).prop_map(Outcome::Found);
    let declined = option::of(any::<u64>()).prop_map(|untouched| Outcome::Declined { untouched });
    let others = proptest::sample::select(vec![Outcome::Full, Outcome::Unknown]);
    prop_oneof![written, found, declined, others]
}

pub(super) fn register() -> impl Strategy<Value = Register> {
    let internal = "[a-z]{1,9}".prop_map(|n| Name::internal(&n).unwrap());
    let name = prop_oneof![name(), internal];
    (name, version(), write_id(), value(), trail()).prop_map(
        |(name, version, write, value, trail)| Register {
            name,
            version,
            write,
            value,
            trail: trail.into(),
        },
    )
}

fn state() -> impl Strategy<Value = State> + Clone {
    let head = option::of(head());
    let write = (any::<u128>(), any::<u64>());
    (epoch(), write, head).prop_map(|(epoch, (peer, op), head)| State {
        version: Version::least_of(epoch),
        write: WriteId {
            peer: PeerId(peer),
            op,
        },
        head,
    })
}

fn trail() -> impl Strategy<Value = Trail> {
    (option::of(state()), vec(state(), 0..3), any::<u64>()).prop_map(
        |(settled, unsettled, coalesced)| Trail {
            settled,
            unsettled,
            coalesced,
        },
    )
}

fn mark() -> impl Strategy<Value = Pending> {
    (write_id(), 1..4_u8).prop_map(|(write, bits)| Pending {
        write,
        consumers: Consumers::from_bits(bits).unwrap(),
    })
}

pub(super) fn listed() -> impl Strategy<Value = Listed> {
    (name(), version(), option::of(head())).prop_map(|(name, version, head)| Listed {
        name,
        version,
        head,
    })
}

pub(super) fn entry_in(slot: Slot) -> impl Strategy<Value = Entry> {
    prop_oneof![
        (key_in(slot), any::<u32>()).prop_map(|(key, len)| Entry::Chunk { key, len }),
        (key_in(slot), version()).prop_map(|(key, version)| Entry::Name { key, version }),
        (key_in(slot), any::<u32>(), referrer()).prop_map(|(key, len, by)| Entry::Reference {
            key,
            len,
            by
        }),
    ]
}

fn referrer() -> impl Strategy<Value = Referrer> {
    (name(), any::<u128>(), option::of(write_id())).prop_map(|(name, upload, base)| Referrer {
        name,
        upload: Upload(upload),
        base,
    })
}

pub(super) fn receipt() -> impl Strategy<Value = Receipt> {
    (
        id(),
        count(),
        slot(),
        epoch(),
        root(),
        id(),
        any::<(u64, u64)>(),
    )
        .prop_map(
            |(leaver, drain_epoch, slot, epoch, root, receiver, (chunks, bytes))| Receipt {
                leaver,
                drain_epoch,
                slot,
                epoch,
                root,
                receiver,
                chunks,
                bytes,
            },
        )
}

pub(super) fn membership_or_ring() -> impl Strategy<Value = Message> {
    let seq = any::<u64>;
    prop_oneof![
        member().prop_map(|member| Message::Hello { member }),
        (members(), any::<bool>()).prop_map(|(members, reply)| Message::Members { members, reply }),
        (seq(), id(), members(), digest()).prop_map(|(seq, target, rumors, digest)| {
            Message::Ping {
                seq,
                target,
                rumors,
                digest,
            }
        }),
        (seq(), members(), digest()).prop_map(|(seq, rumors, digest)| Message::Ack {
            seq,
            rumors,
            digest
        }),
        (seq(), id()).prop_map(|(seq, target)| Message::PingReq { seq, target }),
        seq().prop_map(|seq| Message::RingQuery { seq }),
        (seq(), option::of(id()), vec(id(), 0..5)).prop_map(|(seq, predecessor, successors)| {
            Message::RingState {
                seq,
                predecessor,
                successors,
            }
        }),
        Just(Message::RingNotify),
    ]
}

pub(super) fn configuration() -> impl Strategy<Value = Message> {
    prop_oneof![
        (slot(), config(), ballot()).prop_map(|(slot, base, ballot)| Message::Prepare {
            slot,
            base,
            ballot
        }),
        (slot(), epoch(), ballot(), accepted()).prop_map(|(slot, epoch, ballot, accepted)| {
            Message::Promise {
                slot,
                epoch,
                ballot,
                accepted,
            }
        }),
        (slot(), config(), ballot(), config()).prop_map(|(slot, base, ballot, config)| {
            Message::Accept {
                slot,
                base,
                ballot,
                config,
            }
        }),
        (slot(), epoch(), ballot()).prop_map(|(slot, epoch, ballot)| Message::Accepted {
            slot,
            epoch,
            ballot
        }),
        (slot(), epoch(), ballot()).prop_map(|(slot, epoch, promised)| Message::Refuse {
            slot,
            epoch,
            promised
        }),
        vec((slot(), config()), 0..4).prop_map(|configs| Message::Commit { configs }),
        vec(count(), usize::from(SLOTS)).prop_map(|epochs| Message::SlotEpochs { epochs }),
    ]
}

pub(super) fn names() -> impl Strategy<Value = Message> {
    let op = any::<u64>;
    prop_oneof![
        (op(), epoch(), key(), option::of(version())).prop_map(|(op, epoch, key, ballot)| {
            Message::Read {
                op,
                epoch,
                key,
                ballot,
                about: ballot.map(|b| Upload(b.op.into())),
                hold: op % 2 == 0,
            }
        }),
        (op(), option::of(register()), any::<bool>())
            .prop_map(|(op, register, read)| Message::ReadReply { op, register, read }),
        vec(name(), 0..4).prop_map(|names| Message::Released { names }),
        (op(), version()).prop_map(|(op, version)| Message::Outbid { op, version }),
        (op(), epoch(), write_id(), name(), value(), condition()).prop_map(
            |(op, epoch, write, name, value, condition)| Message::Propose {
                op,
                epoch,
                write,
                name,
                value,
                condition,
            }
        ),
        (op(), outcome()).prop_map(|(op, outcome)| Message::Proposed { op, outcome }),
        (op(), epoch(), register(), any::<bool>()).prop_map(|(op, epoch, register, repair)| {
            Message::Write {
                op,
                epoch,
                register,
                repair,
            }
        }),
        op().prop_map(|op| Message::WriteReply { op }),
        op().prop_map(|op| Message::NoRoom { op }),
        (op(), slot(), option::of(config())).prop_map(|(op, slot, config)| Message::Stale {
            op,
            slot,
            config
        }),
        (
            op(),
            "[a-z/]{0,9}",
            option::of(name()),
            0..=LIST_MAX,
            any::<u64>()
        )
            .prop_map(|(op, prefix, after, limit, table)| Message::List {
                op,
                prefix,
                after,
                limit,
                table,
            }),
        (
            op(),
            vec(listed(), 0..4),
            any::<bool>(),
            any::<u64>(),
            option::of(vec(count(), usize::from(SLOTS)))
        )
            .prop_map(|(op, items, done, table, epochs)| Message::ListReply {
                op,
                items,
                done,
                table,
                epochs: epochs.unwrap_or_default(),
            }),
    ]
}

pub(super) fn copies() -> impl Strategy<Value = Message> {
    let slot_names = (vec(register(), 1..2), mark()).prop_map(|(registers, mark)| {
        let key = Key::of_name(&registers[0].name);
        Message::Names {
            slot: key.slot(),
            registers,
            marks: vec![(key, mark)],
        }
    });
    prop_oneof![
        vec((slot(), epoch(), root()), 0..4).prop_map(|items| Message::SyncRequest { items }),
        slot().prop_flat_map(|slot| {
            let listed = (
                option::of(vec(entry_in(slot), 0..6)),
                option::of(entry_in(slot)),
                any::<bool>(),
            );
            (epoch(), root(), listed).prop_map(move |(epoch, root, (entries, after, more))| {
                Message::SyncReply {
                    slot,
                    epoch,
                    root,
                    entries,
                    after,
                    more,
                }
            })
        }),
        slot().prop_flat_map(|slot| {
            (epoch(), entry_in(slot)).prop_map(move |(epoch, after)| Message::SyncMore {
                slot,
                epoch,
                after,
            })
        }),
        slot().prop_flat_map(|slot| {
            vec(key_in(slot), 0..4).prop_map(move |keys| Message::FetchNames { slot, keys })
        }),
        slot_names,
        vec((slot(), epoch()), 0..4).prop_map(|slots| Message::CaughtUp { slots }),
        vec(slot(), 0..4).prop_map(|slots| Message::SyncHint { slots }),
        vec((key(), mark()), 0..4).prop_map(|marks| Message::Settled { marks }),
        vec((key(), mark()), 0..4).prop_map(|marks| Message::Unsettled { marks }),
        (slot(), epoch(), root(), count()).prop_map(|(slot, epoch, root, drain_epoch)| {
            Message::Prove {
                slot,
                epoch,
                root,
                drain_epoch,
            }
        }),
        receipt().prop_map(|receipt| Message::Proved { receipt }),
    ]
}

fn offer() -> impl Strategy<Value = Offer> {
    let tags = vec("[a-z]{1,9}", 0..4);
    (name(), any::<u64>(), key(), "[a-z/]{0,9}", tags, count()).prop_map(
        |(name, size, content, content_type, tags, since)| Offer {
            name,
            size,
            content,
            content_type,
            tags,
            since,
        },
    )
}

fn query() -> impl Strategy<Value = Query> {
    let wanted = prop_oneof![
        vec("[a-z]{1,9}", 1..4).prop_map(Wanted::Words),
        name().prop_map(Wanted::Name),
        key().prop_map(Wanted::Content),
    ];
    let walk =
        (0..64_u32, vec(id(), 0..5), any::<bool>()).prop_map(|(walker, trail, resume)| Walk {
            walker,
            trail,
            resume,
        });
    let rest = (
        option::of("[a-z]{0,4}"),
        wanted,
        0..1_025_u32,
        option::of(walk),
    );
    (id(), any::<u64>(), rest).prop_map(|(asker, op, (zone, wanted, ttl, walk))| Query {
        id: QueryId { asker, op },
        zone,
        wanted,
        ttl,
        walk,
    })
}

pub(super) fn flood() -> impl Strategy<Value = Message> {
    let step = prop_oneof![
        query().prop_map(Step::Ask),
        (any::<u64>(), vec(id(), 0..5), vec(offer(), 0..3))
            .prop_map(|(op, told, offers)| Step::Tell { op, told, offers }),
        (query(), vec(offer(), 0..3)).prop_map(|(query, offers)| Step::Check { query, offers }),
        (vec(key(), 0..4), any::<bool>())
            .prop_map(|(contents, gone)| Step::Announce { contents, gone }),
        (any::<u64>(), key()).prop_map(|(op, content)| Step::Providers { op, content }),
        (any::<u64>(), vec(id(), 0..4)).prop_map(|(op, peers)| Step::Provided { op, peers }),
    ];
    step.prop_map(|step| Message::Flood { step })
}

pub(super) fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        membership_or_ring(),
        configuration(),
        names(),
        copies(),
        flood()
    ]
}
