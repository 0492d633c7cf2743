//! What the answers of the peers add up to: one row per peer, and how many copies each slot has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use peernet_core::key::SLOTS;
use peernet_proto::v1::{Durability, PeerInfo, PeerState, SlotReport, StatusResponse};
use serde::{Serialize, Serializer};

use super::survey::{Answer, Survey};

/// The network as seen from here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Picture {
    /// UUID.
    pub(crate) network_id: String,
    /// The name of the peer that was asked first.
    pub(crate) asked: String,
    /// No other peer can be reached from here, as through `kubectl port-forward`: the states are the asked peer's
    /// opinion.
    pub(crate) only_asked: bool,
    /// Members, by name; those that left are not among them.
    pub(crate) peers: Vec<Peer>,
    /// What is known of the copies; nothing when no peer told.
    pub(crate) copies: Option<Copies>,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) zone: String,
    pub(crate) state: State,
    /// Why it is not ready; empty otherwise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    pub(crate) address: String,
    pub(crate) http_address: String,
    /// 16 hex digits.
    pub(crate) position: String,
    pub(crate) version: String,
    /// By its own word.
    #[serde(flatten)]
    pub(crate) figures: Option<Figures>,
}

/// What a peer says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    pub(crate) slots: u32,
    pub(crate) behind: u32,
    pub(crate) moving: u32,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) chunks_missing: u64,
    pub(crate) disk_free: u64,
    pub(crate) disk_total: u64,
    pub(crate) disk_full: bool,
    /// It acknowledges what it has not synced yet.
    pub(crate) syncs_late: bool,
}

/// How a peer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// A member, ready.
    Active,
    /// A member that catches up after its start.
    CatchingUp,
    /// Not yet a member.
    Joining,
    /// Handing over what it holds.
    Leaving,
    /// Did not answer other peers lately.
    Suspect,
    /// Does not answer other peers.
    Down,
    /// Other peers think it is up, but it does not answer us although others do.
    Silent,
}

impl State {
    /// It serves what it holds.
    pub(crate) fn is_up(self) -> bool {
        matches!(
            self,
            State::Active | State::CatchingUp | State::Joining | State::Leaving
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Active => "active",
            State::CatchingUp => "catching up",
            State::Joining => "joining",
            State::Leaving => "leaving",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Silent => "no answer",
        })
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How many copies the slots have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Copies {
    /// Copies wanted.
    pub(crate) factor: u32,
    /// Slots that this judges: all of them, or those the asked peer holds.
    pub(crate) slots: u32,
    /// Slots with fewer copies than wanted.
    pub(crate) slots_short: u32,
    /// Slots without a majority of copies: neither readable nor writable for certain.
    pub(crate) slots_stuck: u32,
    /// Slots that are moving to other peers, or whose replicas are being compared after a change.
    pub(crate) slots_busy: u32,
    /// Copies of the slot that has fewest.
    pub(crate) fewest: u32,
}

impl Copies {
    /// Copies that names need: a majority.
    pub(crate) fn majority(self) -> u32 {
        self.factor / 2 + 1
    }
}

/// In words, as `peernet peers` prints it.
pub(crate) fn state_name(state: PeerState) -> &'static str {
    match state {
        PeerState::Unspecified => "unknown",
        PeerState::Joining => "joining",
        PeerState::Active => "active",
        PeerState::Suspect => "suspect",
        PeerState::Down => "down",
        PeerState::Leaving => "leaving",
        PeerState::Left => "left",
    }
}

/// A ring position as 16 hex digits: JSON numbers cannot carry 64 bits everywhere.
pub(crate) fn position(position: u64) -> String {
    format!("{position:016x}")
}

impl Picture {
    /// Adds the answers up.
    pub(crate) fn of(survey: Survey) -> Self {
        let Survey {
            asked,
            members,
            answers,
        } = survey;
        let asked_info = asked.status.self_.clone().unwrap_or_default();
        let mut members: Vec<PeerInfo> = members
            .into_iter()
            .filter(|m| m.state() != PeerState::Left)
            .collect();
        if members.iter().all(|m| m.id != asked_info.id) {
            members.push(asked_info.clone());
        }
        let expected = |m: &&PeerInfo| {
            matches!(
                m.state(),
                PeerState::Active | PeerState::Leaving | PeerState::Joining
            )
        };
        let only_asked = answers.len() == 1
            && members
                .iter()
                .filter(expected)
                .any(|m| m.id != asked_info.id);
        let mut peers: Vec<Peer> = members
            .into_iter()
            .map(|m| peer(m, &answers, only_asked))
            .collect();
        peers.sort_by_cached_key(|p| ordinal(&p.name));
        let up = peers
            .iter()
            .filter(|p| p.state.is_up())
            .map(|p| p.id.as_str())
            .collect();
        let copies = copies(&answers, &up, only_asked);
        Picture {
            network_id: asked.status.network_id,
            asked: asked_info.name,
            only_asked,
            peers,
            copies,
        }
    }
}

/// Sorts `demo-10` after `demo-9`.
fn ordinal(name: &str) -> (String, u64) {
    let (stem, number) = name.rsplit_once('-').unwrap_or((name, ""));
    (stem.to_owned(), number.parse().unwrap_or(u64::MAX))
}

fn peer(member: PeerInfo, answers: &BTreeMap<String, Answer>, only_asked: bool) -> Peer {
    let own = answers.get(&member.id).map(|a| &a.status);
    let state = match (member.state(), own) {
        (PeerState::Leaving, _) => State::Leaving,
        (PeerState::Joining, _) => State::Joining,
        // It answered just now, whatever the asked peer still thinks of it.
        (_, Some(own)) if own.ready => State::Active,
        (_, Some(_)) => State::CatchingUp,
        (PeerState::Down | PeerState::Left, None) => State::Down,
        (PeerState::Suspect | PeerState::Unspecified, None) => State::Suspect,
        (PeerState::Active, None) if only_asked => State::Active,
        (PeerState::Active, None) => State::Silent,
    };
    let PeerInfo {
        id,
        name,
        address,
        http_address,
        zone,
        version,
        ..
    } = member;
    Peer {
        name,
        id,
        zone,
        state,
        reason: own
            .filter(|o| !o.ready)
            .map(|o| o.reason.clone())
            .unwrap_or_default(),
        address,
        http_address,
        position: position(member.position),
        version,
        figures: own.map(figures),
    }
}

fn figures(own: &StatusResponse) -> Figures {
    Figures {
        slots: own.slots_held,
        behind: own.slots_behind,
        moving: own.slots_moving,
        chunks: own.chunks_held,
        bytes: own.bytes_held,
        chunks_missing: own.chunks_missing,
        disk_free: own.disk_free,
        disk_total: own.disk_total,
        disk_full: own.disk_full,
        syncs_late: own.durability() == Durability::Written,
    }
}

/// Counts, for each slot, the replicas of its newest configuration that are up. They hold what was acknowledged: whoever
/// joins a slot is counted among its replicas only once it has caught up, and who lost its volume has another identity.
fn copies(
    answers: &BTreeMap<String, Answer>,
    up: &BTreeSet<&str>,
    only_asked: bool,
) -> Option<Copies> {
    let mut newest: BTreeMap<u32, &SlotReport> = BTreeMap::new();
    let mut busy: BTreeSet<u32> = BTreeSet::new();
    for slot in answers
        .values()
        .filter_map(|a| a.report.as_ref())
        .flat_map(|r| &r.slots)
    {
        if !slot.synced || !slot.next.is_empty() {
            busy.insert(slot.slot);
        }
        let known = newest.entry(slot.slot).or_insert(slot);
        if slot.epoch > known.epoch {
            *known = slot;
        }
    }
    let factor = newest.values().map(|s| s.replicas.len()).max()? as u32;
    let count = |slot: &&SlotReport| {
        slot.replicas
            .iter()
            .filter(|r| up.contains(r.as_str()))
            .count() as u32
    };
    let mut counts: Vec<u32> = newest.values().map(count).collect();
    if !only_asked {
        // Everyone who holds a slot and is up has told: what nobody told about, nobody holds.
        counts.resize(usize::from(SLOTS), 0);
    }
    let below = |least: u32| counts.iter().filter(|c| **c < least).count() as u32;
    Some(Copies {
        factor,
        slots: counts.len() as u32,
        slots_short: below(factor),
        slots_stuck: below(factor / 2 + 1),
        slots_busy: busy.len() as u32,
        fewest: counts.iter().copied().min().unwrap_or(0),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use peernet_proto::v1::LeaveReportResponse;

    use super::*;

    /// `n` peers that all answer; slot s is held by peers s, s+1 and s+2 (modulo n), all caught up.
    pub(in crate::status) fn healthy(n: usize) -> Survey {
        let info = |i: usize| PeerInfo {
            id: format!("id{i}"),
            name: format!("demo-{i}"),
            address: format!("127.0.0.1:{}", 7000 + i),
            zone: format!("zone-{}", i % 3),
            state: PeerState::Active as i32,
            ..PeerInfo::default()
        };
        let slot = |s: usize| SlotReport {
            slot: s as u32,
            epoch: 1,
            replicas: (0..3).map(|k| format!("id{}", (s + k) % n)).collect(),
            next: vec![],
            synced: true,
        };
        let answer = |i: usize| Answer {
            status: StatusResponse {
                self_: Some(info(i)),
                ready: true,
                ..StatusResponse::default()
            },
            report: Some(LeaveReportResponse {
                peer_id: format!("id{i}"),
                slots: (0..usize::from(SLOTS))
                    .map(slot)
                    .filter(|s| s.replicas.contains(&format!("id{i}")))
                    .collect(),
                ..LeaveReportResponse::default()
            }),
        };
        Survey {
            asked: answer(0),
            members: (0..n).map(info).collect(),
            answers: (0..n).map(|i| (format!("id{i}"), answer(i))).collect(),
        }
    }

    #[test]
    fn all_is_well_when_all_answer() {
        let picture = Picture::of(healthy(5));
        assert!(picture.peers.iter().all(|p| p.state == State::Active));
        let expected = Copies {
            factor: 3,
            slots: 4096,
            slots_short: 0,
            slots_stuck: 0,
            slots_busy: 0,
            fewest: 3,
        };
        assert_eq!(picture.copies, Some(expected));
        assert!(!picture.only_asked);
    }

    #[test]
    fn a_silent_peer_takes_its_copies_with_it() {
        let mut survey = healthy(5);
        survey.answers.remove("id3");
        let picture = Picture::of(survey);
        assert_eq!(picture.peers[3].state, State::Silent);
        let copies = picture.copies.unwrap();
        assert_eq!((copies.fewest, copies.slots_stuck), (2, 0));
        assert!(
            (2400..2500).contains(&copies.slots_short),
            "three of five slots: {}",
            copies.slots_short
        );
    }

    #[test]
    fn what_nobody_holds_counts_as_stuck() {
        let mut survey = healthy(5);
        for id in ["id2", "id3", "id4"] {
            survey.answers.remove(id);
        }
        let copies = Picture::of(survey).copies.unwrap();
        assert_eq!(copies.fewest, 0);
        assert!(copies.slots == 4096 && copies.slots_stuck > 0);
    }

    #[test]
    fn behind_a_port_forward_the_asked_peer_is_believed() {
        let mut survey = healthy(5);
        survey.answers.retain(|id, _| id == "id0");
        survey.members[2].state = PeerState::Down as i32;
        let picture = Picture::of(survey);
        assert!(picture.only_asked);
        assert_eq!(picture.peers[1].state, State::Active);
        assert_eq!(picture.peers[2].state, State::Down);
        let copies = picture.copies.unwrap();
        assert_eq!(copies.fewest, 2);
        assert!(copies.slots < 4096, "only those the asked peer holds");
    }

    #[test]
    fn a_slot_that_is_compared_or_moves_still_has_its_copies() {
        let mut survey = healthy(5);
        let report = survey
            .answers
            .get_mut("id4")
            .unwrap()
            .report
            .as_mut()
            .unwrap();
        report.slots[0].synced = false;
        report.slots[1].next = vec!["id0".into()];
        let copies = Picture::of(survey).copies.unwrap();
        assert_eq!(
            (copies.fewest, copies.slots_short, copies.slots_busy),
            (3, 0, 2)
        );
    }

    #[test]
    fn peers_are_sorted_by_ordinal() {
        let picture = Picture::of(healthy(12));
        assert_eq!(picture.peers[10].name, "demo-10");
        assert_eq!(picture.peers[2].name, "demo-2");
    }
}
