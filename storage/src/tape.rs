//! In tests: a record of what was done to the files below a directory, in order, from which every state that a power cut may
//! leave can be made (`tape/disk.rs`).

mod disk;

use std::os::fd::RawFd;
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
    /// Two directories, each with all that is in it, in each other's place.
    Exchange(PathBuf, PathBuf),
    /// No name any more.
    Remove(PathBuf),
    /// The names in the directory are on stable storage.
    SyncDir,
    /// What the test wants to remember at this place.
    Mark(u64, u64),
}

/// A step that a test leaves out, or puts off, to see that it would be missed. A text is a part of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The sync of the log's own thread.
    ThreadSync,
    /// A sync of the log through a ring.
    RingSync,
    /// That each write of the log is a sync too.
    SyncedWrites,
    /// That the name of a segment is on stable storage.
    SegmentName,
    /// The sync of a file of a checkpoint.
    FileSync(&'static str),
    /// The same, done only when the file, or a directory above it, has its other name.
    SyncBeforeName(&'static str),
    /// The sync of names in a directory, which this is the end of.
    DirSync(&'static str),
}

struct Tape {
    dir: PathBuf,
    acts: Vec<Act>,
    left_out: Option<Step>,
    /// Syncs that were put off.
    late: Vec<PathBuf>,
}

impl Tape {
    fn take(&mut self, path: &Path, act: Act) {
        let is_at = |part: &str| path.to_string_lossy().contains(part);
        match (&act, self.left_out) {
            (Act::Sync(_), Some(Step::FileSync(part))) if is_at(part) => return,
            (Act::SyncDir, Some(Step::DirSync(end))) if path.ends_with(end) => return,
            (Act::Sync(path), Some(Step::SyncBeforeName(part))) if is_at(part) => {
                return self.late.push(path.clone());
            }
            _ => {}
        }
        let (from, to) = match &act {
            Act::Rename(from, to) | Act::Exchange(from, to) => (from.clone(), to.clone()),
            _ => return self.acts.push(act),
        };
        self.acts.push(act);
        for late in self.late.extract_if(.., |late| late.starts_with(&from)) {
            let named = match late.strip_prefix(&from) {
                Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
                _ => to.clone(),
            };
            self.acts.push(Act::Sync(named));
        }
    }
}

static TAPES: Mutex<Vec<Tape>> = Mutex::new(Vec::new());

/// Begins a record of a directory.
pub fn begin(dir: &Path) {
    begin_without(dir, None);
}

/// Begins a record of a directory below which a step is not done.
pub fn begin_without(dir: &Path, left_out: Option<Step>) {
    let mut tapes = TAPES.lock().expect("no test fails here");
    tapes.push(Tape {
        dir: dir.to_owned(),
        acts: Vec::new(),
        left_out,
        late: Vec::new(),
    });
}

/// Ends it.
pub fn end(dir: &Path) -> Vec<Act> {
    let mut tapes = TAPES.lock().expect("no test fails here");
    let place = tapes.iter().position(|tape| tape.dir == dir);
    tapes.swap_remove(place.expect("it was begun")).acts
}

/// Whether a step is not to be done.
pub fn is_left_out(path: &Path, step: Step) -> bool {
    let tapes = TAPES.lock().expect("no test fails here");
    let tape = tapes.iter().find(|tape| path.starts_with(&tape.dir));
    tape.is_some_and(|tape| tape.left_out == Some(step))
}

/// Notes what was done below a directory.
pub fn note(path: &Path, act: impl FnOnce() -> Act) {
    let mut tapes = TAPES.lock().expect("no test fails here");
    let tape = tapes.iter_mut().find(|tape| path.starts_with(&tape.dir));
    if let Some(tape) = tape {
        tape.take(path, act());
    }
}

/// Notes that bytes were written by a system call, which is a sync too where the file was opened so.
pub fn note_write(fd: RawFd, position: u64, bytes: &[u8]) {
    let Some(path) = path_of(fd) else {
        return;
    };
    note(&path, || Act::Write(path.clone(), position, bytes.to_vec()));
    // SAFETY: the call takes no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags & libc::O_DSYNC != 0 {
        note(&path, || Act::Sync(path.clone()));
    }
}

/// Notes that a file was synced by a system call.
pub fn note_sync(fd: RawFd) {
    if let Some(path) = path_of(fd) {
        note(&path, || Act::Sync(path.clone()));
    }
}

/// The name of an open file; none if nobody records anything.
fn path_of(fd: RawFd) -> Option<PathBuf> {
    let is_recording = !TAPES.lock().expect("no test fails here").is_empty();
    let name = is_recording.then(|| std::fs::read_link(format!("/proc/self/fd/{fd}")));
    name?.ok()
}

/// Notes that an open file was written from its beginning to its end, and synced by a system call.
pub fn note_written(fd: RawFd) {
    let Some(path) = path_of(fd) else {
        return;
    };
    // Read only if somebody records it.
    note(&path, || {
        let bytes = std::fs::read(&path).unwrap_or_default();
        Act::Write(path.clone(), 0, bytes)
    });
    note(&path, || Act::Sync(path.clone()));
}
