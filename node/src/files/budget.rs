//! The memory that transfers may hold, shared fairly: first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes per permit; semaphores count to 2^32 only.
const UNIT: usize = 1024;

/// A number of bytes; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    total: usize,
    waiting: Arc<AtomicUsize>,
}

/// Bytes taken from a budget until dropped.
pub(crate) type Share = OwnedSemaphorePermit;

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        let total = bytes / UNIT;
        Budget {
            permits: Arc::new(Semaphore::new(total)),
            total,
            waiting: Arc::default(),
        }
    }

    /// Waits for so many bytes, behind those who asked before. More than the whole budget counts as the whole.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Share> {
        let _waiting = Waiting::new(&self.waiting);
        // `None` only from a closed semaphore, which this is never.
        self.permits
            .clone()
            .acquire_many_owned(self.units(bytes))
            .await
            .ok()
    }

    /// Bytes that are taken.
    pub(crate) fn taken(&self) -> u64 {
        ((self.total - self.permits.available_permits()) * UNIT) as u64
    }

    /// Someone waits for bytes.
    pub(crate) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// So many bytes if they are free.
    pub(crate) fn take_now(&self, bytes: usize) -> Option<Share> {
        let units = self.units(bytes);
        self.permits.clone().try_acquire_many_owned(units).ok()
    }

    /// So many bytes if more than half of the budget would stay free: for what is good to have but can wait.
    pub(crate) fn take_spare(&self, bytes: usize) -> Option<Share> {
        let units = self.units(bytes);
        if self.permits.available_permits() < units as usize + self.total / 2 {
            return None;
        }
        self.take_now(bytes)
    }

    /// Of a share, what so many bytes take; the rest is given back.
    pub(crate) fn keep(&self, mut share: Share, bytes: usize) -> Share {
        let spare = share
            .num_permits()
            .saturating_sub(self.units(bytes) as usize);
        drop(share.split(spare));
        share
    }

    fn units(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT).min(self.total) as u32
    }
}

/// Counts while it lives, so that a wait that is given up counts no more.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn spare_bytes_leave_half_for_others() {
        let budget = Budget::new(10 * UNIT);
        let spare: Vec<_> = (0..10).map_while(|_| budget.take_spare(UNIT)).collect();
        assert_eq!(spare.len(), 5);
        let rest = budget.take(5 * UNIT).await.unwrap();
        assert!(budget.permits.clone().try_acquire_owned().is_err());
        let mut waiting = Box::pin(budget.take(UNIT));
        assert!(futures::poll!(&mut waiting).is_pending() && budget.is_short());
        drop(waiting);
        assert!(!budget.is_short());
        drop(spare);
        let rest = budget.keep(rest, UNIT + 1);
        assert_eq!(budget.taken(), 2 * UNIT as u64);
        drop(rest);
        assert!(
            budget.take(100 * UNIT).await.is_some(),
            "what is larger than all is let through alone"
        );
    }
}
