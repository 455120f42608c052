//! One group's checkpoint on a simulated disk: replaced as a whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use raftproto::checkpoint::GroupManifest;
use ursula::group::{
    CheckpointPlan, Fetched, LogPosition, Machine, PlaceChunk, combine_stream_states,
};
use ursula::protocol::{ChunkRef, Incarnation, StreamKey};

use crate::rng::Rng;

/// One group's newest checkpoint: what its directory holds.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// Replaced last.
    pub manifest: GroupManifest,
    /// The state tables, joined.
    pub streams: BTreeMap<String, Vec<u8>>,
    /// Packs by number.
    pub packs: BTreeMap<u32, Bytes>,
    /// Stands for the checksums of all but the packs.
    sum: u64,
}

/// Lays out a new pack.
pub struct Placer {
    /// Its number.
    pub number: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl PlaceChunk for Placer {
    fn place(
        &mut self,
        _key: &StreamKey,
        _incarnation: Incarnation,
        start: u64,
        pieces: Vec<Bytes>,
    ) -> ChunkRef {
        let position = self.bytes.len() as u64;
        for piece in pieces {
            self.bytes.extend_from_slice(&piece);
        }
        let chunk = &self.bytes[position as usize..];
        ChunkRef {
            pack: self.number,
            position,
            start,
            length: chunk.len() as u32,
            crc32c: checksum(chunk),
        }
    }
}

/// Stands for the pack's checksum.
fn checksum(bytes: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64(bytes) as u32
}

impl Checkpoint {
    /// The checkpoint that follows this one by a plan.
    pub fn next(&self, group: u32, plan: &CheckpointPlan, pack: &Placer) -> Checkpoint {
        let mut next = self.clone();
        for (key, value) in &plan.delta {
            match value {
                Some(value) => {
                    let older = next.streams.get(key.as_str()).map(Vec::as_slice);
                    let value = combine_stream_states(older, value);
                    next.streams.insert(key.as_str().to_owned(), value);
                }
                None => {
                    next.streams.remove(key.as_str());
                }
            }
        }
        let manifest = &mut next.manifest;
        manifest.group = group;
        manifest.version = plan.version;
        manifest.index = plan.position.index;
        manifest.term = plan.position.term;
        manifest.membership = Some(plan.membership.clone());
        manifest.hard_state = Some(raftproto::checkpoint::HardState {
            term: plan.hard_state.term,
            vote: plan.hard_state.vote,
            commit: plan.hard_state.commit,
        });
        manifest.next_pack = manifest.next_pack.max(1);
        if !pack.bytes.is_empty() {
            assert_eq!(pack.number, manifest.next_pack, "the state names this pack");
            next.packs.insert(pack.number, pack.bytes.clone().into());
            manifest.next_pack += 1;
        }
        manifest.packs = plan.packs.clone();
        manifest.group_state = plan.group_state.clone().into();
        next.packs.retain(|number, _| plan.packs.contains(number));
        next.sum = next.sum_now();
        next
    }

    fn sum_now(&self) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(&self.manifest.encode_to_vec());
        for (key, value) in &self.streams {
            hash.update(key.as_bytes());
            hash.update(value);
        }
        hash.digest()
    }

    /// Its files are as they were written, as far as a start reads them.
    pub fn is_whole(&self) -> bool {
        self.sum == self.sum_now() || ursula::mutation::is_on("checkpoint-unverified")
    }

    /// Another bit is in its state.
    pub fn flip(&mut self, rng: &mut Rng) {
        let mut state = self.manifest.group_state.to_vec();
        let streams = self.streams.values_mut().filter(|v| !v.is_empty());
        let mut values: Vec<&mut Vec<u8>> = streams.collect();
        let chosen = rng.below(values.len() as u64 + 1) as usize;
        let value = match values.get_mut(chosen) {
            Some(value) => &mut **value,
            None => &mut state,
        };
        if !value.is_empty() {
            let at = rng.below(value.len() as u64) as usize;
            value[at] ^= 1 << rng.below(8);
        }
        self.manifest.group_state = state.into();
    }

    /// The state that it holds.
    pub fn machine(&self, group: u32) -> Machine {
        let streams = self.streams.iter();
        let streams = streams.map(|(key, value)| (StreamKey::from_stored(key), value.clone()));
        Machine::load(group, &self.manifest.group_state, streams).unwrap()
    }

    /// As it comes to another replica.
    pub fn fetched(&self, group: u32) -> Fetched {
        Fetched {
            machine: self.machine(group),
            position: LogPosition {
                index: self.manifest.index,
                term: self.manifest.term,
            },
            membership: self.manifest.membership.clone().unwrap_or_default(),
            durable_pack: self.manifest.next_pack.saturating_sub(1),
        }
    }

    /// A part of a chunk, if it is there and whole.
    pub fn read(&self, chunk: &ChunkRef, from: u32, to: u32) -> Option<Vec<u8>> {
        let pack = self.packs.get(&chunk.pack)?;
        let begin = chunk.position as usize;
        let whole = pack.get(begin..begin + chunk.length as usize)?;
        (checksum(whole) == chunk.crc32c).then(|| whole[from as usize..to as usize].to_vec())
    }
}
