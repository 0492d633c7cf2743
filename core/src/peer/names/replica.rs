//! A replica's side: promising, storing, telling.

use crate::collect::{Upload, upload_of};
use crate::key::{Key, Slot};
use crate::member::PeerId;
use crate::message::Message;
use crate::outbox::Consumers;
use crate::peer::{Done, Peer};
use crate::register::{Acceptor, Register, Version};
use crate::store::{Store, StoreError};

impl<S: Store> Peer<S> {
    /// This replica as the acceptor of a name; `held` is the name's register here.
    fn acceptor(&self, key: &Key, held: Option<&Register>) -> Result<Acceptor, StoreError> {
        Ok(Acceptor {
            epoch: self.slots.config(key.slot()).map_or(0, |c| c.epoch),
            promised: self.store.promise(key)?,
            admitted: held.map(|r| r.version),
        })
    }

    /// Stores a register in the place of `held`; the effects of a write that is new here are pending for `consumers`.
    fn put_name(
        &mut self,
        slot: Slot,
        held: Option<&Register>,
        register: &Register,
        consumers: Consumers,
    ) -> Done {
        self.note_released(held, register);
        self.store.put_register(register)?;
        self.slots.touch(slot);
        if held.is_none_or(|r| r.write != register.write) {
            self.mark(register, consumers)?;
        }
        Ok(())
    }

    /// What do you hold; and, with a ballot, do you promise to admit nothing lower?
    #[allow(clippy::too_many_arguments, reason = "they are the message's fields")]
    pub(in crate::peer) fn on_read(
        &mut self,
        from: PeerId,
        op: u64,
        epoch: u64,
        key: Key,
        ballot: Option<Version>,
        about: Option<Upload>,
        hold: bool,
    ) -> Done {
        if !self.serves(from, op, key.slot(), epoch) {
            return Ok(());
        }
        let register = self.store.register(&key)?;
        if let Some(ballot) = ballot {
            if ballot.epoch != epoch || ballot.round == 0 {
                // Nobody claims the owner's round, or under another epoch than it says.
                return Ok(());
            }
            let acceptor = self.acceptor(&key, register.as_ref())?;
            if let Err(version) = acceptor.claim(ballot) {
                self.send(from, Message::Outbid { op, version });
                return Ok(());
            }
            if acceptor.promised != Some(ballot) {
                self.store.put_promise(&key, &ballot)?;
            }
        }
        let read = about.is_some_and(|upload| self.has_reader(key, upload));
        let holds = register.as_ref().and_then(|r| upload_of(&r.value));
        if let Some(upload) = about.or(holds).filter(|_| hold) {
            self.note_reader(key, upload);
        }
        self.send(from, Message::ReadReply { op, register, read });
        Ok(())
    }

    /// Store this, unless a greater ballot was promised.
    pub(in crate::peer) fn on_write(
        &mut self,
        from: PeerId,
        op: u64,
        epoch: u64,
        register: Register,
        repair: bool,
    ) -> Done {
        let key = Key::of_name(&register.name);
        if !self.serves(from, op, key.slot(), epoch) || register.version.epoch != epoch {
            return Ok(());
        }
        if self.disk_full && register.is_present() && !repair {
            self.send(from, Message::NoRoom { op });
            return Ok(());
        }
        let held = self.store.register(&key)?;
        let acceptor = self.acceptor(&key, held.as_ref())?;
        let reply = match acceptor.admit(register.version) {
            Err(version) => Message::Outbid { op, version },
            Ok(()) => {
                if acceptor.admitted != Some(register.version) {
                    let effects = self.settings.effects;
                    self.put_name(key.slot(), held.as_ref(), &register, effects)?;
                }
                Message::WriteReply { op }
            }
        };
        self.send(from, reply);
        Ok(())
    }

    /// Stores what this peer, as the owner, is about to propose in the place of what it holds; false when a promise
    /// forbids it.
    pub(super) fn keep_own(
        &mut self,
        key: &Key,
        held: Option<&Register>,
        register: &Register,
    ) -> Result<bool, StoreError> {
        let allowed = self.acceptor(key, held)?.admit(register.version).is_ok();
        if allowed {
            self.put_name(key.slot(), held, register, self.settings.effects)?;
        }
        Ok(allowed)
    }

    /// Takes over what another replica has admitted. False when a promise forbids it: then the name has to be decided
    /// again before this replica may say that it holds what the other one does. `consumers` is whose effects are pending
    /// there.
    pub(in crate::peer) fn keep_register(
        &mut self,
        slot: Slot,
        register: &Register,
        consumers: Consumers,
    ) -> Result<bool, StoreError> {
        let key = Key::of_name(&register.name);
        let held = self.store.register(&key)?;
        let acceptor = self.acceptor(&key, held.as_ref())?;
        if acceptor.admitted >= Some(register.version) {
            return Ok(true);
        }
        if acceptor.admit(register.version).is_err() {
            self.settle(register)?;
            return Ok(false);
        }
        self.put_name(slot, held.as_ref(), register, consumers)?;
        Ok(true)
    }

    /// Whether this replica may answer under that epoch; if not, the coordinator hears why.
    pub(super) fn serves(&mut self, from: PeerId, op: u64, slot: Slot, epoch: u64) -> bool {
        let config = self.slots.config(slot);
        if config.is_some_and(|c| c.epoch == epoch && c.involves(self.me)) {
            return true;
        }
        let config = config.cloned();
        self.send(from, Message::Stale { op, slot, config });
        false
    }
}
