//! Turns of the connections that have much to send.
//! Copying bytes to the kernel is what a request waits for that came meanwhile, once for each connection that does it; and an
//! append whose sync has ended waits too. So whoever has sent much lines up here, and the poller lets one go on behind those
//! who were woken by each of its looks at the epoll. Where nothing else is to be done, the next look is at once.
//! Invariant: a connection stands in line once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::poller::Readiness;

/// Bytes that one connection hands to the kernel, or takes from it, before others have their turn.
pub(super) const TURN_BYTES: usize = 128 << 10;

/// Bytes that one sends without a turn in [`WINDOW`].
const FREE_BYTES: usize = 16 << 10;

/// After which time a connection is as one that has sent nothing.
const WINDOW: Duration = Duration::from_millis(10);

/// What one connection has of its turn.
#[derive(Default)]
pub(super) struct Turn {
    /// Bytes sent since it was given a turn, or in this window.
    pub sent: Cell<usize>,
    /// When that began.
    began: Cell<Option<Instant>>,
    is_given: Cell<bool>,
    /// Bytes received since others had their turn.
    pub received: Cell<usize>,
    /// It never stands in line: others wait for what it carries.
    pub is_free: Cell<bool>,
    /// Who goes on with the next one.
    pub waiter: RefCell<Option<Waker>>,
    is_in_line: Cell<bool>,
}

impl Turn {
    fn begin(&self, now: Instant, is_given: bool) {
        self.sent.set(0);
        self.began.set(Some(now));
        self.is_given.set(is_given);
    }
}

/// Those of one core that wait.
#[derive(Default)]
pub(super) struct Turns {
    /// The poller's last look; `None` while it sleeps, and looks at no line.
    now: Cell<Option<Instant>>,
    line: RefCell<VecDeque<Rc<Readiness>>>,
}

impl Turns {
    /// Lines up.
    pub(super) fn wait(&self, who: &Rc<Readiness>) {
        if !who.turn.is_in_line.replace(true) {
            self.line.borrow_mut().push_back(who.clone());
        }
    }

    /// At each look of the poller, and when it falls asleep.
    pub(super) fn tell_time(&self, now: Option<Instant>) {
        self.now.set(now);
    }

    /// How many bytes a connection may send before others have their turn.
    pub(super) fn room(&self, turn: &Turn) -> usize {
        let Some(now) = self.now.get().filter(|_| !turn.is_free.get()) else {
            return TURN_BYTES;
        };
        if turn.began.get().is_none_or(|began| now - began >= WINDOW) {
            turn.begin(now, false);
        }
        let all = if turn.is_given.get() {
            TURN_BYTES
        } else {
            FREE_BYTES
        };
        all.saturating_sub(turn.sent.get())
    }

    pub(super) fn is_any(&self) -> bool {
        !self.line.borrow().is_empty()
    }

    /// Lets the first go on; whether there was one.
    pub(super) fn give(&self, now: Instant) -> bool {
        loop {
            let Some(who) = self.line.borrow_mut().pop_front() else {
                return false;
            };
            who.turn.is_in_line.set(false);
            // Who is gone wants none.
            if let Some(waiter) = who.turn.waiter.take() {
                who.turn.begin(now, true);
                waiter.wake();
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::clock;

    #[test]
    fn who_stands_in_line_gets_one_turn_and_one_goes_on_at_a_time() {
        let (turns, now) = (Turns::default(), clock::instant());
        let line: Vec<Rc<Readiness>> = (0..4).map(|_| Rc::default()).collect();
        turns.tell_time(Some(now));
        for who in &line {
            assert_eq!(turns.room(&who.turn), FREE_BYTES);
            who.turn.sent.set(FREE_BYTES);
            assert_eq!(turns.room(&who.turn), 0);
            *who.turn.waiter.borrow_mut() = Some(Waker::noop().clone());
            turns.wait(who);
            turns.wait(who);
        }
        // One that is closed meanwhile takes nobody's turn.
        line[1].turn.waiter.take();
        for left in [3, 2, 1] {
            assert!(turns.give(now));
            let waiting = line.iter().filter(|who| turns.room(&who.turn) == 0);
            assert_eq!(waiting.count(), left);
        }
        assert!(!turns.give(now), "each stood there once");
        // A while later it has sent nothing.
        turns.tell_time(Some(now + WINDOW));
        assert_eq!(turns.room(&line[1].turn), FREE_BYTES);
    }

    #[test]
    fn nobody_lines_up_while_the_poller_sleeps_and_who_carries_what_others_wait_for_never_does() {
        let (turns, turn) = (Turns::default(), Turn::default());
        turn.sent.set(2 * TURN_BYTES);
        assert_eq!(turns.room(&turn), TURN_BYTES);
        turns.tell_time(Some(clock::instant()));
        assert_eq!(turns.room(&turn), FREE_BYTES, "this window's");
        turn.is_free.set(true);
        turn.sent.set(2 * TURN_BYTES);
        assert_eq!(turns.room(&turn), TURN_BYTES);
        turns.tell_time(None);
        assert_eq!(turns.room(&turn), TURN_BYTES);
    }
}
