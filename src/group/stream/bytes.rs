//! Where a stream's own bytes are: in memory, in packs, or both.
//! Owns the hot pieces and the chunk list of one stream. What is in a chunk may leave memory.
//!
//! An append arrives as a slice of its Raft entry. A small one is copied into the stream's open block: as a slice it would
//! keep the whole entry, with the bytes of many other streams, for as long as itself. A large one travels alone in its
//! entry and stays there.
//! Invariants: chunks are contiguous from the stream's own start to `packed_end`; hot pieces, then the open block, are
//! contiguous from `hot_start` to the tail; `hot_start <= packed_end`.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::protocol::{ChunkRef, Piece};

/// See the module's head.
#[derive(Debug, Default)]
pub struct StreamBytes {
    hot: VecDeque<HotPiece>,
    /// What follows the last piece; becomes one when it is full or packed.
    open: Vec<u8>,
    hot_start: u64,
    packed_end: u64,
    chunks: Vec<ChunkRef>,
    /// Chunks that the state tables have already.
    chunks_saved: usize,
}

#[derive(Debug)]
struct HotPiece {
    end: u64,
    bytes: Bytes,
}

/// A body of so many bytes is the only one in its entry, and is not copied.
pub const ALONE_BYTES_MIN: usize = 64 << 10;

/// Largest open block; what is read from it is copied.
const BLOCK_BYTES_MAX: usize = 16 << 10;

impl StreamBytes {
    /// No bytes yet; the first will be at `start`.
    pub fn starting_at(start: u64) -> StreamBytes {
        StreamBytes {
            hot_start: start,
            packed_end: start,
            ..StreamBytes::default()
        }
    }

    /// As a checkpoint has it: everything is in chunks, nothing in memory.
    pub(super) fn loaded(start: u64, chunks: Vec<ChunkRef>) -> StreamBytes {
        let end = chunks
            .last()
            .map_or(start, |c| c.start + u64::from(c.length));
        StreamBytes {
            hot: VecDeque::new(),
            open: Vec::new(),
            hot_start: end,
            packed_end: end,
            chunks_saved: chunks.len(),
            chunks,
        }
    }

    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.sealed_end() + self.open.len() as u64
    }

    fn sealed_end(&self) -> u64 {
        self.hot.back().map_or(self.hot_start, |p| p.end)
    }

    /// Takes the next bytes.
    pub fn append(&mut self, bytes: Bytes) {
        if bytes.len() >= ALONE_BYTES_MIN {
            self.seal();
            let end = self.sealed_end() + bytes.len() as u64;
            self.hot.push_back(HotPiece { end, bytes });
            return;
        }
        if self.open.len() + bytes.len() > BLOCK_BYTES_MAX {
            self.seal();
        }
        self.open.extend_from_slice(&bytes);
    }

    /// Makes the open block a piece.
    fn seal(&mut self) {
        if self.open.is_empty() {
            return;
        }
        self.open.shrink_to_fit();
        let bytes = Bytes::from(std::mem::take(&mut self.open));
        let end = self.sealed_end() + bytes.len() as u64;
        self.hot.push_back(HotPiece { end, bytes });
    }

    /// Bytes in memory.
    pub fn hot_len(&self) -> u64 {
        self.end() - self.hot_start
    }

    /// All chunks, in order.
    pub fn chunks(&self) -> &[ChunkRef] {
        &self.chunks
    }

    /// Chunks added since the last call; the caller writes them into a state table.
    pub(crate) fn take_unsaved_chunks(&mut self) -> &[ChunkRef] {
        let from = std::mem::replace(&mut self.chunks_saved, self.chunks.len());
        &self.chunks[from..]
    }

    /// The byte before `position`, if it is in memory.
    pub fn hot_byte_before(&self, position: u64) -> Option<u8> {
        let wanted = position
            .checked_sub(1)
            .filter(|w| *w >= self.hot_start && *w < self.end())?;
        if let Some(in_open) = wanted.checked_sub(self.sealed_end()) {
            return self.open.get(in_open as usize).copied();
        }
        let piece = &self.hot[self.piece_at(wanted)];
        let from_end = (piece.end - wanted) as usize;
        piece.bytes.get(piece.bytes.len() - from_end).copied()
    }

    fn piece_at(&self, position: u64) -> usize {
        self.hot.partition_point(|p| p.end <= position)
    }

    /// Plans `from..to`, which must lie between the stream's own start and its tail.
    pub fn plan(&self, group: u32, mut from: u64, to: u64, pieces: &mut Vec<Piece>) {
        debug_assert!(to <= self.end());
        let cold_to = to.min(self.hot_start);
        while from < cold_to {
            let index = self
                .chunks
                .partition_point(|c| c.start + u64::from(c.length) <= from);
            let chunk = self.chunks[index];
            let end = (chunk.start + u64::from(chunk.length)).min(cold_to);
            pieces.push(Piece::Cold {
                chunk,
                group,
                from: (from - chunk.start) as u32,
                to: (end - chunk.start) as u32,
            });
            from = end;
        }
        self.hot_range(from, to, &mut |bytes| pieces.push(Piece::Hot(bytes)));
    }

    fn hot_range(&self, mut from: u64, to: u64, take: &mut dyn FnMut(Bytes)) {
        let sealed_end = self.sealed_end();
        let mut index = self.piece_at(from);
        while from < to.min(sealed_end) {
            let piece = &self.hot[index];
            let start = piece.end - piece.bytes.len() as u64;
            let end = piece.end.min(to);
            take(
                piece
                    .bytes
                    .slice((from - start) as usize..(end - start) as usize),
            );
            from = end;
            index += 1;
        }
        if from < to {
            let range = (from - sealed_end) as usize..(to - sealed_end) as usize;
            take(Bytes::copy_from_slice(&self.open[range]));
        }
    }

    /// Hands the bytes that no chunk has to `place`, in ranges of at most `chunk_bytes_max`, and notes the
    /// chunks that it answers. They stay in memory until [`StreamBytes::drop_packed`].
    pub(crate) fn pack(
        &mut self,
        chunk_bytes_max: u64,
        place: &mut dyn FnMut(u64, Vec<Bytes>) -> ChunkRef,
    ) {
        // A piece ends where a chunk does, so that it can leave memory with it.
        self.seal();
        let tail = self.end();
        while self.packed_end < tail {
            let end = tail.min(self.packed_end + chunk_bytes_max);
            let mut pieces = Vec::new();
            self.hot_range(self.packed_end, end, &mut |bytes| pieces.push(bytes));
            let chunk = place(self.packed_end, pieces);
            assert_eq!(
                (chunk.start, u64::from(chunk.length)),
                (self.packed_end, end - self.packed_end)
            );
            self.chunks.push(chunk);
            self.packed_end = end;
        }
    }

    /// The newest pack that has bytes which are still in memory.
    pub(crate) fn packed_hot(&self) -> Option<u32> {
        let newest = self
            .chunks
            .last()
            .filter(|_| self.hot_start < self.packed_end);
        newest.map(|c| c.pack)
    }

    /// Drops from memory what durable chunks have, up to `durable_pack` included; answers the bytes freed.
    pub(crate) fn drop_packed(&mut self, durable_pack: u32) -> u64 {
        let durable = self.chunks.iter().rev().find(|c| c.pack <= durable_pack);
        let Some(until) = durable.map(|c| c.start + u64::from(c.length)) else {
            return 0;
        };
        let before = self.hot_len();
        while self.hot.front().is_some_and(|p| p.end <= until) {
            if let Some(piece) = self.hot.pop_front() {
                self.hot_start = piece.end;
            }
        }
        self.hot.shrink_to_fit();
        before - self.hot_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &[Piece]) -> String {
        pieces
            .iter()
            .map(|p| match p {
                Piece::Hot(b) => String::from_utf8_lossy(b).into_owned(),
                Piece::Cold {
                    chunk, from, to, ..
                } => {
                    format!("[{}:{}-{}]", chunk.start, from, to)
                }
                Piece::Inherited { .. } => unreachable!("own bytes only"),
            })
            .collect()
    }

    fn place(start: u64, pieces: Vec<Bytes>) -> ChunkRef {
        ChunkRef {
            pack: 7,
            position: 0,
            start,
            length: pieces.iter().map(Bytes::len).sum::<usize>() as u32,
            crc32c: 0,
        }
    }

    #[test]
    fn small_appends_share_a_block_and_large_ones_are_not_copied() {
        let mut bytes = StreamBytes::starting_at(0);
        let entry = Bytes::from(vec![b'x'; 1 << 20]);
        for at in 0..100 {
            bytes.append(entry.slice(at * 300..(at + 1) * 300));
        }
        let large = Bytes::from(vec![b'y'; ALONE_BYTES_MIN]);
        bytes.append(large.clone());
        bytes.append(Bytes::from_static(b"z"));
        let mut pieces = Vec::new();
        bytes.plan(1, 0, bytes.end(), &mut pieces);
        let text = text(&pieces);
        assert_eq!(text.len(), 30_000 + ALONE_BYTES_MIN + 1);
        assert!(text.ends_with("yz") && text.starts_with('x'));
        assert!(pieces.len() <= 4, "{}", pieces.len());
        let is_same = |p: &Piece| matches!(p, Piece::Hot(b) if b.as_ptr() == large.as_ptr());
        assert!(pieces.iter().any(is_same), "the large body was copied");
        drop(pieces);
        assert!(entry.is_unique(), "a small append keeps its entry alive");
        assert_eq!(bytes.hot_byte_before(30_000), Some(b'x'));
        assert_eq!(bytes.hot_byte_before(bytes.end()), Some(b'z'));
    }

    #[test]
    fn a_plan_stitches_packs_and_memory() {
        let mut bytes = StreamBytes::starting_at(10);
        bytes.append(Bytes::from_static(b"abc"));
        bytes.append(Bytes::from_static(b"defg"));
        bytes.pack(5, &mut place);
        assert_eq!(bytes.chunks().len(), 2);
        assert_eq!(bytes.take_unsaved_chunks().len(), 2);
        assert_eq!(bytes.drop_packed(6), 0, "pack 7 is not durable yet");
        bytes.append(Bytes::from_static(b"hij"));
        let mut pieces = Vec::new();
        bytes.plan(1, 11, 19, &mut pieces);
        assert_eq!(text(&pieces), "bcdefghi");
        assert_eq!(bytes.drop_packed(7), 7);
        assert_eq!((bytes.hot_len(), bytes.end()), (3, 20));
        let mut pieces = Vec::new();
        bytes.plan(1, 11, 20, &mut pieces);
        assert_eq!(text(&pieces), "[10:1-5][15:0-2]hij");
        assert_eq!(bytes.hot_byte_before(18), Some(b'h'));
        assert_eq!(bytes.hot_byte_before(17), None);
        assert_eq!(bytes.take_unsaved_chunks().len(), 0);
    }
}
