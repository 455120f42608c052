//! Reads a log directory at the start: verifies all, tells a torn tail from damage.
//!
//! | where a lane's frames end | later frames in the segment | newest segment | verdict |
//! | --- | --- | --- | --- |
//! | no frame starts there | none | yes | the end |
//! | a damaged frame | none | yes | torn tail: the write under way at the crash, never acknowledged |
//! | anything | some | any | damage: only the last frame can be torn, since one write is under way |
//! | anything | none | no | damage, unless the next segment's chain is that of the last good frame |
//! | a damaged header, or none | any | any | damage: it was synced before the file got its name |
//! | the file is not as long as its header says | any | any | damage: its length was synced before the header |
//!
//! How a segment comes to be, and what a crash after each step leaves: (1) a `.free` file is filled and synced, or a
//! segment that nobody needs is renamed to `.free` and the directory synced; (2) the header is written and synced; (3) it
//! is renamed to `.wal`; (4) the directory is synced; (5) frames are written. A crash up to (4) leaves a `.free` file,
//! which is removed here, or a whole segment without frames of its own: those of a recycled file have another nonce. An
//! older segment goes only after the first frame behind (5) is synced, since that repeats what the older ones carry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use super::legacy::{LegacySegment, Pin, pins};
use super::segment::{
    CLEAN_END, HEADER_BYTES, HeaderError, Record, RecordRef, SegmentHeader, SegmentId, VERSION,
    is_frame_start, read_frame, take_record,
};
use crate::{StorageError, io_error, mutation};

/// Bytes read at once.
const READ_BYTES: usize = 128 << 10;

/// What the log holds.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records by group in the order they were written. A record whose index is not above that of one before
    /// replaces that one and all after it; resolving this is the caller's work.
    pub groups: BTreeMap<u32, Vec<Record>>,
    /// The segments that were read.
    pub segments: Vec<LegacySegment>,
    /// The newest generation found; 0 if there is none.
    pub generation: u64,
    /// Tails of writes that a crash interrupted.
    pub torn: Vec<TornTail>,
}

/// A write that a crash interrupted; it was never acknowledged.
#[derive(Debug)]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// Where the write began.
    pub offset: u64,
}

impl Recovered {
    /// What keeps the segments until they are released. Carried records need their segment too: until the group's new
    /// lane has them, see [`super::Wal::adopt`].
    pub fn take_pins(&mut self, is_needed: &dyn Fn(u32, u64) -> bool) -> Vec<Pin> {
        pins(std::mem::take(&mut self.segments), is_needed)
    }
}

/// Whether a record is wanted, or what is wrong with it.
pub type Keep<'a> = dyn Fn(&RecordRef<'_>) -> Result<bool, &'static str> + 'a;

/// Reads all segments in `dir`. `keep` says which records are wanted; `progress` is told the segments done and all.
///
/// # Errors
/// [`StorageError::Corrupt`] naming file and offset, [`StorageError::Foreign`], [`StorageError::NewerVersion`], or the
/// system's.
pub fn recover(
    dir: &Path,
    store_id: [u8; 16],
    keep: &Keep<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Recovered, StorageError> {
    let found = list(dir)?;
    walk(
        &found,
        dir,
        store_id,
        progress,
        &mut |segment, recovered| segment.read(keep, recovered),
    )
}

/// As [`recover`], of segments in memory.
///
/// # Errors
/// Those of [`recover`], but for the system's.
pub fn recover_images(
    images: &BTreeMap<SegmentId, &[u8]>,
    store_id: [u8; 16],
    keep: &Keep<'_>,
) -> Result<Recovered, StorageError> {
    let found: Vec<SegmentId> = images.keys().copied().collect();
    let progress = &mut |_, _| {};
    walk(
        &found,
        Path::new(""),
        store_id,
        progress,
        &mut |segment, recovered| segment.take(images[&segment.id], keep, recovered),
    )
}

/// Reads one segment; answers its last chain value.
type ReadSegment<'a> = &'a mut dyn FnMut(&Segment<'_>, &mut Recovered) -> Result<u32, StorageError>;

fn walk(
    found: &[SegmentId],
    dir: &Path,
    store_id: [u8; 16],
    progress: &mut dyn FnMut(usize, usize),
    read: ReadSegment<'_>,
) -> Result<Recovered, StorageError> {
    let mut recovered = Recovered::default();
    let mut before: Option<(SegmentId, u32)> = None;
    for (position, id) in found.iter().enumerate() {
        progress(position, found.len());
        recovered.generation = recovered.generation.max(id.generation);
        let next = found.get(position + 1);
        let is_newest = next.is_none_or(|n| (n.generation, n.lane) != (id.generation, id.lane));
        let same_lane = before.filter(|(b, _)| (b.generation, b.lane) == (id.generation, id.lane));
        let path = id.path(dir);
        if let Some((before, _)) = same_lane
            && before.sequence + 1 != id.sequence
        {
            let missing = SegmentId {
                sequence: before.sequence + 1,
                ..*id
            }
            .path(dir);
            return Err(corrupt(&missing, 0, "the segment is missing"));
        }
        let expected_chain = same_lane.map(|(_, chain)| chain);
        let segment = Segment {
            path: &path,
            id: *id,
            store_id,
            is_newest,
            expected_chain,
        };
        let chain = read(&segment, &mut recovered)?;
        before = Some((*id, chain));
    }
    progress(found.len(), found.len());
    Ok(recovered)
}

fn list(dir: &Path) -> Result<Vec<SegmentId>, StorageError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| io_error(dir, "list", e))? {
        let entry = entry.map_err(|e| io_error(dir, "list", e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        if let Some(id) = SegmentId::parse(name) {
            found.push(id);
        } else if name.ends_with(".free") {
            // Prepared, but never part of the log.
            std::fs::remove_file(entry.path()).map_err(|e| io_error(&entry.path(), "remove", e))?;
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn corrupt(path: &Path, offset: u64, what: &str) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        offset,
        what: what.to_owned(),
    }
}

pub(super) struct Segment<'a> {
    pub(super) path: &'a Path,
    pub(super) id: SegmentId,
    pub(super) store_id: [u8; 16],
    pub(super) is_newest: bool,
    pub(super) expected_chain: Option<u32>,
}

impl Segment<'_> {
    fn read(&self, keep: &Keep<'_>, recovered: &mut Recovered) -> Result<u32, StorageError> {
        let failed = |e| io_error(self.path, "read", e);
        let file = File::open(self.path).map_err(|e| io_error(self.path, "open", e))?;
        let length = file.metadata().map_err(failed)?.len();
        if length == 0 {
            return Err(corrupt(self.path, 0, "the segment is empty"));
        }
        // A sector that the disk cannot read is an error here; behind the map it would be the end of the process.
        let mut reader = BufReader::with_capacity(READ_BYTES, &file);
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(failed)?;
        // SAFETY: the directory is locked by this process and nothing writes to its segments before
        // recovery is over, so the mapped bytes do not change.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io_error(self.path, "map", e))?;
        self.take(&map, keep, recovered)
    }

    pub(super) fn take(
        &self,
        bytes: &[u8],
        keep: &Keep<'_>,
        recovered: &mut Recovered,
    ) -> Result<u32, StorageError> {
        let mut last_index = BTreeMap::new();
        let chain = self.read_mapped(bytes, keep, recovered, &mut last_index)?;
        recovered.segments.push(LegacySegment {
            id: self.id,
            path: self.path.to_owned(),
            last_index,
        });
        Ok(chain)
    }

    fn read_mapped(
        &self,
        bytes: &[u8],
        keep: &Keep<'_>,
        recovered: &mut Recovered,
        last_index: &mut BTreeMap<u32, u64>,
    ) -> Result<u32, StorageError> {
        let header = self.header(bytes)?;
        if self
            .expected_chain
            .is_some_and(|expected| expected != header.chain)
        {
            return Err(corrupt(
                self.path,
                48,
                "the segment before does not end with the frame that this one follows",
            ));
        }
        let alignment = header.alignment as usize;
        if !alignment.is_power_of_two() || alignment > HEADER_BYTES {
            return Err(corrupt(self.path, 44, "the alignment is impossible"));
        }
        let nonce = header.nonce;
        let mut chain = header.chain;
        let mut position = HEADER_BYTES;
        let mut number = 0;
        while let Some(frame) = read_frame(&bytes[position..], nonce, alignment) {
            if frame.header.number != number || frame.header.chain != chain {
                return Err(corrupt(
                    self.path,
                    position as u64,
                    "a frame is not the one that follows",
                ));
            }
            let mut rest = frame.records;
            for _ in 0..frame.header.records {
                let Some(record) = take_record(&mut rest) else {
                    return Err(corrupt(
                        self.path,
                        position as u64,
                        "a frame's records do not fill it",
                    ));
                };
                let last: &mut u64 = last_index.entry(record.group).or_default();
                if record.kind < super::CARRIED_KIND {
                    *last = (*last).max(record.index);
                }
                let is_kept =
                    keep(&record).map_err(|what| corrupt(self.path, position as u64, what))?;
                if is_kept {
                    recovered
                        .groups
                        .entry(record.group)
                        .or_default()
                        .push(Record {
                            kind: record.kind,
                            group: record.group,
                            index: record.index,
                            term: record.term,
                            payload: Bytes::copy_from_slice(record.payload),
                        });
                }
            }
            chain = frame.crc;
            position += frame.total;
            number += 1;
            if frame.header.flags & CLEAN_END != 0 {
                return Ok(chain);
            }
        }
        let later = later_frame(bytes, position + alignment, nonce, alignment, number);
        if let Some(later) = later.filter(|_| !mutation::is_on("damage-taken-for-a-tear")) {
            let what = format!("a frame is damaged, but a later one stands at byte {later}");
            return Err(corrupt(self.path, position as u64, &what));
        }
        let is_torn = bytes
            .get(position..)
            .is_some_and(|rest| is_frame_start(rest, nonce));
        if is_torn && (!self.is_newest || mutation::is_on("tear-taken-for-damage")) {
            return Err(corrupt(
                self.path,
                position as u64,
                "a frame is damaged in the middle of the log",
            ));
        }
        if is_torn {
            recovered.torn.push(TornTail {
                path: self.path.to_owned(),
                offset: position as u64,
            });
        }
        Ok(chain)
    }

    fn header(&self, bytes: &[u8]) -> Result<SegmentHeader, StorageError> {
        let damaged = |offset, what: &str| Err(corrupt(self.path, offset, what));
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(HeaderError::Version(found)) if found > VERSION => {
                return Err(StorageError::NewerVersion {
                    path: self.path.to_owned(),
                    found,
                    known: VERSION,
                });
            }
            Err(HeaderError::Version(_)) => {
                return damaged(6, "its format version was never released");
            }
            Err(HeaderError::Damaged) => return damaged(0, "the segment's header is damaged"),
        };
        if header.store_id != self.store_id && !mutation::is_on("foreign-segment-taken") {
            return Err(StorageError::Foreign {
                path: self.path.to_owned(),
            });
        }
        if header.id != self.id {
            return damaged(24, "the header names another segment than the file's name");
        }
        if header.size != bytes.len() as u64 && !mutation::is_on("cut-segment-taken") {
            let what = format!("the segment was made with {} bytes", header.size);
            return damaged(bytes.len().min(header.size as usize) as u64, &what);
        }
        Ok(header)
    }
}

/// Where a whole frame of the segment stands, from `from` on, that was written at `number` or later.
fn later_frame(
    bytes: &[u8],
    from: usize,
    nonce: u64,
    alignment: usize,
    number: u32,
) -> Option<usize> {
    (from..bytes.len()).step_by(alignment).find(|position| {
        read_frame(&bytes[*position..], nonce, alignment).is_some_and(|f| f.header.number >= number)
    })
}
