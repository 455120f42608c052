//! Packs: immutable files that hold chunks of many streams of one group.
//!
//! ```text
//! magic "URSPACK1" | group u32 | number u32 | chunks, back to back | index | trailer
//! index entry: key length u16 | key | incarnation u64 | start u64 | position u64 | length u32 | crc32c u32
//! trailer, 24 bytes: index position u64 | entries u32 | crc32c of the index u32 | magic "URSPACKE"
//! ```

mod mend;
mod verify;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use self::mend::{
    NeededChunk, read_sound, read_sound_of, read_unverified, read_unverified_of, rebuild,
    rebuild_of,
};
pub use self::verify::{
    PackSummary, has_chunks, has_chunks_of, verify, verify_named, verify_named_of,
};
use crate::files::{Files, ReadAt, System};
use crate::{StorageError, blocking, framed, io_error, mutation};

const MAGIC: &[u8; 8] = b"URSPACK1";
const END_MAGIC: &[u8; 8] = b"URSPACKE";
const HEADER_BYTES: u64 = 16;
/// Files that a core keeps open.
const OPEN_MAX: usize = 64;

/// Where a chunk lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLocation {
    /// First byte in the file.
    pub position: u64,
    /// Bytes.
    pub length: u32,
    /// Checksum of the chunk.
    pub crc32c: u32,
}

/// A pack's content before it is written; where each chunk will lie is known at once.
#[derive(Debug)]
pub struct PackPlan {
    group: u32,
    number: u32,
    end: u64,
    pieces: Vec<Bytes>,
    index: Vec<u8>,
    entries: u32,
}

impl PackPlan {
    /// An empty pack.
    pub fn new(group: u32, number: u32) -> PackPlan {
        PackPlan {
            group,
            number,
            end: HEADER_BYTES,
            pieces: Vec::new(),
            index: Vec::new(),
            entries: 0,
        }
    }

    /// Its number within the group.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// No chunk was added.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Adds a chunk: bytes of one stream from `start` on.
    pub fn add(
        &mut self,
        key: &str,
        incarnation: u64,
        start: u64,
        pieces: Vec<Bytes>,
    ) -> ChunkLocation {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let crc32c = pieces
            .iter()
            .fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        let location = ChunkLocation {
            position: self.end,
            length: length as u32,
            crc32c,
        };
        self.end += length as u64;
        self.pieces.extend(pieces);
        self.index
            .extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.index.extend_from_slice(key.as_bytes());
        for number in [incarnation, start, location.position] {
            self.index.extend_from_slice(&number.to_le_bytes());
        }
        self.index.extend_from_slice(&location.length.to_le_bytes());
        self.index.extend_from_slice(&crc32c.to_le_bytes());
        self.entries += 1;
        location
    }

    /// Writes the pack under its name, synced. Blocks; not for an executor. Answers its size in bytes.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] or [`StorageError::Io`].
    pub fn write(&self, path: &Path) -> Result<u64, StorageError> {
        self.write_to(&System, path)
    }

    /// [`PackPlan::write`], to these files.
    ///
    /// # Errors
    /// As [`PackPlan::write`].
    pub fn write_to(&self, files: &dyn Files, path: &Path) -> Result<u64, StorageError> {
        framed::publish(files, path, &mut |out| {
            out.write_all(MAGIC)?;
            out.write_all(&self.group.to_le_bytes())?;
            out.write_all(&self.number.to_le_bytes())?;
            for piece in &self.pieces {
                out.write_all(piece)?;
            }
            out.write_all(&self.index)?;
            out.write_all(&self.end.to_le_bytes())?;
            out.write_all(&self.entries.to_le_bytes())?;
            out.write_all(&crc32c::crc32c(&self.index).to_le_bytes())?;
            out.write_all(END_MAGIC)
        })?;
        Ok(self.end + self.index.len() as u64 + 24)
    }
}

/// Reads chunks for one core.
#[derive(Default)]
pub struct PackReader {
    open: RefCell<VecDeque<(PathBuf, Arc<File>)>>,
}

impl PackReader {
    /// Reads a chunk and verifies it. `None`: no pack of that name has such a chunk, so the plan that names it is older than
    /// the files. A checkpoint of this node removed the pack, or a fetched one brought another under the same name.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] naming the file and the chunk's place.
    pub async fn read(
        &self,
        path: &Path,
        chunk: ChunkLocation,
    ) -> Result<Option<Bytes>, StorageError> {
        let known = self
            .open
            .borrow()
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, file)| file.clone());
        let owned = path.to_owned();
        let read = blocking::run(move || read_chunk(known, &owned, chunk)).await?;
        let Some((file, bytes)) = read else {
            return Ok(None);
        };
        let mut open = self.open.borrow_mut();
        match open.iter_mut().find(|(known, _)| known == path) {
            Some((_, known)) => *known = file,
            None => open.push_back((path.to_owned(), file)),
        }
        if open.len() > OPEN_MAX {
            open.pop_front();
        }
        Ok(Some(bytes))
    }
}

impl PackReader {
    /// The packs below a directory are others from now on. Readers of other cores find that out by themselves.
    pub fn forget(&self, dir: &Path) {
        self.open
            .borrow_mut()
            .retain(|(path, _)| !path.starts_with(dir));
    }
}

/// `known` may be of a pack that had this path before.
fn read_chunk(
    known: Option<Arc<File>>,
    path: &Path,
    chunk: ChunkLocation,
) -> Result<Option<(Arc<File>, Bytes)>, StorageError> {
    if let Some(file) = known
        && let Ok(bytes) = read_verified(&*file, path, chunk)
    {
        return Ok(Some((file, bytes)));
    }
    let file = match File::open(path) {
        Ok(file) => Arc::new(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "open", error)),
    };
    let bytes = read_or_outdated(&*file, path, chunk)?;
    Ok(bytes.map(|bytes| (file, bytes)))
}

/// [`PackReader::read`], of these files. Blocks.
///
/// # Errors
/// As [`PackReader::read`].
pub fn read_of(
    files: &dyn Files,
    path: &Path,
    chunk: ChunkLocation,
) -> Result<Option<Bytes>, StorageError> {
    match files.open(path) {
        Ok(file) => read_or_outdated(&*file, path, chunk),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, "open", error)),
    }
}

fn read_or_outdated(
    file: &dyn ReadAt,
    path: &Path,
    chunk: ChunkLocation,
) -> Result<Option<Bytes>, StorageError> {
    match read_verified(file, path, chunk) {
        Ok(bytes) => Ok(Some(bytes)),
        // Only a sound index that does not have the chunk says that nothing is damaged.
        Err(error) => match verify::has_chunk(file, path, chunk) {
            Ok(false) => Ok(None),
            Ok(true) | Err(_) => Err(error),
        },
    }
}

fn read_verified(
    file: &dyn ReadAt,
    path: &Path,
    chunk: ChunkLocation,
) -> Result<Bytes, StorageError> {
    let damaged = |what: &str| StorageError::Corrupt {
        path: path.to_owned(),
        offset: chunk.position,
        what: format!("{what} the chunk of {} bytes", chunk.length),
    };
    let mut bytes = vec![0; chunk.length as usize];
    match file.read_exact_at(&mut bytes, chunk.position) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(damaged("the file ends within"));
        }
        Err(error) => return Err(io_error(path, "read", error)),
    }
    if crc32c::crc32c(&bytes) != chunk.crc32c && !mutation::is_on("pack-unverified") {
        return Err(damaged("the checksum is wrong of"));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_chunk_is_named_and_a_good_one_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack-1");
        let mut plan = PackPlan::new(3, 1);
        let a = plan.add(
            "/a",
            1,
            0,
            vec![Bytes::from_static(b"hel"), Bytes::from_static(b"lo")],
        );
        let b = plan.add("/b", 2, 7, vec![Bytes::from_static(b"world")]);
        let size = plan.write(&path).unwrap();
        assert_eq!(size, std::fs::metadata(&path).unwrap().len());
        let read = |c| read_chunk(None, &path, c).map(|read| read.unwrap().1);
        assert_eq!(read(a).unwrap(), "hello");
        assert_eq!(read(b).unwrap(), "world");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[a.position as usize] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(
            read(a)
                .unwrap_err()
                .to_string()
                .contains("pack-1 is damaged at byte 16")
        );
        assert_eq!(read(b).unwrap(), "world");
    }
    #[test]
    fn another_pack_under_the_same_name_is_no_damage_and_a_file_of_before_is_not_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack-1");
        let write = |body: &'static [u8]| {
            let mut plan = PackPlan::new(3, 1);
            let chunk = plan.add("/a", 1, 0, vec![Bytes::from_static(body)]);
            plan.write(&path).unwrap();
            chunk
        };
        let before = write(b"as this node wrote it, and longer than the other");
        let (opened, _) = read_chunk(None, &path, before).unwrap().unwrap();
        let after = write(b"as it was fetched");
        // A plan of before, without and with a file of before.
        assert!(read_chunk(None, &path, before).unwrap().is_none());
        let kept = read_chunk(Some(opened.clone()), &path, before);
        assert!(kept.unwrap().is_some());
        // A plan of now, on a core that has the file of before open.
        let (_, bytes) = read_chunk(Some(opened), &path, after).unwrap().unwrap();
        assert_eq!(bytes, "as it was fetched");
        // Where the index cannot tell, it is damage.
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(read_chunk(None, &path, before).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(read_chunk(None, &path, after).unwrap().is_none());
    }
}
