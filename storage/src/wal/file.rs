//! Files of segments: made ready beside the appends, written with direct I/O where the filesystem has it.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::{BufferedFile, DmaBuffer, DmaFile, OpenOptions};

use super::log_thread::LogThread;
use super::pending::SLICE_BYTES;
use super::segment::HEADER_BYTES;
use crate::error::dma_error;
#[cfg(any(test, feature = "tape"))]
use crate::tape;
use crate::{StorageError, blocking, framed, io_error};

/// Bytes written at once while a new segment is filled with zeros; all lengths are multiples of a header's.
const FILL_BYTES: usize = 1 << 20;

/// Whether files in a directory can be written with direct I/O: tried out, since filesystems refuse it at the open
/// (ramfs), take it and buffer nevertheless (tmpfs), or refuse the write.
///
/// # Errors
/// [`StorageError::Io`] if a file cannot be written at all.
pub fn has_direct_io(dir: &Path) -> Result<bool, StorageError> {
    #[repr(align(4096))]
    struct Block([u8; HEADER_BYTES]);
    let path = dir.join("probe.tmp");
    let open = |flags| {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.custom_flags(flags).open(&path)
    };
    let is_refused = |e: &std::io::Error| e.raw_os_error() == Some(libc::EINVAL);
    drop(open(0).map_err(|e| io_error(&path, "create", e))?);
    let block = Block([0; HEADER_BYTES]);
    let written =
        open(libc::O_DIRECT).and_then(|mut f| std::io::Write::write_all(&mut f, &block.0));
    let on_tmpfs = filesystem(dir) == Some(libc::TMPFS_MAGIC);
    std::fs::remove_file(&path).map_err(|e| io_error(&path, "remove", e))?;
    match written {
        Ok(()) => Ok(!on_tmpfs),
        Err(error) if is_refused(&error) => Ok(false),
        Err(error) => Err(io_error(&path, "write", error)),
    }
}

fn filesystem(dir: &Path) -> Option<i64> {
    let path = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: an all-zero structure is a valid value of this plain type.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in zero, and the pointer is to a structure of the right type.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut found) };
    (result == 0).then_some(found.f_type)
}

/// How a segment is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoMode {
    /// Through the page cache, then fdatasync: where the filesystem has no direct I/O.
    Buffered,
    /// Direct writes, then fdatasync.
    Direct,
    /// Direct writes that are on stable storage when they end (O_DSYNC): one step instead of two. How the two compare
    /// differs from disk to disk, and on one disk with the state of its filesystem: measure.
    DirectSync,
}

/// A file that may become a segment.
pub(super) struct Prepared {
    /// Its name until then.
    pub(super) path: PathBuf,
    pub(super) file: Rc<SegmentFile>,
    /// Its length.
    pub(super) size: u64,
}

/// One segment's file.
pub(super) enum SegmentFile {
    Direct(Rc<DmaFile>),
    DirectSync(Rc<DmaFile>),
    Buffered(BufferedFile),
}

impl SegmentFile {
    async fn open(path: &Path, is_new: bool, mode: IoMode) -> Result<SegmentFile, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(is_new);
        let failed = |e| dma_error(path, "open", e);
        Ok(match mode {
            IoMode::Buffered => {
                SegmentFile::Buffered(options.buffered_open(path).await.map_err(failed)?)
            }
            IoMode::Direct => {
                SegmentFile::Direct(Rc::new(options.dma_open(path).await.map_err(failed)?))
            }
            IoMode::DirectSync => {
                #[cfg(any(test, feature = "tape"))]
                let is_synced = !tape::is_left_out(path, tape::Step::SyncedWrites);
                #[cfg(not(any(test, feature = "tape")))]
                let is_synced = true;
                if is_synced {
                    options.custom_flags(libc::O_DSYNC);
                }
                SegmentFile::DirectSync(Rc::new(options.dma_open(path).await.map_err(failed)?))
            }
        })
    }

    /// Bytes that a frame is padded to.
    pub(super) fn alignment(&self) -> usize {
        match self {
            SegmentFile::Direct(file) | SegmentFile::DirectSync(file) => {
                (file.alignment() as usize).max(512)
            }
            SegmentFile::Buffered(_) => 512,
        }
    }

    /// Writes the first `total` bytes of a buffer at `position`.
    pub(super) async fn write_all(
        &self,
        path: &Path,
        mut buffer: DmaBuffer,
        total: usize,
        position: u64,
    ) -> Result<(), StorageError> {
        buffer.trim_to_size(total);
        #[cfg(any(test, feature = "tape"))]
        let noted = buffer.as_bytes().to_vec();
        let written = match self {
            SegmentFile::Direct(file) | SegmentFile::DirectSync(file) => {
                file.write_at(buffer, position).await
            }
            SegmentFile::Buffered(file) => write_buffered(file, buffer.as_bytes(), position).await,
        };
        let written = written.map_err(|e| dma_error(path, "write", e))?;
        if written != total {
            // A regular file takes a write whole unless the disk is full, which the next write would say.
            let source = std::io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(io_error(path, "write", source));
        }
        #[cfg(any(test, feature = "tape"))]
        tape::note_write(self.fd(), position, &noted);
        Ok(())
    }

    pub(super) async fn sync(&self, path: &Path) -> Result<(), StorageError> {
        #[cfg(any(test, feature = "tape"))]
        if tape::is_left_out(path, tape::Step::RingSync) {
            return Ok(());
        }
        let synced = match self {
            SegmentFile::Direct(file) => file.fdatasync().await,
            SegmentFile::DirectSync(_) => return Ok(()),
            SegmentFile::Buffered(file) => file.fdatasync().await,
        };
        synced.map_err(|e| dma_error(path, "sync", e))?;
        #[cfg(any(test, feature = "tape"))]
        tape::note_sync(self.fd());
        Ok(())
    }

    /// Writes as [`SegmentFile::write_all`] and syncs, through the log's own thread.
    pub(super) async fn commit(
        self: &Rc<Self>,
        thread: &LogThread,
        path: &Path,
        buffer: DmaBuffer,
        total: usize,
        position: u64,
    ) -> Result<(), StorageError> {
        let has_sync = !matches!(**self, SegmentFile::DirectSync(_));
        #[cfg(any(test, feature = "tape"))]
        let has_sync = has_sync && !tape::is_left_out(path, tape::Step::ThreadSync);
        let file = (self.fd(), self.clone() as Rc<dyn std::any::Any>);
        let written = thread.write(file, buffer, (total, position), has_sync);
        written
            .await
            .map_err(|failed| io_error(path, failed.op, failed.source))
    }

    fn fd(&self) -> RawFd {
        match self {
            SegmentFile::Direct(file) | SegmentFile::DirectSync(file) => file.as_raw_fd(),
            SegmentFile::Buffered(file) => file.as_raw_fd(),
        }
    }

    /// Takes `size` bytes, written once; those of a segment for one large frame need not be, since nearly all of it is written
    /// once anyway, and the zeros would double what the disk has to do.
    async fn fill(&self, path: &Path, size: u64, is_for_one: bool) -> Result<(), StorageError> {
        let taken = match self {
            SegmentFile::Direct(file) | SegmentFile::DirectSync(file) => {
                file.pre_allocate(size, false).await
            }
            // Filesystems without direct I/O may lack this too; the zeros below take the room.
            SegmentFile::Buffered(_) => Ok(()),
        };
        taken.map_err(|e| dma_error(path, "allocate", e))?;
        let is_buffered = matches!(self, SegmentFile::Buffered(_));
        let mut position = if is_for_one && !is_buffered { size } else { 0 };
        while position < size {
            let len = FILL_BYTES.min((size - position) as usize);
            let mut zeros = glommio::allocate_dma_buffer(len);
            zeros.as_bytes_mut().fill(0);
            self.write_all(path, zeros, len, position).await?;
            position += len as u64;
            glommio::yield_if_needed().await;
        }
        self.sync(path).await
    }

    /// Closes it; a failure of that is only logged, since every byte was synced by itself.
    pub(super) async fn close(self: Rc<Self>, path: &Path) {
        let Some(file) = Rc::into_inner(self) else {
            return;
        };
        let closed = match file {
            SegmentFile::Direct(file) | SegmentFile::DirectSync(file) => {
                file.close_rc().await.map(|_| ())
            }
            SegmentFile::Buffered(file) => file.close().await,
        };
        if let Err(error) = closed {
            log::warn!(
                "event=segment_not_closed path={:?} error={error:?}",
                path.display(),
                error = error.to_string()
            );
        }
    }
}

/// Writes slice by slice: the call wants bytes of its own.
async fn write_buffered(
    file: &BufferedFile,
    bytes: &[u8],
    position: u64,
) -> Result<usize, glommio::GlommioError<()>> {
    let mut written = 0;
    for slice in bytes.chunks(SLICE_BYTES) {
        let count = file
            .write_at(slice.to_vec(), position + written as u64)
            .await?;
        written += count;
        if count < slice.len() {
            break;
        }
    }
    Ok(written)
}

/// A file of `size` bytes that were all written once, so that a write changes no metadata of the filesystem, but for one
/// that is for one large frame. One that could not be made is removed.
///
/// # Errors
/// [`StorageError::NoSpace`] or [`StorageError::Io`]; nothing of the log was touched.
pub(super) async fn prepare(
    path: PathBuf,
    recycled: Option<PathBuf>,
    (size, is_for_one): (u64, bool),
    mode: IoMode,
) -> Result<Prepared, StorageError> {
    assert!(size.is_multiple_of(HEADER_BYTES as u64));
    let (path, is_new) = recycled.map_or((path, true), |recycled| (recycled, false));
    let made = if is_new {
        make(&path, (size, is_for_one), mode).await
    } else {
        reopen(&path, mode).await
    };
    match made {
        Ok(file) => Ok(Prepared {
            path,
            file: Rc::new(file),
            size,
        }),
        Err(error) => {
            blocking::run(move || remove(&path)).await;
            Err(error.or_no_space())
        }
    }
}

async fn make(
    path: &Path,
    (size, is_for_one): (u64, bool),
    mode: IoMode,
) -> Result<SegmentFile, StorageError> {
    let file = SegmentFile::open(path, true, mode).await?;
    match file.fill(path, size, is_for_one).await {
        Ok(()) => Ok(file),
        Err(error) => {
            Rc::new(file).close(path).await;
            Err(error)
        }
    }
}

/// A segment that is needed no more. Its name as a segment must be gone from the disk before it gets another header.
async fn reopen(path: &Path, mode: IoMode) -> Result<SegmentFile, StorageError> {
    let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
    blocking::run(move || framed::sync_dir(&dir)).await?;
    SegmentFile::open(path, false, mode).await
}

/// Removes a file; answers whether it is gone. Blocks.
pub(super) fn remove(path: &Path) -> bool {
    match std::fs::remove_file(path) {
        Ok(()) => {
            #[cfg(any(test, feature = "tape"))]
            tape::note(path, || tape::Act::Remove(path.to_owned()));
            true
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => {
            log::warn!(
                "event=segment_not_removed path={:?} error={error:?}",
                path.display(),
                error = error.to_string()
            );
            false
        }
    }
}

/// Gives a file its final name, durably.
pub(super) async fn publish(from: PathBuf, to: PathBuf, dir: PathBuf) -> Result<(), StorageError> {
    blocking::run(move || {
        std::fs::rename(&from, &to).map_err(|e| io_error(&to, "rename", e))?;
        #[cfg(any(test, feature = "tape"))]
        tape::note(&to, || tape::Act::Rename(from, to.clone()));
        #[cfg(any(test, feature = "tape"))]
        if tape::is_left_out(&to, tape::Step::SegmentName) {
            return Ok(());
        }
        framed::sync_dir(&dir)
    })
    .await
}
