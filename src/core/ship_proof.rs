//! What those who led a group before have shipped of it. A leadership that begins knows nothing of that, and until its own
//! first state is shipped the lag must not say less than is true: what cannot be proven to be in the store counts as lost.
//! The store is asked once per leadership, for a few objects, the newest first; each names how far a group was shipped.
//! Invariants: what is unknown makes the lag too large, never too small.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use storage::cold::{ColdKey, ColdObject};

use super::Core;
use crate::backup::{BackupError, Source, objects_prefix, shipped_ms_of};
use crate::group::{Group, stamp_of};

/// The log that is looked through for the oldest entry that is not shipped.
const LOOK_BYTES: u64 = 64 << 10;

/// How often a core looks whether there is something to ask, and how long it waits after a store that did not answer.
const LOOK: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(5);

/// How far back the store is asked, one after the other, until all groups are found.
const WINDOWS_MS: [u64; 4] = [60_000, 600_000, 7_200_000, 24 * 3600 * 1000];

/// Objects that one request lists; of more in a window, the oldest are enough to be on the safe side.
const PAGE: usize = 1000;

/// Objects whose index is read for one question.
const READS_MAX: usize = 64;

/// Entries that are noted of the log before a leadership.
const NOTED: u64 = 64;

/// The end of a group's log when a leadership begins: its memory of that goes then.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    /// All that has a stamp after this index is noted.
    from: u64,
    /// Index and stamp.
    stamps: Vec<(u64, u64)>,
    /// Where it ended.
    end: u64,
}

impl Before {
    pub(super) fn of(group: &Group) -> Before {
        let (from, stamps) = group.newest_stamps(NOTED);
        Before {
            from,
            stamps,
            end: group.applied().index,
        }
    }

    /// All that was applied before this time is shipped, if the log was shipped up to `shipped`: that of the oldest entry after
    /// it. `None`: that entry is not known any more.
    pub(super) fn covered_ms(&self, group: &Group, shipped: u64, now_ms: u64) -> Option<u64> {
        if shipped < self.from {
            return None;
        }
        let noted = self.stamps.iter().find(|(index, _)| *index > shipped);
        if let Some((_, stamp_ms)) = noted {
            return Some(*stamp_ms);
        }
        let entries = group.log_after(self.end.max(shipped), LOOK_BYTES)?;
        let oldest = entries.iter().find_map(|e| stamp_of(&e.payload));
        Some(oldest.unwrap_or(now_ms))
    }
}

/// How far a group was shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    last: u64,
    last_ms: u64,
}

impl Core {
    /// Asks the store for as long as the core runs, whenever a leadership began.
    pub(super) async fn prove_backups(self: Rc<Self>) {
        let Some(store) = self.cold.clone() else {
            return;
        };
        let source = Source {
            store,
            cluster: self.config.cluster_id.clone(),
        };
        loop {
            self.sleep(LOOK).await;
            let asked = self.unproven();
            if asked.is_empty() || self.tables.borrow().slots.is_empty() {
                continue;
            }
            match self.find_reaches(&source, &asked).await {
                Ok(reaches) => self.note_reaches(&asked, &reaches),
                Err(error) => {
                    log::debug!("event=backup_reach_unknown core={} {error}", self.id);
                    self.shipping.is_asked_in_vain.set(true);
                    self.sleep(RETRY).await;
                }
            }
        }
    }

    /// The chains of which it is not known what was shipped before them, by group.
    fn unproven(&self) -> BTreeMap<u32, u64> {
        let chains = self.shipping.chains.borrow();
        let own = chains.iter().filter(|(_, c)| !c.is_proven);
        own.map(|(group, chain)| (*group, chain.term)).collect()
    }

    async fn find_reaches(
        &self,
        source: &Source,
        asked: &BTreeMap<u32, u64>,
    ) -> Result<BTreeMap<u32, Reach>, BackupError> {
        let history = self.tables.borrow().history;
        let now_ms = self.clock.now_ms();
        let mut reaches: BTreeMap<u32, Reach> = BTreeMap::new();
        let mut read: BTreeSet<ColdKey> = BTreeSet::new();
        for window_ms in WINDOWS_MS {
            for object in since(source, now_ms.saturating_sub(window_ms)).await? {
                if read.len() >= READS_MAX || asked.keys().all(|g| reaches.contains_key(g)) {
                    return Ok(reaches);
                }
                if !read.insert(object.key.clone()) {
                    continue;
                }
                let index = match source.index(&object).await {
                    Ok(index) => index,
                    Err(BackupError::Damaged { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let own = index.sections.iter().filter(|_| index.history == history);
                for section in own.filter(|s| asked.contains_key(&s.group)) {
                    let found = Reach {
                        last: section.last,
                        last_ms: section.last_ms,
                    };
                    let reach = reaches.entry(section.group).or_insert(found);
                    *reach = found.max(*reach);
                }
            }
        }
        Ok(reaches)
    }

    fn note_reaches(&self, asked: &BTreeMap<u32, u64>, reaches: &BTreeMap<u32, Reach>) {
        let now_ms = self.clock.now_ms();
        let groups = self.groups.borrow();
        let mut chains = self.shipping.chains.borrow_mut();
        for (id, term) in asked {
            let chain = chains.get_mut(id).filter(|c| c.term == *term);
            let (Some(chain), Some(group)) = (chain, groups.get(id)) else {
                continue;
            };
            chain.is_proven = true;
            if let Some(reach) = reaches.get(id) {
                let known_ms = chain.before.covered_ms(group, reach.last, now_ms);
                chain.covered_ms = chain.covered_ms.max(known_ms.unwrap_or(reach.last_ms));
            }
        }
        self.shipping.is_asked_in_vain.set(false);
    }
}

/// Objects that were shipped since a time, the newest first.
async fn since(source: &Source, from_ms: u64) -> Result<Vec<ColdObject>, BackupError> {
    let prefix = objects_prefix(&source.cluster);
    let after = ColdKey::new(format!("{prefix}{from_ms:014}"));
    let mut page = source.store.list(&prefix, after.as_ref(), PAGE).await?;
    page.retain(|object| shipped_ms_of(&object.key).is_some());
    page.reverse();
    Ok(page)
}
