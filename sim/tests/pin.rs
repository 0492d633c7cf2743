//! A pinned file stays what it is, whoever writes or deletes it at the same time, through whatever peer, and whichever
//! peers go away meanwhile.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use peernet_core::io::{Answer, Request};
use peernet_core::key::Name;
use peernet_core::register::{Condition, Register, Value, WriteId};
use peernet_sim::scenario::{Failure, Scenario, Setup, for_each_seed, run};

const MINUTE: u64 = 60_000;
const PEERS: u32 = 4;

/// Clients of one file.
#[derive(Clone)]
struct Clients {
    s: Scenario,
    name: Name,
    over: Rc<Cell<bool>>,
}

impl Clients {
    /// Through any peer that runs; `None` when it says nothing.
    async fn ask(&self, request: Request) -> Option<Answer> {
        let at = self.s.world.choose(&self.s.fleet.running())?;
        self.s.fleet.request(at, request).await.ok()
    }

    async fn read(&self) -> Option<Option<Register>> {
        match self.ask(Request::ReadName(self.name.clone())).await? {
            Answer::Register(register) => Some(register),
            _ => None,
        }
    }

    async fn write(&self, value: Value, condition: Condition) -> Option<Answer> {
        let name = self.name.clone();
        self.ask(Request::WriteName {
            name,
            value,
            condition,
        })
        .await
    }

    async fn pause(&self, longest: u64) {
        let world = &self.s.world;
        world.sleep(world.random(1..longest)).await;
    }

    /// What is there as soon as a peer says so, and which write that is.
    async fn present(&self) -> (WriteId, Value) {
        loop {
            match self.read().await {
                Some(Some(register)) if register.is_present() => {
                    return (register.write, register.value);
                }
                Some(_) => drop(self.write(self.file(), Condition::Always).await),
                None => self.pause(500).await,
            }
        }
    }

    /// Some file that nobody has written before.
    fn file(&self) -> Value {
        let body = self.s.world.random_id().to_be_bytes().to_vec();
        Value::Present {
            head: Bytes::from_static(b"head").into(),
            body: body.into(),
            upload: None,
        }
    }

    /// Pins or unpins whatever is there, and says what that is.
    async fn pin(&self, pinned: bool) -> Value {
        loop {
            let (write, value) = self.present().await;
            if value.is_pinned() == pinned {
                return value;
            }
            let value = value.with_pin(pinned).expect("a file is there");
            let condition = Condition::Unchanged(write);
            if let Some(Answer::Written { .. }) = self.write(value.clone(), condition).await {
                return value;
            }
        }
    }

    /// Replaces and deletes what is there, at once or some time after it was read; `unpin`: and unpins it first.
    async fn vandal(self, unpin: bool) {
        while !self.over.get() {
            let (write, value) = match self.s.world.random(0..4) {
                0 => (None, Value::Deleted),
                1 => (None, self.file()),
                n => {
                    let (write, value) = self.present().await;
                    if unpin && value.is_pinned() {
                        self.pin(false).await;
                    }
                    self.pause(400).await;
                    let deleted = n == 2;
                    (
                        Some(write),
                        if deleted { Value::Deleted } else { self.file() },
                    )
                }
            };
            let condition = write.map_or(Condition::Always, Condition::Unchanged);
            self.write(value, condition).await;
            self.pause(200).await;
        }
    }
}

async fn pinned_among_vandals(s: Scenario, unpin: bool) -> Result<(), Failure> {
    s.apply(PEERS);
    s.settle(5 * MINUTE).await?;
    let clients = Clients {
        s: s.clone(),
        name: Name::new("kept").expect("a name"),
        over: Rc::default(),
    };
    for _ in 0..3 {
        drop(s.world.spawn(clients.clone().vandal(unpin)));
    }
    for round in 0..8 {
        let kept = clients.pin(true).await;
        if round % 3 == 0 {
            let victim = s.world.random(0..PEERS.into()) as u32;
            s.cluster.kill(victim, s.world.random(200..9_000));
        }
        for _ in 0..20 {
            clients.pause(200).await;
            let Some(found) = clients.read().await else {
                continue;
            };
            if found.as_ref().map(|r| &r.value) != Some(&kept) {
                let words = format!("{kept:?} was pinned, but the name holds {found:?}");
                return Err(Failure::Unexpected(words));
            }
        }
        clients.pin(false).await;
        clients.pause(1_000).await;
    }
    clients.over.set(true);
    s.world.sleep(20_000).await;
    s.settle(5 * MINUTE).await
}

#[test]
fn nothing_takes_the_place_of_a_pinned_file() {
    for_each_seed("nothing_takes_the_place_of_a_pinned_file", 1..5, |seed| {
        run(Setup::good_or_bad(seed), 60 * MINUTE, |s| {
            pinned_among_vandals(s, false)
        })
    });
}

#[test]
fn a_vandal_who_unpins_is_found_out() {
    let found = run(Setup::new(1), 60 * MINUTE, |s| {
        pinned_among_vandals(s, true)
    });
    assert!(
        matches!(&found, Err(Failure::Unexpected(words)) if words.contains("was pinned")),
        "{found:?}"
    );
}
