//! A disk that does what real ones do: it loses what was not synced when the power fails, answers with errors, stalls, puts
//! a write where it does not belong, reads from elsewhere, and has sectors that cannot be read. It is in the memory of the
//! test, mounted by FUSE (needs root and `/dev/fuse`).

mod mount;
mod tree;

use std::ffi::CString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::random::Random;
use tree::Tree;

/// What goes wrong now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Writes end with EIO.
    pub writes: bool,
    /// Syncs end with EIO, and what was not written by then never will be.
    pub syncs: bool,
    /// Reads end with EIO.
    pub reads: bool,
    /// Each write and sync takes so much longer, one after the other.
    pub delay: Duration,
}

/// What the mount and the test share.
struct State {
    tree: Tree,
    faults: Faults,
    /// The next write to a file whose path ends so goes so many bytes further.
    misdirect: Option<(String, u64)>,
    /// The next read of a file whose path ends so that begins here gives what stands so many bytes further.
    misread: Option<(String, Range<u64>, u64)>,
    /// What cannot be read until it is written anew: files by number, and the first bytes of sectors.
    bad_sectors: Vec<(u64, u64)>,
    random: Random,
}

/// What becomes unreadable at once: a block of the disk.
const BAD_BYTES: u64 = 4096;

fn touches(sector: u64, from: u64, end: u64) -> bool {
    sector < end && from < sector + BAD_BYTES
}

impl State {
    /// A file whose path ends so.
    fn file_with(&mut self, name: &str) -> Option<u64> {
        let files = self.tree.files();
        let mut found = files.into_iter().filter(|(path, _)| path.ends_with(name));
        found.next().map(|(_, number)| number)
    }

    fn is_file(&mut self, number: u64, name: &str) -> bool {
        let files = self.tree.files();
        (files.iter()).any(|(path, n)| *n == number && path.ends_with(name))
    }

    /// These bytes of a file touch what cannot be read.
    fn is_bad(&self, file: u64, from: u64, end: u64) -> bool {
        (self.bad_sectors.iter()).any(|(number, at)| *number == file && touches(*at, from, end))
    }

    /// A disk puts what is written in place of what it cannot read elsewhere.
    fn heal(&mut self, file: u64, from: u64, end: u64) {
        (self.bad_sectors).retain(|(number, at)| *number != file || !touches(*at, from, end));
    }
}

/// A mounted disk; unmounted when dropped, which needs that nobody uses it any more.
pub struct Disk {
    state: Arc<Mutex<State>>,
    session: Option<fuser::BackgroundSession>,
    path: PathBuf,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Mounts an empty disk on an empty directory.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn mount(path: &Path, seed: u64) -> Result<Disk, String> {
        let state = Arc::new(Mutex::new(State {
            tree: Tree::default(),
            faults: Faults::default(),
            misdirect: None,
            misread: None,
            bad_sectors: Vec::new(),
            random: Random::new(seed),
        }));
        std::fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let session = mount::mount(&state, path).map_err(|e| format!("FUSE: {e}"))?;
        Ok(Disk {
            state,
            session: Some(session),
            path: path.to_owned(),
        })
    }

    /// From now on, these faults.
    pub fn set(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// The power fails while nobody uses the disk (whoever did was killed).
    pub fn lose_power(&self) {
        let state = &mut *lock(&self.state);
        state.tree.lose_power(&mut state.random);
    }

    /// The next write to a file whose path ends so goes so many bytes further than it should.
    pub fn misdirect(&self, name: &str, bytes: u64) {
        lock(&self.state).misdirect = Some((name.to_owned(), bytes));
    }

    /// The next read of a file whose path ends so that begins in this range gives what stands so many bytes further.
    pub fn misread(&self, name: &str, begins: Range<u64>, bytes: u64) {
        lock(&self.state).misread = Some((name.to_owned(), begins, bytes));
    }

    /// Whether the write of [`Disk::misdirect`] or the read of [`Disk::misread`] is still to come.
    pub fn is_armed(&self) -> bool {
        let state = lock(&self.state);
        state.misdirect.is_some() || state.misread.is_some()
    }

    /// From now on the sector that holds this byte of a file whose path ends so cannot be read, until it is written anew.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn spoil(&self, name: &str, at: u64) {
        let mut state = lock(&self.state);
        let file = state.file_with(name).expect("there is such a file");
        state.bad_sectors.push((file, at - at % BAD_BYTES));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = CString::new(self.path.as_os_str().as_encoded_bytes()).unwrap_or_default();
        // What a process that was killed had open is closed a little later than it is gone: the mount ends with the last.
        // SAFETY: the path ends in zero.
        let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            return eprintln!("{} is not unmounted: {error}", self.path.display());
        }
        if let Some(session) = self.session.take()
            && let Err(error) = session.join()
        {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}
