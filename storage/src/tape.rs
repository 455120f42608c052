//! In tests: a record of what was done to the files below a directory, in order, from which every state that a power cut may
//! leave can be made (`tape/disk.rs`).

mod disk;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use self::disk::Disk;

/// Something that was done to a file.
#[derive(Debug, Clone)]
pub enum Act {
    /// Bytes at a place; the file is made by its first one.
    Write(PathBuf, u64, Vec<u8>),
    /// All of it is on stable storage.
    Sync(PathBuf),
    /// Another name.
    Rename(PathBuf, PathBuf),
    /// One more name.
    Link(PathBuf, PathBuf),
    /// No name any more.
    Remove(PathBuf),
    /// The names in the directory are on stable storage.
    SyncDir,
    /// What the test wants to remember at this place.
    Mark(u64, u64),
}

static TAPES: Mutex<Vec<(PathBuf, Vec<Act>)>> = Mutex::new(Vec::new());

/// Begins a record of a directory.
pub fn begin(dir: &Path) {
    let mut tapes = TAPES.lock().expect("no test fails here");
    tapes.push((dir.to_owned(), Vec::new()));
}

/// Ends it.
pub fn end(dir: &Path) -> Vec<Act> {
    let mut tapes = TAPES.lock().expect("no test fails here");
    let place = tapes.iter().position(|(known, _)| known == dir);
    tapes.swap_remove(place.expect("it was begun")).1
}

/// Notes what was done below a directory.
pub fn note(path: &Path, act: impl FnOnce() -> Act) {
    let mut tapes = TAPES.lock().expect("no test fails here");
    if let Some((_, tape)) = tapes.iter_mut().find(|(dir, _)| path.starts_with(dir)) {
        tape.push(act());
    }
}

/// Notes that a file was written from its beginning to its end, and synced.
pub fn note_written(path: &Path) {
    // Read only if somebody records it.
    note(path, || {
        let bytes = std::fs::read(path).unwrap_or_default();
        Act::Write(path.to_owned(), 0, bytes)
    });
    note(path, || Act::Sync(path.to_owned()));
}
