//! How fast the disks are: this core's own, by the sync under way, and the other nodes', by how long they lack what they were
//! sent; and whether those have room, by what they say. A node whose disk is slow follows as well as it can, but does not lead
//! where another could: what a leader answers waits for its own disk too.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// A write and sync that takes longer is that of a slow disk, in microseconds. Sound disks take milliseconds; the bound is
/// above what a busy one does now and then.
const SLOW_US: u64 = 1_000_000;

/// How long a disk counts as slow after it was, in microseconds: leadership must not come and go with each stall.
const REMEMBERED_US: u64 = 60_000_000;

/// A node that lacks something for so long is late, in microseconds: nothing is wrong with it, but another one takes over faster.
const LATE_US: u64 = 200_000;

/// How long that is remembered, in microseconds.
const LATE_REMEMBERED_US: u64 = 10_000_000;

/// The disks as this core sees them.
#[derive(Default)]
pub(super) struct Pace {
    /// When the sync under way began, in monotonic microseconds; 0: there is none.
    syncing_since_us: Cell<u64>,
    /// Until when this core's disk counts as slow.
    own_until_us: Cell<u64>,
    /// Until when the other nodes' do.
    others_until_us: RefCell<BTreeMap<u64, u64>>,
    /// Until when they count as late.
    others_late_until_us: RefCell<BTreeMap<u64, u64>>,
    /// The other nodes that have no room.
    others_full: RefCell<BTreeSet<u64>>,
}

impl Pace {
    /// A sync begins.
    pub(super) fn begin(&self, now_us: u64) {
        self.syncing_since_us.set(now_us);
    }

    /// It has ended.
    pub(super) fn end(&self) {
        self.syncing_since_us.set(0);
    }

    /// Looks at the sync under way; for how long it has been, in microseconds, if the disk is slow and was not before.
    pub(super) fn look(&self, now_us: u64) -> Option<u64> {
        let since_us = self.syncing_since_us.get();
        let took_us = now_us.saturating_sub(since_us);
        if since_us == 0 || took_us < SLOW_US {
            return None;
        }
        let was_slow = self.is_slow(now_us);
        self.own_until_us.set(now_us + REMEMBERED_US);
        (!was_slow).then_some(took_us)
    }

    /// A node has lacked something for so long, in microseconds.
    pub(super) fn note_lag(&self, node: u64, lag_us: u64, now_us: u64) {
        if lag_us >= SLOW_US {
            let mut others = self.others_until_us.borrow_mut();
            others.insert(node, now_us + REMEMBERED_US);
        }
        if lag_us >= LATE_US {
            let mut late = self.others_late_until_us.borrow_mut();
            late.insert(node, now_us + LATE_REMEMBERED_US);
        }
    }

    /// A node says whether it has room; whether that is news.
    pub(super) fn note_room(&self, node: u64, has_room: bool) -> bool {
        let mut full = self.others_full.borrow_mut();
        if has_room {
            full.remove(&node)
        } else {
            full.insert(node)
        }
    }

    /// A node said that it has no room.
    pub(super) fn is_other_full(&self, node: u64) -> bool {
        self.others_full.borrow().contains(&node)
    }

    /// This core's disk counts as slow.
    pub(super) fn is_slow(&self, now_us: u64) -> bool {
        now_us < self.own_until_us.get()
    }

    /// A node seems to have a slow disk, or a slow way to it.
    pub(super) fn is_other_slow(&self, node: u64, now_us: u64) -> bool {
        lasts(&self.others_until_us.borrow(), node, now_us)
    }

    /// A node has been late, as any may be.
    pub(super) fn is_other_late(&self, node: u64, now_us: u64) -> bool {
        lasts(&self.others_late_until_us.borrow(), node, now_us)
    }
}

fn lasts(until_us: &BTreeMap<u64, u64>, node: u64, now_us: u64) -> bool {
    until_us
        .get(&node)
        .is_some_and(|until_us| now_us < *until_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_sync_is_remembered_for_a_while() {
        let pace = Pace::default();
        pace.begin(5);
        assert_eq!(pace.look(SLOW_US), None);
        assert_eq!(pace.look(SLOW_US + 5), Some(SLOW_US));
        assert_eq!(pace.look(SLOW_US + 6), None, "said once");
        pace.end();
        assert!(pace.is_slow(SLOW_US + REMEMBERED_US));
        assert!(!pace.is_slow(SLOW_US + REMEMBERED_US + 6));
        assert_eq!(pace.look(3 * REMEMBERED_US), None, "nothing is under way");
    }

    #[test]
    fn a_node_that_lacks_something_for_long_is_slow() {
        let pace = Pace::default();
        pace.note_lag(2, SLOW_US - 1, 10);
        assert!(!pace.is_other_slow(2, 11));
        pace.note_lag(2, SLOW_US, 10);
        assert!(pace.is_other_slow(2, 11) && !pace.is_other_slow(3, 11));
        assert!(!pace.is_other_slow(2, 10 + REMEMBERED_US));
        assert!(pace.is_other_late(2, 11) && !pace.is_other_late(3, 11));
        pace.note_lag(3, LATE_US, 10);
        assert!(pace.is_other_late(3, 11) && !pace.is_other_slow(3, 11));
        assert!(!pace.is_other_late(3, 10 + LATE_REMEMBERED_US));
    }
}
