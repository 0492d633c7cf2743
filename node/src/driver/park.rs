//! Waiting on a thread of its own: for a future, or for a moment to come.
//!
//! A runtime's wheel of timers wakes its thread on the way to a moment that is far, as often as slots of the wheel are
//! emptied; the peer's thread waits for one moment at a time, and an idle peer should sleep until then.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// How the calling thread waits.
pub(super) struct Parker(Waker);

impl Parker {
    /// For the calling thread alone.
    pub(super) fn new() -> Self {
        Parker(Waker::from(Arc::new(Unpark(thread::current()))))
    }

    /// What the future gives, if it does by then; asked at least once. The future is dropped.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>, until: Instant) -> Option<T> {
        let (mut future, mut context) = (pin!(future), Context::from_waker(&self.0));
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return Some(value);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Wakes for nothing at times, which costs one look.
            thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_wait_ends_with_what_comes_from_another_thread_or_at_its_moment() {
        let parker = Parker::new();
        let far = Instant::now() + Duration::from_secs(600);
        let (tell, told) = oneshot::channel();
        let other = thread::spawn(move || tell.send(7));
        assert_eq!(parker.wait(told, far), Some(Ok(7)));
        other.join().unwrap().unwrap();

        let soon = Instant::now() + Duration::from_millis(2);
        assert_eq!(parker.wait(future::pending::<()>(), soon), None);
        assert!(Instant::now() >= soon);
        assert_eq!(
            parker.wait(future::ready(1), soon),
            Some(1),
            "asked once though it is late"
        );
    }
}
