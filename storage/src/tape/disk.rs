//! What a power cut may leave of files: every beginning of the changes of names that are not synced, each with sets of the
//! unsynced sectors, in whatever order those were written.
//!
//! Exhaustive: all sets of up to `SECTORS_MAX` sectors. Of more, all sets of up to `UNITS_MAX` writes, and of as many blocks of
//! 4 KiB, that are there whole or not at all; all first sectors and all last ones (what is torn at any sector, from either side),
//! each alone and each one missing. Beside these, `SAMPLES` of any.
//! What was given to `check` is not given again with the same marks.
//!
//! Assumed, as journaling filesystems do it: names change in the order of the calls, in all directories, of which the sync of any
//! takes what was changed before it along; and a rename or an exchange is one step.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::Act;

const SECTOR: usize = 512;

/// In what filesystems write from their caches.
const BLOCK: u64 = 4096;

/// Sectors of which all sets are tried: a small frame has eight where direct writes are of 4 KiB.
const SECTORS_MAX: usize = 12;

/// Writes, and blocks, of which all sets are tried where there are more sectors than that.
const UNITS_MAX: usize = 9;

/// Sets of any sectors beside these.
const SAMPLES: u64 = 64;

/// A file: what is on stable storage, and the writes since.
#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    syncs: u64,
}

/// A change of names.
#[derive(Clone)]
enum Change {
    Made(PathBuf, usize),
    Other(Act),
}

/// See the module's head.
#[derive(Default, Clone)]
pub struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of the directory.
    unsynced: Vec<Change>,
    /// What was marked last.
    pub marks: BTreeMap<u64, u64>,
    /// What was checked.
    seen: RefCell<BTreeSet<u64>>,
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    match change {
        Change::Made(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        Change::Other(Act::Rename(from, to)) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Change::Other(Act::Link(from, to)) => {
            if let Some(inode) = names.get(from).copied() {
                names.insert(to.clone(), inode);
            }
        }
        Change::Other(Act::Exchange(one, other)) => {
            let moved = |path: PathBuf| {
                let place = [(one, other), (other, one)];
                let place = place.iter().find_map(|(from, to)| {
                    let rest = path.strip_prefix(from).ok()?;
                    Some(to.join(rest))
                });
                place.unwrap_or(path)
            };
            *names = std::mem::take(names)
                .into_iter()
                .map(|(path, inode)| (moved(path), inode))
                .collect();
        }
        Change::Other(Act::Remove(path)) => {
            names.remove(path);
        }
        Change::Other(_) => {}
    }
}

impl Disk {
    /// Something is done.
    pub fn take(&mut self, act: &Act) {
        match act {
            Act::Write(path, at, bytes) => {
                let inode = self.names.get(path).copied().unwrap_or_else(|| {
                    self.inodes.push(Inode::default());
                    let inode = self.inodes.len() - 1;
                    self.change(Change::Made(path.clone(), inode));
                    inode
                });
                self.inodes[inode].unsynced.push((*at, bytes.clone()));
            }
            Act::Sync(path) => {
                if let Some(inode) = self.names.get(path) {
                    let inode = &mut self.inodes[*inode];
                    inode.syncs += 1;
                    for (at, bytes) in std::mem::take(&mut inode.unsynced) {
                        put(&mut inode.durable, at, &bytes);
                    }
                }
            }
            Act::Rename(..) | Act::Link(..) | Act::Exchange(..) | Act::Remove(_) => {
                self.change(Change::Other(act.clone()));
            }
            Act::SyncDir => {
                for change in std::mem::take(&mut self.unsynced) {
                    apply(&mut self.durable_names, &change);
                }
            }
            Act::Mark(what, value) => {
                self.marks.insert(*what, *value);
            }
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.unsynced.push(change);
    }

    /// All states that a power cut may leave now, given to `check` as files: those whose names `counts` knows.
    pub fn states(
        &self,
        seed: u64,
        counts: &dyn Fn(&Path) -> bool,
        check: &mut dyn FnMut(Vec<(PathBuf, Vec<u8>)>),
    ) {
        for count in 0..=self.unsynced.len() {
            let mut names = self.durable_names.clone();
            for change in &self.unsynced[..count] {
                apply(&mut names, change);
            }
            let counted = names.iter().filter(|(path, _)| counts(path));
            let counted: Vec<_> = counted
                .map(|(path, inode)| (path, *inode, &self.inodes[*inode]))
                .collect();
            let mut places = Vec::new();
            for (_, number, inode) in &counted {
                for (write, (at, bytes)) in inode.unsynced.iter().enumerate() {
                    let blocks = (0..sectors(bytes)).map(|s| (at + (s * SECTOR) as u64) / BLOCK);
                    places.extend(blocks.map(|block| [(*number, write as u64), (*number, block)]));
                }
            }
            for is_there in sets(&places, seed << 20 | count as u64) {
                if !self.is_new(&counted, &is_there) {
                    continue;
                }
                let mut is_there = is_there.into_iter();
                let files = counted.iter().map(|(path, _, inode)| {
                    let mut bytes = inode.durable.clone();
                    for (at, written) in &inode.unsynced {
                        for (number, sector) in written.chunks(SECTOR).enumerate() {
                            if is_there.next() == Some(true) {
                                put(&mut bytes, *at + (number * SECTOR) as u64, sector);
                            }
                        }
                    }
                    ((*path).clone(), bytes)
                });
                check(files.collect());
            }
        }
    }

    /// Whether this state was not checked yet.
    fn is_new(&self, files: &[(&PathBuf, usize, &Inode)], is_there: &[bool]) -> bool {
        let mut state = std::hash::DefaultHasher::new();
        self.marks.hash(&mut state);
        let mut is_there = is_there.iter();
        for (path, number, inode) in files {
            (path, number, inode.syncs).hash(&mut state);
            let count: usize = inode.unsynced.iter().map(|(_, b)| sectors(b)).sum();
            // Which ones, not of how many: those that are not there may as well not have been written yet.
            let own = is_there.by_ref().take(count).enumerate();
            let there: Vec<usize> = own.filter(|(_, is)| **is).map(|(at, _)| at).collect();
            there.hash(&mut state);
        }
        self.seen.borrow_mut().insert(state.finish())
    }
}

fn sectors(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(SECTOR)
}

/// Which sectors are there (see the module's head), of each of which it is known to what write and to what block it belongs.
fn sets(places: &[[(usize, u64); 2]], seed: u64) -> Vec<Vec<bool>> {
    let all = places.len();
    let mut sets: Vec<Vec<bool>> = Vec::new();
    let mut add = |is_there: &dyn Fn(usize) -> bool| sets.push((0..all).map(is_there).collect());
    if all <= SECTORS_MAX {
        for number in 0..1 << all {
            add(&|at| number >> at & 1 == 1);
        }
        return sets;
    }
    for unit in 0..2 {
        let units: BTreeSet<_> = places.iter().map(|place| place[unit]).collect();
        let units: Vec<_> = units.into_iter().collect();
        let owner = places.iter().map(|place| units.binary_search(&place[unit]));
        let owner: Vec<usize> = owner
            .map(|found| found.expect("it is one of them"))
            .collect();
        if units.len() <= UNITS_MAX {
            for number in 0..1 << units.len() {
                add(&|at| number >> owner[at] & 1 == 1);
            }
        }
    }
    for chosen in 0..=all {
        add(&|at| at < chosen);
        add(&|at| at >= chosen);
        add(&|at| at == chosen);
        add(&|at| at != chosen);
    }
    for number in 0..SAMPLES {
        let mix = mixed(seed << 10 | number);
        add(&|at| mixed(mix ^ at as u64) & 1 == 1);
    }
    sets
}

fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at as usize..end].copy_from_slice(data);
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
