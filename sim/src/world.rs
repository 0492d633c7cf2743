//! Virtual time, the queue of events and the tasks that wait for them.
//!
//! Events run one after another in order of (time, sequence number); tasks are polled in the order in which they were
//! woken. Nothing here reads a clock or draws from anything but the world's own generator, so that a seed is a run.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use thiserror::Error;

use crate::promise::{Promise, promise};

/// So many events in one run mean that something spins. The largest scenario takes a few millions.
const EVENTS_MAX: u64 = 50_000_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Scheduled {
    at: u64,
    seq: u64,
    action: Box<dyn FnOnce()>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(self.task);
    }
}

struct Inner {
    now: Cell<u64>,
    seq: Cell<u64>,
    ticks: Cell<u64>,
    queue: RefCell<BinaryHeap<Reverse<Scheduled>>>,
    rng: RefCell<fastrand::Rng>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    trace: RefCell<DefaultHasher>,
    verbose: bool,
}

/// The world. A handle: clones share it.
#[derive(Clone)]
pub struct World(Rc<Inner>);

/// Why a run did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Stuck {
    /// Nothing is left to happen.
    #[error("at {0} ms nothing is left to happen, but the scenario has not ended")]
    Silent(u64),
    /// The virtual time allowed is over.
    #[error("the scenario has not ended after {0} ms of virtual time")]
    TooLong(u64),
    /// Something spins.
    #[error("the scenario has not ended after {EVENTS_MAX} events, at {0} ms")]
    Spinning(u64),
}

impl World {
    /// A world at time 0. With the environment variable `SIM_TRACE` set it prints every event.
    pub fn new(seed: u64) -> Self {
        World(Rc::new(Inner {
            now: Cell::new(0),
            seq: Cell::new(0),
            ticks: Cell::new(0),
            queue: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: Arc::default(),
            trace: RefCell::new(DefaultHasher::new()),
            verbose: std::env::var_os("SIM_TRACE").is_some(),
        }))
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.0.now.get()
    }

    /// A number greater than all that this returned before: orders what happens within a millisecond.
    pub fn tick(&self) -> u64 {
        self.0.ticks.set(self.0.ticks.get() + 1);
        self.0.ticks.get()
    }

    /// Lets `action` happen after `delay` milliseconds.
    pub fn after(&self, delay: u64, action: impl FnOnce() + 'static) {
        let seq = self.0.seq.get();
        self.0.seq.set(seq + 1);
        let event = Scheduled {
            at: self.now() + delay,
            seq,
            action: Box::new(action),
        };
        self.0.queue.borrow_mut().push(Reverse(event));
    }

    /// Waits so many milliseconds.
    pub async fn sleep(&self, millis: u64) {
        let (resolver, promise) = promise();
        self.after(millis, move || resolver.resolve(()));
        promise.await;
    }

    /// Waits for `future`, but no longer than so many milliseconds.
    pub async fn timeout<T>(&self, millis: u64, future: impl Future<Output = T>) -> Option<T> {
        let mut future = Box::pin(future);
        let mut sleep = Box::pin(self.sleep(millis));
        std::future::poll_fn(move |context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            sleep.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Starts a task. The promise resolves to its value and may be dropped; the task goes on.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Promise<T> {
        let (resolver, promise) = promise();
        let id = self.0.next_task.get();
        self.0.next_task.set(id + 1);
        let task: Task = Box::pin(async move { resolver.resolve(future.await) });
        self.0.tasks.borrow_mut().insert(id, task);
        self.wake(id);
        promise
    }

    fn wake(&self, task: u64) {
        self.0
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(task);
    }

    fn run_ready(&self) {
        loop {
            let next = self
                .0
                .ready
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(id) = next else { return };
            // Taken out while it runs, so that it may spawn others. Woken twice, it may be gone already.
            let Some(mut task) = self.0.tasks.borrow_mut().remove(&id) else {
                continue;
            };
            let waker = Waker::from(Arc::new(TaskWaker {
                task: id,
                ready: Arc::clone(&self.0.ready),
            }));
            if task
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
            {
                self.0.tasks.borrow_mut().insert(id, task);
            }
        }
    }

    /// Runs the world until `future` is done, for at most `limit` milliseconds of virtual time.
    pub fn run<T: 'static>(
        &self,
        limit: u64,
        future: impl Future<Output = T> + 'static,
    ) -> Result<T, Stuck> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        drop(self.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        }));
        let end = self.now() + limit;
        for _ in 0..EVENTS_MAX {
            self.run_ready();
            if let Some(value) = result.borrow_mut().take() {
                return Ok(value);
            }
            let Some(Reverse(event)) = self.0.queue.borrow_mut().pop() else {
                return Err(Stuck::Silent(self.now()));
            };
            if event.at > end {
                return Err(Stuck::TooLong(limit));
            }
            self.0.now.set(event.at);
            (event.action)();
        }
        Err(Stuck::Spinning(self.now()))
    }

    /// Ends all tasks and forgets all events. Breaks the cycles of shared handles that they hold.
    pub fn end(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        let queue = std::mem::take(&mut *self.0.queue.borrow_mut());
        drop(queue);
    }

    /// A random number of the range; the empty range gives its start.
    pub fn random(&self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return range.start;
        }
        self.0.rng.borrow_mut().u64(range)
    }

    /// A random 128-bit number.
    pub fn random_id(&self) -> u128 {
        self.0.rng.borrow_mut().u128(1..)
    }

    /// True with this probability.
    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.0.rng.borrow_mut().f64() < probability
    }

    /// One of them at random.
    pub fn choose<T: Clone>(&self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            return None;
        }
        Some(of[self.0.rng.borrow_mut().usize(..of.len())].clone())
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        self.0.rng.borrow_mut().shuffle(items);
    }

    /// Adds something that happened to the trace; `words` is only called to print it.
    pub fn note(&self, fact: impl Hash, words: impl FnOnce() -> String) {
        (self.now(), fact).hash(&mut *self.0.trace.borrow_mut());
        if self.0.verbose {
            eprintln!("{:>8} {}", self.now(), words());
        }
    }

    /// The hash of everything that happened so far.
    pub fn trace(&self) -> u64 {
        self.0.trace.borrow().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_happen_in_order_of_time_then_of_being_scheduled() {
        let world = World::new(1);
        let seen = Rc::new(RefCell::new(Vec::new()));
        for (delay, name) in [(5, "c"), (1, "a"), (5, "d"), (2, "b")] {
            let (seen, clock) = (Rc::clone(&seen), world.clone());
            world.after(delay, move || seen.borrow_mut().push((clock.now(), name)));
        }
        let clock = world.clone();
        world
            .run(100, async move { clock.sleep(10).await })
            .unwrap();
        assert_eq!(*seen.borrow(), [(1, "a"), (2, "b"), (5, "c"), (5, "d")]);
        assert_eq!(world.now(), 10);
    }

    #[test]
    fn a_task_can_wait_for_another_and_give_up_on_it() {
        let world = World::new(1);
        let w = world.clone();
        let result = world.run(1_000, async move {
            let clock = w.clone();
            let quick = w.spawn(async move {
                clock.sleep(5).await;
                7
            });
            let clock = w.clone();
            let slow = w.spawn(async move { clock.sleep(500).await });
            (quick.await, w.timeout(50, slow).await, w.now())
        });
        assert_eq!(result, Ok((Some(7), None, 55)));
    }

    #[test]
    fn a_run_that_cannot_end_says_so() {
        let world = World::new(1);
        let (resolver, never) = promise::<()>();
        assert_eq!(
            world.run(10, async move { never.await.is_some() }),
            Err(Stuck::Silent(0))
        );
        drop(resolver);
        let w = world.clone();
        assert_eq!(
            world.run(10, async move { w.sleep(11).await }),
            Err(Stuck::TooLong(10))
        );
        world.end();
    }
}
