//! Files on a tmpfs, and edits of their bytes.

use std::path::{Path, PathBuf};

/// A directory that goes with its value.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a tmpfs")
}

/// Writes a file.
pub fn put(dir: &Path, name: &str, bytes: Vec<u8>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("a tmpfs takes it");
    path
}

/// Edits are four bytes each: where (two), what, and a byte: put it, flip it, cut there, or copy the next block on.
pub fn edited(sound: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for edit in edits.as_chunks::<4>().0 {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
        match edit[2] % 4 {
            0 => bytes[at] = edit[3],
            1 => bytes[at] ^= edit[3],
            2 => bytes.truncate(at),
            _ => {
                let from = at / 512 * 512;
                let len = 512.min(bytes.len() - from);
                let to = usize::from(edit[3]) * 512 % bytes.len() / 512 * 512;
                let len = len.min(bytes.len() - to);
                bytes.copy_within(from..from + len, to);
            }
        }
    }
    bytes
}
