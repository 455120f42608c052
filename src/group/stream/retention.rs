//! When a stream's bytes were appended, as far as retention needs to know: spans of appends one after the other, in
//! the log's own time, so that every replica has the same.
//! Owns the spans of one stream. Invariants: contiguous, from the floor to the tail; a span begins with an append, so
//! that a cut between two never divides a message; bounded in number.

use std::collections::VecDeque;

use crate::mutation;
use crate::protocol::Retention;

/// A span ends when it is as long as this part of what is kept, in time or bytes.
const PARTS: u64 = 32;

/// Twice as many as what is kept can have. When there are more, the leader is late to trim: what is to go is one span.
const SPANS_MAX: usize = 4 * PARTS as usize;

/// Bytes that were appended one after the other; they end where the next begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First stream byte.
    pub start: u64,
    /// When the first were appended, by the group's clock.
    pub first_ms: u64,
    /// When the last were.
    pub last_ms: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct Kept {
    /// What the stream was created with.
    pub policy: Retention,
    spans: VecDeque<Span>,
    /// Where it stands in its group's queue; not replicated.
    pub due_ms: Option<u64>,
}

impl Kept {
    /// Nothing was appended yet.
    pub fn new(policy: Retention) -> Kept {
        Kept {
            policy,
            spans: VecDeque::new(),
            due_ms: None,
        }
    }

    /// Oldest first.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter()
    }

    /// As a checkpoint has them.
    pub fn restore(&mut self, spans: impl Iterator<Item = Span>) {
        self.spans = spans.collect();
    }

    /// `added` bytes were appended at `start`. Answers when the stream is to be looked at.
    pub fn note(&mut self, start: u64, added: u64, stamp_ms: u64) -> Option<u64> {
        if added > 0 {
            if self.spans.len() == SPANS_MAX && !mutation::is_on("late-trim-keeps-more") {
                self.join_spare(stamp_ms, start);
            }
            let is_long = |span: &Span| {
                let age_ms = self.policy.max_age_ms.map(|ms| (ms / PARTS).max(1));
                let bytes = self.policy.max_bytes.map(|bytes| (bytes / PARTS).max(1));
                age_ms.is_some_and(|max| stamp_ms - span.first_ms >= max)
                    || bytes.is_some_and(|max| start - span.start >= max)
            };
            let is_new = self.spans.back().is_none_or(is_long) && self.spans.len() < SPANS_MAX;
            match self.spans.back_mut() {
                Some(newest) if !is_new => newest.last_ms = stamp_ms,
                _ => self.spans.push_back(Span {
                    start,
                    first_ms: stamp_ms,
                    last_ms: stamp_ms,
                }),
            }
        }
        self.next_due_ms(start + added)
    }

    /// What has to go, goes at once; where its appends began matters no more.
    fn join_spare(&mut self, now_ms: u64, tail: u64) {
        let floor = self.floor(now_ms, tail);
        let spare = self.spans.partition_point(|span| span.start < floor);
        if spare > 1 {
            self.spans[spare - 1].start = self.spans[0].start;
            self.spans[spare - 1].first_ms = self.spans[0].first_ms;
            self.spans.drain(..spare - 1);
        }
    }

    /// When the first bytes may have to go, by what is known now: never late, perhaps early.
    pub fn next_due_ms(&self, tail: u64) -> Option<u64> {
        let first = self.spans.front()?;
        if self.floor_by_bytes(tail) > first.start {
            return Some(0);
        }
        let max_age_ms = self.policy.max_age_ms?;
        Some(first.last_ms.saturating_add(max_age_ms))
    }

    /// First byte that is to be kept at `now_ms`; 0: all.
    pub fn floor(&self, now_ms: u64, tail: u64) -> u64 {
        let Some(max_age_ms) = self.policy.max_age_ms else {
            return self.floor_by_bytes(tail);
        };
        let is_old = |span: &Span| {
            let at_ms = match mutation::is_on("age-of-the-first") {
                true => span.first_ms,
                false => span.last_ms,
            };
            at_ms.saturating_add(max_age_ms) <= now_ms
        };
        let old = self.spans.partition_point(is_old);
        let by_age = match old {
            0 => 0,
            _ => self.spans.get(old).map_or(tail, |span| span.start),
        };
        by_age.max(self.floor_by_bytes(tail))
    }

    fn floor_by_bytes(&self, tail: u64) -> u64 {
        let Some(max_bytes) = self.policy.max_bytes else {
            return 0;
        };
        let is_spare = |span: &Span| tail - span.start >= max_bytes;
        let last = self.spans.partition_point(is_spare).checked_sub(1);
        last.map_or(0, |index| self.spans[index].start)
    }

    /// Bytes before `floor` are gone.
    pub fn trim(&mut self, floor: u64, tail: u64) {
        while let Some(first) = self.spans.front_mut() {
            first.start = first.start.max(floor);
            let end = self.spans.get(1).map_or(tail, |next| next.start);
            if end > floor {
                return;
            }
            self.spans.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(max_age_ms: Option<u64>, max_bytes: Option<u64>) -> Kept {
        Kept::new(Retention {
            max_age_ms,
            max_bytes,
        })
    }

    #[test]
    fn what_is_younger_is_kept_and_what_is_older_goes_soon() {
        let mut kept = kept(Some(3200), None);
        let mut floor = 0;
        for at in 0..1000u64 {
            // One byte each 10 ms.
            let now_ms = 1_000_000 + at * 10;
            kept.note(at, 1, now_ms);
            floor = kept.floor(now_ms, at + 1).max(floor);
            kept.trim(floor, at + 1);
            let first_young = (at + 1).saturating_sub(320);
            assert!(floor <= first_young, "{floor} at {at}");
            assert!(floor + 12 >= first_young, "{floor} at {at}");
            assert!(kept.spans.len() <= 40);
        }
        let end_ms = 1_000_000 + 9_990 + 3_200;
        assert_eq!(kept.floor(end_ms, 1000), 1000, "in the end all goes");
        assert!(kept.floor(end_ms - 1, 1000) < 1000);
        kept.trim(1000, 1000);
        assert_eq!(kept.next_due_ms(1000), None);
    }

    #[test]
    fn the_newest_bytes_are_kept_and_little_more() {
        let mut kept = kept(None, Some(1000));
        let mut tail = 0;
        for at in 0..5000u64 {
            let added = 1 + at * 7 % 13;
            let due_ms = kept.note(tail, added, at);
            tail += added;
            let floor = kept.floor(at, tail);
            assert_eq!(due_ms == Some(0), floor > kept.spans[0].start);
            kept.trim(floor, tail);
            let from = kept.spans[0].start;
            assert!(tail - from >= tail.min(1000));
            assert!(tail - from <= 1000 + 1000 / 32 + 13 + 13, "{}", tail - from);
        }
    }

    #[test]
    fn a_leader_that_does_not_trim_costs_no_memory_and_no_young_bytes() {
        let mut kept = kept(Some(320), None);
        for at in 0..10_000u64 {
            kept.note(at, 1, at * 10);
        }
        assert!(kept.spans.len() <= SPANS_MAX);
        let floor = kept.floor(99_990, 10_000);
        assert!((9_966..=9_968).contains(&floor), "{floor}");
        assert_eq!(kept.floor(100_000 + 320, 10_000), 10_000);
    }

    #[test]
    fn a_leader_that_trims_late_keeps_no_more_than_one_in_time() {
        let (mut late, mut in_time) = (kept(None, Some(1000)), kept(None, Some(1000)));
        for at in 0..5000u64 {
            late.note(at * 10, 10, at);
            in_time.note(at * 10, 10, at);
            let tail = at * 10 + 10;
            let floor = in_time.floor(at, tail);
            assert_eq!(late.floor(at, tail), floor);
            in_time.trim(floor, tail);
        }
    }

    #[test]
    fn an_explicit_floor_cuts_a_span() {
        let mut kept = kept(Some(1000), Some(100));
        kept.note(0, 50, 1);
        kept.trim(20, 50);
        assert_eq!(kept.spans[0].start, 20);
        kept.note(50, 90, 500);
        assert_eq!(kept.floor(500, 140), 20, "only whole appends go");
        assert_eq!(kept.floor(1001, 140), 50);
    }
}
