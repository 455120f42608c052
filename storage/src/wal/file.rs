//! Files of segments: made ready beside the appends, written with direct I/O.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions};

use super::segment::HEADER_BYTES;
use crate::{StorageError, blocking, framed, io_error};

/// Bytes written at once while a new segment is filled with zeros.
const FILL_BYTES: usize = 1 << 20;

/// A file of `size` bytes that were all written once, so that a write changes no metadata of the filesystem.
pub(super) async fn prepare(
    path: PathBuf,
    recycled: Option<PathBuf>,
    size: u64,
) -> Result<(PathBuf, Rc<DmaFile>), StorageError> {
    let (path, is_recycled) = recycled.map_or((path, false), |recycled| (recycled, true));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(!is_recycled);
    let file = options
        .dma_open(&path)
        .await
        .map_err(|e| io_error(&path, "open", e))?;
    let file = Rc::new(file);
    if !is_recycled {
        file.pre_allocate(size, false)
            .await
            .map_err(|e| io_error(&path, "allocate", e))?;
        let mut position = 0;
        while position < size {
            let len = FILL_BYTES
                .min((size - position) as usize)
                .next_multiple_of(HEADER_BYTES);
            let mut zeros = file.alloc_dma_buffer(len);
            zeros.as_bytes_mut().fill(0);
            write_all(&file, &path, zeros, len, position).await?;
            position += len as u64;
            glommio::yield_if_needed().await;
        }
        file.fdatasync()
            .await
            .map_err(|e| io_error(&path, "sync", e))?;
    }
    Ok((path, file))
}

/// Writes the first `total` bytes of a buffer at `position`.
pub(super) async fn write_all(
    file: &Rc<DmaFile>,
    path: &Path,
    mut buffer: DmaBuffer,
    total: usize,
    position: u64,
) -> Result<(), StorageError> {
    buffer.trim_to_size(total);
    let written = file
        .write_at(buffer, position)
        .await
        .map_err(|e| io_error(path, "write", e))?;
    if written != total {
        // A regular file takes a direct write whole, or the disk is full or broken.
        let source = std::io::Error::new(
            std::io::ErrorKind::WriteZero,
            "a direct write came back short",
        );
        return Err(io_error(path, "write", source));
    }
    Ok(())
}

pub(super) async fn sync_dir(dir: PathBuf) -> Result<(), StorageError> {
    blocking::run(move || framed::sync_dir(&dir)).await
}
