//! The network between the nodes: what comes through, when, and how often.

use std::collections::{BTreeMap, BTreeSet};

use crate::coverage::Coverage;
use crate::plan::Plan;
use crate::rng::Rng;

/// How often a message arrives at most.
const ARRIVALS_MAX: usize = 4;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Net {
    /// From, to: nothing comes through.
    pub cut: BTreeSet<(u64, u64)>,
    /// What goes to this node takes so much longer.
    pub late_to: Option<(u64, u64)>,
    /// From, to: what goes this way takes so much longer.
    pub late: BTreeMap<(u64, u64), u64>,
    /// Faults are over.
    pub is_calm: bool,
    /// From, to: the latest arrival of a message of Raft.
    latest: BTreeMap<(u64, u64), u64>,
}

impl Net {
    /// When a message of Raft arrives: at no time, once or more often.
    pub fn raft(
        &self,
        plan: &Plan,
        rng: &mut Rng,
        from: u64,
        to: u64,
        now_us: u64,
    ) -> [Option<u64>; ARRIVALS_MAX] {
        let mut arrivals = [None; ARRIVALS_MAX];
        if self.cut.contains(&(from, to)) || (!self.is_calm && rng.chance(plan.loss)) {
            return arrivals;
        }
        for (number, arrival) in arrivals.iter_mut().enumerate() {
            if number > 0 && (self.is_calm || !rng.chance(plan.duplicate)) {
                break;
            }
            *arrival = Some(now_us + self.delay(plan, rng) + self.late_us(from, to));
        }
        arrivals
    }

    /// Notes what became of a message of Raft.
    pub fn note(
        &mut self,
        from: u64,
        to: u64,
        arrivals: &[Option<u64>; ARRIVALS_MAX],
        coverage: &mut Coverage,
    ) {
        if self.is_calm {
            return;
        }
        let [first, second, ..] = *arrivals;
        if first.is_some() && self.late.contains_key(&(from, to)) {
            coverage.hit("a message by a link that is late");
        }
        if first.is_none() && !self.cut.contains(&(from, to)) {
            coverage.hit("message lost");
        }
        if second.is_some() {
            coverage.hit("message doubled");
        }
        let latest = self.latest.entry((from, to)).or_default();
        for at_us in arrivals.iter().flatten() {
            if at_us < latest {
                coverage.hit("message overtook another");
            }
            *latest = (*latest).max(*at_us);
        }
    }

    /// When a forwarded request or its answer arrives; `None`: it is lost.
    pub fn link(&self, plan: &Plan, rng: &mut Rng, from: u64, to: u64, now_us: u64) -> Option<u64> {
        let is_lost =
            self.cut.contains(&(from, to)) || (!self.is_calm && rng.chance(plan.link_loss));
        (!is_lost).then(|| now_us + self.delay(plan, rng) + self.late_way_us(from, to))
    }

    fn late_us(&self, from: u64, to: u64) -> u64 {
        let late = self
            .late_to
            .filter(|(node, _)| *node == to && !self.is_calm);
        late.map_or(0, |(_, us)| us) + self.late_way_us(from, to)
    }

    fn late_way_us(&self, from: u64, to: u64) -> u64 {
        let late = self.late.get(&(from, to)).filter(|_| !self.is_calm);
        late.copied().unwrap_or(0)
    }

    fn delay(&self, plan: &Plan, rng: &mut Rng) -> u64 {
        let delay_us = rng.latency(plan.delay_us);
        if !self.is_calm && rng.chance(plan.late) {
            return delay_us + rng.below(plan.late_us);
        }
        delay_us
    }
}
