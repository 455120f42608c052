//! A cache's begin: its directory and file, and what a start finds there.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use glommio::io::OpenOptions;

use super::region::{ChunkKey, Gathering, HEADER_BYTES, Head, Slot};
use super::{CacheCounts, DiskCache, Home, Place, Region, add};
use crate::error::dma_error;
use crate::lock::DirLock;
use crate::{StorageError, blocking, io_error};

/// Largest and smallest region; a file has at least two.
const REGION_BYTES: (u64, u64) = (512 << 10, 8 << 20);
/// Regions of a file that is large enough.
const REGIONS_MIN: u64 = 16;

/// The least that a core can use.
pub const BYTES_MIN: u64 = 2 * REGION_BYTES.0;

impl DiskCache {
    /// The cache of core `core` below `dir`, of `bytes` at most. `owner` is the same at each start of the same cluster:
    /// what another one left is not read. What is there is found by [`DiskCache::load`].
    ///
    /// # Errors
    /// [`StorageError`]; also where the filesystem has no direct I/O, or no room.
    pub async fn open(
        dir: &Path,
        core: u16,
        bytes: u64,
        owner: u64,
    ) -> Result<Rc<DiskCache>, StorageError> {
        let wanted = (bytes / REGIONS_MIN).clamp(REGION_BYTES.0, REGION_BYTES.1);
        let region_bytes = (wanted - wanted % HEADER_BYTES as u64) as usize;
        let count = (bytes / region_bytes as u64).max(2);
        let path = dir.join(format!("chunks-{core}"));
        let at = path.clone();
        let size = count * region_bytes as u64;
        blocking::run(move || make_room(&at, size)).await?;
        crate::wal::settle_polling(dir, u32::from(core)).await?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let opened = blocking::awake(options.dma_open(&path)).await;
        let file = opened.map_err(|e| dma_error(&path, "open", e))?;
        let cache = Rc::new(DiskCache {
            path,
            file: Rc::new(file),
            owner,
            region_bytes,
            index: RefCell::default(),
            regions: RefCell::new((0..count).map(|_| Region::default()).collect()),
            gathering: RefCell::new(Gathering::new(region_bytes)),
            writing: RefCell::default(),
            hand: Cell::new(0),
            sequence: Cell::new(1),
            stored_bytes: Cell::new(0),
            is_off: Cell::new(false),
            counts: CacheCounts::default(),
        });
        Ok(cache)
    }

    /// Finds what the regions hold; beside all else that is done.
    pub async fn load(self: Rc<Self>) {
        let count = self.regions.borrow().len() as u32;
        let mut newest = (0, 0);
        for region in 0..count {
            let Some((sequence, entries)) = self.read_index(region).await else {
                continue;
            };
            newest = newest.max((sequence, region));
            // Written meanwhile, it holds something else.
            if self.generation(region) > 0 {
                continue;
            }
            let mut keys = Vec::with_capacity(entries.len());
            for (key, slot) in entries {
                let mut index = self.index.borrow_mut();
                let std::collections::hash_map::Entry::Vacant(vacant) = index.entry(key) else {
                    continue;
                };
                vacant.insert(Place {
                    home: Home::Region(region),
                    slot,
                    uses: 0,
                });
                add(&self.stored_bytes, u64::from(slot.stored));
                keys.push(key);
            }
            self.regions.borrow_mut()[region as usize].keys = keys;
        }
        let is_untouched = self.sequence.get() == 1;
        self.sequence.set(self.sequence.get().max(newest.0 + 1));
        if is_untouched && newest.0 > 0 {
            self.hand.set((newest.1 as usize + 1) % count as usize);
        }
        log::info!(
            "event=cache_found path={:?} chunks={} bytes={}",
            self.path.display(),
            self.chunks(),
            self.stored_bytes()
        );
    }

    async fn read_index(&self, region: u32) -> Option<(u64, Vec<(ChunkKey, Slot)>)> {
        let base = self.base(region);
        let header = self.read_at(base, HEADER_BYTES).await.ok()?;
        let head = Head::read(&header, self.owner, self.region_bytes)?;
        let from = base + u64::from(head.index_position);
        let index = self.read_at(from, head.index_bytes()).await.ok()?;
        let entries = head.index(&index);
        if entries.is_none() {
            log::warn!(
                "event=cache_damaged path={:?} the index of region {region} is damaged",
                self.path.display()
            );
            add(&self.counts.damaged, 1);
        }
        Some((head.sequence, entries?))
    }
}

/// Creates the file or brings it to its size, with its blocks. Blocks.
fn make_room(path: &Path, size: u64) -> Result<(), StorageError> {
    use std::os::fd::AsRawFd;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options
        .open(path)
        .map_err(|e| io_error(path, "create", e))?;
    file.set_len(size)
        .map_err(|e| io_error(path, "resize", e))?;
    // SAFETY: the descriptor is open for the whole call.
    let result = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size as libc::off_t) };
    if result != 0 {
        // What could not be had is given back.
        let _ = file.set_len(0);
        let source = std::io::Error::from_raw_os_error(result);
        return Err(io_error(path, "allocate", source));
    }
    file.sync_all().map_err(|e| io_error(path, "sync", e))
}

/// Makes a directory ready for `cores` caches of this process alone; files of cores that are no more go. Blocks.
///
/// # Errors
/// [`StorageError::Locked`]; [`StorageError::Io`], also where the filesystem has no direct I/O.
pub fn prepare(dir: &Path, cores: u16) -> Result<DirLock, StorageError> {
    let lock = DirLock::acquire(dir)?;
    if !crate::wal::has_direct_io(dir)? {
        let source = std::io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        return Err(io_error(dir, "use direct I/O in", source));
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let core = name.strip_prefix("chunks-").and_then(|n| n.parse().ok());
        if core.is_some_and(|core: u16| core >= cores) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(lock)
}
