//! What a core shows of itself to the node's thread.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a core shows of itself to the node's thread, once a tick; written by the core alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Pulse {
    /// Rises with each tick.
    pub ticks: AtomicU64,
    /// Groups that the core leads.
    pub groups_led: AtomicU64,
    /// Groups of the core of which it knows no leader.
    pub groups_without_leader: AtomicU64,
    /// A [`Stage`] of its start.
    stage: AtomicUsize,
}

/// What a core that starts is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its executor comes to life.
    Executor,
    /// Its log is opened, with its groups.
    Log,
    /// Its cache is opened.
    Cache,
    /// It begins to speak to the other nodes.
    Peers,
    /// It waits for groups that only it can lead.
    Groups,
    /// It waits for the other cores.
    Others,
}

const STAGES: [&str; 6] = [
    "starting its executor",
    "opening its log",
    "opening its cache",
    "connecting to other nodes",
    "leading its groups",
    "waiting for other cores",
];

impl Pulse {
    /// The start has come so far.
    pub fn is_at(&self, stage: Stage) {
        self.stage.store(stage as usize, Ordering::Relaxed);
    }

    /// The same in words.
    pub fn doing(&self) -> &'static str {
        let stage = self.stage.load(Ordering::Relaxed);
        STAGES.get(stage).copied().unwrap_or_default()
    }
}
