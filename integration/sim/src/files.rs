//! One group's directory on a simulated disk: the files of its checkpoint, as the code that writes them makes them. What is
//! written is noted step by step; at a crash, any beginning of the steps was done, names that are not synced may be lost from some
//! step on, and of unsynced bytes any sectors are there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use storage::StorageError;
use storage::files::{Files, ReadAt, WriteSynced};

use crate::disk::SECTOR;
use crate::rng::Rng;

/// Files by name.
pub type Dir = BTreeMap<String, Bytes>;

/// What is wrong with a sector of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// It cannot be read.
    Unreadable,
    /// Another one is read in its place.
    Misread(usize),
}

/// By file: the sector, and what is wrong with it.
pub type BadSectors = BTreeMap<String, (usize, Bad)>;

/// The system's numbers.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Something that was done.
#[derive(Debug, Clone)]
pub enum Act {
    /// A file was made, of these bytes.
    Write(String, Bytes),
    /// They are on stable storage.
    Sync(String),
    /// A file has another name.
    Rename(String, String),
    /// It has none.
    Remove(String),
    /// Names are on stable storage.
    SyncDir,
}

/// See the module's head.
#[derive(Debug)]
pub struct SimFiles {
    dir: RefCell<Dir>,
    acts: RefCell<Vec<Act>>,
    bad: BadSectors,
    /// Bytes that there is room for, or that are written before one write fails.
    room: Cell<usize>,
    /// A write that fails does so for want of room; else the disk fails.
    is_full: bool,
}

/// How many bytes are written, and what happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is no end.
    Endless,
    /// The disk is full.
    Until(usize),
    /// A write fails.
    FailsAt(usize),
}

impl SimFiles {
    /// A directory with these files, of which these sectors are bad, on a disk with so much room.
    pub fn of(dir: Dir, bad: &BadSectors, room: Room) -> SimFiles {
        SimFiles {
            dir: RefCell::new(dir),
            acts: RefCell::default(),
            bad: bad.clone(),
            room: Cell::new(match room {
                Room::Endless => usize::MAX,
                Room::Until(bytes) | Room::FailsAt(bytes) => bytes,
            }),
            is_full: matches!(room, Room::Until(_)),
        }
    }

    fn is_written(&self, name: &str) -> bool {
        let acts = self.acts.borrow();
        let mut acts = acts.iter();
        acts.any(|act| matches!(act, Act::Write(to, _) | Act::Rename(_, to) if to == name))
    }

    /// What is there now, and what was done.
    pub fn into_parts(self) -> (Dir, Vec<Act>) {
        (self.dir.into_inner(), self.acts.into_inner())
    }

    fn act(&self, act: Act) {
        apply(&mut self.dir.borrow_mut(), &act);
        self.acts.borrow_mut().push(act);
    }
}

fn apply(dir: &mut Dir, act: &Act) {
    match act {
        Act::Write(name, bytes) => {
            dir.insert(name.clone(), bytes.clone());
        }
        Act::Rename(from, to) => {
            if let Some(bytes) = dir.remove(from) {
                dir.insert(to.clone(), bytes);
            }
        }
        Act::Remove(name) => {
            dir.remove(name);
        }
        Act::Sync(_) | Act::SyncDir => {}
    }
}

/// What a crash left of a directory, when some of these acts were done.
pub fn crash(dir: &Dir, acts: &[Act], rng: &mut Rng) -> Dir {
    let done = &acts[..rng.below(acts.len() as u64 + 1) as usize];
    // Content goes with the file, whatever its name is by then; what of it is not synced is what a crash leaves.
    let mut names = dir.clone();
    let mut durable = dir.clone();
    let mut unsynced: Vec<&Act> = Vec::new();
    for act in done {
        match act {
            Act::Write(name, bytes) => {
                let is_last = |a: &Act| matches!(a, Act::Sync(synced) if synced == name);
                let is_synced = done.iter().any(is_last);
                let left = match is_synced {
                    true => bytes.clone(),
                    false => torn(bytes, rng),
                };
                names.insert(name.clone(), left.clone());
                // That it is there is no promise; it counts by the name that it gets.
                durable.insert(name.clone(), left);
            }
            Act::Sync(_) => {}
            Act::SyncDir => {
                for act in std::mem::take(&mut unsynced) {
                    apply(&mut durable, act);
                }
            }
            act => {
                apply(&mut names, act);
                unsynced.push(act);
            }
        }
    }
    let kept = rng.below(unsynced.len() as u64 + 1) as usize;
    for act in &unsynced[..kept] {
        apply(&mut durable, act);
    }
    durable
}

/// Unsynced bytes after a crash: all, nothing, or any sectors.
pub fn torn(bytes: &Bytes, rng: &mut Rng) -> Bytes {
    let kept = rng.below(4);
    let mut left = Vec::new();
    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
        if kept == 1 || (kept > 1 && rng.chance(500_000)) {
            left.resize(number * SECTOR, 0);
            left.extend_from_slice(sector);
        }
    }
    left.into()
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().and_then(|n| n.to_str());
    name.unwrap_or_default().to_owned()
}

fn not_found() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}

/// A file that is being written.
struct Writing<'a> {
    files: &'a SimFiles,
    name: String,
    bytes: Vec<u8>,
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = self.files.room.get().checked_sub(bytes.len());
        let code = [EIO, ENOSPC][usize::from(self.files.is_full)];
        let room = room.ok_or_else(|| std::io::Error::from_raw_os_error(code))?;
        self.files.room.set(room);
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl WriteSynced for Writing<'_> {
    fn sync(mut self: Box<Self>) -> std::io::Result<()> {
        let (files, name) = (self.files, self.name.clone());
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        self.name.clear();
        files.act(Act::Write(name.clone(), bytes));
        files.act(Act::Sync(name));
        Ok(())
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let bytes = std::mem::take(&mut self.bytes).into();
            self.files
                .act(Act::Write(std::mem::take(&mut self.name), bytes));
        }
    }
}

/// A file that is read.
struct Open {
    bytes: Bytes,
    bad: Option<(usize, Bad)>,
}

impl ReadAt for Open {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> std::io::Result<usize> {
        let from = (position as usize).min(self.bytes.len());
        let count = buffer.len().min(self.bytes.len() - from);
        buffer[..count].copy_from_slice(&self.bytes[from..from + count]);
        if let Some((sector, bad)) = self.bad {
            let begin = sector * SECTOR;
            let struck = from.max(begin)..(from + count).min(begin + SECTOR);
            match bad {
                Bad::Unreadable if !struck.is_empty() => {
                    return Err(std::io::Error::from_raw_os_error(EIO));
                }
                Bad::Misread(other) => {
                    for at in struck {
                        let there = self.bytes.get(other * SECTOR + at - begin);
                        buffer[at - from] = there.copied().unwrap_or(0);
                    }
                }
                Bad::Unreadable => {}
            }
        }
        Ok(count)
    }

    fn length(&self) -> std::io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }
}

impl Files for SimFiles {
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn WriteSynced + '_>> {
        Ok(Box::new(Writing {
            files: self,
            name: name_of(path),
            bytes: Vec::new(),
        }))
    }

    fn open(&self, path: &Path) -> std::io::Result<Box<dyn ReadAt>> {
        let name = name_of(path);
        let found = self.dir.borrow().get(&name).cloned();
        let bad = self.bad.get(&name).filter(|_| !self.is_written(&name));
        Ok(Box::new(Open {
            bytes: found.ok_or_else(not_found)?,
            bad: bad.copied(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.act(Act::Rename(name_of(from), name_of(to)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        let name = name_of(path);
        if !self.dir.borrow().contains_key(&name) {
            return Err(not_found());
        }
        self.act(Act::Remove(name));
        Ok(())
    }

    fn names(&self, _dir: &Path) -> std::io::Result<Vec<String>> {
        Ok(self.dir.borrow().keys().cloned().collect())
    }

    fn is_dir(&self, _dir: &Path) -> bool {
        true
    }

    fn create_dir(&self, _dir: &Path) -> Result<(), StorageError> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> std::io::Result<()> {
        self.act(Act::SyncDir);
        Ok(())
    }
}
