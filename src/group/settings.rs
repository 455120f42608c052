//! What a group's Raft is given: times, bounds, and what a start found on disk.

use raftproto::checkpoint::Membership;

use super::log::LogPosition;
use super::raft::{LogEntry, SavedHardState};

/// How linearizable reads make sure that this node still leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// By a lease, on the assumption that the monotonic clocks of the nodes run equally fast within a tenth.
    #[default]
    Lease,
    /// By a round of heartbeats for each batch of reads: no assumption on clocks.
    ReadIndex,
}

/// Times and bounds of a group's Raft.
#[derive(Debug, Clone, Copy)]
pub struct RaftSettings {
    /// Milliseconds between two [`super::Input::RaftTick`].
    pub tick_ms: u64,
    /// Ticks without a leader after which a replica may campaign; the actual number is up to twice as large.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// See [`ReadMode`].
    pub read_mode: ReadMode,
    /// Payload bytes of applied entries that are kept for replicas that lack them.
    pub log_bytes_max: u64,
    /// Payload bytes that may be proposed and not yet applied.
    pub uncommitted_bytes_max: u64,
    /// What the drawing of election time-outs and the numbers of questions to other nodes start from; another one at each
    /// start.
    pub seed: u64,
    /// Newest version of commands that this binary applies; lower only in simulations.
    pub commands_version: u32,
    /// Version of commands that may be written before the meta group notes one; lower only in simulations.
    pub level_first: u32,
}

impl Default for RaftSettings {
    fn default() -> RaftSettings {
        RaftSettings {
            tick_ms: 50,
            election_ticks: 6,
            heartbeat_ticks: 2,
            read_mode: ReadMode::Lease,
            log_bytes_max: 4 << 20,
            uncommitted_bytes_max: 64 << 20,
            seed: 0,
            commands_version: raftproto::version::COMMANDS,
            level_first: raftproto::version::LEVEL_FIRST,
        }
    }
}

/// What a group starts from.
#[derive(Debug, Clone, Default)]
pub struct RaftStart {
    /// This replica's raft id.
    pub node_id: u64,
    /// The membership at the checkpoint.
    pub membership: Membership,
    /// What the checkpoint holds.
    pub checkpoint: LogPosition,
    /// The newest hard state found.
    pub hard_state: SavedHardState,
    /// The log after the checkpoint, contiguous.
    pub entries: Vec<LogEntry>,
    /// Times and bounds.
    pub settings: RaftSettings,
}

/// A follower as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// Its raft id.
    pub raft_id: u64,
    /// It has the log up to here.
    pub matched: u64,
    /// It was heard of lately.
    pub is_active: bool,
    /// It is being given a checkpoint.
    pub is_installing: bool,
    /// It votes.
    pub is_voter: bool,
}

impl Replica {
    /// It lives and lacks at most so many of the entries up to `last`. One that has told of none has nothing, however short
    /// the log is; a new one counts as active before it was ever heard of.
    pub fn has_all_but(&self, lag_max: u64, last: u64) -> bool {
        self.is_active && !self.is_installing && self.matched > 0 && self.matched + lag_max >= last
    }
}
