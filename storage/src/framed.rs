//! Small files that are replaced as a whole.
//!
//! ```text
//! magic "URSF" | version u32 | length u64 | crc32c of the content u32 | content
//! ```

use std::fs::File;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;

use crate::{StorageError, io_error};

const MAGIC: &[u8; 4] = b"URSF";
const VERSION: u32 = 1;
const HEADER: usize = 20;

/// Reads and verifies a file; `None` if there is none.
///
/// # Errors
/// [`StorageError`].
pub fn read(path: &Path) -> Result<Option<Bytes>, StorageError> {
    let all = match std::fs::read(path) {
        Ok(all) => Bytes::from(all),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "read", error)),
    };
    let corrupt = |offset, what: &str| StorageError::Corrupt {
        path: path.to_owned(),
        offset,
        what: what.to_owned(),
    };
    if all.len() < HEADER || &all[..4] != MAGIC {
        return Err(corrupt(0, "not a file of this kind"));
    }
    let number = |at: usize| u32::from_le_bytes([all[at], all[at + 1], all[at + 2], all[at + 3]]);
    if number(4) > VERSION {
        return Err(StorageError::NewerVersion {
            path: path.to_owned(),
            found: number(4),
            known: VERSION,
        });
    }
    let content = all.slice(HEADER..);
    if number(4) == 0 {
        return Err(corrupt(4, "the format version is wrong"));
    }
    let length = u64::from(number(8)) | (u64::from(number(12)) << 32);
    if length != content.len() as u64 {
        return Err(corrupt(8, "the length is wrong"));
    }
    if crc32c::crc32c(&content) != number(16) {
        return Err(corrupt(HEADER as u64, "the checksum is wrong"));
    }
    Ok(Some(content))
}

/// Replaces a file: after a crash the old or the new content is there, whole. Blocks; not for an executor.
///
/// # Errors
/// [`StorageError`].
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let tmp = path.with_extension("tmp");
    let mut file = File::create(&tmp).map_err(|e| io_error(&tmp, "create", e))?;
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(content.len() as u64).to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    file.write_all(&header)
        .map_err(|e| io_error(&tmp, "write", e))?;
    file.write_all(content)
        .map_err(|e| io_error(&tmp, "write", e))?;
    publish(file, &tmp, path)
}

/// Syncs a finished file, gives it its name, and syncs the directory. Blocks.
pub(crate) fn publish(file: File, tmp: &Path, path: &Path) -> Result<(), StorageError> {
    file.sync_all().map_err(|e| io_error(tmp, "sync", e))?;
    std::fs::rename(tmp, path).map_err(|e| io_error(path, "rename", e))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes names in a directory durable. Blocks.
///
/// # Errors
/// [`StorageError`].
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    let file = File::open(dir).map_err(|e| io_error(dir, "open", e))?;
    file.sync_all().map_err(|e| io_error(dir, "sync", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read(&path).unwrap().is_none());
        write_atomic(&path, b"hello").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), "hello");
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            assert!(read(&path).is_err(), "bit {bit}");
        }
    }
}
