//! A simulated cluster: real groups with real Raft over simulated disks, network and clocks. One thread, virtual time; one
//! seed is one history, which replays byte for byte.
//!
//! Not modelled yet: disks that lose or damage what was synced, changes of the members, forks, buckets.

pub mod client;
pub mod clock;
pub mod disk;
pub mod event;
pub mod faults;
pub mod history;
pub mod ledger;
pub mod model;
pub mod net;
pub mod node;
pub mod plan;
pub mod report;
pub mod rng;
pub mod shell;
pub mod store;
pub mod storing;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use plan::Plan;
use report::Report;
use world::World;

/// The text of the last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Panics are findings: they are kept, not printed.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        *PANIC.lock().unwrap_or_else(|e| e.into_inner()) = info.to_string();
    }));
}

/// Runs one seed.
pub fn run(seed: u64, is_shown: bool) -> Report {
    run_plan(Plan::of(seed), is_shown)
}

/// Runs a plan.
pub fn run_plan(plan: Plan, is_shown: bool) -> Report {
    let mut world = World::new(plan, is_shown);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut report = world.report();
    if ended.is_err() {
        let text = PANIC.lock().unwrap_or_else(|e| e.into_inner()).clone();
        report.findings.push(format!("panic: {text}"));
    }
    report
}
