//! Reads a whole pack and checks all of it: header, trailer, index, and each chunk against its checksum.

use std::path::Path;

use super::{ChunkLocation, END_MAGIC, HEADER_BYTES, MAGIC};
use crate::files::{Files, ReadAt, System};
use crate::{StorageError, io_error};

const TRAILER_BYTES: u64 = 24;
/// Bytes of a chunk read at once.
const READ_BYTES: usize = 1 << 20;

/// What a sound pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackSummary {
    /// The group that it belongs to.
    pub group: u32,
    /// Its number within the group.
    pub number: u32,
    /// Chunks.
    pub chunks: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The entries of a pack, verified.
struct Index {
    entries: Vec<ChunkLocation>,
    group: u32,
    number: u32,
    bytes: u64,
}

/// Checks a pack. Blocks; not for an executor.
///
/// # Errors
/// [`StorageError::Corrupt`] naming the place, or the system's.
pub fn verify(path: &Path) -> Result<PackSummary, StorageError> {
    verify_of(&System, path)
}

fn verify_of(files: &dyn Files, path: &Path) -> Result<PackSummary, StorageError> {
    let file = files.open(path).map_err(|e| io_error(path, "open", e))?;
    let index = read_index(&*file, path)?;
    for chunk in &index.entries {
        let (at, length) = (chunk.position, u64::from(chunk.length));
        if checksum(&*file, path, at, length)? != chunk.crc32c {
            let what = format!("the checksum of the chunk of {length} bytes is wrong");
            return Err(corrupt(path, at, &what));
        }
    }
    Ok(PackSummary {
        group: index.group,
        number: index.number,
        chunks: index.entries.len() as u64,
        bytes: index.bytes,
    })
}

/// [`verify`], and that the pack is the one which its place says: no checksum covers its header. Blocks.
///
/// # Errors
/// As [`verify`].
pub fn verify_named(path: &Path, group: u32, number: u32) -> Result<PackSummary, StorageError> {
    verify_named_of(&System, path, group, number)
}

/// [`verify_named`], of these files.
///
/// # Errors
/// As [`verify`].
pub fn verify_named_of(
    files: &dyn Files,
    path: &Path,
    group: u32,
    number: u32,
) -> Result<PackSummary, StorageError> {
    let summary = verify_of(files, path)?;
    if (summary.group, summary.number) == (group, number) {
        return Ok(summary);
    }
    let (found, of) = (summary.number, summary.group);
    let what = format!("it is pack {found} of group {of}, not what its name says");
    Err(corrupt(path, 8, &what))
}

/// Whether a pack was written with this chunk, by its index; what the chunk's bytes are now is not looked at. Blocks.
///
/// # Errors
/// [`StorageError::Corrupt`] if the index cannot tell, or the system's.
pub(super) fn has_chunk(
    file: &dyn ReadAt,
    path: &Path,
    chunk: ChunkLocation,
) -> Result<bool, StorageError> {
    Ok(read_index(file, path)?.entries.contains(&chunk))
}

/// Whether a pack was written with these chunks, as [`has_chunk`].
///
/// # Errors
/// As [`has_chunk`].
pub fn has_chunks(path: &Path, chunks: &[ChunkLocation]) -> Result<bool, StorageError> {
    has_chunks_of(&System, path, chunks)
}

/// [`has_chunks`], of these files.
///
/// # Errors
/// As [`has_chunk`].
pub fn has_chunks_of(
    files: &dyn Files,
    path: &Path,
    chunks: &[ChunkLocation],
) -> Result<bool, StorageError> {
    let file = files.open(path).map_err(|e| io_error(path, "open", e))?;
    let entries = read_index(&*file, path)?.entries;
    // In the order of their places.
    let has = |chunk: &ChunkLocation| {
        let found = entries.binary_search_by_key(&chunk.position, |entry| entry.position);
        found.is_ok_and(|index| entries[index] == *chunk)
    };
    Ok(chunks.iter().all(has))
}

fn corrupt(path: &Path, offset: u64, what: &str) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        offset,
        what: what.to_owned(),
    }
}

fn read_index(file: &dyn ReadAt, path: &Path) -> Result<Index, StorageError> {
    let corrupt = |offset, what| corrupt(path, offset, what);
    let bytes = file.length().map_err(|e| io_error(path, "read", e))?;
    if bytes < HEADER_BYTES + TRAILER_BYTES {
        return Err(corrupt(0, "a pack is longer"));
    }
    let header = read(file, path, 0, HEADER_BYTES as usize)?;
    if &header[..8] != MAGIC {
        return Err(corrupt(0, "not a pack"));
    }
    let trailer_at = bytes - TRAILER_BYTES;
    let trailer = read(file, path, trailer_at, TRAILER_BYTES as usize)?;
    let at = u64_at(&trailer, 0);
    if &trailer[16..] != END_MAGIC || !(HEADER_BYTES..=trailer_at).contains(&at) {
        return Err(corrupt(trailer_at, "the trailer is wrong"));
    }
    let index = read(file, path, at, (trailer_at - at) as usize)?;
    if crc32c::crc32c(&index) != u32_at(&trailer, 12) {
        return Err(corrupt(at, "the checksum of the index is wrong"));
    }
    let mut rest = &index[..];
    let mut entries = Vec::new();
    let mut end = HEADER_BYTES;
    while !rest.is_empty() {
        let key_bytes = rest
            .get(..2)
            .map_or(0, |l| usize::from(u16::from_le_bytes([l[0], l[1]])));
        let entry = rest.get(2 + key_bytes..2 + key_bytes + 32);
        let entry = entry.ok_or_else(|| corrupt(at, "an entry of the index is cut"))?;
        let chunk = ChunkLocation {
            position: u64_at(entry, 16),
            length: u32_at(entry, 24),
            crc32c: u32_at(entry, 28),
        };
        // Chunks lie back to back, in the index's order.
        if chunk.position != end || end + u64::from(chunk.length) > at {
            return Err(corrupt(at, "the index names a place where no chunk is"));
        }
        end += u64::from(chunk.length);
        entries.push(chunk);
        rest = &rest[2 + key_bytes + 32..];
    }
    if entries.len() as u64 != u64::from(u32_at(&trailer, 8)) || end != at {
        return Err(corrupt(trailer_at, "the number of chunks is wrong"));
    }
    Ok(Index {
        entries,
        group: u32_at(&header, 8),
        number: u32_at(&header, 12),
        bytes,
    })
}

fn read(file: &dyn ReadAt, path: &Path, at: u64, length: usize) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)
        .map_err(|e| io_error(path, "read", e))?;
    Ok(bytes)
}

fn checksum(file: &dyn ReadAt, path: &Path, at: u64, length: u64) -> Result<u32, StorageError> {
    let mut buffer = vec![0; READ_BYTES.min(length as usize)];
    let mut done = 0;
    let mut crc = 0;
    while done < length {
        let part = (buffer.len() as u64).min(length - done) as usize;
        file.read_exact_at(&mut buffer[..part], at + done)
            .map_err(|e| io_error(path, "read", e))?;
        crc = crc32c::crc32c_append(crc, &buffer[..part]);
        done += part as u64;
    }
    Ok(crc)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::PackPlan;
    use super::*;

    #[test]
    fn a_sound_pack_is_summed_up_and_any_flipped_bit_or_cut_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack-5");
        let mut plan = PackPlan::new(3, 5);
        plan.add("/a", 1, 0, vec![Bytes::from_static(b"hello")]);
        plan.add("/bb", 2, 7, vec![Bytes::from_static(b"world")]);
        let bytes = plan.write(&path).unwrap();
        let expected = PackSummary {
            group: 3,
            number: 5,
            chunks: 2,
            bytes,
        };
        assert_eq!(verify(&path).unwrap(), expected);
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            // Group and number stand in the file's name too, and are compared with it.
            assert_ne!(verify(&path).ok(), Some(expected), "bit {bit}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(verify(&path).is_err(), "cut at {length}");
        }
    }
}
