//! Which bytes of one stream the cold store has. Replicated: a published pack adds chunks, a rewritten one moves them.
//! Owns the cold chunks of one stream. Invariants: they are contiguous and in order.

use super::StreamBytes;
use crate::mutation;
use crate::protocol::{ChunkRef, ColdChunk, ColdRange, PackName, Piece};

/// Where a group's packs are.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The group.
    pub group: u32,
    /// The name of a cold pack by the number that the log gave it.
    pub name_of: &'a dyn Fn(u32) -> PackName,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct ColdRanges {
    chunks: Vec<ColdChunk>,
    /// Chunks from this one on are in no state table.
    saved: usize,
    /// Starts of saved chunks that were moved since.
    moved: Vec<u64>,
    /// One past the last byte.
    end: u64,
}

impl ColdRanges {
    /// As a state table has them.
    pub(super) fn loaded(chunks: Vec<ColdChunk>) -> ColdRanges {
        ColdRanges {
            saved: chunks.len(),
            end: chunks.last().map_or(0, ColdChunk::end),
            chunks,
            moved: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// One past the last byte that was ever in the cold store; 0 if none was.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn at(&self, position: u64) -> usize {
        self.chunks.partition_point(|c| c.end() <= position)
    }

    /// Plans bytes from `from` on, of one chunk; answers where they end.
    pub(super) fn plan(&self, at: Places, from: u64, to: u64, pieces: &mut Vec<Piece>) -> u64 {
        let chunk = self.chunks[self.at(from)];
        let end = chunk.end().min(to);
        pieces.push(Piece::Stored {
            chunk,
            group: at.group,
            pack: (at.name_of)(chunk.pack),
            from: (from - chunk.start) as u32,
            to: (end - chunk.start) as u32,
        });
        end
    }

    pub(super) fn trim(&mut self, offset: u64, gone: &mut dyn FnMut(&ColdChunk)) {
        let count = self.at(offset);
        for chunk in self.chunks.drain(..count) {
            gone(&chunk);
        }
        self.saved = self.saved.saturating_sub(count);
        // A chunk of which a part is left is still where it was moved to.
        let mut first = self.chunks.first().map_or(self.end, |c| c.start);
        if mutation::is_on("moved-chunk-forgotten") {
            first = offset;
        }
        self.moved.retain(|start| *start >= first);
    }
}

impl StreamBytes {
    /// All chunks in the cold store, in order.
    pub fn cold_chunks(&self) -> &[ColdChunk] {
        self.cold.as_ref().map_or(&[], |c| &c.chunks)
    }

    /// The chunk that begins there.
    pub(crate) fn cold_chunk_at(&self, start: u64) -> Option<&ColdChunk> {
        let chunks = self.cold_chunks();
        let found = chunks.binary_search_by_key(&start, |c| c.start).ok()?;
        chunks.get(found)
    }

    /// The cold store has the next bytes too. Answers whether they are the next; local chunks that are not needed any
    /// more are given to `gone`.
    pub(crate) fn add_cold(&mut self, chunk: ColdChunk, gone: &mut dyn FnMut(&ChunkRef)) -> bool {
        if chunk.length == 0 || chunk.start != self.cold_end() || chunk.end() > self.end() {
            return false;
        }
        let ranges = self.cold.get_or_insert_default();
        ranges.end = chunk.end();
        ranges.chunks.push(chunk);
        self.cold_end_moved(gone);
        true
    }

    /// The same bytes lie in another pack now. Answers where they lay, if they did.
    pub(crate) fn move_cold(&mut self, chunk: ColdChunk) -> Option<ColdChunk> {
        let ranges = self.cold.as_mut()?;
        let index = ranges.at(chunk.start);
        let found = ranges.chunks.get_mut(index)?;
        if (found.start, found.length, found.crc32c) != (chunk.start, chunk.length, chunk.crc32c) {
            return None;
        }
        if index < ranges.saved && !ranges.moved.contains(&chunk.start) {
            ranges.moved.push(chunk.start);
        }
        Some(std::mem::replace(found, chunk))
    }

    /// Bytes that the cold store does not have.
    pub fn unflushed_len(&self) -> u64 {
        self.end() - self.cold_end()
    }

    /// Ranges that the next pack takes: of at most `chunk_bytes_max` each and `bytes_max` together.
    pub(crate) fn unflushed(&self, chunk_bytes_max: u64, bytes_max: u64) -> Vec<ColdRange> {
        let mut ranges = Vec::new();
        let (mut start, end) = (self.cold_end(), self.end());
        let until = end.min(start + bytes_max.max(1));
        while start < until {
            let end = until.min(start + chunk_bytes_max);
            ranges.push(ColdRange { start, end });
            start = end;
        }
        ranges
    }

    /// Cold chunks that no state table has as they are; the caller writes them into one.
    pub(crate) fn take_unsaved_cold(&mut self) -> Vec<ColdChunk> {
        let Some(ranges) = &mut self.cold else {
            return Vec::new();
        };
        let moved = std::mem::take(&mut ranges.moved);
        let mut unsaved: Vec<ColdChunk> = moved
            .into_iter()
            .map(|start| ranges.chunks[ranges.at(start)])
            .collect();
        unsaved.extend_from_slice(&ranges.chunks[ranges.saved..]);
        ranges.saved = ranges.chunks.len();
        unsaved
    }

    /// What a delta table says of cold chunks that are gone: those before this began earlier.
    pub(crate) fn cold_from(&self) -> u64 {
        let first = self.cold_chunks().first();
        first.map_or(self.cold_end(), |c| c.start)
    }
}
