//! A lane as bytes in memory, in the format of its files: for who keeps segments elsewhere, which is the simulator.
//! Owns the place of the next frame. Does with a vector what `writer.rs` does with the kernel's aligned buffers.

use super::segment::{
    Cursor, FRAME_BYTES, HEADER_BYTES, Record, SegmentHeader, SegmentId, put_record, record_len,
};

/// See the module's head.
#[derive(Debug)]
pub struct LaneImage {
    store_id: [u8; 16],
    id: SegmentId,
    segment_bytes: u64,
    size: u64,
    cursor: Cursor,
}

/// Sectors as a disk writes them.
const ALIGNMENT: usize = 512;

impl LaneImage {
    /// A lane without a segment.
    pub fn new(store_id: [u8; 16], generation: u64, lane: u32, segment_bytes: u64) -> LaneImage {
        LaneImage {
            store_id,
            id: SegmentId {
                generation,
                lane,
                sequence: 0,
            },
            segment_bytes: segment_bytes.next_multiple_of(HEADER_BYTES as u64),
            size: 0,
            cursor: Cursor::default(),
        }
    }

    /// A frame of these records fits behind the last one.
    pub fn has_room(&self, records: &[Record]) -> bool {
        let len = frame_len(records);
        self.size > 0 && (len + HEADER_BYTES) as u64 <= self.size - self.cursor.position
    }

    /// Begins a segment that has room for these records; answers its id, its size and its first bytes. The nonce must be
    /// new.
    pub fn next_segment(&mut self, nonce: u64, records: &[Record]) -> (SegmentId, u64, Vec<u8>) {
        let least = (frame_len(records) + 3 * HEADER_BYTES).next_multiple_of(HEADER_BYTES);
        self.size = self.segment_bytes.max(least as u64);
        self.id.sequence += 1;
        let header = SegmentHeader {
            store_id: self.store_id,
            id: self.id,
            alignment: ALIGNMENT as u32,
            chain: self.cursor.chain,
            nonce,
            size: self.size,
        };
        self.cursor = Cursor::after(&header);
        let mut bytes = vec![0; HEADER_BYTES];
        header.encode(&mut bytes);
        (self.id, self.size, bytes)
    }

    /// The next frame: its segment, its place and its bytes.
    pub fn frame(&mut self, records: &[Record]) -> (SegmentId, usize, Vec<u8>) {
        let len = frame_len(records);
        let mut bytes = vec![0; self.cursor.padded(len)];
        let mut at = FRAME_BYTES;
        for record in records {
            let end = at + record_len(record);
            put_record(&mut bytes[at..end], record);
            at = end;
        }
        let position = self.cursor.seal(&mut bytes, len, records.len() as u32, 0);
        (self.id, position as usize, bytes)
    }
}

fn frame_len(records: &[Record]) -> usize {
    FRAME_BYTES + records.iter().map(record_len).sum::<usize>()
}
