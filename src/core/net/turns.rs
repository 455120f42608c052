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
    /// Bytes received since then.
    pub received: Cell<usize>,
    /// Who goes on with the next one.
    pub waiter: RefCell<Option<Waker>>,
    is_in_line: Cell<bool>,
}

impl Turn {
    fn begin(&self, now: Option<Instant>, is_given: bool) {
        self.sent.set(0);
        self.began.set(now);
        self.is_given.set(is_given);
    }
}

/// Those of one core that wait.
#[derive(Default)]
pub(super) struct Turns {
    /// The poller's last look.
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

    /// At each look of the poller.
    pub(super) fn tell_time(&self, now: Instant) {
        self.now.set(Some(now));
    }

    /// How many bytes a connection may send before others have their turn.
    pub(super) fn room(&self, turn: &Turn) -> usize {
        let now = self.now.get();
        let is_new = match (turn.began.get(), now) {
            (Some(began), Some(now)) => now - began >= WINDOW,
            _ => true,
        };
        if is_new {
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
    pub(super) fn give(&self) -> bool {
        let Some(who) = self.line.borrow_mut().pop_front() else {
            return false;
        };
        who.turn.is_in_line.set(false);
        who.turn.begin(self.now.get(), true);
        who.turn.waiter.take().into_iter().for_each(Waker::wake);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_in_line_gets_one_turn_and_one_goes_on_at_a_time() {
        let turns = Turns::default();
        let line: Vec<Rc<Readiness>> = (0..3).map(|_| Rc::default()).collect();
        for who in &line {
            who.turn.sent.set(TURN_BYTES);
            turns.wait(who);
            turns.wait(who);
        }
        for left in (0..line.len()).rev() {
            assert!(turns.give());
            let waiting = line.iter().filter(|who| who.turn.sent.get() > 0);
            assert_eq!(waiting.count(), left);
        }
        assert!(!turns.give(), "each stood there once");
    }
}
