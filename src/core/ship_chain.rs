//! How far the backup of one group is, and what is made of its log. Owns nothing but numbers; what ships is `ship.rs`.

use raftproto::backup::{LogEntry, LogRange, Section};

use super::ship_proof::Before;
use crate::backup::format::Content;
use crate::group::{Group, stamp_of};

/// First wait after a base that could not be made, and the longest.
const RETRY_US: u64 = 1_000_000;
const RETRY_US_MAX: u64 = 300_000_000;

/// How far the backup of a group is that this core leads.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    /// The leadership.
    pub(super) term: u64,
    /// Its name.
    pub(super) id: u64,
    pub(super) base: Option<ShippedBase>,
    /// A base is wanted of this log index or a later one.
    pub(super) wanted: Option<u64>,
    /// Since when.
    pub(super) wanted_ms: u64,
    /// Shipped up to this log index.
    pub(super) shipped: u64,
    /// All that was applied before this time is shipped.
    pub(super) covered_ms: u64,
    /// The store was asked what was shipped before this leadership, and has answered (`ship_proof.rs`).
    pub(super) is_proven: bool,
    /// The log before this leadership, to tell by it what was not shipped.
    pub(super) before: Before,
    pub(super) log_bytes: u64,
    pub(super) ranges: u32,
    /// Log index of the newest base that this leadership has shipped.
    pub(super) newest_base: u64,
    /// The log outgrew its bound before a base came: any state that is newer than the last goes out by itself, since under
    /// such a load one that meets the kept log may never be there in time.
    pub(super) takes_any_base: bool,
    /// No base is tried before this time, in monotonic microseconds.
    pub(super) base_not_before_us: u64,
    /// Times in a row that none could be made.
    pub(super) base_failures: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ShippedBase {
    pub(super) index: u64,
    pub(super) bytes: u64,
    pub(super) shipped_ms: u64,
}

impl Chain {
    /// That of a leadership which begins; its base is wanted. All before `before_ms` is known to be shipped; what is after may
    /// be lost with all nodes until the base is there, or the store says that it is not.
    pub(super) fn begin(id: u64, group: &mut Group, now_ms: u64, before_ms: u64) -> Chain {
        let applied = group.applied().index;
        // As if nothing of it was shipped; unknown where its beginning is not in memory.
        let before = Before::of(group);
        let oldest_ms = before.covered_ms(group, 0, now_ms).unwrap_or(0);
        group.keep_log_from(Some(applied));
        Chain {
            term: group.term(),
            id,
            base: None,
            wanted: Some(applied),
            wanted_ms: now_ms,
            shipped: applied,
            covered_ms: oldest_ms.max(before_ms),
            is_proven: false,
            before,
            log_bytes: 0,
            ranges: 0,
            newest_base: 0,
            takes_any_base: false,
            base_not_before_us: 0,
            base_failures: 0,
        }
    }

    /// The base could not be made: it is tried again later, and later still each time.
    pub(super) fn put_base_off(&mut self, now_us: u64) {
        let wait_us = RETRY_US << self.base_failures.min(10);
        self.base_failures = self.base_failures.saturating_add(1);
        self.base_not_before_us = now_us + wait_us.min(RETRY_US_MAX);
    }

    /// A base is wanted, and may be tried.
    pub(super) fn takes_base(&self, now_us: u64) -> bool {
        self.wanted.is_some() && now_us >= self.base_not_before_us
    }

    /// The log between what was shipped and what will be is lost for the backup: its place takes a state of now or later.
    pub(super) fn begin_anew(&mut self, id: u64, group: &mut Group, now_ms: u64) {
        let applied = group.applied().index;
        self.takes_any_base = self.base.is_none();
        self.id = id;
        (self.base, self.shipped) = (None, applied);
        (self.wanted, self.wanted_ms) = (Some(applied), now_ms);
        group.keep_log_from(Some(applied));
    }

    /// An object with this part is in the store.
    pub(super) fn note(&mut self, part: &Shipped, shipped_ms: u64) {
        let section = &part.section;
        if section.is_base {
            if self.base.is_none() {
                let is_late = self.wanted.is_some_and(|wanted| section.last < wanted);
                let covered_ms = if is_late {
                    section.last_ms
                } else {
                    self.wanted_ms
                };
                self.shipped = section.last;
                self.covered_ms = self.covered_ms.max(covered_ms);
            }
            self.newest_base = section.last;
            self.base = Some(ShippedBase {
                index: section.last,
                bytes: part.bytes,
                shipped_ms,
            });
            (self.wanted, self.log_bytes, self.ranges) = (None, 0, 0);
            self.base_failures = 0;
            return;
        }
        self.shipped = section.last;
        self.log_bytes += part.bytes;
        self.ranges += 1;
        self.covered_ms = part.covered_ms.unwrap_or(self.covered_ms);
    }
}

/// What an object brings once it is there.
#[derive(Debug)]
pub(super) struct Shipped {
    pub(super) group: u32,
    pub(super) chain: u64,
    pub(super) section: Section,
    /// All that was applied before this time.
    pub(super) covered_ms: Option<u64>,
    pub(super) bytes: u64,
}

/// These entries as a part of a chain.
pub(super) fn part_of(
    group: u32,
    chain: &Chain,
    entries: Vec<crate::group::LogEntry>,
) -> Option<(Shipped, Content)> {
    let (first, last) = (entries.first()?, entries.last()?);
    let mut stamps = entries.iter().filter_map(|e| stamp_of(&e.payload));
    let first_ms = stamps.next().unwrap_or_default();
    let mut stamps = entries.iter().rev().filter_map(|e| stamp_of(&e.payload));
    let last_ms = stamps.next().unwrap_or_default();
    let section = Section {
        group,
        chain: chain.id,
        chain_term: chain.term,
        first: first.index,
        last: last.index,
        last_term: last.term,
        first_ms,
        last_ms,
        ..Section::default()
    };
    let part = Shipped {
        group,
        chain: chain.id,
        section,
        covered_ms: None,
        bytes: entries.iter().map(|e| e.payload.len() as u64).sum(),
    };
    let entries = entries.into_iter().map(|entry| LogEntry {
        index: entry.index,
        term: entry.term,
        is_conf_change: entry.is_conf_change,
        payload: entry.payload,
    });
    let entries = entries.collect();
    Some((part, Content::Log(LogRange { entries })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_cannot_be_made_is_tried_ever_less_often() {
        let mut chain = Chain {
            term: 1,
            id: 1,
            base: None,
            wanted: Some(1),
            wanted_ms: 0,
            shipped: 1,
            covered_ms: 0,
            is_proven: false,
            before: Before::default(),
            log_bytes: 0,
            ranges: 0,
            newest_base: 0,
            takes_any_base: false,
            base_not_before_us: 0,
            base_failures: 0,
        };
        let mut now_us = 5;
        for wait_us in [RETRY_US, 2 * RETRY_US, 4 * RETRY_US] {
            assert!(chain.takes_base(now_us));
            chain.put_base_off(now_us);
            assert!(!chain.takes_base(now_us + wait_us - 1));
            now_us += wait_us;
        }
        for _ in 0..100 {
            chain.put_base_off(now_us);
        }
        assert!(chain.takes_base(now_us + RETRY_US_MAX));
    }
}
