//! Writes one lane: records gather in an aligned buffer, a commit is one direct write and one sync.
//! Owns the lane's open segment, its buffer and the list of segments that groups still need.
//! Invariants: one commit at a time; after a failure nothing is written any more (fail-stop), but for a lack of space
//! that was found before anything was written; a segment goes only after those before it, and after what it carries is
//! on disk in a later one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use futures_lite::future::yield_now;
use glommio::sync::Semaphore;

use super::file::{IoMode, Prepared, SegmentFile, publish};
use super::legacy::Pin;
use super::log_thread::LogThread;
use super::pending::{Pending, SLICE_BYTES};
use super::polling;
use super::segment::{
    CLEAN_END, Cursor, FRAME_BYTES, FrameHeader, HEADER_BYTES, Record, SegmentHeader, SegmentId,
    begin_frame, end_frame, random_nonce,
};
use super::spare::Spare;
use crate::{StorageError, blocking, io_error};

/// How a lane is written.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// The directory of all segments.
    pub dir: PathBuf,
    /// Which store this is; a file of another one is refused at recovery.
    pub store_id: [u8; 16],
    /// This start of the process.
    pub generation: u64,
    /// This core.
    pub lane: u32,
    /// Size of a segment in bytes.
    pub segment_bytes: u64,
    /// How segments are written; see [`super::has_direct_io`] for what the filesystem takes.
    pub io_mode: IoMode,
}

/// What a commit wrote.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    /// Bytes, padding included.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

/// Segments that hold records which some group needs.
#[derive(Debug, Clone)]
pub struct PinReport {
    /// How many, the open one included.
    pub segments: usize,
    /// The groups that need the oldest one.
    pub oldest_needed_by: Vec<u32>,
}

/// What of a segment of this size is kept for what frees room, should there be none for the next one.
fn reserve(segment_bytes: u64) -> u64 {
    segment_bytes / 4
}

type Carry = Box<dyn Fn() -> Vec<Record>>;

/// See the module's head.
pub struct Wal {
    config: WalConfig,
    pending: RefCell<Pending>,
    open: RefCell<Option<OpenSegment>>,
    /// Full segments, oldest first.
    sealed: RefCell<VecDeque<Sealed>>,
    released: RefCell<BTreeMap<u32, u64>>,
    pins: RefCell<Vec<Pin>>,
    spare: Rc<Spare>,
    carry: RefCell<Option<Carry>>,
    thread: RefCell<Option<Rc<LogThread>>>,
    /// Whose turn it is to write.
    writing: Semaphore,
    is_closed: Cell<bool>,
    is_poisoned: Cell<bool>,
}

/// A full segment.
struct Sealed {
    id: SegmentId,
    /// The highest index of each group.
    last_index: BTreeMap<u32, u64>,
    /// What it carries is on disk in a later segment too.
    is_superseded: bool,
}

struct OpenSegment {
    id: SegmentId,
    file: Rc<SegmentFile>,
    path: PathBuf,
    size: u64,
    cursor: Cursor,
    last_index: BTreeMap<u32, u64>,
}

impl Wal {
    /// Starts a lane with its first segment. The records in `carried` are on disk when this ends.
    ///
    /// # Errors
    /// [`StorageError::Io`] or [`StorageError::NoSpace`].
    pub async fn open(mut config: WalConfig, carried: &[Record]) -> Result<Wal, StorageError> {
        if config.io_mode != IoMode::Buffered {
            polling::settle(&config.dir, config.generation, config.lane).await?;
        }
        config.segment_bytes = config.segment_bytes.next_multiple_of(HEADER_BYTES as u64);
        let wal = Wal {
            config,
            pending: RefCell::default(),
            open: RefCell::new(None),
            sealed: RefCell::default(),
            released: RefCell::default(),
            pins: RefCell::default(),
            spare: Rc::default(),
            carry: RefCell::new(None),
            thread: RefCell::new(None),
            writing: Semaphore::new(1),
            is_closed: Cell::new(false),
            is_poisoned: Cell::new(false),
        };
        let first = wal.spare.take(&wal.config, wal.config.segment_bytes);
        wal.next_segment(first.await?).await?;
        for record in carried {
            wal.buffer(record)?;
        }
        wal.commit().await?;
        Ok(wal)
    }

    /// Segments of earlier generations in which this core's groups have something. What those carry for them was
    /// written by [`Wal::open`], so from here on only the groups' indexes count.
    pub fn adopt(&self, pins: Vec<Pin>) {
        self.pins.borrow_mut().extend(pins);
        self.release_pins(|pin| pin.index == 0);
    }

    fn release_pins(&self, is_done: impl Fn(&Pin) -> bool) {
        let mut pins = self.pins.borrow_mut();
        pins.extract_if(.., |pin| is_done(pin))
            .for_each(Pin::release);
    }

    /// Records that stand at the start of each new segment, so that none before it is needed for them.
    pub fn set_carry(&self, carry: Carry) {
        *self.carry.borrow_mut() = Some(carry);
    }

    /// From now on frames are written by a thread of the log's own, of which somebody hears, instead of through glommio's rings.
    pub fn set_thread(&self, thread: Rc<LogThread>) {
        *self.thread.borrow_mut() = Some(thread);
    }

    /// Puts a record behind those that the next commit writes. Its payload is copied once, a large one by the commit.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`].
    pub fn buffer(&self, record: &Record) -> Result<(), StorageError> {
        if self.is_poisoned.get() || self.is_closed.get() {
            return Err(StorageError::Poisoned);
        }
        self.pending.borrow_mut().put(record);
        Ok(())
    }

    /// Writes and syncs all that was buffered. Records may be buffered meanwhile; they go with the next one.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] if there is no room for the next segment: nothing was written, what was buffered
    /// stays so, and the next commit tries again. Any other failure stops the log for good, and so does its end.
    pub async fn commit(&self) -> Result<Committed, StorageError> {
        let turn = self.writing.acquire_permit(1).await;
        let _turn = turn.map_err(|_| StorageError::Poisoned)?;
        if self.is_closed.get() {
            return Err(StorageError::Poisoned);
        }
        self.write(0).await
    }

    async fn write(&self, flags: u32) -> Result<Committed, StorageError> {
        if self.is_poisoned.get() {
            return Err(StorageError::Poisoned);
        }
        // Also where nobody waits for the end: what was taken is lost then, and whether it is on disk is not known.
        let unless_sound = Poison(&self.is_poisoned);
        let result = self.write_frame(flags).await;
        if matches!(result, Ok(_) | Err(StorageError::NoSpace { .. })) {
            std::mem::forget(unless_sound);
        }
        result
    }

    async fn write_frame(&self, flags: u32) -> Result<Committed, StorageError> {
        let mut pending = std::mem::take(&mut *self.pending.borrow_mut());
        if pending.is_empty() && flags == 0 {
            return Ok(Committed {
                bytes: 0,
                records: 0,
            });
        }
        let len = pending.frame_len();
        let (room, is_nearly_full) = {
            let open = self.open.borrow();
            let open = open.as_ref().ok_or(StorageError::Poisoned)?;
            let room = open.size - open.cursor.position;
            let is_nearly_full = room < len as u64 + reserve(open.size);
            (room, is_nearly_full)
        };
        if is_nearly_full && !self.spare.has_no_room() {
            // If the next segment finds no room, that is known while this one still has some; not waited for where it is known.
            blocking::awake(self.spare.settled()).await;
        }
        if (len + HEADER_BYTES) as u64 > room {
            let carried = self.carried();
            let size = self.segment_size(len + carried.frame_len());
            let file = match blocking::awake(self.spare.take(&self.config, size)).await {
                Ok(file) => file,
                Err(error) => {
                    let mut newer = self.pending.borrow_mut();
                    *newer = pending.join(std::mem::take(&mut *newer));
                    return Err(error);
                }
            };
            blocking::awake(self.next_segment(file)).await?;
            pending = carried.join(pending);
        }
        let (file, path, header, len, total) = {
            let open = self.open.borrow();
            let open = open.as_ref().ok_or(StorageError::Poisoned)?;
            let (len, cursor) = (pending.frame_len(), &open.cursor);
            let header = cursor.next(pending.records, flags);
            let total = cursor.padded(len);
            (open.file.clone(), open.path.clone(), header, len, total)
        };
        let mut buffer = pending.gather(total).await;
        let bytes = &mut buffer.as_bytes_mut()[..total];
        bytes[len..].fill(0);
        let crc = seal_slowly(bytes, header, len).await;
        let position = {
            let mut open = self.open.borrow_mut();
            let open = open.as_mut().ok_or(StorageError::Poisoned)?;
            for (group, index) in &pending.last_index {
                let last = open.last_index.entry(*group).or_default();
                *last = (*last).max(*index);
            }
            open.cursor.advance(total, crc)
        };
        let thread = self.thread.borrow().clone();
        match thread {
            Some(thread) => file.commit(&thread, &path, buffer, total, position).await?,
            None => {
                let _under_way = blocking::under_way();
                file.write_all(&path, buffer, total, position).await?;
                file.sync(&path).await?;
            }
        }
        self.supersede();
        Ok(Committed {
            bytes: total as u64,
            records: u64::from(pending.records),
        })
    }

    fn carried(&self) -> Pending {
        let mut carried = Pending::default();
        if let Some(carry) = self.carry.borrow().as_ref() {
            for record in carry() {
                carried.put(&record);
            }
        }
        carried
    }

    /// The size of a segment that has room for a frame of `len` bytes.
    fn segment_size(&self, len: usize) -> u64 {
        let least = (len + 3 * HEADER_BYTES).next_multiple_of(HEADER_BYTES);
        self.config.segment_bytes.max(least as u64)
    }

    /// Makes a file the open segment.
    async fn next_segment(&self, prepared: Prepared) -> Result<(), StorageError> {
        // The old segment stays open until the new one is there: records are buffered meanwhile.
        let (sequence, chain) = {
            let open = self.open.borrow();
            open.as_ref()
                .map_or((1, 0), |p| (p.id.sequence + 1, p.cursor.chain))
        };
        let id = SegmentId {
            generation: self.config.generation,
            lane: self.config.lane,
            sequence,
        };
        let path = id.path(&self.config.dir);
        let nonce = random_nonce().map_err(|e| io_error(&path, "make a nonce for", e))?;
        let (temporary, file, size) = (prepared.path, prepared.file, prepared.size);
        let alignment = file.alignment();
        let header = SegmentHeader {
            store_id: self.config.store_id,
            id,
            alignment: alignment as u32,
            chain,
            nonce,
            size,
        };
        let mut block = glommio::allocate_dma_buffer(HEADER_BYTES);
        header.encode(&mut block.as_bytes_mut()[..HEADER_BYTES]);
        file.write_all(&temporary, block, HEADER_BYTES, 0).await?;
        file.sync(&temporary).await?;
        publish(temporary, path.clone(), self.config.dir.clone()).await?;
        let previous = self.open.borrow_mut().replace(OpenSegment {
            id,
            file,
            path,
            size,
            cursor: Cursor::after(&header),
            last_index: BTreeMap::new(),
        });
        if let Some(previous) = previous {
            self.sealed.borrow_mut().push_back(Sealed {
                id: previous.id,
                last_index: previous.last_index,
                is_superseded: false,
            });
            previous.file.close(&previous.path).await;
        }
        self.spare.prepare_next(&self.config);
        Ok(())
    }

    /// The open segment has a frame, whose carried records stand for those of all segments before.
    fn supersede(&self) {
        let mut sealed = self.sealed.borrow_mut();
        let is_news = sealed.back().is_some_and(|s| !s.is_superseded);
        for segment in sealed.iter_mut().rev().take_while(|s| !s.is_superseded) {
            segment.is_superseded = true;
        }
        drop(sealed);
        if is_news {
            self.drop_released();
        }
    }

    /// The group's records up to `index` are in a durable checkpoint.
    pub fn release(&self, group: u32, index: u64) {
        self.released.borrow_mut().insert(group, index);
        self.release_pins(|pin| pin.group == group && pin.index <= index);
        self.drop_released();
    }

    fn drop_released(&self) {
        let mut sealed = self.sealed.borrow_mut();
        // From the oldest on only: a lane must not have holes.
        while let Some(segment) = sealed.front() {
            let is_needed = !segment.is_superseded || !self.needed_by(segment).is_empty();
            let path = segment.id.path(&self.config.dir);
            if is_needed || !self.spare.recycle(&self.config, &path) {
                break;
            }
            sealed.pop_front();
        }
    }

    fn needed_by(&self, segment: &Sealed) -> Vec<u32> {
        let released = self.released.borrow();
        let is_needed =
            |(group, index): &(&u32, &u64)| released.get(group).is_none_or(|done| done < index);
        let needed = segment.last_index.iter().filter(is_needed);
        needed.map(|(group, _)| *group).collect()
    }

    /// There was no room for the next segment, and of the open one less than a quarter is left, which is for what frees room
    /// and for what little Raft has to write. A frame that is longer than the rest finds [`StorageError::NoSpace`].
    pub fn is_short_of_room(&self) -> bool {
        let is_nearly_full =
            |open: &OpenSegment| open.size - open.cursor.position < reserve(open.size);
        self.spare.has_no_room() && self.open.borrow().as_ref().is_none_or(is_nearly_full)
    }

    /// Looks whether there is room for the next segment by now, if there was none. To be called now and then.
    pub fn look_for_room(&self) {
        if self.spare.has_no_room() {
            self.spare.prepare_next(&self.config);
        }
    }

    /// What is kept, and who needs the oldest of it.
    pub fn pinned(&self) -> PinReport {
        let sealed = self.sealed.borrow();
        let pins = self.pins.borrow();
        let oldest_needed_by = if pins.is_empty() {
            sealed.front().map_or_else(Vec::new, |s| self.needed_by(s))
        } else {
            pins.iter().map(|pin| pin.group).collect()
        };
        PinReport {
            segments: sealed.len() + 1,
            oldest_needed_by,
        }
    }

    /// Commits what is buffered and marks the end, so that damage to the last frame is found later. A commit under
    /// way ends first; one that begins later is refused. What there is no room for is dropped, as by a crash: no commit of
    /// it ever ended well. Answers how many records that were.
    ///
    /// # Errors
    /// As for [`Wal::commit`], but for a lack of room.
    pub async fn close(&self) -> Result<u32, StorageError> {
        self.is_closed.set(true);
        let turn = self.writing.acquire_permit(1).await;
        let _turn = turn.map_err(|_| StorageError::Poisoned)?;
        let dropped = match self.write(0).await {
            Ok(_) => 0,
            Err(StorageError::NoSpace { .. }) => self.pending.take().records,
            Err(error) => return Err(error),
        };
        match self.write(CLEAN_END).await {
            Ok(_) | Err(StorageError::NoSpace { .. }) => {}
            Err(error) => return Err(error),
        }
        self.is_poisoned.set(true);
        Ok(dropped)
    }
}

/// Dropped, it stops the log for good.
struct Poison<'a>(&'a Cell<bool>);

impl Drop for Poison<'_> {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// Completes a frame in place; answers its checksum. The core does other things in between.
async fn seal_slowly(frame: &mut [u8], header: FrameHeader, len: usize) -> u32 {
    let mut crc = begin_frame(frame, header, (len - FRAME_BYTES) as u32);
    for slice in frame[FRAME_BYTES..].chunks(SLICE_BYTES) {
        crc = crc32c::crc32c_append(crc, slice);
        if slice.len() == SLICE_BYTES {
            yield_now().await;
        }
    }
    end_frame(frame, crc);
    crc
}
