//! Where a group's files are in the data directory.

use std::path::{Path, PathBuf};

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
