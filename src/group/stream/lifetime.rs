//! When a stream ends: sliding windows and absolute instants (protocol, section 5.1).
//!
//! Expiry is a command in the log. The leader decides when to propose it, from the logged touches and from
//! the reads that it served itself; what it served is logged coarsely, so that reads do not write. Its
//! deadline is never before the logged one, which the command is held against once more when it is applied.

use super::Stream;
use crate::mutation;
use crate::protocol::Expiry;

/// How far a read may slide the window without being logged: an eighth of it, at most a minute.
pub(crate) fn coarse_ms(ttl_seconds: u64) -> u64 {
    (ttl_seconds.saturating_mul(1000) / 8).min(60_000)
}

impl Stream {
    /// When the stream ends if nobody touches it any more, by the leader's knowledge. A leader that took
    /// over at `leader_since_ms` allows for reads which the one before had not logged yet.
    pub fn deadline_ms(&self, leader_since_ms: u64) -> Option<u64> {
        match self.expiry {
            Expiry::Never | Expiry::At(_) => self.logged_deadline_ms(),
            Expiry::Ttl(seconds) => {
                let mut window = seconds.saturating_mul(1000);
                if mutation::is_on("expired-early") {
                    window -= window / 8;
                }
                let touched = self.touched_ms.max(self.read_ms);
                let unlogged = if touched < leader_since_ms {
                    coarse_ms(seconds)
                } else {
                    0
                };
                Some(touched.saturating_add(window).saturating_add(unlogged))
            }
        }
    }

    /// When the stream ends by what is in the log alone: the same on every replica.
    pub fn logged_deadline_ms(&self) -> Option<u64> {
        match self.expiry {
            Expiry::Never => None,
            Expiry::At(at_ms) => Some(at_ms),
            Expiry::Ttl(seconds) => {
                let window = seconds.saturating_mul(1000);
                Some(self.touched_ms.saturating_add(window))
            }
        }
    }

    /// The leader served a read. Answers whether the touch has to be logged now; it then counts as proposed and is
    /// not asked for again until the window has slid as far once more.
    pub fn read_at(&mut self, now_ms: u64) -> bool {
        let Expiry::Ttl(seconds) = self.expiry else {
            return false;
        };
        self.read_ms = self.read_ms.max(now_ms);
        let logged = self.touched_ms.max(self.touch_proposed_ms);
        let is_far = self.read_ms > logged.saturating_add(coarse_ms(seconds));
        if is_far {
            self.touch_proposed_ms = self.read_ms;
        }
        is_far
    }
}
