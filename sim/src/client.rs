//! Writing and reading files through one peer, step for step as the daemon does it.
//!
//! A write cuts the file into chunks; for each it asks the ring who holds the chunk's slot, gives the bytes to all of
//! them at once and waits until enough say that they are durable under the same epoch; then it writes the name. A read
//! asks for the name, then takes each chunk from the first holder that has it, and verifies it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use peernet_core::collect::{Referrer, Upload};
use peernet_core::io::{Answer, ChunkOutcome, Request, RequestError, Route};
use peernet_core::key::{Key, Name};
use peernet_core::member::PeerId;
use peernet_core::quorum::chunk_acknowledged;
use peernet_core::register::{Condition, Register, Value, Version, WriteId};
use thiserror::Error;

use crate::fleet::{CallError, Fleet};
use crate::network::HostId;
use crate::promise::{Resolver, promise};

/// How often a chunk is tried under a newer configuration, or by a reader again, before giving up.
const ATTEMPTS: u32 = 20;
/// Names in one page of a listing: few, so that there are several.
const PAGE: u32 = 50;
/// Pause between attempts, in milliseconds.
const PAUSE: u64 = 500;

/// Why a file could not be written or read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FileError {
    /// The peer in between went away.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The ring refused. A write may have happened all the same.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Not enough replicas took this chunk.
    #[error("chunk {0} is not durable at enough replicas")]
    NotDurable(Key),
    /// No holder has this chunk.
    #[error("chunk {0} cannot be read")]
    Unreadable(Key),
}

/// What a name's record says of a file: which write it was, and its chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Tells writes apart.
    pub id: u64,
    /// In order.
    pub chunks: Vec<Key>,
    /// Whose references keep them; `None` without chunks.
    pub upload: Option<Upload>,
}

impl Record {
    fn encode(&self) -> Value {
        let mut body = BytesMut::with_capacity(8 + 32 * self.chunks.len());
        body.put_u64(self.id);
        for key in &self.chunks {
            body.put_slice(&key.0);
        }
        Value::Present {
            head: Bytes::from_static(b"sim").into(),
            body: body.freeze(),
            upload: self.upload,
        }
    }

    /// Reads a register written by [`write`]; `None` for a tombstone.
    ///
    /// # Panics
    /// If the body was not written by this module.
    pub fn decode(register: &Register) -> Option<Record> {
        let Value::Present { body, upload, .. } = &register.value else {
            return None;
        };
        let (id, keys) = body
            .split_first_chunk::<8>()
            .expect("a record begins with its number");
        let chunks = keys
            .chunks_exact(32)
            .map(|key| Key(key.try_into().expect("32 bytes")))
            .collect();
        Some(Record {
            id: u64::from_be_bytes(*id),
            chunks,
            upload: *upload,
        })
    }
}

/// What an acknowledgement says of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The ballot under which it was decided.
    pub version: Version,
    /// Names it for ever.
    pub write: WriteId,
}

/// Asks the peer on `at` for the route of a chunk.
async fn route(fleet: &Fleet, at: HostId, key: &Key) -> Result<Route, FileError> {
    match fleet.request(at, Request::Routes(vec![key.slot()])).await? {
        Answer::Routes(mut routes) if routes.len() == 1 => Ok(routes.remove(0)),
        Answer::Failed(error) => Err(error.into()),
        other => panic!("a route was answered with {other:?}"),
    }
}

struct Tally {
    stored: Vec<PeerId>,
    missing: usize,
    decided: Option<Resolver<bool>>,
}

/// Gives a chunk to all holders of a route; true as soon as it counts as durable, false when all have answered and it
/// does not.
async fn offer(
    fleet: &Fleet,
    at: HostId,
    key: Key,
    bytes: &Bytes,
    by: &Referrer,
    route: Route,
) -> bool {
    let Route {
        slot,
        config: Some(config),
        mut holders,
    } = route
    else {
        return false;
    };
    if fleet.flaws().one_copy {
        holders.truncate(1);
    }
    let (resolver, decided) = promise();
    let tally = Tally {
        stored: Vec::new(),
        missing: holders.len(),
        decided: Some(resolver),
    };
    let tally = Rc::new(RefCell::new(tally));
    for holder in holders {
        let world = fleet.world().clone();
        let (fleet, bytes, by, tally, config) = (
            fleet.clone(),
            bytes.clone(),
            by.clone(),
            Rc::clone(&tally),
            config.clone(),
        );
        let offered = async move {
            let outcome = match fleet.resolve(&holder) {
                Some(to) => fleet.put_chunk(at, to, key, bytes, config.epoch, by).await,
                None => Err(CallError::Gone),
            };
            if outcome.is_err() {
                // It may come back without this chunk. If the coordinator is gone, the slot's own comparison finds it.
                let hint = fleet
                    .request(
                        at,
                        Request::Missed {
                            slot,
                            peer: holder.id,
                        },
                    )
                    .await;
                drop(hint);
            }
            let mut tally = tally.borrow_mut();
            tally.missing -= 1;
            if outcome == Ok(ChunkOutcome::Stored) {
                tally.stored.push(holder.id);
            }
            let write = fleet.settings().replication.write;
            let enough = chunk_acknowledged(&config, &tally.stored, write)
                || (fleet.flaws().one_copy && !tally.stored.is_empty());
            if (enough || tally.missing == 0)
                && let Some(decided) = tally.decided.take()
            {
                decided.resolve(enough);
            }
        };
        drop(world.spawn(offered));
    }
    drop(tally);
    decided.await.unwrap_or(false)
}

/// Makes a chunk and its reference durable at enough replicas.
pub async fn write_chunk(
    fleet: &Fleet,
    at: HostId,
    bytes: &Bytes,
    by: &Referrer,
) -> Result<Key, FileError> {
    let key = Key::of_bytes(bytes);
    store_chunk(fleet, at, key, bytes, by).await?;
    Ok(key)
}

/// Makes another reference to a chunk that was stored before durable at enough replicas.
pub async fn pin_chunk(
    fleet: &Fleet,
    at: HostId,
    key: Key,
    by: &Referrer,
) -> Result<(), FileError> {
    store_chunk(fleet, at, key, &Bytes::new(), by).await
}

async fn store_chunk(
    fleet: &Fleet,
    at: HostId,
    key: Key,
    bytes: &Bytes,
    by: &Referrer,
) -> Result<(), FileError> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            fleet.world().sleep(PAUSE).await;
        }
        let route = route(fleet, at, &key).await?;
        if offer(fleet, at, key, bytes, by, route).await {
            return Ok(());
        }
    }
    Err(FileError::NotDurable(key))
}

/// How a write ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It took effect.
    Written(Stamp),
    /// It did not, for its condition does not hold of this.
    Unmet(Option<Register>),
}

/// Writes the name's record, whose chunks are durable, or without a record deletes the name.
pub async fn write(
    fleet: &Fleet,
    at: HostId,
    name: &Name,
    record: Option<&Record>,
    condition: Condition,
) -> Result<Outcome, FileError> {
    let request = Request::WriteName {
        name: name.clone(),
        value: record.map_or(Value::Deleted, Record::encode),
        condition,
    };
    match fleet.request(at, request).await? {
        Answer::Written { version, write, .. } => Ok(Outcome::Written(Stamp { version, write })),
        Answer::Unmet(register) => Ok(Outcome::Unmet(register)),
        Answer::Failed(error) => Err(error.into()),
        other => panic!("a write was answered with {other:?}"),
    }
}

/// What the name holds.
pub async fn read(fleet: &Fleet, at: HostId, name: &Name) -> Result<Option<Register>, FileError> {
    match fleet.request(at, Request::ReadName(name.clone())).await? {
        Answer::Register(register) => Ok(register),
        Answer::Failed(error) => Err(error.into()),
        other => panic!("a read was answered with {other:?}"),
    }
}

/// What the name holds, whose chunks are kept for a reader.
pub async fn hold(fleet: &Fleet, at: HostId, name: &Name) -> Result<Option<Register>, FileError> {
    let (name, upload) = (name.clone(), None);
    match fleet
        .request(at, Request::HoldName { name, upload })
        .await?
    {
        Answer::Held { register, .. } => Ok(register),
        Answer::Failed(error) => Err(error.into()),
        other => panic!("a read was answered with {other:?}"),
    }
}

/// Lists all names, a few at a time.
pub async fn list(fleet: &Fleet, at: HostId) -> Result<BTreeSet<Name>, FileError> {
    let (mut names, mut after) = (BTreeSet::new(), None);
    loop {
        let request = Request::List {
            prefix: String::new(),
            after,
            limit: PAGE,
        };
        match fleet.request(at, request).await? {
            Answer::Names { items, next } => {
                names.extend(items.into_iter().map(|item| item.name));
                if next.is_none() {
                    return Ok(names);
                }
                after = next;
            }
            Answer::Failed(error) => return Err(error.into()),
            other => panic!("a listing was answered with {other:?}"),
        }
    }
}

/// Reads a chunk from the first holder that has it.
pub async fn read_chunk(fleet: &Fleet, at: HostId, key: Key) -> Result<Bytes, FileError> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            fleet.world().sleep(PAUSE).await;
        }
        let Route { holders, .. } = match route(fleet, at, &key).await {
            Ok(route) => route,
            Err(FileError::Request(_)) => continue,
            Err(error) => return Err(error),
        };
        for holder in holders {
            let Some(from) = fleet.resolve(&holder) else {
                continue;
            };
            match fleet.get_chunk(at, from, key).await {
                Ok(Some(bytes)) if Key::of_bytes(&bytes) == key => return Ok(bytes),
                Ok(_) | Err(_) => {}
            }
        }
    }
    Err(FileError::Unreadable(key))
}
