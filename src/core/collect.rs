//! Deletes what no time needs any more that the backup can be restored to. The core that leads group 0 does it for all.
//!
//! Objects are named by time: it looks at those that are older than twice `dr_keep_ms`, never at all of them, and reads what is
//! in each once (`backup/collector.rs`). A led group ships its state at least once in `dr_keep_ms`, so all of them have newer ones
//! by then. Half of that time is for restores: they may miss an object that another one names only if it can have been collected.

use std::rc::Rc;
use std::time::Duration;

use super::Core;
use crate::backup::collector::Collector;
use crate::backup::{BackupError, Source};
use crate::ops::metrics::add;

/// Longest time between two looks.
const LOOK_MS_MAX: u64 = 3600 * 1000;

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
        let mut collector = Collector::default();
        loop {
            self.sleep(Duration::from_millis(period_ms)).await;
            let leads = self.groups.borrow().get(&0).is_some_and(|g| g.is_ready());
            let leads = leads && !self.tables.borrow().slots.is_empty();
            // While the backup is behind, it is no time to take anything from it.
            if !leads || self.is_failed.get() || self.is_backup_late() {
                collector.forget();
                continue;
            }
            if let Err(error) = self.collect_once(&source, &mut collector).await {
                log::warn!("event=backup_not_collected {error}");
            }
        }
    }

    async fn collect_once(
        &self,
        source: &Source,
        collector: &mut Collector,
    ) -> Result<(), BackupError> {
        let now_ms = self.clock.now_ms();
        let Some(until_ms) = now_ms.checked_sub(2 * self.config.dr_keep_ms) else {
            return Ok(());
        };
        let history = self.tables.borrow().history;
        let deleted = |count| add(&self.metrics.plain.dr_objects_deleted_total, count);
        collector.collect(source, history, until_ms, &deleted).await
    }
}
