//! One process per data directory.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::{StorageError, framed, io_error};

/// Held as long as the process uses the directory.
#[derive(Debug)]
pub struct DirLock(
    #[expect(dead_code, reason = "the lock lives as long as the file is open")] File,
);

impl DirLock {
    /// Creates the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if another process has it.
    pub fn acquire(dir: &Path) -> Result<DirLock, StorageError> {
        framed::create_dir(dir)?;
        let path = dir.join("LOCK");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| io_error(&path, "open", e))?;
        // SAFETY: the descriptor is open for the whole call.
        let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if result != 0 {
            return Err(StorageError::Locked { path });
        }
        file.set_len(0)
            .map_err(|e| io_error(&path, "truncate", e))?;
        writeln!(file, "{}", std::process::id()).map_err(|e| io_error(&path, "write", e))?;
        Ok(DirLock(file))
    }
}
