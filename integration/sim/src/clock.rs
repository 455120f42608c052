//! What a node takes for the time.

use ursula::group::Now;

/// A node's two clocks, as functions of the true time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The monotonic clock goes so much too fast, in parts of a million; negative: too slow.
    pub drift: i64,
    /// The wall clock is ahead of the truth by so much.
    pub wall_offset_ms: i64,
    /// Where the monotonic clock of this start began.
    pub base_us: u64,
}

/// The true time of the wall when a run begins, in milliseconds since 1970.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clock {
    /// The clocks at a true time.
    pub fn at(&self, now_us: u64) -> Now {
        let elapsed_us = (now_us as i64) + (now_us as i64) * self.drift / 1_000_000;
        Now {
            wall_ms: (EPOCH_MS + elapsed_us / 1000 + self.wall_offset_ms).max(0) as u64,
            monotonic_us: self.base_us + elapsed_us as u64,
        }
    }

    /// How long, truly, this clock's `us` are.
    pub fn truly(&self, us: u64) -> u64 {
        (us as i64 * 1_000_000 / (1_000_000 + self.drift)) as u64
    }
}
