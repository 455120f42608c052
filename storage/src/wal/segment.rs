//! The format of a segment.
//!
//! ```text
//! header, 4096 bytes:
//!   magic "URSWAL" and two digits of the version | store id [16] | generation u64 | lane u32 | sequence u64
//!   | alignment u32 | chain u32 (checksum of the lane's frame before) | nonce u64 | size of the file u64 | zeros
//!   | crc32c of the 4092 bytes before the last four (in every version)
//! frame, aligned, one per write:
//!   magic u32 | nonce u64 | number u32 | chain u32 | length u32 | records u32 | flags u32 | crc32c u32
//!   | records | zeros up to the alignment
//! record:
//!   kind u8 | group u32 | index u64 | term u64 | length u32 | payload
//! ```
//!
//! A frame's checksum covers its header, its records and its padding; `chain` is the checksum of the frame
//! before. The nonce is random, so that frames left in a recycled file do not count, and no client can write a
//! body that looks like a frame.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::mutation;

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 4096;
/// Bytes of a frame's header.
pub(super) const FRAME_BYTES: usize = 36;
/// Bytes of a record in front of its payload.
pub(super) const RECORD_BYTES: usize = 25;
const MAGIC: &[u8; 6] = b"URSWAL";
/// 1 had a predictable nonce and no size; it was never released.
pub(super) const VERSION: u32 = 2;
const FRAME_MAGIC: u32 = 0x4652_4d31;
/// Flag of the frame that a clean stop writes.
pub(super) const CLEAN_END: u32 = 1;

/// One record. The kind is the caller's own, but for [`super::CARRIED_KIND`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The caller's kind.
    pub kind: u8,
    /// The Raft group.
    pub group: u32,
    /// Log index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
    /// What is kept.
    pub payload: Bytes,
}

/// Which segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId {
    /// The start of the process.
    pub generation: u64,
    /// The core.
    pub lane: u32,
    /// Counted from 1 within a lane.
    pub sequence: u64,
}

impl SegmentId {
    /// Its file.
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!(
            "{:010}-{:03}-{:010}.wal",
            self.generation, self.lane, self.sequence
        ))
    }

    pub(super) fn parse(name: &str) -> Option<SegmentId> {
        let mut parts = name.strip_suffix(".wal")?.split('-');
        let id = SegmentId {
            generation: parts.next()?.parse().ok()?,
            lane: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

pub(super) struct SegmentHeader {
    pub(super) store_id: [u8; 16],
    pub(super) id: SegmentId,
    pub(super) alignment: u32,
    pub(super) chain: u32,
    pub(super) nonce: u64,
    /// Bytes of the whole file.
    pub(super) size: u64,
}

/// Why a header was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It is not what was written.
    Damaged,
    /// It is whole, and of another version.
    Version(u32),
}

/// A nonce that nobody can guess.
pub(super) fn random_nonce() -> std::io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the pointer and the length are those of the array.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == bytes.len() as isize {
        Ok(u64::from_le_bytes(bytes))
    } else {
        Err(std::io::Error::last_os_error())
    }
}

impl SegmentHeader {
    pub(super) fn encode(&self, out: &mut [u8]) {
        assert_eq!(out.len(), HEADER_BYTES);
        out.fill(0);
        out[..6].copy_from_slice(MAGIC);
        out[6..8].copy_from_slice(&[b'0' + (VERSION / 10) as u8, b'0' + (VERSION % 10) as u8]);
        out[8..24].copy_from_slice(&self.store_id);
        out[24..32].copy_from_slice(&self.id.generation.to_le_bytes());
        out[32..36].copy_from_slice(&self.id.lane.to_le_bytes());
        out[36..44].copy_from_slice(&self.id.sequence.to_le_bytes());
        out[44..48].copy_from_slice(&self.alignment.to_le_bytes());
        out[48..52].copy_from_slice(&self.chain.to_le_bytes());
        out[52..60].copy_from_slice(&self.nonce.to_le_bytes());
        out[60..68].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the header at the start of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Damaged)?;
        let crc = u32_at(bytes, HEADER_BYTES - 4);
        if &bytes[..6] != MAGIC || crc != Some(crc32c::crc32c(&bytes[..HEADER_BYTES - 4])) {
            return Err(HeaderError::Damaged);
        }
        match [bytes[6], bytes[7]].map(|digit| u32::from(digit).wrapping_sub(48)) {
            [tens @ 0..=9, ones @ 0..=9] if 10 * tens + ones == VERSION => {}
            [tens @ 0..=9, ones @ 0..=9] => return Err(HeaderError::Version(10 * tens + ones)),
            _ => return Err(HeaderError::Damaged),
        }
        SegmentHeader::fields(bytes).ok_or(HeaderError::Damaged)
    }

    fn fields(bytes: &[u8]) -> Option<SegmentHeader> {
        Some(SegmentHeader {
            store_id: bytes[8..24].try_into().ok()?,
            id: SegmentId {
                generation: u64_at(bytes, 24)?,
                lane: u32_at(bytes, 32)?,
                sequence: u64_at(bytes, 36)?,
            },
            alignment: u32_at(bytes, 44)?,
            chain: u32_at(bytes, 48)?,
            nonce: u64_at(bytes, 52)?,
            size: u64_at(bytes, 60)?,
        })
    }
}

/// What a frame's header says beside its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHeader {
    pub(super) nonce: u64,
    pub(super) number: u32,
    pub(super) chain: u32,
    pub(super) records: u32,
    pub(super) flags: u32,
}

/// Completes a frame in place: `frame` is the header's room, `length` bytes of records and zero padding.
/// Answers its checksum, the chain value of the next.
pub(super) fn seal(frame: &mut [u8], header: FrameHeader, length: u32) -> u32 {
    let begun = begin_frame(frame, header, length);
    let crc = crc32c::crc32c_append(begun, &frame[FRAME_BYTES..]);
    end_frame(frame, crc);
    crc
}

/// Writes a frame's header but for the checksum, and answers that of the header.
pub(super) fn begin_frame(frame: &mut [u8], header: FrameHeader, length: u32) -> u32 {
    frame[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    frame[4..12].copy_from_slice(&header.nonce.to_le_bytes());
    frame[12..16].copy_from_slice(&header.number.to_le_bytes());
    frame[16..20].copy_from_slice(&header.chain.to_le_bytes());
    frame[20..24].copy_from_slice(&length.to_le_bytes());
    frame[24..28].copy_from_slice(&header.records.to_le_bytes());
    frame[28..32].copy_from_slice(&header.flags.to_le_bytes());
    crc32c::crc32c(&frame[..32])
}

/// Writes the checksum of all of it.
pub(super) fn end_frame(frame: &mut [u8], crc: u32) {
    frame[32..FRAME_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// Where the next frame of a segment goes.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    nonce: u64,
    alignment: usize,
    /// Its place in the segment.
    pub(super) position: u64,
    number: u32,
    /// The checksum of the frame before.
    pub(super) chain: u32,
}

impl Cursor {
    /// The first frame of a segment.
    pub(super) fn after(header: &SegmentHeader) -> Cursor {
        Cursor {
            nonce: header.nonce,
            alignment: header.alignment as usize,
            position: HEADER_BYTES as u64,
            number: 0,
            chain: header.chain,
        }
    }

    /// Bytes of a frame with `len` bytes of header and records.
    pub(super) fn padded(&self, len: usize) -> usize {
        len.next_multiple_of(self.alignment)
    }

    /// The header of the next frame.
    pub(super) fn next(&self, records: u32, flags: u32) -> FrameHeader {
        FrameHeader {
            nonce: self.nonce,
            number: self.number,
            chain: self.chain,
            records,
            flags,
        }
    }

    /// Goes on behind the next frame, which has `total` bytes; answers its position.
    pub(super) fn advance(&mut self, total: usize, crc: u32) -> u64 {
        let position = self.position;
        self.chain = crc;
        self.position += total as u64;
        self.number += 1;
        position
    }

    /// Completes the next frame in place, which has `len` bytes of header's room and records; answers its position.
    pub(super) fn seal(&mut self, frame: &mut [u8], len: usize, records: u32, flags: u32) -> u64 {
        assert_eq!(frame.len(), self.padded(len));
        frame[len..].fill(0);
        let header = self.next(records, flags);
        let crc = seal(frame, header, (len - FRAME_BYTES) as u32);
        self.advance(frame.len(), crc)
    }
}

fn frame_crc(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..32]), &frame[FRAME_BYTES..])
}

/// A frame as it lies in a segment.
pub(super) struct Frame<'a> {
    pub(super) header: FrameHeader,
    pub(super) crc: u32,
    pub(super) total: usize,
    pub(super) records: &'a [u8],
}

/// Whether a frame of the segment with this nonce seems to start here, damaged or not.
pub(super) fn is_frame_start(bytes: &[u8], nonce: u64) -> bool {
    u32_at(bytes, 0) == Some(FRAME_MAGIC) && u64_at(bytes, 4) == Some(nonce)
}

/// Reads the whole frame at the start of `bytes`; `None` if there is none, or it is damaged.
pub(super) fn read_frame(bytes: &[u8], nonce: u64, alignment: usize) -> Option<Frame<'_>> {
    if !is_frame_start(bytes, nonce) {
        return None;
    }
    let length = u32_at(bytes, 20)? as usize;
    let total = (FRAME_BYTES + length).next_multiple_of(alignment);
    let frame = bytes.get(..total)?;
    let crc = u32_at(frame, 32)?;
    if frame_crc(frame) != crc && !mutation::is_on("checksum-unchecked") {
        return None;
    }
    Some(Frame {
        header: FrameHeader {
            nonce,
            number: u32_at(frame, 12)?,
            chain: u32_at(frame, 16)?,
            records: u32_at(frame, 24)?,
            flags: u32_at(frame, 28)?,
        },
        crc,
        total,
        records: &frame[FRAME_BYTES..FRAME_BYTES + length],
    })
}

/// Bytes that a record takes.
pub(super) fn record_len(record: &Record) -> usize {
    RECORD_BYTES + record.payload.len()
}

/// Writes a record into `out`, which has exactly [`record_len`] bytes.
pub(super) fn put_record(out: &mut [u8], record: &Record) {
    put_record_header(out, record);
    out[RECORD_BYTES..].copy_from_slice(&record.payload);
}

/// Writes what stands in front of a record's payload.
pub(super) fn put_record_header(out: &mut [u8], record: &Record) {
    out[0] = record.kind;
    out[1..5].copy_from_slice(&record.group.to_le_bytes());
    out[5..13].copy_from_slice(&record.index.to_le_bytes());
    out[13..21].copy_from_slice(&record.term.to_le_bytes());
    out[21..RECORD_BYTES].copy_from_slice(&(record.payload.len() as u32).to_le_bytes());
}

/// A record whose payload is where it lies.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// The caller's kind.
    pub kind: u8,
    /// The Raft group.
    pub group: u32,
    /// Log index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
    /// What is kept.
    pub payload: &'a [u8],
}

/// Takes the next record off; `None` at the end or if the rest is not a record.
pub(super) fn take_record<'a>(rest: &mut &'a [u8]) -> Option<RecordRef<'a>> {
    let length = u32_at(rest, 21)? as usize;
    let payload = rest.get(RECORD_BYTES..RECORD_BYTES + length)?;
    let record = RecordRef {
        kind: rest[0],
        group: u32_at(rest, 1)?,
        index: u64_at(rest, 5)?,
        term: u64_at(rest, 13)?,
        payload,
    };
    *rest = &rest[RECORD_BYTES + length..];
    Some(record)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
