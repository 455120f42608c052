//! What a group's log knows of the cold store, and what waits to go there.
//! Owns the packs, the intents and the queue of streams with bytes that the cold store lacks. Invariants: a stream with such
//! bytes stands in the queue once; live bytes of a pack are those of the chunks that name it.

use std::collections::{BTreeMap, BTreeSet};

use super::cold::ColdSettings;
use super::stream::Stream;
use crate::protocol::{ColdChunk, PackName, StreamKey};

/// Oldest data waits at most so many times as long as quiet data.
const BUSY_FACTOR: u64 = 10;

/// Objects that one effect deletes.
const DELETES_MAX: usize = 1000;

/// An object of the cold store as the group's log knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdPack {
    /// Its name.
    pub name: PackName,
    /// Its size.
    pub object_bytes: u64,
    /// Bytes of the chunks that it was published with.
    pub chunk_bytes: u64,
    /// Those that streams refer to; derived.
    pub live_bytes: u64,
    /// Since when nothing refers to it.
    pub dead_since_ms: Option<u64>,
}

/// A group's part of the cold store, and what waits to go there.
#[derive(Debug, Default)]
pub(super) struct ColdState {
    pub(super) packs: BTreeMap<u32, ColdPack>,
    pub(super) next_pack: u32,
    /// Objects that may be there and are not published, and since when.
    pub(super) intents: BTreeMap<PackName, u64>,
    /// Below, nothing is replicated.
    pub(super) is_on: bool,
    /// Streams with bytes that the cold store lacks, those first that have had some for longest.
    pub(super) queue: BTreeSet<(u64, StreamKey)>,
    pub(super) unflushed_bytes: u64,
    appended_ms: u64,
    /// A pack counts since [`Group::note_applied`] was called last.
    pub(super) has_published: bool,
    /// Nothing refers to some pack any more, since then too.
    pub(super) has_ended: bool,
}

impl ColdState {
    /// There is a cold store to flush to.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// The name of a pack that a chunk refers to.
    pub(super) fn name_of(&self, pack: u32) -> PackName {
        self.packs.get(&pack).expect("chunks name known packs").name
    }

    /// A stream's chunk refers to its pack.
    pub(super) fn add_live(&mut self, chunk: &ColdChunk) {
        if let Some(pack) = self.packs.get_mut(&chunk.pack) {
            pack.live_bytes += u64::from(chunk.length);
        }
    }

    /// A stream's chunk does not refer to its pack any more.
    pub(super) fn remove_live(&mut self, chunk: &ColdChunk, stamp_ms: u64) {
        if let Some(pack) = self.packs.get_mut(&chunk.pack) {
            pack.live_bytes -= u64::from(chunk.length);
            if pack.live_bytes == 0 {
                pack.dead_since_ms = Some(stamp_ms);
                self.has_ended = true;
            }
        }
    }

    /// A stream has `added` more bytes that the cold store lacks.
    pub(super) fn note_append(
        &mut self,
        key: &StreamKey,
        stream: &mut Stream,
        added: u64,
        stamp_ms: u64,
    ) {
        if !self.is_on || stream.bytes.unflushed_len() == 0 {
            return;
        }
        if stream.unflushed_since_ms == u64::MAX {
            stream.unflushed_since_ms = stamp_ms;
            self.queue.insert((stamp_ms, key.clone()));
            self.unflushed_bytes += stream.bytes.unflushed_len();
        } else {
            self.unflushed_bytes += added;
        }
        self.appended_ms = self.appended_ms.max(stamp_ms);
    }

    /// A stream has `fewer` bytes less that the cold store lacks.
    pub(super) fn note_flushed(
        &mut self,
        key: &StreamKey,
        stream: &mut Stream,
        fewer: u64,
        stamp_ms: u64,
    ) {
        if stream.unflushed_since_ms == u64::MAX {
            return;
        }
        self.unflushed_bytes -= fewer;
        self.queue.remove(&(stream.unflushed_since_ms, key.clone()));
        stream.unflushed_since_ms = u64::MAX;
        let left = stream.bytes.unflushed_len();
        if left > 0 {
            stream.unflushed_since_ms = stamp_ms;
            self.queue.insert((stamp_ms, key.clone()));
        }
    }

    /// The stream is gone.
    pub(super) fn forget_stream(&mut self, key: &StreamKey, stream: &Stream, stamp_ms: u64) {
        for chunk in stream.bytes.cold_chunks() {
            self.remove_live(chunk, stamp_ms);
        }
        if stream.unflushed_since_ms != u64::MAX {
            self.queue.remove(&(stream.unflushed_since_ms, key.clone()));
            self.unflushed_bytes -= stream.bytes.unflushed_len();
        }
    }

    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.queue.first().map(|(since_ms, _)| *since_ms)
    }

    /// Whether a pack is worth its request by now.
    pub(super) fn is_due(&self, settings: &ColdSettings, now_ms: u64) -> bool {
        let age_ms = settings.flush_age_ms;
        let Some(oldest_ms) = self.oldest_ms() else {
            return false;
        };
        self.unflushed_bytes >= settings.pack_bytes
            || self.appended_ms.saturating_add(age_ms) <= now_ms
            || oldest_ms.saturating_add(age_ms.saturating_mul(BUSY_FACTOR)) <= now_ms
    }

    pub(super) fn sparse(&self, settings: &ColdSettings) -> impl Iterator<Item = u32> {
        let percent = settings.live_percent_min;
        let is_sparse = move |pack: &ColdPack| {
            pack.live_bytes > 0 && pack.live_bytes * 100 < pack.chunk_bytes * percent
        };
        let sparse = self.packs.iter().filter(move |(_, p)| is_sparse(p));
        sparse.map(|(number, _)| *number)
    }

    pub(super) fn deletable(&self, dead_before_ms: u64) -> Vec<(u32, PackName)> {
        let is_over = |since_ms: u64| since_ms <= dead_before_ms;
        let dead = self
            .packs
            .iter()
            .filter(|(_, p)| p.dead_since_ms.is_some_and(is_over));
        dead.map(|(number, p)| (*number, p.name))
            .take(DELETES_MAX)
            .collect()
    }
}
