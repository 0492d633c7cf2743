//! Peers that remember one ring, or begin one, with messages that arrive at once, or not at all.

use std::collections::VecDeque;

use peernet_core::collect::{Referrer, Upload};
use peernet_core::config::Settings;
use peernet_core::io::{Answer, Input, Output, Request, RequestId, Time};
use peernet_core::key::{Key, Name, Position, SLOTS, Slot};
use peernet_core::member::{Drain, Liveness, Member, PeerId};
use peernet_core::message::Message;
use peernet_core::peer::Peer;
use peernet_core::slot::{SlotConfig, SlotRecord};
use peernet_core::store::memory::MemoryStore;
use peernet_core::store::{Identity, Store};

/// Peers. In the beginning the first of them hold all slots, and the very first owns them.
pub(crate) struct Replicas {
    pub(crate) peers: Vec<Peer<MemoryStore>>,
    /// Nothing goes to this one or comes from it.
    pub(crate) cut_off: Option<usize>,
    /// Messages of this kind are lost.
    pub(crate) lost: fn(&Message) -> bool,
    /// Who has left for good.
    pub(crate) left: Vec<usize>,
    factor: usize,
    now: u64,
    answers: Vec<(RequestId, Answer)>,
    requests: u64,
}

/// Operations on names that a peer takes at once.
pub(crate) const OPERATIONS: usize = 32;

/// An upload that never ends.
pub(crate) fn referrer() -> Referrer {
    Referrer {
        name: Name::new("upload").unwrap(),
        upload: Upload(1),
        base: None,
    }
}

pub(crate) fn member(n: usize) -> Member {
    Member {
        id: id(n),
        name: format!("p-{n}"),
        address: format!("{n}:1"),
        http: String::new(),
        zone: "z".into(),
        // A quarter of the ring apart.
        position: Position((n as u64) << 62),
        incarnation: 1,
        liveness: Liveness::Active,
        drain: Drain::default(),
        version: String::new(),
    }
}

pub(crate) fn id(n: usize) -> PeerId {
    PeerId(n as u128 + 1)
}

fn start(store: MemoryStore, identity: Identity, factor: usize, now: Time) -> Peer<MemoryStore> {
    let mut settings = Settings::default();
    settings.replication.factor = factor as u32;
    settings.operations = OPERATIONS;
    let seed = identity.member.incarnation + identity.member.id.0 as u64;
    Peer::start(store, identity, false, settings, seed, now).unwrap()
}

impl Replicas {
    /// So many peers, all of which hold all slots; each holds the chunks that `chunks` says.
    pub(crate) fn new(count: usize, chunks: impl Fn(usize) -> Vec<Key>) -> Self {
        Self::beside(count, count, chunks)
    }

    /// So many peers, of which the first `factor` hold all slots.
    pub(crate) fn beside(count: usize, factor: usize, chunks: impl Fn(usize) -> Vec<Key>) -> Self {
        let peer = |n| {
            let mut store = MemoryStore::default();
            let identity = Identity {
                network: "n".into(),
                member: member(n),
            };
            store.put_identity(&identity).unwrap();
            for other in 0..count {
                store.put_member(&member(other)).unwrap();
            }
            for number in 0..SLOTS {
                let config = SlotConfig {
                    epoch: 1,
                    replicas: (0..factor).map(id).collect(),
                    next: None,
                };
                let slot = Slot::new(number).unwrap();
                store.put_slot(slot, &SlotRecord::of(config)).unwrap();
            }
            for key in chunks(n) {
                store.put_chunk(&key, 1).unwrap();
                store.put_reference(&key, 1, &referrer()).unwrap();
            }
            store.commit().unwrap();
            start(store, identity, factor, Time(0))
        };
        Self::of((0..count).map(peer).collect(), factor)
    }

    /// A peer that was never in a ring and knows of these others, whose number is not 0.
    pub(crate) fn beginner(factor: usize, others: &[Member]) -> Peer<MemoryStore> {
        Self::stranger(0, factor, others)
    }

    fn stranger(n: usize, factor: usize, others: &[Member]) -> Peer<MemoryStore> {
        let mut store = MemoryStore::default();
        let identity = Identity {
            network: "n".into(),
            member: Member {
                liveness: Liveness::Joining,
                ..member(n)
            },
        };
        store.put_identity(&identity).unwrap();
        for other in others {
            store.put_member(other).unwrap();
        }
        store.commit().unwrap();
        start(store, identity, factor, Time(0))
    }

    /// So many peers that were never in a ring; the first begins one, and the others are told where it is.
    pub(crate) fn young(count: usize, factor: usize) -> Self {
        let peers = (0..count).map(|n| Self::stranger(n, factor, &[])).collect();
        let mut replicas = Self::of(peers, factor);
        replicas.hand(0, Input::FoundIfAlone, &mut |_, _| {});
        for n in 1..count {
            let seeds = Input::Seeds(vec![member(0).address]);
            replicas.hand(n, seeds, &mut |_, _| {});
        }
        replicas
    }

    fn of(peers: Vec<Peer<MemoryStore>>, factor: usize) -> Self {
        Replicas {
            peers,
            cut_off: None,
            lost: |_| false,
            left: Vec::new(),
            factor,
            now: 0,
            answers: Vec::new(),
            requests: 0,
        }
    }

    /// Ends a peer and starts it again with what it has stored, under a greater incarnation.
    pub(crate) fn restart(&mut self, n: usize) {
        let mut store = self.peers.remove(n).into_store();
        let mut identity = store.identity().unwrap().unwrap();
        identity.member.incarnation += 1;
        store.put_identity(&identity).unwrap();
        store.commit().unwrap();
        let peer = start(store, identity, self.factor, Time(self.now));
        self.peers.insert(n, peer);
    }

    /// Lets time pass. `meddle` sees each message before it arrives.
    pub(crate) fn run(
        &mut self,
        millis: u64,
        mut meddle: impl FnMut(&Message, &mut [Peer<MemoryStore>]),
    ) {
        let end = self.now + millis;
        while self.now < end {
            self.now += 50;
            for n in 0..self.peers.len() {
                self.hand(n, Input::Timer, &mut meddle);
            }
        }
    }

    /// What a peer makes of a message, which goes nowhere else.
    pub(crate) fn hears(&mut self, n: usize, from: usize, message: Message) -> Vec<Message> {
        let mut out = Vec::new();
        let input = Input::Message {
            from: id(from),
            message,
        };
        self.peers[n]
            .handle(input, Time(self.now), &mut out)
            .unwrap();
        let sent = out.into_iter().filter_map(|output| match output {
            Output::Send { message, .. } => Some(message),
            _ => None,
        });
        sent.collect()
    }

    /// Hands over a message, and all that follows from it.
    pub(crate) fn tell(&mut self, n: usize, from: usize, message: Message) {
        let from = id(from);
        self.hand(n, Input::Message { from, message }, &mut |_, _| {});
    }

    /// What a peer answers to a request, within ten seconds.
    pub(crate) fn ask(&mut self, n: usize, request: Request) -> Answer {
        let id = self.request(n, request);
        self.answer(id)
    }

    /// Gives a peer a request.
    pub(crate) fn request(&mut self, n: usize, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.hand(n, Input::Request { id, request }, &mut |_, _| {});
        id
    }

    /// The answer to a request, within ten seconds.
    pub(crate) fn answer(&mut self, id: RequestId) -> Answer {
        for _ in 0..220 {
            if let Some(answer) = self.answered(id) {
                return answer;
            }
            self.run(50, |_, _| {});
        }
        panic!("{id:?} was never answered");
    }

    /// The answer to a request, if it is there.
    pub(crate) fn answered(&mut self, id: RequestId) -> Option<Answer> {
        let at = self.answers.iter().position(|(of, _)| *of == id)?;
        Some(self.answers.remove(at).1)
    }

    /// Hands over one input and all that follows from it at once.
    fn hand(
        &mut self,
        n: usize,
        input: Input,
        meddle: &mut impl FnMut(&Message, &mut [Peer<MemoryStore>]),
    ) {
        let mut inputs = VecDeque::from([(n, input)]);
        while let Some((n, input)) = inputs.pop_front() {
            let mut out = Vec::new();
            self.peers[n]
                .handle(input, Time(self.now), &mut out)
                .unwrap();
            for output in out {
                match output {
                    Output::Send { message, .. } if (self.lost)(&message) => {}
                    Output::Send {
                        address, message, ..
                    } => {
                        meddle(&message, &mut self.peers);
                        let to = (0..self.peers.len()).find(|n| member(*n).address == address);
                        let from = id(n);
                        let reached = to.filter(|to| ![Some(n), Some(*to)].contains(&self.cut_off));
                        inputs.extend(reached.map(|to| (to, Input::Message { from, message })));
                    }
                    Output::FetchChunk { key, len, .. } => {
                        inputs.push_back((n, Input::ChunkFetched { key, len }));
                    }
                    Output::Answer { id, answer } => self.answers.push((id, answer)),
                    Output::Left => self.left.push(n),
                    Output::DropChunks(_) => {}
                }
            }
        }
    }
}
