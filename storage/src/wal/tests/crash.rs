//! Crash consistency of the real log: what was done to its files is recorded, and every state that a power cut may have
//! left is made and recovered. After each recorded act: every beginning of the directory changes that are not synced, with
//! any set of the unsynced sectors (all sets up to `SETS_MAX` of them, else a sample).
//!
//! Assumed, as journaling filesystems do it: names change in the order of the calls, and a rename is one step.

use std::collections::BTreeMap;

use super::*;
use crate::tape::{self, Act};

const SECTOR: usize = 512;

/// Sets of sectors that are tried for one state of the names.
const SETS_MAX: u64 = 64;

/// A file: what is on stable storage, and the writes since.
#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Default, Clone)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of the directory.
    unsynced: Vec<Act>,
    /// Acknowledged and released index of each group.
    acknowledged: BTreeMap<u64, u64>,
    released: BTreeMap<u64, u64>,
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, act: &Act) {
    match act {
        Act::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Act::Remove(path) => {
            names.remove(path);
        }
        _ => {}
    }
}

/// Marks of groups from here on are releases.
const RELEASE: u64 = 1 << 32;

impl Disk {
    fn take(&mut self, act: &Act) {
        match act {
            Act::Write(path, at, bytes) => {
                let inode = *self.names.entry(path.clone()).or_insert_with(|| {
                    self.inodes.push(Inode::default());
                    self.inodes.len() - 1
                });
                // That a file is there is no promise before its directory is synced; one without the log's name is
                // nothing, and the log's name comes by a rename.
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
            Act::Rename(..) | Act::Remove(_) => {
                apply(&mut self.names, act);
                self.unsynced.push(act.clone());
            }
            Act::SyncDir => {
                for act in std::mem::take(&mut self.unsynced) {
                    apply(&mut self.durable_names, &act);
                }
            }
            Act::Mark(group, index) if *group >= RELEASE => {
                self.released.insert(group - RELEASE, *index);
            }
            Act::Mark(group, index) => {
                self.acknowledged.insert(*group, *index);
            }
        }
    }

    /// All states that a power cut may leave now, given to `check` as files.
    fn states(&self, seed: u64, check: &mut dyn FnMut(Vec<(PathBuf, Vec<u8>)>)) {
        for count in 0..=self.unsynced.len() {
            let mut names = self.durable_names.clone();
            for act in &self.unsynced[..count] {
                apply(&mut names, act);
            }
            let log = names
                .iter()
                .filter(|(p, _)| p.extension().is_some_and(|e| e == "wal"));
            let log: Vec<_> = log
                .map(|(path, inode)| (path.clone(), &self.inodes[*inode]))
                .collect();
            let sectors: usize = log.iter().map(|(_, inode)| sectors_of(inode).count()).sum();
            let all = 1u64.checked_shl(sectors as u32).unwrap_or(u64::MAX);
            for number in 0..all.min(SETS_MAX) {
                let set = match number {
                    _ if all <= SETS_MAX => number,
                    0 => 0,
                    1 => u64::MAX,
                    _ => mixed(seed << 20 | (count as u64) << 10 | number),
                };
                let mut sector = 0;
                let mut files = Vec::new();
                for (path, inode) in &log {
                    let mut bytes = inode.durable.clone();
                    for (at, data) in sectors_of(inode) {
                        if set >> (sector % 64) & 1 == 1 {
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

/// Each other record fills a third of a segment.
fn bytes_of(index: u64) -> usize {
    300 + 20_000 * (index as usize % 2)
}

/// A log's life: appends of two groups over several segments, checkpoints that free them, and a second start.
fn live(dir: &Path) {
    for generation in 1..=2u64 {
        let mut recovered = read(dir).unwrap();
        let pins = recovered.take_pins(&|_, _| true);
        let path = dir.to_owned();
        on_executor(move || async move {
            let mark = |group: u64, index| tape::note(&path, || Act::Mark(group, index));
            let vote = Record {
                kind: CARRIED_KIND,
                ..record(1, 5, 8)
            };
            let wal = Wal::open(config(&path, generation), std::slice::from_ref(&vote))
                .await
                .unwrap();
            wal.set_carry(Box::new(move || vec![vote.clone()]));
            wal.adopt(pins);
            for index in (generation - 1) * 8 + 1..=generation * 8 {
                for group in [1, 2] {
                    wal.buffer(&record(group, index, bytes_of(index))).unwrap();
                }
                wal.commit().await.unwrap();
                for group in [1, 2] {
                    mark(group, index);
                }
                if index % 3 == 0 {
                    for group in [1, 2] {
                        mark(RELEASE + group, index - 2);
                        wal.release(group as u32, index - 2);
                    }
                }
                glommio::yield_if_needed().await;
            }
        });
    }
}

#[test]
fn whatever_a_power_cut_leaves_recovers_with_all_that_was_acknowledged() {
    let dir = scratch();
    tape::begin(dir.path());
    live(dir.path());
    let tape = tape::end(dir.path());
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut disk = Disk::default();
    let mut states = 0;
    for (number, act) in tape.iter().enumerate() {
        disk.take(act);
        if matches!(act, Act::Mark(..)) {
            continue;
        }
        disk.states(number as u64, &mut |files| {
            states += 1;
            for (path, bytes) in &files {
                std::fs::write(place.path().join(path.file_name().unwrap()), bytes).unwrap();
            }
            let recovered = read(place.path())
                .unwrap_or_else(|e| panic!("after act {number} of {}: {e}", tape.len()));
            check(&disk, &recovered, number);
            for (path, _) in &files {
                std::fs::remove_file(place.path().join(path.file_name().unwrap())).unwrap();
            }
        });
    }
    assert!(states > 500, "{states} states of {} acts", tape.len());
    let renames = tape.iter().filter(|a| matches!(a, Act::Rename(..))).count();
    assert!(renames >= 8, "only {renames} renames");
}

fn check(disk: &Disk, recovered: &Recovered, number: usize) {
    for (group, acknowledged) in &disk.acknowledged {
        let records = recovered.groups.get(&(*group as u32)).into_iter().flatten();
        let entries = records.filter(|r| r.kind < CARRIED_KIND);
        let found: Vec<u64> = entries.map(|r| r.index).collect();
        let released = disk.released.get(group).copied().unwrap_or(0);
        for index in released + 1..=*acknowledged {
            assert!(
                found.contains(&index),
                "after act {number}: group {group} lost {index} of {acknowledged}, has {found:?}"
            );
        }
        assert!(found.is_sorted(), "after act {number}: {found:?}");
        assert!(found.iter().all(|index| *index <= acknowledged + 1));
    }
    for record in recovered
        .groups
        .values()
        .flatten()
        .filter(|r| r.kind < CARRIED_KIND)
    {
        let sound = super::record(record.group, record.index, bytes_of(record.index));
        assert_eq!(record, &sound);
    }
    if disk.acknowledged.contains_key(&1) {
        let votes = recovered.groups.get(&1).into_iter().flatten();
        assert!(
            votes.into_iter().any(|r| r.kind >= CARRIED_KIND),
            "after act {number}: the vote is lost"
        );
    }
}
