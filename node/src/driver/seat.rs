//! Whose turn it is: whoever brings an input drives the peer for as long as that is short, if nobody else does.
//!
//! To give each input to a thread, and its answer back, takes two switches between threads, which is several times what the peer
//! itself needs for a read (measured: docs/benchmarks.md). So a task that has put something into the inbox takes the
//! *seat* if it is free, and handles what is there. If it is not, whoever sits there will look into the inbox once more: nobody
//! waits for the seat ("flat combining": Hendler, Incze, Shavit and Tzafrir, SPAA 2010). What may take long, a commit above all, is
//! the peer's thread's: the seat is passed to it. It also takes the seat by itself when something is due.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Nobody has the seat.
const FREE: u8 = 0;
/// Somebody has.
const TAKEN: u8 = 1;
/// The same, and something came meanwhile.
const AGAIN: u8 = 2;

/// How often a task looks again into the inbox before it leaves the rest to the thread: its own work waits meanwhile (guess).
const ROUNDS: usize = 8;
/// The thread has no moment of its own to wake up at.
const NEVER: u64 = u64::MAX;
/// The longest sleep; only keeps arithmetic on time within range.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// What there is to do in the seat.
pub(super) trait Work {
    /// Handles what came in, as far as that is short; for a task that has other things to do. What it leaves in the inbox is
    /// [`Next::Thread`]'s.
    fn some(&mut self) -> Next;
    /// Handles what came in and what is due; for the thread.
    fn all(&mut self) -> Next;
}

/// What remains to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing until then, unless something comes in.
    At(Instant),
    /// What only the thread does.
    Thread,
    /// Nothing, ever.
    End,
}

/// See the module's documentation.
pub(super) struct Seat<W> {
    state: AtomicU8,
    /// The seat was passed to the thread.
    passed: AtomicBool,
    /// When the thread takes it by itself, in nanoseconds since `origin`.
    wake: AtomicU64,
    origin: Instant,
    thread: OnceLock<Thread>,
    /// Whoever has the seat has this to himself. None before the beginning, after the end, and after a panic.
    work: Mutex<Option<W>>,
}

impl<W> fmt::Debug for Seat<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}

impl<W: Work> Seat<W> {
    /// One that is taken until its thread begins.
    pub(super) fn new() -> Self {
        Seat {
            state: AtomicU8::new(TAKEN),
            passed: AtomicBool::new(true),
            wake: AtomicU64::new(NEVER),
            origin: Instant::now(),
            thread: OnceLock::new(),
            work: Mutex::new(None),
        }
    }

    /// Has what was put into the inbox handled: here and now, or by whoever has the seat.
    pub(super) fn attend(&self) {
        if !self.take() {
            return;
        }
        for _ in 0..ROUNDS {
            let Some(Next::At(wake)) = self.work(W::some) else {
                break;
            };
            self.wake_at(wake);
            if self.leave() {
                return;
            }
        }
        self.passed.store(true, Ordering::Release);
        self.unpark();
    }

    /// The thread's life: until the work ends, which it gives back, or panics.
    pub(super) fn run(&self, work: W) -> Option<W> {
        // Nobody else has set it: a seat has one thread.
        let _ = self.thread.set(thread::current());
        *self.locked() = Some(work);
        loop {
            self.wait();
            loop {
                match self.work(W::all)? {
                    Next::End => return self.locked().take(),
                    Next::Thread => {}
                    Next::At(wake) => {
                        self.wake.store(self.nanos(wake), Ordering::Relaxed);
                        if self.leave() {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Waits until the seat is the thread's.
    fn wait(&self) {
        loop {
            if self.passed.swap(false, Ordering::Acquire) {
                return;
            }
            let wake = self.wake.load(Ordering::Relaxed);
            let left = wake.saturating_sub(self.nanos(Instant::now()));
            if left > 0 {
                // Wakes for nothing at times, which costs one look.
                thread::park_timeout(Duration::from_nanos(left).min(SLEEP_MAX));
                continue;
            }
            // Whoever has the seat looks at this before leaving it, because taking it failed.
            self.wake.store(NEVER, Ordering::Relaxed);
            if self.take() {
                return;
            }
        }
    }

    /// Takes the seat; if it is taken, whoever has it will look again.
    fn take(&self) -> bool {
        self.state
            .compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
            || self.state.swap(AGAIN, Ordering::AcqRel) == FREE
    }

    /// Leaves the seat, unless something came meanwhile.
    fn leave(&self) -> bool {
        let left = self
            .state
            .compare_exchange(TAKEN, FREE, Ordering::AcqRel, Ordering::Acquire);
        if left.is_err() {
            self.state.swap(TAKEN, Ordering::AcqRel);
        }
        left.is_ok()
    }

    /// Does some work; none when there is none left to do, because it has ended or panicked.
    fn work(&self, work: impl FnOnce(&mut W) -> Next) -> Option<Next> {
        let mut place = self.locked();
        let here = place.as_mut()?;
        let done = catch_unwind(AssertUnwindSafe(|| work(here)));
        if done.is_err() {
            // Half done, so not to be gone on with; whoever waits for an answer hears that there will be none. What broke may
            // break again on being put away.
            let broken = place.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        }
        done.ok()
    }

    /// Tells the thread to be there at that moment, if it is not there before anyway.
    fn wake_at(&self, wake: Instant) {
        let wake = self.nanos(wake);
        if wake < self.wake.load(Ordering::Relaxed) {
            self.wake.store(wake, Ordering::Relaxed);
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        u64::try_from(since.as_nanos()).unwrap_or(NEVER)
    }

    fn locked(&self) -> MutexGuard<'_, Option<W>> {
        // A panic is caught before the lock is given back.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
    use std::thread::{JoinHandle, ThreadId};

    use super::*;

    enum Order {
        /// Tell who does it.
        Short(Sender<ThreadId>),
        /// Only the thread does this.
        Long(Sender<ThreadId>),
        /// Do something in so long.
        Later(Duration, Sender<ThreadId>),
        Panic,
        /// Panic, and once more on being put away.
        PanicTwice,
        End,
    }

    struct Desk {
        orders: Receiver<Order>,
        long: Vec<Sender<ThreadId>>,
        later: Vec<(Instant, Sender<ThreadId>)>,
        end: bool,
        broken: bool,
    }

    impl Drop for Desk {
        fn drop(&mut self) {
            assert!(!self.broken, "on purpose, once more");
        }
    }

    impl Desk {
        /// Whether nothing is left in the inbox.
        fn take(&mut self, most: usize) -> bool {
            for _ in 0..most {
                match self.orders.try_recv() {
                    Ok(Order::Short(tell)) => tell.send(thread::current().id()).unwrap(),
                    Ok(Order::Long(tell)) => self.long.push(tell),
                    Ok(Order::Later(after, tell)) => {
                        self.later.push((Instant::now() + after, tell));
                    }
                    Ok(Order::Panic) => panic!("on purpose"),
                    Ok(Order::PanicTwice) => {
                        self.broken = true;
                        panic!("on purpose");
                    }
                    Ok(Order::End) => self.end = true,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
                }
            }
            false
        }

        fn next(&self) -> Instant {
            let never = Instant::now() + Duration::from_secs(600);
            self.later.iter().fold(never, |next, (at, _)| next.min(*at))
        }
    }

    impl Work for Desk {
        fn some(&mut self) -> Next {
            let short = self.take(3) && self.long.is_empty() && !self.end;
            match short && self.next() > Instant::now() {
                true => Next::At(self.next()),
                false => Next::Thread,
            }
        }

        fn all(&mut self) -> Next {
            self.take(usize::MAX);
            let now = Instant::now();
            for tell in self.long.drain(..) {
                tell.send(thread::current().id()).unwrap();
            }
            for (_, tell) in self.later.extract_if(.., |(at, _)| *at <= now) {
                tell.send(thread::current().id()).unwrap();
            }
            match self.end {
                true => Next::End,
                false => Next::At(self.next()),
            }
        }
    }

    struct Office {
        seat: Arc<Seat<Desk>>,
        orders: Sender<Order>,
        thread: JoinHandle<bool>,
    }

    fn open() -> Office {
        let (orders, inbox) = channel();
        let seat = Arc::new(Seat::new());
        let desk = Desk {
            orders: inbox,
            long: Vec::new(),
            later: Vec::new(),
            end: false,
            broken: false,
        };
        let run = seat.clone();
        let thread = thread::spawn(move || run.run(desk).is_some());
        Office {
            seat,
            orders,
            thread,
        }
    }

    impl Office {
        fn give(&self, order: Order) {
            self.orders.send(order).unwrap();
            self.seat.attend();
        }

        fn ask(&self, order: impl FnOnce(Sender<ThreadId>) -> Order) -> ThreadId {
            let (tell, told) = channel();
            self.give(order(tell));
            told.recv().unwrap()
        }

        fn close(self) {
            self.give(Order::End);
            assert!(self.thread.join().unwrap());
        }
    }

    #[test]
    fn what_is_long_is_the_threads_and_what_is_short_needs_no_thread() {
        let office = open();
        let thread = office.thread.thread().id();
        assert_eq!(office.ask(Order::Long), thread);
        // It may still be in its seat for a moment.
        while office.ask(Order::Short) == thread {}
        assert_eq!(office.ask(Order::Long), thread);
        office.close();
    }

    #[test]
    fn the_thread_wakes_up_for_what_a_task_has_put_off() {
        let office = open();
        let thread = office.thread.thread().id();
        for millis in [0, 1, 20] {
            let later = |tell| Order::Later(Duration::from_millis(millis), tell);
            assert_eq!(office.ask(later), thread);
        }
        office.close();
    }

    #[test]
    fn nothing_is_left_lying_whoever_brings_it() {
        let office = Arc::new(open());
        let clerks: Vec<_> = (0..4)
            .map(|n| {
                let office = office.clone();
                thread::spawn(move || {
                    for i in 0..5_000 {
                        match (i + n) % 7 {
                            0 => office.ask(Order::Long),
                            1 => office.ask(|t| Order::Later(Duration::from_micros(50), t)),
                            _ => office.ask(Order::Short),
                        };
                    }
                })
            })
            .collect();
        for clerk in clerks {
            clerk.join().unwrap();
        }
        Arc::into_inner(office).unwrap().close();
    }

    #[test]
    fn a_panic_ends_it_whoever_has_the_seat() {
        ends_by(Order::Panic);
        ends_by(Order::PanicTwice);
    }

    fn ends_by(order: Order) {
        let office = open();
        let (tell, told) = channel();
        office.ask(Order::Short);
        office.give(order);
        // What comes afterwards is answered by nobody, and holds nobody up.
        let _ = office.orders.send(Order::Short(tell));
        office.seat.attend();
        assert!(!office.thread.join().unwrap());
        drop(office.orders);
        assert!(told.recv().is_err());
    }
}
