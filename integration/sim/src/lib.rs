//! A simulated cluster: real groups with real Raft over simulated disks, network and clocks. One thread, virtual time; one
//! seed is one history, which replays byte for byte.
//!
//! Modelled: producers, appends in an order, forks and their sagas, TTLs, reads, live reads and live readers on any node;
//! loss, delay, duplication and partitions; crashes at each effect; disks in the log's real format that tear, lose, flip and misdirect; pauses, clocks, another number of cores;
//! members that come, go, are replaced and lose their disks, by orders to group 0, whose slot table says where streams live.
//! Sieges of leaders (`siege.rs`), in some seeds. An object store that all nodes share, with faults of its own (`store.rs`), behind the groups' cold tier.
//! Rolling upgrades, with nodes of two versions side by side, in some seeds (`upgrade.rs`).
//! Objects and packs that are damaged where they lie, and what puts them right (`rot.rs`, `mend.rs`); checkpoints in the server's own
//! files, cut by crashes (`checkpoint.rs`, `files.rs`).
//! At the end, clients come back and get what they ask for (`closing.rs`).
//! Checkpoints go from node to node in parts (`transfer.rs`). Some seeds are aimed at what is rare, or have one node (`aims.rs`).
//! A backup in that store, and its collection by lists that are wrong (`backup.rs`).
//! Not modelled: buckets; what a backup's objects hold besides their indexes, and restores; that nodes are linked only to members.
//!
//! The server's own code is `group`, raft-rs, `meta`, `wire`, `node/replay.rs`, the log's format and recovery, the files of checkpoints
//! (`core/checkpoint.rs` with tables, packs and frames), `core/packs.rs`, what `core/learn.rs` decides, and the collection of the
//! backup (`backup/collector.rs`). Stand-ins are here for what
//! drives them: the log's writer and its release of segments (`disk.rs`), turns, sagas, forks, transfers of checkpoints,
//! scrub, mend and rescue, what ships a backup, the links between nodes, HTTP, and the marks of a directory. Real processes test those
//! (`integration/tests`).

mod aims;
pub mod answers;
mod atlas;
mod attempts;
pub mod backup;
pub mod behind;
pub mod bounds;
pub mod checkpoint;
pub mod client;
pub mod clock;
pub mod closing;
pub mod cold;
pub mod cold_check;
pub mod coverage;
pub mod desk;
pub mod disk;
pub mod ending;
pub mod event;
pub mod fan;
pub mod faults;
pub mod files;
pub mod follow;
pub mod history;
pub mod hunt;
pub mod kept;
pub mod learn;
pub mod ledger;
pub mod links;
pub mod members;
pub mod mend;
pub mod meta_model;
pub mod model;
pub mod mutations;
pub mod net;
pub mod newborn;
pub mod node;
pub mod operator;
pub mod oust;
pub mod plan;
pub mod report;
pub mod rng;
pub mod rot;
pub mod saga;
pub mod shell;
pub mod shrink;
pub mod siege;
pub mod stall;
pub mod store;
pub mod storing;
pub mod transfer;
pub mod upgrade;
pub mod verdict;
pub mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::Plan;
use report::{Lines, Report};
use world::World;

thread_local! {
    /// The text of this thread's last panic.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are findings: they are kept, not printed.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.set(info.to_string());
    }));
}

/// Runs one seed.
pub fn run(seed: u64, lines: Lines) -> Report {
    run_plan(Plan::of(seed), lines)
}

/// Runs a plan.
pub fn run_plan(plan: Plan, lines: Lines) -> Report {
    let mut world = World::new(plan, lines);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut report = world.report();
    if ended.is_err() {
        report.findings.push(format!("panic: {}", PANIC.take()));
    }
    report
}
