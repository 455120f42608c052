//! What the next commit writes. Small records are copied as they come; a large payload is shared until its frame is put
//! together, which takes a slice at a time: the core does other things in between.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_lite::future::yield_now;
use glommio::io::DmaBuffer;

use super::segment::{
    FRAME_BYTES, HEADER_BYTES, RECORD_BYTES, Record, put_record, put_record_header, record_len,
};

/// Payloads from this size on are shared.
const SHARED_BYTES_MIN: usize = 256 << 10;

/// What is copied or summed up between two yields, in bytes.
pub(super) const SLICE_BYTES: usize = 4 << 20;

/// See the module's head.
#[derive(Default)]
pub(super) struct Pending {
    /// Records but for their shared payloads, behind room for the frame's header.
    buffer: Option<DmaBuffer>,
    /// Bytes of the buffer in use.
    len: usize,
    /// Shared payloads, each with its place: it goes in front of this byte of the buffer.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
    pub(super) records: u32,
    /// The highest index of each group.
    pub(super) last_index: BTreeMap<u32, u64>,
}

impl Pending {
    /// Puts a record behind the others.
    pub(super) fn put(&mut self, record: &Record) {
        let from = self.len.max(FRAME_BYTES);
        let is_shared = record.payload.len() >= SHARED_BYTES_MIN;
        let to = from
            + if is_shared {
                RECORD_BYTES
            } else {
                record_len(record)
            };
        let room = &mut self.ensure(to)[from..to];
        if is_shared {
            put_record_header(room, record);
            self.shared.push((to, record.payload.clone()));
            self.shared_bytes += record.payload.len();
        } else {
            put_record(room, record);
        }
        self.len = to;
        self.records += 1;
        if record.kind < super::CARRIED_KIND {
            let last = self.last_index.entry(record.group).or_default();
            *last = (*last).max(record.index);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the frame's header and the records.
    pub(super) fn frame_len(&self) -> usize {
        self.len.max(FRAME_BYTES) + self.shared_bytes
    }

    /// Puts a later batch behind this one.
    pub(super) fn join(mut self, second: Pending) -> Pending {
        if self.is_empty() {
            return second;
        }
        if let Some(buffer) = second.buffer.filter(|_| second.len > FRAME_BYTES) {
            let records = &buffer.as_bytes()[FRAME_BYTES..second.len];
            let (from, to) = (self.len, self.len + records.len());
            self.ensure(to)[from..to].copy_from_slice(records);
            self.len = to;
            let moved = second.shared.into_iter();
            self.shared
                .extend(moved.map(|(place, payload)| (place - FRAME_BYTES + from, payload)));
            self.shared_bytes += second.shared_bytes;
        }
        self.records += second.records;
        for (group, index) in second.last_index {
            let last = self.last_index.entry(group).or_default();
            *last = (*last).max(index);
        }
        self
    }

    /// The frame in one buffer of at least `total` bytes, which is not less than [`Pending::frame_len`]. Its header and its
    /// padding are not written yet.
    pub(super) async fn gather(&mut self, total: usize) -> DmaBuffer {
        let len = self.len.max(FRAME_BYTES);
        self.ensure(len);
        let buffer = self.buffer.take().expect("ensured above");
        if self.shared.is_empty() {
            return buffer;
        }
        let mut whole = glommio::allocate_dma_buffer(total);
        let (mut from, mut to) = (0, 0);
        for (place, payload) in self.shared.drain(..) {
            for part in [&buffer.as_bytes()[from..place], &payload[..]] {
                for slice in part.chunks(SLICE_BYTES) {
                    whole.as_bytes_mut()[to..to + slice.len()].copy_from_slice(slice);
                    to += slice.len();
                    yield_now().await;
                }
            }
            from = place;
        }
        let rest = &buffer.as_bytes()[from..len];
        whole.as_bytes_mut()[to..to + rest.len()].copy_from_slice(rest);
        whole
    }

    /// Makes room for `len` bytes of the buffer and the padding behind them.
    fn ensure(&mut self, len: usize) -> &mut [u8] {
        let needed = len + HEADER_BYTES;
        if self.buffer.as_ref().is_none_or(|b| b.len() < needed) {
            let size = needed.next_power_of_two().max(64 << 10);
            let mut fresh = glommio::allocate_dma_buffer(size);
            if let Some(old) = &self.buffer {
                fresh.as_bytes_mut()[..self.len].copy_from_slice(&old.as_bytes()[..self.len]);
            }
            self.buffer = Some(fresh);
        }
        let buffer = self.buffer.as_mut().expect("made above");
        buffer.as_bytes_mut()
    }
}
