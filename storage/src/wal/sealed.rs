//! Segments at rest, checked while the log is written: those that have a successor in their lane are not written any more.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::recover::{Recovered, Segment};
use super::segment::SegmentId;
use crate::{StorageError, io_error};

/// The segments that are not written any more. Blocks.
///
/// # Errors
/// [`StorageError::Io`].
pub fn sealed(dir: &Path) -> Result<Vec<SegmentId>, StorageError> {
    let entries = std::fs::read_dir(dir).map_err(|e| io_error(dir, "list", e))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut found: Vec<SegmentId> = names
        .filter_map(|name| SegmentId::parse(name.to_str()?))
        .collect();
    found.sort_unstable();
    let pairs = found.windows(2);
    let has_next = |pair: &&[SegmentId]| {
        (pair[0].generation, pair[0].lane) == (pair[1].generation, pair[1].lane)
    };
    Ok(pairs.filter(has_next).map(|pair| pair[0]).collect())
}

/// Checks one of them; answers its bytes. One that is recycled meanwhile counts as sound, since nobody needs it. Blocks,
/// and holds the segment in memory: it may be recycled, and a map of it would change.
///
/// # Errors
/// Those of [`super::recover`].
pub fn verify(dir: &Path, id: SegmentId, store_id: [u8; 16]) -> Result<u64, StorageError> {
    let path = id.path(dir);
    let node = |path: &Path| std::fs::metadata(path).map(|m| m.ino()).ok();
    let before = node(&path);
    let bytes = std::fs::read(&path).map_err(|e| io_error(&path, "read", e))?;
    let segment = Segment {
        path: &path,
        id,
        store_id,
        is_newest: false,
        expected_chain: None,
    };
    let checked = segment.take(&bytes, &|_| Ok(false), &mut Recovered::default());
    match checked {
        Err(_) if node(&path) != before || before.is_none() => Ok(0),
        Err(error) => Err(error),
        Ok(_) => Ok(bytes.len() as u64),
    }
}
