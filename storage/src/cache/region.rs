//! A region of the cache's file: many chunks, written in one go and forgotten in one go.
//!
//! ```text
//! header, 4096 bytes: magic "URSCACH1" | owner u64 | sequence u64 | index position u32 | entries u32
//!                     | crc32c of the index u32 | crc32c of all before u32 | zeros
//! chunks as they are stored in their packs, back to back
//! index entry, 48 bytes: group u32 | term u64 | number u32 | nonce u64 | position u64 | offset u32 | length u32
//!                        | stored u32 | crc32c of the chunk's own bytes u32
//! ```
//!
//! Integers are little-endian; offsets count from the region's begin. The header is written last and blanked first, with
//! a sync in between each time, so a region that has one holds what its index says, and any other is empty.

use crate::cold_pack::Location;

const MAGIC: &[u8; 8] = b"URSCACH1";
/// Bytes of a header, and what all writes are aligned to.
pub(super) const HEADER_BYTES: usize = 4096;
/// Bytes of an index entry.
const ENTRY_BYTES: usize = 48;
/// Of a header, before its own checksum.
const FIELDS_BYTES: usize = 36;
/// Memory for the index is bounded by this: a chunk counts for so many bytes at least.
const CHUNK_BYTES_MIN: usize = 8 << 10;

/// Which chunk: the pack, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The pack's group.
    pub group: u32,
    /// Which of that leadership.
    pub number: u32,
    /// The term of the leader that made it.
    pub term: u64,
    /// Drawn by that leader.
    pub nonce: u64,
    /// First byte in the pack.
    pub position: u64,
}

/// Where a chunk lies in its region, and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) offset: u32,
    length: u32,
    pub(super) stored: u32,
    crc32c: u32,
}

impl Slot {
    /// Whether it is this chunk, by all that is known of it.
    pub(super) fn is(&self, chunk: &Location) -> bool {
        (self.length, self.stored, self.crc32c) == (chunk.length, chunk.stored, chunk.crc32c)
    }

    /// As the pack has it.
    pub(super) fn location(&self, key: &ChunkKey) -> Location {
        Location {
            position: key.position,
            length: self.length,
            stored: self.stored,
            crc32c: self.crc32c,
        }
    }
}

/// A region that gathers in memory.
#[derive(Debug)]
pub(super) struct Gathering {
    bytes: Vec<u8>,
    pub(super) entries: Vec<(ChunkKey, Slot)>,
    bytes_max: usize,
}

impl Gathering {
    pub(super) fn new(bytes_max: usize) -> Gathering {
        Gathering {
            bytes: vec![0; HEADER_BYTES],
            entries: Vec::new(),
            bytes_max,
        }
    }

    /// Whether a chunk of so many stored bytes fits into an empty one.
    pub(super) fn could_take(stored: usize, bytes_max: usize) -> bool {
        HEADER_BYTES + stored + ENTRY_BYTES <= bytes_max
    }

    /// Adds a chunk; `None`: it does not fit.
    pub(super) fn take(&mut self, key: ChunkKey, chunk: &Location, stored: &[u8]) -> Option<Slot> {
        let index_bytes = (self.entries.len() + 1) * ENTRY_BYTES;
        let is_full = self.bytes.len() + stored.len() + index_bytes > self.bytes_max
            || self.entries.len() >= (self.bytes_max / CHUNK_BYTES_MIN).max(1);
        if is_full {
            return None;
        }
        let slot = Slot {
            offset: self.bytes.len() as u32,
            length: chunk.length,
            stored: chunk.stored,
            crc32c: chunk.crc32c,
        };
        self.bytes.extend_from_slice(stored);
        self.entries.push((key, slot));
        Some(slot)
    }

    /// From 0 to 1.
    pub(super) fn filled(&self) -> f64 {
        let used = self.bytes.len() + self.entries.len() * ENTRY_BYTES;
        used as f64 / self.bytes_max.max(1) as f64
    }

    /// A chunk's stored bytes.
    pub(super) fn stored(&self, slot: &Slot) -> &[u8] {
        let begin = slot.offset as usize;
        &self.bytes[begin..begin + slot.stored as usize]
    }

    /// All of it: the header, then what follows it.
    pub(super) fn finish(&self, owner: u64, sequence: u64) -> (Vec<u8>, Vec<u8>) {
        let mut index = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for (key, slot) in &self.entries {
            index.extend_from_slice(&key.group.to_le_bytes());
            index.extend_from_slice(&key.term.to_le_bytes());
            index.extend_from_slice(&key.number.to_le_bytes());
            index.extend_from_slice(&key.nonce.to_le_bytes());
            index.extend_from_slice(&key.position.to_le_bytes());
            for number in [slot.offset, slot.length, slot.stored, slot.crc32c] {
                index.extend_from_slice(&number.to_le_bytes());
            }
        }
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&owner.to_le_bytes());
        header.extend_from_slice(&sequence.to_le_bytes());
        header.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        header.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        debug_assert_eq!(header.len(), FIELDS_BYTES);
        let crc = crc32c::crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        let mut rest = self.bytes[HEADER_BYTES..].to_vec();
        rest.extend_from_slice(&index);
        rest.resize(rest.len().next_multiple_of(HEADER_BYTES), 0);
        (header, rest)
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) index_position: u32,
    entries: u32,
    crc32c: u32,
}

impl Head {
    /// `None`: the region is empty, or another's.
    pub(super) fn read(header: &[u8], owner: u64, bytes_max: usize) -> Option<Head> {
        let (fields, rest) = header.split_at_checked(FIELDS_BYTES)?;
        let narrow = |at: usize| {
            fields[at..]
                .first_chunk::<4>()
                .map(|b| u32::from_le_bytes(*b))
        };
        let wide = |at: usize| {
            fields[at..]
                .first_chunk::<8>()
                .map(|b| u64::from_le_bytes(*b))
        };
        let crc = u32::from_le_bytes(*rest.first_chunk::<4>()?);
        let is_ours = fields.starts_with(MAGIC) && wide(8) == Some(owner);
        if !is_ours || crc32c::crc32c(fields) != crc {
            return None;
        }
        let head = Head {
            sequence: wide(16)?,
            index_position: narrow(24)?,
            entries: narrow(28)?,
            crc32c: narrow(32)?,
        };
        let end = u64::from(head.index_position) + head.index_bytes() as u64;
        (end <= bytes_max as u64).then_some(head)
    }

    pub(super) fn index_bytes(&self) -> usize {
        self.entries as usize * ENTRY_BYTES
    }

    /// `None`: damaged.
    pub(super) fn index(&self, bytes: &[u8]) -> Option<Vec<(ChunkKey, Slot)>> {
        if bytes.len() != self.index_bytes() || crc32c::crc32c(bytes) != self.crc32c {
            return None;
        }
        bytes.chunks_exact(ENTRY_BYTES).map(entry).collect()
    }
}

fn entry(bytes: &[u8]) -> Option<(ChunkKey, Slot)> {
    let narrow = |at: usize| {
        bytes[at..]
            .first_chunk::<4>()
            .map(|b| u32::from_le_bytes(*b))
    };
    let wide = |at: usize| {
        bytes[at..]
            .first_chunk::<8>()
            .map(|b| u64::from_le_bytes(*b))
    };
    let key = ChunkKey {
        group: narrow(0)?,
        term: wide(4)?,
        number: narrow(12)?,
        nonce: wide(16)?,
        position: wide(24)?,
    };
    let slot = Slot {
        offset: narrow(32)?,
        length: narrow(36)?,
        stored: narrow(40)?,
        crc32c: narrow(44)?,
    };
    Some((key, slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_read_back_and_any_damage_empties_it() {
        let mut gathering = Gathering::new(64 << 10);
        let key = |position| ChunkKey {
            group: 1,
            number: 2,
            term: 3,
            nonce: 4,
            position,
        };
        let chunk = Location {
            position: 32,
            length: 9,
            stored: 5,
            crc32c: 7,
        };
        let slot = gathering.take(key(32), &chunk, b"hello").unwrap();
        gathering.take(key(37), &chunk, b"world").unwrap();
        assert_eq!(gathering.stored(&slot), b"hello");
        let (header, rest) = gathering.finish(11, 5);
        assert_eq!((header.len(), rest.len() % HEADER_BYTES), (HEADER_BYTES, 0));
        let head = Head::read(&header, 11, 64 << 10).unwrap();
        assert_eq!(Head::read(&header, 12, 64 << 10), None, "another's");
        let begin = head.index_position as usize - HEADER_BYTES;
        let index = &rest[begin..begin + head.index_bytes()];
        assert_eq!(head.index(index).unwrap(), gathering.entries);
        for bit in 0..(FIELDS_BYTES + 4) * 8 {
            let mut bad = header.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::read(&bad, 11, 64 << 10), None, "bit {bit}");
        }
        for bit in 0..index.len() * 8 {
            let mut bad = index.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(head.index(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn many_small_chunks_do_not_fill_memory_with_their_index() {
        let mut gathering = Gathering::new(80 << 10);
        let chunk = Location {
            position: 0,
            length: 1,
            stored: 1,
            crc32c: 0,
        };
        let key = |position| ChunkKey {
            group: 0,
            number: 0,
            term: 0,
            nonce: 0,
            position,
        };
        let taken = (0..100).take_while(|p| gathering.take(key(*p), &chunk, b"x").is_some());
        assert_eq!(taken.count(), 10);
        assert!(Gathering::could_take(70 << 10, 80 << 10));
        assert!(!Gathering::could_take(80 << 10, 80 << 10));
    }
}
