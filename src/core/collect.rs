//! Deletes what no time needs any more that the backup can be restored to. The core that leads group 0 does it for all.
//!
//! Objects are named by time: it looks at those that are older than twice `dr_keep_ms`, never at all of them, and reads what is
//! in each once. A led group ships its state at least once in `dr_keep_ms`, so all of them have newer ones by then. Half of that
//! time is for restores: they may miss an object that another one names only if it can have been collected.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use raftproto::backup::Index;
use storage::cold::{ColdKey, ColdObject};

use super::Core;
use crate::backup::collect::collectable;
use crate::backup::{BackupError, Source, objects_prefix, shipped_ms_of};
use crate::ops::metrics::add;

/// Longest time between two looks.
const LOOK_MS_MAX: u64 = 3600 * 1000;

/// Objects that one request lists or deletes.
const PAGE: usize = 1000;

/// Indexes that are kept in memory between two looks; of more, some are read again.
const INDEXES_MAX: usize = 100_000;

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
        let old = old_objects(source, until_ms).await?;
        let mut indexes = BTreeMap::new();
        for object in old {
            let index = match known.remove(&object.key) {
                Some(index) => index,
                None => source.index(&object).await?,
            };
            indexes.insert(object.key, index);
        }
        let dead = collectable(&indexes);
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
        *known = indexes;
        while known.len() > INDEXES_MAX {
            known.pop_last();
        }
        Ok(())
    }
}

/// Those that were shipped before a time, oldest first.
async fn old_objects(source: &Source, until_ms: u64) -> Result<Vec<ColdObject>, BackupError> {
    let prefix = objects_prefix(&source.cluster);
    let mut old: Vec<ColdObject> = Vec::new();
    loop {
        let after = old.last().map(|o| o.key.clone());
        let page = source.store.list(&prefix, after.as_ref(), PAGE).await?;
        let count = page.len();
        let is_old = |o: &ColdObject| shipped_ms_of(&o.key).is_some_and(|ms| ms <= until_ms);
        old.extend(page.into_iter().take_while(is_old));
        // A page that is not all old ends it, and so does one that is not full.
        let taken_last = old.last().map(|o| o.key.clone());
        if count < PAGE || taken_last == after || !old.len().is_multiple_of(PAGE) {
            return Ok(old);
        }
    }
}
