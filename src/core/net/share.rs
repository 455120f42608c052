//! How much of the core goes to what takes long while appends come: those who have much to send (`turns.rs`), and the queues
//! beside the executor's own (`core/tasks.rs`).
//! An append goes through two more threads, the log's and a kernel's for the disk, which on a full machine want this very CPU;
//! and the kernel lets who runs go on for milliseconds where all want to. So while frames of the log are on their way, and for
//! a moment after, the core rests as long as it has worked for the others. A burst costs nobody a rest, as when many readers are
//! told of one large append: only who goes on for longer ([`BURST`]) is held up.
//! Invariant: while the log writes nothing, nobody is held up.

use std::time::{Duration, Instant};

/// After which time without a frame nobody rests.
const RECENT: Duration = Duration::from_millis(5);

/// So much of this window and the one before is no more than a burst.
const BURST: Duration = Duration::from_millis(1);
const WINDOW: Duration = Duration::from_millis(10);

/// A piece takes no longer. What goes beyond that was the executor's own work behind the same look, or the process stood still.
const PIECE_MOST: Duration = Duration::from_micros(300);

/// So long does everything else wait for a frame that is on its way.
const PATIENCE: Duration = Duration::from_micros(300);

/// See the module's head.
pub(super) struct Share {
    /// The last look of the poller.
    now: Instant,
    /// A frame of the log is on its way.
    is_committing: bool,
    /// When one was last.
    committed: Option<Instant>,
    /// When somebody was let go on last, and whether that piece has been counted.
    given: Instant,
    is_counted: bool,
    /// When this window began, and what was worked in it and in the one before.
    window: Instant,
    worked: [Duration; 2],
    /// What is left to rest.
    owed: Duration,
}

impl Share {
    pub(super) fn new(now: Instant) -> Share {
        Share {
            now,
            is_committing: false,
            committed: None,
            given: now,
            is_counted: true,
            window: now,
            worked: [Duration::ZERO; 2],
            owed: Duration::ZERO,
        }
    }

    /// At each look of the poller; the one behind a piece tells how long it took, with whom the look before woke.
    pub(super) fn tell(&mut self, now: Instant, is_committing: bool) {
        let passed = now - self.now;
        (self.now, self.is_committing) = (now, is_committing);
        if is_committing {
            self.committed = Some(now);
        }
        self.turn_window();
        if std::mem::replace(&mut self.is_counted, true) {
            self.owed = self.owed.saturating_sub(passed);
            return;
        }
        let took = now - self.given;
        let worked = PIECE_MOST.min(took);
        self.worked[0] += worked;
        if self.is_shared() && self.worked[0] + self.worked[1] > BURST {
            self.owed = worked.saturating_sub(took - worked);
        }
    }

    fn turn_window(&mut self) {
        let since = self.now - self.window;
        if since >= WINDOW {
            let before = if since < 2 * WINDOW {
                self.worked[0]
            } else {
                Duration::ZERO
            };
            self.worked = [Duration::ZERO, before];
            self.window = self.now;
        }
    }

    /// Whether appends come.
    fn is_shared(&self) -> bool {
        self.committed
            .is_some_and(|committed| self.now - committed < RECENT)
    }

    /// Whether one more piece of what takes long may be done now.
    pub(super) fn may_give(&self) -> bool {
        let waits = self.is_committing && self.now - self.given < PATIENCE;
        let rests = self.is_shared() && self.owed > Duration::ZERO;
        !waits && !rests
    }

    /// It is done before the next look.
    pub(super) fn given(&mut self) {
        (self.given, self.is_counted) = (self.now, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::clock;

    const PIECE: Duration = Duration::from_micros(100);

    /// How many looks of a second, one each 100 us, give a piece of 100 us; `is_committing` is asked with the look's number.
    fn pieces(is_committing: impl Fn(u32) -> bool) -> u32 {
        let mut now = clock::instant();
        let mut share = Share::new(now);
        let mut count = 0;
        for look in 0..10_000 {
            now += PIECE;
            share.tell(now, is_committing(look));
            if share.may_give() {
                share.given();
                count += 1;
            }
        }
        count
    }

    #[test]
    fn without_appends_everybody_goes_on() {
        assert_eq!(pieces(|_| false), 10_000);
    }

    #[test]
    fn beside_appends_half_of_the_core_is_left_to_them() {
        // One each millisecond, whose frame is on its way for a tenth of it.
        let beside = pieces(|look| look % 10 == 0);
        assert!((4_500..5_500).contains(&beside), "{beside}");
        // One frame after the other: nothing is held up for ever.
        let never_quiet = pieces(|_| true);
        assert!((2_000..4_000).contains(&never_quiet), "{never_quiet}");
    }

    #[test]
    fn a_burst_rests_only_when_it_lasts() {
        let mut now = clock::instant();
        let mut share = Share::new(now);
        share.tell(now, true);
        let mut burst = 0;
        loop {
            now += PIECE;
            share.tell(now, false);
            if !share.may_give() {
                break;
            }
            share.given();
            burst += 1;
        }
        let least = BURST.as_micros() / PIECE.as_micros();
        assert!((least..least + 2).contains(&burst), "{burst}");
    }

    #[test]
    fn soon_after_the_last_append_nobody_rests() {
        let mut now = clock::instant();
        let mut share = Share::new(now);
        share.tell(now, true);
        // Pieces until one is rested for that ended just before.
        while now - share.window < RECENT - PIECE {
            now += PIECE;
            share.tell(now, false);
            if share.may_give() {
                share.given();
            }
        }
        share.given();
        now += PIECE / 2;
        share.tell(now, false);
        assert!(!share.may_give());
        share.given();
        now += PIECE;
        share.tell(now, false);
        assert!(share.may_give());
    }

    #[test]
    fn a_core_that_is_busy_with_its_own_gives_a_piece_at_each_look() {
        // Each look is a millisecond behind the one before, and the log is never quiet.
        let mut now = clock::instant();
        let mut share = Share::new(now);
        let mut given = 0;
        for look in 0..1000 {
            now += Duration::from_millis(1);
            share.tell(now, true);
            if share.may_give() {
                share.given();
                given += look.min(1);
            }
        }
        assert!(given >= 990, "{given}");
    }

    #[test]
    fn a_process_that_stood_still_in_a_piece_owes_nothing_for_it() {
        let mut now = clock::instant();
        let mut share = Share::new(now);
        share.tell(now, true);
        share.given();
        now += Duration::from_secs(30);
        share.tell(now, true);
        assert!(share.may_give());
    }
}
