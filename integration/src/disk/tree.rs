//! The files and directories of a disk, each as programs see it and as it would be after a loss of power.
//!
//! The contract is that of POSIX, taken at its word: a file's bytes and length are safe after its own sync, and a name
//! after the sync of its directory. Until then each sector may be written or not, in any order; of a directory's changes
//! the first few are there and the rest are not. A name that moves from one directory to another is safe at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::random::Random;

/// What a disk writes as a whole.
const SECTOR: u64 = 512;

/// The number of the root directory.
pub const ROOT: u64 = 1;

/// A file or directory.
pub struct Inode {
    pub body: Body,
    /// Handles that are open.
    opens: u32,
}

pub enum Body {
    File(File),
    Directory(Directory),
}

#[derive(Default)]
pub struct File {
    pub bytes: Vec<u8>,
    safe: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Default)]
pub struct Directory {
    pub names: BTreeMap<OsString, u64>,
    safe: BTreeMap<OsString, u64>,
    /// Each an atomic change of some names.
    unsynced: Vec<Vec<(OsString, Option<u64>)>>,
}

enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

fn write_at(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let (from, end) = (at as usize, at as usize + data.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[from..end].copy_from_slice(data);
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, data) => write_at(bytes, *at, data),
            Change::Length(length) => bytes.resize(*length as usize, 0),
        }
    }

    /// Makes a part of the change, as it chances.
    fn make_some(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        match self {
            Change::Write(at, data) => {
                let mut from = 0;
                while from < data.len() {
                    let place = at + from as u64;
                    let end = data.len().min(from + (SECTOR - place % SECTOR) as usize);
                    if random.below(2) == 0 {
                        write_at(bytes, place, &data[from..end]);
                    }
                    from = end;
                }
            }
            Change::Length(_) if random.below(2) == 0 => self.make(bytes),
            Change::Length(_) => {}
        }
    }
}

impl File {
    fn change(&mut self, change: Change) {
        change.make(&mut self.bytes);
        self.unsynced.push(change);
    }

    pub fn write(&mut self, at: u64, data: &[u8], is_synced: bool) {
        if is_synced {
            write_at(&mut self.bytes, at, data);
            write_at(&mut self.safe, at, data);
        } else {
            self.change(Change::Write(at, data.to_vec()));
        }
    }

    pub fn set_length(&mut self, length: u64) {
        self.change(Change::Length(length));
    }

    pub fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.make(&mut self.safe);
        }
    }

    /// A sync that fails: what was not written by then never will be, though programs still read it.
    pub fn fail_to_sync(&mut self, random: &mut Random) {
        for change in self.unsynced.drain(..) {
            change.make_some(&mut self.safe, random);
        }
    }

    fn lose_power(&mut self, random: &mut Random) {
        self.fail_to_sync(random);
        self.bytes.clone_from(&self.safe);
    }
}

impl Directory {
    fn change(&mut self, names: Vec<(OsString, Option<u64>)>) {
        apply(&mut self.names, &names);
        self.unsynced.push(names);
    }

    pub fn sync(&mut self) {
        for names in self.unsynced.drain(..) {
            apply(&mut self.safe, &names);
        }
    }

    fn lose_power(&mut self, random: &mut Random) {
        let kept = random.below(self.unsynced.len() as u64 + 1) as usize;
        for names in self.unsynced.drain(..).take(kept) {
            apply(&mut self.safe, &names);
        }
        self.unsynced.clear();
        self.names.clone_from(&self.safe);
    }
}

fn apply(names: &mut BTreeMap<OsString, u64>, change: &[(OsString, Option<u64>)]) {
    for (name, number) in change {
        match number {
            Some(number) => names.insert(name.clone(), *number),
            None => names.remove(name),
        };
    }
}

/// All files and directories of a disk.
pub struct Tree {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        let mut tree = Tree {
            inodes: BTreeMap::new(),
            next: ROOT,
        };
        tree.add(Body::Directory(Directory::default()));
        tree
    }
}

impl Tree {
    /// A new file or directory that has no name yet.
    pub fn add(&mut self, body: Body) -> u64 {
        let number = self.next;
        self.next += 1;
        self.inodes.insert(number, Inode { body, opens: 0 });
        number
    }

    pub fn body(&mut self, number: u64) -> Option<&mut Body> {
        self.inodes.get_mut(&number).map(|inode| &mut inode.body)
    }

    pub fn file(&mut self, number: u64) -> Option<&mut File> {
        match self.body(number)? {
            Body::File(file) => Some(file),
            Body::Directory(_) => None,
        }
    }

    pub fn directory(&mut self, number: u64) -> Option<&mut Directory> {
        match self.body(number)? {
            Body::Directory(directory) => Some(directory),
            Body::File(_) => None,
        }
    }

    pub fn look_up(&mut self, parent: u64, name: &OsStr) -> Option<u64> {
        self.directory(parent)?.names.get(name).copied()
    }

    /// Gives a name to a file or directory; what had it before loses it. False: there is no such directory.
    pub fn link(&mut self, parent: u64, name: &OsStr, number: u64) -> bool {
        let Some(directory) = self.directory(parent) else {
            return false;
        };
        let before = directory.names.get(name).copied();
        directory.change(vec![(name.to_owned(), Some(number))]);
        self.drop_unused(before);
        true
    }

    /// Takes a name away. False: there is none.
    pub fn unlink(&mut self, parent: u64, name: &OsStr) -> bool {
        let Some(number) = self.look_up(parent, name) else {
            return false;
        };
        if let Some(directory) = self.directory(parent) {
            directory.change(vec![(name.to_owned(), None)]);
        }
        self.drop_unused(Some(number));
        true
    }

    /// Renames, or exchanges two names. False: something is not there.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), exchange: bool) -> bool {
        let Some(number) = self.look_up(from.0, from.1) else {
            return false;
        };
        let before = self.look_up(to.0, to.1);
        if exchange && before.is_none() {
            return false;
        }
        let left = (from.1.to_owned(), before.filter(|_| exchange));
        let right = (to.1.to_owned(), Some(number));
        if from.0 == to.0 {
            let Some(directory) = self.directory(from.0) else {
                return false;
            };
            directory.change(vec![left, right]);
        } else {
            for (parent, change) in [(to.0, right), (from.0, left)] {
                let Some(directory) = self.directory(parent) else {
                    return false;
                };
                directory.change(vec![change]);
                directory.sync();
            }
        }
        if !exchange {
            self.drop_unused(before);
        }
        true
    }

    pub fn open(&mut self, number: u64) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.opens += 1;
        }
    }

    pub fn close(&mut self, number: u64) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.opens = inode.opens.saturating_sub(1);
        }
        self.drop_unused(Some(number));
    }

    /// Forgets a file that nothing names any more, now or after a loss of power, and nobody has open.
    fn drop_unused(&mut self, number: Option<u64>) {
        let Some(number) = number.filter(|n| *n != ROOT) else {
            return;
        };
        let is_open = self.inodes.get(&number).is_none_or(|i| i.opens > 0);
        let named = |inode: &Inode| match &inode.body {
            Body::Directory(d) => {
                let changes = d.unsynced.iter().flatten();
                let mut all = d.names.values().chain(d.safe.values()).copied();
                all.any(|n| n == number) || changes.into_iter().any(|(_, n)| *n == Some(number))
            }
            Body::File(_) => false,
        };
        if !is_open && !self.inodes.values().any(named) {
            self.inodes.remove(&number);
        }
    }

    /// Nobody uses the disk, and the power fails.
    pub fn lose_power(&mut self, random: &mut Random) {
        for inode in self.inodes.values_mut() {
            inode.opens = 0;
            match &mut inode.body {
                Body::File(file) => file.lose_power(random),
                Body::Directory(directory) => directory.lose_power(random),
            }
        }
        let mut reached = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(number) = todo.pop() {
            if let Some(directory) = self.directory(number) {
                let names = directory.names.values().copied().collect::<Vec<_>>();
                todo.extend(names.into_iter().filter(|n| reached.insert(*n)));
            }
        }
        self.inodes.retain(|number, _| reached.contains(number));
    }

    /// All files below the root, with their paths.
    pub fn files(&mut self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, number)) = todo.pop() {
            match self.body(number) {
                Some(Body::Directory(directory)) => {
                    let names = directory.names.iter();
                    todo.extend(names.map(|(n, i)| (format!("{path}/{}", n.display()), *i)));
                }
                Some(Body::File(_)) => found.push((path, number)),
                None => {}
            }
        }
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_stays_and_the_rest_may_go() {
        let mut random = Random::new(7);
        let mut lost = [false; 3];
        for _ in 0..64 {
            let mut tree = Tree::default();
            let safe = tree.add(Body::File(File::default()));
            tree.link(ROOT, OsStr::new("safe"), safe);
            let file = tree.file(safe).unwrap();
            file.write(0, &[1; 1024], false);
            file.sync();
            file.write(512, &[2; 512], false);
            file.write(1024, &[3; 512], true);
            tree.directory(ROOT).unwrap().sync();
            let other = tree.add(Body::File(File::default()));
            tree.link(ROOT, OsStr::new("other"), other);
            tree.file(other).unwrap().sync();
            tree.rename((ROOT, OsStr::new("safe")), (ROOT, OsStr::new("new")), false);
            tree.lose_power(&mut random);

            let old = tree.look_up(ROOT, OsStr::new("safe"));
            let new = tree.look_up(ROOT, OsStr::new("new"));
            assert!(old.is_some() != new.is_some(), "one name, never none");
            let bytes = &tree.file(safe).unwrap().bytes;
            assert_eq!(
                (&bytes[..512], &bytes[1024..]),
                (&[1; 512][..], &[3; 512][..])
            );
            assert!(bytes[512..1024] == [1; 512] || bytes[512..1024] == [2; 512]);
            lost[0] |= bytes[512] == 1;
            lost[1] |= tree.look_up(ROOT, OsStr::new("other")).is_none();
            lost[2] |= new.is_none();
        }
        assert_eq!(lost, [true; 3]);
    }
}
