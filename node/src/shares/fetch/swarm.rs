//! One round of a fetch: performs what `peernet_core::swarm::fetch` says.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use peernet_core::io::Time;
use peernet_core::key::Key;
use peernet_core::member::{Member, PeerId};
use peernet_core::swarm::fetch::{AskId, Event, Fetch, Request};
use peernet_core::swarm::{LIARS, SOURCES};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::super::Shares;
use super::super::holding::Holding;
use super::Outlook;
use super::transfer::{Note, Subject};
use crate::chunks::ChunkError;

/// The machine's clock ticks so often.
const TICK: Duration = Duration::from_secs(1);
/// Sources are looked for with every tick at first, then with every so many (guess: a swarm forms within seconds).
const SEARCHES: (u32, u32) = (10, 5);
/// A round in which nothing moved for so long makes room for others (guess).
const STALLED: Duration = Duration::from_secs(60);
/// The same while no source is known to have anything that is missing (guess: some searches, and news of those who fetch too).
const HOPELESS: Duration = Duration::from_secs(10);
/// What waits to be heard of.
const NOTES: usize = 64;

/// Those that sent wrong bytes of a content, in whichever round.
pub(super) type Liars = HashSet<PeerId>;

/// How long nothing has moved.
struct Still {
    mark: (u32, u64),
    since: Instant,
}

impl Still {
    fn new() -> Self {
        Still {
            mark: (0, 0),
            since: Instant::now(),
        }
    }

    /// Whether that is too long, with so many pieces here and bytes that have stirred so often. A piece may take minutes on a
    /// slow link, and a round that is ended loses all that are on their way.
    fn is_too_long(&mut self, mark: (u32, u64), hopeful: bool) -> bool {
        if mark != self.mark {
            (self.mark, self.since) = (mark, Instant::now());
        }
        self.since.elapsed() > if hopeful { STALLED } else { HOPELESS }
    }
}

/// How a round ended.
pub(super) enum Ended {
    /// All is here.
    Whole,
    /// Nobody delivers.
    Stalled,
    /// This peer cannot keep it.
    Failed(ChunkError),
}

/// See the module's documentation.
pub(super) struct Round<'a> {
    shares: &'a Shares,
    content: Key,
    liars: &'a mut Liars,
    outlook: &'a watch::Sender<Outlook>,
    subject: Subject,
    notes: mpsc::Receiver<Note>,
    fetch: Fetch,
    origin: Instant,
    sources: HashMap<PeerId, (Member, AbortOnDropHandle<()>)>,
    asks: HashMap<AskId, Turn>,
    search: Option<AbortOnDropHandle<()>>,
    offered: &'a mut bool,
}

/// A turn asked for.
struct Turn {
    peer: PeerId,
    /// Where to say what is wanted.
    want: Option<oneshot::Sender<Vec<u32>>>,
    _task: AbortOnDropHandle<()>,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        shares: &'a Shares,
        content: Key,
        holding: &Arc<Holding>,
        outlook: &'a watch::Sender<Outlook>,
        (liars, offered): (&'a mut Liars, &'a mut bool),
    ) -> Self {
        let (tell, notes) = mpsc::channel(NOTES);
        let subject = Subject {
            network: shares.network.clone(),
            me: shares.me,
            content,
            holding: holding.clone(),
            shelf: shares.shelf.clone(),
            memory: shares.pieces.clone(),
            notes: tell,
        };
        let here = holding.here();
        Round {
            shares,
            content,
            liars,
            outlook,
            subject,
            notes,
            offered,
            fetch: Fetch::new(here, fastrand::u64(..)),
            origin: Instant::now(),
            sources: HashMap::new(),
            asks: HashMap::new(),
            search: None,
        }
    }

    /// Brings pieces, from these peers first, as long as some come.
    pub(super) async fn run(mut self, peers: Vec<Member>) -> Ended {
        self.meet(peers);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ticked, mut still) = (0, Still::new());
        while !self.fetch.here().is_full() {
            let count = self.fetch.here().count();
            tokio::select! {
                _ = ticks.tick() => {
                    if ticked < SEARCHES.0 || ticked % SEARCHES.1 == 0 {
                        self.look_around();
                    }
                    ticked += 1;
                    self.handle(Event::Tick);
                }
                // The sender is kept here.
                Some(note) = self.notes.recv() => match note {
                    Note::Event(event, reason) => self.hear(event, reason),
                    Note::Found(peers) => {
                        self.meet(peers);
                        if self.sources.is_empty() {
                            return Ended::Stalled;
                        }
                    }
                    Note::Disk(error) => return Ended::Failed(error),
                },
            }
            let now = self.fetch.here().count();
            if now > count {
                self.announce().await;
            }
            let mark = (now, self.subject.holding.stirred());
            if still.is_too_long(mark, self.fetch.is_hopeful()) {
                return Ended::Stalled;
            }
        }
        Ended::Whole
    }

    /// With the first pieces this peer is a provider.
    async fn announce(&mut self) {
        if !*self.offered {
            *self.offered = self.shares.say(self.content).await;
        }
    }

    /// Asks who is on record, unless that is being asked.
    fn look_around(&mut self) {
        if self.search.as_ref().is_some_and(|s| !s.is_finished()) {
            return;
        }
        let (shares, subject) = (self.shares.clone(), self.subject.clone());
        let search = async move {
            if let Ok((members, _)) = shares.providers(subject.content).await {
                let _ = subject.notes.send(Note::Found(members)).await;
            }
        };
        self.search = Some(AbortOnDropHandle::new(tokio::spawn(search)));
    }

    fn meet(&mut self, peers: Vec<Member>) {
        for member in peers {
            let known = member.id == self.shares.me
                || self.sources.contains_key(&member.id)
                || self.liars.contains(&member.id);
            if known || self.sources.len() >= SOURCES || !self.fetch.welcomes(member.id) {
                continue;
            }
            match self.shares.chunks.channel(&member.address) {
                Ok(channel) => {
                    let follow = self.subject.clone().follow(member.id, channel);
                    let task = AbortOnDropHandle::new(tokio::spawn(follow));
                    self.sources.insert(member.id, (member, task));
                }
                Err(error) => debug!(peer = member.name, "cannot be followed: {error}"),
            }
        }
        let providers = self.sources.len();
        self.outlook.send_modify(|o| o.providers = providers);
    }

    /// Something came of a source or a turn.
    fn hear(&mut self, event: Event, reason: Option<String>) {
        let turn = match &event {
            Event::Got(ask) | Event::Failed(ask) | Event::ComeBack(ask, _) | Event::Wrong(ask) => {
                self.asks.remove(ask).map(|turn| turn.peer)
            }
            Event::Gone(peer) => Some(*peer),
            _ => None,
        };
        if let (Event::Wrong(_), Some(peer)) = (&event, turn)
            && self.liars.len() < LIARS
        {
            self.liars.insert(peer);
        }
        let member = turn.and_then(|peer| self.sources.get(&peer));
        if let (Some((member, _)), Some(reason)) = (member, reason) {
            let name = &member.name;
            match event {
                Event::Wrong(_) => warn!(peer = name, "sent wrong bytes and is not asked again"),
                _ => debug!(peer = name, "{reason}"),
            }
            let reason = Some(format!("{name}: {reason}"));
            self.outlook.send_modify(|outlook| outlook.reason = reason);
        }
        if let Event::Gone(peer) = event {
            self.sources.remove(&peer);
        }
        self.handle(event);
    }

    fn handle(&mut self, event: Event) {
        let now = Time(self.origin.elapsed().as_millis() as u64);
        for request in self.fetch.handle(event, now) {
            match request {
                Request::Ask(ask, peer) => self.ask(ask, peer),
                Request::Want(ask, pieces) => {
                    let turn = self.asks.get_mut(&ask);
                    if let Some(want) = turn.and_then(|turn| turn.want.take()) {
                        // Whoever hung up says so.
                        let _ = want.send(pieces);
                    }
                }
                Request::Cancel(ask) => {
                    self.asks.remove(&ask);
                }
                Request::Leave(peer) => {
                    self.sources.remove(&peer);
                }
            }
        }
    }

    fn ask(&mut self, ask: AskId, peer: PeerId) {
        let channel = self.sources.get(&peer).map(|(member, _)| &member.address);
        let channel = channel.and_then(|address| self.shares.chunks.connection(address).ok());
        let (want, wanted) = oneshot::channel();
        let subject = self.subject.clone();
        let task = match channel {
            Some(channel) => tokio::spawn(subject.take(ask, channel, wanted)),
            None => tokio::spawn(async move { subject.failed(ask).await }),
        };
        let turn = Turn {
            peer,
            want: Some(want),
            _task: AbortOnDropHandle::new(task),
        };
        self.asks.insert(ask, turn);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_goes_on_while_bytes_move() {
        let mut still = Still::new();
        // A piece takes five minutes.
        for stirred in 0..10 {
            assert!(!still.is_too_long((3, stirred), true), "{stirred}");
            sleep(STALLED / 2).await;
        }
        sleep(STALLED).await;
        assert!(still.is_too_long((3, 9), true));
        assert!(!still.is_too_long((4, 9), true), "a piece has come");
        sleep(HOPELESS * 2).await;
        assert!(!still.is_too_long((4, 9), true));
        assert!(still.is_too_long((4, 9), false));
    }
}
