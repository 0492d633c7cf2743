//! Asking peers from within their process, and over the network.

use peernet_core::io::{Answer, Request};
use peernet_core::store::{Identity, Store};
use thiserror::Error;

use super::Fleet;
use crate::network::HostId;

/// How long a call may take before the caller gives up, in milliseconds.
pub const CALL_TIMEOUT: u64 = 5_000;
/// After so many milliseconds something lost is sent again for the first time (Linux's smallest TCP timeout).
const RETRANSMIT: u64 = 200;

/// Why a call was not answered. What it asked may have been done all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// No process runs there, or it ended meanwhile.
    #[error("nobody is there")]
    Gone,
    /// No answer in time.
    #[error("no answer within {CALL_TIMEOUT} ms")]
    Timeout,
}

impl Fleet {
    /// One direction of a call. A loss costs the time until it is sent again, as by TCP; a cut is noticed only by
    /// waiting. The caller's patience bounds it.
    async fn hop(&self, from: HostId, to: HostId) {
        let mut patience = RETRANSMIT;
        loop {
            let first = self
                .0
                .network
                .borrow()
                .deliveries(self.world(), from, to)
                .min();
            if let Some(delay) = first {
                return self.world().sleep(delay).await;
            }
            self.world().sleep(patience).await;
            patience *= 2;
        }
    }

    /// Goes to `to`, does something there, and comes back with the outcome.
    pub(super) async fn round_trip<T>(
        &self,
        from: HostId,
        to: HostId,
        there: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let trip = async {
            self.hop(from, to).await;
            let outcome = there.await;
            self.hop(to, from).await;
            outcome
        };
        self.world()
            .timeout(CALL_TIMEOUT, trip)
            .await
            .unwrap_or(Err(CallError::Timeout))
    }

    /// Asks the peer on `id` something from within its own process.
    pub async fn request(&self, id: HostId, request: Request) -> Result<Answer, CallError> {
        let run = self.host(id).run;
        let asked = self.with_process(id, run, |p| p.request(request));
        let (promise, next) = asked.ok_or(CallError::Gone)?;
        self.follow(id, run, next);
        promise.await.ok_or(CallError::Gone)
    }

    /// What the volume on `to` remembers of itself, asked over the network; the peer need not run.
    pub async fn identify(&self, from: HostId, to: HostId) -> Result<Option<Identity>, CallError> {
        let there = async {
            let run = self.host(to).run;
            self.awake(to, run).await?;
            let identity = self.host(to).store().identity();
            Ok(identity.expect("a store in memory does not fail"))
        };
        self.round_trip(from, to, there).await
    }

    /// Asks the peer on `to` something over the network.
    pub async fn call(
        &self,
        from: HostId,
        to: HostId,
        request: Request,
    ) -> Result<Answer, CallError> {
        self.round_trip(from, to, self.request(to, request)).await
    }
}
