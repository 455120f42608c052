//! Small things to wait for on one executor: an answer, and an event that many wait for.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Where an answer will be put; see [`slot`].
pub struct Slot<T>(Rc<RefCell<SlotState<T>>>);

/// Resolves once the slot is filled, or dropped empty.
pub struct Filled<T>(Rc<RefCell<SlotState<T>>>);

struct SlotState<T> {
    value: Option<T>,
    is_gone: bool,
    waker: Option<Waker>,
}

/// A place for one answer and the future that waits for it.
pub fn slot<T>() -> (Slot<T>, Filled<T>) {
    let state = Rc::new(RefCell::new(SlotState {
        value: None,
        is_gone: false,
        waker: None,
    }));
    (Slot(state.clone()), Filled(state))
}

impl<T> Slot<T> {
    /// Puts the answer.
    pub fn fill(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.borrow_mut();
            state.is_gone = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Filled<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.borrow_mut();
        if state.value.is_some() || state.is_gone {
            return Poll::Ready(state.value.take());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Wakes all that wait. Each raise has a number, so that no waiter misses one.
#[derive(Default)]
pub struct Event {
    raised: Cell<u64>,
    waiters: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Event {
    /// How often it was raised.
    pub fn raised(&self) -> u64 {
        self.raised.get()
    }

    /// Wakes all waiters.
    pub fn raise(&self) {
        self.raised.set(self.raised.get() + 1);
        let mut waiters = self.waiters.borrow_mut();
        for waker in waiters.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Resolves once it was raised more than `seen` times.
    pub fn beyond(&self, seen: u64) -> Beyond<'_> {
        Beyond {
            event: self,
            seen,
            place: None,
        }
    }
}

/// See [`Event::beyond`].
pub struct Beyond<'a> {
    event: &'a Event,
    seen: u64,
    place: Option<usize>,
}

impl Future for Beyond<'_> {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        let event = self.event;
        if event.raised.get() > self.seen {
            return Poll::Ready(event.raised.get());
        }
        let mut waiters = event.waiters.borrow_mut();
        let place = *self.place.get_or_insert_with(|| {
            event.free.borrow_mut().pop().unwrap_or_else(|| {
                waiters.push(None);
                waiters.len() - 1
            })
        });
        match &mut waiters[place] {
            Some(waker) => waker.clone_from(cx.waker()),
            free => *free = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Beyond<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.event.waiters.borrow_mut()[place] = None;
            self.event.free.borrow_mut().push(place);
        }
    }
}
