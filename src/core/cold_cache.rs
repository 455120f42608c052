//! What of the cold store is near: chunks in memory, and behind them those on a local disk (`storage::cache`).
//! Owns the cache in memory. Invariants: it has a bound.

use std::collections::BTreeMap;
use std::rc::Rc;

use ahash::AHashMap;
use bytes::Bytes;
use storage::cache::{ChunkKey, DiskCache};
use storage::cold_pack::Location;

use super::Core;
use crate::config::Config;
use crate::protocol::{ColdChunk, PackName};

/// A chunk by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId {
    /// Its group.
    pub group: u32,
    /// Its pack.
    pub pack: PackName,
    /// First byte in the object.
    pub position: u64,
}

/// Chunks in memory, those used last.
pub(super) struct ChunkCache {
    chunks: AHashMap<ChunkId, (u64, Bytes)>,
    by_use: BTreeMap<u64, ChunkId>,
    uses: u64,
    bytes: u64,
    bytes_max: u64,
}

impl ChunkCache {
    pub(super) fn new(bytes_max: u64) -> ChunkCache {
        ChunkCache {
            chunks: AHashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&mut self, id: &ChunkId) -> Option<Bytes> {
        let (used, bytes) = self.chunks.get_mut(id)?;
        self.uses += 1;
        self.by_use.remove(used);
        *used = self.uses;
        self.by_use.insert(self.uses, *id);
        Some(bytes.clone())
    }

    pub(super) fn put(&mut self, id: ChunkId, bytes: Bytes) {
        let length = bytes.len() as u64;
        if length > self.bytes_max || self.chunks.contains_key(&id) {
            return;
        }
        self.uses += 1;
        self.by_use.insert(self.uses, id);
        self.chunks.insert(id, (self.uses, bytes));
        self.bytes += length;
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some((_, bytes)) = self.chunks.remove(&oldest) {
                self.bytes -= bytes.len() as u64;
            }
        }
    }
}

impl ChunkId {
    /// Of a chunk of this pack.
    pub(super) fn of(group: u32, pack: PackName, chunk: &ColdChunk) -> ChunkId {
        ChunkId {
            group,
            pack,
            position: chunk.position,
        }
    }

    /// The same for the cache on disk.
    pub(super) fn on_disk(&self) -> ChunkKey {
        ChunkKey {
            group: self.group,
            number: self.pack.number,
            term: self.pack.term,
            nonce: self.pack.nonce,
            position: self.position,
        }
    }
}

/// Where a chunk lies in its pack, and what it must be.
pub(super) fn location_of(chunk: &ColdChunk) -> Location {
    Location {
        position: chunk.position,
        length: chunk.length,
        stored: chunk.stored,
        crc32c: chunk.crc32c,
    }
}

/// The cache of core `id` on disk; `None` without one, or where it cannot be used: reads go to the store then.
pub(super) async fn open_cache(config: &Config, id: u16, cores: u16) -> Option<Rc<DiskCache>> {
    let dir = config.cache_dir.as_ref()?;
    config.cold.as_ref()?;
    let bytes = config.cache_bytes / u64::from(cores);
    let owner = xxhash_rust::xxh3::xxh3_64(config.cluster_id.as_bytes());
    match DiskCache::open(dir, id, bytes, owner).await {
        Ok(cache) => Some(cache),
        Err(error) => {
            log::error!("event=cache_off core={id} nothing is kept on the local disk: {error}");
            None
        }
    }
}

impl Core {
    pub(super) fn count_caches(&self) {
        let plain = &self.metrics.plain;
        plain.cold_cache_bytes.set(self.tier.cache.borrow().bytes());
        let Some(disk) = &self.tier.disk else {
            return;
        };
        let counts = disk.counts();
        plain.cache_hits_total.set(counts.hits.get());
        plain.cache_bytes.set(disk.stored_bytes());
        plain.cache_chunks.set(disk.chunks() as u64);
        plain
            .cache_written_bytes_total
            .set(counts.written_bytes.get());
        plain.cache_evictions_total.set(counts.evicted.get());
        plain.cache_dropped_total.set(counts.dropped.get());
        plain.cache_damaged_total.set(counts.damaged.get());
        plain.cache_failures_total.set(counts.failures.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(position: u64) -> ChunkId {
        let pack = PackName {
            term: 1,
            number: 1,
            nonce: 1,
        };
        ChunkId {
            group: 1,
            pack,
            position,
        }
    }

    #[test]
    fn what_was_not_used_for_longest_leaves_the_cache() {
        let mut cache = ChunkCache::new(10);
        for position in 0..3 {
            cache.put(id(position), Bytes::from_static(b"abc"));
        }
        assert!(cache.get(&id(0)).is_some());
        cache.put(id(3), Bytes::from_static(b"defg"));
        assert_eq!((cache.bytes(), cache.get(&id(1))), (10, None));
        assert!(cache.get(&id(0)).is_some());
        cache.put(id(4), Bytes::from_static(b"longer than all"));
        assert_eq!((cache.bytes(), cache.by_use.len()), (10, 3));
    }
}
