//! The end state that is wanted, read from the peers themselves and from their volumes.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::collect::{Referrer, Verdict, judge};
use peernet_core::io::{Answer, Request, Status};
use peernet_core::key::{Key, Name, SLOTS, Slot};
use peernet_core::member::PeerId;
use peernet_core::quorum::majority;
use peernet_core::register::{Register, Version};
use peernet_core::slot::SlotConfig;
use peernet_core::store::{Entry, Store};
use thiserror::Error;

use crate::client::Record;
use crate::fleet::Fleet;
use crate::model::Violation;
use crate::network::HostId;

/// What is not yet as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Unsettled {
    /// No process runs there.
    #[error("{0} does not run")]
    Stopped(String),
    /// The StatefulSet has not as many pods as are wanted.
    #[error("there are {found} pods, not {wanted}")]
    Pods {
        /// Replicas of the resource.
        wanted: u32,
        /// Replicas of the StatefulSet.
        found: u32,
    },
    /// A replacement that was asked for has not come to an end.
    #[error("a replacement goes on: {0}")]
    Replacing(String),
    /// A peer is not ready.
    #[error("{0} is not ready: {1}")]
    NotReady(String, String),
    /// A peer has work left.
    #[error("{name}: {behind} slots behind, {moving} moving, {missing} chunks missing")]
    Busy {
        /// Which peer.
        name: String,
        /// Slots it has not caught up with.
        behind: u32,
        /// Slots that move.
        moving: u32,
        /// Chunks it should have.
        missing: u64,
    },
    /// A peer keeps copies that it no longer serves.
    #[error("{0} keeps {1} frozen copies")]
    Frozen(String, usize),
    /// A table holds what nobody needs any more.
    #[error("{name} has {entries} entries in its table of {table}")]
    Table {
        /// Which peer.
        name: String,
        /// Which table.
        table: &'static str,
        /// How many entries.
        entries: usize,
    },
    /// The successors and predecessors do not form one ring of all peers.
    #[error("{name} has predecessor {predecessor:?} and successor {successor:?}, not {wanted:?}")]
    Ring {
        /// Which peer.
        name: String,
        /// What it says.
        predecessor: Option<PeerId>,
        /// What it says.
        successor: Option<PeerId>,
        /// Both as they should be.
        wanted: (PeerId, PeerId),
    },
    /// Nobody knows a slot.
    #[error("slot {0} has no configuration")]
    Unknown(Slot),
    /// A slot is not held as it should be.
    #[error("slot {slot} is held by {config:?}: {fault}")]
    Placement {
        /// Which slot.
        slot: Slot,
        /// Its newest configuration.
        config: SlotConfig,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A peer keeps a chunk that no file refers to.
    #[error("{peer} keeps chunk {key}, to which no file refers")]
    Garbage {
        /// Which peer.
        peer: String,
        /// Which chunk.
        key: Key,
    },
    /// Replicas of a slot do not hold the same.
    #[error("slot {slot}: {one} and {other} differ in, or lack bytes of, {entry:?}")]
    Copies {
        /// Which slot.
        slot: Slot,
        /// One replica.
        one: PeerId,
        /// Another; the same when it lacks bytes of what it says it holds.
        other: PeerId,
        /// The first that only one of them holds.
        entry: Box<Entry>,
    },
}

/// Asks all of `hosts` how they are.
async fn statuses(fleet: &Fleet, hosts: &[HostId]) -> Result<Vec<(HostId, Status)>, Unsettled> {
    let mut all = Vec::new();
    for id in hosts {
        let name = fleet.host(*id).name.clone();
        match fleet.request(*id, Request::Status).await {
            Ok(Answer::Status(status)) => all.push((*id, *status)),
            _ => return Err(Unsettled::Stopped(name)),
        }
    }
    Ok(all)
}

/// Whether all of `hosts` say that they are ready.
pub async fn ready(fleet: &Fleet, hosts: &[HostId]) -> Result<(), Unsettled> {
    for (_, status) in statuses(fleet, hosts).await? {
        if !status.ready {
            return Err(Unsettled::NotReady(status.member.name, status.reason));
        }
    }
    Ok(())
}

/// Whether `hosts` form one ring, are ready and idle, and hold every slot as wanted, with equal copies. A network with
/// fewer peers than a write needs copies need not be ready.
pub async fn settled(fleet: &Fleet, hosts: &[HostId]) -> Result<(), Unsettled> {
    let statuses = statuses(fleet, hosts).await?;
    let replication = fleet.settings().replication;
    let enough =
        hosts.len() >= majority(replication.factor as usize).max(replication.write as usize);
    for (
        _,
        Status {
            member,
            ready,
            reason,
            slots_behind,
            slots_moving,
            chunks_missing,
            ..
        },
    ) in &statuses
    {
        let name = member.name.clone();
        // One that was ready stays so when others leave, whatever their number.
        if enough && !*ready {
            return Err(Unsettled::NotReady(name, reason.clone()));
        }
        if (*slots_behind, *slots_moving, *chunks_missing) != (0, 0, 0) {
            let (behind, moving, missing) = (*slots_behind, *slots_moving, *chunks_missing);
            return Err(Unsettled::Busy {
                name,
                behind,
                moving,
                missing,
            });
        }
    }
    for (id, status) in &statuses {
        let remembered = fleet.host(*id).store().remembered();
        let slots = remembered.expect("a store in memory does not fail").slots;
        let frozen = slots.iter().filter(|(_, r)| r.frozen.is_some()).count();
        if frozen > 0 {
            return Err(Unsettled::Frozen(status.member.name.clone(), frozen));
        }
    }
    ring(&statuses)?;
    let peers: BTreeMap<PeerId, (HostId, String)> = statuses
        .iter()
        .map(|(host, s)| (s.member.id, (*host, s.member.zone.clone())))
        .collect();
    placement(fleet, &peers)
}

/// Chord's ideal state: going from successor to successor meets every peer once.
fn ring(statuses: &[(HostId, Status)]) -> Result<(), Unsettled> {
    let mut order: Vec<&Status> = statuses.iter().map(|(_, s)| s).collect();
    order.sort_by_key(|s| s.member.ring_key());
    for (i, status) in order.iter().enumerate() {
        let before = order[(i + order.len() - 1) % order.len()].member.id;
        let after = order[(i + 1) % order.len()].member.id;
        let alone = order.len() == 1;
        let (predecessor, successor) = (status.predecessor, status.successors.first().copied());
        let right =
            |found: Option<PeerId>, wanted| found == Some(wanted) || (alone && found.is_none());
        if !right(predecessor, before) || !right(successor, after) {
            let name = status.member.name.clone();
            return Err(Unsettled::Ring {
                name,
                predecessor,
                successor,
                wanted: (before, after),
            });
        }
    }
    Ok(())
}

fn placement(fleet: &Fleet, peers: &BTreeMap<PeerId, (HostId, String)>) -> Result<(), Unsettled> {
    let zones: BTreeSet<&String> = peers.values().map(|(_, zone)| zone).collect();
    let factor = (fleet.settings().replication.factor as usize).min(peers.len());
    let hosts: Vec<HostId> = peers.values().map(|(host, _)| *host).collect();
    let mut newest = configurations(fleet, &hosts);
    for slot in Slot::all() {
        let config = newest.remove(&slot).ok_or(Unsettled::Unknown(slot))?;
        let fault = |fault| {
            Err(Unsettled::Placement {
                slot,
                config: config.clone(),
                fault,
            })
        };
        let holders: BTreeSet<PeerId> = config.replicas.iter().copied().collect();
        if config.next.is_some() {
            return fault("it moves");
        }
        if holders.len() != factor || config.replicas.len() != factor {
            return fault("wrong number of replicas");
        }
        let Some(spread) = holders
            .iter()
            .map(|id| Some(&peers.get(id)?.1))
            .collect::<Option<BTreeSet<_>>>()
        else {
            return fault("a replica is not a member");
        };
        if spread.len() != factor.min(zones.len()) {
            return fault("not spread over the zones");
        }
        let hosts: Vec<(PeerId, HostId)> = config
            .replicas
            .iter()
            .map(|id| (*id, peers[id].0))
            .collect();
        copies(fleet, slot, &hosts)?;
    }
    Ok(())
}

/// The newest configuration of each slot on these machines' volumes.
fn configurations(fleet: &Fleet, hosts: &[HostId]) -> BTreeMap<Slot, SlotConfig> {
    let mut newest: BTreeMap<Slot, SlotConfig> = BTreeMap::new();
    for host in hosts {
        let remembered = fleet.host(*host).store().remembered();
        let remembered = remembered.expect("a store in memory does not fail");
        for (slot, record) in remembered.slots {
            let entry = newest.entry(slot).or_insert_with(|| record.config.clone());
            if record.config.epoch > entry.epoch {
                *entry = record.config;
            }
        }
    }
    newest
}

/// Whether some slot, as far as these machines know, still counts on a peer.
pub fn is_named(fleet: &Fleet, hosts: &[HostId], id: PeerId) -> bool {
    let mut configs = configurations(fleet, hosts).into_values();
    configs.any(|config| config.involves(id))
}

/// The first table of a peer that holds more at rest than it may. What belongs to clients, writers or fetches is over;
/// a table by slot has one entry for each slot and other replica at most, and the rest is bounded by who ever was a
/// member, as many as processes ever started with a new identity.
pub fn tables(fleet: &Fleet, identities: usize) -> Result<(), Unsettled> {
    for host in fleet.hosts().iter() {
        for (table, entries) in host.process.iter().flat_map(|p| p.tables()) {
            let most = match table {
                "operations" | "missing chunks" | "fetches" | "requests" | "pins" => 0,
                "members" | "probes" => identities,
                "timers" => 16 + 4 * identities,
                "collection" => fleet.settings().remembered + 4 * usize::from(SLOTS),
                _ => 4 * usize::from(SLOTS),
            };
            if entries > most {
                return Err(Unsettled::Table {
                    name: host.name.clone(),
                    table,
                    entries,
                });
            }
        }
    }
    Ok(())
}

fn copies(fleet: &Fleet, slot: Slot, replicas: &[(PeerId, HostId)]) -> Result<(), Unsettled> {
    let mut first: Option<(PeerId, Vec<Entry>)> = None;
    for (id, host) in replicas {
        let host = fleet.host(*host);
        let entries = host
            .store()
            .entries(slot)
            .expect("a store in memory does not fail");
        let differ = |one: PeerId, entry: &Entry| Unsettled::Copies {
            slot,
            one,
            other: *id,
            entry: Box::new(entry.clone()),
        };
        let is_hollow = |e: &&Entry| matches!(e, Entry::Chunk { key, .. } if !host.holds(key));
        if let Some(hollow) = entries.iter().find(is_hollow) {
            return Err(differ(*id, hollow));
        }
        if let Some((one, others)) = &first {
            let only = |of: &[Entry], not: &[Entry]| of.iter().find(|e| !not.contains(e)).cloned();
            if let Some(entry) = only(others, &entries).or_else(|| only(&entries, others)) {
                return Err(differ(*one, &entry));
            }
        } else {
            first = Some((*id, entries));
        }
    }
    Ok(())
}

/// Of these files, what fewer than so many of the machines that stay hold durably.
pub fn left_behind(
    fleet: &Fleet,
    stay: &[HostId],
    files: &[(Name, Record, Version)],
    copies: usize,
) -> Vec<Violation> {
    let mut missing = Vec::new();
    for (name, record, version) in files {
        let key = Key::of_name(name);
        let has_name = |host: &&HostId| {
            let register = fleet
                .host(**host)
                .store()
                .register(&key)
                .expect("a store in memory does not fail");
            register.is_some_and(|r| r.version >= *version)
        };
        let mut count = |key: Key, copies_found: usize| {
            if copies_found < copies {
                missing.push(Violation::LeftBehind {
                    name: name.clone(),
                    key,
                    copies: copies_found,
                });
            }
        };
        count(key, stay.iter().filter(has_name).count());
        for chunk in &record.chunks {
            count(
                *chunk,
                stay.iter()
                    .filter(|host| fleet.host(**host).holds(chunk))
                    .count(),
            );
        }
    }
    missing
}

/// A peer on `id` has let go of these copies: each replica that it knew of must hold all of each, or have passed it on in
/// its turn. `chunks`: whether the metadata of chunks can be believed.
pub fn released(
    fleet: &Fleet,
    id: HostId,
    cleared: &[(Slot, Vec<Entry>)],
    chunks: bool,
) -> Vec<Violation> {
    if cleared.is_empty() {
        return Vec::new();
    }
    let hosts: BTreeMap<PeerId, HostId> = fleet
        .ids()
        .into_iter()
        .filter_map(|host| {
            let identity = fleet.host(host).store().identity();
            let identity = identity.expect("a store in memory does not fail")?;
            Some((identity.member.id, host))
        })
        .collect();
    let config_on = |host: HostId, slot: Slot| {
        let host = fleet.host(host);
        let store = host.store();
        store.slot(slot).map(|record| record.config.clone())
    };
    let mut found = Vec::new();
    for (slot, entries) in cleared {
        let Some(config) = config_on(id, *slot) else {
            continue;
        };
        for replica in &config.replicas {
            let Some(host) = hosts.get(replica).copied() else {
                continue; // its volume is lost, or begins anew
            };
            // Let go of lawfully since then; it may be catching up again as a newcomer.
            let passed_on = config_on(host, *slot)
                .is_some_and(|c| c.epoch > config.epoch && !c.replicas.contains(replica));
            let whole = entries
                .iter()
                .all(|entry| holds(fleet, host, entry, chunks) || is_over(fleet, entry, entries));
            if !passed_on && !whole {
                let (slot, replica) = (*slot, *replica);
                found.push(Violation::ReleasedEarly { slot, replica });
            }
        }
    }
    found
}

fn holds(fleet: &Fleet, host: HostId, entry: &Entry, chunks: bool) -> bool {
    let host = fleet.host(host);
    let store = host.store();
    match entry {
        Entry::Chunk { key, .. } => !chunks || store.chunk(key).is_ok_and(|held| held.is_some()),
        Entry::Reference { key, by, .. } => {
            let all = store.referrers(key, usize::MAX);
            all.is_ok_and(|all| all.contains(by))
        }
        Entry::Name { key, version } => store
            .register(key)
            .is_ok_and(|r| r.is_some_and(|r| r.version >= *version)),
    }
}

/// What a name holds, by the newest version on any volume.
fn newest(fleet: &Fleet, name: &Name) -> Option<Register> {
    let key = Key::of_name(name);
    let held = fleet.ids().into_iter().filter_map(|id| {
        let register = fleet.host(id).store().register(&key);
        register.expect("a store in memory does not fail")
    });
    held.max_by_key(|r| r.version)
}

/// Whether an upload that referred to a chunk was replaced, deleted, or can never take effect.
fn is_dead(fleet: &Fleet, by: &Referrer) -> bool {
    judge(by, newest(fleet, &by.name).as_ref(), false) == Verdict::Dead
}

/// Whether a reference is over, or all those among `entries` that a chunk has.
fn is_over(fleet: &Fleet, entry: &Entry, entries: &[Entry]) -> bool {
    entries.iter().all(|e| match (e, entry) {
        (Entry::Reference { key, by, .. }, Entry::Chunk { key: chunk, .. }) if key == chunk => {
            is_dead(fleet, by)
        }
        _ => true,
    }) && match entry {
        Entry::Chunk { .. } => true,
        Entry::Reference { by, .. } => is_dead(fleet, by),
        Entry::Name { .. } => false,
    }
}

/// Whether no peer keeps a chunk to which only uploads refer that are over.
pub fn collected(fleet: &Fleet, hosts: &[HostId]) -> Result<(), Unsettled> {
    for id in hosts {
        let keys = fleet.host(*id).chunks();
        for key in keys {
            let by = fleet.host(*id).store().referrers(&key, usize::MAX);
            let by = by.expect("a store in memory does not fail");
            if by.iter().all(|by| is_dead(fleet, by)) {
                let peer = fleet.host(*id).name.clone();
                return Err(Unsettled::Garbage { peer, key });
            }
        }
    }
    Ok(())
}

/// Slots for which two volumes, also those of stopped peers, remember different configurations of one epoch.
pub fn disagreements(fleet: &Fleet) -> Vec<Violation> {
    let mut known: BTreeMap<(Slot, u64), SlotConfig> = BTreeMap::new();
    let mut found = Vec::new();
    for id in fleet.ids() {
        for (slot, record) in fleet
            .host(id)
            .store()
            .remembered()
            .expect("a store in memory does not fail")
            .slots
        {
            let epoch = record.config.epoch;
            if *known
                .entry((slot, epoch))
                .or_insert_with(|| record.config.clone())
                != record.config
            {
                found.push(Violation::Disagreement { slot, epoch });
            }
        }
    }
    found
}
