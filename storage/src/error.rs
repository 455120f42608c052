//! What can go wrong on a disk. Variants carry data; the texts say what to do.

use std::path::{Path, PathBuf};

/// See the module's head.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process uses the directory.
    #[error(
        "{path} is in use by another ursula (its pid is in that file); stop it or use another --wal-dir"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Bytes are not what was written.
    #[error(
        "{path} is damaged at byte {offset}: {what}. Do not delete the file. Restore this directory from a backup, \
         or in a cluster remove it and let this node join again"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// A file of another store was copied in.
    #[error("{path} belongs to another data directory; move it away")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer ursula wrote this.
    #[error(
        "{path} has format version {found}, this ursula reads up to {known}: start a newer ursula"
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Found.
        found: u32,
        /// Known.
        known: u32,
    },
    /// An earlier write failed; nobody knows what is on disk, so nothing is written any more.
    #[error("the log was stopped by an earlier failure; restart the server")]
    Poisoned,
    /// The filesystem is full, and that was found before anything was changed that counts: trying again is safe.
    #[error("{op} {path}: {source}{}", advice(source))]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What was tried.
        op: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The system's reason.
    #[error("{op} {path}: {source}{}", advice(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        op: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl StorageError {
    /// The same as [`StorageError::NoSpace`] if that is the system's reason. Only for failures that left nothing
    /// behind.
    pub(crate) fn or_no_space(self) -> StorageError {
        match self {
            StorageError::Io { path, op, source }
                if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) =>
            {
                StorageError::NoSpace { path, op, source }
            }
            other => other,
        }
    }
}

/// Wraps a system error.
pub fn io_error(path: &Path, op: &'static str, source: std::io::Error) -> StorageError {
    StorageError::Io {
        path: path.to_owned(),
        op,
        source,
    }
}

/// Wraps an error of glommio, whose text names paths of its own; what counts is the system's code.
pub(crate) fn dma_error<T>(
    path: &Path,
    op: &'static str,
    source: glommio::GlommioError<T>,
) -> StorageError {
    let source = match source.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::other(source.to_string()),
    };
    io_error(path, op, source)
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => " (free space on this filesystem)",
        Some(libc::EFBIG) => " (the process may not write files of this size: raise `ulimit -f`)",
        Some(libc::EIO) => " (the disk fails: see the kernel's log)",
        Some(libc::EACCES | libc::EPERM) => " (the server's user needs to own the directory)",
        Some(libc::EINVAL) => " (the filesystem may not allow direct I/O)",
        _ => "",
    }
}
