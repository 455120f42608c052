//! What a power cut may leave of files: every beginning of the changes of names that are not synced, with any set of the
//! unsynced sectors (all sets up to `SETS_MAX` of them, else a sample: none, all, the first ones, all but one, one, and any).
//!
//! Assumed, as journaling filesystems do it: names change in the order of the calls, and a rename is one step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Act;

const SECTOR: usize = 512;

/// Sets of sectors that are tried for one state of the names.
const SETS_MAX: u64 = 64;

/// A file: what is on stable storage, and the writes since.
#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

/// See the module's head.
#[derive(Default, Clone)]
pub struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of the directory.
    unsynced: Vec<Act>,
    /// What was marked last.
    pub marks: BTreeMap<u64, u64>,
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, act: &Act) {
    match act {
        Act::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Act::Link(from, to) => {
            if let Some(inode) = names.get(from).copied() {
                names.insert(to.clone(), inode);
            }
        }
        Act::Remove(path) => {
            names.remove(path);
        }
        _ => {}
    }
}

impl Disk {
    /// Something is done.
    pub fn take(&mut self, act: &Act) {
        match act {
            Act::Write(path, at, bytes) => {
                let inode = *self.names.entry(path.clone()).or_insert_with(|| {
                    self.inodes.push(Inode::default());
                    self.inodes.len() - 1
                });
                // That a file is there is no promise before its directory is synced; it gets the name by which it counts
                // later, by a rename or a link.
                self.durable_names.entry(path.clone()).or_insert(inode);
                self.inodes[inode].unsynced.push((*at, bytes.clone()));
            }
            Act::Sync(path) => {
                if let Some(inode) = self.names.get(path) {
                    let inode = &mut self.inodes[*inode];
                    for (at, bytes) in std::mem::take(&mut inode.unsynced) {
                        put(&mut inode.durable, at, &bytes);
                    }
                }
            }
            Act::Rename(..) | Act::Link(..) | Act::Remove(_) => {
                apply(&mut self.names, act);
                self.unsynced.push(act.clone());
            }
            Act::SyncDir => {
                for act in std::mem::take(&mut self.unsynced) {
                    apply(&mut self.durable_names, &act);
                }
            }
            Act::Mark(what, value) => {
                self.marks.insert(*what, *value);
            }
        }
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
            for act in &self.unsynced[..count] {
                apply(&mut names, act);
            }
            let counted = names.iter().filter(|(path, _)| counts(path));
            let counted: Vec<_> = counted
                .map(|(path, inode)| (path.clone(), &self.inodes[*inode]))
                .collect();
            let sectors: usize = counted
                .iter()
                .map(|(_, inode)| sectors_of(inode).count())
                .sum();
            let all = 1u64.checked_shl(sectors as u32).unwrap_or(u64::MAX);
            for number in 0..all.min(SETS_MAX) {
                let mix = mixed(seed << 20 | (count as u64) << 10 | number);
                let chosen = mix % (sectors as u64).max(1);
                let is_there = |sector: u64| match number {
                    _ if all <= SETS_MAX => number >> sector & 1 == 1,
                    0 => false,
                    1 => true,
                    _ => match number % 4 {
                        0 => sector < chosen,
                        1 => sector != chosen,
                        2 => sector == chosen,
                        _ => mixed(mix ^ sector) & 1 == 1,
                    },
                };
                let mut sector = 0;
                let mut files = Vec::new();
                for (path, inode) in &counted {
                    let mut bytes = inode.durable.clone();
                    for (at, data) in sectors_of(inode) {
                        if is_there(sector) {
                            put(&mut bytes, at, data);
                        }
                        sector += 1;
                    }
                    files.push((path.clone(), bytes));
                }
                check(files);
            }
        }
    }
}

fn sectors_of(inode: &Inode) -> impl Iterator<Item = (u64, &[u8])> {
    inode.unsynced.iter().flat_map(|(at, bytes)| {
        let sectors = bytes.chunks(SECTOR).enumerate();
        sectors.map(|(number, sector)| (*at + (number * SECTOR) as u64, sector))
    })
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
