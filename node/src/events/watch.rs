//! What happens to peers, from what this peer knows of the others.
//!
//! Every peer watches; the first present one in ring order speaks, and the second of what happens to the first, which has
//! not seen its own return. The others keep what they have seen for a minute, so
//! that whoever speaks after it says again what it may not have got around to, its own end first of all. An event's
//! identity depends on nothing but what happened, so those that are told twice are known by it. This is soft state: what
//! happened while no peer was running, or in the minute in which all that saw it crashed, is not told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use peernet_core::io::Status;
use peernet_core::member::{Liveness, Member, PeerId};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::cloud::{Event, Kind};
use crate::driver::{PeerError, PeerHandle};

/// How often this peer looks. Guess: short against the suspicion time.
const PERIOD: Duration = Duration::from_secs(1);
/// How long those who do not speak remember. Guess: longer than it takes to see that the speaker is down.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Events that wait for the broker. The oldest are left out when there are more (guess: a day of a busy network).
const WAITING: usize = 4_096;

/// What to say, and whether it is ours to say it.
#[derive(Default)]
pub(super) struct Seen {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    turn: Turn,
    waiting: VecDeque<Told>,
}

struct Told {
    at: Instant,
    /// Whom it happened to; nobody if this peer says it whoever speaks for the others.
    to: Option<PeerId>,
    event: Event,
}

/// What this peer is to say of the others.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Turn {
    #[default]
    Nothing,
    /// All but what happens to itself, if there are others.
    AllBut(Option<PeerId>),
    /// Only what happens to this one, which is before it.
    Only(PeerId),
}

impl Turn {
    fn of(members: &[Member], me: PeerId) -> Self {
        let mut present = members.iter().filter(|m| m.is_present()).map(|m| m.id);
        match (present.next(), present.next()) {
            (Some(first), second) if first == me => Turn::AllBut(second.and(Some(me))),
            (Some(first), Some(second)) if second == me => Turn::Only(first),
            _ => Turn::Nothing,
        }
    }

    fn is_for(self, told: &Told) -> bool {
        match self {
            _ if told.to.is_none() => true,
            Turn::Nothing => false,
            Turn::AllBut(peer) => peer.is_none() || told.to != peer,
            Turn::Only(peer) => told.to == Some(peer),
        }
    }
}

impl Seen {
    /// Watches until the peer stops.
    pub(super) async fn watch(&self, peer: &PeerHandle, me: PeerId) -> Result<(), PeerError> {
        let (mut ring, mut repair) = (Ring::default(), Repair::default());
        let mut clock = interval(PERIOD);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let members = match peer.members().await {
                Ok(members) => members,
                Err(PeerError::Stopped) => return Err(PeerError::Stopped),
                Err(_) => continue,
            };
            let seen = ring.look(&members, SystemTime::now());
            let repaired = match peer.status().await {
                Ok(status) => repair.look(&status, Instant::now()),
                Err(_) => None,
            };
            self.add(Turn::of(&members, me), seen, repaired);
        }
    }

    fn add(&self, turn: Turn, others: Vec<(PeerId, Event)>, own: Option<Event>) {
        let mut state = self.lock();
        let at = Instant::now();
        state.turn = turn;
        let others = others.into_iter().map(|(peer, event)| (Some(peer), event));
        for (to, event) in others.chain(own.map(|event| (None, event))) {
            state.waiting.push_back(Told { at, to, event });
        }
        let excess = state.waiting.len().saturating_sub(WAITING);
        state.waiting.drain(..excess);
        state
            .waiting
            .retain(|t| turn.is_for(t) || at.duration_since(t.at) < REMEMBERED);
        if state.waiting.iter().any(|t| turn.is_for(t)) {
            self.news.notify_one();
        }
    }

    /// Waits for events that are this peer's to say, at most so many. They are offered again until they are [`Seen::said`].
    pub(super) async fn next(&self, limit: usize) -> Vec<Event> {
        loop {
            let events = self.ours(limit);
            if !events.is_empty() {
                return events;
            }
            self.news.notified().await;
        }
    }

    fn ours(&self, limit: usize) -> Vec<Event> {
        let state = self.lock();
        let ours = state.waiting.iter().filter(|t| state.turn.is_for(t));
        ours.take(limit).map(|t| t.event.clone()).collect()
    }

    /// The broker has these.
    pub(super) fn said(&self, events: &[Event]) {
        let said = |told: &Told| events.iter().any(|e| e.id == told.event.id);
        self.lock().waiting.retain(|told| !said(told));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The membership as last seen.
#[derive(Default)]
struct Ring {
    known: BTreeMap<PeerId, Phase>,
    /// What there was at the first look is no news.
    looked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Not part of the ring yet, or not heard of.
    Outside,
    Present,
    Down,
    Left,
}

impl Ring {
    fn look(&mut self, members: &[Member], now: SystemTime) -> Vec<(PeerId, Event)> {
        let before = std::mem::take(&mut self.known);
        let first = !std::mem::replace(&mut self.looked, true);
        let mut events = Vec::new();
        for member in members {
            let was = before.get(&member.id).copied().unwrap_or(Phase::Outside);
            let is = match member.liveness {
                Liveness::Joining => Phase::Outside,
                Liveness::Active | Liveness::Suspect => Phase::Present,
                Liveness::Down => Phase::Down,
                Liveness::Retired | Liveness::Left => Phase::Left,
            };
            self.known.insert(member.id, is);
            if let (Some(kind), false) = (change(was, is), first) {
                events.push((member.id, of_peer(kind, member, now)));
            }
        }
        events
    }
}

fn change(was: Phase, is: Phase) -> Option<Kind> {
    match (was, is) {
        (Phase::Left, _) => None,
        (_, Phase::Left) => Some(Kind::PeerLeft),
        (Phase::Outside, Phase::Present) => Some(Kind::PeerJoined),
        (Phase::Down, Phase::Present) => Some(Kind::PeerReturned),
        (Phase::Present, Phase::Down) => Some(Kind::PeerDown),
        _ => None,
    }
}

fn of_peer(kind: Kind, member: &Member, time: SystemTime) -> Event {
    let (id, what) = (member.id, kind.routing_key());
    let id = match kind {
        // Once in its life.
        Kind::PeerJoined | Kind::PeerLeft => format!("{id}/{what}"),
        // Once in each life of its process: it refutes what is said of it under a greater incarnation.
        _ => format!("{id}/{}/{what}", member.incarnation),
    };
    Event {
        id,
        kind,
        subject: member.name.clone(),
        sequence: None,
        time: Some(time),
        data: json!({
            "peer": member.id.to_string(),
            "name": member.name,
            "zone": member.zone,
            "address": member.address,
            "http": member.http,
            "version": member.version,
        }),
    }
}

/// Chunks that were missing here.
#[derive(Default)]
struct Repair {
    under_way: Option<(Instant, u64)>,
    done: u64,
}

impl Repair {
    fn look(&mut self, status: &Status, now: Instant) -> Option<Event> {
        if status.chunks_missing > 0 {
            let (since, most) = self.under_way.unwrap_or((now, 0));
            self.under_way = Some((since, most.max(status.chunks_missing)));
            return None;
        }
        // Which chunks are missing is only known of slots that have caught up.
        if status.slots_behind > 0 {
            return None;
        }
        let (since, chunks) = self.under_way.take()?;
        self.done += 1;
        let member = &status.member;
        let kind = Kind::RepairDone;
        Some(Event {
            id: format!(
                "{}/{}/{}/{}",
                member.id,
                member.incarnation,
                kind.routing_key(),
                self.done
            ),
            kind,
            subject: member.name.clone(),
            sequence: None,
            time: Some(SystemTime::now()),
            data: json!({
                "peer": member.id.to_string(),
                "name": member.name,
                "chunks": chunks,
                "seconds": now.duration_since(since).as_secs(),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use peernet_core::key::Position;
    use peernet_core::member::Drain;

    use super::*;

    fn member(n: u128, liveness: Liveness) -> Member {
        Member {
            id: PeerId(n),
            name: format!("p-{n}"),
            address: format!("10.0.0.{n}:7000"),
            http: format!("10.0.0.{n}:8080"),
            zone: "a".into(),
            position: Position(n as u64),
            incarnation: 1,
            liveness,
            drain: Drain::default(),
            version: String::new(),
        }
    }

    #[test]
    fn only_changes_are_news_and_have_one_identity_for_all_who_see_them() {
        use Liveness::{Active, Down, Joining, Left, Suspect};
        let now = SystemTime::UNIX_EPOCH;
        let (mut a, mut b) = (Ring::default(), Ring::default());
        assert_eq!(a.look(&[member(1, Active), member(2, Joining)], now), []);
        assert_eq!(b.look(&[member(1, Active)], now), []);
        let joined = a.look(&[member(1, Active), member(2, Active)], now);
        assert_eq!(joined[0].1.kind, Kind::PeerJoined);
        // The other one has never seen it join, and says the same.
        assert_eq!(
            b.look(&[member(1, Suspect), member(2, Active)], now),
            joined
        );
        let mut kinds = Vec::new();
        for liveness in [Suspect, Down, Down, Active, Left, Left] {
            let events = a.look(&[member(1, liveness), member(2, Active)], now);
            kinds.extend(events.into_iter().map(|(_, e)| e.kind));
        }
        assert_eq!(kinds, [Kind::PeerDown, Kind::PeerReturned, Kind::PeerLeft]);
    }

    #[test]
    fn one_peer_tells_of_each_and_none_of_itself_unless_it_is_alone() {
        use Liveness::{Active, Down};
        let members = [(1, Active), (2, Down), (3, Active), (4, Active)];
        let members = members.map(|(n, liveness)| member(n, liveness));
        let tells = |members: &[Member], me, to| {
            let about = member(to, Active);
            Turn::of(members, PeerId(me)).is_for(&Told {
                at: Instant::now(),
                to: Some(about.id),
                event: of_peer(Kind::PeerReturned, &about, SystemTime::UNIX_EPOCH),
            })
        };
        for (to, by) in [(1, 3), (2, 1), (3, 1), (4, 1)] {
            let tell: Vec<u128> = (1..=4).filter(|me| tells(&members, *me, to)).collect();
            assert_eq!(tell, [by], "of {to}");
        }
        assert!(tells(&members[..2], 1, 1));
    }

    #[test]
    fn what_waits_is_bounded_and_forgotten_by_those_who_do_not_speak() {
        let seen = Seen::default();
        let event = |n: usize| Event {
            id: n.to_string(),
            ..of_peer(
                Kind::PeerDown,
                &member(1, Liveness::Down),
                SystemTime::UNIX_EPOCH,
            )
        };
        let event_of_1 = |n: usize| (PeerId(1), event(n));
        let speaks = Turn::AllBut(Some(PeerId(7)));
        seen.add(Turn::Nothing, (0..10).map(event_of_1).collect(), None);
        assert!(seen.ours(100).is_empty(), "another one speaks");
        seen.add(Turn::Nothing, Vec::new(), Some(event(10)));
        assert_eq!(seen.ours(100), [event(10)]);
        seen.add(speaks, (11..2 * WAITING).map(event_of_1).collect(), None);
        assert_eq!(seen.lock().waiting.len(), WAITING);
        let first = seen.ours(3);
        assert_eq!(first[0], event(WAITING), "the oldest are left out");
        seen.said(&first);
        assert_eq!(seen.ours(1), [event(WAITING + 3)]);
        for told in &mut seen.lock().waiting {
            told.at -= REMEMBERED;
        }
        seen.add(Turn::Nothing, Vec::new(), None);
        assert!(seen.lock().waiting.is_empty());
    }
}
