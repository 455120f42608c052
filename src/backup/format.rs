//! What is shipped: one object carries parts of many groups of one core.
//!
//! ```text
//! magic "URSDRBK1" | sections, each a zstd frame of a Base or a LogRange | index | trailer
//! trailer, 24 bytes: index position u64 | index length u32 | crc32c of the index u32 | magic "URSDRBKE"
//! ```
//!
//! Integers are little-endian; the index and what is in the sections: `raftproto/proto/backup.proto`. Each section has a
//! checksum over its frame. All here is pure.

use bytes::Bytes;
use prost::Message;
use raftproto::backup::{Base, Index, LogRange, Section};

const MAGIC: &[u8; 8] = b"URSDRBK1";
const END_MAGIC: &[u8; 8] = b"URSDRBKE";
/// Bytes of the trailer.
pub const TRAILER_BYTES: u64 = 24;
/// Fast, and most of what there is to gain.
const LEVEL: i32 = 1;
/// Longest message in a section.
const SECTION_BYTES_MAX: u64 = 2 << 30;

/// What is wrong with a shipped object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectDamage {
    /// Too short, or without its magic.
    #[error("it is nothing that was shipped, or not all of it")]
    NotShipped,
    /// The index does not match its checksum, or does not decode.
    #[error("its index is damaged")]
    Index,
    /// Written by a newer binary.
    #[error(transparent)]
    Version(#[from] raftproto::version::UnknownVersion),
    /// A section does not match its checksum, or does not decode.
    #[error("the part of group {group} at byte {position} is damaged")]
    Section {
        /// The group.
        group: u32,
        /// First byte in the object.
        position: u64,
    },
}

/// Why a section was not added. Nothing of the object is lost.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// It could not be read back.
    #[error("the part of group {group} has {bytes} bytes; {SECTION_BYTES_MAX} are the most")]
    TooLong {
        /// The group.
        group: u32,
        /// Bytes.
        bytes: u64,
    },
    /// The compressor's.
    #[error("a part could not be compressed: {0}")]
    Compress(#[from] std::io::Error),
}

/// What a section holds.
#[derive(Debug)]
pub enum Content {
    /// A whole state.
    Base(Base),
    /// Entries of the log.
    Log(LogRange),
}

/// Lays out one object.
#[derive(Debug)]
pub struct Builder {
    index: Index,
    pieces: Vec<Bytes>,
    end: u64,
}

impl Builder {
    /// Without sections yet.
    pub fn new(index: Index) -> Builder {
        Builder {
            index,
            pieces: vec![Bytes::from_static(MAGIC)],
            end: MAGIC.len() as u64,
        }
    }

    /// Nothing was added.
    pub fn is_empty(&self) -> bool {
        self.index.sections.is_empty()
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.end
    }

    /// Adds a section; compresses, so it is not for an executor.
    ///
    /// # Errors
    /// [`AddError`].
    pub fn add(&mut self, mut section: Section, content: &Content) -> Result<(), AddError> {
        let bytes = match content {
            Content::Base(base) => base.encoded_len() as u64,
            Content::Log(log) => log.encoded_len() as u64,
        };
        check_length(section.group, bytes)?;
        let message = match content {
            Content::Base(base) => base.encode_to_vec(),
            Content::Log(log) => log.encode_to_vec(),
        };
        let frame = Bytes::from(zstd::bulk::compress(&message, LEVEL)?);
        section.is_base = matches!(content, Content::Base(_));
        section.position = self.end;
        section.stored = frame.len() as u64;
        section.length = message.len() as u64;
        section.crc32c = crc32c::crc32c(&frame);
        self.end += section.stored;
        self.pieces.push(frame);
        self.index.sections.push(section);
        Ok(())
    }

    /// The object, in pieces. `previous` is the key of the one that was shipped before.
    pub fn finish(mut self, previous: String) -> (Index, Vec<Bytes>) {
        self.index.previous = previous;
        let index = self.index.encode_to_vec();
        let mut trailer = Vec::with_capacity(TRAILER_BYTES as usize);
        trailer.extend_from_slice(&self.end.to_le_bytes());
        trailer.extend_from_slice(&(index.len() as u32).to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        trailer.extend_from_slice(END_MAGIC);
        self.pieces.push(index.into());
        self.pieces.push(trailer.into());
        (self.index, self.pieces)
    }
}

fn check_length(group: u32, bytes: u64) -> Result<(), AddError> {
    match bytes > SECTION_BYTES_MAX {
        true => Err(AddError::TooLong { group, bytes }),
        false => Ok(()),
    }
}

/// Where the index begins, by an object's last bytes: at least [`TRAILER_BYTES`] of an object of `length` bytes.
///
/// # Errors
/// [`ObjectDamage::NotShipped`].
pub fn index_position(end: &[u8], length: u64) -> Result<u64, ObjectDamage> {
    let Some((_, trailer)) = end.split_last_chunk::<{ TRAILER_BYTES as usize }>() else {
        return Err(ObjectDamage::NotShipped);
    };
    let position = u64::from_le_bytes(trailer[..8].try_into().expect("eight bytes"));
    let index_length = u32::from_le_bytes(trailer[8..12].try_into().expect("four bytes"));
    let is_whole = position.checked_add(u64::from(index_length) + TRAILER_BYTES) == Some(length);
    if !is_whole || position < MAGIC.len() as u64 || &trailer[16..] != END_MAGIC {
        return Err(ObjectDamage::NotShipped);
    }
    Ok(position)
}

/// Reads the index: `end` are the object's bytes from [`index_position`] on.
///
/// # Errors
/// [`ObjectDamage`].
pub fn read_index(end: &[u8]) -> Result<Index, ObjectDamage> {
    let Some((index, trailer)) = end.split_last_chunk::<{ TRAILER_BYTES as usize }>() else {
        return Err(ObjectDamage::NotShipped);
    };
    let crc32c = u32::from_le_bytes(trailer[12..16].try_into().expect("four bytes"));
    if crc32c::crc32c(index) != crc32c {
        return Err(ObjectDamage::Index);
    }
    let index = Index::decode(index).map_err(|_| ObjectDamage::Index)?;
    raftproto::version::check("a backup", index.version, raftproto::version::BACKUP)?;
    Ok(index)
}

/// What a section holds, by its bytes in the object.
///
/// # Errors
/// [`ObjectDamage::Section`].
pub fn open(section: &Section, stored: &[u8]) -> Result<Content, ObjectDamage> {
    let damaged = || ObjectDamage::Section {
        group: section.group,
        position: section.position,
    };
    let is_same = stored.len() as u64 == section.stored && crc32c::crc32c(stored) == section.crc32c;
    if !is_same || section.length > SECTION_BYTES_MAX {
        return Err(damaged());
    }
    let message = zstd::bulk::decompress(stored, section.length as usize).map_err(|_| damaged())?;
    if message.len() as u64 != section.length {
        return Err(damaged());
    }
    let message = Bytes::from(message);
    match section.is_base {
        true => Base::decode(message).map(Content::Base),
        false => LogRange::decode(message).map(Content::Log),
    }
    .map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_opened_is_not_added() {
        assert!(check_length(1, SECTION_BYTES_MAX).is_ok());
        let refused = check_length(1, SECTION_BYTES_MAX + 1);
        assert!(matches!(refused, Err(AddError::TooLong { group: 1, .. })));
    }

    #[test]
    fn an_object_reads_back_and_any_flipped_bit_is_found() {
        let index = Index {
            version: raftproto::version::BACKUP,
            cluster_id: "c".to_owned(),
            ..Index::default()
        };
        let mut builder = Builder::new(index);
        let section = |group| Section {
            group,
            ..Section::default()
        };
        let base = Base {
            group_state: Bytes::from_static(b"state"),
            streams: Vec::new(),
        };
        builder.add(section(1), &Content::Base(base)).unwrap();
        let log = Content::Log(LogRange::default());
        builder.add(section(2), &log).unwrap();
        let good = builder.finish(String::new()).1.concat();
        let read = |object: &[u8]| {
            let position = index_position(object, object.len() as u64)? as usize;
            let index = read_index(&object[position..])?;
            for section in &index.sections {
                let from = section.position as usize;
                let to = from + section.stored as usize;
                open(section, object.get(from..to).unwrap_or_default())?;
            }
            Ok::<_, ObjectDamage>(index)
        };
        assert_eq!(read(&good).unwrap().sections.len(), 2);
        for bit in MAGIC.len() * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_err(), "cut at {length}");
        }
    }
}
