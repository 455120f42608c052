//! Where a stream's own bytes are: in memory, in local packs, in the cold store, or in several of them.
//! Owns the hot pieces and the chunk lists of one stream. What is in a chunk may leave memory.
//!
//! An append arrives as a slice of its Raft entry. A small one is copied into the stream's open block: as a slice it would
//! keep the whole entry, with the bytes of many other streams, for as long as itself. A large one travels alone in its
//! entry and stays there.
//! Invariants: cold chunks are contiguous from `kept_from` or before it to `cold_end`; local chunks, from `cold_end` or
//! before it to `packed_end`; hot pieces, then the open block, from `hot_start` to the tail; `hot_start <= packed_end`.
//! Cold chunks, `kept_from` and `cold_end` are the same on all replicas; all else is this replica's own.

use std::collections::VecDeque;

use bytes::Bytes;

use super::cold::{ColdRanges, Places};
use crate::mutation;
use crate::protocol::{ChunkRef, Piece};

/// See the module's head.
#[derive(Debug, Default)]
pub struct StreamBytes {
    hot: VecDeque<HotPiece>,
    /// What follows the last piece; becomes one when it is full or packed.
    open: Vec<u8>,
    hot_start: u64,
    packed_end: u64,
    /// Local chunks.
    chunks: Vec<ChunkRef>,
    /// Chunks that the state tables have already.
    chunks_saved: usize,
    /// Bytes before are gone from everywhere; never below the stream's own start.
    kept_from: u64,
    /// `None`: nothing is in the cold store.
    pub(super) cold: Option<Box<ColdRanges>>,
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
            kept_from: start,
            ..StreamBytes::default()
        }
    }

    /// As a checkpoint has it: everything is in chunks, nothing in memory.
    pub(super) fn loaded(kept_from: u64, chunks: Vec<ChunkRef>, cold: ColdRanges) -> StreamBytes {
        let end = chunks.last().map_or(kept_from, ChunkRef::end);
        let end = end.max(cold.end()).max(kept_from);
        StreamBytes {
            hot: VecDeque::new(),
            open: Vec::new(),
            hot_start: end,
            packed_end: end,
            chunks_saved: chunks.len(),
            chunks,
            kept_from,
            cold: (!cold.is_empty()).then(|| Box::new(cold)),
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

    /// Chunks with bytes that are needed, not in memory, and not in the cold store.
    pub(crate) fn chunks_not_hot(&self) -> impl Iterator<Item = &ChunkRef> {
        let (from, to) = (self.cold_end(), self.hot_start);
        let chunks = self.chunks.iter();
        chunks.filter(move |c| c.end() > from && c.start < to)
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

    /// Plans `from..to`, which must lie between the first byte that is kept and the tail. Of the places that have a
    /// byte, memory comes first, then a local pack.
    pub fn plan(&self, at: Places, mut from: u64, to: u64, pieces: &mut Vec<Piece>) {
        debug_assert!(to <= self.end());
        let packed_to = to.min(self.hot_start);
        while from < packed_to {
            let index = self.chunks.partition_point(|c| c.end() <= from);
            let local = self.chunks.get(index).filter(|c| c.start <= from);
            let end = match (local, &self.cold) {
                (Some(chunk), _) => {
                    let end = chunk.end().min(packed_to);
                    pieces.push(Piece::Cold {
                        chunk: *chunk,
                        group: at.group,
                        from: (from - chunk.start) as u32,
                        to: (end - chunk.start) as u32,
                    });
                    end
                }
                (None, Some(cold)) => cold.plan(at, from, packed_to, pieces),
                (None, None) => unreachable!("byte {from} is nowhere, {} are kept", self.kept_from),
            };
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

    /// The newest local pack that has bytes which are still in memory; 0 if the cold store has some of them.
    pub(crate) fn packed_hot(&self) -> Option<u32> {
        if self.hot.front().is_some_and(|p| p.end <= self.cold_end()) {
            return Some(0);
        }
        let newest = self
            .chunks
            .last()
            .filter(|_| self.hot_start < self.packed_end && !self.hot.is_empty());
        newest.map(|c| c.pack)
    }

    /// Drops from memory what the cold store or durable chunks have, up to `durable_pack` included; answers the bytes
    /// freed.
    pub(crate) fn drop_packed(&mut self, durable_pack: u32) -> u64 {
        let durable = self.chunks.iter().rev().find(|c| c.pack <= durable_pack);
        let mut until = durable.map_or(0, ChunkRef::end).max(self.cold_end());
        if self.cold.is_some() && mutation::is_on("dropped-before-published") {
            until = self.sealed_end();
        }
        let before = self.hot_len();
        self.drop_hot(until);
        before - self.hot_len()
    }

    fn drop_hot(&mut self, until: u64) {
        while self.hot.front().is_some_and(|p| p.end <= until) {
            if let Some(piece) = self.hot.pop_front() {
                self.hot_start = piece.end;
            }
        }
        self.hot.shrink_to_fit();
    }

    /// First byte that is kept anywhere.
    pub fn kept_from(&self) -> u64 {
        self.kept_from
    }

    /// One past the last byte that the cold store has.
    pub fn cold_end(&self) -> u64 {
        let end = self.cold.as_ref().map_or(0, |c| c.end());
        end.max(self.kept_from)
    }

    /// The cold store has the bytes up to [`StreamBytes::cold_end`] now: local chunks of them are given to `gone`.
    pub(super) fn cold_end_moved(&mut self, gone: &mut dyn FnMut(&ChunkRef)) {
        let cold_end = self.cold_end();
        self.packed_end = self.packed_end.max(cold_end);
        if cold_end >= self.end() {
            // So that all of it can leave memory.
            self.seal();
        }
        self.drop_local(cold_end, gone);
    }

    fn drop_local(&mut self, until: u64, gone: &mut dyn FnMut(&ChunkRef)) {
        let count = self.chunks.partition_point(|c| c.end() <= until);
        for chunk in self.chunks.drain(..count) {
            gone(&chunk);
        }
        self.chunks_saved = self.chunks_saved.saturating_sub(count);
    }

    /// Bytes before `offset` go, as far as no piece or chunk has later ones too. Answers what leaves memory; chunks
    /// are given to `local` and `cold`.
    pub(crate) fn trim(
        &mut self,
        offset: u64,
        local: &mut dyn FnMut(&ChunkRef),
        cold: &mut dyn FnMut(&crate::protocol::ColdChunk),
    ) -> u64 {
        let offset = offset.min(self.end());
        if offset <= self.kept_from {
            return 0;
        }
        let before = self.hot_len();
        if offset == self.end() {
            self.seal();
        }
        self.kept_from = offset;
        if let Some(ranges) = &mut self.cold {
            ranges.trim(offset, cold);
        }
        self.packed_end = self.packed_end.max(offset);
        self.drop_hot(offset);
        self.drop_local(offset, local);
        before - self.hot_len()
    }

    /// The part of a local chunk before `kept_from` is lost: the chunk becomes `kept`, which holds the rest. Answers whether
    /// it is still here.
    pub(crate) fn cut_chunk(&mut self, chunk: &ChunkRef, kept: ChunkRef) -> bool {
        assert!(kept.start > chunk.start && kept.end() == chunk.end());
        if self.chunks.first() != Some(chunk) || kept.start > self.kept_from {
            return false;
        }
        self.chunks[0] = kept;
        // The next delta has them all: they take the place of those in older tables.
        self.chunks_saved = 0;
        true
    }

    /// What a delta table says of local chunks that are gone: those before this began earlier.
    pub(crate) fn chunks_from(&self) -> u64 {
        self.chunks.first().map_or(self.packed_end, |c| c.start)
    }
}

#[cfg(test)]
mod tests;
