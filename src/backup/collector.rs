//! Collects a backup: lists what is old, reads what is in it, and deletes what `collect.rs` says that no time needs any more.
//! Runs on any executor; the simulator runs it over a store whose lists are wrong (`integration/sim`).
//! Owns the indexes of the objects that it has read. Assumes that objects are named by time and never change.

use std::collections::BTreeMap;

use raftproto::backup::Index;
use storage::cold::{ColdError, ColdKey, ColdObject};

use super::collect::collectable;
use super::{BackupError, Source, objects_prefix, shipped_ms_of};

/// Objects that one request lists or deletes.
const PAGE: usize = 1000;

/// Objects that are looked at together.
const WINDOW: usize = 20_000;

/// Indexes that are kept in memory between two looks; of more, some are read again.
const INDEXES_MAX: usize = 20_000;

/// See the module's head.
pub struct Collector {
    known: BTreeMap<ColdKey, Index>,
    page: usize,
    window: usize,
}

impl Default for Collector {
    fn default() -> Collector {
        Collector::with(PAGE, WINDOW)
    }
}

impl Collector {
    /// One that lists and deletes `page` objects at a time, and looks at `window` together.
    pub fn with(page: usize, window: usize) -> Collector {
        Collector {
            known: BTreeMap::new(),
            page,
            window,
        }
    }

    /// Somebody else collects now.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Deletes what no time needs that begins after what was shipped until `until_ms`. Tells `deleted` how many went each time.
    ///
    /// # Errors
    /// The store's: the rest stays for the next time.
    pub async fn collect(
        &mut self,
        source: &Source,
        history: u64,
        until_ms: u64,
        deleted: &dyn Fn(u64),
    ) -> Result<(), BackupError> {
        let mut after = None;
        loop {
            let (old, end) = self.old_objects(source, until_ms, after).await?;
            self.collect_window(source, history, old, deleted).await?;
            if end.is_none() {
                return Ok(());
            }
            after = end;
        }
    }

    /// Collects among these objects alone. What only those of a later window cover stays until enough has gone that both
    /// are in one.
    async fn collect_window(
        &mut self,
        source: &Source,
        history: u64,
        old: Vec<ColdObject>,
        deleted: &dyn Fn(u64),
    ) -> Result<(), BackupError> {
        let mut indexes = BTreeMap::new();
        for object in old {
            let index = match self.known.remove(&object.key) {
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
        for keys in dead.chunks(self.page) {
            source.store.delete(keys).await?;
            deleted(keys.len() as u64);
            for key in keys {
                indexes.remove(key);
            }
        }
        if !dead.is_empty() {
            log::info!("event=backup_collected objects={}", dead.len());
        }
        self.known.extend(indexes);
        while self.known.len() > INDEXES_MAX {
            self.known.pop_last();
        }
        Ok(())
    }

    /// Some of those that were shipped before a time, oldest first, from behind a key on; and behind which key more of them are.
    async fn old_objects(
        &self,
        source: &Source,
        until_ms: u64,
        mut after: Option<ColdKey>,
    ) -> Result<(Vec<ColdObject>, Option<ColdKey>), BackupError> {
        let prefix = objects_prefix(&source.cluster);
        let mut old: Vec<ColdObject> = Vec::new();
        while old.len() < self.window {
            let page = source.store.list(&prefix, after.as_ref(), self.page);
            let page = page.await?;
            let is_last = page.len() < self.page;
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
}
