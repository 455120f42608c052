//! Cold packs: the objects of the cold store. Each holds chunks of many streams of one group, compressed where that pays.
//!
//! ```text
//! magic "URSCOLD1" | term u64 | nonce u64 | group u32 | number u32 | chunks as stored, back to back | index | trailer
//! index entry: key length u16 | key | incarnation u64 | start u64 | position u64 | length u32 | stored u32 | crc32c u32
//! trailer, 24 bytes: index position u64 | entries u32 | crc32c of the index u32 | magic "URSCOLDE"
//! ```
//!
//! Integers are little-endian. A chunk that is stored in fewer bytes than it has is one zstd frame. The checksum is of the
//! chunk's own bytes, so it covers the compression too. All here is pure; nothing touches a file or a socket.

use bytes::Bytes;

const MAGIC: &[u8; 8] = b"URSCOLD1";
const END_MAGIC: &[u8; 8] = b"URSCOLDE";
/// Bytes of the header, at the object's begin.
pub const HEADER_BYTES: u64 = 32;
/// Bytes of the trailer, at the object's end.
pub const TRAILER_BYTES: u64 = 24;
/// Smallest chunk that compression is tried on.
const COMPRESS_BYTES_MIN: usize = 256;
/// Fast, and most of what there is to gain on text.
const LEVEL: i32 = 1;

/// Whose pack it is; with the cluster's name, this is its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The group.
    pub group: u32,
    /// The term of the leader that made it.
    pub term: u64,
    /// Which of that leadership.
    pub number: u32,
    /// Drawn by that leader.
    pub nonce: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.term.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.group.to_le_bytes());
        bytes[28..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }
}

/// A chunk to be put into a pack.
#[derive(Debug, Clone)]
pub struct Source {
    /// The stream.
    pub key: String,
    /// Which stream at that key.
    pub incarnation: u64,
    /// First stream byte.
    pub start: u64,
    /// Its bytes.
    pub pieces: Vec<Bytes>,
}

/// Where a chunk lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// First byte in the object.
    pub position: u64,
    /// Bytes of the chunk.
    pub length: u32,
    /// Bytes in the object; fewer than `length`: compressed.
    pub stored: u32,
    /// Checksum of the chunk's own bytes.
    pub crc32c: u32,
}

/// A pack as it is put.
#[derive(Debug, Clone)]
pub struct Built {
    /// The object, in pieces.
    pub pieces: Vec<Bytes>,
    /// Its size in bytes.
    pub length: u64,
    /// Where each chunk lies, in the order they were given.
    pub locations: Vec<Location>,
}

/// An entry of a pack's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The stream.
    pub key: String,
    /// Which stream at that key.
    pub incarnation: u64,
    /// First stream byte.
    pub start: u64,
    /// Where it lies.
    pub location: Location,
}

/// What is wrong with a pack's bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackDamage {
    /// Too short, or without its magic.
    #[error("it is no cold pack, or not all of one")]
    NotAPack,
    /// The header names another pack.
    #[error("it is the pack of another group or leadership")]
    Foreign,
    /// The index does not match its checksum.
    #[error("its index is damaged")]
    Index,
    /// A chunk does not match its checksum.
    #[error("the chunk of {length} bytes at byte {position} is damaged")]
    Chunk {
        /// First byte in the object.
        position: u64,
        /// Bytes of the chunk.
        length: u32,
    },
}

/// Lays out a pack. Takes the time that compression takes: not for an executor. The same chunks give the same object.
pub fn build(header: Header, chunks: &[Source]) -> Built {
    let mut pieces = vec![Bytes::copy_from_slice(&header.encode())];
    let mut position = HEADER_BYTES;
    let mut index = Vec::new();
    let mut locations = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let location = place(position, &chunk.pieces, &mut pieces);
        position += u64::from(location.stored);
        index.extend_from_slice(&(chunk.key.len() as u16).to_le_bytes());
        index.extend_from_slice(chunk.key.as_bytes());
        for number in [chunk.incarnation, chunk.start, location.position] {
            index.extend_from_slice(&number.to_le_bytes());
        }
        for number in [location.length, location.stored, location.crc32c] {
            index.extend_from_slice(&number.to_le_bytes());
        }
        locations.push(location);
    }
    let mut trailer = Vec::with_capacity(TRAILER_BYTES as usize);
    trailer.extend_from_slice(&position.to_le_bytes());
    trailer.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
    trailer.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
    trailer.extend_from_slice(END_MAGIC);
    let length = position + index.len() as u64 + TRAILER_BYTES;
    pieces.push(index.into());
    pieces.push(trailer.into());
    Built {
        pieces,
        length,
        locations,
    }
}

fn place(position: u64, chunk: &[Bytes], pieces: &mut Vec<Bytes>) -> Location {
    let length: usize = chunk.iter().map(Bytes::len).sum();
    let crc32c = chunk
        .iter()
        .fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
    let mut location = Location {
        position,
        length: length as u32,
        stored: length as u32,
        crc32c,
    };
    if length >= COMPRESS_BYTES_MIN {
        let joined = chunk.concat();
        // Below a sixteenth, reading pays more than storing gains.
        if let Ok(compressed) = zstd::bulk::compress(&joined, LEVEL)
            && compressed.len() <= length - length / 16
        {
            location.stored = compressed.len() as u32;
            pieces.push(compressed.into());
            return location;
        }
    }
    pieces.extend(chunk.iter().cloned());
    location
}

/// A chunk's own bytes from those stored.
///
/// # Errors
/// [`PackDamage::Chunk`].
pub fn open(stored: Bytes, location: &Location) -> Result<Bytes, PackDamage> {
    let damaged = PackDamage::Chunk {
        position: location.position,
        length: location.length,
    };
    if stored.len() != location.stored as usize {
        return Err(damaged);
    }
    let chunk = if location.stored < location.length {
        match zstd::bulk::decompress(&stored, location.length as usize) {
            Ok(chunk) => chunk.into(),
            Err(_) => return Err(damaged),
        }
    } else {
        stored
    };
    let is_whole =
        chunk.len() == location.length as usize && crc32c::crc32c(&chunk) == location.crc32c;
    if is_whole { Ok(chunk) } else { Err(damaged) }
}

/// Where the index begins, by an object's last bytes: at least [`TRAILER_BYTES`], of an object of `length` bytes.
///
/// # Errors
/// [`PackDamage::NotAPack`].
pub fn index_position(end: &[u8], length: u64) -> Result<u64, PackDamage> {
    let Some((_, trailer)) = end.split_last_chunk::<{ TRAILER_BYTES as usize }>() else {
        return Err(PackDamage::NotAPack);
    };
    let position = u64::from_le_bytes(trailer[..8].try_into().expect("eight bytes"));
    let is_inside = position >= HEADER_BYTES && position <= length.saturating_sub(TRAILER_BYTES);
    if !is_inside || &trailer[16..] != END_MAGIC {
        return Err(PackDamage::NotAPack);
    }
    Ok(position)
}

/// Reads the index: `end` are the object's bytes from [`index_position`] on.
///
/// # Errors
/// [`PackDamage::Index`].
pub fn read_index(end: &[u8]) -> Result<Vec<Entry>, PackDamage> {
    let Some((index, trailer)) = end.split_last_chunk::<{ TRAILER_BYTES as usize }>() else {
        return Err(PackDamage::NotAPack);
    };
    let count = u32::from_le_bytes(trailer[8..12].try_into().expect("four bytes"));
    let crc32c = u32::from_le_bytes(trailer[12..16].try_into().expect("four bytes"));
    if crc32c::crc32c(index) != crc32c {
        return Err(PackDamage::Index);
    }
    let mut rest = index;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(read_entry(&mut rest).ok_or(PackDamage::Index)?);
    }
    if rest.is_empty() {
        Ok(entries)
    } else {
        Err(PackDamage::Index)
    }
}

fn read_entry(rest: &mut &[u8]) -> Option<Entry> {
    fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (taken, after) = rest.split_first_chunk::<N>()?;
        *rest = after;
        Some(*taken)
    }
    let key_len = usize::from(u16::from_le_bytes(take(rest)?));
    let (key, after) = rest.split_at_checked(key_len)?;
    *rest = after;
    let mut wide = || Some(u64::from_le_bytes(take(rest)?));
    let (incarnation, start, position) = (wide()?, wide()?, wide()?);
    let mut narrow = || Some(u32::from_le_bytes(take(rest)?));
    Some(Entry {
        key: std::str::from_utf8(key).ok()?.to_owned(),
        incarnation,
        start,
        location: Location {
            position,
            length: narrow()?,
            stored: narrow()?,
            crc32c: narrow()?,
        },
    })
}

/// Checks a whole object: its header, its index, and each chunk. Takes the time that decompression takes. Answers how many chunks it has.
///
/// # Errors
/// What is damaged first.
pub fn verify(object: &Bytes, header: Header) -> Result<u64, PackDamage> {
    check_header(object, header)?;
    let index = index_position(object, object.len() as u64)?;
    let entries = read_index(&object[index as usize..])?;
    for entry in &entries {
        let at = &entry.location;
        let begin = at.position as usize;
        let end = begin.saturating_add(at.stored as usize);
        let stored = object.get(begin..end).unwrap_or_default();
        open(Bytes::copy_from_slice(stored), at)?;
    }
    Ok(entries.len() as u64)
}

/// Checks that an object's first bytes are the header of this pack.
///
/// # Errors
/// [`PackDamage::NotAPack`], [`PackDamage::Foreign`].
pub fn check_header(begin: &[u8], header: Header) -> Result<(), PackDamage> {
    let Some(found) = begin.first_chunk::<{ HEADER_BYTES as usize }>() else {
        return Err(PackDamage::NotAPack);
    };
    if &found[..8] != MAGIC {
        return Err(PackDamage::NotAPack);
    }
    if *found == header.encode() {
        Ok(())
    } else {
        Err(PackDamage::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        group: 3,
        term: 7,
        number: 9,
        nonce: 11,
    };

    fn source(key: &str, start: u64, pieces: &[&[u8]]) -> Source {
        let pieces = pieces.iter().map(|p| Bytes::copy_from_slice(p)).collect();
        Source {
            key: key.to_owned(),
            incarnation: 5,
            start,
            pieces,
        }
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_was_packed_is_read_back_and_damage_is_named() {
        let text = b"the same again, ".repeat(1000);
        let noise = noise(5000);
        let chunks = [
            source("/a", 0, &[b"hel", b"lo"]),
            source("/b", 7, &[&text[..8000], &text[8000..]]),
            source("/c", 1 << 40, &[&noise]),
        ];
        let built = build(HEADER, &chunks);
        let object = built.pieces.concat();
        assert_eq!(object.len() as u64, built.length);
        assert!(object.len() < 6000, "nothing was compressed");
        assert_eq!(built.locations[2].stored, 5000, "noise was compressed");
        check_header(&object, HEADER).unwrap();
        let other = Header { term: 8, ..HEADER };
        assert_eq!(check_header(&object, other), Err(PackDamage::Foreign));
        let from = index_position(&object, built.length).unwrap();
        let entries = read_index(&object[from as usize..]).unwrap();
        for ((chunk, location), entry) in chunks.iter().zip(&built.locations).zip(&entries) {
            assert_eq!((&entry.key, entry.start), (&chunk.key, chunk.start));
            assert_eq!(entry.location, *location);
            let begin = location.position as usize;
            let stored = &object[begin..begin + location.stored as usize];
            let open = |bytes: &[u8]| open(Bytes::copy_from_slice(bytes), location);
            assert_eq!(open(stored).unwrap(), chunk.pieces.concat());
            for bit in 0..stored.len().min(200) {
                let mut bad = stored.to_vec();
                bad[bit] ^= 1;
                // A flip that changes no byte of the chunk is none.
                let opened = open(&bad);
                assert!(opened.is_err() || opened == Ok(chunk.pieces.concat().into()));
            }
            assert!(open(&stored[1..]).is_err());
        }
        let mut bad = object[from as usize..].to_vec();
        bad[3] ^= 1;
        assert_eq!(read_index(&bad), Err(PackDamage::Index));
        assert!(index_position(&object[..object.len() - 1], built.length - 1).is_err());
    }
}
