//! What a group holds in memory that must not grow (I8), counted: the simulator looks after each step. The bounds
//! themselves are kept where things are added.

use super::Group;
use super::batch::Proposed;

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Bytes of applied entries that are kept for other replicas: at most `log_bytes_max`.
    pub log_bytes: u64,
    /// Payloads that raft-rs has not taken: none after a step, unless a checkpoint is being installed.
    pub offers: usize,
    /// Bytes that were proposed and not applied, by the account that refuses more of them than `uncommitted_bytes_max`.
    pub uncommitted_bytes: u64,
    /// The same, counted anew.
    pub proposed_bytes: u64,
    /// What the next entries will about be, in bytes.
    pub pending_bytes: u64,
    /// Answers that are owed.
    pub waiters: usize,
    /// Of them, those of requests without a leader.
    pub held: usize,
    /// Readies whose messages wait for the disk.
    pub unsynced: usize,
    /// Stream bytes in memory, by the account that checkpoints go by.
    pub hot_bytes: u64,
}

impl Group {
    /// What the group holds now.
    pub fn footprint(&self) -> Footprint {
        let awaited = |p: &Proposed| p.askers.iter().flatten().count();
        let proposed: usize = self.proposed.values().map(awaited).sum();
        let log = self.raft.node.store();
        Footprint {
            log_bytes: log.bytes_up_to(self.applied.index),
            offers: log.offers(),
            uncommitted_bytes: self.uncommitted_bytes,
            proposed_bytes: self.proposed.values().map(|p| p.bytes).sum(),
            pending_bytes: self.pending.bytes(),
            waiters: proposed
                + self.pending.waiters()
                + self.waiting.count()
                + self.leadership.waiters(),
            held: self.waiting.held(),
            unsynced: self.raft.unsynced(),
            hot_bytes: self.machine.hot_bytes,
        }
    }

    /// [`Footprint::hot_bytes`] counted anew, at the cost of a look at each stream.
    pub fn hot_bytes_of_streams(&self) -> u64 {
        let streams = self.machine.streams.values();
        streams.map(|s| s.bytes.hot_len()).sum()
    }
}
