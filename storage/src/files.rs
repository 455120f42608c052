//! What checkpoints need of a filesystem: the system's, or the simulator's, which loses what is not synced.

use std::fs::File;
use std::io::{Read, Write};
#[cfg(any(test, feature = "tape"))]
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// See the module's head. All of it blocks; not for an executor.
pub trait Files {
    /// A file to be written from its beginning on; one of that name is emptied.
    ///
    /// # Errors
    /// The system's; so below.
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn WriteSynced + '_>>;

    /// A file to be read.
    fn open(&self, path: &Path) -> std::io::Result<Box<dyn ReadAt>>;

    /// Gives a file another name, in one step; one that had it is gone.
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()>;

    /// Takes a file's name away.
    fn remove(&self, path: &Path) -> std::io::Result<()>;

    /// The names in a directory, in any order.
    fn names(&self, dir: &Path) -> std::io::Result<Vec<String>>;

    /// The directory is there.
    fn is_dir(&self, dir: &Path) -> bool;

    /// Makes a directory, durably.
    fn create_dir(&self, dir: &Path) -> Result<(), crate::StorageError>;

    /// Makes names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()>;
}

/// A file that is being written.
pub trait WriteSynced: Write {
    /// All of it is on stable storage when this returns.
    ///
    /// # Errors
    /// The system's.
    fn sync(self: Box<Self>) -> std::io::Result<()>;
}

/// A file that is read at places.
pub trait ReadAt {
    /// As much as is there and has room.
    ///
    /// # Errors
    /// The system's; so below.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> std::io::Result<usize>;

    /// Bytes.
    fn length(&self) -> std::io::Result<u64>;

    /// All that has room.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> std::io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A file that is read from its beginning on.
pub(crate) struct InOrder<'a> {
    pub(crate) file: &'a dyn ReadAt,
    pub(crate) position: u64,
}

impl Read for InOrder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// The system's.
pub struct System;

impl Files for System {
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn WriteSynced + '_>> {
        Ok(Box::new(File::create(path)?))
    }

    fn open(&self, path: &Path) -> std::io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        std::fs::rename(from, to)?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note(to, || {
            crate::tape::Act::Rename(from.to_owned(), to.to_owned())
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        std::fs::remove_file(path)?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note(path, || crate::tape::Act::Remove(path.to_owned()));
        Ok(())
    }

    fn names(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn is_dir(&self, dir: &Path) -> bool {
        dir.is_dir()
    }

    fn create_dir(&self, dir: &Path) -> Result<(), crate::StorageError> {
        crate::framed::create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        File::open(dir)?.sync_all()?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note(dir, || crate::tape::Act::SyncDir);
        Ok(())
    }
}

/// What a fetched checkpoint needs beside it. All of it blocks.
impl System {
    /// Writes bytes at a place of a file, which is made if it is not there.
    ///
    /// # Errors
    /// The system's; so below.
    pub fn write_at(&self, path: &Path, bytes: &[u8], position: u64) -> std::io::Result<()> {
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.write_all_at(bytes, position)?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note_write(file.as_raw_fd(), position, bytes);
        Ok(())
    }

    /// All of a file is on stable storage when this returns.
    ///
    /// # Errors
    /// So below.
    pub fn sync(&self, file: &File) -> std::io::Result<()> {
        file.sync_all()?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note_sync(file.as_raw_fd());
        Ok(())
    }

    /// A file of the same content.
    ///
    /// # Errors
    /// So below.
    pub fn copy(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        std::fs::copy(from, to)?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note(to, || {
            crate::tape::Act::Write(to.to_owned(), 0, std::fs::read(to).unwrap_or_default())
        });
        Ok(())
    }

    /// One more name for a file.
    ///
    /// # Errors
    /// So below.
    pub fn link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        std::fs::hard_link(from, to)?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note(to, || {
            crate::tape::Act::Link(from.to_owned(), to.to_owned())
        });
        Ok(())
    }

    /// Puts each of two directories in the other's place, in one step.
    ///
    /// # Errors
    /// So below.
    pub fn exchange(&self, one: &Path, other: &Path) -> std::io::Result<()> {
        let path = |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes());
        let (from, to) = (path(one)?, path(other)?);
        // SAFETY: both are texts that end with a zero and outlive the call.
        let result = unsafe {
            libc::renameat2(
                libc::AT_FDCWD,
                from.as_ptr(),
                libc::AT_FDCWD,
                to.as_ptr(),
                libc::RENAME_EXCHANGE,
            )
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note(one, || {
            crate::tape::Act::Exchange(one.to_owned(), other.to_owned())
        });
        Ok(())
    }

    /// Removes a directory of files, and whatever else somebody put there.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_dir(&self, dir: &Path) -> std::io::Result<()> {
        #[cfg(any(test, feature = "tape"))]
        for name in self.names(dir)? {
            let path = dir.join(name);
            crate::tape::note(dir, || crate::tape::Act::Remove(path.clone()));
        }
        std::fs::remove_dir_all(dir)
    }
}

impl WriteSynced for File {
    fn sync(self: Box<Self>) -> std::io::Result<()> {
        self.sync_all()?;
        #[cfg(any(test, feature = "tape"))]
        crate::tape::note_written(self.as_raw_fd());
        Ok(())
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> std::io::Result<usize> {
        FileExt::read_at(self, buffer, position)
    }

    fn length(&self) -> std::io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::{self, Act};

    #[test]
    fn a_directory_goes_with_what_others_put_into_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("group");
        std::fs::create_dir_all(dir.join("of-others/deeper")).unwrap();
        std::fs::write(dir.join("of-others/file"), "theirs").unwrap();
        tape::begin(root.path());
        System.write_at(&dir.join("table-1"), b"ours", 0).unwrap();
        System.remove_dir(&dir).unwrap();
        assert!(!dir.exists());
        let ours = dir.join("table-1");
        let acts = tape::end(root.path());
        let is_removed = |act: &Act| matches!(act, Act::Remove(path) if *path == ours);
        assert!(acts.iter().any(is_removed), "{acts:?}");
    }
}
