//! Writes one lane: records gather in an aligned buffer, a commit is one direct write and one sync.
//! Owns the lane's open segment, its buffer and the list of segments that groups still need.
//! Invariants: one commit at a time; after a failure nothing is written any more (fail-stop).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use glommio::io::DmaBuffer;

use super::file::{SegmentFile, prepare, publish};
use super::legacy::Pin;
use super::polling;
use super::segment::{
    CLEAN_END, FRAME_BYTES, FrameHeader, HEADER_BYTES, Record, SegmentHeader, SegmentId,
    put_record, record_len, seal,
};
use crate::{StorageError, blocking};

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
    /// The filesystem takes direct I/O: see [`super::has_direct_io`].
    pub is_direct: bool,
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

type Carry = Box<dyn Fn() -> Vec<Record>>;

/// See the module's head.
pub struct Wal {
    config: WalConfig,
    pending: RefCell<Pending>,
    open: RefCell<Option<OpenSegment>>,
    /// Full segments, oldest first, with the highest index of each group.
    sealed: RefCell<VecDeque<(SegmentId, BTreeMap<u32, u64>)>>,
    released: RefCell<BTreeMap<u32, u64>>,
    pins: RefCell<Vec<Pin>>,
    prepared: Rc<RefCell<Prepared>>,
    carry: RefCell<Option<Carry>>,
    is_committing: Cell<bool>,
    is_poisoned: Cell<bool>,
}

#[derive(Default)]
struct Pending {
    buffer: Option<DmaBuffer>,
    /// Bytes of the buffer in use, the frame header's room included.
    len: usize,
    records: u32,
    last_index: BTreeMap<u32, u64>,
}

struct OpenSegment {
    id: SegmentId,
    file: Rc<SegmentFile>,
    path: PathBuf,
    size: u64,
    alignment: usize,
    position: u64,
    number: u32,
    chain: u32,
    last_index: BTreeMap<u32, u64>,
}

/// A file that will be the next segment.
#[derive(Default)]
struct Prepared {
    ready: Option<(PathBuf, Rc<SegmentFile>)>,
    recycled: Option<PathBuf>,
    is_under_way: bool,
    counter: u64,
}

impl Wal {
    /// Starts a lane with its first segment.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub async fn open(config: WalConfig) -> Result<Wal, StorageError> {
        if config.is_direct {
            polling::settle(&config.dir, config.generation, config.lane).await?;
        }
        let wal = Wal {
            config,
            pending: RefCell::default(),
            open: RefCell::new(None),
            sealed: RefCell::default(),
            released: RefCell::default(),
            pins: RefCell::default(),
            prepared: Rc::default(),
            carry: RefCell::new(None),
            is_committing: Cell::new(false),
            is_poisoned: Cell::new(false),
        };
        wal.next_segment(0).await?;
        Ok(wal)
    }

    /// Segments of earlier generations that this core's groups still need.
    pub fn adopt(&self, pins: Vec<Pin>) {
        self.pins.borrow_mut().extend(pins);
    }

    /// Records that stand at the start of each new segment, so that none before it is needed for them.
    pub fn set_carry(&self, carry: Carry) {
        *self.carry.borrow_mut() = Some(carry);
    }

    /// Puts a record behind those that the next commit writes: the one copy of its payload.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`].
    pub fn buffer(&self, record: &Record) -> Result<(), StorageError> {
        if self.is_poisoned.get() {
            return Err(StorageError::Poisoned);
        }
        let mut pending = self.pending.borrow_mut();
        self.put(&mut pending, record);
        Ok(())
    }

    fn put(&self, pending: &mut Pending, record: &Record) {
        let from = if pending.len == 0 {
            FRAME_BYTES
        } else {
            pending.len
        };
        let to = from + record_len(record);
        self.ensure(pending, to);
        let buffer = pending.buffer.as_mut().expect("ensured above");
        put_record(&mut buffer.as_bytes_mut()[from..to], record);
        pending.len = to;
        pending.records += 1;
        if record.kind < super::CARRIED_KIND {
            let last = pending.last_index.entry(record.group).or_default();
            *last = (*last).max(record.index);
        }
    }

    /// Makes room for `len` bytes and the padding behind them.
    fn ensure(&self, pending: &mut Pending, len: usize) {
        let needed = len + HEADER_BYTES;
        if pending.buffer.as_ref().is_some_and(|b| b.len() >= needed) {
            return;
        }
        let size = needed.next_power_of_two().max(64 << 10);
        let mut fresh = glommio::allocate_dma_buffer(size);
        if let Some(old) = &pending.buffer {
            fresh.as_bytes_mut()[..pending.len].copy_from_slice(&old.as_bytes()[..pending.len]);
        }
        pending.buffer = Some(fresh);
    }

    /// Writes and syncs all that was buffered. Records may be buffered meanwhile; they go with the next one.
    ///
    /// # Errors
    /// Any failure stops the log for good.
    pub async fn commit(&self) -> Result<Committed, StorageError> {
        self.write(0).await
    }

    async fn write(&self, flags: u32) -> Result<Committed, StorageError> {
        if self.is_poisoned.get() {
            return Err(StorageError::Poisoned);
        }
        assert!(!self.is_committing.replace(true), "one commit at a time");
        let result = self.write_frame(flags).await;
        self.is_committing.set(false);
        if result.is_err() {
            self.is_poisoned.set(true);
        }
        result
    }

    async fn write_frame(&self, flags: u32) -> Result<Committed, StorageError> {
        let mut pending = std::mem::take(&mut *self.pending.borrow_mut());
        if pending.len == 0 && flags == 0 {
            return Ok(Committed {
                bytes: 0,
                records: 0,
            });
        }
        pending.len = pending.len.max(FRAME_BYTES);
        let len = pending.len;
        self.ensure(&mut pending, len);
        let room = {
            let open = self.open.borrow();
            let open = open.as_ref().ok_or(StorageError::Poisoned)?;
            open.size - open.position
        };
        if (len + HEADER_BYTES) as u64 > room {
            let carried = self
                .carry
                .borrow()
                .as_ref()
                .map(|carry| carry())
                .unwrap_or_default();
            let carried_len: usize = carried.iter().map(record_len).sum();
            blocking::awake(self.next_segment(len + carried_len)).await?;
            pending = self.with_carried(&carried, pending);
        }
        let mut buffer = pending.buffer.take().expect("ensured above");
        let (file, path, position, total) = {
            let mut open = self.open.borrow_mut();
            let open = open.as_mut().ok_or(StorageError::Poisoned)?;
            let total = pending.len.next_multiple_of(open.alignment);
            let bytes = &mut buffer.as_bytes_mut()[..total];
            bytes[pending.len..].fill(0);
            let header = FrameHeader {
                nonce: open.id.nonce(),
                number: open.number,
                chain: open.chain,
                records: pending.records,
                flags,
            };
            open.chain = seal(bytes, header, (pending.len - FRAME_BYTES) as u32);
            let position = open.position;
            open.position += total as u64;
            open.number += 1;
            for (group, index) in &pending.last_index {
                let last = open.last_index.entry(*group).or_default();
                *last = (*last).max(*index);
            }
            (open.file.clone(), open.path.clone(), position, total)
        };
        file.write_all(&path, buffer, total, position).await?;
        file.sync(&path).await?;
        Ok(Committed {
            bytes: total as u64,
            records: u64::from(pending.records),
        })
    }

    /// The carried records in front of those that were buffered.
    fn with_carried(&self, carried: &[Record], pending: Pending) -> Pending {
        if carried.is_empty() {
            return pending;
        }
        let mut joined = Pending::default();
        for record in carried {
            self.put(&mut joined, record);
        }
        let records = pending
            .buffer
            .as_ref()
            .map_or(&[][..], |b| &b.as_bytes()[FRAME_BYTES..pending.len]);
        let from = joined.len;
        let to = from + records.len();
        self.ensure(&mut joined, to);
        let buffer = joined.buffer.as_mut().expect("ensured above");
        buffer.as_bytes_mut()[from..to].copy_from_slice(records);
        joined.len = to;
        joined.records += pending.records;
        joined.last_index = pending.last_index;
        joined
    }

    /// Opens the next segment with room for a frame of `len` bytes.
    async fn next_segment(&self, len: usize) -> Result<(), StorageError> {
        // The old segment stays open until the new one is there: records are buffered meanwhile.
        let (sequence, chain) = {
            let open = self.open.borrow();
            open.as_ref()
                .map_or((1, 0), |p| (p.id.sequence + 1, p.chain))
        };
        let size = self
            .config
            .segment_bytes
            .max((len + 3 * HEADER_BYTES).next_multiple_of(HEADER_BYTES) as u64);
        let prepared = self.prepared.borrow_mut().ready.take();
        let (temporary, file) = match prepared {
            Some(prepared) if size == self.config.segment_bytes => prepared,
            _ => prepare(self.temporary(), None, size, self.config.is_direct).await?,
        };
        let id = SegmentId {
            generation: self.config.generation,
            lane: self.config.lane,
            sequence,
        };
        let alignment = file.alignment();
        let header = SegmentHeader {
            store_id: self.config.store_id,
            id,
            alignment: alignment as u32,
            chain,
        };
        let mut block = glommio::allocate_dma_buffer(HEADER_BYTES);
        header.encode(&mut block.as_bytes_mut()[..HEADER_BYTES]);
        file.write_all(&temporary, block, HEADER_BYTES, 0).await?;
        file.sync(&temporary).await?;
        let path = id.path(&self.config.dir);
        publish(temporary, path.clone(), self.config.dir.clone()).await?;
        let previous = self.open.borrow_mut().replace(OpenSegment {
            id,
            file,
            path,
            size,
            alignment,
            position: HEADER_BYTES as u64,
            number: 0,
            chain,
            last_index: BTreeMap::new(),
        });
        if let Some(previous) = previous {
            self.sealed
                .borrow_mut()
                .push_back((previous.id, previous.last_index));
            previous.file.close(&previous.path).await;
        }
        self.prepare_next();
        Ok(())
    }

    fn temporary(&self) -> PathBuf {
        let mut prepared = self.prepared.borrow_mut();
        prepared.counter += 1;
        let name = format!(
            "{:010}-{:03}-{}.free",
            self.config.generation, self.config.lane, prepared.counter
        );
        self.config.dir.join(name)
    }

    /// Gets the next segment's file ready beside the appends.
    fn prepare_next(&self) {
        let temporary = self.temporary();
        let shared = self.prepared.clone();
        let size = self.config.segment_bytes;
        let is_direct = self.config.is_direct;
        let recycled = {
            let mut prepared = shared.borrow_mut();
            if prepared.is_under_way || prepared.ready.is_some() {
                return;
            }
            prepared.is_under_way = true;
            prepared.recycled.take()
        };
        glommio::spawn_local(async move {
            let result = blocking::awake(prepare(temporary, recycled, size, is_direct)).await;
            let mut prepared = shared.borrow_mut();
            prepared.is_under_way = false;
            match result {
                Ok(ready) => prepared.ready = Some(ready),
                Err(error) => {
                    log::warn!("event=segment_not_prepared the next switch tries again: {error}")
                }
            }
        })
        .detach();
    }

    /// The group's records up to `index` are in a durable checkpoint.
    pub fn release(&self, group: u32, index: u64) {
        self.released.borrow_mut().insert(group, index);
        self.pins
            .borrow_mut()
            .retain(|pin| pin.group != group || pin.index > index);
        self.drop_released();
    }

    fn drop_released(&self) {
        let released = self.released.borrow();
        let mut sealed = self.sealed.borrow_mut();
        // From the oldest on only: a lane must not have holes.
        while let Some((id, last)) = sealed.front() {
            let is_needed = last
                .iter()
                .any(|(group, index)| released.get(group).is_none_or(|done| done < index));
            if is_needed {
                break;
            }
            let path = id.path(&self.config.dir);
            sealed.pop_front();
            self.recycle(path);
        }
    }

    fn recycle(&self, path: PathBuf) {
        let kept = {
            let mut prepared = self.prepared.borrow_mut();
            let is_full_size =
                std::fs::metadata(&path).is_ok_and(|m| m.len() == self.config.segment_bytes);
            let free = path.with_extension("free");
            let is_kept = is_full_size
                && prepared.recycled.is_none()
                && std::fs::rename(&path, &free).is_ok();
            if is_kept {
                prepared.recycled = Some(free);
            }
            is_kept
        };
        if !kept && let Err(error) = std::fs::remove_file(&path) {
            log::warn!(
                "event=segment_not_removed path={} error=\"{error}\"",
                path.display()
            );
        }
    }

    /// What is kept, and who needs the oldest of it.
    pub fn pinned(&self) -> PinReport {
        let sealed = self.sealed.borrow();
        let released = self.released.borrow();
        let pins = self.pins.borrow();
        let oldest_needed_by = if pins.is_empty() {
            let needs =
                |(group, index): &(&u32, &u64)| released.get(group).is_none_or(|done| done < index);
            sealed.front().map_or_else(Vec::new, |(_, last)| {
                last.iter().filter(needs).map(|(group, _)| *group).collect()
            })
        } else {
            pins.iter().map(|pin| pin.group).collect()
        };
        PinReport {
            segments: sealed.len() + 1,
            oldest_needed_by,
        }
    }

    /// Commits what is buffered and marks the end, so that damage to the last frame is found later.
    ///
    /// # Errors
    /// As for [`Wal::commit`].
    pub async fn close(&self) -> Result<(), StorageError> {
        self.write(0).await?;
        self.write(CLEAN_END).await?;
        self.is_poisoned.set(true);
        Ok(())
    }
}
