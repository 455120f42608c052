//! Deletes what no time needs any more that the backup can be restored to. The core that leads group 0 does it for all.
//!
//! Objects are named by time: it looks at those that are older than twice `dr_keep_ms`, never at all of them, and reads what is
//! in each once. A led group ships its state at least once in `dr_keep_ms`, so all of them have newer ones by then. Half of that
//! time is for restores: they may miss an object that another one names only if it can have been collected.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use raftproto::backup::Index;
use storage::cold::{ColdError, ColdKey, ColdObject};

use super::Core;
use crate::backup::collect::collectable;
use crate::backup::{BackupError, Source, objects_prefix, shipped_ms_of};
use crate::ops::metrics::add;

/// Longest time between two looks.
const LOOK_MS_MAX: u64 = 3600 * 1000;

/// Objects that one request lists or deletes.
const PAGE: usize = 1000;

/// Indexes that are kept in memory between two looks; of more, some are read again.
const INDEXES_MAX: usize = 20_000;

/// Objects that are looked at together.
const WINDOW: usize = 20_000;

impl Core {
    /// Collects until the core stops.
    pub(super) async fn collect_backups(self: Rc<Self>) {
        let Some(store) = self.cold.clone() else {
            return;
        };
        let source = Source {
            store,
            cluster: self.config.cluster_id.clone(),
        };
        let period_ms = (self.config.dr_keep_ms / 8).min(LOOK_MS_MAX);
        let mut known = BTreeMap::new();
        loop {
            self.sleep(Duration::from_millis(period_ms)).await;
            let leads = self.groups.borrow().get(&0).is_some_and(|g| g.is_ready());
            let leads = leads && !self.tables.borrow().slots.is_empty();
            // While the backup is behind, it is no time to take anything from it.
            if !leads || self.is_failed.get() || self.is_backup_late() {
                known.clear();
                continue;
            }
            if let Err(error) = self.collect_once(&source, &mut known).await {
                log::warn!("event=backup_not_collected {error}");
            }
        }
    }

    async fn collect_once(
        &self,
        source: &Source,
        known: &mut BTreeMap<ColdKey, Index>,
    ) -> Result<(), BackupError> {
        let now_ms = self.clock.now_ms();
        let Some(until_ms) = now_ms.checked_sub(2 * self.config.dr_keep_ms) else {
            return Ok(());
        };
        let mut after = None;
        loop {
            let (old, end) = old_objects(source, until_ms, after).await?;
            self.collect_window(source, known, old).await?;
            if end.is_none() {
                return Ok(());
            }
            after = end;
        }
    }

    /// Collects among these objects alone. What only those of a later window cover stays until enough has gone that both
    /// are in one.
    async fn collect_window(
        &self,
        source: &Source,
        known: &mut BTreeMap<ColdKey, Index>,
        old: Vec<ColdObject>,
    ) -> Result<(), BackupError> {
        let history = self.tables.borrow().history;
        let mut indexes = BTreeMap::new();
        for object in old {
            let index = match known.remove(&object.key) {
                Some(index) => index,
                None => match source.index(&object).await {
                    Ok(index) => index,
                    Err(
                        error @ (BackupError::Damaged { .. }
                        | BackupError::Cold(
                            ColdError::Corrupt { .. } | ColdError::NotFound { .. },
                        )),
                    ) => {
                        // Nobody knows what is in it, so it stays; the others do not wait for it.
                        log::warn!("event=backup_object_not_read {error}");
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            indexes.insert(object.key, index);
        }
        let dead = collectable(&indexes, history);
        for keys in dead.chunks(PAGE) {
            source.store.delete(keys).await?;
            add(
                &self.metrics.plain.dr_objects_deleted_total,
                keys.len() as u64,
            );
            for key in keys {
                indexes.remove(key);
            }
        }
        if !dead.is_empty() {
            log::info!("event=backup_collected objects={}", dead.len());
        }
        known.extend(indexes);
        while known.len() > INDEXES_MAX {
            known.pop_last();
        }
        Ok(())
    }
}

/// Some of those that were shipped before a time, oldest first, from behind a key on; and behind which key more of them are.
async fn old_objects(
    source: &Source,
    until_ms: u64,
    mut after: Option<ColdKey>,
) -> Result<(Vec<ColdObject>, Option<ColdKey>), BackupError> {
    let prefix = objects_prefix(&source.cluster);
    let mut old: Vec<ColdObject> = Vec::new();
    while old.len() < WINDOW {
        let page = source.store.list(&prefix, after.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|o| o.key.clone());
        for object in page {
            match shipped_ms_of(&object.key) {
                Some(ms) if ms > until_ms => return Ok((old, None)),
                Some(_) => old.push(object),
                // Not of a backup.
                None => {}
            }
        }
        if is_last {
            return Ok((old, None));
        }
    }
    Ok((old, after))
}
