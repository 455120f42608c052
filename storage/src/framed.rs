//! Small files that are replaced as a whole.
//!
//! ```text
//! magic "URSF" | version u32 | length u64 | crc32c of the content u32 | content
//! ```

use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::Bytes;

use crate::files::{Files, System};
use crate::{StorageError, io_error, mutation};

const MAGIC: &[u8; 4] = b"URSF";
const VERSION: u32 = 1;
const HEADER: usize = 20;
/// Bytes gathered for a write.
const BUFFER_BYTES: usize = 256 << 10;

/// Reads and verifies a file; `None` if there is none.
///
/// # Errors
/// [`StorageError`].
pub fn read(path: &Path) -> Result<Option<Bytes>, StorageError> {
    read_of(&System, path)
}

/// [`read`], of these files.
///
/// # Errors
/// [`StorageError`].
pub fn read_of(files: &dyn Files, path: &Path) -> Result<Option<Bytes>, StorageError> {
    let read = files.open(path).and_then(|file| {
        let mut all = vec![0; file.length()? as usize];
        file.read_exact_at(&mut all, 0)?;
        Ok(all)
    });
    let all = match read {
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
    if crc32c::crc32c(&content) != number(16) && !mutation::is_on("checkpoint-unverified") {
        return Err(corrupt(HEADER as u64, "the checksum is wrong"));
    }
    Ok(Some(content))
}

/// Replaces a file: after a crash the old or the new content is there, whole. Blocks; not for an executor.
///
/// # Errors
/// [`StorageError::NoSpace`] if the old content stands, or another.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    write_atomic_to(&System, path, content)
}

/// [`write_atomic`], to these files.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_atomic_to(files: &dyn Files, path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(content.len() as u64).to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    publish(files, path, &mut |out| {
        out.write_all(&header)?;
        out.write_all(content)
    })
}

/// Writes a file beside its place, synced, gives it its name, and syncs the directory. One that could not be
/// written whole is removed. Blocks.
///
/// # Errors
/// [`StorageError::NoSpace`] if nothing was changed, or another.
pub(crate) fn publish(
    files: &dyn Files,
    path: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), StorageError> {
    let tmp = path.with_extension("tmp");
    let written = files.create(&tmp).and_then(|file| {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        write(&mut out)?;
        let file = out.into_inner()?;
        match mutation::is_on("renamed-before-sync") {
            true => Ok(()),
            false => file.sync(),
        }
    });
    if let Err(error) = written {
        // It takes room, and counts for nothing; a start removes it too.
        let _ = files.remove(&tmp);
        return Err(io_error(&tmp, "write", error).or_no_space());
    }
    let renamed = files.rename(&tmp, path);
    renamed.map_err(|e| io_error(path, "rename", e))?;
    let dir = parent(path);
    files.sync_dir(dir).map_err(|e| io_error(dir, "sync", e))
}

/// Makes a directory, and those above it that are missing, durable. Blocks.
///
/// # Errors
/// [`StorageError`].
pub fn create_dir(dir: &Path) -> Result<(), StorageError> {
    let missing = dir.ancestors().take_while(|d| !d.is_dir()).count();
    std::fs::create_dir_all(dir).map_err(|e| io_error(dir, "create", e).or_no_space())?;
    if missing == 0 {
        // Its name may not be on disk yet: an earlier start may have ended between the two calls.
        return match sync_dir(parent(dir)) {
            // Then somebody else made it.
            Err(StorageError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Ok(())
            }
            synced => synced,
        };
    }
    for made in dir.ancestors().take(missing) {
        sync_dir(parent(made))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes names in a directory durable. Blocks.
///
/// # Errors
/// [`StorageError`].
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    System.sync_dir(dir).map_err(|e| io_error(dir, "sync", e))
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
    #[test]
    fn a_file_that_finds_no_room_leaves_the_old_one_and_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, b"old").unwrap();
        let mut full = |_: &mut dyn Write| Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
        let error = publish(&System, &path, &mut full).unwrap_err();
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
        assert_eq!(read(&path).unwrap().unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn directories_are_made_once_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_dir(&path).unwrap();
        create_dir(&path).unwrap();
        assert!(path.is_dir());
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_dir(&dir.path().join("file/a")).is_err());
    }
}
