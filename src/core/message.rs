//! What cores tell each other.

use std::sync::Arc;

use bytes::Bytes;
use raftproto::peer::{Batch, GroupStatus};
use storage::StorageError;

use super::cold_cache::ChunkId;
use crate::group::ChunkVerdict;
use crate::meta::Tables;
use crate::ops::metrics::CoreSnapshot;
use crate::protocol::{ColdChunk, Outcome, Request, TailNews};

/// One message from a core to another.
#[derive(Debug)]
pub enum Message {
    /// A request for a group of the other core.
    Request {
        /// The asking core's number for it.
        id: u64,
        /// What.
        request: Request,
    },
    /// Its answer.
    Reply {
        /// The number that it was asked under.
        id: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// A stream that the other core follows has changed.
    News(TailNews),
    /// New tables of group 0.
    Tables(Arc<Tables>),
    /// What another node sent for groups of the other core.
    FromPeer {
        /// The node.
        node: u64,
        /// What it sent.
        batch: Box<Batch>,
    },
    /// Who leads a group, by what its core knows.
    Leader {
        /// The group.
        group: u32,
        /// The node; 0: nobody.
        node: u64,
    },
    /// A node that no own member list names yet speaks to this one; see [`super::guests`].
    Guest {
        /// The node.
        node: u64,
        /// Where it listens to nodes.
        address: String,
        /// The core that it speaks to.
        core: u16,
        /// It still does.
        is_open: bool,
    },
    /// A node began to speak to this one.
    Speaks {
        /// The node.
        node: u64,
    },
    /// Another node's disk has no room, or has some again.
    PeerRoom {
        /// The node.
        node: u64,
        /// It has.
        has_room: bool,
    },
    /// Hand over groups that the other core leads.
    TransferLeaders {
        /// Which; `u32::MAX`: all.
        group: u32,
        /// To whom; `None`: to whoever is best.
        to_node: Option<u64>,
    },
    /// A reader found a local pack of the other core's group damaged, or without a chunk that its plan names.
    DamagedPack {
        /// The group.
        group: u32,
        /// The pack's number.
        pack: u32,
        /// What is damaged.
        error: Option<StorageError>,
    },
    /// A reader found a chunk of the cold store damaged that the other core's group refers to: what is known of it?
    JudgeChunk {
        /// The asking core's number for it.
        id: u64,
        /// Which.
        chunk: ChunkId,
        /// The node that leads the group may be asked.
        may_ask: bool,
    },
    /// To `JudgeChunk`.
    ChunkJudged {
        /// The number that it was asked under.
        id: u64,
        /// What is known.
        verdict: ChunkVerdict,
    },
    /// Have you this chunk of the cold store?
    WantChunk {
        /// The asking core's number for it.
        id: u64,
        /// Which.
        chunk: ChunkId,
        /// What it must be.
        is: ColdChunk,
    },
    /// To `WantChunk`.
    Chunk {
        /// The number that it was asked under.
        id: u64,
        /// Its bytes.
        bytes: Option<Bytes>,
    },
    /// How are you?
    Probe {
        /// The asking core's number for it.
        id: u64,
        /// Also the hashes of the groups' states.
        with_hashes: bool,
    },
    /// To `Probe`.
    Probed {
        /// The number that it was asked under.
        id: u64,
        /// The answer.
        report: Box<CoreReport>,
    },
}

/// How a core is.
#[derive(Debug)]
pub struct CoreReport {
    /// Its series.
    pub snapshot: CoreSnapshot,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
    /// Long-polls and SSE readers.
    pub live_readers: u64,
    /// Times that its clock came much too late.
    pub reactor_stalls: u64,
    /// Groups that do not take requests yet.
    pub groups_waiting: u32,
    /// The core stopped serving for good.
    pub failed: bool,
    /// The core refuses writes until its disk has room.
    pub disk_full: bool,
    /// The node was told to stop.
    pub is_stopping: bool,
    /// Why the node is no member any more, and what to do.
    pub standing: Option<String>,
    /// The core knows which group has which streams.
    pub has_slots: bool,
    /// The node is about to have its replicas built anew.
    pub gives_up_replicas: bool,
}
