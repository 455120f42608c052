//! State out and in: what a checkpoint writes, and what a start reads.
//!
//! A checkpoint is incremental. Bytes that no pack has go into a new pack, then the state of each changed
//! stream goes into a delta table; what was written before is never written again.

use std::ops::Bound;

use prost::Message;
use raftproto::checkpoint::{self, Membership};
use raftproto::checkpoint::{AbandonedFork, BucketFence, GroupState, OutboxMessage};
use raftproto::command::Command;
use xxhash_rust::xxh3::Xxh3;

use super::choose::CHUNK_BYTES_MAX;
use super::cold_state::ColdPack;
use super::log::LogPosition;
use super::machine::Machine;
use super::peer;
use super::raft::Raft;
use super::stream;
use super::{Group, SavedHardState};
use crate::meta::Meta;
use crate::mutation;
use crate::protocol::{ChunkRef, ColdChunk, Incarnation, PackName, StreamKey};

/// Streams and chunks that one look at a pack's chunks takes.
const LOOKS_PER_STEP: usize = 2_000;

/// What one checkpoint writes.
#[derive(Debug)]
pub struct CheckpointPlan {
    /// The state holds everything up to here.
    pub position: LogPosition,
    /// The membership there.
    pub membership: Membership,
    /// The hard state now, with no more committed than the state holds.
    pub hard_state: SavedHardState,
    /// Changed streams in key order; `None`: gone.
    pub delta: Vec<(StreamKey, Option<Vec<u8>>)>,
    /// Encoded `GroupState`.
    pub group_state: Vec<u8>,
    /// Packs that the state refers to, the new one included if it has chunks.
    pub packs: Vec<u32>,
    /// Of the checkpoint's formats.
    pub version: u32,
}

/// Lays out the bytes of a new pack: asked once for each chunk, in order, before anything is written.
pub trait PlaceChunk {
    /// Where this chunk will lie.
    fn place(
        &mut self,
        key: &StreamKey,
        incarnation: Incarnation,
        start: u64,
        pieces: Vec<bytes::Bytes>,
    ) -> ChunkRef;
}

/// A chunk of a local pack that a stream refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldChunk {
    /// The stream.
    pub key: StreamKey,
    /// Which stream at that key.
    pub incarnation: Incarnation,
    /// The chunk.
    pub chunk: ChunkRef,
    /// First byte that is kept of the stream, within the chunk or not.
    pub kept_from: u64,
}

/// A chunk of the cold store that a stream refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldColdChunk {
    /// The stream.
    pub key: StreamKey,
    /// Which stream at that key.
    pub incarnation: Incarnation,
    /// The chunk.
    pub chunk: ColdChunk,
    /// First byte that is kept of the stream, within the chunk or not.
    pub kept_from: u64,
}

impl HeldChunk {
    /// First byte of the chunk that is needed.
    pub fn needed_from(&self) -> u64 {
        self.chunk.start.max(self.kept_from)
    }
}

impl Group {
    /// A fetched checkpoint is on its way into the place of the group's files: the state is no longer theirs, and no
    /// checkpoint can follow the one that they hold.
    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Plans a checkpoint of the applied state. Its pack's number must be above all before.
    pub fn checkpoint(&mut self, pack: &mut dyn PlaceChunk) -> CheckpointPlan {
        assert!(self.installing.is_none(), "the files are another state's");
        let machine = &mut self.machine;
        let mut delta = Vec::with_capacity(machine.dirty.len());
        for key in std::mem::take(&mut machine.dirty) {
            let Some(stream) = machine.streams.get_mut(&key) else {
                delta.push((key, None));
                continue;
            };
            let incarnation = stream.incarnation;
            let packs = &mut machine.packs;
            if let Some(pack) = stream.bytes.packed_hot() {
                machine.packed_hot.remove(&(pack, key.clone()));
            }
            stream.bytes.pack(CHUNK_BYTES_MAX, &mut |start, pieces| {
                let chunk = pack.place(&key, incarnation, start, pieces);
                *packs.entry(chunk.pack).or_default() += u64::from(chunk.length);
                chunk
            });
            if let Some(pack) = stream.bytes.packed_hot() {
                machine.packed_hot.insert((pack, key.clone()));
            }
            stream.is_dirty = false;
            let value = stream::encode(stream);
            delta.push((key, Some(value)));
        }
        machine.packs.retain(|_, live| *live > 0);
        let mut hard_state = self.raft.hard_state();
        // Entries beyond may be committed by others and not on this disk yet: a start would miss them.
        hard_state.commit = hard_state.commit.min(self.applied.index);
        let mut membership = self.raft.membership();
        if mutation::is_on("checkpoint-leaves-the-joint") {
            membership.voters_outgoing.clear();
            membership.auto_leave = false;
        }
        CheckpointPlan {
            position: self.applied,
            membership,
            hard_state,
            delta,
            group_state: machine.group_state().encode_to_vec(),
            packs: machine.packs.keys().copied().collect(),
            version: raftproto::version::checkpoint_at(self.level),
        }
    }

    /// The checkpoint with this pack is durable: hot bytes above `hot_bytes_target` may leave memory.
    pub fn checkpointed(
        &mut self,
        pack: u32,
        position: LogPosition,
        membership: &Membership,
        hot_bytes_target: u64,
    ) {
        if position.index < self.raft.checkpoint_index() {
            // A fetched one took the state's place meanwhile.
            return;
        }
        self.raft.checkpointed(position, membership);
        self.durable_pack = self.durable_pack.max(pack);
        self.shed_hot_bytes(hot_bytes_target);
    }

    /// Drops hot bytes that durable packs have, until `target` is met or nothing more can go.
    pub fn shed_hot_bytes(&mut self, target: u64) {
        self.machine.drop_packed(self.durable_pack, target);
    }

    /// Which bytes are in a local pack of this replica, by the streams behind `after`. Looks at a share of them, and says
    /// where the next one begins.
    pub fn chunks_of_pack(
        &self,
        pack: u32,
        after: Option<&StreamKey>,
    ) -> (Vec<HeldChunk>, Option<StreamKey>) {
        self.share_of_streams(after, |key, stream, found| {
            let chunks = stream.bytes.chunks();
            let own = chunks.iter().filter(|c| c.pack == pack);
            found.extend(own.map(|chunk| HeldChunk {
                key: key.clone(),
                incarnation: stream.incarnation,
                chunk: *chunk,
                kept_from: stream.bytes.kept_from(),
            }));
            chunks.len()
        })
    }

    /// The same for a pack of the cold store, by the number that the log gave it.
    pub fn chunks_of_cold_pack(
        &self,
        pack: u32,
        after: Option<&StreamKey>,
    ) -> (Vec<HeldColdChunk>, Option<StreamKey>) {
        self.share_of_streams(after, |key, stream, found| {
            let chunks = stream.bytes.cold_chunks();
            let own = chunks.iter().filter(|c| c.pack == pack);
            found.extend(own.map(|chunk| HeldColdChunk {
                key: key.clone(),
                incarnation: stream.incarnation,
                chunk: *chunk,
                kept_from: stream.bytes.kept_from(),
            }));
            chunks.len()
        })
    }

    /// Lets `look` find things in the streams behind `after` and say at how many it looked, until that is a step's share; where
    /// the next one begins.
    fn share_of_streams<T>(
        &self,
        after: Option<&StreamKey>,
        look: impl Fn(&StreamKey, &stream::Stream, &mut Vec<T>) -> usize,
    ) -> (Vec<T>, Option<StreamKey>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let streams = &self.machine.streams;
        let streams = streams.range::<StreamKey, _>((from, Bound::Unbounded));
        let (mut found, mut looked) = (Vec::new(), 0);
        for (key, stream) in streams {
            looked += 1 + look(key, stream, &mut found);
            if looked >= LOOKS_PER_STEP {
                return (found, Some(key.clone()));
            }
        }
        (found, None)
    }

    /// Chunks of local packs, each with what is left of it: the part that no reader may have is lost. The next checkpoint says
    /// so.
    pub fn cut_chunks(&mut self, cuts: &[(HeldChunk, ChunkRef)]) {
        for (held, kept) in cuts {
            let Some(stream) = self.machine.streams.get_mut(&held.key) else {
                continue;
            };
            let is_same = stream.incarnation == held.incarnation;
            if is_same && stream.bytes.cut_chunk(&held.chunk, *kept) {
                if let Some(live) = self.machine.packs.get_mut(&kept.pack) {
                    *live -= u64::from(held.chunk.length - kept.length);
                }
                self.machine.mark_dirty(&held.key);
            }
        }
    }

    /// Streams that changed since the last checkpoint.
    pub fn dirty_count(&self) -> usize {
        self.machine.dirty.len()
    }
}

impl Raft {
    /// The membership by the entries applied so far.
    pub(super) fn membership(&self) -> Membership {
        let conf = self.node.store().conf_state();
        peer::membership(conf)
    }

    /// A replica needs a checkpoint that is not there.
    pub(super) fn take_checkpoint_wanted(&self) -> bool {
        self.node.store().take_checkpoint_wanted()
    }

    /// A checkpoint of the state at `position` is on disk.
    pub(super) fn checkpointed(&mut self, position: LogPosition, members: &Membership) {
        let conf_state = peer::conf_state(members);
        self.node.mut_store().set_checkpoint(position, conf_state);
    }

    /// Where the newest checkpoint stands; 0: there is none.
    pub(super) fn checkpoint_index(&self) -> u64 {
        self.node.store().checkpoint_index()
    }
}

impl Machine {
    /// Drops from memory what durable packs have, the streams first that were packed longest ago, until `target`
    /// is met. Costs what it frees: streams without such bytes are not looked at.
    fn drop_packed(&mut self, durable_pack: u32, target: u64) {
        while self.hot_bytes > target && !mutation::is_on("hot-bytes-kept") {
            let Some((pack, key)) = self.packed_hot.pop_first() else {
                return;
            };
            let is_durable = pack <= durable_pack;
            if !is_durable && !mutation::is_on("dropped-before-durable") {
                self.packed_hot.insert((pack, key));
                return;
            }
            if let Some(stream) = self.streams.get_mut(&key) {
                let until = if mutation::is_on("dropped-before-durable") {
                    pack
                } else {
                    durable_pack
                };
                self.hot_bytes -= stream.bytes.drop_packed(until);
                // What a pack has that is still being written goes with its turn.
                let later = stream.bytes.packed_hot().filter(|pack| *pack > until);
                if let Some(later) = later.filter(|_| !mutation::is_on("later-pack-forgotten")) {
                    self.packed_hot.insert((later, key));
                }
            }
        }
    }

    pub(super) fn group_state(&self) -> GroupState {
        GroupState {
            last_stamp_ms: self.last_stamp_ms,
            next_incarnation: self.next_incarnation,
            next_outbox: self.next_outbox,
            outbox: self
                .outbox
                .iter()
                .map(|(id, command)| OutboxMessage {
                    id: *id,
                    command: command.encode_to_vec().into(),
                })
                .collect(),
            abandoned: self
                .abandoned
                .iter()
                .map(|(hold_id, at_ms)| AbandonedFork { hold_id, at_ms })
                .collect(),
            fences: self
                .fences
                .iter()
                .map(|(bucket, generation)| BucketFence {
                    bucket: bucket.to_string(),
                    generation: *generation,
                })
                .collect(),
            meta: self.meta.as_ref().map(Meta::encode),
            cold_packs: self
                .cold
                .packs
                .iter()
                .map(|(pack, known)| checkpoint::ColdPack {
                    pack: *pack,
                    name: Some(known.name.to_message()),
                    object_bytes: known.object_bytes,
                    chunk_bytes: known.chunk_bytes,
                    dead_since_ms: known.dead_since_ms,
                })
                .collect(),
            next_cold_pack: self.cold.next_pack,
            pack_intents: self
                .cold
                .intents
                .iter()
                .filter(|_| !mutation::is_on("checkpoint-without-intents"))
                .map(|(name, since_ms)| checkpoint::PackIntent {
                    name: Some(name.to_message()),
                    since_ms: *since_ms,
                })
                .collect(),
        }
    }

    /// A group as its checkpoint has it. `streams` are the entries of the state tables, joined.
    ///
    /// # Errors
    /// If a value does not decode; the tables' checksums make that a defect of the writer.
    pub fn load(
        group: u32,
        group_state: &[u8],
        streams: impl Iterator<Item = (StreamKey, Vec<u8>)>,
    ) -> Result<Machine, prost::DecodeError> {
        let state = GroupState::decode(group_state)?;
        let mut machine = Machine::new(group);
        machine.last_stamp_ms = state.last_stamp_ms;
        machine.next_incarnation = state.next_incarnation.max(1);
        machine.next_outbox = state.next_outbox.max(1);
        let outbox = state.outbox.iter();
        for message in outbox.filter(|_| !mutation::is_on("checkpoint-without-outbox")) {
            machine
                .outbox
                .insert(message.id, Command::decode(message.command.clone())?);
        }
        for abandoned in &state.abandoned {
            machine.abandoned.insert(abandoned.hold_id, abandoned.at_ms);
        }
        machine.fences = state
            .fences
            .into_iter()
            .map(|f| (f.bucket.into(), f.generation))
            .collect();
        if group == 0 {
            machine.meta = Some(state.meta.as_ref().map(Meta::decode).unwrap_or_default());
        }
        machine.cold.next_pack = state.next_cold_pack;
        for known in &state.cold_packs {
            let pack = ColdPack {
                name: PackName::from_message(known.name.as_ref()),
                object_bytes: known.object_bytes,
                chunk_bytes: known.chunk_bytes,
                live_bytes: 0,
                dead_since_ms: known.dead_since_ms,
            };
            machine.cold.packs.insert(known.pack, pack);
        }
        for intent in &state.pack_intents {
            let name = PackName::from_message(intent.name.as_ref());
            machine.cold.intents.insert(name, intent.since_ms);
        }
        for (key, value) in streams {
            let mut stream = stream::decode(&value)?;
            stream.content_type = machine.content_type(stream.content_type.as_str());
            machine.insert(key, stream);
        }
        Ok(machine)
    }

    /// Hash of all that replicas agree on (I5).
    pub fn state_hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.group_state().encode_to_vec());
        for (key, stream) in &self.streams {
            hash.update(key.as_str().as_bytes());
            hash.update(&stream::encode_replicated(stream));
        }
        hash.digest()
    }
}

/// Joins a stream's value in an older state table with that in a newer one.
pub fn combine_stream_states(older: Option<&[u8]>, newer: &[u8]) -> Vec<u8> {
    stream::combine(older, newer)
}
