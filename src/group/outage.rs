//! An outage of the object store as one core sees it that has come so far behind that it will refuse appends. A group waits for twice
//! as long after each pack that the store did not take (`cold.rs`): that asks little of a store that is gone, and would be long after
//! one that is back. So of the groups that wait one tries every few seconds, in turn, and once the store has taken a pack, all do.
//! Owns since when the store takes nothing, and when it was asked last. Invariants: a core hastens nobody twice within
//! [`PROBE_MS`]; how long a group waits by itself stays as it is, so that one whose pack will never be taken is not put all the time.

use super::Group;
use super::cold::{ColdWork, Stage};
use crate::mutation;

/// First and longest wait after the store refused something.
const RETRY_MS: (u64, u64) = (500, 60_000);

/// So long after the store was asked last, the next group tries. One that took nothing for less refused some packs only, or the
/// groups wait for no longer.
const PROBE_MS: u64 = 5_000;

/// Within so much after an outage all groups that wait try again.
const SPREAD_MS: u64 = 1_000;

/// See the module's head. Times are of a clock that does not jump.
#[derive(Debug, Default)]
pub struct Outage {
    since_ms: Option<u64>,
    asked_ms: u64,
    is_over: bool,
    /// The group that tried last for the others.
    probed: u32,
}

impl Outage {
    /// The store did not take a pack.
    pub fn failed(&mut self, now_ms: u64) {
        self.since_ms.get_or_insert(now_ms);
        self.asked_ms = now_ms;
    }

    /// The store took a pack.
    pub fn taken(&mut self, now_ms: u64) {
        if let Some(since_ms) = self.since_ms.take() {
            self.is_over |= since_ms + PROBE_MS <= now_ms;
        }
    }

    /// Time has passed: groups that wait try sooner than they meant to, if that may help.
    pub fn hasten<'a>(&mut self, now_ms: u64, groups: impl Iterator<Item = &'a mut Group>) {
        let is_over = std::mem::take(&mut self.is_over);
        let is_due = self.since_ms.is_some() && self.asked_ms + PROBE_MS <= now_ms;
        if !(is_over || is_due) || mutation::is_on("outage-waited-out") {
            return;
        }
        let mut waiting: Vec<_> = groups.filter(|g| g.waits_for_store()).collect();
        let count = waiting.len() as u64;
        if is_over {
            for (place, group) in (0..).zip(&mut waiting) {
                group.try_pack_within(SPREAD_MS * place / count);
            }
            return;
        }
        waiting.sort_by_key(|group| group.id());
        let next =
            waiting.partition_point(|group| group.id() <= self.probed) % waiting.len().max(1);
        if let Some(group) = waiting.get_mut(next) {
            (self.probed, self.asked_ms) = (group.id(), now_ms);
            group.try_pack_within(0);
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

    /// The store has a pack.
    pub(super) fn forget_failures(&mut self) {
        (self.failures, self.retry_ms) = (0, 0);
    }
}

impl Group {
    /// The store did not take its pack, and it waits before it tries again.
    fn waits_for_store(&self) -> bool {
        let flush = self.cold.flush.as_ref();
        flush.is_some_and(|flush| matches!(flush.stage, Stage::Waiting { .. }))
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
