//! In tests: a record of what was done to the files below a directory, in order, from which every state that a crash may
//! leave can be made (`wal/tests/crash.rs`).

use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Something that was done to a file.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Bytes at a place; the file is made by its first one.
    Write(PathBuf, u64, Vec<u8>),
    /// All of it is on stable storage.
    Sync(PathBuf),
    /// Another name.
    Rename(PathBuf, PathBuf),
    /// No name any more.
    Remove(PathBuf),
    /// The names in the directory are on stable storage.
    SyncDir,
    /// What the test wants to remember at this place.
    Mark(u64, u64),
}

static TAPES: Mutex<Vec<(PathBuf, Vec<Act>)>> = Mutex::new(Vec::new());

/// Begins a record of a directory.
pub(crate) fn begin(dir: &Path) {
    let mut tapes = TAPES.lock().expect("no test fails here");
    tapes.push((dir.to_owned(), Vec::new()));
}

/// Ends it.
pub(crate) fn end(dir: &Path) -> Vec<Act> {
    let mut tapes = TAPES.lock().expect("no test fails here");
    let place = tapes.iter().position(|(known, _)| known == dir);
    tapes.swap_remove(place.expect("it was begun")).1
}

/// Notes what was done below a directory.
pub(crate) fn note(path: &Path, act: impl FnOnce() -> Act) {
    let mut tapes = TAPES.lock().expect("no test fails here");
    if let Some((_, tape)) = tapes.iter_mut().find(|(dir, _)| path.starts_with(dir)) {
        tape.push(act());
    }
}
