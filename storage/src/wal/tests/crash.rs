//! Crash consistency of the real log: what was done to its files is recorded, and after each recorded act every state that a
//! power cut may have left is made (`tape/disk.rs`) and recovered. One
//! frame is on its way at a time: every other one is of few sectors, of which all sets are tried, the others are of some sixty-five, of
//! which all sets of blocks are.

use super::*;
use crate::tape::{self, Act, Disk, Step};

/// Marks of groups from here on are releases.
const RELEASE: u64 = 1 << 32;

/// Each other record fills a quarter of a segment.
fn bytes_of(index: u64) -> usize {
    300 + 16_000 * (index as usize % 2)
}

/// A log's life: appends of two groups over several segments, checkpoints that free them, and a second start. As a core writes
/// it, with a thread of the log's own, or through glommio's rings where there is none.
fn live(dir: &Path, mode: IoMode, has_thread: bool) {
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
            let config = WalConfig {
                io_mode: mode,
                ..config(&path, generation)
            };
            let wal = Wal::open(config, std::slice::from_ref(&vote))
                .await
                .unwrap();
            if has_thread {
                wal.set_thread(log_thread::watched());
            }
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
    for mode in [IoMode::Buffered, IoMode::Direct, IoMode::DirectSync] {
        for has_thread in [true, false] {
            let dir = scratch();
            if can_write(dir.path(), mode) {
                recovers_whatever_a_power_cut_leaves(dir.path(), mode, has_thread, None);
            }
        }
    }
}

/// What these tests see: each step without which something that was acknowledged may be lost.
#[test]
fn a_step_that_is_left_out_is_seen() {
    for (mode, has_thread, step) in [
        (IoMode::Buffered, true, Step::ThreadSync),
        (IoMode::Direct, true, Step::ThreadSync),
        (IoMode::Buffered, false, Step::RingSync),
        (IoMode::Direct, false, Step::RingSync),
        (IoMode::DirectSync, true, Step::SyncedWrites),
        (IoMode::DirectSync, false, Step::SyncedWrites),
        (IoMode::Buffered, true, Step::SegmentName),
    ] {
        let dir = scratch();
        if !can_write(dir.path(), mode) {
            continue;
        }
        let path = dir.path().to_owned();
        let seen = std::panic::catch_unwind(move || {
            recovers_whatever_a_power_cut_leaves(&path, mode, has_thread, Some(step));
        });
        let said = seen.expect_err("nothing was lost").downcast::<String>();
        let said = said.expect("it has arguments");
        let is_it = said.contains(" lost ") || said.contains("is damaged");
        assert!(is_it, "{step:?} in {mode:?}: {said}");
    }
}

fn recovers_whatever_a_power_cut_leaves(
    dir: &Path,
    mode: IoMode,
    has_thread: bool,
    left_out: Option<Step>,
) {
    println!("{mode:?}, with a thread: {has_thread}, without: {left_out:?}");
    tape::begin_without(dir, left_out);
    live(dir, mode, has_thread);
    let tape = tape::end(dir);
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut disk = Disk::default();
    let mut states = 0;
    for (number, act) in tape.iter().enumerate() {
        disk.take(act);
        let is_log = |path: &Path| path.extension().is_some_and(|e| e == "wal");
        disk.states(number as u64, &is_log, &mut |files| {
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
    println!("{states} states of {} acts", tape.len());
    assert!(states > 5000, "{states} states of {} acts", tape.len());
    let renames = tape.iter().filter(|a| matches!(a, Act::Rename(..))).count();
    assert!(renames >= 8, "only {renames} renames");
}

fn check(disk: &Disk, recovered: &Recovered, number: usize) {
    for (group, acknowledged) in disk.marks.range(..RELEASE) {
        let records = recovered.groups.get(&(*group as u32)).into_iter().flatten();
        let entries = records.filter(|r| r.kind < CARRIED_KIND);
        let found: Vec<u64> = entries.map(|r| r.index).collect();
        let released = disk.marks.get(&(RELEASE + group));
        let released = released.copied().unwrap_or(0);
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
    if disk.marks.contains_key(&1) {
        let votes = recovered.groups.get(&1).into_iter().flatten();
        assert!(
            votes.into_iter().any(|r| r.kind >= CARRIED_KIND),
            "after act {number}: the vote is lost"
        );
    }
}
