//! Makes a failing plan smaller: fewer nodes, clients, faults and steps, as long as the same is still found.

use crate::plan::Plan;
use crate::report::{Lines, Report};

/// Runs that one shrinking takes at most.
const RUNS_MAX: u32 = 300;

/// A change of the plan changes all chance after it: each is tried with so many salts.
const SALTS: u64 = 3;

/// What must never be zero, and its least value.
const LEAST: &[(&str, u64)] = &[
    ("nodes", 1),
    ("groups", 1),
    ("clients", 1),
    ("keys", 1),
    ("chaos_us", 1_000_000),
    ("think_us", 1_000),
    ("rest_us", 1),
    ("patience_us", 1_000),
    ("log_bytes_max", 300),
    ("uncommitted_bytes_max", 1),
    ("body_max", 1),
    ("late_us", 1),
    ("delay_us", 100),
    ("sync_us", 100),
    ("fault_us", 1_000),
    ("wall_offset_ms", 0),
    ("cold_pack_bytes", 300),
    ("cold_flush_age_ms", 500),
    ("cold_grace_ms", 60_000),
    ("backup_keep_ms", 40_000),
    ("store_us", 1_000),
    ("upgrade_us", 1_000),
];

/// What is no measure of size.
const KEPT: &[&str] = &[
    "salt",
    "read_index",
    "think_us",
    "fault_us",
    "log_bytes_max",
    "uncommitted_bytes_max",
];

/// A smaller plan that fails by a finding which `is_same`, and how it fails.
pub fn shrink(plan: Plan, report: Report, is_same: &dyn Fn(&str) -> bool) -> (Plan, Report) {
    let mut state = Shrinking {
        best: plan,
        report,
        runs: 0,
        is_same,
    };
    // Nothing after the first finding matters.
    let until_us = state.report.virtual_us + 1_000_000;
    if until_us < state.best.chaos_us {
        let mut cut = state.best.clone();
        cut.chaos_us = until_us;
        state.attempt(&cut);
    }
    while state.runs < RUNS_MAX && state.pass() {}
    (state.best, state.report)
}

struct Shrinking<'a> {
    best: Plan,
    report: Report,
    runs: u32,
    is_same: &'a dyn Fn(&str) -> bool,
}

impl Shrinking<'_> {
    /// Tries to lower each field once; answers whether any could be.
    fn pass(&mut self) -> bool {
        let names: Vec<_> = self.best.fields().iter().map(|(name, _)| *name).collect();
        let mut is_smaller = false;
        for name in names.into_iter().filter(|name| !KEPT.contains(name)) {
            let least = LEAST.iter().find(|(known, _)| *known == name);
            let least = least.map_or(0, |(_, least)| *least);
            let now = value(&mut self.best, name);
            let half = least + now.saturating_sub(least) / 2;
            for smaller in [least, half] {
                // An even number of nodes is none that plans draw.
                let is_drawn = name != "nodes" || smaller % 2 == 1;
                if is_drawn && smaller < value(&mut self.best, name) && self.runs < RUNS_MAX {
                    let mut candidate = self.best.clone();
                    set(&mut candidate, name, smaller);
                    if candidate.nodes == 1 {
                        candidate.leave_alone();
                    }
                    is_smaller |= self.attempt(&candidate);
                }
            }
        }
        is_smaller
    }

    fn attempt(&mut self, candidate: &Plan) -> bool {
        for salt in (0..SALTS).map(|s| self.best.salt + s) {
            self.runs += 1;
            let plan = Plan {
                salt,
                ..candidate.clone()
            };
            let report = crate::run_plan(plan.clone(), Lines::Dropped);
            if report.findings.first().is_some_and(|f| (self.is_same)(f)) {
                (self.best, self.report) = (plan, report);
                return true;
            }
        }
        false
    }
}

fn value(plan: &mut Plan, name: &str) -> u64 {
    let fields = plan.fields();
    fields
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(0, |(_, v)| **v)
}

fn set(plan: &mut Plan, name: &str, to: u64) {
    for (known, value) in plan.fields() {
        if known == name {
            *value = to;
        }
    }
}
