//! Where a group's files are in the data directory, and chunks in its packs.

use std::path::{Path, PathBuf};

use storage::pack::{ChunkLocation, NeededChunk};

use crate::group::HeldChunk;
use crate::protocol::ChunkRef;

/// A group's directory.
pub fn group_dir(dir: &Path, group: u32) -> PathBuf {
    dir.join("groups").join(format!("{group:05}"))
}

/// A pack's file.
pub fn pack_path(dir: &Path, group: u32, pack: u32) -> PathBuf {
    group_dir(dir, group).join(format!("pack-{pack}"))
}

/// A state table's file.
pub fn table_path(dir: &Path, group: u32, number: u64) -> PathBuf {
    group_dir(dir, group).join(format!("table-{number}"))
}

/// A group's manifest.
pub fn manifest_path(dir: &Path, group: u32) -> PathBuf {
    group_dir(dir, group).join("manifest")
}

/// Where a chunk lies in its pack.
pub fn location_of(chunk: &ChunkRef) -> ChunkLocation {
    ChunkLocation {
        position: chunk.position,
        length: chunk.length,
        crc32c: chunk.crc32c,
    }
}

/// What a pack needs of a chunk that its group holds, with as much of it as is left: `chunk`.
pub fn needed_of(held: &HeldChunk, chunk: &ChunkRef) -> NeededChunk {
    NeededChunk {
        key: held.key.as_str().to_owned(),
        incarnation: held.incarnation.0,
        start: chunk.start,
        location: location_of(chunk),
    }
}
