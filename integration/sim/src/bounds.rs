//! No resource above its bound (I8): what the groups of a process hold, looked at after each step, and sums that must be
//! right whenever nothing is under way. What grows without an end is found while it is small.

use std::collections::BTreeSet;

use ursula::group::Footprint;

use crate::world::World;

/// Requests that wait for a leader, of one group: the product's bound.
const HELD_MAX: usize = 4096;

/// Commands that the group makes by itself, which are not refused, and the one that goes beyond the bound.
const OWN: u64 = 16;

/// What a command has besides its body; those about packs name some chunks.
const COMMAND_BYTES: u64 = 400;

/// Readies that can wait for one sync: it takes at most 1.5 seconds, and a step makes few. But a node that was paused for half a
/// minute and goes on answers thousands of heartbeats at once: some 4,000 were seen.
const UNSYNCED_MAX: usize = 10_000;

impl World {
    /// After a step of a group.
    pub fn look_at_bounds(&mut self, node: u64, group: u32) {
        let Some(hosted) = self.nodes[node as usize - 1].process.groups.get(&group) else {
            return;
        };
        let has: Footprint = hosted.group.footprint();
        let plan = &self.plan;
        // What waits for its entry is only about known.
        let proposals = 2 * plan.uncommitted_bytes_max + OWN * (plan.body_max + COMMAND_BYTES);
        let bounds = [
            (
                "bytes of the applied log",
                has.log_bytes,
                plan.log_bytes_max,
            ),
            (
                "bytes of proposals",
                has.uncommitted_bytes + has.pending_bytes,
                proposals,
            ),
            (
                "requests without a leader",
                has.held as u64,
                HELD_MAX as u64,
            ),
            (
                "readies before a sync",
                has.unsynced as u64,
                UNSYNCED_MAX as u64,
            ),
        ];
        for ((what, has, most), peak) in bounds.into_iter().zip(&mut self.peaks) {
            *peak = (*peak).max(has * 1000 / most);
            if has > most {
                self.ledger.findings.push(format!(
                    "node {node} group {group} is above its bound of {what}: {has}, not {most} at most"
                ));
            }
        }
        if has.offers > 0 && !hosted.group.is_installing() {
            let offers = has.offers;
            self.find(format!(
                "node {node} group {group} keeps {offers} payloads that Raft has not taken"
            ));
        }
        if has.uncommitted_bytes != has.proposed_bytes {
            self.find(format!(
                "node {node} group {group} counts {} bytes of proposals and has {}",
                has.uncommitted_bytes, has.proposed_bytes
            ));
        }
    }

    /// When no step is under way: everybody who waits is waited for, once, and accounts are right.
    pub fn look_at_accounts(&mut self, node: u64) {
        let process = &self.nodes[node as usize - 1].process;
        let groups = process.groups.values();
        let owed: usize = groups.map(|h| h.group.footprint().waiters).sum();
        let awaited = process.waiting.len();
        let wrong = process.groups.iter().find_map(|(group, hosted)| {
            let counted = hosted.group.hot_bytes_of_streams();
            let has = hosted.group.hot_bytes();
            (has != counted)
                .then(|| format!("group {group} counts {has} hot bytes and has {counted}"))
        });
        if owed != awaited {
            self.find(format!(
                "node {node} owes {owed} answers, and {awaited} are waited for"
            ));
        }
        if let Some(wrong) = wrong {
            self.find(format!("node {node} {wrong}"));
        }
    }

    /// Before a checkpoint is exchanged: what left memory is in the one that is on disk, or in the store.
    pub fn look_at_packed(&mut self, node: u64, group: u32) {
        let me = &self.nodes[node as usize - 1];
        let (Some(hosted), Some(on_disk)) = (
            me.process
                .groups
                .get(&group)
                .filter(|h| !h.group.is_installing()),
            me.disk.checkpoints.get(&group),
        ) else {
            return;
        };
        let packed = hosted.group.packed_chunks();
        let names = on_disk.files.keys();
        let there = names.filter_map(|name| name.strip_prefix("pack-")?.parse().ok());
        let there: BTreeSet<u32> = there.chain(on_disk.hurt.iter().copied()).collect();
        let lacking = packed.filter(|(_, chunk)| !there.contains(&chunk.pack));
        let lacking = lacking.map(|(key, chunk)| {
            format!("node {node} has {chunk:?} of {key} neither in memory nor on its disk")
        });
        self.ledger.findings.extend(lacking.take(1));
    }

    /// After a checkpoint that was to free all memory that it can: what came after it is all that may be hot.
    pub fn look_at_hot_bytes(&mut self, node: u64, group: u32, index: u64) {
        let Some(hosted) = self.nodes[node as usize - 1].process.groups.get(&group) else {
            return;
        };
        let later = hosted
            .log
            .range(index + 1..)
            .map(|(_, w)| w.payload.len() as u64);
        let (has, most) = (hosted.group.hot_bytes(), later.sum());
        if has > most {
            self.find(format!(
                "node {node} group {group} has {has} hot bytes after a checkpoint, and took {most} since"
            ));
        }
    }
}
