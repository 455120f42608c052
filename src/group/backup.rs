//! What a backup takes of a group, and how a group's state is built from it again.
//! A backup is a state at a log index and the committed entries after it (`core/ship.rs`, `backup/`); the same entries give
//! the same state as on the replicas (I5).

use bytes::Bytes;
use prost::Message;
use raftproto::checkpoint::{GroupState, StreamState};

use super::cold::{ColdSettings, ColdWork};
use super::machine::{BatchError, Machine, decode_batch};
use super::raft::Raft;
use super::stream::{self, Places};
use super::{Group, LogEntry};
use crate::mutation;
use crate::protocol::{ColdChunk, PackName, Piece, StreamKey};

/// A stream as a backup has it.
#[derive(Debug)]
pub struct Exported {
    /// Its key.
    pub key: StreamKey,
    /// Its state, without chunks.
    pub state: StreamState,
    /// Its chunks in the cold store, in order, and the packs that they are in.
    pub cold: Vec<(PackName, ColdChunk)>,
    /// First of the bytes that the cold store lacks.
    pub own_from: u64,
    /// Those bytes, up to the tail.
    pub own: Vec<Bytes>,
}

/// The stamp of an entry's commands; `None` for one without.
pub fn stamp_of(payload: &Bytes) -> Option<u64> {
    if payload.is_empty() {
        return None;
    }
    let batch = decode_batch(payload, raftproto::version::COMMANDS).ok();
    batch.map(|batch| batch.stamp_ms)
}

impl Group {
    /// Entries after `index` stay in memory until they are shipped.
    pub fn keep_log_from(&mut self, index: Option<u64>) {
        self.raft.keep_from(index, self.applied.index);
    }

    /// Applied entries after `index`, of at least one and not much more than `bytes_max`; `None`: some are not in memory any
    /// more.
    pub fn log_after(&self, index: u64, bytes_max: u64) -> Option<Vec<LogEntry>> {
        let mut bytes = 0;
        let entries = self.raft.node.store().range(index, self.applied.index)?;
        let is_room = |(_, payload): &(_, &Bytes)| {
            let has_room = bytes < bytes_max;
            bytes += payload.len() as u64;
            has_room
        };
        let entries = entries.take_while(is_room);
        let entry_of = |(entry, payload): (&::raft::prelude::Entry, &Bytes)| LogEntry {
            index: entry.index,
            term: entry.term,
            is_conf_change: entry.entry_type() != ::raft::prelude::EntryType::EntryNormal,
            payload: payload.clone(),
        };
        Some(entries.map(entry_of).collect())
    }

    /// Names of the group's packs and intents: the objects that may be there.
    pub fn cold_names(&self) -> Vec<PackName> {
        let state = &self.machine.cold;
        let packs = state.packs.values().map(|p| p.name);
        packs.chain(state.intents.keys().copied()).collect()
    }

    /// The applied entries that have a stamp, of the newest `count` that are in memory: index and stamp of each, and the index
    /// after which they all are.
    pub fn newest_stamps(&self, count: u64) -> (u64, Vec<(u64, u64)>) {
        let store = self.raft.node.store();
        let (first, applied) = (store.first_kept(), self.applied.index);
        let from = first.max(applied.saturating_sub(count));
        let entries = store.range(from, applied).into_iter().flatten();
        let stamps = entries.filter_map(|(e, payload)| Some((e.index, stamp_of(payload)?)));
        (from, stamps.collect())
    }

    /// Names and sizes of the packs that count, if this replica leads.
    pub fn cold_packs(&self) -> Vec<(PackName, u64)> {
        if !self.is_ready {
            return Vec::new();
        }
        let packs = self.machine.cold.packs.values();
        let live = packs.filter(|p| p.dead_since_ms.is_none());
        live.map(|p| (p.name, p.object_bytes)).collect()
    }

    /// All that was acknowledged before this time is in the backup: only then objects may be deleted, and only those that
    /// no time needs which it can be restored to.
    pub fn set_backed_up(&mut self, until_ms: u64) {
        self.cold.backed_up_ms = until_ms;
    }
}

impl Raft {
    /// Forgets applied entries that neither a replica nor the backup may need.
    pub(super) fn forget_applied(&mut self, index: u64) {
        let index = self.kept_from.map_or(index, |from| from.min(index));
        if self.is_alone() {
            self.node.mut_store().compact(index);
        } else {
            let max = self.settings().log_bytes_max;
            self.node.mut_store().compact_above(index, max);
        }
    }

    /// Entries after this index stay in memory until another one is named; `None`: those that replicas may need.
    pub(super) fn keep_from(&mut self, index: Option<u64>, applied: u64) {
        self.kept_from = index;
        self.forget_applied(applied);
    }
}

impl ColdWork {
    /// Objects that nothing referred to after this time may be deleted. What any time needs that the backup can be
    /// restored to stays: also where the backup is behind.
    pub(super) fn dead_before_ms(&self, settings: &ColdSettings, now_ms: u64) -> Option<u64> {
        match settings.backup_keep_ms {
            None if mutation::is_on("deleted-without-grace") => Some(now_ms),
            None => now_ms.checked_sub(settings.grace_ms),
            Some(keep_ms) => {
                let until_ms = now_ms.min(self.backed_up_ms);
                until_ms.checked_sub(keep_ms.max(settings.grace_ms))
            }
        }
    }
}

/// Why a base makes no group.
#[derive(Debug, thiserror::Error)]
pub enum BaseMisfit {
    /// A value does not decode.
    #[error("does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A stream's bytes do not reach its tail, or go beyond it.
    #[error(
        "has {found} bytes of stream {key} behind those of the cold store, where {wanted} belong"
    )]
    Bytes {
        /// Which.
        key: String,
        /// What there is.
        found: u64,
        /// What there should be.
        wanted: u64,
    },
}

/// First of the bytes that the cold store lacks.
pub fn own_from(state: &StreamState) -> u64 {
    let cold_end = state.cold.last();
    let cold_end = cold_end.map_or(0, |c| c.start + u64::from(c.length));
    cold_end.max(state.kept_from).max(state.start)
}

impl Machine {
    /// A group as a backup's base has it: [`Machine::load`], and the bytes after the cold store's.
    ///
    /// # Errors
    /// [`BaseMisfit`].
    pub fn load_base(
        group: u32,
        group_state: &[u8],
        streams: impl Iterator<Item = (StreamKey, Vec<u8>, Bytes)>,
    ) -> Result<Machine, BaseMisfit> {
        let mut given = Vec::new();
        let mut states = Vec::new();
        for (key, state, own) in streams {
            let decoded = StreamState::decode(state.as_slice())?;
            let wanted = decoded.tail.saturating_sub(own_from(&decoded));
            if own.len() as u64 != wanted {
                return Err(BaseMisfit::Bytes {
                    key: key.as_str().to_owned(),
                    found: own.len() as u64,
                    wanted,
                });
            }
            if !own.is_empty() {
                given.push((key.clone(), own));
            }
            states.push((key, state));
        }
        let mut machine = Machine::load(group, group_state, states.into_iter())?;
        for (key, own) in given {
            if let Some(stream) = machine.streams.get_mut(&key) {
                machine.hot_bytes += own.len() as u64;
                stream.bytes.append(own);
            }
        }
        Ok(machine)
    }

    /// Applies an entry of the log once more.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn replay(&mut self, payload: &Bytes) -> Result<(), BatchError> {
        let batch = decode_batch(payload, raftproto::version::COMMANDS)?;
        let mut effects = Vec::new();
        for command in batch.commands {
            self.apply(batch.version, batch.stamp_ms, command, &mut effects);
        }
        Ok(())
    }

    /// The stamp of the newest entry that was applied.
    pub fn last_stamp_ms(&self) -> u64 {
        self.last_stamp_ms
    }

    /// What the group knows beside its streams.
    pub fn exported_state(&self) -> GroupState {
        self.group_state()
    }

    /// All streams in the order of their keys. Bytes must be in memory or in the cold store.
    pub fn export(&self) -> impl Iterator<Item = Exported> {
        let name_of = |pack| self.cold.name_of(pack);
        self.streams.iter().map(move |(key, stream)| {
            let bytes = &stream.bytes;
            let places = Places {
                group: self.group,
                name_of: &name_of,
            };
            let own_from = bytes.cold_end();
            let mut pieces = Vec::new();
            bytes.plan(places, own_from, bytes.end(), &mut pieces);
            let hot = |piece| match piece {
                Piece::Hot(bytes) => Some(bytes),
                _ => None,
            };
            let cold = bytes.cold_chunks().iter();
            Exported {
                key: key.clone(),
                state: stream::describe(stream),
                cold: cold.map(|chunk| (name_of(chunk.pack), *chunk)).collect(),
                own_from,
                own: pieces.into_iter().filter_map(hot).collect(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_whose_bytes_do_not_reach_the_tail_is_refused() {
        let state = StreamState {
            incarnation: 1,
            start: 2,
            tail: 10,
            ..StreamState::default()
        };
        let load = |own: &'static [u8]| {
            let key = StreamKey::from_stored("/a");
            let stream = (key, state.encode_to_vec(), Bytes::from_static(own));
            Machine::load_base(1, &[], std::iter::once(stream))
        };
        assert!(load(b"12345678").is_ok());
        for (own, found) in [(&b""[..], 0), (b"1234567", 7), (b"123456789", 9)] {
            let Err(BaseMisfit::Bytes {
                found: has, wanted, ..
            }) = load(own)
            else {
                panic!("{own:?} is taken");
            };
            assert_eq!((has, wanted), (found, 8));
        }
    }
}
