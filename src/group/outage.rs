//! An outage of the object store as one core sees it. A group waits for twice as long after each pack that the store did not take
//! (`cold.rs`): that asks little of a store that is gone, and would be long after one that is back. So of all groups that wait
//! one tries every few seconds, and once the store has answered anything all of them try soon.
//! Owns since when the store fails, and when it was asked last. Invariants: during an outage a core asks no more for it than
//! once in [`PROBE_MS`], and nothing if its groups ask as often by themselves.

use super::Group;
use super::cold::{ColdWork, Stage};
use crate::mutation;

/// First and longest wait after the store refused something.
const RETRY_MS: (u64, u64) = (500, 60_000);

/// So long after the store was asked last, the group that would try next does.
const PROBE_MS: u64 = 5_000;

/// Within so much after an outage all groups that wait try again.
const SPREAD_MS: u64 = 1_000;

/// A store that failed for less failed for some requests only, or the groups wait for no longer.
const SHORT_MS: u64 = 2_000;

/// See the module's head. Times are of a clock that does not jump.
#[derive(Debug, Default)]
pub struct Outage {
    since_ms: Option<u64>,
    asked_ms: u64,
    is_over: bool,
}

impl Outage {
    /// The store did not do what it was asked.
    pub fn failed(&mut self, now_ms: u64) {
        self.since_ms.get_or_insert(now_ms);
        self.asked_ms = now_ms;
    }

    /// The store answered.
    pub fn answered(&mut self, now_ms: u64) {
        if let Some(since_ms) = self.since_ms.take() {
            self.is_over |= since_ms + SHORT_MS <= now_ms;
        }
    }

    /// Time has passed: groups that wait try sooner than they meant to, if that may help.
    pub fn hasten<'a>(&mut self, now_ms: u64, groups: impl Iterator<Item = &'a mut Group>) {
        let is_over = std::mem::take(&mut self.is_over);
        let is_due = self.since_ms.is_some() && self.asked_ms + PROBE_MS <= now_ms;
        if !(is_over || is_due) || mutation::is_on("outage-waited-out") {
            return;
        }
        let waiting = groups.filter_map(|g| Some((g.tries_pack_ms()?, g)));
        if is_over {
            let mut waiting: Vec<_> = waiting.collect();
            let count = waiting.len() as u64;
            for (place, (_, group)) in (0..).zip(&mut waiting) {
                group.cold.forget_failures();
                group.try_pack_within(SPREAD_MS * place / count);
            }
        } else if let Some((_, next)) = waiting.min_by_key(|(at_ms, _)| *at_ms) {
            self.asked_ms = now_ms;
            next.try_pack_within(0);
        }
    }
}

impl ColdWork {
    /// When what has failed is tried again.
    pub(super) fn retry_after_ms(&mut self, now_ms: u64) -> u64 {
        // Many orders that fail at the same time are one failure.
        if self.retry_ms <= now_ms || mutation::is_on("outage-waited-out") {
            let wait_ms = RETRY_MS.0 << self.failures.min(10);
            self.failures += 1;
            self.retry_ms = now_ms + wait_ms.min(RETRY_MS.1);
        }
        self.retry_ms.min(now_ms + RETRY_MS.1)
    }

    /// The store answers.
    pub(super) fn forget_failures(&mut self) {
        (self.failures, self.retry_ms) = (0, 0);
    }
}

impl Group {
    /// When it tries again to put a pack that the store did not take.
    fn tries_pack_ms(&self) -> Option<u64> {
        match self.cold.flush.as_ref()?.stage {
            Stage::Waiting { until_ms } => Some(until_ms),
            _ => None,
        }
    }

    fn try_pack_within(&mut self, wait_ms: u64) {
        let soon_ms = self.now_ms + wait_ms;
        if let Some(flush) = &mut self.cold.flush
            && let Stage::Waiting { until_ms } = &mut flush.stage
        {
            *until_ms = soon_ms.min(*until_ms);
        }
    }
}
