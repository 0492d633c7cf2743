//! What the runner should do next. Pure: the state file and what was observed go in, actions and progress come out.
//!
//! The rules are those of the operator, with processes for pods. A network is founded once, by peer 0. A peer that is
//! not wanted any more leaves by a drain, and its process ends only when `peernet-core`'s planner says that all it held
//! lives elsewhere, from the highest number down.

use std::collections::{BTreeMap, BTreeSet};

use peernet_core::config::Replication;
use peernet_core::key::Position;
use peernet_core::leave::Report;
use peernet_core::member::{Liveness, Member, PeerId};
use peernet_core::placement;
use serde::{Deserialize, Serialize};

use replace::Replacing;

mod leave;
pub mod replace;

/// What the runner has decided and written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    /// Peers are called NAME-0, NAME-1, …
    pub name: String,
    /// UUID of the network, once there is one.
    pub network: Option<String>,
    /// Peer 0 has founded the ring.
    pub founded: bool,
    /// Peers wanted.
    pub wanted: u32,
    /// Peers below this number have a process.
    pub running: u32,
    /// Number of zones; peer i lies in zone i modulo this.
    pub zones: u32,
    /// Copies.
    pub replication: Replication,
    /// The peer whose volume is gone for good.
    pub replacing: Option<Replacing>,
}

impl Progress {
    /// Every wanted peer serves, and no other is left; slots may still be on their way.
    pub fn serves(&self) -> bool {
        self.wanted > 0 && self.ready == self.wanted && self.leaving.is_empty()
    }
}

impl Decided {
    /// The name of the peer of that number.
    pub fn peer_name(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// The number of the peer of that name, if it is one of this network.
    pub fn ordinal(&self, name: &str) -> Option<u32> {
        name.strip_prefix(&self.name)?
            .strip_prefix('-')?
            .parse()
            .ok()
    }
}

/// What was seen in one round.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// By ordinal, for each running process that should be there.
    pub peers: Vec<Peer>,
    /// Members as any peer knows them; of differing records, the merged one.
    pub members: BTreeMap<PeerId, Member>,
    /// Answers on the leaves under way.
    pub reports: BTreeMap<PeerId, Report>,
}

/// One process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// It runs.
    pub alive: bool,
    /// It does not run, and may be started now.
    pub may_start: bool,
    /// What its volume remembers, if it answered.
    pub volume: Option<Volume>,
    /// It is a member of the ring.
    pub active: bool,
    /// It is a member and caught up since its start.
    pub ready: bool,
    /// Why not.
    pub reason: String,
    /// Slots it holds whose configuration is moving, or that have not been compared since.
    pub busy: u32,
    /// Bytes of chunks it holds, bytes free on its disk, and the disk's size.
    pub disk: (u64, u64, u64),
}

/// What a volume remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Volume {
    /// Nothing.
    Blank,
    /// Its peer.
    Peer {
        /// Of which network.
        network: String,
        /// Who it is.
        id: PeerId,
        /// Where it stands.
        position: Position,
        /// It has left for good.
        left: bool,
        /// It has been assigned since its process started.
        running: bool,
    },
}

impl Volume {
    fn network(&self) -> Option<&str> {
        match self {
            Volume::Blank => None,
            Volume::Peer { network, .. } => Some(network),
        }
    }
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write down the network: this one, or a new one.
    Decide {
        /// The one the volumes remember.
        adopt: Option<String>,
        /// It was founded in an earlier life.
        founded: bool,
    },
    /// Write down that the ring is founded.
    Founded,
    /// Write down that so many have a process.
    Run(u32),
    /// Start a process.
    Start(u32),
    /// Let a peer join (or found).
    Assign {
        /// Which.
        ordinal: u32,
        /// Its zone, as [`zone_name`] has it.
        zone: String,
        /// Its place on the ring.
        position: Position,
        /// Found the ring.
        found: bool,
    },
    /// Tell the ring that a peer is to leave, or to stay.
    Drain {
        /// Who.
        peer: PeerId,
        /// The order's epoch.
        epoch: u64,
        /// To leave.
        leaving: bool,
    },
    /// Tell the ring that a peer's process ended.
    Hint(PeerId),
    /// End the process and remove the volume of a peer that is being replaced.
    Wipe(u32),
    /// Write down that the replacement is over.
    EndReplacement,
}

/// What to do and how far things are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// For those who wait.
    pub progress: Progress,
}

/// How far the network is from what is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Peers wanted.
    pub wanted: u32,
    /// Processes there are.
    pub running: u32,
    /// Wanted peers that are members of the ring and caught up.
    pub ready: u32,
    /// Wanted peers that are not, and why.
    pub waiting: Vec<Waiting>,
    /// Peers on their way out.
    pub leaving: Vec<Leaving>,
    /// Slots on their way to other peers, counted at each peer that holds them.
    pub busy: u32,
    /// The replacement under way, or over just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// Everything is as wanted.
    pub settled: bool,
}

/// How far a replacement is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// Who.
    pub name: String,
    /// What is being done or waited for, or how it ended.
    pub sentence: String,
    /// It has ended.
    pub over: bool,
    /// It has ended because the peer is not wanted any more.
    #[serde(default)]
    pub dropped: bool,
}

/// A peer that is not ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Who.
    pub name: String,
    /// A sentence.
    pub reason: String,
}

/// A peer that leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaving {
    /// Who.
    pub name: String,
    /// Slots that still name it, are moving or lack proof.
    pub slots_left: u32,
    /// Bytes it still has to hand over.
    pub bytes_left: u64,
    /// What is waited for, a sentence; empty when it may go.
    pub blocker: String,
}

/// The name of a zone on one machine.
pub fn zone_name(zone: u32) -> String {
    format!("zone-{zone}")
}

/// Peers of which a report on the leave is needed: those whose number is not wanted any more, and former identities of
/// peers whose volume was replaced.
pub fn leavers(decided: &Decided, observed: &Observed) -> BTreeSet<PeerId> {
    let known = observed
        .members
        .values()
        .filter(|m| m.liveness != Liveness::Left && unwanted(decided, observed, m));
    let beyond = observed
        .peers
        .iter()
        .skip(decided.wanted as usize)
        .filter_map(|p| match p.volume {
            Some(Volume::Peer { id, .. }) => Some(id),
            _ => None,
        });
    known.map(|m| m.id).chain(beyond).collect()
}

/// A member that should leave: beyond the wanted number, or not the one that its volume remembers now.
fn unwanted(decided: &Decided, observed: &Observed, member: &Member) -> bool {
    let Some(ordinal) = decided.ordinal(&member.name) else {
        return false;
    };
    let retired = decided
        .replacing
        .as_ref()
        .is_some_and(|r| r.peer == member.id);
    if ordinal >= decided.wanted || retired {
        return true;
    }
    match observed
        .peers
        .get(ordinal as usize)
        .and_then(|p| p.volume.as_ref())
    {
        Some(Volume::Peer { id, left, .. }) => *id != member.id && !left,
        // The process may be between two lives of its volume; a blank one has not been assigned yet.
        Some(Volume::Blank) | None => false,
    }
}

/// Decides what to do next.
pub fn plan(decided: &Decided, observed: &Observed) -> Plan {
    let mut actions = Vec::new();
    if decided.wanted > decided.running {
        actions.push(Action::Run(decided.wanted));
    }
    let (step, replacement) = replace::replace(decided, observed);
    let may_start =
        |(i, p): &(u32, &Peer)| !p.alive && p.may_start && step != Some(Action::Wipe(*i));
    actions.extend(
        (0..)
            .zip(&observed.peers)
            .filter(may_start)
            .map(|(i, _)| Action::Start(i)),
    );
    actions.extend(step);
    match &decided.network {
        None => actions.extend(decide(observed)),
        Some(_) if !decided.founded => actions.extend(found(decided, observed)),
        Some(_) => {
            actions.extend(assign(decided, observed));
            actions.extend(drain(decided, observed));
            actions.extend(hints(decided, observed));
        }
    }
    let (leaving, stay) = leave::leave(decided, observed);
    if stay < decided.running && decided.running > decided.wanted {
        actions.push(Action::Run(stay));
    }
    let idle = actions.is_empty() && decided.replacing.is_none();
    let mut progress = progress(decided, observed, leaving, idle);
    progress.replacement = replacement;
    Plan { actions, progress }
}

/// Which network this is. Volumes that remember one are asked first, all of them: a lost state file must not found a
/// second ring.
fn decide(observed: &Observed) -> Option<Action> {
    let volumes = observed
        .peers
        .iter()
        .map(|p| p.volume.as_ref())
        .collect::<Option<Vec<_>>>()?;
    let adopt = volumes.iter().find_map(|v| v.network()).map(str::to_owned);
    // Others than peer 0 are only let in once the ring is founded.
    let founded = volumes.iter().skip(1).any(|v| v.network().is_some());
    (!volumes.is_empty()).then_some(Action::Decide { adopt, founded })
}

/// Peer 0 founds; all others wait until it is a member.
fn found(decided: &Decided, observed: &Observed) -> Option<Action> {
    let first = observed.peers.first()?;
    if first.active {
        return Some(Action::Founded);
    }
    match first.volume.as_ref()? {
        Volume::Peer { running: true, .. } => None,
        Volume::Blank | Volume::Peer { .. } => {
            let position = placement::position(0, 0, decided.zones);
            Some(Action::Assign {
                ordinal: 0,
                zone: zone_name(0),
                position,
                found: true,
            })
        }
    }
}

/// Lets every peer in that waits for it. A volume that remembers its peer returns even if it is to leave: it has to hand
/// over first. One whose peer has left, or a blank one, joins only if it is wanted.
fn assign(decided: &Decided, observed: &Observed) -> Vec<Action> {
    // The place of a peer that is being replaced is for its successor.
    let retiring = decided.replacing.as_ref().map(|r| r.peer);
    let mut used: BTreeSet<(Position, String)> = observed
        .members
        .values()
        .filter(|m| m.liveness != Liveness::Left && Some(m.id) != retiring)
        .map(|m| (m.position, m.zone.clone()))
        .collect();
    let volumes = (0..).zip(&observed.peers);
    used.extend(volumes.filter_map(|(ordinal, p)| match p.volume {
        Some(Volume::Peer {
            position,
            left: false,
            ..
        }) => Some((position, zone_name(ordinal % decided.zones))),
        _ => None,
    }));
    let mut actions = Vec::new();
    for (ordinal, peer) in (0..).zip(&observed.peers) {
        if peer
            .volume
            .as_ref()
            .and_then(Volume::network)
            .is_some_and(|n| decided.network.as_deref() != Some(n))
        {
            continue;
        }
        let zone = ordinal % decided.zones;
        let position = match peer.volume {
            Some(Volume::Peer { left: true, .. } | Volume::Blank) if ordinal < decided.wanted => {
                vacancy(zone, decided.zones, &used)
            }
            Some(Volume::Peer {
                left: false,
                running: false,
                position,
                ..
            }) => position,
            _ => continue,
        };
        used.insert((position, zone_name(zone)));
        actions.push(Action::Assign {
            ordinal,
            zone: zone_name(zone),
            position,
            found: false,
        });
    }
    actions
}

/// The place for one more peer of that zone, when the others stand at `used`.
fn vacancy(zone: u32, zones: u32, used: &BTreeSet<(Position, String)>) -> Position {
    let name = zone_name(zone);
    let (own, others): (Vec<_>, Vec<_>) = used.iter().partition(|(_, z)| *z == name);
    let positions = |v: Vec<&(Position, String)>| v.into_iter().map(|(at, _)| *at).collect();
    placement::vacancy(zone, zones, &positions(own), &positions(others))
}

/// Orders for members whose drain is not what is wanted of them.
fn drain(decided: &Decided, observed: &Observed) -> Vec<Action> {
    let ours = observed
        .members
        .values()
        .filter(|m| m.liveness != Liveness::Left && decided.ordinal(&m.name).is_some());
    ours.map(|m| (m, unwanted(decided, observed, m)))
        .filter(|(m, leaving)| m.drain.leaving != *leaving)
        .map(|(m, leaving)| Action::Drain {
            peer: m.id,
            epoch: m.drain.epoch + 1,
            leaving,
        })
        .collect()
}

/// Processes that ended and that the ring still counts on: it hears so at once instead of by pings.
fn hints(decided: &Decided, observed: &Observed) -> Vec<Action> {
    let ended = |m: &&Member| {
        let peer = decided
            .ordinal(&m.name)
            .and_then(|ordinal| observed.peers.get(ordinal as usize));
        m.is_present() && peer.is_some_and(|p| !p.alive)
    };
    let ended = observed.members.values().filter(ended);
    ended.map(|m| Action::Hint(m.id)).collect()
}

fn progress(decided: &Decided, observed: &Observed, leaving: Vec<Leaving>, idle: bool) -> Progress {
    let mut waiting = Vec::new();
    for ordinal in 0..decided.wanted {
        let reason = match observed.peers.get(ordinal as usize) {
            Some(p) if p.ready => continue,
            Some(p) if !p.reason.is_empty() => p.reason.clone(),
            None | Some(Peer { volume: None, .. }) => "starting".to_owned(),
            Some(Peer {
                volume: Some(Volume::Peer { network, .. }),
                ..
            }) if decided.network.as_ref().is_some_and(|n| n != network) => {
                format!(
                    "its volume belongs to another network ({network}); remove the volume, or use another --dir"
                )
            }
            Some(_) => "joining".to_owned(),
        };
        waiting.push(Waiting {
            name: decided.peer_name(ordinal),
            reason,
        });
    }
    let busy = observed.peers.iter().map(|p| p.busy).sum();
    Progress {
        wanted: decided.wanted,
        running: decided.running,
        ready: decided.wanted - waiting.len() as u32,
        busy,
        replacement: None,
        settled: idle
            && busy == 0
            && waiting.is_empty()
            && leaving.is_empty()
            && decided.running == decided.wanted,
        waiting,
        leaving,
    }
}

#[cfg(test)]
mod tests;
