//! A cache of cold chunks on a local disk: one file per core, read and written with direct I/O on the core's executor.
//!
//! The file is divided into regions (`region.rs`), written one after the other. A full one is the next to be forgotten when
//! all are written: those of its chunks that were used since move on into the region that gathers in memory, with less
//! credit each time (CLOCK with a count of up to three), the others go. So all writes are large and in order, and nothing
//! has to be compacted. What was asked for while a region gathers or is written comes from memory.
//! A start finds what the regions hold by their indexes, beside the requests that it serves meanwhile.
//! Every chunk is verified by the checksum that the log has of it; one that is damaged is forgotten and counted, and the
//! caller fetches it from where it came from. The cache is never what holds up a read: what cannot be kept is not.
//! Invariants: bounded on disk by its file, in memory by two regions and an index entry per 8 KiB of it.

mod open;
mod region;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use ahash::AHashMap;
use bytes::Bytes;
use glommio::io::DmaFile;

pub use self::open::{BYTES_MIN, prepare};
pub use self::region::ChunkKey;
use self::region::{Gathering, HEADER_BYTES, Slot};
use crate::cold_pack::{self, Location};
use crate::error::dma_error;
use crate::{StorageError, blocking, io_error};

/// Uses that are remembered of a chunk.
const USES_MAX: u8 = 3;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Gathering,
    Writing,
    Region(u32),
}

#[derive(Debug, Clone, Copy)]
struct Place {
    home: Home,
    slot: Slot,
    uses: u8,
}

/// What is on disk.
#[derive(Debug, Default)]
struct Region {
    keys: Vec<ChunkKey>,
    /// Grows when it is forgotten; 0: not since the start.
    generation: u64,
}

/// What a cache has done since its start.
#[derive(Debug, Default)]
pub struct CacheCounts {
    /// Chunks that it gave.
    pub hits: Cell<u64>,
    /// Bytes that it wrote.
    pub written_bytes: Cell<u64>,
    /// Chunks that it forgot for room.
    pub evicted: Cell<u64>,
    /// Chunks that it did not take, since the disk was slower than the store.
    pub dropped: Cell<u64>,
    /// Chunks that were not what had been written.
    pub damaged: Cell<u64>,
    /// Reads and writes that failed.
    pub failures: Cell<u64>,
}

fn add(cell: &Cell<u64>, by: u64) {
    cell.set(cell.get() + by);
}

/// See the module's head.
pub struct DiskCache {
    path: PathBuf,
    file: Rc<DmaFile>,
    owner: u64,
    region_bytes: usize,
    index: RefCell<AHashMap<ChunkKey, Place>>,
    regions: RefCell<Vec<Region>>,
    gathering: RefCell<Gathering>,
    writing: RefCell<Option<Rc<Gathering>>>,
    /// The region that is written next.
    hand: Cell<usize>,
    sequence: Cell<u64>,
    stored_bytes: Cell<u64>,
    /// A write failed: nothing is taken any more.
    is_off: Cell<bool>,
    counts: CacheCounts,
}

impl DiskCache {
    /// What it has done.
    pub fn counts(&self) -> &CacheCounts {
        &self.counts
    }

    /// Bytes that it has of chunks.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.get()
    }

    /// Chunks that it has.
    pub fn chunks(&self) -> usize {
        self.index.borrow().len()
    }

    /// How full the memory is in which chunks gather until they are written, from 0 to 1; what finds no room is dropped.
    pub fn write_buffer(&self) -> f64 {
        let gathering = self.gathering.borrow().filled();
        let writing = self.writing.borrow().as_ref().map_or(0, |_| 1);
        (gathering + f64::from(writing)) / 2.0
    }

    /// Whether it has the chunk, as far as it knows.
    pub fn contains(&self, key: &ChunkKey, chunk: &Location) -> bool {
        let index = self.index.borrow();
        index.get(key).is_some_and(|place| place.slot.is(chunk))
    }

    /// A chunk's own bytes, verified; `None`: it is not there, or not any more.
    pub async fn get(&self, key: &ChunkKey, chunk: &Location) -> Option<Bytes> {
        let found = self.read(key, chunk).await?;
        add(&self.counts.hits, 1);
        if let Some(place) = self.index.borrow_mut().get_mut(key) {
            place.uses = (place.uses + 1).min(USES_MAX);
        }
        Some(found)
    }

    /// Reads a chunk that counts as used neither by this nor by anybody; answers its stored bytes and whether it was sound.
    pub async fn verify(&self, key: &ChunkKey) -> Option<(u64, bool)> {
        let slot = self.index.borrow().get(key).map(|place| place.slot)?;
        let damaged = self.counts.damaged.get();
        let found = self.read(key, &slot.location(key)).await;
        let is_sound = found.is_some() || self.counts.damaged.get() == damaged;
        Some((u64::from(slot.stored), is_sound))
    }

    /// The keys of one region on disk, and how many regions there are.
    pub fn keys_of(&self, region: usize) -> (Vec<ChunkKey>, usize) {
        let regions = self.regions.borrow();
        let keys = regions.get(region).map(|r| r.keys.clone());
        (keys.unwrap_or_default(), regions.len())
    }

    async fn read(&self, key: &ChunkKey, chunk: &Location) -> Option<Bytes> {
        let place = *self.index.borrow().get(key)?;
        if !place.slot.is(chunk) {
            return None;
        }
        let stored = match place.home {
            Home::Gathering => {
                let gathering = self.gathering.borrow();
                Bytes::copy_from_slice(gathering.stored(&place.slot))
            }
            Home::Writing => {
                let writing = self.writing.borrow();
                Bytes::copy_from_slice(writing.as_ref()?.stored(&place.slot))
            }
            Home::Region(region) => {
                let generation = self.generation(region);
                let read = self.read_slot(region, &place.slot).await;
                if self.generation(region) != generation {
                    return None;
                }
                match read {
                    Ok(stored) => stored,
                    Err(error) => {
                        log::warn!("event=cache_read_failed {error}");
                        add(&self.counts.failures, 1);
                        self.forget(key, place.home);
                        return None;
                    }
                }
            }
        };
        let at = *chunk;
        let opened = blocking::run(move || cold_pack::open(stored, &at)).await;
        match opened {
            Ok(bytes) => Some(bytes),
            Err(damage) => {
                log::warn!(
                    "event=cache_damaged path={:?} {damage}: it is fetched anew",
                    self.path.display()
                );
                add(&self.counts.damaged, 1);
                self.forget(key, place.home);
                None
            }
        }
    }

    fn generation(&self, region: u32) -> u64 {
        let regions = self.regions.borrow();
        regions.get(region as usize).map_or(0, |r| r.generation)
    }

    fn base(&self, region: u32) -> u64 {
        u64::from(region) * self.region_bytes as u64
    }

    async fn read_slot(&self, region: u32, slot: &Slot) -> Result<Bytes, StorageError> {
        let from = self.base(region) + u64::from(slot.offset);
        self.read_at(from, slot.stored as usize).await
    }

    async fn read_at(&self, from: u64, length: usize) -> Result<Bytes, StorageError> {
        let _under_way = crate::blocking::under_way();
        let read = self.file.read_at(from, length).await;
        let read = read.map_err(|e| dma_error(&self.path, "read", e))?;
        Ok(Bytes::copy_from_slice(&read))
    }

    /// It is not there any more, if it still is where it was.
    fn forget(&self, key: &ChunkKey, home: Home) {
        let mut index = self.index.borrow_mut();
        if index.get(key).is_some_and(|place| place.home == home)
            && let Some(place) = index.remove(key)
        {
            self.shrink(&place);
        }
    }

    fn shrink(&self, place: &Place) {
        let stored = u64::from(place.slot.stored);
        self.stored_bytes.set(self.stored_bytes.get() - stored);
    }

    /// Keeps a chunk, as it is stored in its pack. One that finds no room at once is not kept.
    pub fn put(self: &Rc<Self>, key: ChunkKey, chunk: &Location, stored: &[u8]) {
        let fits = stored.len() == chunk.stored as usize
            && Gathering::could_take(stored.len(), self.region_bytes);
        if self.is_off.get() || !fits || self.index.borrow().contains_key(&key) {
            return;
        }
        if self.gather(key, chunk, stored, 0) {
            return;
        }
        if self.writing.borrow().is_some() {
            add(&self.counts.dropped, 1);
            return;
        }
        let full = self.seal();
        self.gather(key, chunk, stored, 0);
        glommio::spawn_local(self.clone().write(full)).detach();
    }

    fn gather(&self, key: ChunkKey, chunk: &Location, stored: &[u8], uses: u8) -> bool {
        let Some(slot) = self.gathering.borrow_mut().take(key, chunk, stored) else {
            return false;
        };
        let place = Place {
            home: Home::Gathering,
            slot,
            uses,
        };
        let before = self.index.borrow_mut().insert(key, place);
        if let Some(before) = before {
            self.shrink(&before);
        }
        add(&self.stored_bytes, u64::from(slot.stored));
        true
    }

    /// What has gathered is to be written.
    fn seal(&self) -> Rc<Gathering> {
        let full = self.gathering.replace(Gathering::new(self.region_bytes));
        self.move_all(&full, Home::Gathering, Some(Home::Writing));
        let full = Rc::new(full);
        *self.writing.borrow_mut() = Some(full.clone());
        full
    }

    /// All chunks that are still where they were are somewhere else now, or nowhere.
    fn move_all(&self, gathered: &Gathering, from: Home, to: Option<Home>) {
        for (key, _) in &gathered.entries {
            match to {
                Some(to) => {
                    let mut index = self.index.borrow_mut();
                    if let Some(place) = index.get_mut(key).filter(|p| p.home == from) {
                        place.home = to;
                    }
                }
                None => self.forget(key, from),
            }
        }
    }

    /// Writes a region in the place of the one that was written longest ago.
    async fn write(self: Rc<Self>, full: Rc<Gathering>) {
        let _under_way = crate::blocking::under_way();
        let region = self.hand.get();
        self.hand.set((region + 1) % self.regions.borrow().len());
        let kept = self.clear(region as u32).await;
        let result = self.write_region(region as u32, &full).await;
        *self.writing.borrow_mut() = None;
        match result {
            Ok(written) => {
                add(&self.counts.written_bytes, written);
                self.move_all(&full, Home::Writing, Some(Home::Region(region as u32)));
                let keys = full.entries.iter().map(|(key, _)| *key).collect();
                self.regions.borrow_mut()[region].keys = keys;
            }
            Err(error) => {
                log::error!("event=cache_off nothing more is kept on this disk: {error}");
                add(&self.counts.failures, 1);
                self.is_off.set(true);
                self.move_all(&full, Home::Writing, None);
            }
        }
        for (key, chunk, stored, uses) in kept {
            let is_known = self.index.borrow().contains_key(&key);
            if is_known || !self.gather(key, &chunk, &stored, uses) {
                add(&self.counts.evicted, u64::from(!is_known));
            }
        }
    }

    /// Forgets what a region holds; answers those of its chunks that were used, half a region at most.
    async fn clear(&self, region: u32) -> Vec<(ChunkKey, Location, Bytes, u8)> {
        let keys = {
            let mut regions = self.regions.borrow_mut();
            let cleared = &mut regions[region as usize];
            cleared.generation += 1;
            std::mem::take(&mut cleared.keys)
        };
        let mut gone = Vec::new();
        for key in keys {
            let mut index = self.index.borrow_mut();
            let is_here = |place: &Place| place.home == Home::Region(region);
            if index.get(&key).is_some_and(is_here)
                && let Some(place) = index.remove(&key)
            {
                self.shrink(&place);
                gone.push((key, place));
            }
        }
        let (mut kept, mut bytes) = (Vec::new(), 0);
        for (key, place) in gone {
            let stored = place.slot.stored as usize;
            if place.uses == 0 || bytes + stored > self.region_bytes / 2 {
                add(&self.counts.evicted, 1);
                continue;
            }
            // Not verified here: whoever reads it does that.
            if let Ok(read) = self.read_slot(region, &place.slot).await {
                bytes += stored;
                kept.push((key, place.slot.location(&key), read, place.uses - 1));
            }
        }
        kept
    }

    async fn write_region(&self, region: u32, full: &Gathering) -> Result<u64, StorageError> {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let (header, rest) = full.finish(self.owner, sequence);
        let base = self.base(region);
        // Blank, so that a crash leaves no header over other bytes than its own.
        self.write_at(&[0; HEADER_BYTES], base).await?;
        self.sync().await?;
        self.write_at(&rest, base + HEADER_BYTES as u64).await?;
        self.sync().await?;
        self.write_at(&header, base).await?;
        Ok((rest.len() + 2 * HEADER_BYTES) as u64)
    }

    async fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), StorageError> {
        let mut buffer = self.file.alloc_dma_buffer(bytes.len());
        buffer.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        buffer.trim_to_size(bytes.len());
        let written = self.file.write_at(buffer, position).await;
        let written = written.map_err(|e| dma_error(&self.path, "write", e))?;
        if written == bytes.len() {
            return Ok(());
        }
        let source = std::io::Error::from_raw_os_error(libc::ENOSPC);
        Err(io_error(&self.path, "write", source))
    }

    async fn sync(&self) -> Result<(), StorageError> {
        let synced = self.file.fdatasync().await;
        synced.map_err(|e| dma_error(&self.path, "sync", e))
    }

    /// Writes what has gathered, so that the next start finds it.
    pub async fn close(self: &Rc<Self>) {
        let is_idle = self.writing.borrow().is_none();
        if is_idle && !self.is_off.get() && !self.gathering.borrow().entries.is_empty() {
            let full = self.seal();
            self.clone().write(full).await;
            let _ = self.sync().await;
        }
    }
}

#[cfg(test)]
mod tests;
