//! What others may know of a replica: who leads, how far it is, who takes part.

use std::collections::BTreeMap;

use raftproto::checkpoint::Membership;

use super::holds::ABANDONED_MAX;
use super::route::HELD_MAX;
use super::stream::UNCONFIRMED_MAX;
use super::{BadMessage, Group, Replica};
use crate::protocol::{ChunkRef, ColdChunk, Incarnation, Meta, PackName, StreamKey};

impl Group {
    /// The time by which this replica judges lifetimes, in milliseconds: that of the newest step, or of the newest entry.
    pub fn judges_at_ms(&self) -> u64 {
        self.now_ms
    }

    /// Every stream with what its readers see of it, its floor, and whether only forks may read it.
    pub fn streams(&self) -> impl Iterator<Item = (&StreamKey, Meta, u64, bool)> {
        let all = self.machine.streams.iter();
        all.map(|(key, s)| (key, s.meta(), s.floor, s.soft_deleted))
    }

    /// Every chunk that a stream has in the cold store: of which stream, where, and in which pack.
    pub fn stored_chunks(
        &self,
    ) -> impl Iterator<Item = (&StreamKey, Incarnation, &ColdChunk, PackName)> {
        let cold = &self.machine.cold;
        self.machine.streams.iter().flat_map(move |(key, stream)| {
            let chunks = stream.bytes.cold_chunks().iter();
            chunks.map(move |c| (key, stream.incarnation, c, cold.name_of(c.pack)))
        })
    }

    /// Every chunk of a local pack whose bytes are nowhere in memory and not all in the cold store.
    pub fn packed_chunks(&self) -> impl Iterator<Item = (&StreamKey, &ChunkRef)> {
        self.machine.streams.iter().flat_map(|(key, stream)| {
            let chunks = stream.bytes.chunks_not_hot();
            chunks.map(move |chunk| (key, chunk))
        })
    }

    /// The raft id of the leader that this replica knows of; 0: none.
    pub fn leader(&self) -> u64 {
        self.raft.leader()
    }

    /// This replica leads, though perhaps without being ready.
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Somebody leads, for all that is known here.
    pub fn has_leader(&self) -> bool {
        self.is_ready || (self.raft.leader() != 0 && !self.raft.is_leader())
    }

    /// Another replica leads, and its first entry is committed: it needs this one no more for that.
    pub fn is_led_elsewhere(&self) -> bool {
        self.raft.leader() != 0 && !self.raft.is_leader() && self.applied.term == self.raft.term()
    }

    /// This replica's raft id.
    pub fn raft_id(&self) -> u64 {
        self.raft.id()
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.raft.term()
    }

    /// Committed up to this log index, as far as is known here.
    pub fn commit(&self) -> u64 {
        self.raft.commit()
    }

    /// The log's end.
    pub fn last_index(&self) -> u64 {
        self.raft.last_index()
    }

    /// The members by the applied entries.
    pub fn membership(&self) -> Membership {
        self.raft.membership()
    }

    /// The replicas as this leader sees them; empty on others.
    pub fn replicas(&self) -> Vec<Replica> {
        self.raft.replicas()
    }

    /// Bytes of the log after an index, as far as they are kept.
    pub fn log_bytes_after(&self, index: u64) -> u64 {
        self.raft.log_bytes_after(index)
    }

    /// How full the room for requests that wait for a leader is, from 0 to 1.
    pub fn held(&self) -> f64 {
        self.waiting.held() as f64 / HELD_MAX as f64
    }

    /// The same of the streams of a group.
    pub fn streams_filled(&self) -> f64 {
        self.machine.streams.len() as f64 / self.machine.streams_max.max(1) as f64
    }

    /// The same of the forks that are known to stand never.
    pub fn abandoned_forks(&self) -> f64 {
        self.machine.abandoned.len() as f64 / ABANDONED_MAX as f64
    }

    /// The same of the unconfirmed holds of the stream that has most of them. Costs a look at each hold that is unconfirmed.
    pub fn unconfirmed_holds(&self) -> f64 {
        let mut by_source = BTreeMap::new();
        for source in self.machine.hold_checks.values() {
            *by_source.entry(source).or_insert(0_usize) += 1;
        }
        let most = by_source.into_values().max().unwrap_or(0);
        most as f64 / UNCONFIRMED_MAX as f64
    }

    /// How much was applied since the start, in bytes; a command costs some besides its own.
    pub fn work_bytes(&self) -> u64 {
        self.work_bytes
    }

    /// Nobody else is a member.
    pub fn is_alone(&self) -> bool {
        self.raft.is_alone()
    }

    /// Why this replica does not take part.
    pub fn trouble(&self) -> Option<BadMessage> {
        self.trouble
    }
}
