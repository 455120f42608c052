//! Reads a log directory at the start: verifies all, tells a torn tail from damage.
//!
//! | where a lane's frames end | later frames in the segment | newest segment | verdict |
//! | --- | --- | --- | --- |
//! | no frame starts there | none | yes | the end |
//! | a damaged frame | none | yes | torn tail: the write under way at the crash, never acknowledged |
//! | anything | some | any | damage: only the last frame can be torn, since one write is under way |
//! | anything | none | no | damage, unless the next segment's chain is that of the last good frame |
//! | a damaged header | none | yes | a segment under creation at the crash |
//! | a damaged header | any | no | damage |

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use super::legacy::{LegacySegment, Pin, pins};
use super::segment::{
    CLEAN_END, HEADER_BYTES, Record, SegmentHeader, SegmentId, is_frame_start, read_frame,
    take_record,
};
use crate::{StorageError, io_error};

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
    /// Deletes the segments that no group needs and keeps the others until they are released.
    pub fn take_pins(&mut self, is_needed: &dyn Fn(u32, u64) -> bool) -> Vec<Pin> {
        pins(std::mem::take(&mut self.segments), is_needed)
    }
}

/// Reads all segments in `dir`. `keep` says which records (group, kind, index) are wanted; `progress` is told
/// the segments done and all.
///
/// # Errors
/// [`StorageError::Corrupt`] naming file and offset, [`StorageError::Foreign`], or the system's.
pub fn recover(
    dir: &Path,
    store_id: [u8; 16],
    keep: &dyn Fn(u32, u8, u64) -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Recovered, StorageError> {
    let mut recovered = Recovered::default();
    let found = list(dir)?;
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
        let chain = segment.read(keep, &mut recovered)?;
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

struct Segment<'a> {
    path: &'a Path,
    id: SegmentId,
    store_id: [u8; 16],
    is_newest: bool,
    expected_chain: Option<u32>,
}

impl Segment<'_> {
    /// Reads one segment; answers its last chain value.
    fn read(
        &self,
        keep: &dyn Fn(u32, u8, u64) -> bool,
        recovered: &mut Recovered,
    ) -> Result<u32, StorageError> {
        let file = File::open(self.path).map_err(|e| io_error(self.path, "open", e))?;
        let length = file
            .metadata()
            .map_err(|e| io_error(self.path, "stat", e))?
            .len();
        let mut last_index = BTreeMap::new();
        let mut chain = self.expected_chain.unwrap_or(0);
        if length > 0 {
            // SAFETY: the directory is locked by this process and nothing writes to its segments before
            // recovery is over, so the mapped bytes do not change.
            let map = unsafe { Mmap::map(&file) }.map_err(|e| io_error(self.path, "map", e))?;
            chain = self.read_mapped(&map, keep, recovered, &mut last_index)?;
        } else if !self.is_newest {
            return Err(corrupt(self.path, 0, "the segment is empty"));
        }
        recovered.segments.push(LegacySegment {
            path: self.path.to_owned(),
            last_index,
        });
        Ok(chain)
    }

    fn read_mapped(
        &self,
        bytes: &[u8],
        keep: &dyn Fn(u32, u8, u64) -> bool,
        recovered: &mut Recovered,
        last_index: &mut BTreeMap<u32, u64>,
    ) -> Result<u32, StorageError> {
        let Some(header) = SegmentHeader::decode(bytes) else {
            return self.without_header(bytes, recovered);
        };
        if header.store_id != self.store_id {
            return Err(StorageError::Foreign {
                path: self.path.to_owned(),
            });
        }
        if header.id != self.id {
            return Err(corrupt(
                self.path,
                24,
                "the header names another segment than the file's name",
            ));
        }
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
        let nonce = self.id.nonce();
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
                if record.kind < super::CARRIED_KIND {
                    let last: &mut u64 = last_index.entry(record.group).or_default();
                    *last = (*last).max(record.index);
                }
                if keep(record.group, record.kind, record.index) {
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
        if let Some(later) = later_frame(bytes, position + alignment, nonce, alignment, number) {
            let what = format!("a frame is damaged, but a later one stands at byte {later}");
            return Err(corrupt(self.path, position as u64, &what));
        }
        let is_torn = bytes
            .get(position..)
            .is_some_and(|rest| is_frame_start(rest, nonce));
        if is_torn && !self.is_newest {
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

    fn without_header(&self, bytes: &[u8], recovered: &mut Recovered) -> Result<u32, StorageError> {
        let nonce = self.id.nonce();
        if !self.is_newest || later_frame(bytes, HEADER_BYTES, nonce, 512, 0).is_some() {
            return Err(corrupt(self.path, 0, "the segment's header is damaged"));
        }
        recovered.torn.push(TornTail {
            path: self.path.to_owned(),
            offset: 0,
        });
        Ok(self.expected_chain.unwrap_or(0))
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
