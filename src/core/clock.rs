//! The only place that reads clocks, and the core's source of randomness.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Largest step of the system's clock against the monotonic one that is followed at once.
const STEP_MS_MAX: i64 = 10 * 60 * 1000;

/// How often the system's clock is looked at.
const FOLLOW_MS: i64 = 50;

/// The clocks of one core.
pub struct Clock {
    began: Instant,
    /// System time minus monotonic time, in milliseconds.
    base_ms: Cell<i64>,
    /// When it was last compared with the system's clock.
    followed_ms: Cell<i64>,
    refused_step: Cell<bool>,
    /// The other nodes' times minus the own monotonic one, in milliseconds.
    others_ms: RefCell<BTreeMap<u64, i64>>,
    is_ahead: Cell<bool>,
    random: Cell<u64>,
}

impl Clock {
    /// Reads the clocks for the first time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn start() -> Clock {
        let began = Instant::now();
        let seed = system_ms() ^ (std::ptr::from_ref(&began) as u64).rotate_left(32);
        Clock {
            began,
            base_ms: Cell::new(system_ms() as i64),
            followed_ms: Cell::new(0),
            refused_step: Cell::new(false),
            others_ms: RefCell::default(),
            is_ahead: Cell::new(false),
            random: Cell::new(seed | 1),
        }
    }

    /// Both clocks.
    pub fn now(&self) -> crate::group::Now {
        crate::group::Now {
            wall_ms: self.now_ms(),
            monotonic_us: self.monotonic_us(),
        }
    }

    /// Microseconds since the core started.
    pub fn monotonic_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Milliseconds since 1970. A step of the system's clock by more than ten minutes is not followed, since
    /// it would expire streams for ever; it is reported once, and accepted by a restart only.
    pub fn now_ms(&self) -> u64 {
        let monotonic_ms = self.began.elapsed().as_millis() as i64;
        if monotonic_ms >= self.followed_ms.get() + FOLLOW_MS {
            self.followed_ms.set(monotonic_ms);
            self.follow_system(monotonic_ms);
        }
        (monotonic_ms + self.base_ms.get()).max(0) as u64
    }

    fn follow_system(&self, monotonic_ms: i64) {
        let step = system_ms() as i64 - monotonic_ms - self.base_ms.get();
        if step.abs() <= STEP_MS_MAX {
            self.base_ms.set(self.base_ms.get() + step);
            if self.refused_step.replace(false) {
                log::info!("event=clock_back step_ms={step} the system's clock is followed again");
            }
        } else if !self.refused_step.replace(true) {
            log::error!(
                "event=clock_step step_ms={step} the system's clock jumped; not followed until it is back, or a restart"
            );
        }
    }

    /// Another node says what time it is. A system's clock that is ahead of most nodes' by more than a step that would be
    /// followed is not followed: what it stamped would expire streams for ever, and stamps never go back. Of two that
    /// differ, the one that is behind is believed, which at worst expires late. No node votes for one that it did not tell
    /// its time.
    pub fn heed(&self, node: u64, wall_ms: u64) {
        if wall_ms == 0 {
            return;
        }
        let monotonic_ms = self.began.elapsed().as_millis() as i64;
        let system = system_ms() as i64 - monotonic_ms;
        let mut others = self.others_ms.borrow_mut();
        others.insert(node, wall_ms as i64 - monotonic_ms);
        let most = lower_median(others.values().copied().chain([system]));
        let ahead_ms = system - most;
        if ahead_ms > STEP_MS_MAX {
            self.base_ms.set(most);
            self.refused_step.set(true);
            if !self.is_ahead.replace(true) {
                log::error!(
                    "event=clock_ahead ahead_ms={ahead_ms} the system's clock is ahead of the other nodes'; theirs is followed until it is right"
                );
            }
        } else if self.is_ahead.replace(false) {
            self.base_ms.set(system);
            self.refused_step.set(false);
            log::info!(
                "event=clock_agreed ahead_ms={ahead_ms} the system's clock is followed again"
            );
        }
    }

    /// The next number of a xorshift generator; for jitter and ids, not for secrets.
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// The middle one, and of two the lower.
fn lower_median(times: impl Iterator<Item = i64>) -> i64 {
    let mut times: Vec<i64> = times.collect();
    times.sort_unstable();
    times[(times.len() - 1) / 2]
}

/// The monotonic clock as the reactor's timers and hyper know it.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn instant() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn system_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

    #[test]
    fn a_clock_that_is_ahead_of_most_is_not_followed() {
        let now_ms = system_ms();
        let is_near = |clock: &Clock, wanted_ms: u64| clock.now_ms().abs_diff(wanted_ms) < 60_000;
        // This node's is ahead of both.
        let clock = Clock::start();
        clock.heed(2, now_ms - YEAR_MS);
        assert!(is_near(&clock, now_ms - YEAR_MS));
        clock.heed(3, now_ms - YEAR_MS + 1000);
        assert!(is_near(&clock, now_ms - YEAR_MS));
        // They are put right.
        clock.heed(2, now_ms);
        assert!(is_near(&clock, now_ms));
        // One that is behind is outvoted, one that is ahead is nobody's trouble.
        let clock = Clock::start();
        clock.heed(2, now_ms - YEAR_MS);
        clock.heed(3, now_ms + YEAR_MS);
        assert!(is_near(&clock, now_ms));
        clock.heed(2, now_ms + YEAR_MS);
        assert!(is_near(&clock, now_ms));
    }
}
