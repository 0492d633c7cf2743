//! What happens, and what follows from it.

use super::{Action, Churn, PeerId, Point, Position, Purpose, Referral, State};

/// Something that happens at a time.
pub(super) enum Event {
    /// A key is looked up.
    LookUp,
    /// Somebody new comes.
    Join,
    /// Somebody dies.
    Fail,
    /// A newcomer looks for its place.
    Enter { id: usize },
    /// A member's timer.
    Stabilise { id: usize },
    /// A question about the ring arrives.
    Query { from: usize, to: PeerId, seq: u64 },
    /// Its answer arrives.
    State {
        id: usize,
        from: PeerId,
        seq: u64,
        state: State,
    },
    /// It is given up.
    Silence { id: usize, about: PeerId },
    /// A predecessor did not answer.
    Gone { id: usize, who: PeerId },
    /// A notification arrives.
    Notify { from: PeerId, to: PeerId },
    /// A member hears that its first successor has adopted another predecessor.
    Displaced { id: usize },
    /// A lookup's question arrives.
    Question {
        number: u64,
        key: Position,
        at: Point,
    },
    /// Its answer arrives.
    Answer {
        number: u64,
        key: Position,
        from: Point,
        referral: Referral,
        /// Who owns the key at this moment.
        owner: Option<Point>,
    },
    /// It is given up.
    Unanswered {
        number: u64,
        key: Position,
        at: Point,
    },
}

impl Churn {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::LookUp => self.on_look_up(),
            Event::Join => self.on_join(),
            Event::Fail => self.on_fail(),
            Event::Enter { id } => self.on_enter(id),
            Event::Stabilise { id } => self.on_stabilise(id),
            Event::Query { from, to, seq } => self.on_query(from, to, seq),
            Event::State {
                id,
                from,
                seq,
                state,
            } => self.on_state(id, from, seq, &state),
            Event::Silence { id, about } => self.on_silence(id, about),
            Event::Gone { id, who } => self.notice(id, who),
            Event::Notify { from, to } => self.on_notify(from, to),
            Event::Displaced { id } => self.on_displaced(id),
            Event::Question { number, key, at } => self.on_question(number, key, at),
            Event::Answer {
                number,
                key,
                from,
                referral,
                owner,
            } => self.on_answer(number, key, from, referral, owner),
            Event::Unanswered { number, key, at } => self.on_unanswered(number, key, at),
        }
    }

    fn on_look_up(&mut self) {
        self.next_lookup();
        let (from, key) = (self.someone(), Position(self.rng.u64(..)));
        let own = self.refer(key, from);
        self.begin(from, key, Purpose::Measure, own);
    }

    fn on_join(&mut self) {
        self.next_join();
        let id = self.nodes.len();
        self.points
            .push((Position(self.rng.u64(..)), PeerId(id as u128)));
        let node = self.blank();
        self.nodes.push(node);
        self.on_enter(id);
    }

    fn on_fail(&mut self) {
        self.next_failure();
        let id = self.someone();
        self.die(id);
    }

    fn on_enter(&mut self, id: usize) {
        let bootstrap = self.someone();
        let own = Referral {
            preceding: vec![self.points[bootstrap]],
            ..Referral::default()
        };
        self.begin(id, self.points[id].0, Purpose::Join, own);
    }

    fn on_stabilise(&mut self, id: usize) {
        if !self.nodes[id].alive {
            return;
        }
        self.stabilise_again(id);
        let ring = self.nodes[id].chord.ring();
        let gone = |who: &PeerId| !self.nodes[who.0 as usize].alive;
        if let Some(who) = ring.predecessor.filter(gone) {
            self.after(self.setup.timeout, Event::Gone { id, who });
        }
        self.tick(id);
        self.fix_finger(id);
    }

    fn fix_finger(&mut self, id: usize) {
        let (me, node) = (self.points[id], &mut self.nodes[id]);
        let mut list = node.chord.ring().successors.iter();
        let first = list.find(|s| !node.gone.contains(s));
        let first = first.map(|s| self.points[s.0 as usize]);
        if let Some((exponent, start)) = node.fingers.due(me, first) {
            let own = self.refer(start, id);
            self.begin(id, start, Purpose::Finger(exponent), own);
        }
    }

    fn on_query(&mut self, from: usize, to: PeerId, seq: u64) {
        let asked = &self.nodes[to.0 as usize];
        match asked.chord.state().filter(|_| asked.alive) {
            Some(state) => self.send(Event::State {
                id: from,
                from: to,
                seq,
                state,
            }),
            None => self.after(
                self.setup.timeout,
                Event::Silence {
                    id: from,
                    about: to,
                },
            ),
        }
    }

    fn on_state(&mut self, id: usize, from: PeerId, seq: u64, state: &State) {
        if !self.nodes[id].alive {
            return;
        }
        let newcomer = !self.nodes[id].chord.ring().joined;
        self.chord(id, |chord, me, new, view| {
            chord.on_state(me, from, seq, state, new, view)
        });
        if newcomer && self.nodes[id].chord.ring().joined {
            // From now on the ring tells it of others. It makes itself known at once.
            self.nodes[id].entry = None;
            self.stabilise_again(id);
            self.tick(id);
            self.fix_finger(id);
        }
    }

    fn on_silence(&mut self, id: usize, about: PeerId) {
        if !self.nodes[id].alive {
            return;
        }
        self.notice(id, about);
        self.chord(id, |chord, me, _, view| {
            chord.expire(me, false, view);
            Action::Nothing
        });
        if self.nodes[id].chord.ring().joined {
            // The next of the list.
            self.tick(id);
        } else {
            self.on_enter(id);
        }
    }

    fn on_notify(&mut self, from: PeerId, to: PeerId) {
        let at = to.0 as usize;
        if !self.nodes[at].alive || !self.nodes[at].chord.ring().joined {
            return;
        }
        // Rectify asks whether the old predecessor still lives, which takes as long as giving it up.
        let known = |who: &PeerId| !self.nodes[at].gone.contains(who);
        let dead = |who: &PeerId| !self.nodes[who.0 as usize].alive;
        let old = self.nodes[at].chord.ring().predecessor;
        if let Some(who) = old.filter(known).filter(dead) {
            self.after(self.setup.timeout, Event::Gone { id: at, who });
            return self.after(self.setup.timeout, Event::Notify { from, to });
        }
        self.chord(at, |chord, me, _, view| {
            chord.on_notify(me, from, view);
            Action::Nothing
        });
        let displaced = old.filter(|_| self.nodes[at].chord.ring().predecessor != old);
        if let Some(id) = displaced {
            self.send(Event::Displaced { id: id.0 as usize });
        }
        if self.nodes[from.0 as usize].alive {
            self.current.insert(self.points[from.0 as usize]);
        }
    }

    fn on_displaced(&mut self, id: usize) {
        if self.nodes[id].alive {
            self.tick(id);
        }
    }

    fn on_question(&mut self, number: u64, key: Position, at: Point) {
        let id = at.1.0 as usize;
        let node = &self.nodes[id];
        if node.alive && node.chord.ring().joined {
            let (referral, owner) = (self.refer(key, id), self.owner(key));
            self.send(Event::Answer {
                number,
                key,
                from: at,
                referral,
                owner,
            });
        } else {
            self.after(self.setup.timeout, Event::Unanswered { number, key, at });
        }
    }

    fn on_answer(
        &mut self,
        number: u64,
        key: Position,
        from: Point,
        referral: Referral,
        owner: Option<Point>,
    ) {
        if self.asker_lives(number)
            && let Some(running) = self.running.get_mut(&number)
        {
            running.lookup.on_referral(from, referral);
            running.owner = owner;
            self.proceed(number, key);
        }
    }

    fn on_unanswered(&mut self, number: u64, key: Position, at: Point) {
        if self.asker_lives(number)
            && let Some(running) = self.running.get_mut(&number)
        {
            running.lookup.on_timeout(at);
            let asker = running.from;
            self.notice(asker, at.1);
            self.proceed(number, key);
        }
    }

    /// Whether who looks up is alive; otherwise nobody waits for the answer any more.
    fn asker_lives(&mut self, number: u64) -> bool {
        let alive = |from: usize| self.nodes[from].alive;
        let lives = self.running.get(&number).is_some_and(|r| alive(r.from));
        if !lives {
            self.running.remove(&number);
        }
        lives
    }
}
