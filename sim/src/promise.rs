//! A value that arrives later.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct State<T> {
    value: Option<T>,
    closed: bool,
    waker: Option<Waker>,
}

/// Resolves to the value, or to `None` when its [`Resolver`] was dropped without one.
pub struct Promise<T>(Rc<RefCell<State<T>>>);

/// Fulfils a [`Promise`].
pub struct Resolver<T>(Rc<RefCell<State<T>>>);

/// A promise and what fulfils it.
pub fn promise<T>() -> (Resolver<T>, Promise<T>) {
    let state = Rc::new(RefCell::new(State {
        value: None,
        closed: false,
        waker: None,
    }));
    (Resolver(Rc::clone(&state)), Promise(state))
}

impl<T> Resolver<T> {
    /// Fulfils the promise.
    pub fn resolve(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for Resolver<T> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Promise<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.borrow_mut();
        if state.closed {
            return Poll::Ready(state.value.take());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
