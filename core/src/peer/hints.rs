//! Hints: whoever watches the processes (Kubernetes through the operator, the local runner) often knows that one ended
//! before pings can tell.
//!
//! Lifeguard (Dadgar, Phillips, Currey, 2018) shortens suspicion when others confirm it; a hint is such a confirmation
//! from outside. The member is suspected at once, so that it hears of it and may refute, and is pinged, by helpers too.
//! Only if nobody hears an answer within that one probe is it down, without the rest of the suspicion time. So a hint
//! alone moves nothing: a peer that answers pings stays, whatever is said of it.

use super::{Done, Peer};
use crate::member::{Hint, Liveness, PeerId};
use crate::store::Store;

/// Hints taken at once, and probes they may have under way; the rest waits for pings as without hints. Guess: a node
/// that fails takes fewer peers with it.
const HINTS: usize = 64;

impl<S: Store> Peer<S> {
    pub(super) fn on_hints(&mut self, hints: Vec<(PeerId, Hint)>) -> Done {
        for (id, hint) in hints.into_iter().take(HINTS) {
            let Some(liveness) = self.gossip.get(id).map(|m| m.liveness) else {
                continue;
            };
            if id == self.me || self.is_hinted(id) {
                continue;
            }
            match (hint, liveness) {
                (Hint::Gone, Liveness::Active) => {
                    self.believe(id, Liveness::Suspect)?;
                    self.ping_hinted(id, true);
                }
                (Hint::Gone, Liveness::Suspect) => self.ping_hinted(id, true),
                // It hears from the answer's receiver that it is thought to be away, and refutes.
                (Hint::Back, Liveness::Suspect | Liveness::Down) => self.ping_hinted(id, false),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::io::{Input, Output, Request, RequestId, Time};
    use crate::key::Position;
    use crate::member::{Drain, Member};
    use crate::message::{Digest, Message};
    use crate::store::Identity;
    use crate::store::memory::MemoryStore;

    const OTHER: PeerId = PeerId(2);

    fn member(id: u128) -> Member {
        Member {
            id: PeerId(id),
            name: format!("demo-{id}"),
            address: format!("demo-{id}:7000"),
            http: String::new(),
            zone: "a".into(),
            position: Position(id as u64),
            incarnation: 1,
            liveness: Liveness::Active,
            drain: Drain::default(),
            version: String::new(),
        }
    }

    struct Rig {
        peer: Peer<MemoryStore>,
        now: u64,
    }

    impl Rig {
        /// A peer that knows another one, and would not ping it by itself before long.
        fn new() -> Self {
            let identity = Identity {
                network: "n".into(),
                member: member(1),
            };
            let settings = Settings {
                ping_period: 1_000_000,
                ..Settings::default()
            };
            let store = MemoryStore::default();
            let peer = Peer::start(store, identity, true, settings, 7, Time(0)).unwrap();
            let mut rig = Rig { peer, now: 0 };
            rig.hear(Message::Members {
                members: vec![member(2)],
                reply: false,
            });
            rig
        }

        fn input(&mut self, input: Input) -> Vec<Output> {
            let mut out = Vec::new();
            self.peer.handle(input, Time(self.now), &mut out).unwrap();
            out
        }

        fn hear(&mut self, message: Message) -> Vec<Output> {
            self.input(Input::Message {
                from: OTHER,
                message,
            })
        }

        fn hint(&mut self, hint: Hint) -> Vec<Output> {
            self.input(Input::Request {
                id: RequestId(1),
                request: Request::Hint(vec![(OTHER, hint)]),
            })
        }

        /// Lets time pass.
        fn pass(&mut self, millis: u64) {
            let end = self.now + millis;
            while self.peer.next_deadline() <= Time(end) {
                self.now = self.peer.next_deadline().0;
                self.input(Input::Timer);
            }
            self.now = end;
        }

        fn liveness(&self) -> Liveness {
            self.peer.gossip.get(OTHER).unwrap().liveness
        }
    }

    fn pings(out: &[Output]) -> Vec<u64> {
        let ping = |output: &Output| match output {
            Output::Send {
                message: Message::Ping { seq, target, .. },
                ..
            } if *target == OTHER => Some(*seq),
            _ => None,
        };
        out.iter().filter_map(ping).collect()
    }

    #[test]
    fn who_is_said_to_be_gone_and_does_not_answer_is_down_after_one_probe() {
        let settings = Settings::default();
        let mut rig = Rig::new();
        let out = rig.hint(Hint::Gone);
        assert_eq!(rig.liveness(), Liveness::Suspect);
        assert_eq!(pings(&out).len(), 1);
        assert!(
            pings(&rig.hint(Hint::Gone)).is_empty(),
            "one probe is enough"
        );
        let probe = 3 * settings.ping_timeout;
        assert!(
            probe < settings.suspicion,
            "else the hint would gain nothing"
        );
        rig.pass(probe);
        assert_eq!(rig.liveness(), Liveness::Down);
    }

    #[test]
    fn who_answers_stays_whatever_is_said() {
        let settings = Settings::default();
        let mut rig = Rig::new();
        let seq = pings(&rig.hint(Hint::Gone))[0];
        let told = rig.hear(Message::Ack {
            seq,
            rumors: vec![],
            digest: Digest::default(),
        });
        let suspected = |output: &Output| matches!(output, Output::Send { message: Message::Members { members, .. }, .. } if members.iter().any(|m| m.id == OTHER && m.liveness == Liveness::Suspect));
        assert!(told.iter().any(suspected), "it hears what is thought of it");
        rig.pass(3 * settings.ping_timeout);
        assert_eq!(rig.liveness(), Liveness::Suspect, "no shortcut any more");
        let refuted = Member {
            incarnation: 2,
            ..member(2)
        };
        rig.hear(Message::Members {
            members: vec![refuted],
            reply: false,
        });
        rig.pass(2 * settings.suspicion);
        assert_eq!(rig.liveness(), Liveness::Active);
    }

    #[test]
    fn who_comes_back_is_asked_at_once() {
        let settings = Settings::default();
        let mut rig = Rig::new();
        rig.hint(Hint::Gone);
        rig.pass(3 * settings.ping_timeout);
        assert_eq!(pings(&rig.hint(Hint::Back)).len(), 1);
        assert_eq!(rig.liveness(), Liveness::Down, "its answer decides");
    }

    #[test]
    fn hints_about_itself_and_strangers_are_nothing() {
        let mut rig = Rig::new();
        let hints = vec![(PeerId(1), Hint::Gone), (PeerId(99), Hint::Gone)];
        let out = rig.input(Input::Request {
            id: RequestId(2),
            request: Request::Hint(hints),
        });
        assert!(
            out.iter().all(|o| matches!(o, Output::Answer { .. })),
            "{out:?}"
        );
    }
}
