//! What can still be done when peers are gone for good; pure functions of the reports of those that are left, like
//! [`crate::leave::verdict`].
//!
//! - [`replaceable`]: may the volume of a dead peer be given up, to let its pod begin anew?
//! - [`stuck`]: which slots can neither be written nor moved, because a majority of their replicas does not answer, and
//!   which cannot be rebuilt, because those that answer may not hold every acknowledged chunk?
//! - [`recover`]: the explicit way out of that, at the price of what only the dead held.
//!
//! **Recovery** leaves Paxos' rule that a majority of the replicas decides: there is none. Whoever coordinates (there is
//! one: the leading operator, or the runner that holds the lock) proclaims a configuration of the survivors. Three
//! things keep the dead from contradicting it. Their identities are retired: members answer an old volume only that it
//! has left. The new epoch lies in a later *generation*, far ahead of anything that a majority of the dead could have
//! counted up to meanwhile, so it wins wherever the two meet (as a primary's new term fences the old in Viewstamped
//! Replication Revisited, section 4.2). And its low bits are a hash of the replicas, so that no two different
//! configurations ever carry the same epoch, even if two recoveries begin at once from different reports.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::config::Replication;
use crate::key::{Key, Slot};
use crate::leave::{Report, SlotReport, Verdict, verdict};
use crate::member::{Liveness, Member, PeerId};
use crate::placement::{Candidate, replicas};
use crate::quorum::{catch_up_quorum, count, majority};
use crate::slot::SlotConfig;

/// Epochs are counted up one by one within a generation; a recovery begins the next. 2^32 changes of one slot are more
/// than will ever happen.
const GENERATION: u64 = 1 << 32;
/// Of these bits of an epoch a recovery makes a hash; the other half of the generation is left to count up.
const HASH: u64 = GENERATION / 2 - 1;

/// The newest configuration of each slot that anyone reports.
pub fn newest(reports: &BTreeMap<PeerId, Report>) -> BTreeMap<Slot, &SlotReport> {
    let mut newest: BTreeMap<Slot, &SlotReport> = BTreeMap::new();
    for slot in reports.values().flat_map(|report| &report.slots) {
        let known = newest.entry(slot.slot).or_insert(slot);
        if slot.epoch > known.epoch {
            *known = slot;
        }
    }
    newest
}

/// Whether `peer` takes part in the configuration.
fn involves(slot: &SlotReport, peer: PeerId) -> bool {
    slot.replicas.contains(&peer) || slot.next.iter().flatten().any(|p| *p == peer)
}

/// Whether any slot's newest configuration names the peer: then those who said that it has left knew too little.
pub fn is_named(newest: &BTreeMap<Slot, &SlotReport>, peer: PeerId) -> bool {
    newest.values().any(|slot| involves(slot, peer))
}

/// Whether the volume of the dead peer of that name may be given up: that nothing depends on it, nor on any other identity of
/// the name, which may be the one that the volume is of by now.
///
/// While the others are enough for every copy, its slots have to live on them first, by the same verdict as for a leave.
/// With fewer peers than copies nobody else could take them: then it suffices that the survivors of each of its slots
/// hold all that was acknowledged, which those do that have compared with so many that they meet every quorum.
///
/// Who is not known to be down is not given up, unless it is `doomed`: its volume goes as soon as its process ends, for
/// whatever reason, so it is better to end it while that is proved to cost nothing. What it acknowledges meanwhile, a
/// survivor of each quorum has too.
pub fn replaceable(
    dead: PeerId,
    name: &str,
    members: &BTreeMap<PeerId, Member>,
    reports: &BTreeMap<PeerId, Report>,
    replication: Replication,
    doomed: bool,
) -> Verdict {
    let others = members.values().filter(|m| m.id != dead && !m.is_gone());
    let namesakes = others.filter(|m| m.name == name).map(|m| m.id);
    let judged = std::iter::once(dead).chain(namesakes);
    let mut verdicts = judged.map(|id| match members.get(&id) {
        Some(member) if member.is_present() && !doomed => Verdict::Stay {
            slots_left: 0,
            bytes_left: 0,
            blocker: format!("{} is not yet known to be down", member.name),
        },
        _ => gives_up(id, members, reports, replication),
    });
    let stays = verdicts.find(|verdict| *verdict != Verdict::Proved);
    stays.unwrap_or(Verdict::Proved)
}

fn gives_up(
    dead: PeerId,
    members: &BTreeMap<PeerId, Member>,
    reports: &BTreeMap<PeerId, Report>,
    replication: Replication,
) -> Verdict {
    let others = || members.values().filter(|m| m.id != dead);
    let remaining: BTreeSet<PeerId> = others().filter(|m| m.is_present()).map(|m| m.id).collect();
    let strict = verdict(dead, &remaining, reports);
    let newest = newest(reports);
    let receivers = others().filter(|m| m.is_eligible()).count();
    if strict == Verdict::Proved || receivers >= replication.factor as usize {
        return too_few_to_rebuild(strict, dead, members, &newest, replication.write);
    }
    let (mut slots_left, mut blocker) = (0, None);
    for slot in Slot::all() {
        let held = match newest.get(&slot) {
            Some(config) => survivors_hold(config, dead, reports, replication.write),
            None => Err(format!("no peer reports on slot {slot}")),
        };
        if let Err(reason) = held {
            slots_left += 1;
            blocker.get_or_insert(reason);
        }
    }
    match blocker {
        None => Verdict::Proved,
        Some(blocker) => Verdict::Stay {
            slots_left,
            bytes_left: 0,
            blocker,
        },
    }
}

/// A verdict that waits for slots to be rebuilt without `dead` says so where that cannot happen by itself.
fn too_few_to_rebuild(
    verdict: Verdict,
    dead: PeerId,
    members: &BTreeMap<PeerId, Member>,
    newest: &BTreeMap<Slot, &SlotReport>,
    write: u32,
) -> Verdict {
    let (slots_left, bytes_left) = match verdict {
        Verdict::Proved => return verdict,
        Verdict::Stay {
            slots_left,
            bytes_left,
            ..
        } => (slots_left, bytes_left),
    };
    let up = |id: &PeerId| members.get(id).is_some_and(Member::is_present);
    let mut its = newest.values().filter(|slot| involves(slot, dead));
    let thin = its.find(|slot| {
        slot.replicas.iter().filter(|id| up(id)).count()
            < catch_up_quorum(slot.replicas.len(), write)
    });
    let Some(slot) = thin else {
        return verdict;
    };
    let missing = slot.replicas.iter().filter(|id| !up(id));
    let names = missing.filter_map(|id| Some(members.get(id)?.name.as_str()));
    let names: BTreeSet<&str> = names.collect();
    Verdict::Stay {
        slots_left,
        bytes_left,
        blocker: format!(
            "slot {} cannot be rebuilt while {} are away: what is left may not hold every acknowledged chunk; if they \
             are gone for good, give up what only they held (recover-accept-loss)",
            slot.slot,
            names.into_iter().collect::<Vec<_>>().join(" and "),
        ),
    }
}

/// Whether the replicas besides `dead` hold all that was ever acknowledged in this slot.
fn survivors_hold(
    config: &SlotReport,
    dead: PeerId,
    reports: &BTreeMap<PeerId, Report>,
    write: u32,
) -> Result<(), String> {
    let slot = config.slot;
    let synced = |id: &PeerId| {
        let slots = &reports.get(id)?.slots;
        let report = &slots[slots.binary_search_by_key(&slot, |s| s.slot).ok()?];
        (report.epoch == config.epoch && report.synced).then_some(*id)
    };
    let others = config.replicas.iter().filter(|id| **id != dead);
    let holders: Vec<PeerId> = others.filter_map(synced).collect();
    let needed = catch_up_quorum(config.replicas.len(), write);
    let found = count(&config.replicas, &holders);
    if found >= needed {
        return Ok(());
    }
    Err(format!(
        "of slot {slot} only {found} of the {needed} survivors needed have caught up with each other"
    ))
}

/// Slots that too few of their replicas answer for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stuck {
    /// Some replica answers, but no majority: nothing can be decided.
    pub minority: Vec<Slot>,
    /// A majority answers, and reads and writes go on, but there are too few for a newcomer to meet every acknowledged
    /// chunk: while that lasts nothing can be rebuilt. With three copies, two of them written, there are none.
    pub thin: Vec<Slot>,
    /// No replica answers. Known only when every present member has reported.
    pub nobody: Vec<Slot>,
    /// Replicas of those slots that do not answer, as far as a survivor names them.
    pub missing: BTreeSet<PeerId>,
}

impl Stuck {
    /// How many slots can be neither written nor moved.
    pub fn len(&self) -> usize {
        self.minority.len() + self.nobody.len()
    }

    /// Whether every slot can be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which slots have lost their majority, or too many to be rebuilt when `write` copies of a chunk are acknowledged, for now
/// or for good.
pub fn stuck(
    members: &BTreeMap<PeerId, Member>,
    reports: &BTreeMap<PeerId, Report>,
    write: u32,
) -> Stuck {
    let up = |id: &PeerId| members.get(id).is_some_and(Member::is_present);
    let newest = newest(reports);
    let complete = members
        .values()
        .filter(|m| m.is_present())
        .all(|m| reports.contains_key(&m.id));
    let mut stuck = Stuck::default();
    for slot in Slot::all() {
        match newest.get(&slot) {
            Some(config) => {
                let alive = config.replicas.iter().filter(|id| up(id)).count();
                let all = config.replicas.len();
                if alive >= catch_up_quorum(all, write) {
                    continue;
                }
                let missing = config.replicas.iter().filter(|id| !up(id));
                stuck.missing.extend(missing);
                if alive < majority(all) {
                    stuck.minority.push(slot);
                } else {
                    stuck.thin.push(slot);
                }
            }
            None if complete && !reports.is_empty() => stuck.nobody.push(slot),
            None => {}
        }
    }
    stuck
}

/// What every living peer is told to end a loss of majorities.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Identities that are given up for good.
    pub gone: Vec<PeerId>,
    /// The configurations that are in force from now on.
    pub configs: Vec<(Slot, SlotConfig)>,
}

/// What may have been lost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loss {
    /// Nobody is left: all names and chunks of these slots are lost.
    pub whole: Vec<Slot>,
    /// So few are left that what was acknowledged by others alone is lost: names, where they are no majority, and chunks.
    pub partial: Vec<Slot>,
}

/// Why nothing is recovered. Each is a sentence.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// Somebody who is given up is alive.
    #[error("{0} is alive: only a peer that is down can be given up")]
    Alive(String),
    /// Somebody is not known.
    #[error("the ring knows no peer called {0}")]
    Unknown(String),
    /// Somebody who may hold what is missing does not answer.
    #[error(
        "{0} does not answer and may hold what is missing: wait until it does, or give it up too"
    )]
    Silent(String),
    /// There is no need.
    #[error("every slot still has replicas enough to be rebuilt from: nothing has to be given up")]
    NothingStuck,
}

/// Whom giving up the peers of these names is about: of each name the identities that are down. If a volume came back
/// empty, its name has a newcomer as well, which is alive and stays. Once it has `begun`, those that were given up are gone.
///
/// # Errors
/// A name that nobody has or had. Whether the others may be given up, [`recover`] says.
pub fn identities<'a>(
    names: impl IntoIterator<Item = &'a str>,
    members: &BTreeMap<PeerId, Member>,
    begun: bool,
) -> Result<BTreeSet<PeerId>, Refused> {
    let mut identities = BTreeSet::new();
    for name in names {
        let named = || members.values().filter(|m| m.name == name);
        let down = named().filter(|m| m.liveness == Liveness::Down);
        let gone = named().filter(|m| begun && m.is_gone());
        let living = named().filter(|m| !m.is_gone());
        let any = [
            down.collect(),
            gone.collect(),
            living.collect(),
            named().collect(),
        ];
        let first = any.into_iter().find(|found: &Vec<_>| !found.is_empty());
        let found = first.ok_or_else(|| Refused::Unknown(name.to_owned()))?;
        identities.extend(found.iter().map(|m| m.id));
    }
    Ok(identities)
}

/// Decides the configurations of all slots of which too many are among `gone`, which are given up for good: a majority, or
/// so many that the others need not hold every acknowledged chunk ([`catch_up_quorum`]). Slots with enough others are left
/// alone: they recover by themselves.
///
/// Where a majority is left, somebody could decide another configuration at the same time. But every configuration that
/// was acted on is known by now: newcomers catch up with more than are left, so one that has done so did before the last
/// of `gone` died, and reports the configuration that named it. It is a holder here, like those that are left, one of
/// whom is in every majority.
///
/// `reports` has to hold those of all present members.
pub fn recover(
    gone: &BTreeSet<PeerId>,
    members: &BTreeMap<PeerId, Member>,
    reports: &BTreeMap<PeerId, Report>,
    replication: Replication,
) -> Result<(Recovery, Loss), Refused> {
    let name = |id: &PeerId| {
        members
            .get(id)
            .map_or_else(|| id.to_string(), |m| m.name.clone())
    };
    let up = |id: &PeerId| members.get(id).is_some_and(Member::is_present);
    if let Some(id) = gone.iter().find(|id| up(id) || reports.contains_key(id)) {
        return Err(Refused::Alive(name(id)));
    }
    let present = || members.values().filter(|m| m.is_present());
    if let Some(silent) = present().find(|m| !reports.contains_key(&m.id)) {
        return Err(Refused::Silent(silent.name.clone()));
    }
    let greatest = reports.values().map(|r| r.greatest_epoch).max();
    let generation = greatest.unwrap_or(0) / GENERATION + 1;
    let newest = newest(reports);
    let (mut configs, mut loss) = (Vec::new(), Loss::default());
    for slot in Slot::all() {
        let holders = match newest.get(&slot) {
            Some(config) => {
                let left = |ids: &[PeerId]| ids.iter().filter(|id| !gone.contains(id)).count();
                let all = config.replicas.len();
                if left(&config.replicas) >= catch_up_quorum(all, replication.write) {
                    continue;
                }
                // A newcomer that was still catching up may hold what nobody else does any more.
                let mut all = config.replicas.iter().chain(config.next.iter().flatten());
                let mut holders: Vec<PeerId> = Vec::new();
                all.by_ref().filter(|id| !gone.contains(id)).for_each(|id| {
                    if !holders.contains(id) {
                        holders.push(*id);
                    }
                });
                if let Some(silent) = holders.iter().find(|id| !reports.contains_key(id)) {
                    return Err(Refused::Silent(name(silent)));
                }
                loss.partial.push(slot);
                holders
            }
            None => {
                loss.whole.push(slot);
                Vec::new()
            }
        };
        configs.push((slot, holders));
    }
    if configs.is_empty() {
        return Err(Refused::NothingStuck);
    }
    if !loss.whole.is_empty() {
        // Whoever is away but not given up may be the one that holds them.
        let away = |m: &&Member| !m.is_present() && !gone.contains(&m.id) && !m.is_gone();
        if let Some(away) = members.values().find(away) {
            return Err(Refused::Silent(away.name.clone()));
        }
    }
    let mut ring: Vec<&Member> = present().filter(|m| m.is_eligible()).collect();
    ring.sort_by_key(|m| m.ring_key());
    let ring: Vec<Candidate<'_>> = ring.iter().map(|m| Candidate::from(*m)).collect();
    let configs = configs.into_iter().map(|(slot, holders)| {
        let holders = if holders.is_empty() {
            replicas(slot, &ring, replication.factor as usize)
        } else {
            holders
        };
        (slot, proclaimed(slot, generation, holders))
    });
    let configs: Vec<(Slot, SlotConfig)> = configs.collect();
    // Nobody at all is left to hold a slot.
    if configs.iter().any(|(_, c)| c.replicas.is_empty()) {
        return Err(Refused::Silent("every other peer".into()));
    }
    let gone = gone.iter().copied().collect();
    Ok((Recovery { gone, configs }, loss))
}

/// The first configuration of a generation.
fn proclaimed(slot: Slot, generation: u64, replicas: Vec<PeerId>) -> SlotConfig {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&slot.number().to_be_bytes());
    for id in &replicas {
        hasher.update(&id.0.to_be_bytes());
    }
    let low = Key::of(&hasher).number() & HASH;
    SlotConfig {
        epoch: generation * GENERATION + low,
        replicas,
        next: None,
    }
}

#[cfg(test)]
mod tests;
