//! One round of a fetch: performs what `peernet_core::swarm::fetch` says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use peernet_core::io::Time;
use peernet_core::member::{Member, PeerId};
use peernet_core::share::Offer;
use peernet_core::swarm::SOURCES;
use peernet_core::swarm::fetch::{AskId, Event, Fetch, Request};
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
/// A round in which nothing came for so long makes room for others (guess).
const STALLED: Duration = Duration::from_secs(60);
/// What waits to be heard of.
const NOTES: usize = 64;

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
    offer: &'a Offer,
    outlook: &'a watch::Sender<Outlook>,
    subject: Subject,
    notes: mpsc::Receiver<Note>,
    fetch: Fetch,
    origin: Instant,
    sources: HashMap<PeerId, (Member, AbortOnDropHandle<()>)>,
    asks: HashMap<AskId, Turn>,
    search: Option<AbortOnDropHandle<()>>,
    offered: bool,
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
        offer: &'a Offer,
        holding: &Arc<Holding>,
        outlook: &'a watch::Sender<Outlook>,
    ) -> Self {
        let (tell, notes) = mpsc::channel(NOTES);
        let subject = Subject {
            network: shares.network.clone(),
            me: shares.me,
            content: offer.content,
            holding: holding.clone(),
            shelf: shares.shelf.clone(),
            notes: tell,
        };
        let here = holding.here();
        Round {
            shares,
            offer,
            outlook,
            subject,
            notes,
            offered: here.count() > 0,
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
        let (mut ticked, mut progress) = (0, Instant::now());
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
                    Note::Found(peers) => self.meet(peers),
                    Note::Disk(error) => return Ended::Failed(error),
                },
            }
            if self.fetch.here().count() > count {
                progress = Instant::now();
                self.announce().await;
            } else if progress.elapsed() > STALLED {
                return Ended::Stalled;
            }
        }
        Ended::Whole
    }

    /// With the first pieces this peer is a provider.
    async fn announce(&mut self) {
        if !self.offered {
            // Fails only when the peer stops.
            self.offered = self.shares.peer.offer(self.offer.clone()).await.is_ok();
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
            let known = member.id == self.shares.me || self.sources.contains_key(&member.id);
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
