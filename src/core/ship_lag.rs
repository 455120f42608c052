//! How far the backup is behind, for the log and the metrics.

use super::Core;
use super::ship_chain::Chain;
use crate::group::Group;

/// What the lag says where nothing is known of what was shipped: too much rather than too little.
const UNKNOWN_MS: u64 = 365 * 24 * 3600 * 1000;

/// A warning is logged when a core is behind by so many intervals.
const LATE_INTERVALS: u64 = 4;

impl Core {
    /// The oldest time of which something may be missing in the backup of the groups that this core leads.
    fn backup_lag_ms(&self) -> u64 {
        let now_ms = self.clock.now_ms();
        let groups = self.groups.borrow();
        let chains = self.shipping.chains.borrow();
        let is_behind = |(id, chain): &(&u32, &Chain)| {
            let applied = groups.get(id).map_or(0, |g: &Group| g.applied().index);
            chain.base.is_none() || chain.shipped < applied
        };
        let behind = chains.iter().filter(is_behind);
        let lags = behind.map(|(_, chain)| now_ms.saturating_sub(chain.covered_ms).min(UNKNOWN_MS));
        lags.max().unwrap_or(0)
    }

    /// The backup is behind by more than what is usual.
    pub(super) fn is_backup_late(&self) -> bool {
        self.backup_lag_ms() > LATE_INTERVALS * self.config.dr_interval_ms + 10_000
    }

    pub(super) fn warn_if_late(&self) {
        let lag_ms = self.backup_lag_ms();
        let is_late = self.is_backup_late();
        // A leadership has begun, and the store is being asked.
        let is_asked = self.shipping.chains.borrow().values().any(|c| !c.is_proven);
        if is_late && is_asked && !self.shipping.is_asked_in_vain.get() {
            return;
        }
        if is_late && !self.shipping.is_late.replace(true) {
            log::warn!(
                "event=backup_behind core={} lag_ms={lag_ms} what was acknowledged since is only on the nodes",
                self.id
            );
        } else if !is_late && self.shipping.is_late.replace(false) {
            log::info!("event=backup_caught_up core={}", self.id);
        }
    }

    /// The gauges of the backup.
    pub(super) fn report_backup(&self) {
        let plain = &self.metrics.plain;
        plain
            .dr_lag_seconds
            .set(self.backup_lag_ms().div_ceil(1000));
        let chains = self.shipping.chains.borrow();
        let without = chains.values().filter(|c| c.base.is_none()).count();
        plain.dr_groups_without_base.set(without as u64);
    }
}
