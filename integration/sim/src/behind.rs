//! What the object store lacks is bounded: a node whose groups have more than that to ship refuses what would grow them, as
//! `core/router.rs` does, and takes it again once the store has more. In some seeds only ([`Plan::cold_behind`]).
//! Invariants: nothing is refused for it where it is not so; that it ends once the store is well, `closing.rs` sees.

use std::collections::BTreeSet;

use ursula::protocol::{Op, Outcome, Refusal, Request};

use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::World;

/// Where there is a bound, groups ship within so much, if the store is well: what is below it alone must not be waited for at the end.
const FLUSH_AGE_MAX_MS: u64 = 3_000;

impl Plan {
    /// In some of the seeds with an object store, what it lacks has a bound that is soon reached. Drawn apart.
    pub fn add_behind(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x6265_6869);
        if rng.below(20) == 0 && self.cold > 0 {
            self.cold_behind = rng.range(1, 3);
            self.cold_pack_bytes = rng.pick(&[300, 1_000]);
            self.cold_flush_age_ms = self.cold_flush_age_ms.min(FLUSH_AGE_MAX_MS);
            self.store_out_us = 60_000_000;
        }
    }

    /// What the groups of a node may have that the store lacks: more than each gathers for a pack.
    fn behind_bytes_max(&self) -> Option<u64> {
        let has_bound =
            self.cold > 0 && self.cold_behind > 0 && self.cold_flush_age_ms <= FLUSH_AGE_MAX_MS;
        let packs = self.groups + self.cold_behind;
        has_bound.then(|| packs * (self.cold_pack_bytes + self.body_max))
    }
}

/// Nodes that refused growth and have not taken any since.
#[derive(Default)]
pub struct Behind {
    refusing: BTreeSet<u64>,
}

impl World {
    /// The store took a pack of a node, or failed.
    pub fn note_outage(&mut self, node: u64, has_failed: bool) {
        let now_ms = self.now(node).monotonic_us / 1000;
        let outage = &mut self.node(node).process.outage;
        match has_failed {
            true => outage.failed(now_ms),
            false => outage.taken(now_ms),
        }
    }

    /// As the shell does at each look.
    pub fn watch_outage(&mut self, node: u64) {
        let is_far_behind = |most: u64| self.unflushed_bytes(node) > most / 2;
        if !self.plan.behind_bytes_max().is_some_and(is_far_behind) {
            return;
        }
        let now_ms = self.now(node).monotonic_us / 1000;
        let process = &mut self.node(node).process;
        let groups = process.groups.values_mut().map(|h| &mut h.group);
        process.outage.hasten(now_ms, groups);
    }

    fn unflushed_bytes(&self, node: u64) -> u64 {
        let groups = self.nodes[node as usize - 1].process.groups.values();
        groups.map(|h| h.group.unflushed_bytes()).sum()
    }

    /// What a node answers to a request that would make more of what the store lacks, if that is too much already.
    pub fn refuse_growth(&mut self, node: u64, request: &Request) -> Option<Outcome> {
        let most = self.plan.behind_bytes_max()?;
        let grows = match &request.op {
            Op::Append(append) => !append.body.is_empty(),
            Op::Create(_) => true,
            _ => false,
        };
        if !grows {
            return None;
        }
        let unflushed = self.unflushed_bytes(node);
        let is_out = self.store.is_out(self.now_us);
        if unflushed < most {
            if !is_out && self.behind.refusing.remove(&node) {
                self.coverage.hit("growth taken again after an outage");
            }
            return None;
        }
        if is_out {
            self.coverage.hit("growth refused during an outage");
            self.behind.refusing.insert(node);
        }
        Some(Outcome::Refused(Refusal::Overloaded {
            bound: "cold_behind_bytes_max",
        }))
    }
}
