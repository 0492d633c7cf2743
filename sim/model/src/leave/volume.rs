//! A process starts on what its volume remembers.

use peernet_core::boot::{Assignment, boot};
use peernet_core::key::Position;
use peernet_core::member::{Liveness, Member};
use peernet_core::store::memory::MemoryStore;
use peernet_core::store::{Identity, Store, StoreError};

use super::copy::{Copy, slot};
use super::{Peer, Variant, id};

impl Peer {
    /// The peer that this pod becomes.
    pub(super) fn started(&self, at: u8, variant: Variant) -> Peer {
        let mut peer = match variant {
            Variant::OldIdentity => Peer {
                left: false,
                ..self.clone()
            },
            _ => self.booted(at).expect("memory does not fail"),
        };
        if variant == Variant::DrainForgotten {
            peer.drain.leaving = false;
        }
        peer.up = true;
        peer.met.clear();
        peer.synced = false;
        peer.retired = 0;
        peer
    }

    fn booted(&self, at: u8) -> Result<Peer, StoreError> {
        let mut store = self.volume(at)?;
        let fresh = id(at, self.life + 1);
        let identity = boot(&mut store, assignment(at), fresh).expect("it is the same network");
        let remembered = store.remembered()?;
        let life = if identity.member.id == fresh {
            self.life + 1
        } else {
            self.life
        };
        Ok(Peer {
            life,
            record: remembered.slots.into_iter().next().map(|(_, r)| r),
            copy: Copy::read(&store)?,
            drain: identity.member.drain,
            left: identity.member.liveness == Liveness::Left,
            ..self.clone()
        })
    }

    fn volume(&self, at: u8) -> Result<MemoryStore, StoreError> {
        let mut store = MemoryStore::default();
        store.put_identity(&Identity {
            network: "n".into(),
            member: self.member(at),
        })?;
        if let Some(record) = &self.record {
            store.put_slot(slot(), record)?;
        }
        self.copy.write(&mut store)?;
        store.commit()?;
        Ok(store)
    }

    /// As it describes itself, and as others see it.
    pub(super) fn member(&self, at: u8) -> Member {
        let Assignment {
            network: _,
            name,
            address,
            http,
            zone,
            position,
            version,
        } = assignment(at);
        Member {
            id: self.id(at),
            name,
            address,
            http,
            zone,
            position,
            incarnation: 1,
            liveness: match (self.left, self.up) {
                (true, _) => Liveness::Left,
                (false, true) => Liveness::Active,
                (false, false) => Liveness::Down,
            },
            drain: self.drain,
            version,
        }
    }
}

fn assignment(at: u8) -> Assignment {
    Assignment {
        network: "n".into(),
        name: format!("n-{at}"),
        address: String::new(),
        http: String::new(),
        zone: String::new(),
        position: Position(at.into()),
        version: String::new(),
    }
}
