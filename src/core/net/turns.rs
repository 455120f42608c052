//! Turns of the connections that have much to send.
//! Copying bytes to the kernel is what a request waits for that came meanwhile, once for each connection that does it; and
//! as long as tasks are ready, the executor looks at no disk, so that an append whose sync has ended waits too. So whoever has
//! sent much lines up here, and a few go on in each round of the executor. Where nothing else is to be done, the next round is
//! at once.
//! Invariant: a connection stands in line once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use super::poller::Readiness;
use crate::core::signal::Event;

/// Bytes that one connection hands to the kernel, or takes from it, before others have their turn.
pub(super) const TURN_BYTES: usize = 128 << 10;

/// Turns in a round of the executor, which is several system calls.
const TURNS_PER_ROUND: u32 = 2;

/// What one connection has of its turn.
#[derive(Default)]
pub(super) struct Turn {
    /// Bytes sent since others had theirs.
    pub sent: Cell<usize>,
    /// Bytes received since then.
    pub received: Cell<usize>,
    /// Who goes on with the next one.
    pub waiter: RefCell<Option<Waker>>,
    is_in_line: Cell<bool>,
}

/// Those of one core that wait.
#[derive(Default)]
pub(super) struct Turns {
    line: RefCell<VecDeque<Rc<Readiness>>>,
    is_wanted: Event,
}

impl Turns {
    /// Lines up.
    pub(super) fn wait(&self, who: &Rc<Readiness>) {
        if who.turn.is_in_line.replace(true) {
            return;
        }
        let mut line = self.line.borrow_mut();
        if line.is_empty() {
            self.is_wanted.raise();
        }
        line.push_back(who.clone());
    }

    /// Gives turns, for as long as the executor runs.
    pub(super) async fn run(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            seen = self.is_wanted.beyond(seen).await;
            // Of the end of a round only glommio's reactor hears.
            let _under_way = storage::blocking::under_way();
            while self.give() {
                // The executor comes back to this only after it has looked at disks, timers and other cores.
                round().await;
            }
        }
    }

    /// A round's turns; whether there was one.
    fn give(&self) -> bool {
        let count = self.line.borrow().len().min(TURNS_PER_ROUND as usize);
        for _ in 0..count {
            let Some(who) = self.line.borrow_mut().pop_front() else {
                break;
            };
            who.turn.is_in_line.set(false);
            who.turn.sent.set(0);
            who.turn.waiter.take().into_iter().for_each(Waker::wake);
        }
        count > 0
    }
}

/// Resolves when glommio's reactor has had a round. A timer of no time at all would be over at once, without one.
pub(super) async fn round() {
    glommio::timer::sleep(Duration::from_micros(1)).await;
}

#[cfg(test)]
mod tests {
    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;

    #[test]
    fn who_stands_in_line_gets_one_turn_and_not_all_get_theirs_in_the_same_round() {
        let executor = LocalExecutorBuilder::new(Placement::Unbound);
        let handle = executor.spawn(|| async {
            let turns = Rc::new(Turns::default());
            let line: Vec<Rc<Readiness>> = (0..5).map(|_| Rc::default()).collect();
            for who in &line {
                who.turn.sent.set(TURN_BYTES);
                turns.wait(who);
                turns.wait(who);
            }
            let waiting = || line.iter().filter(|who| who.turn.sent.get() > 0).count();
            assert!(turns.give());
            assert_eq!(waiting(), line.len() - TURNS_PER_ROUND as usize);
            glommio::spawn_local(turns.clone().run()).detach();
            while waiting() > 0 {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            assert!(!turns.give(), "each stood there once");
        });
        handle.unwrap().join().unwrap();
    }
}
