//! What can go wrong with a machine besides ending: it stops for a while, its clock is wrong, its disk fails or rots.

use std::ops::Range;

use bytes::Bytes;
use peernet_core::store::StoreError;

use super::{CallError, Fleet};
use crate::network::HostId;
use crate::promise::promise;

impl Fleet {
    /// From now on the clocks of processes that start go at a rate of this range, in ‰ of the world's.
    pub fn set_clocks(&self, rates: Range<u64>) {
        *self.0.clocks.borrow_mut() = rates;
    }

    /// The clock of the process on `id` jumps ahead.
    pub fn jump_clock(&self, id: HostId, millis: u64) {
        let run = self.host(id).run;
        let now = self.world().now();
        self.world().note((id, "jump", millis), || {
            format!("the clock of {} jumps {millis} ms ahead", id.0)
        });
        if let Some(next) = self.with_process(id, run, |p| p.jump(now, millis)) {
            self.follow(id, run, next);
        }
    }

    /// The process on `id` does nothing from now on (`kill -STOP`). What is sent to it waits.
    pub fn stop(&self, id: HostId) {
        let mut host = self.host(id);
        if host.process.is_some() && host.stopped.is_none() {
            self.world()
                .note((id, "stop"), || format!("{} is stopped", id.0));
            host.stopped = Some(Vec::new());
        }
    }

    /// It goes on, and believes what it believed before.
    pub fn go_on(&self, id: HostId) {
        let Some(waiting) = self.host(id).stopped.take() else {
            return;
        };
        self.world()
            .note((id, "go on"), || format!("{} goes on", id.0));
        waiting
            .into_iter()
            .for_each(|act| self.world().after(0, act));
    }

    /// Whether the process is stopped; then it will do this when it goes on.
    pub(super) fn put_off(&self, id: HostId, run: u64, act: impl FnOnce() + 'static) -> bool {
        let mut host = self.host(id);
        let right_run = host.run == run;
        match &mut host.stopped {
            Some(waiting) if right_run => {
                waiting.push(Box::new(act));
                true
            }
            _ => false,
        }
    }

    /// Waits until the process on `id`, which is in its run `run`, is not stopped.
    pub(super) async fn awake(&self, id: HostId, run: u64) -> Result<(), CallError> {
        let (resolver, goes_on) = promise();
        if self.put_off(id, run, move || resolver.resolve(())) {
            return goes_on.await.ok_or(CallError::Gone);
        }
        Ok(())
    }

    /// The disk has failed: nobody knows what it holds. The process ends.
    pub(super) fn disk_failed(&self, id: HostId, error: &StoreError) {
        self.world()
            .note((id, "disk failed"), || format!("{}: {error}", id.0));
        self.crash(id);
    }

    /// Of the chunks' files on `id`, one of so many gets a wrong byte. Returns how many.
    pub fn rot(&self, id: HostId, one_of: u64) -> usize {
        self.0.rotten.set(true);
        let mut rotten = 0;
        for file in self.host(id).volume.files.values_mut() {
            if !file.bytes.is_empty() && self.world().random(0..one_of) == 0 {
                let mut bytes = file.bytes.to_vec();
                bytes[0] ^= 1;
                file.bytes = Bytes::from(bytes);
                rotten += 1;
            }
        }
        self.world().note((id, "rot", rotten), || {
            format!("{rotten} chunks on {} rot", id.0)
        });
        rotten
    }

    /// Reads every chunk that these machines say they hold, as a reader would.
    pub async fn read_every_copy(&self, hosts: &[HostId]) {
        for host in hosts {
            let keys = self.host(*host).chunks();
            for key in keys {
                // Whatever is wrong with it is told to the peer; the bytes are of no interest.
                let _ = self.load_chunk(*host, key).await;
            }
        }
    }
}
