//! When objects of the cold store that nothing refers to are deleted: a grace after the group has come to know it, so that
//! no read that was planned before meets a hole.
//!
//! A command's stamp is of when it was proposed. Where the log stood still, it counts much later: readers were told of the
//! object until then. So what is learned late is counted from when it was learned.
//! Owns nothing. Invariants: an object is deleted by the leader that knows it dead for a grace at least, or by stamps that
//! were young when they were applied.

use super::cold::{ColdSettings, ColdWork};
use super::{Effect, Group};
use crate::mutation;

/// A command that is applied by this part of the grace after its stamp is not late.
const IN_TIME: u64 = 4;

impl Group {
    /// An entry of that stamp was applied: what ended by it may have ended late, and what the cold store has by now leaves
    /// memory, on every replica.
    pub(super) fn note_applied(&mut self, stamp_ms: u64) {
        let Some(settings) = self.cold.settings else {
            return;
        };
        let is_late = self.now_ms.saturating_sub(stamp_ms) > settings.grace_ms / IN_TIME;
        if std::mem::take(&mut self.machine.cold.has_ended) && is_late {
            self.cold.late_us = Some(self.now.monotonic_us);
        }
        if std::mem::take(&mut self.machine.cold.has_published) {
            self.shed_hot_bytes(settings.hot_bytes_target);
        }
    }

    pub(super) fn delete_dead(&mut self, settings: &ColdSettings, effects: &mut Vec<Effect>) {
        let (now_ms, now_us) = (self.now_ms, self.now.monotonic_us);
        // What a start or a fetched state knows was learned then, as far as can be said.
        let late_us = *self.cold.late_us.get_or_insert(now_us);
        if self.cold.is_deleting || self.cold.delete_after_ms > now_ms {
            return;
        }
        let packs = &self.machine.cold.packs;
        let is_under_way =
            |pack: &u32, lost_ms: &mut u64| packs.contains_key(pack) && *lost_ms > now_ms;
        self.cold.forgetting.retain(is_under_way);
        let is_graced = late_us.saturating_add(settings.grace_ms.saturating_mul(1000)) <= now_us;
        if !is_graced && !mutation::is_on("deleted-without-grace") {
            return;
        }
        let Some(dead_before_ms) = self.cold.dead_before_ms(settings, now_ms) else {
            return;
        };
        let mut dead = self.machine.cold.deletable(dead_before_ms);
        dead.retain(|(pack, _)| !self.cold.forgetting.contains_key(pack));
        if !dead.is_empty() {
            self.cold.is_deleting = true;
            effects.push(Effect::DeletePacks(dead));
        }
    }
}

impl ColdWork {
    /// The state is another replica's: what it knows as dead may have been so for a moment only.
    pub(super) fn is_another(&mut self) {
        self.reset();
        self.late_us = None;
    }
}
