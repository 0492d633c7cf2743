//! Clients: what they write and read, at random and on order, all of it noted in the model.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use peernet_core::collect::{Referrer, Upload};
use peernet_core::key::{Key, Name};
use peernet_core::register::{Condition, Register};

use super::{PATIENCE, PAUSE, Scenario};
use crate::client::{self, FileError, Outcome, Record};
use crate::model::{Seen, Violation, When};
use crate::network::HostId;

/// Names that many clients write at the same time.
const CONTENDED: u64 = 6;
/// What part of what readers ask for is a listing.
const LISTINGS: f64 = 0.05;
/// How often an upload is tried whose name others write.
const UPLOADS: u32 = 3;

/// On what a client's write depends.
pub enum Precondition {
    /// Nothing.
    None,
    /// There is no file of that name.
    Absent,
    /// The name still holds this.
    Unchanged(Register),
    /// The name still holds this, or nothing.
    Still(Option<Register>),
}

/// Clients at work.
pub struct Load {
    scenario: Scenario,
    going: Rc<Cell<bool>>,
    clients: Vec<crate::promise::Promise<()>>,
}

impl Scenario {
    /// Starts so many writers and as many readers.
    pub fn load(&self, clients: u32) -> Load {
        let mut load = self.writers(clients);
        for _ in 0..clients {
            let (reader, on) = (self.clone(), Rc::clone(&load.going));
            load.clients.push(self.world.spawn(async move {
                let lists = || reader.world.chance(LISTINGS);
                while on.get() {
                    let names = reader.model.borrow().names();
                    let running = reader.fleet.running();
                    if let Some(at) = reader.world.choose(&running).filter(|_| lists()) {
                        reader.list_at(at).await;
                    } else if let Some(name) = reader.world.choose(&names) {
                        reader.read_checked(&name).await;
                    }
                    reader.world.sleep(reader.world.random(1..200)).await;
                }
            }));
        }
        load
    }

    /// Starts so many writers.
    pub fn writers(&self, clients: u32) -> Load {
        let going = Rc::new(Cell::new(true));
        let start = |_| {
            let (writer, on) = (self.clone(), Rc::clone(&going));
            self.world.spawn(async move {
                while on.get() {
                    writer.write_something().await;
                    writer.world.sleep(writer.world.random(1..200)).await;
                }
            })
        };
        let clients = (0..clients).map(start).collect();
        Load {
            scenario: self.clone(),
            going,
            clients,
        }
    }

    /// A new name, or one that others write too.
    fn some_name(&self) -> Name {
        let contended = self.world.chance(0.4);
        let number = if contended {
            self.world.random(0..CONTENDED)
        } else {
            self.world.tick()
        };
        Name::new(format!(
            "{}/{number}",
            if contended { "shared" } else { "own" }
        ))
        .expect("a valid name")
    }

    /// Mostly new bytes, sometimes such that others write too.
    fn some_bytes(&self) -> Bytes {
        let number = if self.world.chance(0.2) {
            self.world.random(0..10)
        } else {
            self.world.tick()
        };
        Bytes::from(format!("the bytes of chunk {number}").into_bytes())
    }

    /// Puts or deletes some file; see [`Scenario::write_to`].
    pub async fn write_something(&self) {
        self.write_to(self.some_name()).await;
    }

    /// Puts or deletes a file through some running peer, on a condition or none. Whatever happens is noted in the model.
    pub async fn write_to(&self, name: Name) {
        let Some(at) = self.world.choose(&self.fleet.running()) else {
            return;
        };
        let mut chunks = None;
        if !self.world.chance(0.1) {
            let count = self.world.random(0..4);
            if count > 0 {
                return self.upload(at, &name, count).await;
            }
            chunks = Some(Vec::new());
        }
        match self.world.random(0..4) {
            0 => self.write_at(at, &name, chunks, Precondition::Absent).await,
            1 => {
                let Ok(register) = self.look_at(at, &name).await else {
                    return;
                };
                let precondition = register.map_or(Precondition::Absent, Precondition::Unchanged);
                self.write_at(at, &name, chunks, precondition).await
            }
            _ => self.write_at(at, &name, chunks, Precondition::None).await,
        };
    }

    /// Puts a file of so many chunks, in the place of what the name holds; perhaps again when others write it meanwhile.
    pub async fn upload(&self, at: HostId, name: &Name, count: u64) {
        let Ok(mut current) = self.look_at(at, name).await else {
            return;
        };
        let in_place_of = |current: &Option<Register>| Referrer {
            name: name.clone(),
            upload: Upload(u128::from(self.world.tick()) + 1),
            base: current.as_ref().map(|r| r.write),
        };
        let mut by = in_place_of(&current);
        let mut chunks = Vec::new();
        for _ in 0..count {
            match client::write_chunk(&self.fleet, at, &self.some_bytes(), &by).await {
                Ok(key) => chunks.push(key),
                Err(_) => return,
            }
        }
        if self.linger > 0 {
            self.world.sleep(self.linger).await;
        }
        for _ in 0..UPLOADS {
            let precondition = Precondition::Still(current);
            match self.put(at, &by, chunks.clone(), precondition).await {
                Some(Outcome::Unmet(register)) => current = register,
                Some(Outcome::Written(_)) | None => return,
            }
            by = in_place_of(&current);
            for key in &chunks {
                if client::pin_chunk(&self.fleet, at, *key, &by).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn put(
        &self,
        at: HostId,
        by: &Referrer,
        chunks: Vec<Key>,
        precondition: Precondition,
    ) -> Option<Outcome> {
        let id = self.model.borrow_mut().next_write();
        let upload = Some(by.upload);
        let record = Record { id, chunks, upload };
        self.write_record(at, &by.name, id, Some(record), precondition)
            .await
    }

    /// Puts a file of these chunks, or deletes it; true when acknowledged.
    pub async fn write_at(
        &self,
        at: HostId,
        name: &Name,
        chunks: Option<Vec<Key>>,
        precondition: Precondition,
    ) -> bool {
        let id = self.model.borrow_mut().next_write();
        let record = chunks.map(|chunks| Record {
            id,
            chunks,
            upload: None,
        });
        let outcome = self.write_record(at, name, id, record, precondition).await;
        matches!(outcome, Some(Outcome::Written(_)))
    }

    /// Writes the name as the write of that number; what became of it, if that is known.
    async fn write_record(
        &self,
        at: HostId,
        name: &Name,
        id: u64,
        record: Option<Record>,
        precondition: Precondition,
    ) -> Option<Outcome> {
        let writer = self.fleet.host(at).process.as_ref().map(|p| p.id);
        let (when, condition) = match &precondition {
            Precondition::Still(_) if self.fleet.flaws().unconditional => {
                (When::Always, Condition::Always)
            }
            Precondition::Still(register) => (
                When::Unchanged(Seen::of(register.as_ref())),
                Condition::still(register.as_ref().map(|r| r.write)),
            ),
            Precondition::None => (When::Always, Condition::Always),
            Precondition::Absent => (When::Absent, Condition::Absent),
            Precondition::Unchanged(register) => (
                When::Unchanged(Seen::of(Some(register))),
                Condition::Unchanged(register.write),
            ),
        };
        let start = self.world.tick();
        self.model
            .borrow_mut()
            .begin(name, id, record.clone(), when, writer, start);
        let outcome = client::write(&self.fleet, at, name, record.as_ref(), condition).await;
        self.world.note((at.0, id, outcome.is_ok()), || {
            format!("write {id} of {name} through {}: {outcome:?}", at.0)
        });
        let end = self.world.tick();
        let mut model = self.model.borrow_mut();
        match &outcome {
            Ok(Outcome::Written(stamp)) => model.acknowledge(name, id, *stamp, end),
            Ok(Outcome::Unmet(register)) => {
                model.refuse(name, id, register.as_ref(), condition, end)
            }
            Err(_) => {}
        }
        outcome.ok()
    }

    /// Reads a file through some running peer, another one when that fails. Whatever is seen is noted in the model; a
    /// file that cannot be read for a minute is a violation.
    pub async fn read_checked(&self, name: &Name) {
        let (mut last, start) = (None, self.world.now());
        while self.world.now() < start + PATIENCE {
            if let Some(at) = self.world.choose(&self.fleet.running()) {
                match self.read_at(at, name).await {
                    Ok(()) => return self.model.borrow_mut().took(self.world.now() - start),
                    Err(error) => last = Some(error),
                }
            }
            self.world.sleep(PAUSE).await;
        }
        let name = name.clone();
        self.model.borrow_mut().report(match last {
            Some(FileError::Unreadable(key)) => Violation::Unreadable { name, key },
            Some(error) => Violation::Unavailable {
                name,
                reason: error.to_string(),
            },
            None => Violation::Unavailable {
                name,
                reason: "no peer runs".into(),
            },
        });
    }

    /// Reads a file through the peer on `at`. What is seen is noted in the model.
    pub async fn read_at(&self, at: HostId, name: &Name) -> Result<(), FileError> {
        let register = self.look(at, name, true).await?;
        for key in register
            .as_ref()
            .and_then(Record::decode)
            .into_iter()
            .flat_map(|r| r.chunks)
        {
            client::read_chunk(&self.fleet, at, key).await?;
        }
        Ok(())
    }

    /// What a name holds, which is noted in the model.
    async fn look_at(&self, at: HostId, name: &Name) -> Result<Option<Register>, FileError> {
        self.look(at, name, false).await
    }

    async fn look(
        &self,
        at: HostId,
        name: &Name,
        hold: bool,
    ) -> Result<Option<Register>, FileError> {
        let start = self.world.tick();
        let register = match hold {
            true => client::hold(&self.fleet, at, name).await?,
            false => client::read(&self.fleet, at, name).await?,
        };
        let seen = Seen::of(register.as_ref());
        self.world.note((at.0, start), || {
            format!("read of {name} through {}: {seen:?}", at.0)
        });
        let end = self.world.tick();
        self.model.borrow_mut().read(name, seen, start, end);
        Ok(register)
    }

    /// Lists all names through the peer on `at`. What is seen is noted in the model.
    pub async fn list_at(&self, at: HostId) {
        let start = self.world.tick();
        if let Ok(names) = client::list(&self.fleet, at).await {
            let end = self.world.tick();
            self.world.note((at.0, start), || {
                format!("listing through {}: {} names", at.0, names.len())
            });
            self.model.borrow_mut().listed(&names, start, end);
        }
    }

    /// Reads everything that was ever written, and lists it. Nobody writes meanwhile.
    pub async fn read_all(&self) {
        let read = |name: Name| {
            let scenario = self.clone();
            self.world
                .spawn(async move { scenario.read_checked(&name).await })
        };
        let names = self.model.borrow().names();
        let reads: Vec<_> = names.into_iter().map(read).collect();
        for read in reads {
            read.await;
        }
        self.list_all().await;
    }

    async fn list_all(&self) {
        let end = self.world.now() + PATIENCE;
        while self.world.now() < end {
            let Some(at) = self.world.choose(&self.fleet.running()) else {
                return;
            };
            let Ok(listed) = client::list(&self.fleet, at).await else {
                self.world.sleep(PAUSE).await;
                continue;
            };
            let mut model = self.model.borrow_mut();
            for (name, exists) in model.last_seen() {
                if listed.contains(&name) != exists {
                    model.report(Violation::Listed { name, exists });
                }
            }
            return;
        }
        let name = Name::new("any").expect("a valid name");
        let reason = "no listing".into();
        self.model
            .borrow_mut()
            .report(Violation::Unavailable { name, reason });
    }
}

impl Load {
    /// Lets the clients finish what they are doing.
    pub async fn stop(self) {
        self.going.set(false);
        for client in self.clients {
            client.await;
        }
        self.scenario
            .world
            .note("quiet", || "the clients are done".into());
    }
}
